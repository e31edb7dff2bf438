"""Which programs a pool's ``memory`` ends: ``python -m benchmarks.memory_table``, a table of kinds and sizes of memory.

Each cell is one sandbox: the outcome of a program that takes so many MiB, the limit that its result names, and the most
that was held, in MiB. It runs in whatever tier this machine and user have.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from pytest_arl import SandboxSession, StepResult
from pytest_arl.settings import override

__all__ = ["KINDS", "POOL", "program"]

POOL = """
[pools.table]
memory = "{memory}Mi"
workspace = "512Mi"
tmp = "256Mi"
"""
_SIZES = "100,240,270,400,1000,3000"
_TIMEOUT = 600.0

_PRELUDE = """
import ctypes, mmap, os, sys, threading, time
MIB, LEFT = 1 << 20, []
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]

def fill(memory, start, size):
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + start, 1, size)

def anonymous(size, flags=mmap.MAP_PRIVATE, advice=None):
    memory = mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS)
    LEFT.append(memory)
    try:
        memory.madvise(advice)
    except (OSError, TypeError):
        pass  # a kernel without huge pages, or nothing advised
    return memory

def take(size, *arguments):
    fill(anonymous(size, *arguments), 0, size)

def write(descriptor, size):
    block = bytes(range(256)) * 4096
    LEFT.append(descriptor)
    while size > 0:
        size -= os.write(descriptor, block[:size])

def write_file(path, size):
    write(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), size)

def children(count, work):
    pids = []
    reader, writer = os.pipe()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            work()
            os.close(writer)
            os.read(reader, 1)  # which ends when all have done their work
            time.sleep(HOLD)
            os._exit(0)
        pids.append(pid)
    os.close(writer)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        sys.exit("a child was killed")

def system_v(size):
    segment = libc.shmget(0, size, 0o1600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    ctypes.memset(libc.shmat(segment, None, 0), 1, size)

def threads(size):
    memory = anonymous(size)
    workers = [threading.Thread(target=fill, args=(memory, part * (size // 4), size // 4)) for part in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()

def copies(size):
    memory = anonymous(size // 8)
    fill(memory, 0, size // 8)
    children(7, lambda: fill(memory, 0, size // 8))

def mapped_memfd(size):
    descriptor = os.memfd_create("table")
    os.ftruncate(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    os.close(descriptor)
    LEFT.append(memory)
    fill(memory, 0, size)

def mapped_file(size):
    descriptor = os.open("/workspace/mapped", os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    LEFT.append(memory)
    fill(memory, 0, size)

def half_in_a_file(size):
    memory = anonymous(size // 2)
    for start in range(0, size // 2, MIB):
        write_file(f"/workspace/{start}", MIB)
        fill(memory, start, MIB)

def reserved(size):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    try:
        LEFT.extend(mmap.mmap(-1, 1 << 36, flags) for _ in range(64))
    except OSError:  # an address space that is smaller, as user-mode Linux has
        LEFT.extend(mmap.mmap(-1, 1 << 30, flags) for _ in range(4))
    take(size)
"""

KINDS = {
    "anonymous": "take(size)",
    "huge pages": "take(size, mmap.MAP_PRIVATE, 14)",
    "no huge pages": "take(size, mmap.MAP_PRIVATE, 15)",
    "4 threads": "threads(size)",
    "8 processes": "children(8, lambda: take(size // 8))",
    "copies on write": "copies(size)",
    "shared anonymous": "take(size, mmap.MAP_SHARED)",
    "/dev/shm": "write_file('/dev/shm/table', size)",
    "memfd": "write(os.memfd_create('table'), size)",
    "mapped memfd": "mapped_memfd(size)",
    "System V": "system_v(size)",
    "reserved": "reserved(size)",
    "half in a file": "half_in_a_file(size)",
    "/workspace": "write_file('/workspace/table', size)",
    "mapped /workspace": "mapped_file(size)",
    "/tmp": "write_file('/tmp/table', size)",
}
"""Programs that take ``size`` bytes of a kind of memory."""


def program(kind: str, mib: int, hold: float) -> str:
    """A Python program that takes so many MiB, and keeps them for ``hold`` seconds."""
    return f"{_PRELUDE}\nHOLD, size = {hold}, {mib} * MIB\n{KINDS[kind]}\ntime.sleep(HOLD)\n"


def _cell(result: StepResult, seconds: float) -> str:
    usage = result.usage
    peak = usage.memory_peak if usage is not None else None
    shown = f"{peak / 2**20:.0f}" if peak is not None else "-"
    outcome = {"Succeeded": "ok", "OutOfMemory": "OOM"}.get(result.outcome, result.outcome)
    said = f" ({result.limit})" if result.limit else ""
    return f"{outcome}{said} {shown}, {seconds:.1f} s"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Which programs a pool's memory ends.")
    parser.add_argument("--memory", type=int, default=256, help="MiB of the pool")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma between them")
    parser.add_argument("--sizes", default=_SIZES, help="MiB, comma between them")
    parser.add_argument("--hold", type=float, default=0.5, help="seconds for which a program keeps what it took")
    asked = parser.parse_args()
    sizes = [int(size) for size in asked.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        pools = Path(folder, "pools.toml")
        pools.write_text(POOL.format(memory=asked.memory))
        with override({"pools_file": pools, "isolation_min": "bwrap+rlimit"}, "the table"):
            _print_table(asked.kinds.split(","), sizes, asked.hold)


def _print_table(kinds: list[str], sizes: list[int], hold: float) -> None:
    tier = ""
    for kind in kinds:
        cells = []
        for mib in sizes:
            with SandboxSession("table") as session:
                if not tier:
                    tier = str(session.isolation)
                    print(f"{tier}, {'root' if os.geteuid() == 0 else 'user'}, {' '.join(os.uname()[::2])}\n")
                    print(f"| kind | {' | '.join(map(str, sizes))} |\n|---|{'---|' * len(sizes)}")
                began = time.monotonic()
                result = session.run("python3", "-I", "-c", program(kind, mib, hold), timeout=_TIMEOUT)
                cells.append(_cell(result, time.monotonic() - began))
        print(f"| {kind} | {' | '.join(cells)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
