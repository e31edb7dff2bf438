"""One file at a time: whole or not at all, where the path says, and never a way to what is not the steps'."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_arl.agent import files
from pytest_arl.errors import UsageError
from tests.agent.harness import Sandbox, command, sandbox_of
from tests.waiting import until

MIB = 1 << 20


def patch(path: str, content: str = "new", **fields: object) -> dict[str, object]:
    return {"type": "FilePatch", "path": path, "content": content, **fields}


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 1000, bytes(40 * MIB)], ids=len)
def test_a_file_comes_back_as_it_was_written(sandbox: Sandbox, content: bytes) -> None:
    sandbox.handle.write("a/b/file", content, None)

    assert sandbox.handle.read("a/b/file") == content


def test_a_patch_says_what_it_wrote(sandbox: Sandbox) -> None:
    (result,) = sandbox.execute(patch("a/f"))

    assert (result.outcome, result.exit_code, result.stdout) == ("Succeeded", 0, "File created: a/f\n")
    assert sandbox.run("cat", "/workspace/a/f").stdout == "new"


def test_a_patch_that_cannot_be_written_is_a_failed_step_that_says_why(sandbox: Sandbox) -> None:
    results = sandbox.execute(patch("/usr/no"), command("true"))

    assert (results[0].outcome, results[0].exit_code, results[1].outcome) == ("Failed", 1, "Skipped")
    assert "/usr/no: Read-only file system" in results[0].stderr


def test_a_path_of_a_megabyte_is_a_failed_step_and_no_more(sandbox: Sandbox) -> None:
    (result,) = sandbox.execute(patch("x" * MIB))

    assert result.exit_code == 1
    assert "File name too long" in result.stderr
    assert len(result.stderr) < 10_000


@pytest.mark.parametrize(("mode", "shown"), [(None, "644"), (0o600, "600"), (0o755, "755"), (0o4711, "4711"), (0, "0")])
def test_a_new_file_has_the_mode_asked_for(sandbox: Sandbox, mode: int | None, shown: str) -> None:
    sandbox.handle.write("f", b"x", mode)

    assert sandbox.run("stat", "-c", "%a", "f").stdout == shown + "\n"


def test_a_file_that_was_there_keeps_its_mode_unless_another_is_asked_for(sandbox: Sandbox) -> None:
    sandbox.sh("echo old > f; chmod 751 f")
    sandbox.handle.write("f", b"new", None)
    assert sandbox.run("stat", "-c", "%a", "f").stdout == "751\n"
    sandbox.handle.write("f", b"newer", 0o640)
    assert sandbox.run("stat", "-c", "%a", "f").stdout == "640\n"
    sandbox.handle.write("f", bytes(33 * MIB), None)  # goes another way
    assert sandbox.run("stat", "-c", "%a %s", "f").stdout == f"640 {33 * MIB}\n"


def test_what_is_written_belongs_to_the_steps_user(sandbox: Sandbox) -> None:
    sandbox.handle.write("d/f", b"x", None)

    assert sandbox.sh("[ -O d ] && [ -O d/f ] && echo more >> d/f").ok


def test_a_reader_sees_the_old_file_or_the_new_one_whole(sandbox: Sandbox) -> None:
    sandbox.handle.write("f", b"0" * 2_000_000, None)
    check = (
        "import time\n"
        "end = time.monotonic() + 1\n"
        "seen = set()\n"
        "while time.monotonic() < end:\n"
        "  data = open('f', 'rb').read()\n"
        "  assert len(data) == 2_000_000 and len(set(data)) == 1, len(data)\n"
        "  seen.add(data[:1])\n"
        "print(len(seen) > 3)\n"
    )
    over = threading.Event()

    def write() -> None:
        for turn in itertools.count():
            sandbox.handle.write("f", b"%d" % (turn % 10) * 2_000_000, None)
            if over.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = sandbox.run(os.path.realpath(sys.executable), "-I", "-S", "-c", check)
    finally:
        over.set()
        writer.join()

    assert (result.stdout, result.stderr) == ("True\n", "")


def test_a_running_reader_of_the_old_file_keeps_it(sandbox: Sandbox) -> None:
    sandbox.handle.write("f", b"old", None)
    process = sandbox.start("sh", "-c", "exec 3< f; echo open; read line; cat <&3")
    assert until(lambda: process.output("stdout"))
    sandbox.handle.write("f", b"new", None)
    process.write(b"\n")
    result = process.wait(5)

    assert result is not None
    assert result.stdout == "open\nold"


def test_writing_over_a_link_writes_what_it_leads_to(sandbox: Sandbox) -> None:
    sandbox.sh("mkdir real; ln -s real/file link; ln -s real folder")
    sandbox.handle.write("link", b"through", None)
    sandbox.handle.write("folder/other", b"below", None)

    assert sandbox.sh("[ -L link ] && cat real/file real/other").stdout == "throughbelow"


def test_dots_leave_nothing_but_stay_in_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.handle.write("../../../../tmp/./up", b"x", None)

    assert sandbox.run("cat", "/tmp/up").stdout == "x"


def test_dots_after_a_link_mean_what_they_mean_to_a_program(sandbox: Sandbox) -> None:
    sandbox.sh("mkdir -p /tmp/deep/er; ln -s /tmp/deep/er link")
    for path in ("link/../a", "/workspace/link/../b"):
        sandbox.handle.write(path, b"x", None)

    assert sandbox.run("ls", "/tmp/deep").stdout == "a\nb\ner\n"


@pytest.mark.parametrize("path", ["f", "link"])
def test_a_folder_in_the_way_is_an_error(sandbox: Sandbox, path: str) -> None:
    sandbox.sh("mkdir f; ln -s f link")
    for mode in (None, 0o644):
        with pytest.raises(IsADirectoryError):
            sandbox.handle.write(path, b"x", mode)


def test_a_file_in_the_way_of_a_folder_is_an_error(sandbox: Sandbox) -> None:
    sandbox.run("touch", "f")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        sandbox.handle.write("f/below", b"x", None)


def test_links_that_lead_in_a_circle_are_an_error(sandbox: Sandbox) -> None:
    sandbox.sh("ln -s b a; ln -s a b")
    for name in ("a", "a/c"):
        with pytest.raises(OSError, match="symbolic links"):
            sandbox.handle.read(name)
    assert sandbox.run("true").ok


@pytest.mark.parametrize("make", ["mkfifo f", "mknod f p", "ln -s /dev/zero f"])
def test_what_is_no_file_is_not_read(sandbox: Sandbox, make: str) -> None:
    sandbox.sh(make)
    began = time.monotonic()
    with pytest.raises(OSError, match="neither a file nor a folder"):
        sandbox.handle.read("f")
    assert time.monotonic() - began < 2


def test_a_fifo_that_took_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        files.open_for_reading(os.fsencode(tmp_path / "fifo"))


def test_a_fifo_in_the_place_of_a_file_is_replaced_and_blocks_nothing(sandbox: Sandbox) -> None:
    sandbox.sh("mkfifo f")
    sandbox.handle.write("f", b"x", None)

    assert sandbox.handle.read("f") == b"x"


def test_a_folder_is_not_read_as_a_file(sandbox: Sandbox) -> None:
    sandbox.run("mkdir", "d")
    with pytest.raises(IsADirectoryError):
        sandbox.handle.read("d")


def test_a_missing_file_is_named_as_the_caller_named_it(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError) as error:
        sandbox.handle.read("no/such file")

    assert error.value.filename == "no/such file"


def test_a_file_that_its_owner_may_not_read_is_read_and_stays_so(sandbox: Sandbox) -> None:
    sandbox.sh("echo secret > f; chmod 000 f")

    assert sandbox.handle.read("f") == b"secret\n"
    assert sandbox.run("stat", "-c", "%a", "f").stdout == "0\n"


def test_a_file_of_somebody_else_that_may_not_be_read_is_an_error(sandbox: Sandbox) -> None:
    if os.getuid():
        pytest.skip("a plain user's /etc/shadow is nobody's in the sandbox, which says the same")
    with pytest.raises(PermissionError):
        sandbox.handle.read("/etc/shadow")


PROC = [
    "/proc/self/fd/3",
    "/proc/self/fd/4",
    "/proc/self/fd/5",
    "/proc/1/fd/3",
    "/proc/thread-self/fd/3",
    "/proc/self/mem",
    "/proc/1/mem",
    "/proc/self/environ",
    "/proc/1/maps",
    "/proc/self/cwd/../proc/1/environ",
    "/dev/fd/3",
    "/proc/self/status",
    "/proc/sys/kernel/hostname",
    "/proc/uptime",
]


@pytest.mark.parametrize("path", PROC)
def test_nothing_of_proc_is_read_or_written_from_outside(sandbox: Sandbox, path: str) -> None:
    for name in (path, "link", "folder/" + os.path.basename(path)):
        sandbox.sh(f"rm -f link folder; ln -s {path} link; ln -s $(dirname {path}) folder")
        with pytest.raises(OSError, match=r"."):
            sandbox.handle.read(name)
        with pytest.raises(OSError, match=r"."):
            sandbox.handle.write(name, b"x", None)
    assert sandbox.run("true").ok


def test_a_link_to_a_descriptor_of_the_agents_own_gives_no_way_into_it(sandbox: Sandbox) -> None:
    for number in range(20):
        sandbox.sh(f"rm -rf l; ln -s /proc/self/fd/{number} l")
        for path in ("l", "l/x"):
            with suppress(OSError):  # or it is written elsewhere: the name of what is deleted is a name like any other
                sandbox.handle.write(path, b"x" * 100_000, None)
        with suppress(OSError):
            assert sandbox.handle.read("l") == b"x" * 100_000

    assert sandbox.sh("seq 100000").stdout_size == 588_895


def test_no_room_leaves_what_was_there_and_nothing_else(bubblewrap: str) -> None:
    with sandbox_of(workspace=MIB) as sandbox:
        sandbox.handle.write("f", b"old", None)
        for content in (bytes(2 * MIB), bytes(40 * MIB)):
            with pytest.raises(OSError, match="No space left on device"):
                sandbox.handle.write("f", content, None)
        (result,) = sandbox.execute(patch("f", "x" * 2 * MIB))

        assert (result.exit_code, "No space left" in result.stderr, result.limit) == (1, True, "workspace")
        assert sandbox.handle.read("f") == b"old"
        assert sandbox.run("ls", "-A").stdout == "f\n"


def test_a_file_too_large_for_memory_is_not_read_into_it(sandbox: Sandbox) -> None:
    sandbox.run("truncate", "-s", "1T", "giant")
    with pytest.raises(UsageError, match=r"download\(\)"):
        sandbox.handle.read("giant")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_no_file_can_have_is_an_error(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(OSError, match="empty or holds a NUL"):
        sandbox.handle.read(path)


def test_names_that_are_no_utf8_are_names(sandbox: Sandbox) -> None:
    name = os.fsdecode(b"caf\xe9 \xff\n")
    sandbox.handle.write(name, b"x", None)

    assert sandbox.handle.read(name) == b"x"
    assert sandbox.run("ls", "-A").stdout_bytes == b"caf\xe9 \xff\n\n"


def test_a_home_that_a_step_removed_is_no_reason_to_end(bubblewrap: str) -> None:
    with sandbox_of(extra=("--perms", "0777", "--tmpfs", "/home", "--dir", "/home/arl")) as sandbox:
        assert sandbox.run("rmdir", "/home/arl").ok

        assert sandbox.run("false").exit_code == 1


def test_writing_leaves_no_descriptor_open(sandbox: Sandbox) -> None:
    before = sandbox.descriptors()
    for turn in range(20):
        sandbox.handle.write(f"f{turn}", bytes(100_000), None)
        sandbox.handle.read(f"f{turn}")
        for bad in ("/usr/x", "f0/x", "missing/../.."):
            with pytest.raises(OSError, match=r"."):
                sandbox.handle.write(bad, b"x", None)

    assert sandbox.descriptors() == before
