"""One client: each message that it may send is one method, and every answer goes back over the same link."""

from __future__ import annotations

import time

from pytest_arl.agent import checkpoint, departure, exact, files, frames, transfer
from pytest_arl.agent.foreground import ending
from pytest_arl.agent.link import Link, refusal
from pytest_arl.agent.pipes import Push
from pytest_arl.agent.records import Subscriber
from pytest_arl.agent.tasks import LONGEST_ID, LONGEST_PATH, MOST_STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any

    from pytest_arl.agent import message_types as messages
    from pytest_arl.agent.background import Background
    from pytest_arl.agent.checkpoint import Manifest
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.parts import AgentParts
    from pytest_arl.agent.spool import Capture
    from pytest_arl.agent.step_types import StepEnd
    from pytest_arl.agent.task_registry import TaskRegistry
    from pytest_arl.agent.tasks import Task

    Reply = (
        messages.Nothing | messages.Taken | messages.Process | messages.Arrived | messages.ResetAnswer | messages.Spent
    )


__all__ = ["Connection"]

_LONGEST_SECONDS = 1e10
_MOST_KEPT = 100_000


class Connection:
    """State of one peer of the agent: its link, its transfers, and the methods that its messages call.

    Attributes:
        link: the way back to the client.
    """

    def __init__(
        self, parts: AgentParts, tasks: TaskRegistry, fd: int, gone: Callable[[frames.ProtocolError | None], None]
    ) -> None:
        """``gone`` as a Link has it."""
        self.parts = parts
        self.tasks = tasks
        self.link = Link(parts.loop, fd, self._received, gone)
        self._arrivals: dict[int, transfer.Arrival | None] = {}
        self._handlers: dict[int, Callable[[int, Any], None]] = {
            frames.TASK: self._task,
            frames.ATTACH: self._attach,
            frames.CANCEL: self._cancel,
            frames.PROCESS: self._process,
            frames.FETCH: self._fetch,
            frames.WRITE: self._write,
            frames.PUT: self._put,
            frames.ENTRY: self._entry,
            frames.HOLE: self._hole,
            frames.END: self._end,
            frames.GET: self._get,
            frames.RESET: self._reset,
            frames.PING: self._ping,
        }

    def close(self) -> None:
        """The peer is gone: nothing is left of its transfers, and of a task only that nobody there is told of it."""
        self.link.close()
        arrivals, self._arrivals = self._arrivals, {}
        for arrival in arrivals.values():
            if arrival is not None:
                arrival.abandon()
        self.tasks.leave(self.link)

    def refuse(self, stream: int, text: str) -> None:
        """Answer a request with why it cannot be."""
        self._send_error(stream, {"text": text, "errno": 0, "path": b""})

    def _send_error(self, stream: int, error: messages.Refusal) -> None:
        self.link.send(frames.ERROR, stream, error)

    def _received(self, kind: int, stream: int, value: object) -> None:
        if self.link.closed:
            return  # by a message before this one
        if kind == frames.DATA:
            self._data(stream, value)
            return
        handler = self._handlers.get(kind)
        if handler is None or not isinstance(value, dict):
            raise frames.ProtocolError("the host may not send a message of type " + str(kind))
        self._serve(handler, stream, value)

    def _serve(self, handler: Callable[[int, Any], None], stream: int, request: Said[Any]) -> None:
        self._try(stream, handler, stream, request)

    def _try(self, stream: int, action: Callable[..., None], *arguments: object) -> bool:
        """Do something for a request. What it raises is that request's refusal, and never the agent's end."""
        try:
            action(*arguments)
        except frames.ProtocolError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._send_error(stream, refusal(error, "is malformed"))
            return False
        return True

    def _reply(self, stream: int, value: Reply) -> None:
        self.link.send(frames.REPLY, stream, value)

    def _ping(self, stream: int, _request: object) -> None:
        pong: messages.Pong = {"busy": self.parts.busy}
        self.link.send(frames.PONG, stream, pong)

    # Tasks

    def _task(self, stream: int, request: Said[messages.TaskKey]) -> None:
        problem = self.tasks.submit(request, Subscriber(self.link, stream, request))
        if problem is not None:
            self.refuse(stream, problem)

    def _attach(self, stream: int, request: Said[messages.TaskKey]) -> None:
        task_id = exact.text(request, "id", LONGEST_ID)
        problem = self.tasks.attach(task_id, Subscriber(self.link, stream, request))
        if problem is not None:
            self.refuse(stream, problem)

    def _cancel(self, _stream: int, request: Said[messages.CancelKey]) -> None:
        self.tasks.cancel(exact.text(request, "id", LONGEST_ID))

    # Output that is kept

    def _fetch(self, stream: int, request: Said[messages.FetchKey]) -> None:
        """Send a part of a stream: its reader asks for the next one when he has taken this."""
        task = self.tasks.get(exact.text(request, "task", LONGEST_ID))
        step, which = exact.integer(request, "step", 0, MOST_STEPS), exact.integer(request, "stream", 0, 1)
        start, most = exact.integer(request, "from", 0, exact.LARGEST), exact.integer(request, "most", 0, exact.LARGEST)
        capture = None if task is None else self._kept(task, step, which)
        if capture is None:
            self.refuse(stream, "the output of that step is no longer kept")
        elif isinstance(capture, bytes):
            self.link.send_from(stream, _send_part(stream, [capture[start : start + most]], len(capture), 0))
        else:
            end = min(capture.size, start + most)
            self.link.send_from(stream, _send_part(stream, capture.read(start, end), capture.size, capture.lost))

    @staticmethod
    def _kept(task: Task, step: int, which: int) -> bytes | Capture | None:
        """The kept part of a stream of a step that ended, or of a background process."""
        if step in task.background:
            return task.background[step].pipes.captures[which]
        if step >= len(task.records):
            return None
        record = task.records[step]
        if record.captures is not None:
            return record.captures[which]
        body: StepEnd = frames.decode(record.body)  # type: ignore[assignment]  # a record's body is a STEP's
        return body.get("e", b"") if which else body.get("o", b"")

    # Background processes

    def _process(self, stream: int, request: Said[messages.ProcessRequestKey]) -> None:
        task = self.tasks.get(exact.text(request, "task", LONGEST_ID))
        step = exact.integer(request, "step", 0, MOST_STEPS)
        process = task.background.get(step) if task is not None else None
        if process is None:
            self.refuse(stream, "there is no such background process")
            return
        action = exact.word(request, "do", ("wait", "kill", "write", "close", "output"))
        feed = process.pipes.feed
        if action == "wait":
            self._wait(stream, process, request, _limit(request))
        elif action == "kill":
            process.kill("Killed")
            process.when_gone(lambda: self._reply(stream, {}))
        elif action == "write" and feed is not None:
            at = exact.integer(request, "at", 0, exact.LARGEST)
            data = feed.unseen(exact.data(request, "data", frames.MAX_MESSAGE), at)
            feed.write(data, lambda taken: self._reply(stream, {"taken": taken}))
        elif action == "close" and feed is not None:
            feed.close()
            self._reply(stream, {})
        elif action == "output":
            self._send_process(stream, process, _limit(request))
        else:
            self.refuse(stream, "a background process has no stdin")

    def _wait(self, stream: int, process: Background, request: Said[messages.ProcessRequestKey], limit: int) -> None:
        def ended() -> None:
            if timer is not None:
                timer.cancel()
            self._try(stream, self._send_process, stream, process, limit)

        def late() -> None:
            process.forget(ended)
            self._reply(stream, {"ended": False})

        timeout = exact.maybe(exact.number, request, "timeout", 0, _LONGEST_SECONDS)
        timer = None if timeout is None else self.parts.loop.call_at(time.monotonic() + timeout, late)
        process.when_ended(ended)

    def _send_process(self, stream: int, process: Background, limit: int) -> None:
        """Send what there is of a process: its output, and its result if it has ended."""
        for output in process.pipes.outputs:
            output.catch_up()

        def produce() -> Generator[bytes, None, None]:
            sizes = []
            for capture, kind in zip(process.pipes.captures, (frames.STDOUT, frames.STDERR), strict=True):
                sizes.append(capture.size)
                yield from Push(self.link, stream, 0, kind, limit=limit, live=False).rest(capture)
            result: messages.Process = {
                "out": sizes[0],
                "err": sizes[1],
                "at": process.pipes.started_at,
                "ended": process.status is not None,
            }
            if process.status is not None:
                how = ending(process.status, process.reason)
                result |= {"outcome": how["outcome"], "code": how["code"], "limit": process.limit, "u": process.used}
                result["s"] = process.ended - process.pipes.started
                if "signal" in how:
                    result["signal"] = how["signal"]
            yield frames.message(frames.REPLY, stream, result)

        self.link.send_from(stream, produce())

    # Files

    def _write(self, stream: int, request: Said[messages.WriteKey]) -> None:
        path, content = exact.data(request, "path", LONGEST_PATH), request["content"]
        if type(content) is not bytes and type(content) is not memoryview:
            raise TypeError("a file's content must be bytes")
        files.replace_file(
            self.parts.places.real(path), content, exact.maybe(exact.integer, request, "mode", 0, 0o7777)
        )
        self._reply(stream, {})

    def _put(self, stream: int, request: Said[messages.PutKey]) -> None:
        self._arrivals[stream] = None  # what follows is thrown away where this fails
        path = self.parts.places.real(exact.data(request, "path", LONGEST_PATH))
        self._arrivals[stream] = transfer.Arrival(path, merge=exact.flag(request, "merge"))

    def _entry(self, stream: int, request: Said[messages.EntryKey]) -> None:
        self._guard(stream, transfer.Arrival.entry, request)

    def _hole(self, stream: int, request: Said[messages.HoleKey]) -> None:
        self._guard(stream, transfer.Arrival.hole, request)

    def _data(self, stream: int, data: object) -> None:
        if not isinstance(data, bytes) or stream not in self._arrivals:
            raise frames.ProtocolError("the host may not send bytes outside of a transfer")
        self._guard(stream, transfer.Arrival.data, data)

    def _end(self, stream: int, request: Said[messages.TransferEndKey]) -> None:
        arrival = self._arrivals[stream]
        if arrival is not None and request.get("abort") is not None:
            arrival.abandon()
            self._reply(stream, {})
        else:
            self._guard(stream, self._finish, stream, request)
        del self._arrivals[stream]

    def _finish(self, arrival: transfer.Arrival, stream: int, request: Said[messages.TransferEndKey]) -> None:
        self._reply(stream, {"n": arrival.finish(exact.integer(request, "crc", 0, 0xFFFFFFFF))})

    def _guard(self, stream: int, action: Callable[..., None], *arguments: object) -> None:
        """Do something about a transfer under way; one that fails leaves nothing, and its rest is thrown away."""
        arrival = self._arrivals[stream]
        if arrival is not None and not self._try(stream, action, arrival, *arguments):
            self._arrivals[stream] = None
            arrival.abandon()

    def _get(self, stream: int, request: Said[messages.GetKey]) -> None:
        most_data = exact.integer(request, "data", 0, exact.LARGEST)
        most_size = exact.integer(request, "size", 0, exact.LARGEST)
        most_entries = exact.integer(request, "entries", 0, exact.LARGEST)
        root = self.parts.places.real(exact.data(request, "path", LONGEST_PATH))
        going = departure.Departure(root, stream, most_data=most_data, most_size=most_size, most_entries=most_entries)
        self.link.send_from(stream, going.frames(one_filesystem=exact.flag(request, "one_filesystem")))

    # Checkpoints where processes live on

    def _reset(self, stream: int, request: Said[messages.ResetKey]) -> None:
        action = exact.word(request, "do", ("alive", "mark", "forget", "return"))
        number = exact.integer(request, "id", 0, exact.LARGEST)
        if action == "alive":
            alive = [[task, step] for task, step, process in self.tasks.living() if process.status is None]
            self._reply(stream, {"alive": alive})
        elif action == "mark":
            self.parts.manifests[number] = checkpoint.Manifest(self.parts.roots)
            self._reply(stream, {})
        elif action == "forget":
            self.parts.manifests.pop(number, None)
            self._reply(stream, {})
        else:
            wanted = set(map(_kept_process, exact.items(request, "keep", _MOST_KEPT)))
            doomed = [process for task, step, process in self.tasks.living() if (task, step) not in wanted]
            for process in doomed:
                process.kill("Killed")
            self._return_without(doomed, stream, self.parts.manifests[number], time.monotonic() + 2)

    def _return_without(self, doomed: list[Background], stream: int, manifest: Manifest, deadline: float) -> None:
        """Put files and IPC objects back once only the kept processes live, and tell what the host must send."""
        if not self.parts.backgrounds.strays and not any(process.alive for process in doomed):
            self._reply(stream, {"changed": manifest.undo()})
        elif time.monotonic() > deadline:
            self.refuse(stream, "processes that were killed are still running")
        else:

            def again() -> None:
                self._try(stream, self._return_without, doomed, stream, manifest, deadline)

            self.parts.loop.call_at(time.monotonic() + 0.005, again)


def _limit(request: Said[messages.ProcessRequestKey]) -> int:
    """Bytes of each stream that the peer keeps."""
    return exact.integer(request, "limit", 0, exact.LARGEST)


def _kept_process(pair: object) -> tuple[str, int]:
    """A background process that is to live on: its task's id and its step."""
    if type(pair) is not list or len(pair) != 2:
        raise TypeError("a process must be named by its task and its step")
    named = {"task": pair[0], "step": pair[1]}
    return exact.text(named, "task", LONGEST_ID), exact.integer(named, "step", 0, MOST_STEPS)


def _send_part(stream: int, pieces: Iterable[bytes], size: int, lost: int) -> Generator[bytes, None, None]:
    for piece in pieces:
        yield frames.frame(frames.DATA, stream, piece)
    end: messages.OutputEnd = {"size": size, "lost": lost}
    yield frames.message(frames.END, stream, end)
