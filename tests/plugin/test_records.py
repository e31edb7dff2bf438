"""The record: plain JSON, bounded, on the test that ran the step; and what other plugins make of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from tests.plugin.conftest import Outcome, Project


def run_with_record(project: Project, *args: str) -> tuple[Outcome, list[dict[str, Any]]]:
    """What pytest-reportlog writes of each report that has steps."""
    outcome = project.run("--report-log=log.jsonl", *args)
    lines = [json.loads(line) for line in (project.path / "log.jsonl").read_text().splitlines()]
    return outcome, [line for line in lines if line.get("arl", {}).get("steps")]


def steps(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [step for report in reports for step in report["arl"]["steps"]]


def test_every_step_is_recorded_once_in_the_phase_that_ran_it(project: Project) -> None:
    project.test("""
        @pytest.fixture
        def around(arl_sandbox):
            arl_sandbox.run("echo", "before")
            yield
            arl_sandbox.run("echo", "after")

        def test_it(around, arl_sandbox):
            arl_sandbox.run("echo", "during")
    """)
    _, reports = run_with_record(project)
    assert [(one["when"], [step["stdout"] for step in one["arl"]["steps"]]) for one in reports] == [
        ("setup", ["before\n"]),
        ("call", ["during\n"]),
        ("teardown", ["after\n"]),
    ]
    assert [step["number"] for step in steps(reports)] == [1, 2, 3]


def test_the_record_of_a_test_has_each_fact_of_its_steps(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.execute([
                {"name": "w", "type": "FilePatch", "path": "f", "content": "12345"},
                {"name": "c", "type": "Command", "command": ["sh", "-c", "kill -SEGV $$"], "env": {"TOKEN": "s3cret"}},
                {"name": "never", "type": "Command", "command": ["true"]},
            ])
    """)
    _, reports = run_with_record(project, "--arl-pool=a")
    part = reports[0]["arl"]
    assert part["schema"] == 1
    assert part["attempt"] == 1
    (name,) = part["sandboxes"]
    assert part["sandboxes"][name]["pool"] == "a"
    write, command, never = part["steps"]
    assert (write["type"], write["path"], write["size"]) == ("FilePatch", "f", 5)
    assert command["command"] == ["sh", "-c", "kill -SEGV $$"]
    assert (command["outcome"], command["signal"], command["exitCode"]) == ("Killed", "SIGSEGV", 139)
    assert command["sandbox"] == name
    assert command["env"] == ["TOKEN"]
    assert (never["outcome"], never["exitCode"]) == ("Skipped", None)


def test_what_the_infrastructure_did_wrong_is_on_record(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            from threading import Timer
            arl_sandbox.run("true")
            Timer(0.3, arl_sandbox.delete_sandbox).start()
            arl_sandbox.execute([
                {"name": "first", "type": "Command", "command": ["echo", "kept"]},
                {"name": "under way", "type": "Command", "command": ["sleep", "60"]},
            ])
    """)
    outcome, reports = run_with_record(project)
    outcome.counts(errors=1)
    assert reports[0]["arl"]["errors"][0].startswith("SandboxLost: ")
    assert [step["name"] for step in steps(reports)] == ["true", "first", "under way"]


def test_values_of_variables_are_nowhere(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("false", env={"TOKEN": "s3" + "cret"}).check()
    """)
    outcome = project.run(
        "--junitxml=j.xml", "--report-log=log.jsonl", "--arl-output=out", "--log-cli-level=DEBUG", "-vv"
    )
    files = [path for path in project.path.rglob("*") if path.is_file()]
    written = [path.read_text() for path in files if path.name != "test_it.py" and path.suffix != ".pyc"]
    assert len(written) >= 3
    assert not any("s3cret" in text for text in [outcome.text, *written] if not text.startswith("import"))
    assert "TOKEN" in outcome.text


def test_a_step_in_a_thread_of_the_test_is_the_tests(project: Project) -> None:
    project.test("""
        from threading import Thread

        def test_it(arl_sandbox):
            thread = Thread(target=arl_sandbox.run, args=("echo", "from a thread"))
            thread.start()
            thread.join()
    """)
    _, reports = run_with_record(project)
    assert [step["stdout"] for step in steps(reports)] == ["from a thread\n"]


def test_a_stream_is_bounded_and_keeps_head_and_tail(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("sh", "-c", "echo head; head -c 1000000 /dev/zero | tr '\\\\0' x; echo tail")
            arl_sandbox.run("head", "-c", "1000000", "/dev/zero")
    """)
    _, reports = run_with_record(project)
    text, zeros = steps(reports)
    assert len(json.dumps(text["stdout"])) <= 64 * 1024
    assert text["stdout"].startswith("head\n")
    assert text["stdout"].endswith("tail\n")
    assert text["stdoutSize"] == 1000010
    assert len(json.dumps(zeros["stdout"])) <= 64 * 1024


def test_a_tests_record_is_bounded_and_keeps_the_latest(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            for number in range(40):
                arl_sandbox.run("sh", "-c", f"echo {number}; head -c 60000 /dev/zero | tr '\\\\0' x")
    """)
    _, reports = run_with_record(project)
    assert len(json.dumps(reports[0]["arl"])) <= 1024 * 1024 + 1024
    everything = steps(reports)
    assert len(everything) == 40
    assert everything[0]["stdout"] == ""
    assert everything[0]["outputOmitted"] is True
    assert everything[-1]["stdout"].startswith("39\n")


def test_junit_properties_are_bounded_and_the_failing_step_is_among_them(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            steps = [{"name": f"s{n}", "type": "Command", "command": ["true"]} for n in range(60)]
            arl_sandbox.execute([*steps, {"name": "bad", "type": "Command", "command": ["false"]}]).check()
    """)
    project.run("--junitxml=j.xml")
    properties = [
        (one.attrib["name"], one.attrib["value"]) for one in ET.parse(project.path / "j.xml").iter("property")
    ]
    assert len(properties) == 100
    assert ("arl.step.61.name", "bad") in properties
    assert ("arl.step.61.exit_code", "1") in properties


def test_properties_are_left_alone_without_junitxml(project: Project) -> None:
    project.test("def test_it(arl_sandbox, request): arl_sandbox.run('true')")
    _, reports = run_with_record(project)
    assert reports[0]["user_properties"] == []


def test_xdist_carries_the_record(project: Project) -> None:
    project.test("""
        import os

        def test_it(arl_sandbox):
            arl_sandbox.run("echo", os.fsdecode(b"caf\\xe9"))
            assert False
    """)
    outcome, reports = run_with_record(project, "-n1", "--junitxml=j.xml")
    outcome.counts(failed=1)
    assert steps(reports)[0]["command"] == ["echo", "caf\\udce9"]
    assert any(one.attrib["name"] == "arl.step.1.name" for one in ET.parse(project.path / "j.xml").iter("property"))


def test_output_folder_has_every_step_and_everything_it_printed(project: Project) -> None:
    project.toml("pools.small = { output = '1Ki' }\n")
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("seq", "20000")
            arl_sandbox.run("sh", "-c", "printf '\\\\377' >&2; exit 3")
    """)
    project.run("--arl-output=out", "--arl-pool=small")
    lines = [json.loads(line) for line in (project.path / "out/steps.jsonl").read_text().splitlines()]
    assert [(one["schema"], one["test"], one["exitCode"]) for one in lines] == [
        (1, "test_it.py::test_it", 0),
        (1, "test_it.py::test_it", 3),
    ]
    assert (project.path / "out" / lines[0]["stdoutPath"]).read_text().splitlines()[-1] == "20000"
    assert lines[0]["stdoutSize"] == (project.path / "out" / lines[0]["stdoutPath"]).stat().st_size
    assert (project.path / "out" / lines[1]["stderrPath"]).read_bytes() == b"\xff"


def test_output_folder_is_that_of_the_latest_run(project: Project) -> None:
    project.test("def test_it(arl_sandbox): arl_sandbox.run('echo', 'hi')")
    for _ in range(2):
        project.run("--arl-output=out")
    assert len((project.path / "out/steps.jsonl").read_text().splitlines()) == 1
    assert len([path for path in (project.path / "out/output").rglob("*") if path.is_file()]) == 1


def test_output_folder_under_xdist(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("number", range(20))
        def test_it(arl_sandbox, number): arl_sandbox.run("echo", str(number))
    """)
    project.run("--arl-output=out", "-n2", "--arl-scope=session")
    lines = [json.loads(line) for line in (project.path / "out/steps.jsonl").read_text().splitlines()]
    printed = [(project.path / "out" / line["stdoutPath"]).read_text() for line in lines]
    assert sorted(printed, key=int) == [f"{number}\n" for number in range(20)]
    assert {line["worker"] for line in lines} <= {"gw0", "gw1"}


def test_a_steps_name_stays_within_the_output_folder(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.execute([{"name": "/../../../../x", "type": "Command", "command": ["echo", "hi"]}])
    """)
    project.run("--arl-output=deep/out")
    (path,) = project.path.rglob("*.stdout")
    assert path.parent.parent == project.path / "deep/out/output"


def test_pytest_html_has_the_steps(project: Project) -> None:
    project.test("def test_it(arl_sandbox): arl_sandbox.run('echo', 'look-for-me').check()")
    project.run_with_everything("--html=r.html", "--self-contained-html", "-p", "no:asyncio").passes(1)
    assert "arl steps (call)" in (project.path / "r.html").read_text()


def test_allure_has_the_steps(project: Project) -> None:
    project.test("def test_it(arl_sandbox): arl_sandbox.run('echo', 'look-for-me').check()")
    project.run_with_everything("--alluredir=allure", "-p", "no:asyncio").passes(1)
    (result,) = [json.loads(path.read_text()) for path in (project.path / "allure").glob("*-result.json")]
    (attached,) = [one for one in result["attachments"] if one["name"] == "arl steps"]
    content = json.loads((project.path / "allure" / attached["source"]).read_text())
    assert content["steps"][0]["stdout"] == "look-for-me\n"


def test_reports_do_not_keep_a_whole_runs_output_in_memory(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import json

        def pytest_terminal_summary(terminalreporter):
            reports = [report for reports in terminalreporter.stats.values() for report in reports]
            parts = [report.arl for report in reports if getattr(report, "arl", None)]
            print("KEPT", len(json.dumps(parts)), sum(len(part["steps"]) for part in parts))
    """,
    )
    project.test("""
        @pytest.mark.parametrize("number", range(5))
        def test_it(arl_sandbox, number):
            arl_sandbox.run("head", "-c", "50000", "/dev/zero")
    """)
    text = project.run("--report-log=log.jsonl").text
    kept, count = next(line for line in text.splitlines() if line.startswith("KEPT")).split()[1:]
    assert int(kept) < 10_000
    assert int(count) == 5


def test_what_is_kept_of_a_sandboxs_output_has_the_bound_of_its_pool(project: Project) -> None:
    project.toml("")
    with (project.path / "pyproject.toml").open("a") as file:
        file.write('[tool.pytest-arl.pools.small]\noutput = "4Ki"\nkept = "100Ki"\n')
    project.test("""
        def test_it(arl_sandbox):
            for size in (50_000, 2_000_000, 40_000, 1_000_000, 3_000):
                arl_sandbox.run("head", "-c", str(size), "/dev/zero")
    """)
    outcome = project.run("--arl-output=out", "--arl-pool=small")
    outcome.passes(1)
    sizes = [path.stat().st_size for path in sorted((project.path / "out/output").rglob("*.stdout"))]
    assert sizes == [50_000, 4096, 40_000, 4096, 3_000], "whole where there is room, else what the result has"
    assert outcome.text.count("printed more than its pool keeps, so files are cut or missing") == 1
    assert "raise `kept` of pool 'small'" in outcome.text


def test_output_files_are_missing_where_not_even_what_results_have_can_be_kept(project: Project) -> None:
    project.toml("")
    with (project.path / "pyproject.toml").open("a") as file:
        file.write('[tool.pytest-arl.pools.small]\nkept = "1Ki"\n')
    project.test("""
        def test_it(arl_sandbox):
            for size in (1000, 2000, 10):
                arl_sandbox.run("head", "-c", str(size), "/dev/zero")
    """)
    project.run("--arl-output=out", "--arl-pool=small").passes(1)
    steps = [json.loads(line) for line in (project.path / "out/steps.jsonl").read_text().splitlines()]
    assert ["stdoutPath" in step for step in steps] == [True, False, True]
    assert [step["stdoutSize"] for step in steps] == [1000, 2000, 10]
