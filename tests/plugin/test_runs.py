"""How runs end, and what they share: workers, crashes, interrupts, reruns, runs inside runs."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.waiting import until

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command line that no other process of this machine has: another run of these tests may be under way."""
    seconds = str(random.randrange(10**7, 10**8))
    monkeypatch.setenv("MARK", seconds)
    return f"sleep {seconds}"


def alive(mark: str) -> list[str]:
    """Processes of this machine with that command line."""
    return [
        str(found.pid) for found in psutil.process_iter(["cmdline"]) if mark in " ".join(found.info["cmdline"] or [])
    ]


def is_there(mark: str) -> None:
    assert until(lambda: alive(mark), 5, every=0.05)


def nothing_stays(mark: str) -> None:
    assert until(lambda: not alive(mark), 5, every=0.05)


def test_a_worker_that_crashes_is_the_controllers_to_tell(project: Project, mark: str) -> None:
    project.test("""
        from helpers import MARK, visible
        import os

        def test_1(arl_sandbox): arl_sandbox.run("true")
        def test_2(arl_sandbox):
            arl_sandbox.start("sleep", MARK)
            assert visible()
            os._exit(3)
        def test_3(arl_sandbox): arl_sandbox.run("true")
    """)
    outcome = project.run("-n1")
    outcome.counts(passed=2, failed=1)
    assert "INTERNALERROR" not in outcome.text
    assert "crashed" in outcome.last_line
    assert outcome.last_line.startswith("arl: ")
    nothing_stays(mark)


def test_an_interrupt_closes_everything(project: Project, mark: str) -> None:
    project.test("""
        from helpers import MARK, visible
        import os, signal
        # Where pytest was started in the background, the interrupt would be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def test_1(arl_sandbox):
            arl_sandbox.start("sleep", MARK)
            assert visible()
            os.kill(os.getpid(), signal.SIGINT)
            arl_sandbox.run("sleep", MARK)
    """)
    outcome = project.run("--arl-scope=session")
    assert outcome.ret == 2
    assert "KeyboardInterrupt" in outcome.text
    assert outcome.used[2] == 0
    nothing_stays(mark)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(project: Project, mark: str, how: signal.Signals) -> None:
    project.test("""
        from helpers import MARK

        def test_1(arl_sandbox):
            arl_sandbox.start("sleep", MARK)
            print("STARTED", flush=True)
            arl_sandbox.run("sleep", "60")
    """)
    argv = [sys.executable, "-m", "pytest", "-s", "-p", "no:asyncio"]
    with subprocess.Popen(argv, cwd=project.path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "STARTED" in line:
                break
        is_there(mark)
        process.send_signal(how)
        process.stdout.read()
    assert process.returncode == -how
    nothing_stays(mark)


def test_exit_in_a_test_closes_everything(project: Project, mark: str) -> None:
    project.test("""
        from helpers import MARK, visible
        def test_1(arl_sandbox):
            arl_sandbox.start("sleep", MARK)
            assert visible()
            pytest.exit("enough")
    """)
    outcome = project.run("--arl-scope=module")
    assert outcome.used == (1, 1, 0)
    nothing_stays(mark)


def test_exitfirst_closes_everything(project: Project, mark: str) -> None:
    project.test("""
        from helpers import MARK, visible
        def test_1(arl_sandbox):
            arl_sandbox.start("sleep", MARK)
            assert visible()
            assert False
        def test_2(arl_sandbox): pass
    """)
    outcome = project.run("-x", "--arl-scope=session")
    outcome.counts(failed=1)
    assert outcome.used[2] == 0
    nothing_stays(mark)


def test_a_rerun_has_a_record_of_its_own(project: Project) -> None:
    project.test("""
        attempts = []
        def test_it(arl_sandbox):
            attempts.append(1)
            arl_sandbox.run("echo", str(len(attempts)))
            assert len(attempts) == 2
    """)
    project.run("--reruns=2", "--report-log=log.jsonl")
    lines = [json.loads(line) for line in (project.path / "log.jsonl").read_text().splitlines()]
    parts = [line["arl"] for line in lines if line.get("arl", {}).get("steps")]
    assert [(part["attempt"], [step["stdout"] for step in part["steps"]]) for part in parts] == [
        (1, ["1\n"]),
        (2, ["2\n"]),
    ]


def test_a_rerun_starts_from_the_checkpoint(project: Project) -> None:
    project.test("""
        attempts = []
        def test_it(arl_sandbox):
            attempts.append(1)
            assert arl_sandbox.run("ls").stdout == ""
            arl_sandbox.write("left", "x")
            assert len(attempts) == 3
    """)
    outcome = project.run("--reruns=2", "--arl-scope=session")
    assert outcome.result.parseoutcomes()["passed"] == 1


def test_a_run_inside_a_run(project: Project) -> None:
    project.test("""
        pytest_plugins = ["pytester"]

        def test_it(arl_sandbox, pytester):
            arl_sandbox.run("echo", "outer")
            pytester.makepyfile(test_inner="def test_inner(arl_sandbox): arl_sandbox.run('echo', 'inner')")
            result = pytester.runpytest_inprocess("-p", "no:asyncio")
            result.assert_outcomes(passed=1)
            result.stdout.fnmatch_lines(["arl: 1 sandbox, 1 step, 0 left *"])
            arl_sandbox.run("true").check()
            pytest.fail("at the end")
    """)
    outcome = project.run()
    outcome.counts(failed=1)
    assert "at the end" in outcome.text
    assert re.search(r"1  echo .*\n> 2  true ", outcome.section("arl steps"))
    assert outcome.used == (1, 2, 0)


def test_it_is_clean_under_w_error(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox, arl_sandbox_factory):
            arl_sandbox.run("true").check()
            arl_sandbox_factory().run("true").check()
    """)
    project.run("-W", "error", "--arl-scope=module", "--arl-output=out").passes(1)


def test_a_unittest_case_may_use_a_session(project: Project) -> None:
    project.test("""
        import unittest
        from pytest_arl import SandboxSession

        class Test(unittest.TestCase):
            def test_it(self):
                with SandboxSession() as sandbox:
                    self.assertEqual(sandbox.run("echo", "hi").stdout, "ho\\n")
    """)
    outcome = project.run()
    outcome.counts(failed=1)
    assert "step 1 'echo': echo hi" in outcome.text


def test_doctests_are_recorded_too(project: Project) -> None:
    project.write(
        "test_doc.txt",
        """
        >>> from pytest_arl import SandboxSession
        >>> with SandboxSession() as sandbox:
        ...     print(sandbox.run("echo", "hi").stdout)
        ho
    """,
    )
    outcome = project.run()
    outcome.counts(failed=1)
    assert "step 1 'echo': echo hi" in outcome.text


def test_a_full_disk_for_the_output_folder_is_told_and_changes_no_test(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import pytest_arl.plugin.output

        def full(*args, **more):
            raise OSError(28, "No space left on device")

        pytest_arl.plugin.output.OutputFolder.write = full
    """,
    )
    project.test("def test_it(arl_sandbox): arl_sandbox.run('true').check()")
    outcome = project.run("--arl-output=out")
    outcome.passes(1)
    assert "--arl-output: nothing more was written: [Errno 28] No space left on device" in outcome.text
