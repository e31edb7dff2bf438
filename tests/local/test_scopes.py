"""Asking systemd for a cgroup: made-up managers everywhere, the real one where it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.backends.local import scopes
from pytest_arl.backends.local.cgroup_mounts import memberships, mounts
from pytest_arl.backends.local.scopes import NoScope, Systemd
from tests.local.conftest import AS_ROOT, EXPECTED_TIER

UID = os.geteuid()
SOURCE = Path(__file__).resolve().parents[2] / "src"

# Made-up managers


class Machine:
    """A /run, and a folder of programs."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self.programs = folder / "programs"
        self.user = self.run / f"user/{UID}"
        (self.run / "systemd/system").mkdir(parents=True)
        (self.user / "systemd").mkdir(parents=True)
        self.programs.mkdir()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.user / "systemd/private"))

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("m"))  # a short name: a socket's has 107 bytes
    monkeypatch.setenv("PATH", str(made.programs))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield made
    made.socket.close()


@pytest.mark.parametrize("root", [True, False])
def test_what_systemd_run_says_is_the_reason(machine: Machine, root: bool) -> None:
    machine.program("systemd-run", "echo 'Failed to start transient scope unit: Permission denied' >&2; exit 1")
    with pytest.raises(NoScope, match=r"created no scope: Failed to start transient scope unit: Permission denied$"):
        Systemd(root=root, run=machine.run).scope("/user.slice/session-3.scope")


def test_a_manager_that_hangs_is_not_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scopes._SECONDS == 10.0
    monkeypatch.setattr(scopes, "_SECONDS", 0.3)
    machine.program("systemd-run", "exec /bin/sleep 60")
    before = time.monotonic()
    with pytest.raises(NoScope, match="no answer within"):
        Systemd(root=False, run=machine.run).scope("/")
    assert time.monotonic() - before < 30


def test_a_manager_that_hangs_is_waited_for_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_SECONDS", 0.3)
    machine.program("systemctl", "exec /bin/sleep 60")
    machine.program("systemd-run", "echo asked again >&2; exit 1")
    manager = Systemd(root=False, run=machine.run)
    with pytest.raises(NoScope, match="asked again"):
        manager.scope("/")
    assert manager.delegates("a.scope") is None
    with pytest.raises(NoScope, match="does not answer"):
        manager.scope("/")


def test_a_manager_that_moves_nothing_is_not_believed(machine: Machine) -> None:
    machine.program("systemd-run", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    with pytest.raises(NoScope, match="moved no process into it"):
        Systemd(root=False, run=machine.run).scope("/")


def test_without_systemd_or_its_program_there_is_nothing_to_ask(machine: Machine) -> None:
    with pytest.raises(NoScope, match="systemd-run, which asks systemd for one, is not"):
        Systemd(root=True, run=machine.run).scope("/")
    (machine.run / "systemd/system").rmdir()
    with pytest.raises(NoScope, match="systemd is not running here"):
        Systemd(root=True, run=machine.run).scope("/")


def test_a_user_manager_that_does_not_run_has_its_cure(machine: Machine) -> None:
    machine.program("systemd-run", "exit 1")
    machine.socket.close()
    (machine.user / "systemd/private").unlink()
    with pytest.raises(NoScope, match="does not run for this user") as caught:
        Systemd(root=False, run=machine.run).scope("/")
    assert "loginctl enable-linger" in caught.value.cure


ENVIRONMENT = "echo $* >&2; echo env: $XDG_RUNTIME_DIR $DBUS_SESSION_BUS_ADDRESS >&2; exit 1"


def asked(machine: Machine, path: str = "/", *, root: bool = False) -> str:
    """The last line of what systemd-run was given."""
    with pytest.raises(NoScope) as caught:
        Systemd(root=root, run=machine.run).scope(path)
    return str(caught.value)


def test_the_user_manager_is_found_without_a_logins_environment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.program("systemd-run", ENVIRONMENT)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/elsewhere")  # dbus-launch: systemd is not on it
    assert asked(machine).endswith(f"env: {machine.user}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(machine.run / "user/another"))  # after su
    assert asked(machine).endswith(f"env: {machine.user}")
    other = machine.run / "other"
    other.symlink_to(machine.user)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
    assert asked(machine).endswith(f"env: {other}")


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        (True, "/user.slice/user-0.slice/session-3.scope", "--slice=user-0.slice"),
        (True, "/system.slice/ci.service", "--slice=system.slice"),
        (False, f"/user.slice/user-{UID}.slice/user@{UID}.service/app.slice/app-gnome.slice/vte.scope", "app-gnome"),
        (False, f"/user.slice/user-{UID}.slice/session-3.scope", ""),  # not a slice of that manager's
        (False, "/system.slice/ci.service", ""),
    ],
)
def test_the_scope_is_made_in_the_slice_of_ones_own_cgroup(
    machine: Machine, root: bool, path: str, expected: str
) -> None:
    machine.program("systemd-run", "for word; do case $word in --slice=*) echo $word >&2;; esac; done; exit 1")
    said = asked(machine, path, root=root)
    assert expected in said if expected else "no answer" in said


@pytest.mark.parametrize(("answer", "expected"), [("yes", True), ("no", False), ("", None), ("so so", None)])
def test_the_manager_is_asked_whether_a_unit_is_delegated(machine: Machine, answer: str, expected: bool | None) -> None:
    machine.program("systemctl", f"echo {answer}")
    assert Systemd(root=False, run=machine.run).delegates("a.scope") is expected


def test_a_manager_that_cannot_be_asked_about_delegation_gives_none(machine: Machine) -> None:
    assert Systemd(root=False, run=machine.run).delegates("a.scope") is None


# The real one


def reason_to_skip() -> str:
    """Why the real manager cannot be asked here; empty where it can be, or has to be."""
    if EXPECTED_TIER == "bwrap+cgroup" and not any(mount.kind == "cgroup" for mount in mounts(Path("/proc"))):
        return ""
    if not any(mount.kind == "cgroup2" and not mount.read_only for mount in mounts(Path("/proc"))):
        return "no cgroups of version 2 are mounted here"
    if any("memory" in mount.options for mount in mounts(Path("/proc")) if mount.kind == "cgroup"):
        return "this machine's memory controller is in version 1"
    manager = Systemd(root=AS_ROOT)
    try:
        manager._command("systemd-run")
        manager._environment()
    except NoScope as reason:
        return str(reason)
    return ""


REASON = reason_to_skip()
real = pytest.mark.skipif(bool(REASON), reason=REASON)
PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
from pytest_arl import SandboxSession
from pytest_arl.backends.local.probe import probe
def own():
    return Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
def report(**more):
    found = probe().hierarchies
    print(json.dumps({"tier": probe().tier, "why": probe().without_cgroups, "own": own(), "started": STARTED,
        "way": found.way if found else "", "folder": str(found.folders["memory"]) if found else "", "server":
        found.server.pid if found and found.server else 0, "controllers": sorted(found.folders) if found else [], **more}), flush=True)
STARTED = own()
"""
Start = Callable[..., "Started"]
USER = [] if AS_ROOT else ["--user"]


class Started:
    """A process that uses sandboxes, and what it printed first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout
        self.facts: dict[str, Any] = json.loads(process.stdout.readline())
        self.folder = Path(self.facts["folder"])

    def end(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(body: str = "report(); sys.stdin.read()", *before: str) -> Started:
        process = subprocess.Popen(
            [*before, sys.executable, "-c", PRELUDE + body],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        processes.append(process)
        return Started(process)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until_gone(folder: Path, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not folder.exists()


def show(unit: str, name: str) -> str:
    command = ["systemctl", *USER, "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


SANDBOX = """
with SandboxSession() as sandbox:
    code = sandbox.run("true").exit_code
    report(code=code, isolation=sandbox.isolation)
    sys.stdin.read()
"""


@real
def test_a_sandbox_gets_a_scope_from_systemd_and_pytest_stays_where_it_is(start: Start) -> None:
    started = start(SANDBOX)
    facts = started.facts
    assert facts["tier"] == facts["isolation"] == "bwrap+cgroup", facts
    assert facts["code"] == 0
    assert facts["own"] == facts["started"]
    assert started.folder.suffix == ".scope"
    assert {"memory", "pids"} <= set(facts["controllers"])
    assert memberships(Path("/proc"), str(facts["server"]))[""].endswith(f"/{started.folder.name}/arl-host")
    assert show(started.folder.name, "Delegate") == "yes"
    assert show(started.folder.name, "TasksMax") == "infinity"
    started.end()
    assert until_gone(started.folder)
    assert show(started.folder.name, "ActiveState") == "inactive", "nothing failed is left"


@real
def test_nothing_is_asked_before_the_first_sandbox(start: Start) -> None:
    body = """
    session = SandboxSession(keep_alive=True)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    report(children=children)
    """
    facts = start("if True:" + body).facts
    assert facts["children"] == ""
    assert facts["server"], "control: this machine gives a server once it is asked"


@real
def test_a_killed_run_leaves_no_scope(start: Start) -> None:
    started = start(SANDBOX)
    assert started.folder.exists()
    assert list(started.folder.glob("pytest-arl-*/*/cgroup.procs")), "control: a sandbox's cgroup"
    started.process.send_signal(signal.SIGKILL)
    assert until_gone(started.folder)


@real
def test_where_the_scope_was_ended_a_sandbox_says_so_and_the_next_backend_gets_another(start: Start) -> None:
    body = """
    from pytest_arl.backends.base import AcquireRequest
    from pytest_arl.backends.local import LocalBackend
    from pytest_arl.errors import BackendUnavailable
    from pytest_arl.settings import Settings
    backend = LocalBackend(Settings.build(start_dir=Path("/")))
    backend.acquire(AcquireRequest("default")).close()
    server, said = probe().hierarchies.server, ""
    os.kill(server.pid, signal.SIGKILL)
    while probe().hierarchies.folders["memory"].exists():
        time.sleep(0.02)
    try:
        backend.acquire(AcquireRequest("default"))
    except BackendUnavailable as error:
        said = str(error)
    backend.close()
    again = LocalBackend(Settings.build(start_dir=Path("/")))
    isolation = again.acquire(AcquireRequest("default")).isolation
    report(isolation=isolation, said=said)
    again.close()
    """
    facts = start("if True:" + body).facts
    assert facts["isolation"] == "bwrap+cgroup"
    assert "was killed from outside" in facts["said"]


@real
@pytest.mark.skipif(AS_ROOT, reason="for root systemd marks what it delegates")
def test_a_scope_that_is_not_delegated_is_left_alone_as_a_terminals_is(start: Start) -> None:
    started = start("report(); sys.stdin.read()", "systemd-run", "--user", "--scope", "--quiet")
    assert started.facts["tier"] == "bwrap+cgroup", started.facts
    assert started.facts["started"].endswith(".scope")
    assert started.facts["own"] == started.facts["started"]
    assert started.folder.name != Path(started.facts["own"]).name


@real
def test_a_scope_that_the_user_made_is_used_by_all_runs_in_it_at_once(start: Start) -> None:
    """The command that a message of pytest-arl gave once; and runs inside of runs."""
    inner = f"""
    import subprocess
    program = {PRELUDE + SANDBOX!r}
    inner = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
             for _ in range(2)]
    inner = [json.loads(process.communicate()[0]) for process in inner]
    with SandboxSession() as sandbox:
        sandbox.run("true").check()
        report(inner=inner)
    """
    started = start("if True:" + inner, "systemd-run", *USER, "--scope", "--quiet", "-p", "Delegate=yes")
    facts = started.facts
    assert facts["started"].endswith(".scope")
    for each in (facts, *facts["inner"]):
        assert each["tier"] == "bwrap+cgroup", each
        assert each["folder"].endswith(facts["started"])
        assert each["own"] == f"{facts['started']}/arl-host"
        assert each.get("code", 0) == 0
    started.end()
    assert until_gone(started.folder)


@real
@pytest.mark.skipif(AS_ROOT, reason="the user manager is an ordinary user's")
def test_a_shell_without_a_logins_environment_gets_it_too(start: Start) -> None:
    started = start("report()", "env", "-u", "XDG_RUNTIME_DIR", "-u", "DBUS_SESSION_BUS_ADDRESS")
    assert started.facts["tier"] == "bwrap+cgroup", started.facts


CONTAINER = """
mount -t tmpfs none /run/systemd || exit 1
case $1 in
    its-own) mount -t cgroup2 none /sys/fs/cgroup;;
    read-only) mount -t cgroup2 none /sys/fs/cgroup && mount -o remount,bind,ro /sys/fs/cgroup;;
    the-machines) ;;
esac || exit 1
shift
exec "$@"
"""


@real
@pytest.mark.skipif(not AS_ROOT, reason="only root can make a container's mounts")
@pytest.mark.parametrize(
    ("tree", "tier", "said"),
    [
        ("its-own", "bwrap+cgroup", "the top of what is seen here"),
        ("read-only", "bwrap+rlimit", "mounted read-only"),
        ("the-machines", "bwrap+rlimit", "another cgroup namespace"),
    ],
)
def test_a_container_without_systemd_has_what_its_tree_allows(start: Start, tree: str, tier: str, said: str) -> None:
    before = ["systemd-run", "--scope", "--quiet", "-p", "Delegate=yes", "unshare", "--cgroup", "--mount"]
    started = start(SANDBOX, *before, "sh", "-c", CONTAINER, "sh", tree)
    facts = started.facts
    assert (facts["tier"], facts["isolation"], facts["code"]) == (tier, tier, 0), facts
    assert said in facts["way"] + facts["why"]
