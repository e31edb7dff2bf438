"""The things that every keeper of an operator works with; it is given to each, so that none has to know the others."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.cluster import fields
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import Key, name, uid
from pytest_arl.cluster.pod import POOL_LABEL
from pytest_arl.cluster.proof import agent_mark
from pytest_arl.operator import task_message
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.election import LeadershipLost
from pytest_arl.operator.events import Events
from pytest_arl.operator.idle_links import IdleLinks
from pytest_arl.operator.introduction import OLDER_EPOCH, Claim, Introduction
from pytest_arl.operator.jobs import Jobs
from pytest_arl.operator.memory_shares import MOST
from pytest_arl.operator.network import Policies
from pytest_arl.operator.notices import Notices
from pytest_arl.operator.outputs import Outputs
from pytest_arl.operator.ownership import Ownership
from pytest_arl.operator.store import Store
from pytest_arl.operator.template import workspace_of
from pytest_arl.operator.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi
    from pytest_arl.operator.election import Term
    from pytest_arl.operator.introduction import LinkLost
    from pytest_arl.operator.keys import Keys
    from pytest_arl.operator.template import Agent

__all__ = ["Context"]

_LOG = logging.getLogger(__name__)

_DOUBT_SECONDS = 1.0
"""Between two looks at our own Lease, however many agents say that there is a newer leader."""


class Context:
    """One operator's connections, its store and its keys, while it leads.

    Attributes:
        store: the objects that were seen.
        jobs: what is done beside.
        notices: Events about objects.
        epoch: as whose leader it acts.
        agent: the agent that pods get.
        events: what others say of objects.
        outputs: of the Tasks that run.
        turns: for what takes a pool's template milliseconds.
        tries: by namespace, for who asks the API server whether it would take a pod.
        policies: what NetworkPolicies say of pods.
        introduction: how it shows itself to agents.
        idle_links: links to the agents of idle pods.
    """

    def __init__(self, api: AsyncApi, keys: Keys, term: Term, agent: Agent) -> None:
        self.api = api
        self.store = Store(Ownership(keys.claims), self._left_out)
        self.jobs = Jobs()
        self.notices = Notices(api, self.jobs, term.identity)
        self.epoch = term.epoch
        self.agent = agent
        self.events = Events(api)
        self.outputs = Outputs()
        self.turns = Turns()
        self.tries: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.policies = Policies(api)
        self._keys = keys
        self._term = term
        self._doubted = 0.0
        self.introduction = Introduction(self.sign, keys.marks, self.epoch)
        self.idle_links = IdleLinks(self.introduction, config=self._agent_config, spawn=self.spawn, refused=self.heard)

    def sign(self, nonce: bytes, pod: str, boot: str) -> bytes:
        """The answer to an agent's nonce."""
        return self._keys.sign(nonce, pod, boot, self.epoch)

    @property
    def task_key(self) -> str:
        """The key that clients seal theirs for."""
        return self._keys.modulus

    def opened(self, sealed: str) -> bytes | None:
        """A client's key that was sealed for this operator."""
        return self._keys.opened(sealed)

    def claim_of(self, sandbox: Object) -> Claim | None:
        """The holder of a Sandbox, as its agent is told; None where it has none."""
        holder = fields.holder(sandbox)
        if "secretHash" not in holder:
            return None
        key = self.opened(holder["sealedKey"]) if "sealedKey" in holder else None
        return Claim(holder["secretHash"], None if key is None else agent_mark(key, uid(sandbox)))

    def _agent_config(self, pod: Object) -> AgentConfig:
        name_of_pool = (pod["metadata"].get("labels") or {}).get(POOL_LABEL, "")
        pool = self.store.get("warmpools", Key(pod["metadata"]["namespace"], name_of_pool)) or {"spec": {}}
        return AgentConfig(workspace=workspace_of(pool), cpu_time=task_message.cpu_time(pool))

    def heard(self, problem: LinkLost) -> None:
        """An agent has refused the operator. That another one leads is a reason to look, and never to believe it."""
        moment = time.monotonic()
        if problem.code != OLDER_EPOCH or moment - self._doubted < _DOUBT_SECONDS:
            return
        self._doubted = moment
        self.jobs.once("leadership", self._confirm)

    async def _confirm(self) -> None:
        """Stop at once where our own Lease says that another one leads."""
        try:
            await self._term.confirm()
        except LeadershipLost as lost:
            _LOG.critical("the lease is lost: %s", lost)
            os._exit(3)

    def spawn(self, job: Coroutine[Any, Any, Any]) -> None:
        """Do something beside; what goes wrong with it is logged."""
        _ = self.jobs.start(job)

    async def delete_pod(self, pod: Object) -> None:
        """A used pod is never used again."""
        try:
            await self.api.delete(path("pods", pod["metadata"]["namespace"], name(pod)), uid(pod))
        except ApiError as error:
            _LOG.warning("a pod was not deleted: %s", error, extra={"data": {"pod": name(pod)}})

    def _left_out(self, kind: str, body: Object) -> None:
        text = (
            f"the {kind} of this namespace take more than {MOST[kind] >> 20} MiB of the operator's memory: this one, "
        )
        text += "and those that come after it, are left alone until there is room. A ResourceQuota bounds their number"
        self.notices.warn(body, "NamespaceFull", text)
