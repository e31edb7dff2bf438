"""Source lines from a folder that sandboxes can write: of which files they are quoted."""

from __future__ import annotations

import linecache
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl.host_files.quoted_sources import guard_quoted_sources

MOST = 4 << 20


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Path]:
    """A module that was there when the run began."""
    module = tmp_path / "module.py"
    module.write_text("as it was\n")
    while time.time() <= module.stat().st_ctime:
        time.sleep(0.001)
    time.sleep(0.02)  # more than a tick of the file system's clock
    end = guard_quoted_sources([tmp_path])
    yield module
    end()
    linecache.clearcache()


def test_a_file_that_is_as_it_was_is_quoted(guarded: Path) -> None:
    assert linecache.getline(str(guarded), 1) == "as it was\n"


def test_one_that_was_written_since_is_not_and_one_elsewhere_is(
    guarded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    time.sleep(0.02)
    guarded.write_text("another\n")
    other = tmp_path_factory.mktemp("other") / "module.py"
    other.write_text("another\n")

    assert linecache.getline(str(guarded), 1) == ""
    assert linecache.getline(str(other), 1) == "another\n", "control"


@pytest.mark.parametrize(("size", "is_quoted"), [(MOST, True), (MOST + 1, False)])
def test_a_module_is_quoted_up_to_a_size(tmp_path: Path, size: int, is_quoted: bool) -> None:
    module = tmp_path / "module.py"
    module.write_bytes(b"line\n" + b"#" * (size - 5))
    time.sleep(0.02)
    end = guard_quoted_sources([tmp_path])
    try:
        assert (linecache.getline(str(module), 1) == "line\n") == is_quoted
    finally:
        end()
        linecache.clearcache()


def test_nothing_of_it_stays_when_it_ends(tmp_path: Path) -> None:
    before = linecache.updatecache, len(os.listdir("/proc/self/fd"))
    ends = [guard_quoted_sources([tmp_path]), guard_quoted_sources([tmp_path])]
    assert linecache.updatecache is not before[0], "control"
    for end in ends:
        end()
    assert (linecache.updatecache, len(os.listdir("/proc/self/fd"))) == before
