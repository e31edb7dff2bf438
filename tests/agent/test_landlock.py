"""Rights that the agent gives up by Landlock, in processes of their own: there is no way back."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_arl.agent import landlock, system

VERSION = ctypes.CDLL(None).syscall(444, None, 0, 1)
MAKE_DIR = 1 << 7

needs_landlock = pytest.mark.skipif(VERSION < 2, reason="this kernel has no Landlock that can move files")
needs_sockets = pytest.mark.skipif(VERSION < 9, reason="only Linux 7.1 and newer deny sockets by their path")


def in_child(work: Callable[[], int]) -> int:
    """The number that a forked process gives."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            system.libc("prctl", 38, 1, 0, 0, 0)  # no new privileges
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def connect(path: Path) -> int:
    """The error, or 0."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path))


def serve_and_connect(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        return connect(path)


@needs_landlock
def test_a_right_is_taken_for_good_and_moving_files_is_none_of_it(tmp_path: Path) -> None:
    """With a right that every Landlock has, in the place of the newest one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from-{name}").touch()

    def work() -> int:
        assert landlock.keep_from_sockets(2, MAKE_DIR)
        (tmp_path / "a/from-a").rename(tmp_path / "b/from-a")
        os.link(tmp_path / "b/from-b", tmp_path / "a/linked")
        assert serve_and_connect(tmp_path / "own") == 0
        try:
            (tmp_path / "new").mkdir()
        except PermissionError:
            return 0
        return 1

    assert in_child(work) == 0
    assert (tmp_path / "b/from-a").exists()
    assert (tmp_path / "a/linked").exists()


@needs_landlock
def test_without_giving_it_back_files_could_not_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    monkeypatch.setattr(landlock, "_REFER", 0)
    monkeypatch.setattr(landlock, "_ADD_RULE", 39)  # getpid: a rule without a right is refused
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/file").touch()

    def work() -> int:
        assert landlock.keep_from_sockets(2, MAKE_DIR)
        try:
            (tmp_path / "a/file").rename(tmp_path / "b/file")
        except OSError as error:
            return error.errno or 255
        return 0

    if os.uname().machine != "x86_64":
        pytest.skip("system calls have other numbers here")
    assert in_child(work) == errno.EXDEV


def test_where_the_kernel_cannot_nothing_changes(tmp_path: Path) -> None:
    def work() -> int:
        assert not landlock.keep_from_sockets(1000)
        (tmp_path / "new").mkdir()
        return 0

    assert in_child(work) == 0


@needs_sockets
def test_sockets_of_others_are_out_of_reach_and_own_ones_are_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "theirs"))
        server.listen()
        assert connect(tmp_path / "theirs") == 0, "the control"

        def work() -> int:
            assert landlock.keep_from_sockets()
            assert serve_and_connect(tmp_path / "own") == 0
            return connect(tmp_path / "theirs")

        assert in_child(work) == errno.EACCES
