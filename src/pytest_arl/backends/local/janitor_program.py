"""The janitor's own program: it watches the memory of a run's sandboxes, and removes the run's cgroups once pytest is
dead.

Started as ``python -I -S -B janitor_program.py CONTROL OWNER FOLDER...`` in a session of its own, so that neither a
signal to pytest's process group nor one to its terminal reaches it. CONTROL is a socket whose other end is pytest's
(end-of-file: pytest is done), OWNER a pidfd of pytest (readable: pytest is dead, even where a forked child still
holds the socket). The folders' locks are held by inherited descriptors. It imports only what an interpreter has built
in, for it must be small and there at once; nothing imports it. What it writes is why it failed.
"""

import _signal  # type: ignore[import-not-found]  # has no stub; signal costs 3 ms
import os
import resource
import sys
import time

_PATIENCE = 10.0
"""Seconds for processes that do not die at once; then the sweep of a later run is left to do it."""
_LEVELS = ("pytest_arl", "pytest_arl.backends", "pytest_arl.backends.local")
"""Packages that are only looked through here: what they import themselves would take longer than all of this."""


def _find_own_modules() -> None:
    folder = __file__
    for name in reversed(_LEVELS):
        folder = folder.rpartition("/")[0]
        package = type(sys)(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    agent = type(sys)("pytest_arl.agent")
    agent.__path__ = [folder + "/agent"]
    sys.modules[agent.__name__] = agent


def _schedule(policy: int, priority: int) -> None:
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError:
        pass  # an ordinary user, or a cgroup without real time: it works, if later


def _watch(control: int, owner: int) -> None:
    _find_own_modules()
    from pytest_arl.backends.local.memory_watcher import Watcher  # noqa: PLC0415 - found only now

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _schedule(os.SCHED_RR | os.SCHED_RESET_ON_FORK, 1)
    Watcher(control, owner).run()
    _schedule(os.SCHED_OTHER, 0)


def _remove(folder: str) -> bool:
    """One attempt: True when the folder is gone."""
    try:
        for name in os.listdir(folder):
            child = folder + "/" + name
            if os.path.isdir(child):
                _remove(child)
        with open(folder + "/cgroup.procs") as processes:
            for pid in processes:
                if int(pid) not in (0, os.getpid()):
                    os.kill(int(pid), _signal.SIGKILL)
    except OSError:
        pass
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def main(control: int, owner: int, folders: list[str]) -> None:
    """Watch until pytest's end, then remove the folders."""
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _signal.SIG_IGN)
    _watch(control, owner)
    end = time.monotonic() + _PATIENCE
    left = folders
    while left and time.monotonic() < end:
        left = [folder for folder in left if not _remove(folder)]
        if left:
            time.sleep(0.002)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    os._exit(0)
