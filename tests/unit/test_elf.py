"""What an ELF file says of the libraries that it needs."""

from __future__ import annotations

import struct
from pathlib import Path

from pytest_arl.agent_package.elf import soname, without_search_path

_RPATH, _RUNPATH, _SONAME, _STRINGS = 15, 29, 14, 5


def library(*tags: tuple[int, int]) -> bytes:
    """A library with those entries in its dynamic section, and names for all of them."""
    names = b"\0libmark.so.1\0/image/lib\0"
    entries = b"".join(struct.pack("<qQ", *tag) for tag in (*tags, (_STRINGS, 64 + 2 * 56), (0, 0)))
    start = 64 + 2 * 56 + len(names)
    size = start + len(entries)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    dynamic = struct.pack("<IIQQQQQQ", 2, 4, start, start, start, len(entries), len(entries), 8)
    return header + load + dynamic + names + entries


def test_folders_that_a_library_names_are_taken_out_and_nothing_else() -> None:
    given = library((_RPATH, 14), (_SONAME, 1), (_RUNPATH, 14))
    made = without_search_path(given)

    assert made == library((0x6000000D, 14), (_SONAME, 1), (0x6000000D, 14))
    assert without_search_path(made) == made


def test_a_file_without_a_search_path_is_left_unchanged(tmp_path: Path) -> None:
    for content in (library((_SONAME, 1)), b"", b"#!/bin/sh\n"):
        assert without_search_path(content) == content
    (tmp_path / "file").write_bytes(library((_RPATH, 14), (_SONAME, 1)))
    assert soname(tmp_path / "file") == "libmark.so.1", "the positive control: such a file is understood"
