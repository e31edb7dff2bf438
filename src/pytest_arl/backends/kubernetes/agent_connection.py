"""The holder's channel to a sandbox's agent: opened by its first use, and anew where its connection broke."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from pytest_arl.agent.auth import NONCE_BYTES, proof
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import ChannelLost, ChannelTimeout
from pytest_arl.backends.kubernetes.portforward import Forward, open_forward
from pytest_arl.backends.kubernetes.refusals import Refused, explained
from pytest_arl.cluster.pod import PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import ReadyKey
    from pytest_arl.backends.kubernetes.api import Api

__all__ = ["AgentConnection"]

_GREETING_SECONDS = 15.0


class AgentConnection:
    """One sandbox's channel, and the secret that admits it. Thread-safe."""

    def __init__(
        self, api: Api, namespace: str, secret: bytes, mark: bytes | None, pod: Callable[[], tuple[str, str]]
    ) -> None:
        """``mark``: what the operator has left with the agent, if anything. ``pod()`` names the sandbox's pod, and the
        agent that is in it by its boot id.
        """
        self._api = api
        self._namespace = namespace
        self._secret = secret
        self._mark = mark
        self._pod = pod
        self._lock = threading.Lock()
        self._open: tuple[Channel, Forward] | None = None
        self._closed = threading.Event()

    def channel(self) -> Channel:
        """The channel. Raises ChannelLost, ChannelTimeout, PermissionDenied."""
        with self._lock:
            if self._open is not None and self._open[0].hung_up:
                self._drop()
            if self._open is None and not self._closed.is_set():
                self._open = self._connect()
            if self._closed.is_set():  # perhaps meanwhile: close() does not wait for this thread
                self._drop()
            if self._open is None:
                raise ChannelLost("the sandbox is closed")
            return self._open[0]

    def _connect(self) -> tuple[Channel, Forward]:
        pod, boot = self._pod()
        if not pod:
            raise ChannelLost("its Sandbox has no pod")
        forward = self._forward(pod)
        channel = Channel(
            forward.socket, lost=lambda: f"the connection to its agent ended: {forward.said}".rstrip(": ")
        )
        try:
            # At once, without waiting for the agent's greeting: see Channel.introduce.
            nonce = os.urandom(NONCE_BYTES)
            ready = channel.introduce(messages.holder_hello(self._secret, nonce), time.monotonic() + _GREETING_SECONDS)
            self._check_boot(channel, boot)
            self._check_mark(channel, ready, nonce)
        except ChannelTimeout:
            channel.close()
            forward.close()
            raise ChannelLost(f"its agent has not answered the handshake for {_GREETING_SECONDS:.0f} s") from None
        except BaseException:
            channel.close()
            forward.close()
            raise
        return channel, forward

    @staticmethod
    def _check_boot(channel: Channel, boot: str) -> None:
        if channel.boot_id != boot:
            raise channel.fail("its agent was restarted: its earlier state is lost")

    def _check_mark(self, channel: Channel, ready: Said[ReadyKey], nonce: bytes) -> None:
        """Fail where it has no proof. Any boot id can be repeated: everybody in the namespace can read it."""
        if self._mark is not None and ready.get("proof") != proof(self._mark, nonce):
            raise channel.fail("the process on its agent's port cannot prove that it is the agent")

    def _forward(self, pod: str) -> Forward:
        try:
            return open_forward(self._api.access, self._namespace, pod, PORT)
        except ConnectionError as error:
            raise ChannelLost(str(error)) from None
        except Refused as refused:
            if refused.status in (401, 403):
                doing = f"opening a port-forward to pod {pod}, which files, live output and background processes need"
                raise explained(refused, doing, self._api.where(self._namespace)) from None
            raise ChannelLost(f"pod {pod} refused a port-forward: {refused.message or refused.status}") from None

    def _drop(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            channel, forward = opened
            channel.close()
            forward.close()

    def drop(self) -> None:
        """Give the connection up: the next use opens another."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Close it for good. Idempotent; wakes whoever waits for an answer."""
        self._closed.set()
        opened = self._open
        if opened is not None:
            opened[0].close()  # without the lock: who holds it may be waiting for this very end
            opened[1].close()
