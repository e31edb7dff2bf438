#!/usr/bin/env bash
# cgroup.procs of version 1, read again through the same descriptor, gives the old list, for ever if it is read often.
#
# Most expect: a read from offset 0 of cgroup.procs lists the processes that are in the cgroup now, as memory.usage_in_bytes and
# memory.stat through a descriptor that is kept open give present figures, and as cgroup.procs does in version 2.
# Seen (Linux 6.18): the list is made by the first read after the open and kept for as long as reads come within a second of one
# another. A process that was added meanwhile is not in it, after 3 s of a read each 0.1 s either; to a new descriptor it is there at
# once. So whoever watches a cgroup has to open the file anew each time.
#
# Needs: root, a mounted memory hierarchy of version 1, python3. Installs nothing. Exit status 1 where this has changed, 2 where there
# is no such hierarchy.
set -euo pipefail
uname -sr
python3 --version
exec python3 - <<'PYTHON'
import os, subprocess, sys, time

mounts = [line.split() for line in open("/proc/mounts")]
hierarchy = next((each[1] for each in mounts if each[2] == "cgroup" and "memory" in each[3].split(",")), None)
if hierarchy is None or os.geteuid() != 0:
    print("no memory hierarchy of version 1 that may be written here")
    sys.exit(2)
folder = f"{hierarchy}/finding-{os.getpid()}"
os.mkdir(folder)
programs = []


def add():
    programs.append(subprocess.Popen(["sleep", "60"]))
    with open(f"{folder}/cgroup.procs", "w") as file:
        file.write(str(programs[-1].pid))


try:
    add()
    kept = os.open(f"{folder}/cgroup.procs", os.O_RDONLY)
    before = os.pread(kept, 4096, 0).split()
    add()
    for _ in range(30):
        again = os.pread(kept, 4096, 0).split()
        time.sleep(0.1)
    with open(f"{folder}/cgroup.procs", "rb") as file:
        anew = file.read().split()
    time.sleep(2)
    later = os.pread(kept, 4096, 0).split()
finally:
    for program in programs:
        program.kill()
        program.wait()
    time.sleep(0.2)
    os.rmdir(folder)
print(f"processes: {len(before)} before, {len(again)} in 3 s through the same descriptor, {len(anew)} through a new one, ")
print(f"{len(later)} through the old one again after 2 s without a read")
sys.exit(0 if (len(before), len(again), len(anew), len(later)) == (1, 1, 2, 2) else 1)
PYTHON
