"""ELF files: the name of a shared library for programs (``libc.so.6`` may be ``libc-2.31.so``), and the loader."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["program_loader", "soname", "without_search_path"]

_LITTLE_64 = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC, _LOADER = 1, 2, 3
_STRINGS, _SONAME = 5, 14
_SEARCH_PATHS = {15, 29}  # DT_RPATH and DT_RUNPATH
_UNKNOWN = 0x6000000D  # the first number for systems of their own: every loader passes over it


def soname(path: Path) -> str:
    """The DT_SONAME of a 64-bit little-endian library; the file's name where it has none."""
    image = path.read_bytes()
    try:
        return _find(image) or path.name
    except (struct.error, ValueError):
        return path.name


def program_loader(path: Path) -> str:
    """The loader that a program names (PT_INTERP); empty where it is linked statically."""
    image = path.read_bytes()
    try:
        for kind, offset, _, size in _segments(image):
            if kind == _LOADER:
                return image[offset : offset + size].rstrip(b"\0").decode()
    except (struct.error, ValueError):
        pass
    return ""


def without_search_path(image: bytes) -> bytes:
    """A program or library that names no folders in which its own libraries are looked for."""
    if image[:6] != _LITTLE_64:
        return image
    changed = bytearray(image)
    for kind, offset, _, size in _segments(image):
        for at in range(offset, offset + size, 16) if kind == _DYNAMIC else ():
            if struct.unpack_from("<q", image, at)[0] in _SEARCH_PATHS:
                struct.pack_into("<q", changed, at, _UNKNOWN)
    return bytes(changed)


def _find(image: bytes) -> str:
    if image[:6] != _LITTLE_64:
        return ""
    segments = list(_segments(image))
    strings = name = None
    for kind, offset, _, size in segments:
        if kind != _DYNAMIC:
            continue
        for tag, value in struct.iter_unpack("<qQ", image[offset : offset + size]):
            strings = value if tag == _STRINGS else strings
            name = value if tag == _SONAME else name
    if strings is None or name is None:
        return ""
    for kind, offset, address, size in segments:
        if kind == _LOAD and address <= strings < address + size:
            start = strings - address + offset + name
            return image[start : image.index(b"\0", start)].decode()
    return ""


def _segments(image: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Kind, offset in the file, address, size in the file of each program header."""
    (table,) = struct.unpack_from("<Q", image, 0x20)
    size, count = struct.unpack_from("<HH", image, 0x36)
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", image, table + index * size)
        yield kind, offset, address, length
