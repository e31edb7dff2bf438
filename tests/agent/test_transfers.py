"""Files and folders in and out: byte for byte, checked, whole or not at all, and only where they may go."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent.departure import Departure
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.agent_client.stream import Stream
from pytest_arl.errors import UsageError
from tests.agent.harness import Sandbox, sandbox_of
from tests.waiting import until

MIB = 1 << 20


def tree(root: Path) -> dict[str, tuple[str, int, Any]]:
    """Kind, mode and content of everything below a folder."""
    found: dict[str, tuple[str, int, Any]] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        name, mode = str(path.relative_to(root)), stat.S_IMODE(state.st_mode)
        if path.is_symlink():
            found[name] = ("link", 0, str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", mode, int(state.st_mtime))
        else:
            found[name] = ("file", mode, (path.read_bytes(), int(state.st_mtime)))
    return found


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder of everything that can be copied."""
    root = tmp_path / "full"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty folder").mkdir(mode=0o750)
    (root / "empty").touch()
    (root / "binary").write_bytes(os.urandom(700_000))
    (root / "deep/er/script").write_text("#!/bin/sh\necho hi\n")
    (root / "deep/er/script").chmod(0o755)
    (root / "secret").write_text("s")
    (root / "secret").chmod(0o600)
    (root / os.fsdecode(b"caf\xe9\xff")).write_text("latin")
    (root / "link").symlink_to("deep/er/script")
    (root / "deep/up").symlink_to("../empty")
    (root / "dangling").symlink_to("nowhere")
    for path in [*root.rglob("*"), root]:
        if not path.is_symlink():
            os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def test_a_folder_goes_in_and_comes_out_as_it_was(sandbox: Sandbox, full: Path, tmp_path: Path) -> None:
    sandbox.handle.upload(full, "there")
    sandbox.handle.download("there", tmp_path / "back")

    assert tree(tmp_path / "back") == tree(full)


def test_a_file_goes_in_and_comes_out_as_it_was(sandbox: Sandbox, full: Path, tmp_path: Path) -> None:
    sandbox.handle.upload(full / "deep/er/script", "a/script")
    assert sandbox.run("a/script").stdout == "hi\n"
    sandbox.handle.download("a/script", tmp_path / "new/script")

    assert (tmp_path / "new/script").read_text() == "#!/bin/sh\necho hi\n"
    assert stat.S_IMODE((tmp_path / "new/script").stat().st_mode) == 0o755


def test_a_hundred_megabytes_go_in_and_out_in_bounded_memory(sandbox: Sandbox, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(MIB) * 100)
    before = sandbox.memory()
    sandbox.handle.upload(big, "big")
    sandbox.handle.download("big", tmp_path / "back")

    assert sandbox.memory() < before + 4 * MIB
    assert (tmp_path / "back").read_bytes() == big.read_bytes()


def test_a_name_that_ends_with_a_slash_is_the_folder_to_put_it_in(sandbox: Sandbox, full: Path) -> None:
    sandbox.handle.upload(full / "secret", "into/")

    assert sandbox.run("cat", "into/secret").stdout == "s"


def test_what_is_uploaded_belongs_to_the_steps_user(sandbox: Sandbox, full: Path) -> None:
    sandbox.handle.upload(full, "there")

    assert sandbox.sh("find there ! -user $(id -u) | grep .").exit_code == 1
    assert sandbox.sh("rm -r there").ok


def test_uploading_into_a_folder_adds_to_it_and_replaces_what_has_the_same_name(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.sh("mkdir -p d/sub; echo old > d/sub/same; echo kept > d/sub/other; echo kept > d/own")
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/same").write_text("new\n")
    (tmp_path / "d/more").write_text("more\n")
    sandbox.handle.upload(tmp_path / "d", "d")

    assert (
        sandbox.sh("cat d/sub/same d/sub/other d/own d/more; ls -A d").stdout
        == "new\nkept\nkept\nmore\nmore\nown\nsub\n"
    )


def test_uploading_to_the_workspace_itself_is_uploading_into_it(sandbox: Sandbox, full: Path) -> None:
    sandbox.handle.upload(full, ".")

    assert sandbox.run("deep/er/script").stdout == "hi\n"


@pytest.mark.parametrize(("there", "here"), [("mkdir -p d/x", "file"), ("mkdir d; touch d/x", "folder")])
def test_an_upload_that_something_is_in_the_way_of_changes_nothing(
    sandbox: Sandbox, tmp_path: Path, there: str, here: str
) -> None:
    sandbox.sh(f"{there}; touch d/own")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("a")
    (tmp_path / "d/x").mkdir() if here == "folder" else (tmp_path / "d/x").touch()
    before = sandbox.sh("find . | sort").stdout
    with pytest.raises((IsADirectoryError, NotADirectoryError)):
        sandbox.handle.upload(tmp_path / "d", "d")

    assert sandbox.sh("find . | sort").stdout == before


def test_an_upload_without_room_leaves_nothing(bubblewrap: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(50 * MIB))
    with sandbox_of(workspace=MIB) as sandbox:
        with pytest.raises(OSError, match="No space left on device"):
            sandbox.handle.upload(tmp_path / "big", "big")
        assert sandbox.run("ls", "-A").stdout == ""
        assert sandbox.sh("head -c 900000 /dev/zero > f").ok


def test_an_upload_that_its_caller_gives_up_leaves_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big").write_bytes(bytes(5 * MIB))
    sent = 0
    real = Stream.send_data

    def interrupted(self: Stream, data: bytes | memoryview) -> None:
        nonlocal sent
        sent += 1
        if sent == 5:
            raise KeyboardInterrupt
        real(self, data)

    monkeypatch.setattr(Stream, "send_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sandbox.handle.upload(tmp_path / "big", "big")

    assert until(lambda: sandbox.run("ls", "-A").stdout == "")


def test_a_file_that_shrinks_while_it_is_uploaded_is_an_error_and_leaves_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(5 * MIB))
    real = Stream.send_data

    def shrinking(self: Stream, data: bytes | memoryview) -> None:
        os.truncate(big, MIB)
        real(self, data)

    monkeypatch.setattr(Stream, "send_data", shrinking)
    with pytest.raises(OSError, match="shrank"):
        sandbox.handle.upload(big, "big")

    assert sandbox.run("ls", "-A").stdout == ""


def test_uploading_what_is_no_file_is_a_usage_error_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").touch()
    os.mkfifo(tmp_path / "d/pipe")
    with pytest.raises(UsageError, match="pipe"):
        sandbox.handle.upload(tmp_path / "d", "d")
    with pytest.raises(UsageError, match="missing"):
        sandbox.handle.upload(tmp_path / "missing", "d")

    assert sandbox.run("ls", "-A").stdout == ""


def test_links_are_uploaded_as_links_but_for_the_one_that_was_named(sandbox: Sandbox, full: Path) -> None:
    (full / "out").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="is a link to 'deep/er/script'"):
        sandbox.handle.upload(full / "link", "one")
    sandbox.handle.upload(full, "all")

    assert sandbox.sh("[ ! -e one ] && readlink all/out").stdout == "/etc/passwd\n"


def test_uploads_of_many_threads_into_one_folder_do_not_disturb_each_other(sandbox: Sandbox, tmp_path: Path) -> None:
    failed = []

    def work(number: int) -> None:
        content = bytes([number]) * 3_000_000
        (tmp_path / f"f{number}").write_bytes(content)
        for _ in range(3):
            sandbox.handle.upload(tmp_path / f"f{number}", f"f{number}")
            sandbox.handle.download(f"f{number}", tmp_path / f"back{number}")
            if (tmp_path / f"back{number}").read_bytes() != content:
                failed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert sandbox.run("ls", "-A").stdout == "f0\nf1\nf2\nf3\nf4\n"


# What comes from a host that does not do what ours does


def put(sandbox: Sandbox, *entries: tuple[int, object], path: bytes = b"there") -> Any:
    """Send a transfer by hand."""
    with sandbox.stream() as stream:
        stream.send(frames.PUT, {"path": path})
        for kind, value in entries:
            if kind == frames.DATA:
                stream.send_data(value)
            else:
                stream.send(kind, value)
        return stream.receive(time.monotonic() + 5)


FOLDER = (frames.ENTRY, {"p": b"", "t": "d", "m": 0o755, "at": 0, "n": 0})


def file(name: bytes, size: int = 0) -> tuple[int, object]:
    return frames.ENTRY, {"p": name, "t": "f", "m": 0o644, "at": 0, "n": size}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([file(b"", 3), (frames.DATA, b"abc"), (frames.END, {"crc": 1})], "checksum"),
        ([file(b"", 3), (frames.DATA, b"ab"), (frames.END, {"crc": 0})], "less data"),
        ([file(b"", 3), (frames.DATA, b"abcd"), (frames.END, {"crc": 0})], "more data"),
        ([FOLDER, (frames.DATA, b"x"), (frames.END, {"crc": 0})], "more data"),
        ([(frames.END, {"crc": 0})], "without entries"),
        ([FOLDER, file(b"../x"), (frames.END, {"crc": 0})], "outside the transfer"),
        ([FOLDER, file(b"a/../../x"), (frames.END, {"crc": 0})], "outside the transfer"),
        ([FOLDER, file(b"/tmp/x"), (frames.END, {"crc": 0})], "outside the transfer"),
        ([FOLDER, file(b"a\0b"), (frames.END, {"crc": 0})], "outside the transfer"),
        ([FOLDER, file(b"x"), file(b"x"), (frames.END, {"crc": 0})], "exists"),
        ([FOLDER, file(b"no/x"), (frames.END, {"crc": 0})], "No such file"),
        ([(frames.ENTRY, {"p": b""})], "malformed"),
        ([(frames.ENTRY, {"p": b"", "t": "f", "m": "x", "at": 0, "n": 0})], "malformed"),
        ([FOLDER, (frames.ENTRY, {"p": b"l", "t": "l", "m": 0, "at": 0, "to": b"a\0"})], "malformed"),
        ([FOLDER, (frames.END, {})], "malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_transfer_that_is_not_right_is_refused_and_leaves_nothing(
    sandbox: Sandbox, entries: list[tuple[int, object]], why: str
) -> None:
    with pytest.raises(AgentError, match=why):
        put(sandbox, *entries)

    assert sandbox.sh("ls -A . /tmp").stdout == ".:\n\n/tmp:\n"
    assert len(sandbox.descriptors()) == 10


def test_a_transfer_that_is_aborted_leaves_nothing(sandbox: Sandbox) -> None:
    kind, _ = put(sandbox, FOLDER, file(b"x", 5), (frames.DATA, b"abc"), (frames.END, {"abort": True}))

    assert kind == frames.REPLY
    assert sandbox.run("ls", "-A").stdout == ""
    assert len(sandbox.descriptors()) == 10


def test_what_follows_a_refused_transfer_is_thrown_away(sandbox: Sandbox) -> None:
    with sandbox.stream() as stream:
        stream.send(frames.PUT, {"path": b"/usr/there"})
        for kind, value in (FOLDER, file(b"x", 3)):
            stream.send(kind, value)
        stream.send_data(b"abc")
        stream.send(frames.END, {"crc": 0})
        with pytest.raises(AgentError, match="Read-only"):
            stream.receive(time.monotonic() + 5)

    assert sandbox.run("true").ok


# What a sandbox has, and does not give


def test_a_folder_nobody_may_enter_comes_out_and_stays_closed(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.sh("mkdir -p d/closed/in; echo x > d/closed/in/f; chmod 000 d/closed/in/f d/closed/in d/closed")
    sandbox.handle.download("d", tmp_path / "d")

    assert (tmp_path / "d/closed/in").is_dir()
    assert sandbox.run("stat", "-c", "%a", "d/closed").stdout == "0\n"
    (tmp_path / "d/closed/in/f").chmod(0o600)
    assert (tmp_path / "d/closed/in/f").read_text() == "x\n"


def test_setuid_and_its_kin_do_not_come_out(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.sh("mkdir d; cp /bin/true d/x; chmod 6755 d/x; chmod 3777 d")
    before = os.umask(0)
    try:
        sandbox.handle.download("d", tmp_path / "d")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "d/x").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o777


def test_sockets_pipes_and_devices_are_left_out(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.python(
        "import os, _socket; os.mkdir('d'); os.mkfifo('d/p'); s = _socket.socket(1, 1); s.bind('d/s'); open('d/f', 'w')"
    )
    sandbox.handle.download("d", tmp_path / "d")

    assert os.listdir(tmp_path / "d") == ["f"]


def test_a_sparse_giant_is_refused_by_its_size(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.sh("mkdir d; truncate -s 7E d/giant")
    with pytest.raises(UsageError, match=r"'/workspace/d/giant' has 8070450532247928832 bytes"):
        sandbox.handle.download("d", tmp_path / "d")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../x", "../../x", "sub/../../x", "sub/link/../../x", "missing/../x", "sub/up/../x"],
)
def test_a_link_that_leads_out_is_refused_by_name(sandbox: Sandbox, tmp_path: Path, target: str) -> None:
    sandbox.sh(f"mkdir -p d/sub; ln -s .. d/sub/up; ln -s .. d/sub/link; ln -s {target} d/trap")
    with pytest.raises(UsageError, match="'trap' is a link"):
        sandbox.handle.download("d", tmp_path / "d")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["f", "sub/f", "sub/../f", "sub/up/f", "./f", "nowhere", "sub"])
def test_a_link_that_stays_inside_comes_out(sandbox: Sandbox, tmp_path: Path, target: str) -> None:
    sandbox.sh(f"mkdir -p d/sub; ln -s .. d/sub/up; touch d/f d/sub/f; ln -s {target} d/link")
    sandbox.handle.download("d", tmp_path / "d")

    assert os.readlink(tmp_path / "d/link") == target


def test_downloading_into_a_folder_adds_to_it_and_replaces_what_has_the_same_name(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/same").write_text("old")
    (tmp_path / "d/own").write_text("kept")
    (tmp_path / "d/link").symlink_to("own")
    sandbox.sh("mkdir -p d/sub; echo new > d/sub/same; echo more > d/more; echo instead > d/link")
    sandbox.handle.download("d", tmp_path / "d")

    assert (tmp_path / "d/sub/same").read_text() == "new\n"
    assert (tmp_path / "d/own").read_text() == "kept"
    assert (tmp_path / "d/more").read_text() == "more\n"
    assert not (tmp_path / "d/link").is_symlink()


@pytest.mark.parametrize("way", ["file", "folder", "link to a folder"])
def test_a_download_that_something_is_in_the_way_of_changes_nothing(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/first").write_text("old")
    if way == "file":
        (tmp_path / "d/sub/x").touch()
    elif way == "folder":
        (tmp_path / "d/sub/x").mkdir()
    else:
        (tmp_path / "d/sub/x").symlink_to(tmp_path / "outside")
    sandbox.sh(
        "mkdir -p d/sub; echo new > d/sub/first; "
        + ("touch d/sub/x" if way == "folder" else "mkdir d/sub/x; touch d/sub/x/y")
    )
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="in the way"):
        sandbox.handle.download("d", tmp_path / "d")

    assert {name: each[2] for name, each in tree(tmp_path).items() if each[0] != "folder"} == {
        name: each[2] for name, each in before.items() if each[0] != "folder"
    }
    assert list((tmp_path / "outside").iterdir()) == []


def test_downloading_a_file_onto_a_folder_or_a_folder_onto_a_file_is_a_usage_error(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.sh("touch f; mkdir d")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a folder; name the file"):
        sandbox.handle.download("f", tmp_path / "folder")
    with pytest.raises(UsageError, match="in the way"):
        sandbox.handle.download("d", tmp_path / "file")

    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_missing_folder_is_named_and_nothing_is_made(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        sandbox.handle.download("missing", tmp_path / "d")

    assert error.value.filename == "missing"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_program_works_in_can_be_downloaded(sandbox: Sandbox, tmp_path: Path) -> None:
    churn = "mkdir d; while :; do for i in 1 2 3 4 5 6 7 8; do echo x > d/$i; done; rm -f d/*; done"
    sandbox.start("sh", "-c", churn)
    assert until(lambda: sandbox.sh("[ -d d ]").ok)
    done = 0
    for turn in range(20):
        try:
            sandbox.handle.download("d", tmp_path / f"d{turn}")
        except OSError as error:
            assert "shrank" in str(error) or "No such file" in str(error)
        else:
            done += 1

    assert done > 5


def test_what_is_removed_while_its_folder_is_sent_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    sending = Departure(os.fsencode(tmp_path), 1, most_data=10, most_size=10, most_entries=10).frames()
    next(sending)
    (tmp_path / "b").unlink()
    found = frames.Parser().feed(b"".join(sending))

    assert [value["p"] for kind, _, value in found if kind == frames.ENTRY] == [b"a", b"c"]  # type: ignore[index] # an entry


def test_transfers_leave_no_descriptor_open(sandbox: Sandbox, full: Path, tmp_path: Path) -> None:
    before = sandbox.descriptors()
    for turn in range(5):
        sandbox.handle.upload(full, f"there{turn}")
        sandbox.handle.download("there0", tmp_path / f"back{turn}")
        with pytest.raises(OSError, match=r"."):
            sandbox.handle.download("missing", tmp_path / "none")

    assert sandbox.descriptors() == before
