"""Paths of this machine, and what is held open of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_arl.backends.local.mount_sources import Sources
from pytest_arl.backends.local.paths import canonical, fixed, inside, trace
from pytest_arl.errors import BackendUnavailable
from tests.local.conftest import MakeBackend, acquire, needs_root


def descriptors() -> dict[str, str]:
    """Number and file of what is open here."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def test_links_are_followed_as_the_kernel_follows_them(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "a/absolute").symlink_to(tmp_path / "link")
    way = trace(f"{tmp_path}/a/absolute/../b/c")
    assert way.end == os.path.realpath(f"{tmp_path}/a/absolute/../b/c") == f"{tmp_path}/a/b/c"
    assert way.links == (f"{tmp_path}/a/absolute", f"{tmp_path}/link")
    assert trace(tmp_path / "a").links == ()


def test_links_in_circles_and_missing_ends_are_errors(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(RuntimeError, match="too many symbolic links"):
        trace(tmp_path / "one")
    with pytest.raises(FileNotFoundError):
        trace(tmp_path / "missing")


def test_forty_links_are_followed_and_forty_one_are_not(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for count in range(41):
        (tmp_path / str(count + 1)).symlink_to(str(count))
    assert len(trace(tmp_path / "40").links) == 40
    os.stat(tmp_path / "40")
    for follow in (trace, os.stat):
        with pytest.raises((RuntimeError, OSError)):
            follow(tmp_path / "41")


@pytest.mark.parametrize("path", ["//usr/bin", "///usr/./bin/", "/usr/lib/../bin", "/usr//bin"])
def test_a_path_has_one_spelling(path: str) -> None:
    assert canonical(path) == "/usr/bin"


def test_a_folder_is_found_in_another_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    outer = (tmp_path / "outer").stat()
    assert inside(outer, f"{tmp_path}/outer/inner") == "inner"
    assert inside(outer, f"{tmp_path}/outer") == ""
    assert inside(outer, str(tmp_path)) is None
    assert inside(outer, f"{tmp_path}/outer/missing") is None


def test_what_this_user_may_change_is_not_fixed(tmp_path: Path) -> None:
    assert fixed("/usr/bin")
    assert not fixed(str(tmp_path))
    assert not fixed("/tmp")
    assert not fixed("/usr/bin/missing")


@needs_root
def test_a_name_is_fixed_where_only_the_machines_own_accounts_may_change_it() -> None:
    folder = Path("/usr/local/share/arl-test-fixed")
    folder.mkdir()
    try:
        for mode, uid, expected in ((0o755, 0, True), (0o775, 0, False), (0o757, 0, False)):
            os.chown(folder, uid, uid)
            folder.chmod(mode)
            assert fixed(str(folder)) == expected, (mode, uid)
        folder.chmod(0o755)
        for uid, expected in ((999, True), (1000, False)):
            os.chown(folder, uid, uid)
            assert fixed(str(folder)) == expected, uid
    finally:
        folder.rmdir()


def test_nothing_is_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real/file").parent.mkdir()
    (tmp_path / "real/file").write_text("")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "real/link").symlink_to("file")
    sources = Sources()
    before = descriptors()
    for path in ("folder/file", "folder", "real/link", "real/missing", "real/file/below"):
        with pytest.raises(OSError, match=r".+"):
            sources.open(f"{tmp_path}/{path}")
    assert descriptors() == before
    assert sources.open(f"{tmp_path}/real/file") is sources.open(f"{tmp_path}/real/file")
    sources.close()
    assert descriptors() == before


def test_closed_sources_lend_no_descriptor(tmp_path: Path) -> None:
    sources = Sources()
    source = sources.open(str(tmp_path))
    assert sources.lend(source, os.dup) > 0
    sources.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        sources.lend(source, os.dup)
    with pytest.raises(BackendUnavailable, match="closed"):
        sources.open(str(tmp_path))


def test_a_backend_holds_its_sources_until_it_is_closed(make_backend: MakeBackend, folder: Path) -> None:
    (folder / "src").mkdir()
    backend = make_backend('[pools.p]\nmounts = ["src:/src"]\n')
    acquire(backend, "p").close()
    assert str(folder / "src") in descriptors().values()
    child = os.fork()
    if child == 0:
        os._exit(1 if str(folder / "src") in descriptors().values() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a forked child has no copy"
    acquire(backend, "p").close()
    backend.close()
    assert str(folder / "src") not in descriptors().values()
