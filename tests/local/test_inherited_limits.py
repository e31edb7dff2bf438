"""Sandboxes are the same whatever the shell was told before it started pytest."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import AS_ROOT, MakeBackend, acquire, run

SOURCE = Path(__file__).resolve().parents[2] / "src"

WITH_SOURCE = {**os.environ, "PYTHONPATH": str(SOURCE)}

INSIDE = """
import json, os, resource, signal
limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
limits["RLIMIT_STACK"] = limits["RLIMIT_STACK"][:1]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    **limits,
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "scheduler": os.sched_getscheduler(0),
    "timer slack": open("/proc/self/timerslack_ns").read(),
    "personality": open("/proc/self/personality").read(),
    "huge pages": status.get("THP_enabled"),
    "autogroup": open("/proc/self/autogroup").read().split()[-1] if os.path.exists("/proc/self/autogroup") else None,
    "disk": os.popen("ionice").read(),
    "umask": os.umask(0),
    "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
    "oom": open("/proc/self/oom_score_adj").read(),
    "dumpable": os.stat("/proc/self").st_uid == os.getuid(),
}))
"""
ASK = """
import sys
from pathlib import Path
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.local import LocalBackend
from pytest_arl.settings import Settings
from pytest_arl.steps import parse_steps
backend = LocalBackend(Settings.build(cli={"pools_file": sys.argv[1]}, start_dir=Path("/")))
sandbox = backend.acquire(AcquireRequest("default"))
result = sandbox.execute(TaskRequest("t", parse_steps([{"type": "Command", "command": sys.argv[2:]}])), None)[0]
print(result.stdout or result.stderr)
backend.close()
"""


def started(before: str = "", through: str = "exec", pools: Path = Path(os.devnull)) -> dict[str, Any]:
    """What a step finds in a sandbox of a process that a shell started after these commands, through this program."""
    argv = [sys.executable, "-c", ASK, str(pools), sys.executable, "-I", "-c", INSIDE]
    shell = subprocess.run(
        ["bash", "-ec", f'{before}\n{through} "$@"', "bash", *argv],
        env=WITH_SOURCE,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert shell.stdout.startswith("{"), shell.stdout + shell.stderr
    found: dict[str, Any] = json.loads(shell.stdout)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return started()


LOWER = (
    "-s 1024",
    "-f 4096",
    "-t 5000",
    "-c 0",
    "-d 4000000",
    "-m 4000000",
    "-n 1000",
    "-v 16000000",
    "-l 16",
    "-i 1000",
    "-q 4000",
)


def test_soft_limits_of_the_shell_are_not_seen_inside(plain: dict[str, Any]) -> None:
    assert started("".join(f"ulimit -S {limit}\n" for limit in LOWER)) == plain


def may_raise() -> bool:
    """Root often may not, in a container."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    if hard == resource.RLIM_INFINITY:
        return AS_ROOT
    try:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard + 1))
    except ValueError:
        return False
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
    return True


@pytest.mark.skipif(not may_raise(), reason="hard limits cannot be raised here (CAP_SYS_RESOURCE)")
def test_hard_limits_of_the_shell_are_raised_by_root(plain: dict[str, Any]) -> None:
    assert started("".join(f"ulimit {limit}\n" for limit in LOWER)) == plain


BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(0, signal.valid_signals()); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize(
    ("before", "through"),
    [
        ("trap '' INT HUP QUIT USR1 PIPE TERM CHLD; umask 077", "exec"),
        ("", f"{sys.executable} -c '{BLOCKED}'"),
    ],
    ids=["ignored", "blocked"],
)
def test_signals_and_the_umask_of_the_shell_are_not_seen_inside(
    before: str, through: str, plain: dict[str, Any]
) -> None:
    assert started(before, through) == plain


@pytest.mark.parametrize(
    "through",
    [
        "chrt --batch 0 ionice -c 3 setarch --addr-no-randomize",
        "chrt --idle 0 ionice -c 2 -n 7 setarch --32bit",
        "nice -n 5 chrt --fifo 1 ionice -c 1 -n 0",
        "nice -n -5",
    ],
)
def test_how_the_shell_was_scheduled_is_not_seen_inside(through: str, plain: dict[str, Any]) -> None:
    if not AS_ROOT and ("nice -n" in through or "--idle" in through):
        pytest.skip("an ordinary user cannot take that back")
    if any(shutil.which(program) is None for program in ("chrt", "ionice", "setarch")):
        pytest.skip("there is no util-linux here")
    if "--idle" in through and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the one processor is another test's, as long as that has a use for it")
    tried = subprocess.run([*through.split(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:  # no time for real-time programs in this cgroup, say
        pytest.skip(f"this machine does not let that be: {tried.stderr.strip()}")
    assert started(through=through) == plain


ASK_LIMITS = """
import os, resource, sys
print(resource.getrlimit(resource.RLIMIT_STACK)[0], resource.getrlimit(resource.RLIMIT_NOFILE))
sys.stdout.flush()
size = int(sys.argv[1])
os.execv("/bin/echo", ["echo", "-n", *["x" * 999] * (size // 1000)])
"""


@pytest.mark.parametrize(("stack", "size"), [("4Mi", 4 * 2**20), ("512Ki", 2**19), ("unlimited", -1), ("64Mi", 2**26)])
def test_a_pools_stack_is_what_its_programs_have(stack: str, size: int, make_backend: MakeBackend) -> None:
    """The kernel gives a quarter of it to a program's arguments, 6 MiB at the most."""
    sandbox = acquire(make_backend(f'[pools.p]\nstack = "{stack}"\n'), "p")
    room = 6 * 2**20 if size < 0 else min(6 * 2**20, size // 4)
    fits = run(sandbox, "python3", "-c", ASK_LIMITS, str(int(room * 0.95)))
    assert fits.exit_code == 0, fits.stderr
    assert fits.stdout.startswith(f"{size} ")
    too_much = run(sandbox, "python3", "-c", ASK_LIMITS, str(int(room * 1.05)))
    assert "Argument list too long" in too_much.stderr


@pytest.mark.skipif(may_raise(), reason="hard limits can be raised here")
@pytest.mark.parametrize(
    ("limit", "given", "refused", "cure"),
    [
        ("-s 4096", 'stack = "4Mi"', 'stack = "4097Ki"', 'stack = "4Mi"'),
        ("-s 4096", 'stack = "4Mi"', 'stack = "unlimited"', 'stack = "4Mi"'),
        ("-n 1000", "files = 1000", "files = 1001", "files = 1000"),
    ],
)
def test_a_promise_that_a_hard_limit_forbids_is_refused_with_the_cure(
    limit: str, given: str, refused: str, cure: str, folder: Path
) -> None:
    pools = folder / "pools.toml"
    pools.write_text(f"[pools.default]\n{given}\n")
    assert f"RLIMIT_{'STACK' if 's' in limit else 'NOFILE'}" in started(f"ulimit {limit}", pools=pools)
    pools.write_text(f"[pools.default]\n{refused}\n")
    with pytest.raises(AssertionError) as caught:
        started(f"ulimit {limit}", pools=pools)
    key = cure.partition(" ")[0]
    for words in ("BackendUnavailable", "pool 'default'", f"{key} is", f"ulimit -H {limit[:2]}", f"`{cure}`"):
        assert words in str(caught.value)


@pytest.mark.skipif(may_raise(), reason="hard limits can be raised here")
def test_a_hard_limit_without_a_key_is_kept_and_named(plain: dict[str, Any]) -> None:
    assert started("ulimit -f 4096") == {**plain, "RLIMIT_FSIZE": [4096 * 1024] * 2}
    names = "from pytest_arl.backends.local.inherited_limits import lowered; print(*lowered(), sep='; ')"
    argv = [sys.executable, "-c", names]
    said = [
        subprocess.run(
            ["bash", "-c", f'{before} exec "$@"', "bash", *argv],
            capture_output=True,
            text=True,
            check=True,
            env=WITH_SOURCE,
        ).stdout
        for before in ("", "ulimit -f 4096;")
    ]
    assert "file size" not in said[0]
    assert "processes" not in said[0]  # which have a hard limit on every machine
    assert "file size: hard limit 4096Ki" in said[1] or "file size: hard limit 4Mi (`ulimit -H -f`)" in said[1]
