"""The environment that a pod gives the agent as PID 1 of one of its containers.

The agent stays the user that the container runs as. Its environment says who it is and whom to believe; the cgroup
that it is in counts what the kernel refuses; a folder takes output that is too long for memory. All but the first
may be missing, and then costs only what it is for.
"""

from __future__ import annotations

import os

from pytest_arl.agent import auth, exact, files, whole_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import ConfigKey, Place

__all__ = ["PORT", "SPOOL_FOLDER", "WORKSPACE", "Container", "environment", "look", "own_config"]

PORT = 7070
"""The port on which the agent listens."""
SPOOL_FOLDER = "/arl-spool"
WORKSPACE = "/workspace"

PRIVATE_PREFIX = "ARL_"
"""Prefix of variables that are for the agent alone: no step sees them."""
POD_UID_VARIABLE = "ARL_POD_UID"
OPERATOR_KEYS_VARIABLE = "ARL_OPERATOR_KEYS"
WORKSPACE_VARIABLE = "ARL_WORKSPACE"
FILE_BYTES_VARIABLE = "ARL_FILE_BYTES"
"""The largest file that the pod's volumes have room for. Some files of a container lie on the node's disk and count
nowhere: /dev/termination-log, which all may write, is one.
"""
KEPT_VARIABLE = "ARL_KEPT_VARIABLES"
"""Names of variables that the pool's template sets and that look like the kubelet's own, with spaces between them."""

_KUBELETS = (
    b"KUBERNETES_SERVICE_HOST=",
    b"KUBERNETES_SERVICE_PORT=",
    b"KUBERNETES_SERVICE_PORT_",
    b"KUBERNETES_PORT=",
    b"KUBERNETES_PORT_",
)
"""Address of the cluster's API, which the kubelet gives every container, also with ``enableServiceLinks: false``."""

_SPOOL_IN_MEMORY = 64 * 1024 * 1024
"""Bytes of output where there is no folder for it: they count in the pod's memory."""
_MOST_VARIABLES, _MOST_FOLDERS = 100_000, 64
_LONGEST_SECONDS = 1e10
_LONGEST_NUMBER = 18
"""Digits: what fits into the kernel's 64 bits."""
_CGROUPS = b"/sys/fs/cgroup"
_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Container:
    """The agent's container, by its environment.

    Attributes:
        pod: the pod's UID.
        keys: whose signature is the operator's.
        workspace: the folder that relative paths are below.
        env: the environment of steps.
        file_bytes: the largest file that steps may write, or None.
    """

    def __init__(self, variables: dict[bytes, bytes]) -> None:
        """ValueError where something is missing or wrong, naming the variable."""
        private = PRIVATE_PREFIX.encode()
        self.pod = _wanted(variables, POD_UID_VARIABLE)
        keys = _wanted(variables, OPERATOR_KEYS_VARIABLE)
        try:
            self.keys = auth.read_keys(keys)
        except ValueError as error:
            raise ValueError(OPERATOR_KEYS_VARIABLE + ": " + str(error)) from None
        largest = variables.get(FILE_BYTES_VARIABLE.encode(), b"")
        self.file_bytes = int(largest) if largest.isdigit() and len(largest) <= _LONGEST_NUMBER else None
        self.workspace = variables.get(WORKSPACE_VARIABLE.encode()) or WORKSPACE.encode()
        kept = variables.get(KEPT_VARIABLE.encode(), b"").split()
        self.env = {
            name: value
            for name, value in variables.items()
            if not name.startswith(private) and (name in kept or not (name + b"=").startswith(_KUBELETS))
        }
        self.env.setdefault(b"PATH", _PATH)


def _wanted(variables: dict[bytes, bytes], name: str) -> str:
    value = variables.get(name.encode(), b"").decode("utf-8", "replace")
    if not value or "\0" in value:
        raise ValueError(name + " is not set in the environment of this container")
    return value


def environment() -> dict[bytes, bytes]:
    """The environment that the container was started with, which the first stage keeps under names that begin with "=".

    Closed once the agent is. OSError where it cannot be read.
    """
    with open("/proc/self/environ", "rb") as file:
        variables = [each[1:] for each in file.read().split(b"\0") if each.startswith(b"=")]
    return {name: value for name, equals, value in (each.partition(b"=") for each in variables) if equals}


def look(variables: dict[bytes, bytes]) -> Container:
    """The container that this process is PID 1 of, with that environment. ValueError says what it lacks."""
    if os.getpid() != 1:
        raise ValueError("the agent is not PID 1 here: shareProcessNamespace must not be set for this pod")
    container = Container(variables)
    if not os.path.isdir(container.workspace):
        try:
            files.make_parents(container.workspace + b"/.")
        except OSError:
            pass  # each step says then that it is missing
    return container


def own_config(container: Container, given: Said[ConfigKey]) -> Place:
    """The agent's configuration: the operator's values where it may give them, else those of this container.

    TypeError, ValueError or LookupError for what is malformed.
    """
    env = dict(container.env)
    for pair in exact.items(given, "env", _MOST_VARIABLES):
        if type(pair) is not list or [type(each) for each in pair] != [bytes, bytes]:
            raise TypeError("a variable must be a pair of bytes")
        env[pair[0]] = pair[1]
    folders: list[tuple[bytes, str]] = []
    for pair in exact.items(given, "folders", _MOST_FOLDERS):
        if type(pair) is not list or [type(each) for each in pair] != [bytes, str] or not pair[0]:
            raise TypeError("a folder is not a path and a key")
        folders.append((pair[0], pair[1]))
    fd, capacity = _spool()
    counter = _counter(b"memory", b"memory.oom_control", b"memory.events")
    return {
        "env": env,
        "workspace": container.workspace,
        "folders": folders,
        "spool_fd": fd,
        "spool_bytes": capacity,
        "oom_fd": counter,
        "pids_fd": _counter(b"pids", b"pids.events", b"pids.events"),
        "crowd_fd": _counter(b"pids", b"pids.current", b"pids.current"),
        "cpu_fd": _counter(b"cpuacct", b"cpuacct.usage", b"cpu.stat", below=True),
        "files_count": True,
        "memory": None if counter is not None else whole_memory.limit_of_container(),
        "processes": exact.integer(given, "processes", 1, exact.LARGEST),
        "cpu_time": exact.maybe(exact.number, given, "cpu_time", 0, _LONGEST_SECONDS),
    }


def _spool() -> tuple[int | None, int]:
    """A file without a name, and how large it may become; None for one in memory."""
    from pytest_arl.agent.spool import CAPACITY  # noqa: PLC0415 - beside its one use

    path = SPOOL_FOLDER.encode() + b"/" + files.temporary_name()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    except OSError:
        return None, _SPOOL_IN_MEMORY
    return fd, CAPACITY


def _counter(controller: bytes, v1: bytes, v2: bytes, *, below: bool = False) -> int | None:
    """The file in which this container's cgroup counts, open for reading.

    A runtime shows a container its own cgroup as the root of the hierarchy, or all of it: the path in
    /proc/self/cgroup leads there then, and nowhere otherwise. ``below``: not that of the whole machine, which a runtime
    leaves a container in whose use of that controller it does not count.
    """
    try:
        with open("/proc/self/cgroup", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(b":", 2)
        if controller in controllers.split(b","):
            places = _CGROUPS + b"/" + controller + path + b"/" + v1, _CGROUPS + b"/" + controller + b"/" + v1
        elif not controllers:
            places = _CGROUPS + path + b"/" + v2, _CGROUPS + b"/" + v2
        else:
            continue
        for place in places:
            if below and _is_top(os.path.dirname(place), version=1 if controllers else 2):
                continue
            try:
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
    return None


def _is_top(folder: bytes, *, version: int) -> bool:
    """True if a cgroup is the machine's: the one that alone has the one file (version 1), or has not the other."""
    if version == 1:
        return os.path.exists(folder + b"/release_agent")
    return not os.path.exists(folder + b"/cgroup.type")
