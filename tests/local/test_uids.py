from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pytest_arl.backends.local.uids import UidLease


def test_uids_are_far_from_those_in_use() -> None:
    lease = UidLease.take()
    try:
        assert 0x70000000 <= lease.uid < 0x7FFFFFFF
    finally:
        lease.close()


def test_a_uid_that_is_taken_is_not_given_out_again() -> None:
    first = UidLease.take()
    second = UidLease.take(start=first.uid)
    assert second.uid != first.uid
    first.close()
    third = UidLease.take(start=first.uid)
    assert third.uid == first.uid  # the control: given back, it can be had again
    for lease in (second, third):
        lease.close()


def test_a_uid_stays_taken_while_another_process_holds_its_descriptor() -> None:
    lease = UidLease.take()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lease.descriptor]
    )
    lease.close()
    other = UidLease.take(start=lease.uid)
    assert other.uid != lease.uid
    other.close()
    child.communicate()
    again = UidLease.take(start=lease.uid)
    assert again.uid == lease.uid
    again.close()


def test_a_lease_leaves_nothing_on_disk() -> None:
    lease = UidLease.take()
    try:
        held = os.readlink(f"/proc/self/fd/{lease.descriptor}")
        assert held.startswith("socket:")
        assert f"@pytest-arl/uid/{lease.uid}" in Path("/proc/net/unix").read_text()
    finally:
        lease.close()
