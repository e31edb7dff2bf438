"""Sandboxes on this machine: bubblewrap around the agent, with limits by cgroup where there is one.

============ ======================================================================================
backend      acquire, replace, close: the protocol of :mod:`pytest_arl.backends.base`
probe        which bubblewrap works here and how strong it is; ``troubleshooting`` what to do where none does
plan         from a pool to a command line, by way of ``layout``, ``mounts``, ``roots``, ``identity``, ``interpreter``
namespaces   what sets a sandbox apart; ``seccomp`` and ``syscalls`` what it may not ask of the kernel
sandbox_process
             one sandbox's processes and what they hold, started by ``spawner``
cgroups      limits, in the folders that ``hierarchies`` finds; ``uids`` one uid for each of root's sandboxes
delegation   the part of version 2's tree that is ours (``cgroup_mounts``: what is seen of it); where none is,
             ``scopes`` asks systemd for one, in which a ``forkserver`` starts sandboxes (``forkserver_program``)
process_resources
             what a process's sandboxes share, and when it is given back
janitor      cleans up after a pytest that was killed (``janitor_program`` is its process)
warm         sandboxes kept ready
============ ======================================================================================
"""

from __future__ import annotations

from pytest_arl.backends.local.backend import LocalBackend, create_backend

__all__ = ["LocalBackend", "create_backend"]
