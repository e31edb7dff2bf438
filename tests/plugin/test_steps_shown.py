"""What a failing test shows of its steps."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Outcome, Project

THREE_STEPS = """[
        {"name": "write", "type": "FilePatch", "path": "app.py", "content": "import sys\\nprint('out-end')\\nsys.exit('err-end')\\n"},
        {"name": "build", "type": "Command", "command": ["true"]},
        {"name": "test", "type": "Command", "command": ["python3", "app.py"]},
    ]"""


def shows_three_steps(outcome: Outcome) -> None:
    """Each step in a line with outcome, exit code and duration; the failing one's command, stdout and stderr."""
    text = outcome.text
    assert re.search(r"1  write +succeeded +[\d.]+ m?s", text), text
    assert re.search(r"2  build +succeeded +[\d.]+ m?s", text), text
    assert re.search(r"> 3  test +exited 1 +[\d.]+ m?s", text), text
    assert "step 3 'test': python3 app.py" in text
    assert "\nout-end\n" in text
    assert "\nerr-end\n" in text


MODES = pytest.mark.parametrize("args", [[], ["-n2"], ["-s"]], ids=["alone", "n2", "s"])


@MODES
def test_plain_assert(project: Project, args: list[str]) -> None:
    project.test(
        f"def test_it(arl_sandbox):\n    result = arl_sandbox.execute({THREE_STEPS})\n    assert result.exit_code == 0"
    )
    outcome = project.run(*args)
    outcome.counts(failed=1)
    shows_three_steps(outcome)


@MODES
def test_check(project: Project, args: list[str]) -> None:
    project.test(f"def test_it(arl_sandbox):\n    arl_sandbox.execute({THREE_STEPS}).check()")
    outcome = project.run(*args)
    outcome.counts(failed=1)
    shows_three_steps(outcome)


@MODES
def test_in_setup(project: Project, args: list[str]) -> None:
    project.test(f"""
@pytest.fixture
def prepared(arl_sandbox):
    arl_sandbox.execute({THREE_STEPS}).check()

def test_it(prepared): pass
""")
    outcome = project.run(*args)
    outcome.counts(errors=1)
    shows_three_steps(outcome)


@MODES
def test_in_teardown(project: Project, args: list[str]) -> None:
    project.test(f"""
@pytest.fixture
def cleaned(arl_sandbox):
    yield
    assert arl_sandbox.execute({THREE_STEPS}).exit_code == 0

def test_it(cleaned): pass
""")
    outcome = project.run(*args)
    outcome.counts(passed=1, errors=1)
    shows_three_steps(outcome)


def test_it_fits_a_screen(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            steps = [{"name": f"s{n}", "type": "Command", "command": ["true"]} for n in range(30)]
            noise = "import sys; [print(n, file=f) for n in range(5000) for f in (sys.stdout, sys.stderr)]; sys.exit(3)"
            arl_sandbox.execute([*steps, {"name": "noisy", "type": "Command", "command": ["python3", "-c", noise]}])
            assert False
    """)
    outcome = project.run()
    text = outcome.text
    assert "noisy" in text
    assert text.count("\n4999\n") == 2
    assert len(outcome.section("arl steps").splitlines()) + len(outcome.section("arl step noisy").splitlines()) < 40
    assert "its last 10 lines" in text


def test_vv_shows_everything(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            for n in range(20):
                arl_sandbox.run("seq", "100")
            assert False
    """)
    section = project.run("-vv").section("arl steps")
    assert section.count(" succeeded ") == 20
    assert "\n42\n" in section


def test_the_last_step_is_shown_where_none_failed(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("echo", "first")
            assert arl_sandbox.run("echo", "second").stdout == "third"
    """)
    section = project.run().section("arl steps")
    assert "step 2 'echo': echo second" in section
    assert "\nsecond" in section


def test_the_last_step_that_failed_is_shown_and_not_one_after_it(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            for code in (3, 4, 0):
                arl_sandbox.run("sh", "-c", f"echo code-{code}; exit {code}")
            assert False
    """)
    section = project.run().section("arl steps")
    assert "> 2  sh" in section
    assert "\ncode-4" in section


def test_the_step_that_check_names_is_shown_and_not_a_later_one(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            bad = arl_sandbox.execute([{"name": "bad", "type": "Command", "command": ["sh", "-c", "echo one; exit 4"]}])
            arl_sandbox.execute([{"name": "late", "type": "Command", "command": ["sh", "-c", "echo two; exit 5"]}])
            bad.check()
    """)
    section = project.run().section("arl steps")
    assert "step 1 'bad'" in section
    assert "exited 5" in section
    assert "\ntwo" not in section


def test_a_step_that_never_finished_is_shown(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("sleep", "100", timeout=0.2).check()
    """)
    outcome = project.run()
    outcome.counts(failed=1)
    assert re.search(r"> 1  sleep +timed out \(exit code 124\)", outcome.section("arl steps"))


def test_the_step_under_which_the_sandbox_was_lost_is_shown(project: Project) -> None:
    project.test("""
        from threading import Timer

        def test_it(arl_sandbox):
            steps = [{"name": name, "type": "Command", "command": ["sleep", time]}
                     for name, time in {"first": "0", "under way": "60", "never": "0"}.items()]
            Timer(0.5, arl_sandbox.delete_sandbox).start()
            arl_sandbox.execute(steps)
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    section = outcome.section("arl steps")
    assert re.search("  1  first +succeeded", section)
    assert re.search("> 2  under way +no result", section)


def test_a_passing_test_shows_nothing(project: Project) -> None:
    project.test("def test_it(arl_sandbox): arl_sandbox.run('echo', 'hi')")
    text = project.run("-rA").text
    assert "Captured" not in text
    assert "echo" not in text


def test_steps_of_setup_are_shown_with_those_of_the_body(project: Project) -> None:
    project.test("""
        @pytest.fixture
        def prepared(arl_sandbox):
            arl_sandbox.run("echo", "preparing")

        def test_it(prepared, arl_sandbox):
            arl_sandbox.run("false")
            assert False
    """)
    section = project.run().section("arl steps")
    assert re.search(r"1  echo .* setup", section)
    assert re.search(r"> 2  false .* call", section)


def test_steps_of_a_session_made_in_the_body_are_shown(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxSession
        def test_it():
            with SandboxSession(pool_ref="b") as sandbox:
                sandbox.run("echo", "hello")
                assert False
    """)
    section = project.run().section("arl steps")
    assert "pool b" in section
    assert "step 1 'echo': echo hello" in section


def test_a_shared_sandbox_shows_each_test_its_own_steps(project: Project) -> None:
    project.test("""
        def test_1(arl_sandbox): arl_sandbox.run("echo", "of-the-first")
        def test_2(arl_sandbox):
            arl_sandbox.run("echo", "of-the-second")
            assert False
    """)
    section = project.run("--arl-scope=module").section("arl steps")
    assert "> 1  echo" in section
    assert "2  echo" not in section
    assert "of-the-second" in section


def test_two_sandboxes_are_told_apart(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            with arl_sandbox(pool_ref="b", name="other") as other:
                arl_sandbox.run("true")
                other.run("true")
            assert False
    """)
    section = project.run().section("arl steps")
    assert "2 steps in 2 sandboxes" in section
    assert re.search(r"> 2  true .* other", section)


def test_a_failing_subtest_shows_its_own_steps(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox, subtests):
            with subtests.test("one"):
                arl_sandbox.run("echo", "in-one")
            with subtests.test("two"):
                arl_sandbox.run("echo", "in-two")
                assert False
    """)
    section = project.run().section("arl steps")
    assert "> 2  echo" in section
    assert "1  echo" not in section


@pytest.mark.parametrize(
    ("shown", "out", "err"), [("no", False, False), ("stdout", True, False), ("stderr", False, True)]
)
def test_show_capture_is_obeyed(project: Project, shown: str, out: bool, err: bool) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("sh", "-c", "echo on-out; echo on-err >&2; exit 1")
            assert False
    """)
    text = project.run(f"--show-capture={shown}", "--tb=no" if shown == "no" else "--tb=short").text
    assert ("\non-out" in text, "\non-err" in text) == (out, err)


def test_what_each_step_used_is_shown_and_kept(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.write("app.py", "import time; x = bytearray(64 << 20)\\nwhile time.process_time() < 0.2: pass")
            arl_sandbox.execute([
                {"name": "note", "type": "FilePatch", "path": "note", "content": ""},
                {"name": "busy", "type": "Command", "command": ["python3", "app.py"]},
            ])
            assert 0
    """)
    outcome = project.run("--junitxml=j.xml", "--arl-output=out")

    shown = re.search(r"busy +succeeded +\S+ m?s +(peak \d+Mi of 2Gi|largest \d+Mi), cpu (\d+) ms\n", outcome.text)
    assert shown
    assert re.search(r"note +succeeded +\S+ m?s\n", outcome.text)
    found = {each.get("name"): each.get("value") for each in ET.parse(project.path / "j.xml").iter("property")}
    used = float(found["arl.step.2.user_time"] or 0) + float(found["arl.step.2.system_time"] or 0)
    assert 0.2 <= used < 5, "beside the program's own there are Python's start and its end"
    assert int(shown[2]) == pytest.approx(used * 1000, abs=1)
    assert int(found["arl.step.2.max_rss"] or 0) > 64 << 20
    assert "arl.step.1.user_time" not in found
    note, busy = (json.loads(line) for line in (project.path / "out/steps.jsonl").read_text().splitlines())
    assert note["usage"] is None
    assert busy["usage"]["userTime"] + busy["usage"]["systemTime"] == pytest.approx(used)
    assert (busy["memoryLimit"], busy["warm"]) == ("2Gi", False)
    assert busy["acquiredIn"] > 0


def test_the_same_facts_are_in_junitxml(project: Project) -> None:
    project.test(f"def test_it(arl_sandbox):\n    arl_sandbox.execute({THREE_STEPS}).check()")
    project.run("--junitxml=j.xml")
    properties = {one.attrib["name"]: one.attrib["value"] for one in ET.parse(project.path / "j.xml").iter("property")}
    assert properties["arl.step.3.name"] == "test"
    assert properties["arl.step.3.command"] == "python3 app.py"
    assert properties["arl.step.3.exit_code"] == "1"
    assert float(properties["arl.step.3.duration"]) > 0
    assert properties["arl.step.3.stdout"] == "out-end"
    assert properties["arl.step.3.stderr"] == "err-end"
    assert properties["arl.step.1.outcome"] == "Succeeded"
    assert properties["arl.sandbox"]


def test_reruns_show_each_attempts_own_steps(project: Project) -> None:
    project.test("""
        attempts = []
        def test_it(arl_sandbox):
            attempts.append(1)
            arl_sandbox.run("echo", f"attempt-{len(attempts)}")
            assert len(attempts) == 3
    """)
    outcome = project.run("--reruns=1", "--junitxml=j.xml")
    assert outcome.result.parseoutcomes()["failed"] == 1
    section = outcome.section("arl steps")
    assert "step 1 'echo': echo attempt-2" in section
    assert "attempt-1" not in section
    commands = [
        [one.attrib["value"] for one in case.iter("property") if "command" in one.attrib["name"]]
        for case in ET.parse(project.path / "j.xml").iter("testcase")
    ]
    # One testcase for each attempt, or, with older pytest, only for the last.
    assert commands in ([["echo attempt-1"], ["echo attempt-2"]], [["echo attempt-2"]])


def test_live_progress(project: Project) -> None:
    project.test("def test_it(arl_sandbox): arl_sandbox.run('echo', 'hi')")
    text = project.run("--log-cli-level=INFO").text
    assert "live log setup" in text
    assert "live log call" in text
    assert "echo" in text


def test_frames_of_ours_are_hidden(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("false", env={"TOKEN": "s3cret"}).check()
    """)
    text = project.run("-l").text
    assert "pytest_arl/" not in text
    assert "results.py" not in text
