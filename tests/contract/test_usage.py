"""Contract, "Usage": what a step used, and the limit of its processor time.

Processor time is measured against what the kernel tells each process here of itself, and what each writes down as the
last thing that it does. Beside that stands what their ends cost, and what nobody can know beforehand: how much it costs
to start a Python and to fork, which is 100 times as much on an emulated processor. This machine is asked for it.
"""

from __future__ import annotations

import functools
import json
import math
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_arl import FilePatch
from tests.contract.backends import not_on_a_cluster
from tests.contract.probes import python, start_python

if TYPE_CHECKING:
    from pytest_arl import SandboxSession, StepResult, Usage
    from tests.contract.backends import ContractBackend

MI = 2**20
TICK = 0.01

BURN = """
import json, os, resource, signal, sys, time
reports, report = os.pipe()

def burn(seconds):
    while time.process_time() < seconds:
        pass

def tell():
    os.write(report, b"%.6f\\n" % time.process_time())

def tell_all():
    # What all processes have told, this one last.
    tell()
    print(sum(map(float, os.read(reports, 1 << 16).split())), flush=True)

def child(seconds):
    pid = os.fork()
    if not pid:
        burn(seconds)
        tell()
        os._exit(0)
    return pid

def orphan(seconds):
    # Nobody of the program waits for it. It holds the pipe until it is over.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        if not os.fork():
            os.setsid()
            burn(seconds)
        tell()
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    return reader
"""


@functools.cache
def _cost(code: str) -> float:
    """Seconds of processor time that such a Python program takes on this machine, without a sandbox."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _start() -> float:
    """Seconds of processor time for starting a Python, and for its end."""
    return _cost("")


def _forks() -> float:
    """The same with eight children that do nothing."""
    return _cost("import os\nfor _ in range(8): os.fork() or os._exit(0)\nfor _ in range(8): os.wait()")


def _is_what_they_told(usage: Usage, told: str) -> bool:
    """True if it is all that a program's processes told, and no more than their ends on top."""
    least = float(told)
    return least - TICK <= usage.cpu_time <= 1.05 * least + 0.1 + 5 * _start()


def _usage(result: StepResult) -> Usage:
    assert result.usage is not None, result
    return result.usage


def test_what_one_program_used_is_what_it_says_of_itself(sandbox: SandboxSession) -> None:
    result = python(
        sandbox,
        BURN
        + """
memory = bytearray(b"x" * (96 << 20))
burn(0.4)
for _ in range(5): os.sched_yield(); time.sleep(0.001)
own = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([own.ru_utime + own.ru_stime, own.ru_maxrss * 1024, own.ru_nvcsw]))
""",
    ).check()
    cpu, rss, voluntary = json.loads(result.stdout)
    usage = _usage(result)

    assert cpu - TICK <= usage.cpu_time <= 1.05 * cpu + 0.05 + _start(), "its own end comes on top"
    assert usage.user_time > 0
    assert usage.max_rss is not None
    assert 0.95 * rss <= usage.max_rss <= 1.05 * rss
    assert voluntary <= usage.voluntary_context_switches <= voluntary + 20
    assert usage.memory_peak is None or usage.memory_peak >= 96 * MI


_TREES = {
    "children that it waits for": "for _ in range(3): os.waitpid(child(0.2), 0)",
    "children at once": "for pid in [child(0.2) for _ in range(3)]: os.waitpid(pid, 0)",
    "children that end while it runs, and nobody waits for": "children = [child(0.2) for _ in range(3)]\n"
    "for pid in children: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)",
    "orphans": "for reader in [orphan(0.2) for _ in range(3)]: os.read(reader, 1)",
    "threads": "import threading\n"
    "threads = [threading.Thread(target=burn, args=(0.6,)) for _ in range(3)]\n"
    "for thread in threads: thread.start()\n"
    "for thread in threads: thread.join()",
    "what outlives it, and is killed with the step": "child(0.6)\n"
    "while True:\n"
    "    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)\n"
    "    if ended: break\n"
    "    time.sleep(0.01)\n"
    "tell_all()\n"
    "if not os.fork(): time.sleep(1000)",
}


@pytest.mark.parametrize("tree", _TREES)
def test_all_that_a_step_started_is_in_what_it_used(sandbox: SandboxSession, tree: str) -> None:
    code = f"{BURN}\n{_TREES[tree]}"
    result = python(sandbox, code if "tell_all" in code.removeprefix(BURN) else f"{code}\ntell_all()").check()

    assert float(result.stdout) >= 0.6
    assert _is_what_they_told(_usage(result), result.stdout)


def test_a_step_that_does_nothing_uses_next_to_nothing(sandbox: SandboxSession) -> None:
    usage = _usage(sandbox.run("sleep", "1"))

    assert usage.cpu_time < 0.03 + _start()
    assert (usage.read_bytes, usage.write_bytes) == (usage.read_bytes // 512 * 512, usage.write_bytes // 512 * 512)


def test_processes_and_threads_that_were_started_are_counted(sandbox: SandboxSession) -> None:
    forks = python(
        sandbox, "import os\nfor _ in range(25):\n  pid = os.fork()\n  pid or os._exit(0)\n  os.waitpid(pid, 0)"
    )
    threads = python(sandbox, "import threading\nfor _ in range(5): threading.Thread(target=int).start()")

    assert (_usage(forks).processes, _usage(threads).processes) == (26, 6)


def test_a_program_smaller_than_the_agent_has_no_size_of_the_agents(sandbox: SandboxSession) -> None:
    rss = _usage(sandbox.run("true")).max_rss

    assert rss is None or rss < 8 * MI


def test_what_runs_beside_a_step_is_not_in_what_it_used(sandbox: SandboxSession) -> None:
    start_python(sandbox, "print('ready')\nwhile True: pass")
    result = python(
        sandbox, BURN + "children = [child(0.4) for _ in range(2)]\nfor each in children: os.wait()\ntell_all()"
    ).check()
    usage = _usage(result)

    assert float(result.stdout) >= 0.8
    assert _is_what_they_told(usage, result.stdout)
    assert usage.processes is None


def test_what_a_background_program_used_is_told_once_it_has_ended(sandbox: SandboxSession) -> None:
    process = start_python(sandbox, BURN + "print('ready')\nos.waitpid(child(0.3), 0)\nburn(0.3)\ntell_all()")
    result = process.wait(60)

    assert _is_what_they_told(_usage(result), result.stdout.split()[-1])
    again = process.wait(0)
    assert again is not None
    assert again.usage == result.usage


def test_what_is_no_program_used_nothing_that_could_be_told(sandbox: SandboxSession) -> None:
    result = sandbox.execute(
        [
            FilePatch(path="a", content="b"),
            {"type": "Command", "command": ["no-such-program"]},
            {"type": "Command", "command": ["true"]},
        ]
    )

    assert [step.usage for step in result.steps] == [None, None, None]


def test_a_result_in_json_has_what_was_used_as_the_cluster_writes_it(sandbox: SandboxSession) -> None:
    task = sandbox.execute([{"type": "Command", "command": ["true"]}])
    figures = task["status"]["steps"][0]["usage"]

    assert {"userTime", "systemTime", "readBytes", "writeBytes", "voluntaryContextSwitches"} <= set(figures)
    json.dumps(figures)


def test_a_task_says_how_long_its_sandbox_took(sandbox: SandboxSession) -> None:
    result = sandbox.execute([{"type": "Command", "command": ["true"]}])

    assert result.acquired_in is not None
    assert 0 < result.acquired_in < 300
    assert isinstance(result.warm, bool)


# The limit

_HUNGRY = {
    "one process": "burn({0})",
    "many processes at once": "for pid in [child({0} / 4) for _ in range(4)]: os.waitpid(pid, 0)",
    "children one after another": "for _ in range(8): os.waitpid(child({0} / 8), 0)",
    "orphans one after another": "for _ in range(4): os.read(orphan({0} / 4), 1)",
    "threads": "import threading\n"
    "threads = [threading.Thread(target=burn, args=({0},)) for _ in range(4)]\n"
    "for thread in threads: thread.start()\n"
    "for thread in threads: thread.join()",
}


def _limit() -> float:
    """Seconds that are enough for a program that burns 0.8 s in eight processes."""
    return math.ceil((0.9 + 2 * _forks()) * 10) / 10


def _as_limit(seconds: float) -> str:
    return f"cpu time {seconds:g}s"


@pytest.mark.parametrize("hungry", _HUNGRY)
def test_a_step_over_its_processor_time_ends_as_one_that_timed_out(sandbox: SandboxSession, hungry: str) -> None:
    limit = _limit()
    code = BURN + _HUNGRY[hungry].format(1.3 * limit) + "\nprint('survived')"
    result = sandbox.run("python3", "-I", "-c", code, cpu_time=limit)

    assert (result.outcome, result.exit_code, result.limit) == ("TimedOut", 124, _as_limit(limit))
    assert "survived" not in result.stdout
    assert _usage(result).cpu_time >= limit - 1e-6, "it used all that it might, or was ended too early"


@pytest.mark.parametrize("hungry", _HUNGRY)
def test_a_step_within_its_processor_time_ends_well(sandbox: SandboxSession, hungry: str) -> None:
    limit = _limit()
    result = sandbox.run("python3", "-I", "-c", BURN + _HUNGRY[hungry].format(0.8), cpu_time=f"{limit:g}s")

    assert (result.outcome, result.limit) == ("Succeeded", None)
    assert 0.8 - TICK <= _usage(result).cpu_time <= limit


def test_a_step_that_only_waits_uses_no_processor_time(sandbox: SandboxSession) -> None:
    assert sandbox.run("sleep", "1.5", cpu_time=0.2 + _start()).ok


def test_a_task_goes_on_where_no_step_is_over_its_own_time(sandbox: SandboxSession) -> None:
    limit = 0.6 + 3 * _start()
    argv = ["python3", "-I", "-c", f"{BURN}\nburn({0.7 * limit})"]
    each = {"type": "Command", "command": argv, "cpuTime": f"{1000 * limit:.0f}ms"}
    result = sandbox.execute([each | {"name": "first"}, each | {"name": "second"}])

    assert result.ok
    assert sum(_usage(step).cpu_time for step in result.steps) > limit


def test_the_limit_holds_beside_a_background_program_and_for_it(sandbox: SandboxSession) -> None:
    beside = start_python(sandbox, "print('ready')\nwhile True: pass")
    step = sandbox.run("python3", "-I", "-c", BURN + "os.waitpid(child(0.4), 0)\nburn(1.0)", cpu_time=0.8)
    background = sandbox.start("python3", "-I", "-c", BURN + "os.waitpid(child(0.4), 0)\nburn(1000)", cpu_time=0.8)
    ended = background.wait(120)

    assert (step.outcome, step.exit_code, step.limit) == ("TimedOut", 124, "cpu time 0.8s")
    assert (ended.outcome, ended.exit_code, ended.limit) == ("TimedOut", 124, "cpu time 0.8s")
    assert beside.poll() is None


def test_a_pool_bounds_each_of_its_steps(backend: ContractBackend) -> None:
    with backend.open("timed") as sandbox:
        over = sandbox.run("python3", "-I", "-c", BURN + "burn(2.4)")
        within = [sandbox.run("python3", "-I", "-c", BURN + "burn(1.2)") for _ in range(2)]
        stricter = sandbox.run("python3", "-I", "-c", BURN + "burn(0.7)", cpu_time=0.5)
        laxer = sandbox.run("python3", "-I", "-c", BURN + "burn(2.4)", cpu_time=5)

    assert (over.outcome, over.exit_code, over.limit) == ("TimedOut", 124, "cpu time 2s")
    assert all(step.ok for step in within)
    assert (stricter.outcome, stricter.limit) == ("TimedOut", "cpu time 0.5s")
    assert (laxer.outcome, laxer.limit) == ("TimedOut", "cpu time 2s")


@not_on_a_cluster("a node may count processor time where a pod cannot look")
def test_children_that_nobody_waits_for_count_where_there_is_a_cgroup(sandbox: SandboxSession) -> None:
    if sandbox.isolation != "bwrap+cgroup":
        pytest.skip("the kernel tells of them nowhere else")
    code = (
        BURN
        + """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range({0}):
    child({1})
    time.sleep({1} * 1.5)
try:
    os.wait()
except ChildProcessError:
    pass
tell_all()
"""
    )

    limit = 2 * _limit()
    within = sandbox.run("python3", "-I", "-c", code.format(8, 0.08), cpu_time=limit)
    over = sandbox.run("python3", "-I", "-c", code.format(200, limit / 20), cpu_time=limit)

    assert within.ok
    assert float(within.stdout) >= 0.6
    assert _is_what_they_told(_usage(within), within.stdout)
    assert (over.outcome, over.limit) == ("TimedOut", _as_limit(limit))
