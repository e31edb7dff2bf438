"""Sandboxes in the queue for a pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from pytest_arl.operator.objects import Object

__all__ = ["PodInvalid", "Waiter"]


class PodInvalid(Exception):
    """No pod can be made as the sandbox asks for it."""


@dataclass(slots=True)
class Waiter:
    """A sandbox that wants a pod.

    Attributes:
        sandbox: whose it is.
        pod: what it gets; cancelled where it no longer waits.
        since: its creation, for the order.
    """

    sandbox: Object
    pod: asyncio.Future[Object]
    since: tuple[str, str]
