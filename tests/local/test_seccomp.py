"""The filter's decisions, found by running its program in an interpreter of the kernel's packet filter language."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from pytest_arl.backends.local.seccomp import POLICY, Instruction, _search, compile_filter, filter_bytes, supported
from pytest_arl.backends.local.syscalls import MACHINES

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EVERY = pytest.mark.parametrize("machine", sorted(MACHINES))
CLONE_NEWUSER, CLONE_NEWTIME, CLONE_THREAD_FLAGS = 0x10000000, 0x80, 0x3D0F00


def execute(program: list[Instruction], data: bytes) -> int:
    """What the kernel would answer to a system call described by these 64 bytes."""
    accumulator, position = 0, 0
    for _ in range(len(program)):
        code, if_true, if_false, value = program[position]
        position += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
            continue
        if code == 0x05:
            position += value
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
        position += if_true if holds else if_false
    raise AssertionError("the program does not end")


def decide(machine: str, call: str | int, *arguments: int, audit: int | None = None) -> int:
    target = MACHINES[machine]
    number = target.numbers[call] if isinstance(call, str) else call
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, target.audit if audit is None else audit, 0, *words)
    return execute(compile_filter(target), data)


def denied(error: int = errno.EPERM) -> int:
    return ERRNO | error


@EVERY
def test_every_unconditional_rule_denies_on_every_machine_that_has_the_call(machine: str) -> None:
    for rule in POLICY:
        for call in rule.calls:
            if not rule.when and call in MACHINES[machine].numbers:
                assert decide(machine, call) == denied(rule.error), call


@EVERY
def test_what_programs_live_on_is_allowed(machine: str) -> None:
    reads = {"x86_64": range(15), "aarch64": range(61, 70)}[machine]  # read, write, open, mmap and their like
    assert {decide(machine, number) for number in reads} == {ALLOW}


@EVERY
def test_calls_of_another_convention_are_killed(machine: str) -> None:
    i386 = 0x40000003
    assert decide(machine, 0, audit=i386) == KILL
    assert decide(machine, 0) == ALLOW


def test_the_x32_numbers_do_not_exist() -> None:
    assert decide("x86_64", 0x40000000 + 101) == denied(errno.ENOSYS)


@EVERY
@pytest.mark.parametrize("call", ["clone", "unshare"])
def test_new_namespaces_are_refused_and_threads_are_not(machine: str, call: str) -> None:
    for shift in (17, 25, 26, 27, 28, 29, 30):
        assert decide(machine, call, 1 << shift | 17) == denied()
    assert decide(machine, call, CLONE_THREAD_FLAGS) == ALLOW


@EVERY
def test_a_new_time_namespace_is_refused_and_clone_keeps_its_exit_signal(machine: str) -> None:
    assert decide(machine, "unshare", CLONE_NEWTIME) == denied()
    assert decide(machine, "clone", CLONE_NEWTIME) == ALLOW


@EVERY
def test_clone3_looks_absent_so_that_libraries_use_clone(machine: str) -> None:
    assert decide(machine, "clone3") == denied(errno.ENOSYS)


@EVERY
@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x5423, 0xDEADBEEF00005412])
def test_typing_into_a_terminal_is_refused(machine: str, request_number: int) -> None:
    assert decide(machine, "ioctl", 0, request_number) == denied()
    assert decide(machine, "ioctl", 0, 0x5413) == ALLOW  # its size


@EVERY
def test_only_ordinary_sockets_can_be_made(machine: str) -> None:
    allowed = {1, 2, 10, 16}
    for family in range(64):
        assert decide(machine, "socket", family) == (ALLOW if family in allowed else denied(errno.EAFNOSUPPORT))
    for protocol in range(32):
        expected = ALLOW if protocol == 0 else denied(errno.EPROTONOSUPPORT)
        assert decide(machine, "socket", 16, 3, protocol) == expected
        assert (
            decide(machine, "socket", 0xFF_0000_0010, 3, 0xFF_0000_0000 | protocol) == expected
        )  # the kernel drops it
    assert decide(machine, "socket", 2, 1, 6) == ALLOW


@EVERY
@pytest.mark.parametrize(
    "call", ["prlimit64", "sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr"]
)
def test_the_agent_cannot_be_throttled_by_its_pid(machine: str, call: str) -> None:
    assert decide(machine, call, 1) == denied()
    assert decide(machine, call, 0x1_0000_0001) == denied()  # the kernel drops the upper half, too
    assert decide(machine, call, 0) == ALLOW
    assert decide(machine, call, 12) == ALLOW


@EVERY
@pytest.mark.parametrize(("call", "process", "group", "user"), [("setpriority", 0, 1, 2), ("ioprio_set", 1, 2, 3)])
def test_the_agent_cannot_be_throttled_by_group_or_user(
    machine: str, call: str, process: int, group: int, user: int
) -> None:
    for kind in (process, group):
        assert decide(machine, call, kind, 1) == denied()
        assert decide(machine, call, kind, 0) == ALLOW
        assert decide(machine, call, kind, 12) == ALLOW
    for who in (0, 1, 1000, 0x70000000):
        assert decide(machine, call, user, who) == denied()


@EVERY
def test_of_two_processes_only_whether_they_share_memory_can_be_asked(machine: str) -> None:
    assert [decide(machine, "kcmp", 5, 6, kind) for kind in range(8)] == [
        ALLOW if kind == 1 else denied() for kind in range(8)
    ]
    for upper in (0, 1 << 32, 0xFFFFFFFF << 32):  # the kernel's is an int: of the argument's word it drops this half
        assert decide(machine, "kcmp", 5, 6, upper | 1) == ALLOW
        for kind in (0, 2, 6, 0x101, 0xFFFFFFFF):
            assert decide(machine, "kcmp", 5, 6, upper | kind) == denied()
    assert decide(machine, "kcmp", 1, 1, 0, 1, 1) == denied()  # it is the third argument that counts


@EVERY
def test_every_call_the_policy_names_is_known(machine: str) -> None:
    named = {call for rule in POLICY for call in rule.calls}
    assert named == set(MACHINES["x86_64"].numbers)
    assert set(MACHINES["aarch64"].numbers) < named


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"no {header}")
    listed = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", Path(header).read_text()))
    known = {name: str(number) for name, number in MACHINES[machine].numbers.items() if name in listed}
    assert len(known) > 50
    assert known == {name: listed[name] for name in known}


@EVERY
def test_the_program_is_well_formed(machine: str) -> None:
    program = compile_filter(MACHINES[machine])
    assert len(filter_bytes(machine)) == 8 * len(program) < 8 * 4096
    for position, (code, if_true, if_false, _) in enumerate(program):
        assert max(if_true, if_false) < 256
        assert code in (0x05, 0x06) or position + 1 + max(if_true, if_false) < len(program)


def told_by_the_policy(machine: str, number: int, words: list[int]) -> int:
    """What the table says, read from it and not from a program."""
    for rule in POLICY:
        if number in {MACHINES[machine].numbers.get(call) for call in rule.calls} and all(
            {
                "in": words[each.argument] in each.values,
                "not in": words[each.argument] not in each.values,
                "bits": bool(words[each.argument] & each.values[0]),
            }[each.test]
            for each in rule.when
        ):
            return denied(rule.error)
    return ALLOW


@EVERY
@pytest.mark.parametrize("word", [0, 1, 2, 3, 4, 16, 0x80, 1024, 0x5412, 0x10000000])
def test_every_number_is_answered_as_the_policy_says(machine: str, word: int) -> None:
    program = compile_filter(MACHINES[machine])
    for number in range(1200):
        for words in ([word] * 6, [0, word, 0, 0, 0, 0], [16, 0, word, 0, 0, 0]):
            data = struct.pack("<IIQ6Q", number, MACHINES[machine].audit, 0, *words)
            assert execute(program, data) == told_by_the_policy(machine, number, words), (number, words)


@EVERY
def test_the_program_jumps_farther_than_a_comparison_can(machine: str) -> None:
    """A policy of many rules for each call, so that half of the calls are more than 255 instructions."""
    program = compile_filter(MACHINES[machine], [*POLICY, *POLICY, *POLICY, *POLICY])
    assert any(code == 0x05 for code, *_ in program)
    for number in range(1200):
        data = struct.pack("<IIQ6Q", number, MACHINES[machine].audit, 0, *[2] * 6)
        assert execute(program, data) == told_by_the_policy(machine, number, [2] * 6), number


@pytest.mark.parametrize(("instructions", "jumps"), [(255, False), (256, True)])
def test_a_comparison_leaves_out_as_many_as_it_can(instructions: int, jumps: bool) -> None:
    give = Instruction(0x06, 0, 0, KILL)
    # Two comparisons, an answer for all else, and what the calls' own answers take.
    bodies = [(1, [give] * (instructions - 4)), (2, [give]), (3, [give]), (4, [give])]
    program = _search(bodies)

    assert any(code == 0x05 for code, *_ in program) == jumps
    for number in range(6):
        data = struct.pack("<II", number, 0)
        assert execute([Instruction(0x20, 0, 0, 0), *program], data) == (KILL if 1 <= number <= 4 else ALLOW), number


def test_a_machine_without_numbers_is_not_supported() -> None:
    assert not supported("riscv64")
    assert supported()
