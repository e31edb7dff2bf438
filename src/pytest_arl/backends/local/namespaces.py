"""Isolation of a sandbox: namespaces, capabilities, and what ends it."""

from __future__ import annotations

import os

__all__ = ["CAPABILITIES", "INNER_ID", "namespace_arguments"]

INNER_ID = 1000
"""Uid and gid inside where a user namespace maps an ordinary user's own."""

CAPABILITIES = ("CAP_CHOWN", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID")
"""Capabilities that the agent needs to become an unused user when it is started by root; it gives all of them up."""


def namespace_arguments(*, privileged: bool, network: str = "none") -> list[str]:
    """The options for them.

    Without ``--die-with-parent``: between the fork of the sandbox's first process and the word for it to go on,
    bubblewrap would be killed and leave a process that waits for ever. What ends a sandbox with this process is the
    agent, which sees the end of its stream and of the process itself, and the janitor where there are cgroups.

    As root there is no user namespace: in one, the step would be the kernel's uid 0 outside. Instead the agent keeps
    the few capabilities with which it becomes an unused user.

    That no step makes a user namespace is up to its filter of system calls; bubblewrap's lock is the second thing in
    its way, and cannot be had where a container runtime has made /proc/sys read-only.
    """
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if network == "none":
        arguments.append("--unshare-net")
    arguments += ["--as-pid-1", "--new-session", "--clearenv"]
    arguments += ["--cap-drop", "ALL"]
    if privileged:
        for capability in CAPABILITIES:
            arguments += ["--cap-add", capability]
    else:
        arguments += ["--unshare-user", "--uid", str(INNER_ID), "--gid", str(INNER_ID)]
        if not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:  # bubblewrap writes max_user_namespaces there
            arguments.append("--disable-userns")
    return arguments
