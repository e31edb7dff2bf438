"""The folder that holds the agent and an interpreter of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_package import image
from pytest_arl.cluster import pod
from tests.agent.conftest import made_by
from tests.agent.harness import command
from tests.agent.remote_harness import Agent, agent_of
from tests.waiting import until

EMPTY = ["--proc", "/proc", "--dev", "/dev"]
DEBIANS_PYTHON = "/usr/bin/python3"


@pytest.fixture
def agent(bubblewrap: str, folder: Path) -> Iterator[Agent]:
    """In a root folder that holds nothing else: no shell, no C library."""
    with agent_of(argv=pod.agent_command("/arl"), files=["--ro-bind", str(folder), "/arl", *EMPTY]) as agent:
        yield agent


def local(argv: tuple[str, ...], folder: Path) -> list[str]:
    """A command of the pod's with that folder where it is."""
    return [word.replace(pod.AGENT_FOLDER, str(folder), 1) for word in argv]


def test_the_agent_works_where_there_is_nothing_else(agent: Agent) -> None:
    operator = agent.operator(config=AgentConfig())
    sandbox = agent.holder()
    sandbox.write("folder/file", b"content", 0o600)

    assert sandbox.read("folder/file") == b"content"
    (result,) = operator.execute(command("sh", "-c", "true"))
    assert result.exit_code == 127
    assert "sh: command not found" in result.stderr
    (result,) = operator.execute({"type": "FilePatch", "path": "/workspace/x", "content": "y"})
    assert result.ok


def test_steps_of_all_kinds_work_by_a_program_alone(agent: Agent) -> None:
    """The one program that is there is the agent's own interpreter."""
    operator = agent.operator(config=AgentConfig())
    python = [*pod.INTERPRETER, "-c"]
    result = operator.run(*python, "import posix, sys; posix.write(1, posix.getcwdb()); sys.exit(3)")
    assert (result.exit_code, result.stdout) == (3, "/workspace")
    result = operator.run(*python, "import time; time.sleep(60)", timeout=0.2)
    assert result.outcome == "TimedOut"
    result = operator.run(*python, "import posix; posix.abort()")
    assert result.signal == "SIGABRT"
    (result,) = operator.execute(command(*python, "import time; time.sleep(60)", background=True), name="server")
    assert result.ok
    sandbox = agent.holder()
    sandbox.write("kept", b"old", None)
    checkpoint = sandbox.checkpoint()
    sandbox.write("kept", b"new", None)
    sandbox.write("added", b"", None)
    sandbox.restore(checkpoint)
    assert sandbox.read("kept") == b"old"
    with pytest.raises(FileNotFoundError):
        sandbox.read("added")
    checkpoint.close()


def test_the_agent_starts_soon(bubblewrap: str, folder: Path) -> None:
    began = time.monotonic()
    with agent_of(argv=pod.agent_command("/arl"), files=["--ro-bind", str(folder), "/arl", *EMPTY]):
        assert time.monotonic() - began < 2


def test_it_holds_what_the_agent_needs_and_no_more(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    modules = {Path(name).name.partition(".")[0] for name in files if "/python3." in name}

    assert {"boot.py", "agent", "install.py", "idle.py", "bin/python3", "lib/ld.so"} <= files
    assert {"encodings", "os"} & modules == {"os"}
    assert modules & {"ssl", "socket", "json", "re", "subprocess", "asyncio", "ctypes", "_hashlib", "_ssl"} == set()
    assert len(files) < 50


def test_every_user_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = made_by(os.path.realpath(sys.executable), tmp_path / "arl")
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644, 0o755}
    assert os.access(folder / "lib/ld.so", os.X_OK)


def test_nothing_of_the_folders_makers_environment_is_needed(bubblewrap: str, folder: Path) -> None:
    """Variables, folders and locales that would lead another interpreter astray."""
    hostile = {
        "PYTHONHOME": "/nowhere",
        "PYTHONPATH": "/nowhere",
        "PYTHONSTARTUP": "/nowhere",
        "PYTHONUTF8": "0",
        "LC_ALL": "de_DE.ISO-8859-1",
        "LD_LIBRARY_PATH": "/nowhere",
    }
    with agent_of(
        argv=pod.agent_command("/arl"), files=["--ro-bind", str(folder), "/arl", *EMPTY], env=hostile
    ) as agent:
        operator = agent.operator(config=AgentConfig())
        result = operator.run(*pod.INTERPRETER, "-c", "import posix; print(posix.environ)")

    assert result.ok
    assert {name.encode(): value.encode() for name, value in hostile.items()}.items() <= eval(result.stdout).items()


def test_no_locale_is_the_interpreters(folder: Path) -> None:
    command = [
        *local(pod.INTERPRETER, folder),
        "-c",
        "import posix, sys; print(sys.flags.utf8_mode, posix.environ)",
    ]
    said = subprocess.run(command, env={"LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=True).stdout

    assert said == "1 {b'LC_ALL': b'C.UTF-8'}\n"


def test_a_loader_that_is_not_the_known_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ld-linux.so").write_bytes(b"GLIBC_PRIVATE /etc/ld.so.cache\0")

    with pytest.raises(RuntimeError, match=r"ld-linux\.so does not name /etc/ld\.so\.preload as expected"):
        image._own_loader((tmp_path / "ld-linux.so").read_bytes(), tmp_path / "ld-linux.so")


@pytest.mark.skipif(not Path(DEBIANS_PYTHON).exists(), reason="this machine has no Python of its distribution")
def test_the_distributions_python_will_do(bubblewrap: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [DEBIANS_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))"],
        capture_output=True,
        text=True,
        check=True,
    )
    if said.stdout != "True\n":
        pytest.skip("the distribution's Python is older than 3.11")
    folder = made_by(DEBIANS_PYTHON, tmp_path / "arl")
    with agent_of(argv=pod.agent_command("/arl"), files=["--ro-bind", str(folder), "/arl", *EMPTY]) as agent:
        (result,) = agent.operator(config=AgentConfig()).execute({"type": "FilePatch", "path": "x", "content": "y"})
    assert result.ok


# Making it


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RuntimeError, match="is not empty"):
        image.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["/proc/nowhere"]])
def test_the_command_says_what_it_wants(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["agent_image", *arguments])

    with pytest.raises(SystemExit, match=r"usage: python -m pytest_arl.agent_package.image DIRECTORY|cannot be made: "):
        image.main()


def test_an_interpreter_without_a_loader_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "_run", lambda _command: "({}, '7f00-7f01 r-xp 0 0 0 /usr/bin/python3\\n')")

    with pytest.raises(RuntimeError, match="not linked dynamically"):
        image.build(tmp_path / "arl")


# Bringing it into a pod


def test_it_copies_itself_once(folder: Path, tmp_path: Path) -> None:
    command = [*local(pod.INSTALL_COMMAND[:-1], folder), str(tmp_path)]
    before = os.umask(0o077)
    try:
        subprocess.run(command, check=True)
    finally:
        os.umask(before)

    assert contents(tmp_path) == contents(folder)
    (tmp_path / "agent").write_bytes(b"what runs is not written over")
    subprocess.run(command, check=True)
    assert (tmp_path / "agent").read_bytes() == b"what runs is not written over"


def test_a_copy_that_was_cut_short_is_made_again(folder: Path, tmp_path: Path) -> None:
    command = [*local(pod.INSTALL_COMMAND[:-1], folder), str(tmp_path)]
    subprocess.run(command, check=True)
    (tmp_path / "boot.py").unlink()
    (tmp_path / "lib/ld.so").write_bytes(b"half")
    (tmp_path / "boot.py.tmp").write_bytes(b"half")
    subprocess.run(command, check=True)

    assert contents(tmp_path) == contents(folder)


def test_what_starts_the_agent_is_not_there_before_all_else_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lib/ld.so").mkdir(parents=True)
    command = [*local(pod.INSTALL_COMMAND[:-1], folder), str(tmp_path)]

    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert not (tmp_path / "boot.py").exists()


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_container_that_brought_the_agent_idles_and_ends_at_sigterm(bubblewrap: str, folder: Path) -> None:
    """As PID 1, where a program without a handler is not ended by SIGTERM."""
    line = [bubblewrap, "--unshare-pid", "--as-pid-1", "--die-with-parent", "--ro-bind", str(folder), "/arl", *EMPTY]
    process = subprocess.Popen([*line, *pod.IDLE_COMMAND])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert until(children.read_text)
    child = children.read_text().strip()
    end = time.monotonic() + 30
    time.sleep(0.3)
    assert process.poll() is None
    while process.poll() is None:  # what comes before it waits is lost, to PID 1
        assert time.monotonic() < end
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGTERM)
        time.sleep(0.1)

    assert process.returncode == 0
