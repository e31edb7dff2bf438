#!/usr/bin/env bash
# A longer seccomp filter loads faster than a shorter one: what counts is how it is shaped, not how many instructions it has.
#
# Most expect: seccomp(SECCOMP_SET_MODE_FILTER) copies, checks and compiles the program, so its time goes with the program's length,
# and a list of comparisons, one for each system call, is the cheapest that there is. That the shape matters is known of the calls.
# Seen (Linux 6.18, x86_64): since 5.11 the kernel runs the filter once for every system call number when it is loaded, to remember
# those that are always allowed. A list of N comparisons is walked from its start each time. The same policy as a search by halves has
# more instructions and loads in a fraction of the time. For a process that is started often, such as a sandbox, that is the larger
# part of what a filter costs at all, as calls that are always allowed no longer run it.
#
# Needs: python3, seccomp without privileges (x86_64 or aarch64). Installs nothing. Exit status 1 where this has changed, 2 without it.
set -euo pipefail
uname -srm
python3 --version
exec python3 - <<'PYTHON'
import ctypes, errno, os, platform, statistics, struct, sys, time

SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
if SECCOMP is None:
    sys.exit(2)
LOAD, EQUAL, AT_LEAST, JUMP, RETURN = 0x20, 0x15, 0x35, 0x05, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
NUMBERS = range(1000, 1300)  # no system call has these, so the process that loads them goes on as before
libc = ctypes.CDLL(None, use_errno=True)


def listed(numbers):
    code = []
    for number in numbers:
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    return [*code, (RETURN, 0, 0, ALLOW)]


def halved(numbers):
    if len(numbers) <= 3:
        return listed(numbers)
    low, high = halved(numbers[: len(numbers) // 2]), halved(numbers[len(numbers) // 2 :])
    test = (AT_LEAST, 0, 1, numbers[len(numbers) // 2])
    return [test, (JUMP, 0, 0, len(low)), *low, *high]


def load_time(program):
    """Microseconds that loading takes in a process of its own."""
    code = b"".join(struct.pack("=HBBI", *each) for each in [(LOAD, 0, 0, 0), *program])
    reader, writer = os.pipe()
    if os.fork() == 0:
        buffer = ctypes.create_string_buffer(code, len(code))
        filter = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        begin = time.perf_counter_ns()
        failed = libc.syscall(SECCOMP, 1, 0, filter)
        os.write(writer, struct.pack("q", -1 if failed else time.perf_counter_ns() - begin))
        os._exit(0)
    os.wait()
    (taken,) = struct.unpack("q", os.read(reader, 8))
    os.close(reader)
    os.close(writer)
    if taken < 0:
        sys.exit(2)
    return taken / 1000


programs = {"a list of comparisons": listed(list(NUMBERS)), "a search by halves": halved(list(NUMBERS))}
times = {name: [] for name in programs}
for _ in range(100):
    for name, program in programs.items():
        times[name].append(load_time(program))
for name, program in programs.items():
    print(f"{name}: {len(program) + 1} instructions, loaded in {statistics.median(times[name]):.0f} us (median of 100)")
longer, shorter = (statistics.median(times[name]) for name in ("a list of comparisons", "a search by halves"))
sys.exit(longer < 1.3 * shorter)
PYTHON
