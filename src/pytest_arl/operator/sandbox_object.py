"""The object of a Sandbox: what goes with it, what is taken off it.

All that is beside its spec and its status may be written by whoever runs tests in its namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.cluster import pod as pods
from pytest_arl.cluster.kinds import KINDS, path
from pytest_arl.cluster.objects import key, name, owner_reference, uid
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.slim import LEGACY_FINALIZER, is_short

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi

__all__ = ["MOST_REFILLS", "adopt", "delete", "is_held_by_legacy", "let_go", "with_room"]

_MOST_CONFLICTS = 20
MOST_REFILLS = 3
"""Times that room is made in a Sandbox that somebody fills again."""

_LABELS = frozenset((pods.RUN_LABEL, pods.WORKER_LABEL, pods.LEASE_LABEL))
"""Labels by which its client and ``gc`` find it."""


async def adopt(api: AsyncApi, task: Object, sandbox: str, its: str) -> None:
    """A Task that was made by hand goes with its Sandbox, of this name and UID, too."""
    reference = {
        "apiVersion": KINDS["sandboxes"].api_version,
        "kind": KINDS["sandboxes"].name,
        "name": sandbox,
        "uid": its,
        "controller": False,
        "blockOwnerDeletion": False,
    }
    where = path("tasks", key(task).namespace, name(task))
    for _ in range(_MOST_CONFLICTS):  # its status is written meanwhile
        try:
            found = (await api.get(where))["metadata"]  # the store has not all of it
            owners = [*(found.get("ownerReferences") or ()), reference]
            meta = {"uid": uid(task), "resourceVersion": found["resourceVersion"], "ownerReferences": owners}
            await api.patch(where, {"metadata": meta})
        except ApiError as error:
            if error.status == 409:
                continue
            if error.status not in (404, 422):  # 422: another Task of that name, as the UID cannot be changed
                raise
        return


def is_held_by_legacy(sandbox: Object) -> bool:
    """True if the original operator's finalizer would keep it for ever."""
    return LEGACY_FINALIZER in (sandbox["metadata"].get("finalizers") or ())


async def let_go(api: AsyncApi, sandbox: Object) -> Object:
    """The object without that finalizer."""
    there = await _read(api, sandbox)
    kept = [each for each in there.get("finalizers") or () if each != LEGACY_FINALIZER]
    return await _change(api, sandbox, there, {"finalizers": kept or None})


async def with_room(api: AsyncApi, sandbox: Object) -> Object:
    """The object without what others have put on it, for one that they have filled until no status had room."""
    there = await _read(api, sandbox)
    owners = list(filter(is_short, there.get("ownerReferences") or ()))
    lease = owner_reference({"metadata": {"ownerReferences": owners}}, "Lease")
    change: dict[str, Any] = {
        "finalizers": None,
        "annotations": None,
        "managedFields": [{}],
        "labels": dict.fromkeys(each for each in there.get("labels") or () if each not in _LABELS),
        "ownerReferences": None if lease is None else [lease],
    }
    return await _change(api, sandbox, there, change)


async def delete(api: AsyncApi, sandbox: Object) -> None:
    """Delete that very Sandbox. One that somebody has filled has no room for the time of its deletion."""
    for refills in reversed(range(MOST_REFILLS)):
        try:
            await api.delete(path("sandboxes", *key(sandbox)), uid(sandbox))
        except ApiError as error:
            if not error.too_large or not refills:
                raise
        else:
            return
        try:
            await with_room(api, sandbox)
        except ApiError as error:
            if error.status not in (404, 409):  # it is gone, or somebody else was faster
                raise


async def _read(api: AsyncApi, sandbox: Object) -> Object:
    """All of its metadata: the store has not."""
    there: Object = (await api.get(path("sandboxes", *key(sandbox))))["metadata"]
    return there


async def _change(api: AsyncApi, sandbox: Object, there: Object, change: dict[str, Any]) -> Object:
    same = {"uid": uid(sandbox), "resourceVersion": there["resourceVersion"]}
    return await api.patch(path("sandboxes", *key(sandbox)), {"metadata": {**same, **change}})
