"""The rights of what bubblewrap starts: whether a program below it may make namespaces again.

No sandbox needs that. A program that makes a sandbox of its own does (a browser, another bubblewrap), and below some
profiles of AppArmor bubblewrap works while nothing below it has a capability.
"""

from __future__ import annotations

import functools
import os
import subprocess

from pytest_arl.backends.local import kernel_trial
from pytest_arl.backends.local.namespaces import INNER_ID

__all__ = ["refused_below"]


@functools.cache
def refused_below(bwrap: str, *, privileged: bool) -> str:
    """The first act that the kernel refuses a child of this bubblewrap, with its error; empty where it refuses none.

    Empty as well where that cannot be found out. Found out once for each process, in about 50 ms.
    """
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-net", "--cap-add", "ALL"]
    if not privileged:
        arguments += ["--unshare-user", "--uid", str(INNER_ID), "--gid", str(INNER_ID)]
    arguments += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    try:
        answers = kernel_trial.run(bwrap, *arguments, "--")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return next((f"{act}: {os.strerror(error)}" for act, error in answers.items() if error), "")
