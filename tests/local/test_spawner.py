from __future__ import annotations

import errno
import itertools
import os
import resource
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_arl.backends.local.spawner import Inherited
from tests.local.conftest import acquire

if TYPE_CHECKING:
    from tests.local.conftest import MakeBackend


def neighbours(numbers: list[int]) -> list[tuple[int, int]]:
    return [(one, other) for one, other in itertools.pairwise(sorted(numbers)) if other == one + 1]


def test_the_child_gets_what_was_shared_and_given() -> None:
    reader, writer = os.pipe()
    with closing(Inherited()) as inherited:
        shared, given = inherited.share(writer), inherited.give(os.open("/proc/self/status", os.O_RDONLY))
        program = f"import os; os.write({shared}, os.read({given}, 5))"
        subprocess.run([sys.executable, "-c", program], pass_fds=inherited.numbers, check=True)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"Name:"  # and the end of the file: nobody else has the writer


def test_what_is_given_or_closed_is_closed_here() -> None:
    before = set(os.listdir("/proc/self/fd"))
    kept = os.open("/dev/null", os.O_RDONLY)
    with closing(Inherited()) as inherited:
        inherited.share(kept)
        inherited.give(os.open("/dev/null", os.O_RDONLY))
        assert len(os.listdir("/proc/self/fd")) == len(before) + 3
    os.close(kept)
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_two_descriptors_of_a_start_are_neighbours(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython would walk through all descriptors of this process for each sandbox that is made."""
    starts: list[Inherited] = []
    real = Inherited.close

    def close(inherited: Inherited) -> None:
        if inherited not in starts:
            starts.append(inherited)
        real(inherited)

    backend = make_backend()
    acquire(backend).close()
    holes = [socket.socket() for _ in range(50)]
    for hole in holes[::3] + holes[1::3]:
        hole.close()
    monkeypatch.setattr(Inherited, "close", close)
    sandboxes = [acquire(backend) for _ in range(3)]
    passed = [sorted(inherited.numbers) for inherited in starts]
    assert len(passed) == 3
    assert all(len(numbers) >= 5 for numbers in passed)
    assert [neighbours(numbers) for numbers in passed] == [[], [], []]
    for sandbox in sandboxes:
        sandbox.close()
    for hole in holes:
        hole.close()


@pytest.mark.parametrize("room", [0, 3, 8, 20])
def test_too_many_descriptors_is_told_as_that(room: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + 1 + room, hard))
    try:
        with closing(Inherited()) as inherited, pytest.raises(OSError, match="Too many open files") as caught:
            for _ in range(20):
                inherited.share(descriptor)
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(descriptor)
