"""Admitted clients of an agent that listens, and the requests that each may make.

The *operator* runs tasks: it alone keeps them in order. The *holder* is the client whose sandbox this is: files,
output, background processes, checkpoints, and being told of tasks.
"""

from __future__ import annotations

from pytest_arl.agent import auth, exact, frames
from pytest_arl.agent.connection import Connection
from pytest_arl.agent.handshake import reject
from pytest_arl.agent.task_registry import LONGEST_PROOF
from pytest_arl.agent.tasks import LONGEST_ID, MOST_STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from pytest_arl.agent import message_types as messages
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.registration import Registration
    from pytest_arl.agent.step_types import StepMessage

__all__ = ["Client", "HolderClient", "OperatorClient", "asked"]

_MOST_SUPPLIES = 4
_DIGEST_DIGITS, _LONGEST_BOOT = 64, 64


class Client(Connection):
    """Somebody who was admitted, until the connection ends. It never ends the agent, nor a task."""

    def __init__(self, registration: Registration, socket: _socket.socket, left: Callable[[Client], None]) -> None:
        """``left`` is called once, when the connection ends."""
        super().__init__(registration.parts, registration.tasks, socket.fileno(), self._gone)
        self.registration = registration
        self._socket = socket
        self._left = left

    def ready(self, nonce: bytes | None) -> None:
        """Say that it is served from here on, with a proof of the mark, where one is asked for by a nonce."""
        parts = self.parts
        held, running = bool(self.registration.holder), self.tasks.running
        said: messages.Ready = {"configured": parts.configured, "held": held, "running": running}
        mark = self._mark()
        if nonce is not None and mark is not None:
            said["proof"] = auth.proof(mark, nonce)
        self.link.send(frames.READY, 0, said)

    def _mark(self) -> bytes | None:
        """The mark that its like has left here, to know this agent again."""
        raise NotImplementedError

    def dismiss(self, text: str) -> None:
        """Say why, and close."""
        torn = self.link.torn
        self._leave()
        reject(self._socket, text, torn=torn)

    def _gone(self, problem: frames.ProtocolError | None) -> None:
        if problem is not None:
            self.dismiss(str(problem))
        else:
            self._leave()
            self._socket.close()

    def _leave(self) -> None:
        self.close()
        self._left(self)

    def _serve(self, handler: Callable[[int, Any], None], stream: int, request: Said[Any]) -> None:
        if self.parts.configured or handler == self._ping:
            super()._serve(handler, stream, request)
        else:
            self.refuse(stream, "the agent is not configured")


class OperatorClient(Client):
    """The operator, or one that was it: only the newest epoch's runs tasks.

    Attributes:
        epoch: as whose leader it was admitted.
    """

    def __init__(
        self, registration: Registration, socket: _socket.socket, left: Callable[[Client], None], epoch: int
    ) -> None:
        super().__init__(registration, socket, left)
        self.epoch = epoch

    def _received(self, kind: int, stream: int, value: object) -> None:
        if kind == frames.HELLO and isinstance(value, dict) and not self.link.closed:
            self.told(value)
        else:
            super()._received(kind, stream, value)

    def told(self, hello: Said[messages.ClientHelloKey]) -> None:
        """Configure the agent and name the sandbox's holder; each is said once."""
        nonce = None
        try:
            nonce = asked(hello)
            self.registration.mark = self.registration.mark or mark_of(hello, "mark")
            if hello.get("config") is not None:
                self.registration.configure(hello["config"])
            problem = self.registration.hold(hello.get("holder"), mark_of(hello, "holderMark"))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = "a config is malformed: " + type(error).__name__ + ": " + str(error)
        if problem is None:
            self.ready(nonce)
        else:
            self.dismiss(problem)

    def _mark(self) -> bytes | None:
        return self.registration.mark

    def _task(self, stream: int, request: Said[messages.TaskKey]) -> None:
        payload = exact.maybe(exact.text, request, "payload", _DIGEST_DIGITS)
        if exact.text(request, "boot", _LONGEST_BOOT) != self.registration.boot:
            self.refuse(stream, "another boot")
        elif exact.integer(request, "epoch", 0, exact.LARGEST) < self.registration.epoch:
            self.refuse(stream, "older epoch")
        elif payload is None or self.tasks.get(exact.text(request, "id", LONGEST_ID)) is not None:
            super()._task(stream, request)
        else:
            steps = self.registration.supplies.get(payload)
            if steps is None:
                self.refuse(stream, "payload not supplied")
                return
            super()._task(stream, request | {"steps": steps})
            del self.registration.supplies[payload]


class HolderClient(Client):
    """The client that holds the sandbox."""

    def __init__(self, registration: Registration, socket: _socket.socket, left: Callable[[Client], None]) -> None:
        super().__init__(registration, socket, left)
        self._handlers[frames.SUPPLY] = self._supply
        self._handlers[frames.SPEND] = self._spend

    def _mark(self) -> bytes | None:
        return self.registration.holder_mark

    def _task(self, stream: int, _request: Said[messages.TaskKey]) -> None:
        self.refuse(stream, "the sandbox's holder cannot run tasks here: tasks come from the operator")

    def _spend(self, stream: int, request: Said[messages.SpendKey]) -> None:
        """Its own Task is over, and nothing told it that this agent had it: others may still make an object with the
        same proof.
        """
        proof = exact.text(request, "once", LONGEST_PROOF)
        why_not = self.tasks.spend(proof)
        if why_not is None:
            ran, runs = self.tasks.was_run(proof)
            self._reply(stream, {"ran": ran, "runs": runs})
        else:
            self.refuse(stream, why_not)

    def _supply(self, stream: int, request: Said[messages.SupplyKey]) -> None:
        """Keep steps that no Task object can carry, until a TASK names their digest."""
        steps: list[StepMessage] = exact.items(request, "steps", MOST_STEPS)
        supplies = self.registration.supplies
        supplies[auth.digest(frames.encode(steps)).hex()] = steps
        while len(supplies) > _MOST_SUPPLIES:
            del supplies[next(iter(supplies))]
        self._reply(stream, {})


def asked(hello: Said[messages.ClientHelloKey]) -> bytes | None:
    """The nonce by which a peer asks for a proof; None where it asks for none. Inexact for anything else."""
    return _exactly(hello, "ask", auth.NONCE_BYTES)


def mark_of(hello: Said[messages.ClientHelloKey], key: messages.ClientHelloKey) -> bytes | None:
    """A mark that an operator leaves; None where there is none. Inexact for anything else."""
    return _exactly(hello, key, auth.MARK_BYTES)


def _exactly(hello: Said[messages.ClientHelloKey], key: messages.ClientHelloKey, size: int) -> bytes | None:
    found = exact.maybe(exact.data, hello, key, size)
    if found is not None and len(found) != size:
        raise exact.Inexact("'" + key + "' must be " + str(size) + " bytes")
    return found
