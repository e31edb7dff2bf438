"""Images with a shell and no Python, and with neither: steps, their ends and files are as everywhere.

The one program that is in all of them is the agent's own interpreter, which steps may run as any other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import SandboxSession
from pytest_arl.cluster import pod
from tests.cluster.installation import Installation, Json

PYTHON: list[str] = []
"""That interpreter, with the option that code follows: it lies in another folder in each pool."""


@pytest.fixture(scope="module", params=["busybox", "bare"])
def sandbox(request: pytest.FixtureRequest, installation: Installation) -> Iterator[SandboxSession]:
    pool = request.getfixturevalue(f"{request.param}_pool")
    with SandboxSession(pool, namespace=installation.namespace, backend="kubernetes") as session:
        start = _executor(installation, session)["command"]
        PYTHON[:] = [*start[1 : len(pod.INTERPRETER) + 1], "-c"]
        yield session


def _executor(installation: Installation, session: SandboxSession) -> Json:
    body = installation.get("pod", installation.get("sandbox", session.name)["status"]["podName"])
    executor: Json = next(each for each in body["spec"]["containers"] if each["name"] == pod.EXECUTOR_CONTAINER)
    return executor


def python(code: str, **fields: Any) -> dict[str, Any]:
    return {"type": "Command", "command": [*PYTHON, code], **fields}


def patch(path: str, content: str | bytes) -> dict[str, Any]:
    return {"type": "FilePatch", "path": path, "content": content}


def test_the_images_are_what_these_tests_are_about(
    installation: Installation, busybox_pool: str, bare_pool: str
) -> None:
    for pool, has_shell in ((busybox_pool, True), (bare_pool, False)):
        with SandboxSession(pool, namespace=installation.namespace, backend="kubernetes") as session:
            assert session.run("sh", "-c", "true").exit_code == (0 if has_shell else 127)
            assert session.run("python3", "-c", "pass").exit_code == 127


# RunningTask


def test_a_command_is_no_shell_and_runs_in_the_workspace(sandbox: SandboxSession) -> None:
    result = sandbox.run(*PYTHON, "import posix, sys; print(posix.getcwd(), sys.argv[1:])", "$HOME", "*", "a b")

    assert result.stdout == "/workspace ['$HOME', '*', 'a b']\n"


def test_an_environment_and_a_folder_are_the_steps_own(sandbox: SandboxSession) -> None:
    code = "import posix; print(posix.getcwd(), posix.environ[b'OWN'], [n for n in posix.environ if n[:4] == b'ARL_'])"
    result = sandbox.run(*PYTHON, code, env={"OWN": "ünd"}, work_dir="/tmp")

    assert result.stdout == f"/tmp {'ünd'.encode()!r} []\n"
    missing = sandbox.run(*PYTHON, "", work_dir="/nowhere")
    assert (missing.exit_code, "/nowhere" in missing.stderr) == (126, True)


def test_steps_stop_at_the_first_that_fails(sandbox: SandboxSession) -> None:
    task = sandbox.execute([python("print(1)"), python("import sys; sys.exit(42)"), python("print(3)")])

    assert [step.outcome for step in task.steps] == ["Succeeded", "Failed", "Skipped"]
    assert task.steps[1].exit_code == 42


def test_a_signal_is_named(sandbox: SandboxSession) -> None:
    result = sandbox.run(*PYTHON, "import posix; posix.kill(posix.getpid(), 11)")

    assert (result.exit_code, result.signal) == (139, "SIGSEGV")


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-program", 127), ("/no/such/program", 127), ("/proc/version", 126)]
)
def test_what_cannot_be_started_is_a_failed_step(sandbox: SandboxSession, command: str, code: int) -> None:
    result = sandbox.run(command)

    assert (result.outcome, result.exit_code) == ("Failed", code)
    assert command in result.stderr


def test_output_is_exact(sandbox: SandboxSession) -> None:
    code = "import posix; posix.write(1, bytes(range(256)) * 1000); posix.write(2, b'no line end')"
    result = sandbox.run(*PYTHON, code)

    assert result.stdout_bytes == bytes(range(256)) * 1000
    assert result.stderr_bytes == b"no line end"


def test_stdin_is_given(sandbox: SandboxSession) -> None:
    text = os.urandom(200_000)
    result = sandbox.run(*PYTHON, "import posix\nwhile data := posix.read(0, 65536): posix.write(1, data)", stdin=text)

    assert result.stdout_bytes == text


def test_what_a_step_leaves_behind_is_there_for_the_next(sandbox: SandboxSession) -> None:
    sandbox.run(*PYTHON, "open('/workspace/left', 'w').write('here')")

    assert sandbox.run(*PYTHON, "print(open('/workspace/left').read())").stdout == "here\n"


# Time


def test_a_timeout_ends_the_whole_tree_and_keeps_the_output(sandbox: SandboxSession) -> None:
    code = """
import posix, time
posix.write(1, b"said")
for _ in range(2):
    if posix.fork() == 0:
        posix.setsid()
        posix.fork()
time.sleep(60)
"""
    result = sandbox.run(*PYTHON, code, timeout=0.5)

    assert (result.outcome, result.stdout) == ("TimedOut", "said")
    assert result.duration < 1.5
    assert processes(sandbox) == []


def test_a_steps_own_child_does_not_delay_the_result(sandbox: SandboxSession) -> None:
    began = time.monotonic()
    sandbox.run(*PYTHON, "import posix, time\nif posix.fork() == 0: time.sleep(60)")

    assert time.monotonic() - began < 10
    assert processes(sandbox) == []


def test_a_background_process_is_spoken_to(sandbox: SandboxSession) -> None:
    code = "import posix\nwhile data := posix.read(0, 100): posix.write(1, b'got ' + data)"
    with sandbox.start(*PYTHON, code) as process:
        process.write("one\n")
        process.close_stdin()
        result = process.wait(timeout=20)

    assert result is not None
    assert result.stdout == "got one\n"


def processes(sandbox: SandboxSession) -> list[str]:
    """What lives beside the agent and the one who looks."""
    code = "import posix; print(*[n for n in posix.listdir('/proc') if n.isdigit() and n not in ('1', str(posix.getpid()))])"
    return sandbox.run(*PYTHON, code).stdout.split()


# Files


def test_a_patch_makes_folders_and_the_exact_file(sandbox: SandboxSession) -> None:
    content = bytes(range(256)) * 10
    task = sandbox.execute(
        [patch("deep/er/file", content), python("print(len(open('/workspace/deep/er/file', 'rb').read()))")]
    )

    assert task.steps[1].stdout == "2560\n"
    assert sandbox.read("deep/er/file") == content


def test_files_and_folders_go_in_and_out(sandbox: SandboxSession, tmp_path: Path) -> None:
    (tmp_path / "in/empty").mkdir(parents=True)
    (tmp_path / "in/program").write_bytes(os.urandom(3_000_000))
    (tmp_path / "in/program").chmod(0o755)
    (tmp_path / "in/nothing").touch()
    sandbox.upload(tmp_path / "in", "/workspace/tree")
    sandbox.download("/workspace/tree", tmp_path / "out")

    for name in ("program", "nothing"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    assert (tmp_path / "out/program").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/empty").is_dir()


def test_a_file_outside_of_the_writable_folders_is_not_written(sandbox: SandboxSession) -> None:
    folder = os.path.dirname(os.path.dirname(PYTHON[0]))
    task = sandbox.execute([patch(f"{folder}/boot.py", "")])

    assert task.steps[0].outcome == "Failed"
    assert f"{folder}/boot.py" in task.steps[0].stderr
