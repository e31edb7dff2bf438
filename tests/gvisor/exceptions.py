"""Exceptions from the contract in runsc, each with its cause: a fact about gVisor, never one about the agent.

They are expected to fail, so that the day on which gVisor changes is noticed: but for those that take as much of the
processor as a busy machine has them take.
"""

from __future__ import annotations

import re

import pytest

__all__ = ["mark_for"]

_NAMESPACES = "gVisor lets everybody make namespaces, in its own kernel and not in the machine's"
_HIGH_WATER = "gVisor does not tell the most memory that a process had (VmHWM)"
_COPIES = "a fork that does nothing copies 3.6 MiB in gVisor, so that as much is held"

_REASONS = {
    r"test_nothing_is_mounted_in_a_way_that_honours_setuid": "the root is the runtime's mount; no_new_privs holds",
    r"test_a_privileged_system_call_is_refused\[\w+-(unshare|clone|mount|bind|open_tree|fsopen|chroot)": _NAMESPACES,
    r"test_a_privileged_system_call_is_refused\[\w+-raise the priority": "priorities mean nothing in gVisor",
    r"test_1_gb_of_output_neither_grows|test_a_caller_that_reads_slowly_grows": _HIGH_WATER,
    r"test_100_mb_go_in_and_come_out_in_bounded_memory": _HIGH_WATER,
    r"test_as_much_as_the_limit_can_be_held\[(8 processes|copies on write)": _COPIES,
    r"test_processes_and_threads_that_were_started_are_counted": "gVisor does not tell which pid it gave last",
}
_PROCESSOR = "forks, starts and ends take many times the processor time that they take on this machine"
_SOMETIMES = {
    r"test_a_step_within_its_processor_time_ends_well": _PROCESSOR,
    r"test_a_step_that_does_nothing_uses_next_to_nothing": _PROCESSOR,
}
_OTHERWISE = {
    r"test_no_signal_from_inside_reaches_the_agent": "the agent has the steps' user: see tests/gvisor/test_signals.py",
}


def mark_for(name: str) -> pytest.MarkDecorator | None:
    """The mark of a test of that name, which fails in runsc; None where it does not."""
    for pattern, reason in _OTHERWISE.items():
        if re.match(pattern, name):
            return pytest.mark.skip(reason=reason)
    for reasons, strict in ((_REASONS, True), (_SOMETIMES, False)):
        for pattern, reason in reasons.items():
            if re.match(pattern, name):
                return pytest.mark.xfail(reason=reason, strict=strict)
    return None
