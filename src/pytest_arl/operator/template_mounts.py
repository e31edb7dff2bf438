"""Rules for what a pool's template mounts: nothing of it comes to lie over the agent, nor where that looks.

A container runtime follows links when it mounts, those of the image and those of volumes that are mounted before. So a
path says where something lies only if nothing before its end is a link.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from pytest_arl.cluster import pod
from pytest_arl.operator.template_shape import TemplateInvalid
from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.cluster.objects import Object

__all__ = ["is_another_ones", "plain_path", "refuse_kernels", "refuse_mounts", "refuse_nested"]

_KERNELS = re.compile("/(proc|sys)(/|$)")
_THE_AGENTS = re.compile(
    f"^{re.escape(pod.AGENT_FOLDER)}(/|$)"
    f"|({re.escape(pod.SPOOL_FOLDER)}|{re.escape(pod.agent_folder(''))}[0-9a-f]{{32}})(/|$)"
)
"""Folders of the agent's in any pool. These and the kernel's are looked for anywhere in a path: what stands before them
may be a link of the image's to /.
"""
_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_MOUNTED_ANYWAY = {
    *("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"),
    *("/dev/shm", "/dev/mqueue", "/dev/pts"),  # noqa: S108 - as above
}
"""Mounts of the kubelet's and the container runtime's. All of a pod's containers write to its /dev/shm."""


def plain_path(path: str) -> str:
    """The one way to write a path, for two slashes at its beginning too."""
    return "/" + posixpath.normpath(path).lstrip("/")


def is_another_ones(path: str) -> bool:
    """True for a path in a folder of the agent's, that of any pool included, or of the kernel's."""
    path = plain_path(path)
    return _THE_AGENTS.search(path) is not None or _KERNELS.search(path) is not None


def refuse_kernels(executor: Object, where: str) -> None:
    """TemplateInvalid for mounts where the agent reads what the kernel says."""
    for path in _paths(executor):
        if _KERNELS.search(path):
            raise TemplateInvalid(
                f"{where} mounts something at {_shown(path)}, which belongs to the kernel: use another folder"
            )


def refuse_mounts(container: Object, where: str, ours: frozenset[str]) -> None:
    """TemplateInvalid for mounts of a volume of ``ours``, or where the agent is."""
    for mount in (*(container.get("volumeMounts") or ()), *(container.get("volumeDevices") or ())):
        if mount.get("name") in ours:
            raise TemplateInvalid(f"{where} mounts the volume {mount['name']}, which is reserved for the agent")
    for path in _paths(container):
        if _THE_AGENTS.search(path):
            raise TemplateInvalid(f"{where} mounts something at {_shown(path)}, which is reserved for the agent")


def refuse_nested(executor: Object, where: str, workspace: str) -> None:
    """TemplateInvalid for a mount below another one, where a link that lies in the outer one decides where it goes.

    Who writes to a volume puts links there. Nobody can put one in place of what is mounted directly in a folder of
    the operator's own: no other container has that, and in the executor it is a mount.
    """
    given = {plain_path(mount.get("mountPath") or "") for mount in executor.get("volumeMounts") or ()}
    read_only = (executor.get("securityContext") or {}).get("readOnlyRootFilesystem")
    added = {plain_path(workspace), *([_TMP] if read_only else ())} - given
    around: list[str] = []  # each below the one before it
    for path in sorted(f"{each}/".replace("//", "/") for each in {*_paths(executor), *added, *_MOUNTED_ANYWAY}):
        while around and not path.startswith(around[-1]):
            around.pop()
        if around:
            inner, outer = path[:-1], around[-1][:-1]
            if outer not in added or posixpath.dirname(inner) != outer:
                raise TemplateInvalid(
                    f"{where} has mounts at {_shown(outer or '/')} and below it, at {_shown(inner)}: a link in the one "
                    "could lead the other elsewhere; use a folder beside it"
                )
        around.append(path)


def _paths(container: Object) -> Iterator[str]:
    """Paths at which something of the template comes to lie over the container's own files."""
    for mount in container.get("volumeMounts") or ():
        yield plain_path(mount.get("mountPath") or "")
    for device in container.get("volumeDevices") or ():
        yield plain_path(device.get("devicePath") or "")
    if container.get("terminationMessagePath"):
        yield plain_path(container["terminationMessagePath"])


def _shown(value: object) -> str:
    return one_line(value, 253)
