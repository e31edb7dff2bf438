"""Results of the steps that ended, and the subscribers to those that end."""

from __future__ import annotations

from pytest_arl.agent import exact, frames
from pytest_arl.agent.pipes import Push

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.link import Link
    from pytest_arl.agent.message_types import TaskKey
    from pytest_arl.agent.spool import Capture
    from pytest_arl.agent.step_types import StepEnd

__all__ = ["Record", "Subscriber"]


class Subscriber:
    """Somebody who is told of a task: on which stream of which link, and what of the output he keeps; ``brief`` is one
    who sees by a step's result that it was the last, and is told nothing more.

    Inexact for a request that does not say so properly.
    """

    __slots__ = ("brief", "limit", "link", "live", "stream")

    def __init__(self, link: Link, stream: int, request: Said[TaskKey]) -> None:
        self.link = link
        self.stream = stream
        self.limit = exact.integer(request, "limit", 0, exact.LARGEST)
        self.live = exact.flag(request, "live")
        self.brief = exact.flag(request, "brief")

    def pushes(self, step: int) -> tuple[Push, Push]:
        """Pushes that pass a step's stdout and stderr on to the subscriber."""
        return (
            Push(self.link, self.stream, step, frames.STDOUT, limit=self.limit, live=self.live),
            Push(self.link, self.stream, step, frames.STDERR, limit=self.limit, live=self.live),
        )

    def tell(self, kind: int, body: bytes) -> None:
        """Send him an encoded value."""
        self.link.send_frames(self.stream, frames.split(kind, self.stream, body))


class Record:
    """The record of a step that ended: its result as it went out, and its captures where they did not fit into it."""

    __slots__ = ("body", "captures")

    def __init__(self, body: bytes, captures: tuple[Capture, Capture] | None) -> None:
        self.body = body
        self.captures = captures

    def replay(self, step: int, subscriber: Subscriber) -> Generator[bytes, None, None]:
        """The frames that tell a subscriber of it."""
        body = self.body
        if self.captures is not None:
            for push, capture in zip(subscriber.pushes(step), self.captures, strict=True):
                if subscriber.live:
                    yield from push.catch_up(capture)
                yield from push.rest(capture)
        elif len(body) > subscriber.limit:
            body = yield from self._shortened(step, subscriber)
        yield frames.split(frames.STEP, subscriber.stream, body)

    def _shortened(self, step: int, subscriber: Subscriber) -> Generator[bytes, None, bytes]:
        """Cut a record for a client that keeps less than was sent with the result (but give all of it to one that
        watches), and the result without it.
        """
        result: StepEnd = frames.decode(self.body)  # type: ignore[assignment]  # a record's body is a STEP's
        texts = result.pop("o", b""), result.pop("e", b"")
        if max(map(len, texts)) <= subscriber.limit:
            return self.body
        result["out"], result["err"] = len(texts[0]), len(texts[1])
        head = subscriber.limit // 2
        prefix = frames.STEP_INDEX.pack(step)
        for kind, text in zip((frames.STDOUT, frames.STDERR), texts, strict=True):
            tail = text[max(head, len(text) - (subscriber.limit - head)) :]
            yield frames.frame(kind, subscriber.stream, prefix + (text if subscriber.live else text[:head]))
            yield frames.frame(kind + (frames.STDOUT_TAIL - frames.STDOUT), subscriber.stream, prefix + tail)
        return frames.encode(result)
