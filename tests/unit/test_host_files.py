"""Files of this machine whose names others decide: what is swapped meanwhile leads nowhere else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_arl import UsageError
from pytest_arl.host_files import below as below_module
from pytest_arl.host_files import open_below, open_folder
from pytest_arl.host_files.destinations import Destination
from pytest_arl.host_files.sources import Source


@pytest.fixture(params=["openat2", "name by name"])
def opening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to open: that of newer kernels, and that of older ones and of containers which forbid the call."""
    if request.param != "openat2":
        monkeypatch.setattr(below_module, "_OPENAT2", -1)  # a call that no kernel has: ENOSYS


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "top/a/b/file").write_text("inside")
    (tmp_path / "outside/b").mkdir(parents=True)
    (tmp_path / "outside/b/file").write_text("outside")
    descriptor = os.open(tmp_path / "top", os.O_PATH)
    yield descriptor
    os.close(descriptor)


def _read(folder: int, below: bytes) -> str:
    with open(open_below(folder, below, os.O_RDONLY)) as file:
        return file.read()


def test_real_folders_lead_to_what_is_below(opening: None, top: int) -> None:
    assert _read(top, b"a/b/file") == "inside"
    deep = b"/".join([b"a", *[b"."] * 3000, b"b", b"file"])
    assert _read(top, deep) == "inside", "longer than a path of the kernel's may be"
    descriptor = open_below(top, b"", os.O_PATH)
    assert os.path.samestat(os.fstat(descriptor), os.fstat(top))
    os.close(descriptor)


@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/file"])
def test_a_link_on_the_way_is_an_error(opening: None, top: int, tmp_path: Path, swapped: str) -> None:
    path = tmp_path / "top" / swapped
    path.rename(tmp_path / "kept")
    path.symlink_to(tmp_path / "outside" / Path(swapped).relative_to("a"))
    assert path.exists(), "control: it leads somewhere"
    with pytest.raises(OSError) as caught:
        _read(top, b"a/b/file")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


@pytest.mark.parametrize("below", [b"..", b"../outside/b/file", b"a/../../outside/b/file", b"/etc/passwd", b"a\0b"])
def test_what_is_not_below_is_an_error(opening: None, top: int, below: bytes) -> None:
    with pytest.raises(OSError, match="leads out"):
        open_below(top, below, os.O_RDONLY)


def test_no_descriptor_is_left(opening: None, top: int, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _read(top, b"a/b/file")
    with pytest.raises(FileNotFoundError):
        _read(top, b"a/b/missing")
    with closing(Source(tmp_path / "top")) as source:
        assert len(list(source.everything())) == 4
    with closing(Destination(tmp_path / "new/x")) as destination, destination.staging():
        pass
    with pytest.raises(UsageError):
        Source(tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before


def _contents(source: Source) -> list[bytes]:
    found = [found for found in source.everything() if found.below.endswith(b"file")]
    contents = []
    for one in found:
        with source.reading(one) as (descriptor, state):
            contents.append(os.read(descriptor, state.st_size))
    return contents


@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/file"])
def test_what_becomes_a_link_while_it_is_uploaded_is_not_followed(top: int, tmp_path: Path, swapped: str) -> None:
    with closing(Source(tmp_path / "top")) as source:
        assert _contents(source) == [b"inside"]
        (found,) = [found for found in source.everything() if found.below.endswith(b"file")]
        source._nearby.close()
        path = tmp_path / "top" / swapped
        path.rename(tmp_path / "kept")
        path.symlink_to(tmp_path / "outside" / Path(swapped).relative_to("a"))
        with pytest.raises(OSError, match=str(tmp_path / "top/a/b/file")), source.reading(found):
            pass


def test_a_source_is_the_folder_that_it_was_at_first(top: int, tmp_path: Path) -> None:
    with closing(Source(tmp_path / "top")) as source:
        (tmp_path / "top").rename(tmp_path / "kept")
        (tmp_path / "top").symlink_to(tmp_path / "outside")
        assert _contents(source) == [b"inside"]


def test_a_fifo_in_the_place_of_a_file_makes_nobody_wait(top: int, tmp_path: Path) -> None:
    with closing(Source(tmp_path / "top")) as source:
        (found,) = [found for found in source.everything() if found.below.endswith(b"file")]
        (tmp_path / "top/a/b/file").unlink()
        os.mkfifo(tmp_path / "top/a/b/file")
        with pytest.raises(UsageError, match="a/b/file is neither"), source.reading(found):
            pass
        with pytest.raises(UsageError, match="a/b/file is neither"):
            list(source.everything())


def test_a_destination_is_the_folder_that_it_was_at_first(tmp_path: Path) -> None:
    for name in ("results", "outside"):
        (tmp_path / name).mkdir()
    with closing(Destination(tmp_path / "results")) as destination, destination.staging() as staging:
        staging.make(b"root")
        with staging.below(b"root") as root:
            os.close(root.create(b"file"))
        (tmp_path / "results").rename(tmp_path / "kept")
        (tmp_path / "results").symlink_to("outside")
        destination.put(staging, b"root")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_folder_that_becomes_a_link_while_it_is_merged_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "results/sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    with closing(Destination(tmp_path / "results")) as destination, destination.staging() as staging:
        for below in (b"root", b"root/sub"):
            os.mkdir(below, dir_fd=staging.fd)
        with staging.below(b"root/sub") as sub:
            os.close(sub.create(b"file"))
        (tmp_path / "results/sub").rename(tmp_path / "kept")
        (tmp_path / "results/sub").symlink_to(tmp_path / "outside")
        with pytest.raises(UsageError, match="results/sub is in the way"):
            destination.put(staging, b"root")
    assert list((tmp_path / "outside").iterdir()) == []


def test_only_our_own_leftovers_are_swept(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("mine")
    (here / ".arl-download-left/deep").mkdir(parents=True)
    (here / ".arl-download-left/link").symlink_to(tmp_path / "outside")
    (here / ".arl-download-link").symlink_to(tmp_path / "outside")
    kept = {".arl-download-link"}
    if os.geteuid() == 0:
        (here / ".arl-download-others").mkdir()
        os.chown(here / ".arl-download-others", 12345, 12345)
        kept.add(".arl-download-others")
    with closing(Destination(here / "x")) as destination, destination.staging():
        pass
    assert {path.name for path in here.iterdir()} == kept
    assert (tmp_path / "outside/precious").exists()


def test_folders_are_made_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    for path in (Path("x/y/../z"), Path("link/new"), tmp_path / "absolute/deep", Path()):
        open_folder(path, make=True).close()
        assert path.is_dir()
    assert (tmp_path / "real/new").is_dir(), "links above are the caller's own"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/below"):
        open_folder(tmp_path / "file/below", make=True)
