"""What is in a sandbox: files, and the checkpoints it returns to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_arl import (
    SandboxSession,
    UsageError,
)
from tests.toy_backend import ToySandbox

# --- files ---


def test_files_go_in_and_out_exactly(session: SandboxSession, tmp_path: Path) -> None:
    session.write("a/b.txt", "é\n", mode=0o640)
    session.write(Path("c"), b"\xff\0")
    assert (session.read("a/b.txt"), session.read_text("a/b.txt"), session.read("c")) == (
        "é\n".encode(),
        "é\n",
        b"\xff\0",
    )
    assert session.run("stat", "-c", "%a", "a/b.txt").stdout == "640\n"
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "x").write_bytes(b"1")
    session.upload(tmp_path / "up", "there")
    session.download("there", tmp_path / "down")
    assert (tmp_path / "down" / "x").read_bytes() == b"1"


def test_bytes_that_are_not_utf_8_are_a_decode_error(session: SandboxSession) -> None:
    session.write("a", b"\xff")
    with pytest.raises(UnicodeDecodeError):
        session.read_text("a")
    assert session.read_text("a", errors="replace") == "\ufffd"


def test_errors_of_files_mean_what_they_say(session: SandboxSession) -> None:
    with pytest.raises(FileNotFoundError):
        session.read("nope")
    session.write("folder/file", "")
    with pytest.raises(IsADirectoryError):
        session.read("folder")


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda s: s.write("", "x"), "write: the path is empty"),
        (lambda s: s.write("a\0", "x"), "write: the path has a NUL byte"),
        (lambda s: s.write("a", 3), "write: the content must be a string or bytes, not an int"),
        (lambda s: s.write("a", "", mode="755"), "write: the mode must be an integer such as 0o755"),
        (lambda s: s.read(3), "read: the path must be a string, not an int"),
        (lambda s: s.upload("", "a"), "upload: the path is empty"),
        (lambda s: s.download("a", ""), "download: the path is empty"),
    ],
)
def test_bad_arguments_of_file_methods_are_named(
    session: SandboxSession, use: Callable[[SandboxSession], object], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        use(session)
    assert str(caught.value).startswith(says)


# --- checkpoints ---


def test_a_reset_returns_to_the_fresh_sandbox(session: SandboxSession) -> None:
    session.write("a", "x")
    name = session.name
    session.reset()
    assert session.name != name, "it is called as the sandbox that it has, whose hostname that is"
    with pytest.raises(FileNotFoundError):
        session.read("a")


def test_a_reset_returns_to_the_last_checkpoint(session: SandboxSession, sandbox: ToySandbox) -> None:
    session.write("a", "1")
    session.checkpoint()
    session.write("a", "2")
    session.write("b", "2")
    for _ in range(2):
        session.reset()
        assert session.read("a") == b"1"
        with pytest.raises(FileNotFoundError):
            session.read("b")
    assert not sandbox.checkpoints[0].folder.exists()


def test_a_reset_forgets_steps_by_name(session: SandboxSession) -> None:
    result = session.run("echo", "hi")
    session.reset()
    with pytest.raises(UsageError, match="none has run since it was created or reset"):
        session.output("echo", "stdout")
    assert list(session.output(result, "stdout")) == [b"hi\n"]


def test_a_lost_sandbox_is_replaced_by_a_reset(session: SandboxSession, sandbox: ToySandbox) -> None:
    session.write("a", "x")
    session.checkpoint()
    sandbox.die()
    session.reset()
    assert session.read("a") == b"x"


def test_uses_count_what_can_change_the_sandbox(session: SandboxSession, tmp_path: Path) -> None:
    counts = [session.uses]
    (tmp_path / "f").write_text("x")
    for use in (
        lambda: session.run("true"),
        lambda: session.write("a", ""),
        lambda: session.upload(tmp_path / "f", "f"),
        lambda: session.start("true"),
    ):
        use()
        counts.append(session.uses)
    assert counts == sorted(set(counts))
    session.read("a")
    session.reset()
    assert session.uses == counts[-1]
    session.delete_sandbox()
    session.create_sandbox()
    assert session.uses > counts[-1]
