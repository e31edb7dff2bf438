#!/usr/bin/env bash
# ru_maxrss of a child is at least what its parent held when it was started.
#
# Most expect: the ru_maxrss that wait4(2) gives for a child is the peak of the program that ran in it, so that /bin/true has
# 1 to 2 MiB, whoever starts it.
# Seen (Linux 6.18; CPython 3.11): a child of a Python that holds 300 MiB has more than 300 MiB, by subprocess (vfork), posix_spawn
# and fork alike. The exec folds the high-water mark of the address space that it leaves into the process's own (setmax_mm_hiwater_rss
# in the kernel's exec), and that address space was the parent's (vfork, posix_spawn: with the parent's own past peak, here twice
# what it holds) or a copy of it (fork). So the figure is the program's only where it exceeds its parent's: a tool that measures
# programs by it must be small itself, as GNU time is.
#
# Needs: Linux, python3. Installs nothing. Exit status 1 where this has changed.
set -euo pipefail
uname -sr
python3 --version
exec python3 - <<'PYTHON'
import os, subprocess, sys

MIB = 2**20
program = "/bin/true"


def peak_of_true(start):
    pid = start()
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024 / MIB


def by_fork():
    pid = os.fork()
    if pid == 0:
        os.execv(program, [program])
    return pid


ways = {
    "subprocess": lambda: subprocess.Popen([program]).pid,
    "posix_spawn": lambda: os.posix_spawn(program, [program], {}),
    "fork and exec": by_fork,
}
import warnings

warnings.simplefilter("ignore")  # the Popen object is dropped while its child is waited for here
small = {name: peak_of_true(start) for name, start in ways.items()}
held = bytearray(os.urandom(MIB) * 300)
large = {name: peak_of_true(start) for name, start in ways.items()}
for name in ways:
    print(f"{name}: ru_maxrss of {program} is {small[name]:.0f} MiB below a small Python, {large[name]:.0f} MiB below one of 300 MiB")
sys.exit(0 if all(value > 290 for value in large.values()) and all(value < 100 for value in small.values()) else 1)
PYTHON
