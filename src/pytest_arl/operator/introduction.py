"""Words of an introduction between operator and agent: who each is, whose the sandbox is, and how one refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.agent import exact

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import Claim as ClaimMessage
    from pytest_arl.agent.message_types import ClientHello, HelloKey, ReadyKey, RefusalKey

    Sign = Callable[[bytes, str, str], bytes]
    """Nonce, pod UID and boot to a signature."""

__all__ = [
    "MOST_UID",
    "NONCE_BYTES",
    "OLDER_EPOCH",
    "AnotherAgent",
    "Claim",
    "Hello",
    "Introduction",
    "LinkLost",
    "Refusal",
    "refusal",
]

OLDER_EPOCH = "older epoch"
"""An agent's refusal of an operator: it has seen a newer leader. An agent can say so whatever it has seen."""

_MOST_WORDS = 1024
MOST_UID = 64
NONCE_BYTES = 32


class LinkLost(Exception):
    """The connection has ended, or what came over it was not an agent's.

    Attributes:
        code: the agent's refusal, word for word, where it refused the operator; else empty.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class AnotherAgent(LinkLost):
    """Another agent than the one that was known: it was started anew, or something else has its port."""


class Claim(NamedTuple):
    """The holder of a sandbox, as its agent is told.

    Attributes:
        holder: the digest of the secret that the holder will show.
        mark: by which the holder knows the agent again; None for a client that has no key with this operator.
    """

    holder: str
    mark: bytes | None

    def message(self) -> ClaimMessage:
        """The message that is sent."""
        return {"holder": self.holder} if self.mark is None else {"holder": self.holder, "holderMark": self.mark}

    def add_to(self, hello: ClientHello) -> None:
        """As it is sent with an operator's first message."""
        hello["holder"] = self.holder
        if self.mark is not None:
            hello["holderMark"] = self.mark


class Introduction(NamedTuple):
    """The operator, as it shows itself to an agent.

    Attributes:
        sign: what answers its nonce.
        marks: what the agent of a pod and boot is marked with; the first is left, each is known again.
        epoch: as whose leader.
    """

    sign: Sign
    marks: Callable[[str, str], list[bytes]]
    epoch: int


class Refusal(NamedTuple):
    """An ERROR of an agent.

    Attributes:
        code: its whole text where that is one of ours, to be compared and never to be searched; else empty.
        text: for people.
    """

    code: str
    text: str


def refusal(value: object) -> Refusal:
    """An agent's refusal, from an ERROR's value of any kind."""
    said: Said[RefusalKey] = value if isinstance(value, dict) else {}
    try:
        text = exact.text(said, "text", 64 * 1024)
    except exact.Inexact:
        text = ""
    return Refusal(text if len(text) <= _MOST_WORDS else "", text[:_MOST_WORDS] or "it gives no reason")


class Hello:
    """An agent's account of itself; Inexact where a part of it is missing or wrong.

    Attributes:
        boot: changes with each start.
        pod: the UID of its pod.
        running: the task that runs, or None.
    """

    def __init__(self, hello: Said[HelloKey], ready: Said[ReadyKey]) -> None:
        self.boot = exact.text(hello, "boot", MOST_UID)
        self.pod = exact.text(hello, "pod", MOST_UID)
        self.running = exact.maybe(exact.text, ready, "running", MOST_UID)
