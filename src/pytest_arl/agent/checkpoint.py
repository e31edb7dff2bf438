"""Returning to a checkpoint in place, for the sandboxes whose checkpoint has living processes.

A server that was started before the checkpoint holds its files open, so files that did not change must stay the
same files. The manifest tells which did: an inode's change time cannot be set back by a program.
"""

from __future__ import annotations

import os
import stat

from pytest_arl.agent import files, system

__all__ = ["Manifest"]

_Mark = tuple[int, int, int]


class Manifest:
    """What the writable folders held when it was made."""

    def __init__(self, roots: list[bytes]) -> None:
        self._roots = roots
        self._marks = _walk(roots)

    def undo(self) -> list[bytes]:
        """Remove what is new or of another kind now, and give the paths that changed or are gone: their content is
        the host's to send.
        """
        there = _walk(self._roots)
        with files.OpenedUp() as opened:
            for path, mark in sorted(there.items()):
                before = self._marks.get(path)
                if before is None or stat.S_IFMT(before[1]) != stat.S_IFMT(mark[1]):
                    folder = os.path.dirname(path)
                    if os.path.lexists(path):  # not gone with a folder above
                        opened.add(folder, os.lstat(folder))
                        files.remove_tree(path)
        system.ipc_remove_all()
        return [path for path, mark in self._marks.items() if there.get(path) != mark and path not in self._roots]


def _walk(roots: list[bytes]) -> dict[bytes, _Mark]:
    found = {}
    stack = []
    for root in roots:
        try:
            stack.append((root, os.lstat(root).st_dev))
        except OSError:
            continue  # a step has removed it
    with files.OpenedUp() as opened:
        while stack:
            path, device = stack.pop()
            try:
                state = os.lstat(path)
                if state.st_dev != device:
                    continue  # mounted there
                if stat.S_ISDIR(state.st_mode):
                    # A folder's change time moves with every file in it: its mode is what matters.
                    found[path] = (state.st_ino, state.st_mode, 0)
                    opened.add(path, state)
                    stack += [(path + b"/" + name, device) for name in os.listdir(path)]
                else:
                    found[path] = (state.st_ino, state.st_mode, state.st_ctime_ns)
            except OSError:
                continue
    return found
