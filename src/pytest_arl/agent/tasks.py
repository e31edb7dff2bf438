"""Tasks: steps in order, each ended on time with its whole tree, each task at most once.

A task is known by its id for as long as its record is kept: a second request for it is answered from the record, or
attached to the run that is under way; nothing is run again.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time

from pytest_arl.agent import files, frames
from pytest_arl.agent.command import CannotStart, Pipes, Push, spawn
from pytest_arl.agent.foreground import Foreground
from pytest_arl.agent.spool import INLINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_arl.agent.background import Background
    from pytest_arl.agent.server import Server
    from pytest_arl.agent.spool import Capture

__all__ = ["Task", "Tasks", "ended"]

TIMED_OUT_CODE = 124
"""What timeout(1) of the GNU coreutils exits with."""

_KEPT_BYTES = 8 * 1024 * 1024
_TURN_SECONDS = 0.05
_STDERR_END = 4096


def ended(status: int, reason: str | None) -> dict[str, Any]:
    """A wait status, and why the agent ended the program if it did, as a result's outcome, exit code and signal."""
    signal = None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        code = 128 + number
        signal = _signal_name(number)
    else:
        code = os.WEXITSTATUS(status)
    if reason is not None:
        outcome = reason
        code = TIMED_OUT_CODE if reason == "TimedOut" else code or 128 + int(_signal.SIGKILL)
    else:
        outcome = "Killed" if signal else "Failed" if code else "Succeeded"
    return {"outcome": outcome, "code": code, "signal": signal}


def _signal_name(number: int) -> str:
    for name in dir(_signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and getattr(_signal, name) == number:
            return name
    return "SIG" + str(number)


class Record:
    """What is kept of a step that ended: its result as it went out, and its captures where they did not fit into it."""

    __slots__ = ("body", "captures")

    def __init__(self, body: bytes, captures: tuple[Capture, Capture] | None) -> None:
        self.body = body
        self.captures = captures


class Task:
    """One task, from its request to its last result."""

    def __init__(self, server: Server, stream: int, request: dict[str, Any]) -> None:
        self._server = server
        self._loop = server.loop
        self.stream = stream
        self.id = str(request["id"])
        self._steps: list[dict[str, Any]] = request["steps"]
        self._timeout = _seconds(request.get("timeout"))
        self._limit = int(request["limit"])
        self._live = bool(request.get("live"))
        self.records: list[Record] = []
        self.background: dict[int, Background] = {}
        self.done = False
        self._deadline: float | None = None
        self._foreground: Foreground | None = None

    def start(self) -> None:
        """Run the first step."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        self._advance()

    def cancel(self) -> None:
        """End the running step; the rest is not run."""
        if self._foreground is not None:
            self._foreground.end("Cancelled")

    def attach(self, stream: int) -> None:
        """Answer another request for this task: what there is now, and what comes on that stream from here on."""
        self.stream = stream
        self._server.link.send_from(self._replay(stream, list(self.records), self.done))
        if self._foreground is not None:
            self._foreground.attach(self._pushes(len(self.records)))

    def release(self) -> None:
        """Nobody can ask for this task any more."""
        for record in self.records:
            for capture in record.captures or ():
                capture.release()
        for process in self.background.values():
            for capture in process.pipes.captures:
                capture.release()

    @property
    def kept_bytes(self) -> int:
        """Memory that the records take, about."""
        return sum(len(record.body) + 100 for record in self.records) + 500

    def _replay(self, stream: int, records: list[Record], done: bool) -> Iterator[bytes]:
        for index, record in enumerate(records):
            if record.captures is not None:
                for push, capture in zip(self._pushes(index), record.captures, strict=True):
                    yield from push.rest(capture)
            yield frames.frame(frames.STEP, stream, record.body)
        if done:
            yield frames.message(frames.DONE, stream, {"ran": len(records)})

    def _pushes(self, step: int) -> tuple[Push, Push]:
        link = self._server.link
        return (
            Push(link, self.stream, step, frames.STDOUT, limit=self._limit, live=self._live),
            Push(link, self.stream, step, frames.STDERR, limit=self._limit, live=self._live),
        )

    def _advance(self) -> None:
        """Run steps until one takes time, one fails, or none is left."""
        turn = time.monotonic() + _TURN_SECONDS
        failed = False
        while len(self.records) < len(self._steps) and not failed:
            now = time.monotonic()
            if now > turn:
                self._loop.call_at(now, self._advance)
                return
            if self._deadline is not None and now >= self._deadline:
                self._short({"outcome": "TimedOut", "code": TIMED_OUT_CODE, "limit": "timeout"}, b"", b"")
                break
            step = self._steps[len(self.records)]
            if step["type"] == "FilePatch":
                failed = not self._patch(step)
            elif step.get("background"):
                self._start_background(step)
                return
            elif self._start(step):
                return
            else:
                failed = True
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self._server.link.send(frames.message(frames.DONE, self.stream, {"ran": len(self.records)}))
        self._server.tasks.finished(self)

    def _step_done(self, succeeded: bool) -> None:
        if succeeded:
            self._advance()
        else:
            self._finish()

    def _patch(self, step: dict[str, Any]) -> bool:
        """Run a FilePatch."""
        path, content, mode = step["path"], step["content"], step.get("mode")
        began, at = time.monotonic(), time.time()
        try:
            if not isinstance(path, bytes) or not isinstance(content, bytes):
                raise TypeError("a FilePatch needs path and content")
            files.replace_file(self._server.places.real(path), content, mode)
        except OSError as error:
            reason = error.strerror or str(error)
            text = b"arl: cannot write " + bytes(path) + b": " + reason.encode() + b"\n"
            result: dict[str, Any] = {"outcome": "Failed", "code": 1, "limit": self._server.limits.blame(text)}
            self._short(result | {"at": at, "s": time.monotonic() - began}, b"", text)
            return False
        self._short(
            {"outcome": "Succeeded", "code": 0, "at": at, "s": time.monotonic() - began},
            b"File created: " + path + b"\n",
            b"",
        )
        return True

    def _start(self, step: dict[str, Any]) -> bool:
        """Start a Command; whether it runs. What cannot be started is a failed step."""
        server = self._server
        pipes, argv, env, cwd = self._prepare(step)
        server.limits.begin()
        deadline = self._deadline_of(step, pipes)
        if server.backgrounds.alive():
            foreground = Foreground(server, pipes, deadline, self._over)
            foreground.supervise(argv, env, cwd, lambda problem: self._never_ran(argv, problem))
        else:
            try:
                pid = spawn(argv, env, cwd, pipes.stdio, server.oom)
            except CannotStart as problem:
                pipes.abandon()
                self._cannot_start(argv, problem)
                return False
            foreground = Foreground(server, pipes, deadline, self._over)
            foreground.child(pid)
        pipes.listen(self._pushes(len(self.records)))
        self._feed(pipes, step)
        self._foreground = foreground
        return True

    def _deadline_of(self, step: dict[str, Any], pipes: Pipes) -> float | None:
        deadlines = [self._deadline] if self._deadline is not None else []
        timeout = _seconds(step.get("timeout"))
        if timeout is not None:
            deadlines.append(pipes.started + timeout)
        return min(deadlines, default=None)

    def _never_ran(self, argv: list[bytes], problem: CannotStart) -> None:
        """The supervisor of the running Command could not start it."""
        foreground, self._foreground = self._foreground, None
        if foreground is not None:
            foreground.pipes.drain()
        self._cannot_start(argv, problem)
        self._finish()

    def _start_background(self, step: dict[str, Any]) -> None:
        pipes, argv, env, cwd = self._prepare(step, background=True)
        index = len(self.records)
        process = self._server.backgrounds.new(pipes)
        self._server.limits.begin()

        def too_late() -> None:
            if process.status is None:
                process.kill("TimedOut", "timeout")

        def started(problem: CannotStart | None) -> None:
            if problem is not None:
                pipes.drain()
                self._cannot_start(argv, problem)
                self._finish()
                return
            self.background[index] = process
            timeout = _seconds(step.get("timeout"))
            if timeout is not None:
                self._loop.call_at(pipes.started + timeout, too_late)
            self._feed(pipes, step)
            self._short(
                {"outcome": "Succeeded", "code": 0, "at": pipes.started_at, "s": time.monotonic() - pipes.started},
                b"",
                b"",
            )
            self._advance()

        process.start(argv, env, cwd, self._server.oom, started)
        pipes.listen((None, None))

    def _prepare(
        self, step: dict[str, Any], *, background: bool = False
    ) -> tuple[Pipes, list[bytes], dict[bytes, bytes], bytes]:
        argv: list[bytes] = step["argv"]
        added: list[bytes] = step.get("env") or []
        cwd: bytes = step.get("cwd") or b"."
        env = dict(self._server.env)
        for pair in added:
            key, _, value = pair.partition(b"=")
            env[key] = value
        stdin = background or step.get("stdin") is not None
        pipes = Pipes(self._loop, self._server.spool, stdin=stdin, keep_ends=self._limit // 2)
        return pipes, argv, env, self._server.places.absolute(cwd)

    @staticmethod
    def _feed(pipes: Pipes, step: dict[str, Any]) -> None:
        stdin = step.get("stdin")
        if pipes.feed is not None and isinstance(stdin, bytes):
            pipes.feed.write(stdin)
            pipes.feed.close()

    def _cannot_start(self, argv: list[bytes], problem: CannotStart) -> None:
        text = "arl: cannot start " + argv[0].decode("utf-8", "replace") + ": " + problem.reason + "\n"
        result: dict[str, Any] = {"outcome": "Failed", "code": problem.code, "at": time.time(), "s": 0.0}
        self._short(result, b"", text.encode("utf-8", "surrogateescape"))

    def _short(self, result: dict[str, Any], stdout: bytes, stderr: bytes) -> None:
        """A result that the agent itself produced."""
        self._record(result | {"out": len(stdout), "err": len(stderr), "o": stdout, "e": stderr}, None)

    def _over(self) -> None:
        """The running Command is over, and nothing of it lives."""
        foreground, self._foreground = self._foreground, None
        if foreground is None or foreground.status is None:
            raise RuntimeError("a step is over before its program is")
        pipes = foreground.pipes
        pipes.drain()
        result = ended(foreground.status, foreground.reason)
        limit = self._blame(result, foreground)
        stdout, stderr = pipes.captures
        result |= {"limit": limit, "s": foreground.ended_at - pipes.started}
        result |= {"at": pipes.started_at, "out": stdout.size, "err": stderr.size}
        pushes = [output.push for output in pipes.outputs if output.push is not None]
        inline = stdout.inline, stderr.inline
        if None not in inline and all(push.quiet for push in pushes):
            self._record(result | {"o": inline[0], "e": inline[1]}, None)
        else:
            self._server.link.send_from(
                piece for push, capture in zip(pushes, pipes.captures, strict=True) for piece in push.rest(capture)
            )
            self._record(result, pipes.captures)
        self._step_done(result["outcome"] == "Succeeded")

    def _blame(self, result: dict[str, Any], foreground: Foreground) -> str | None:
        """The limit that ended a Command; a kill for memory is given its name in ``result``."""
        limits = self._server.limits
        if foreground.reason is None and result["outcome"] != "Succeeded":
            capture = foreground.pipes.captures[1]
            limit = limits.blame(b"".join(capture.read(max(0, capture.size - _STDERR_END), capture.size)))
            if result["signal"] == "SIGKILL" and limit == "memory":
                result["outcome"] = "OutOfMemory"
            return limit
        if foreground.reason == "TimedOut" and limits.refused_processes():
            return "processes"
        return foreground.limit

    def _record(self, result: dict[str, Any], captures: tuple[Capture, Capture] | None) -> None:
        body = frames.encode(result | {"i": len(self.records)})
        self.records.append(Record(body, captures))
        self._server.link.send(frames.frame(frames.STEP, self.stream, body))


class Tasks:
    """Every task that is remembered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tasks: dict[str, Task] = {}
        self._running: Task | None = None
        self._kept = 0
        server.spool.make_room = self._forget_oldest

    def submit(self, stream: int, request: dict[str, Any]) -> None:
        """Run a task, or answer for one that was run."""
        known = self._tasks.get(str(request["id"]))
        if known is not None:
            known.attach(stream)
        elif self._running is not None:
            self._server.refuse(stream, "task " + self._running.id + " is running; a sandbox runs one at a time")
        else:
            task = Task(self._server, stream, request)
            self._tasks[task.id] = self._running = task
            task.start()

    def cancel(self, task_id: str) -> None:
        """End the running step of that task, if it runs."""
        if self._running is not None and self._running.id == task_id:
            self._running.cancel()

    def get(self, task_id: object) -> Task | None:
        """A task that is still remembered."""
        return self._tasks.get(str(task_id))

    def all(self) -> list[Task]:
        """Every task that is still remembered, oldest first."""
        return list(self._tasks.values())

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return self._running is not None

    def finished(self, task: Task) -> None:
        """A task ended: keep it, and let go of old ones while all of them take too much memory."""
        self._running = None
        self._kept += task.kept_bytes
        while self._kept > _KEPT_BYTES and self._forget_oldest():
            pass

    def _forget_oldest(self) -> bool:
        newest = next(reversed(self._tasks))
        for task_id, task in self._tasks.items():
            if task_id != newest and not any(process.alive for process in task.background.values()):
                del self._tasks[task_id]
                self._kept -= task.kept_bytes
                task.release()
                return True
        return False


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


assert INLINE * 2 < frames.MAX_PAYLOAD
