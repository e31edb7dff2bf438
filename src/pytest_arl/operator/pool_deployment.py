"""A pool's Deployment, and the pod template that this and the pool's other pods come from.

The template is made once for each generation of the pool: for a Sandbox that asks for other resources only these are
put in. While the latest generation has none that the API server takes, no pod is made, of the one before neither.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pytest_arl.cluster import pod as pods
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import Key, condition, name, uid
from pytest_arl.operator import exposure, template
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.pod_problems import Problem, refused_pod

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context
    from pytest_arl.operator.makers import Makers

__all__ = ["PoolDeployment"]

_LOG = logging.getLogger(__name__)

_FAILED = "PoolFailed"

_FIRST_PAUSE, _LONGEST_PAUSE = 45.0, 1800.0
"""Pause before a template that the API server has refused is tried again, at the next look at all pools."""

_MOST_FAILURES = 3
"""Doublings of the second between two attempts of which the API server says that it could not."""

_Generation = tuple[str, int, str]


class PoolDeployment:
    """Keeps the Deployment of one pool.

    Attributes:
        trouble: why it is not as the latest generation of the pool says.
        network: the condition about NetworkPolicies; None where these were not looked at.
        exposed: what Secrets its template shows to steps, in a sentence.
        has_sidecar: the template has the container that is left out.
    """

    def __init__(self, context: Context, where: Key, makers: Makers) -> None:
        self._context = context
        self._api = context.api
        self._makers = makers
        self._key = where
        self._applied: _Generation | None = None
        self._valid: _Generation | None = None
        self._made: tuple[_Generation, Object] | None = None
        self._taken: Object | None = None
        self._pause = self._again = 0.0
        self._failed: tuple[_Generation | None, float] = (None, 0.0)
        self._failures = 0
        self._logged: object = None
        self.trouble: Problem | None = None
        self.network: Object | None = None
        self.exposed = ""
        self.has_sidecar = False

    @property
    def was_valid(self) -> bool:
        """True once pods could be made of any generation of the pool."""
        return self._valid is not None

    @property
    def behind(self) -> bool:
        """True while the API server could not be asked about the latest generation."""
        return self.trouble is not None and self.trouble.reason == _FAILED

    def template(self, pool: Object) -> Object | None:
        """The template for pods of this generation of the pool; None while it is not known to be any good."""
        generation = self._generation(pool)
        if self.trouble is not None or self._valid != generation or self._made is None or self._made[0] != generation:
            return None
        return self._made[1]

    def forget(self) -> None:
        """Look at the Deployment again: it may have been changed or deleted; or what a template needs may be there."""
        if self.trouble is None or time.monotonic() >= self._again:
            self._applied = None

    async def apply(self, body: Object) -> None:
        """Bring the Deployment to what the pool says."""
        generation = self._generation(body)
        if self._applied == generation or (self._failed[0] == generation and time.monotonic() < self._failed[1]):
            return
        try:
            made = await self._template_of(body, generation)
            await self._try(body, made)
            await self._refuse_stranger(body)
            await self._context.turns.mine()
            applied = await self._api.apply(path("deployments", *self._key), template.deployment(body, made))
        except template.TemplateInvalid as problem:
            self.trouble = Problem("TemplateInvalid", str(problem))
        except ApiError as error:
            self.trouble = Problem("TemplateInvalid" if error.status in (400, 422) else _FAILED, error.message)
            if self.trouble.reason != "TemplateInvalid":
                _LOG.warning("a pool's Deployment was refused: %s", error, extra={"data": {"pool": self._key.name}})
                self._failures = min(self._failures + 1, _MOST_FAILURES)
                self._failed = generation, time.monotonic() + 2.0**self._failures
                return  # and tried again
        else:
            if self._valid != generation:
                self.exposed, self.has_sidecar = exposure.exposed(body), template.has_sidecar(body)
            self.trouble, self._valid = None, generation
            self._makers.applied(applied)
            in_use = {pods.STATUS_LABEL: pods.STATUS_ALLOCATED, pods.SANDBOX_LABEL: "its-own"}
            labels = {**made["metadata"]["labels"], **in_use}
            self.network = await self._context.policies.look(self._key.namespace, labels) or self.network
        self._applied, self._failures = generation, 0
        if self._logged != (generation, self.trouble):
            self._logged = generation, self.trouble
            _LOG.info("pool", extra={"data": {"pool": "/".join(self._key), "trouble": self.trouble}})

    def _generation(self, pool: Object) -> _Generation:
        return uid(pool), pool["metadata"].get("generation", 1), self._context.agent.keys

    async def _template_of(self, body: Object, generation: _Generation) -> Object:
        if self._made is not None and self._made[0] == generation:
            return self._made[1]
        self._pause = self._again = 0.0
        await self._context.turns.mine()
        made = template.pod_template(body, self._context.agent)
        self._made = generation, made
        return made

    async def _try(self, body: Object, made: Object) -> None:
        """Would such a pod be let in, and does it have fields that no pod has? Asked once for each template."""
        if made == self._taken:
            return
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**made["metadata"], "generateName": f"{name(body)}-"},
            "spec": made["spec"],
        }
        try:
            # The others of its namespace wait: it may keep the API server busy.
            async with self._context.tries[self._key.namespace]:
                await self._context.turns.mine()
                await self._api.try_out(path("pods", self._key.namespace), pod)
        except ApiError as error:
            if error.status not in (400, 403, 422):
                raise
            trouble = refused_pod(error.message)
            if trouble.reason != "QuotaExceeded":
                self._rest()
                raise template.TemplateInvalid(error.message) from None
        self._taken, self._pause = made, 0.0

    def _rest(self) -> None:
        """Leave a template that the API server has refused alone for a while, which grows."""
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if self._pause else _FIRST_PAUSE
        self._again = time.monotonic() + self._pause

    async def _refuse_stranger(self, body: Object) -> None:
        try:
            there = await self._api.get(path("deployments", *self._key))
        except ApiError as error:
            if error.status == 404:
                return
            raise
        if not any(each["uid"] == uid(body) for each in there["metadata"].get("ownerReferences") or ()):
            raise template.TemplateInvalid(
                f"a Deployment {self._key.name} already exists and is not this pool's: delete it, or rename the pool"
            )

    async def shortage(self) -> Problem | None:
        """The reason that it gives for having fewer pods than it should. ApiError where it cannot be asked."""
        failure = condition(await self._api.get(path("deployments", *self._key)), "ReplicaFailure")
        return refused_pod(failure.get("message", "")) if failure.get("status") == "True" else None
