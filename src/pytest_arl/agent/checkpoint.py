"""Returning to a checkpoint in place, for the sandboxes whose checkpoint has living processes.

A server that was started before the checkpoint holds its files open, so files that did not change must stay the
same files. The manifest tells which did: an inode's change time cannot be set back by a program. What is written
through a mapping that was there before does not move it, though, so the content of mapped files is compared.
"""

from __future__ import annotations

import os
import stat

from pytest_arl.agent import entries, files, ipc, tree

__all__ = ["Manifest"]

_Mark = tuple[int, int, int]
_PIECE = 1024 * 1024
_QUEUES = b"/dev/mqueue"  # POSIX message queues, which outlive their processes


class Manifest:
    """The content of the writable folders when it was made."""

    def __init__(self, roots: list[bytes]) -> None:
        self._roots = roots
        self._marks = _walk(roots)
        self._queues = set(_queues())
        with files.OpenedUp() as opened:
            self._open_up(opened)
            self._contents = {path: _content(path) for path in self._mapped()}
        self._attributes = {path: found for path in self._folders() if (found := _attributes(path))}

    def undo(self) -> list[bytes]:
        """Remove what is new or of another kind now, and give the paths that changed or are gone: their content is
        the host's to send.
        """
        self._undo_modes()
        there = _walk(self._roots)
        with files.OpenedUp() as opened:
            self._open_up(opened)  # in one that was closed before, something new may be
            for path, mark in sorted(there.items()):
                before = self._marks.get(path)
                if before is None or stat.S_IFMT(before[1]) != stat.S_IFMT(mark[1]):
                    folder = os.path.dirname(path)
                    if os.path.lexists(path):  # not gone with a folder above
                        opened.add(folder, os.lstat(folder))
                        files.remove_tree(path)
            self._undo_attributes(opened)
            written = {path for path, content in self._contents.items() if _content(path) != content}
        ipc.remove_all()
        for queue in set(_queues()) - self._queues:
            ipc.remove_queue(queue)
        return [
            path
            for path, mark in self._marks.items()
            if (there.get(path) != mark and path not in self._roots) or path in written
        ]

    def _mapped(self) -> list[bytes]:
        """Files that a process may write to without a trace: all, where one does not show what it has mapped."""
        inodes = _shared_inodes()
        return [
            path
            for path, (inode, mode, _) in self._marks.items()
            if stat.S_ISREG(mode) and (inodes is None or inode in inodes)
        ]

    def _folders(self) -> list[bytes]:
        return [path for path, mark in self._marks.items() if stat.S_ISDIR(mark[1])]

    def _undo_attributes(self, opened: files.OpenedUp) -> None:
        """Extended attributes of folders, access lists among them. A file that got some has changed as a whole."""
        self._open_up(opened)
        for path in self._folders():
            if not os.path.lexists(path):
                continue  # gone: the host sends it
            before, now = self._attributes.get(path, {}), _attributes(path)
            if before != now:
                for name in now.keys() - before.keys():
                    os.removexattr(path, name, follow_symlinks=False)
                for name, value in before.items():
                    os.setxattr(path, name, value, follow_symlinks=False)

    def _open_up(self, opened: files.OpenedUp) -> None:
        """Open up every folder that was there, those above first."""
        for path in sorted(self._folders()):
            try:
                state = os.lstat(path)
                if stat.S_ISDIR(state.st_mode):
                    opened.add(path, state)
            except OSError:
                continue  # gone

    def _undo_modes(self) -> None:
        """Modes of folders, before anything is looked for in them: the host's files must find them open. The writable
        folders themselves cannot be made anew.
        """
        for path in sorted(self._folders()):
            inode, mode, _ = self._marks[path]
            try:
                state = os.lstat(path)
                if state.st_ino == inode and state.st_mode != mode and stat.S_ISDIR(state.st_mode):
                    os.chmod(path, stat.S_IMODE(mode))
            except OSError:
                continue  # a step has removed it


def _shared_inodes() -> set[int] | None:
    """Inodes, of whatever file system, that processes have mapped to be shared; None where one lets nobody look."""
    found: set[int] = set()
    for pid in tree.numbers():
        try:
            with open("/proc/%d/maps" % pid, "rb") as file:  # noqa: UP031 - as in tree
                for line in file:
                    fields = line.split(None, 5)  # addresses, rights, offset, device, inode, name
                    if fields[1].endswith(b"s"):
                        found.add(int(fields[4]))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            each = tree.stat(pid)
            if each is not None and each.alive:
                return None
    return found


def _content(path: bytes) -> int:
    """A number that stands for a file's content: Python's hash of bytes has a key that no step knows, so none finds
    another content with the same. Holes are not read, for they may be as large as a step likes.
    """
    value = 0
    try:
        fd, state = files.open_for_reading(path)
    except OSError:
        return value
    try:
        for piece in entries.content(fd, state.st_size, _PIECE):
            value = hash((value, piece))
    except OSError:
        pass
    finally:
        os.close(fd)
    return value


def _attributes(folder: bytes) -> dict[str, bytes]:
    """Extended attributes; none where there is no such folder now, or its file system knows none."""
    try:
        names = os.listxattr(folder, follow_symlinks=False)
        return {name: os.getxattr(folder, name, follow_symlinks=False) for name in names}
    except OSError:
        return {}


def _queues() -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listdir(_QUEUES)]
    except OSError:
        return []


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
