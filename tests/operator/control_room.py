"""An operator that leads, with no cluster but a program that answers as its API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pytest_arl.operator.context import Context
from pytest_arl.operator.control import Control
from pytest_arl.operator.election import Leadership, Term
from pytest_arl.operator.keys import Keys
from pytest_arl.operator.rounds import Rounds
from pytest_arl.operator.template import Agent
from pytest_arl.operator.watching import Watching
from tests.operator.api_server import ApiServer, serving

_PEM = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@dataclass
class Room:
    """An operator and what it speaks to."""

    server: ApiServer
    context: Context
    control: Control
    watching: Watching
    rounds: Rounds

    async def until(self, found: Callable[[], Any], seconds: float = 10.0) -> None:
        """Wait for something to be true."""
        async with asyncio.timeout(seconds):
            while not found():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def leading(monkeypatch: pytest.MonkeyPatch, namespaces: Sequence[str] = ()) -> AsyncIterator[Room]:
    """An operator of these or all namespaces that has listed nothing yet."""
    async with serving(monkeypatch) as (server, api):
        leadership = Leadership(api, "arl-system", "me", 15.0)
        leadership.epoch = 7
        term = Term("me", 7, leadership.confirm)
        context = Context(api, Keys({"key.pem": _PEM}), term, Agent("agent:1", None, "", b"secret"))
        control = Control(context, namespaces)
        watching = Watching(control)
        try:
            yield Room(server, context, control, watching, Rounds(control, watching.resync))
        finally:
            watching.stop()
