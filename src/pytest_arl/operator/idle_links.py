"""Links to the agents of idle pods, opened before anybody asks: a claim then finds its agent awake and introduced.

Waking an agent and its handshake took 10 ms of the 30 that a claim takes, and in a burst of claims all of them came at
once. A link is a help and never a condition: where there is none, or it has ended, the claim connects by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import condition, leaving, name, owner, uid
from pytest_arl.operator.agent_link import AgentLink
from pytest_arl.operator.introduction import LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from typing import Any

    from pytest_arl.agent_client.agent_config import AgentConfig
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.introduction import Claim, Introduction

__all__ = ["IdleLinks"]

_LOG = logging.getLogger(__name__)

_AT_ONCE = 8
"""Visits of a namespace at a time: each is a signature, and there may be a thousand idle pods. An agent that is silent
takes one for seconds.
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 300.0
"""Pause between two visits of the same pod, doubled with each: an agent may end every link that it is given."""


class IdleLinks:
    """The links to idle pods, by the UID of the pod."""

    def __init__(
        self,
        operator: Introduction,
        *,
        config: Callable[[Object], AgentConfig],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
        refused: Callable[[LinkLost], None],
    ) -> None:
        """``config`` is what a pod's pool asks of its agent, ``spawn`` runs something beside, ``refused`` hears what an
        agent says that will not have the operator.
        """
        self._config = config
        self._operator = operator
        self._spawn = spawn
        self._refused = refused
        self._links: dict[str, AgentLink] = {}
        self._visited: set[str] = set()
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._again: dict[str, tuple[float, float]] = {}

    def look(self, pod: Object) -> None:
        """An idle pod has changed: connect once it is ready."""
        who = uid(pod)
        ready = condition(pod, "Ready").get("status") == "True"
        if owner(pod, "Sandbox") is not None or leaving(pod) or not ready:
            return
        link = self._links.get(who)
        if who in self._visited or (link is not None and not link.lost.done()):
            return
        moment, (pause, until) = time.monotonic(), self._again.get(who, (_FIRST_PAUSE, 0.0))
        if moment < until:
            return
        self._again[who] = min(2 * pause, _LONGEST_PAUSE), moment + pause
        self._visited.add(who)
        self._spawn(self._visit(pod))

    async def _visit(self, pod: Object) -> None:
        try:
            async with self._turns[pod["metadata"]["namespace"]]:
                if uid(pod) not in self._visited:
                    return  # it was claimed, or is gone
                link = await AgentLink.connect(
                    pod["status"]["podIP"],
                    uid(pod),
                    self._operator,
                    config=self._config(pod).message(),
                    claim=None,
                )
        except (OSError, LookupError):
            return  # whoever claims it finds out
        except LinkLost as problem:
            self._refused(problem)
            return
        else:
            # Perhaps it was claimed meanwhile, by somebody who connected himself, or is gone.
            if uid(pod) in self._visited:
                self._links[uid(pod)] = link
            else:
                link.close("it is not needed")
        finally:
            self._visited.discard(uid(pod))

    async def take(self, pod: Object, claim: Claim | None) -> AgentLink | None:
        """The link to a pod that was claimed, which serves that holder from here on; None where there is none."""
        self._forget(uid(pod))
        link = self._links.pop(uid(pod), None)
        if link is None or link.lost.done():
            return None
        try:
            if claim is not None:
                await link.hold(claim)
        except LinkLost as problem:
            _LOG.info("a link to an idle pod failed: %s", problem, extra={"data": {"pod": name(pod)}})
            link.close("it failed")
            return None
        return link

    def gone(self, pod: Object) -> None:
        """A pod is no more."""
        self._forget(uid(pod))
        link = self._links.pop(uid(pod), None)
        if link is not None:
            link.close("the pod is gone")

    def keep(self, there: Collection[str]) -> None:
        """Only the links to these pods: what no event told."""
        for who in [each for each in self._links if each not in there]:
            self._links.pop(who).close("the pod is gone")
        for who in [each for each in self._again if each not in there]:
            self._forget(who)

    def _forget(self, who: str) -> None:
        self._visited.discard(who)
        self._again.pop(who, None)
