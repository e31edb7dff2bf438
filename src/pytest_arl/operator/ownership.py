"""The owner of a pod. Labels and references alone prove nothing: everybody who may make pods can write them.

An idle pod counts if the ReplicaSet that controls it belongs to the Deployment that this operator has applied, all by
UID. A pod in use counts by its *claim*: an annotation that the claiming patch writes, a MAC over the UIDs of pod and
Sandbox under a key that comes from the operator's Secret. It survives restarts of the operator, and says nothing on
another pod. What is not a pool's by this is neither connected to nor given out nor deleted.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.cluster.names import GROUP
from pytest_arl.cluster.objects import Key, controller, uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.cluster.objects import Object

__all__ = ["CLAIM", "Maker", "Ownership", "maker_of"]

CLAIM = f"{GROUP}/claim"
"""The annotation: the Sandbox's UID, and the MAC in hexadecimal digits."""

_LONGEST_CLAIM = 256

_MOST_MAKERS = 10_000
"""ReplicaSets that are remembered; pods may name as many as somebody likes."""


class Maker(NamedTuple):
    """The ReplicaSet that a pod names as its controller."""

    name: str
    uid: str


def maker_of(pod: Object) -> Maker | None:
    """The ReplicaSet that controls a pod, by the pod's own word."""
    reference = controller(pod, "ReplicaSet")
    return None if reference is None else Maker(reference["name"], reference["uid"])


class Ownership:
    """Makers of pods, as far as they are known.

    Without keys no pod is a claimed one, and without a Deployment no pod is an idle one.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """``keys``: for MACs; the first one marks, all are believed."""
        self._keys = keys
        self._deployments: dict[Key, str] = {}
        self._makers: dict[str, str] = {}

    # Pods in use

    def mark(self, pod: Object, sandbox: Object) -> dict[str, str]:
        """The annotation that says that this pod was claimed for this Sandbox."""
        return {CLAIM: f"{uid(sandbox)} {_mac(self._keys[0], uid(pod), uid(sandbox))}"}

    def claimed(self, pod: Object) -> str | None:
        """The UID of the Sandbox that the operator claimed a pod for, whether that is still there or not."""
        text = (pod["metadata"].get("annotations") or {}).get(CLAIM, "")
        if not text or len(text) > _LONGEST_CLAIM:
            return None
        sandbox, _, mac = text.partition(" ")
        given = mac.encode("utf-8", "replace")
        for key in self._keys:
            if hmac.compare_digest(_mac(key, uid(pod), sandbox).encode(), given):
                return str(sandbox)
        return None

    def sandbox(self, pod: Object) -> str | None:
        """The UID of the Sandbox that a pod belongs to: claimed for it, and controlled by it."""
        reference = controller(pod, "Sandbox")
        if reference is None or self.claimed(pod) != reference["uid"]:
            return None
        return str(reference["uid"])

    # Idle ones

    def applied(self, pool: Key, deployment: str) -> bool:
        """Take note of the UID of a pool's Deployment; whether it is another one than before."""
        if self._deployments.get(pool) == deployment:
            return False
        # What was looked up may have got another owner: a new Deployment adopts what an old one has left.
        self._makers.clear()
        self._deployments[pool] = deployment
        return True

    def forget(self, pool: Key) -> None:
        """A pool is gone."""
        self._deployments.pop(pool, None)

    def learn(self, maker: str, deployment: str | None) -> None:
        """Take note of the Deployment that controls a ReplicaSet, both by UID; None where none does."""
        self._makers[maker] = deployment or ""
        if len(self._makers) > _MOST_MAKERS:
            del self._makers[next(iter(self._makers))]

    def forget_strangers(self) -> None:
        """Look again at ReplicaSets that no Deployment controlled: one may have adopted them."""
        self._makers = {maker: deployment for maker, deployment in self._makers.items() if deployment}

    def knows(self, maker: Maker) -> bool:
        """True if that ReplicaSet was looked up."""
        return maker.uid in self._makers

    def made_by(self, pool: Key, pod: Object) -> bool:
        """True if the pool's Deployment has made a pod, by a ReplicaSet of its own."""
        maker, deployment = maker_of(pod), self._deployments.get(pool)
        return maker is not None and deployment is not None and self._makers.get(maker.uid) == deployment


def _mac(key: bytes, pod: str, sandbox: str) -> str:
    # UIDs are the API server's and have no space.
    return hmac.new(key, f"{pod} {sandbox}".encode("utf-8", "replace"), "sha256").hexdigest()
