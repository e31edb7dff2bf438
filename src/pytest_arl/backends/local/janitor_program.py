"""The janitor's own program: a process beside pytest that removes a run's cgroups once pytest is dead.

Started as ``python -I -S -B janitor_program.py CONTROL OWNER FOLDER...`` in a session of its own, so that neither a
signal to pytest's process group nor one to its terminal reaches it. CONTROL is the read end of a pipe whose writer is
pytest (end-of-file: pytest is done), OWNER a pidfd of pytest (readable: pytest is dead, even where a forked child still
holds the pipe). The folders' locks are held by inherited descriptors. It imports only what an interpreter has built
in, for it must be small and there at once; nothing imports it, and it writes nothing.
"""

import _signal  # type: ignore[import-not-found]  # has no stub; signal costs 3 ms
import os
import select
import sys
import time

_PATIENCE = 10.0
"""Seconds for processes that do not die at once; then the sweep of a later run is left to do it."""


def _wait(control: int, owner: int) -> None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(owner, select.POLLIN)
    poll.poll()


def _remove(folder: str) -> bool:
    """One attempt: True when the folder is gone."""
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - importing pathlib costs more than all of this
            child = folder + "/" + name
            if os.path.isdir(child):  # noqa: PTH112 - as above
                _remove(child)
        with open(folder + "/cgroup.procs") as processes:  # noqa: PTH123 - as above
            for pid in processes:
                if int(pid) not in (0, os.getpid()):
                    os.kill(int(pid), _signal.SIGKILL)
    except OSError:
        pass
    try:
        os.rmdir(folder)  # noqa: PTH106 - as above
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def main(control: int, owner: int, folders: list[str]) -> None:
    """Wait for pytest's end, then remove the folders."""
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _signal.SIG_IGN)
    _wait(control, owner)
    end = time.monotonic() + _PATIENCE
    left = folders
    while left and time.monotonic() < end:
        left = [folder for folder in left if not _remove(folder)]
        if left:
            time.sleep(0.002)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    os._exit(0)
