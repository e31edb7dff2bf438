"""The three samples of the ARL wrapper: only the import line differs."""

import pytest

from pytest_arl import SandboxSession


def test_a_context_manager_opens_and_deletes_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    with SandboxSession(pool_ref="python-39-std", namespace="default") as session:
        result = session.execute(
            [
                {"name": "hello", "type": "Command", "command": ["echo", "Hello, World!"]},
                {"name": "version", "type": "Command", "command": ["python3", "-c", "print(6 * 7)"]},
            ]
        )

        status = result["status"]
        for step in status.get("steps", []):
            print(f"{step['name']}: exit code {step['exitCode']}, stdout {step['stdout']!r}")

    assert capsys.readouterr().out.splitlines() == [
        "hello: exit code 0, stdout 'Hello, World!\\n'",
        "version: exit code 0, stdout '42\\n'",
    ]


def test_a_kept_sandbox_takes_one_task_after_another() -> None:
    session = SandboxSession(pool_ref="python-39-std", namespace="default", keep_alive=True)
    try:
        session.create_sandbox()
        first = session.execute([{"name": "save", "type": "Command", "command": ["sh", "-c", "echo 1 > counter"]}])
        second = session.execute([{"name": "load", "type": "Command", "command": ["cat", "counter"]}])
    finally:
        session.delete_sandbox()

    assert first["status"]["state"] == "Succeeded"
    assert second["status"]["steps"][0]["stdout"] == "1\n"


def test_a_file_is_patched_in_and_a_command_runs_it() -> None:
    with SandboxSession(pool_ref="python-39-std", namespace="default") as session:
        result = session.execute(
            [
                {
                    "name": "write",
                    "type": "FilePatch",
                    "path": "/workspace/app/main.py",
                    "content": "import os\nprint('Hello,', os.environ['WHO'], 'from', os.getcwd())\n",
                },
                {
                    "name": "run",
                    "type": "Command",
                    "command": ["python3", "main.py"],
                    "env": {"WHO": "Ada"},
                    "workDir": "/workspace/app",
                },
            ]
        )

    assert [step["exitCode"] for step in result["status"]["steps"]] == [0, 0]
    assert result.steps[1].stdout == "Hello, Ada from /workspace/app\n"
