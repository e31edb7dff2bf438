"""Tasks: steps in order, each ended on time with its whole tree, each task at most once.

A task is known by its id for as long as its record is kept: a second request for it is answered from the record, or
attached to the run that is under way; nothing is run again.
"""

from __future__ import annotations

import time

from pytest_arl.agent import files, frames
from pytest_arl.agent.command import CannotStart, spawn
from pytest_arl.agent.foreground import CANCELLED_CODE, TIMED_OUT_CODE, Foreground, ending
from pytest_arl.agent.pipes import Pipes, Push
from pytest_arl.agent.spool import INLINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_arl.agent.background import Background
    from pytest_arl.agent.loop import Timer
    from pytest_arl.agent.server import Server
    from pytest_arl.agent.spool import Capture

__all__ = ["Task", "Tasks"]

_KEPT_BYTES = 8 * 1024 * 1024
_TASK_BYTES = 500
_PROCESS_BYTES = 4000
_TURN_SECONDS = 0.05
_STDERR_END = 4096
_LONGEST_NAME = 4096  # bytes of a word that messages quote


class Record:
    """What is kept of a step that ended: its result as it went out, and its captures where they did not fit into it."""

    __slots__ = ("body", "captures")

    def __init__(self, body: bytes, captures: tuple[Capture, Capture] | None) -> None:
        self.body = body
        self.captures = captures


class Task:
    """One task, from its request to its last result. TypeError for a request that has not the right shape."""

    def __init__(self, server: Server, stream: int, request: dict[str, Any]) -> None:
        self._server = server
        self._loop = server.loop
        self.stream = stream
        self.id = str(request["id"])
        self._steps = [_checked(step) for step in request["steps"]]
        self._timeout = _seconds(request.get("timeout"))
        self._limit = int(request["limit"])
        self._live = bool(request.get("live"))
        self.records: list[Record] = []
        self.background: dict[int, Background] = {}
        self.done = False
        self.counted = 0
        """What Tasks has counted for it, in bytes."""
        self._cancelled = False
        self._deadline: float | None = None
        self._foreground: Foreground | None = None
        self._starting: Timer | None = None

    def start(self) -> None:
        """Run the first step."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        self._advance()

    def cancel(self) -> None:
        """End the running step; the rest is not run."""
        self._cancelled = True
        if self._foreground is not None:
            self._foreground.end("Cancelled")

    def attach(self, stream: int) -> None:
        """Answer another request for this task: what there is now, and what comes on that stream from here on."""
        self.stream = stream
        link = self._server.link
        link.send_from(stream, self._replay(stream, list(self.records), self.done))
        if self._foreground is not None:
            pushes = self._pushes(len(self.records), stream)
            for output, push in zip(self._foreground.pipes.outputs, pushes, strict=True):
                output.push = push
                link.send_from(stream, push.catch_up(output.capture))

    @property
    def in_step(self) -> bool:
        """Whether a Command runs, so that there is something to be killed when it ends."""
        return self._foreground is not None

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
        """Memory that what is kept takes, about."""
        captures = [capture for record in self.records for capture in record.captures or ()]
        captures += [capture for process in self.background.values() for capture in process.pipes.captures]
        own = _TASK_BYTES + _PROCESS_BYTES * len(self.background)
        return own + sum(len(record.body) + 100 for record in self.records) + sum(each.memory for each in captures)

    def _replay(self, stream: int, records: list[Record], done: bool) -> Iterator[bytes]:
        for index, record in enumerate(records):
            if record.captures is not None:
                for push, capture in zip(self._pushes(index, stream), record.captures, strict=True):
                    yield from push.rest(capture)
            yield frames.split(frames.STEP, stream, record.body)
        if done:
            yield frames.message(frames.DONE, stream, {"ran": len(records)})

    def _pushes(self, step: int, stream: int) -> tuple[Push, Push]:
        link = self._server.link
        return (
            Push(link, stream, step, frames.STDOUT, limit=self._limit, live=self._live),
            Push(link, stream, step, frames.STDERR, limit=self._limit, live=self._live),
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
            if self._cancelled:
                self._short({"outcome": "Cancelled", "code": CANCELLED_CODE}, b"", b"")
                break
            if self._deadline is not None and now >= self._deadline:
                self._short({"outcome": "TimedOut", "code": TIMED_OUT_CODE, "limit": "timeout"}, b"", b"")
                break
            step = self._steps[len(self.records)]
            if step["type"] == "FilePatch":
                failed = not self._patch(step)
            elif self._start_background(step) if step.get("background") else self._start(step):
                return
            else:
                failed = True
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self._steps = []  # contents of files and stdin may be large
        self._server.link.send(frames.DONE, self.stream, {"ran": len(self.records)})
        self._server.tasks.finished(self)

    def _patch(self, step: dict[str, Any]) -> bool:
        """Run a FilePatch."""
        path, content, mode = step["path"], step["content"], step.get("mode")
        began, at = time.monotonic(), time.time()
        shown = path[:_LONGEST_NAME]
        try:
            files.replace_file(self._server.places.real(path), content, mode)
        except OSError as error:
            reason = error.strerror or str(error)
            text = b"arl: cannot write " + shown + b": " + reason.encode() + b"\n"
            result: dict[str, Any] = {"outcome": "Failed", "code": 1, "limit": self._server.limits.blame(text)}
            self._short(result | {"at": at, "s": time.monotonic() - began}, b"", text)
            return False
        self._short(
            {"outcome": "Succeeded", "code": 0, "at": at, "s": time.monotonic() - began},
            b"File created: " + shown + b"\n",
            b"",
        )
        return True

    def _start(self, step: dict[str, Any]) -> bool:
        """Start a Command; whether it runs. What cannot be started is a failed step."""
        server, argv, env = self._server, step["argv"], self._env(step)
        server.limits.begin()
        try:
            pipes, cwd = self._prepare(step, stdin=step.get("stdin") is not None)
            pid = 0 if server.backgrounds.alive() else self._spawn(pipes, argv, env, cwd)
        except CannotStart as problem:
            self._cannot_start(argv, problem)
            return False
        self._foreground = Foreground(server, pipes, self._deadline_of(step, pipes), self._over)
        if pid:
            self._foreground.child(pid)
        else:
            self._foreground.supervise(argv, env, cwd, lambda problem: self._never_ran(argv, problem))
        pipes.listen(self._pushes(len(self.records), self.stream))
        self._feed(pipes, step)
        return True

    def _spawn(self, pipes: Pipes, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes) -> int:
        try:
            return spawn(argv, env, cwd, pipes.stdio, self._server.oom)
        except CannotStart:
            pipes.abandon()
            raise

    def _never_ran(self, argv: list[bytes], problem: CannotStart) -> None:
        """The supervisor of the running Command could not start it."""
        foreground, self._foreground = self._foreground, None
        if foreground is not None:
            foreground.pipes.drain()
        self._cannot_start(argv, problem)
        self._finish()

    def _deadline_of(self, step: dict[str, Any], pipes: Pipes) -> float | None:
        """When a step must end, its task's timeout included."""
        timeout = _seconds(step.get("timeout"))
        deadlines = [] if self._deadline is None else [self._deadline]
        deadlines += [] if timeout is None else [pipes.started + timeout]
        return min(deadlines, default=None)

    def _start_background(self, step: dict[str, Any]) -> bool:
        """Start a Command that outlives its step; whether it is under way."""
        argv, env = step["argv"], self._env(step)
        try:
            pipes, cwd = self._prepare(step, stdin=True)
        except CannotStart as problem:
            self._cannot_start(argv, problem)
            return False
        process = self._server.backgrounds.new(pipes)
        self._server.limits.begin()
        process.start(argv, env, cwd, self._server.oom, lambda problem: self._started(step, process, problem))
        pipes.listen((None, None))
        deadline = self._deadline_of(step, pipes)
        if deadline is not None:
            self._starting = self._loop.call_at(deadline, lambda: process.kill("TimedOut", "timeout"))
        return True

    def _started(self, step: dict[str, Any], process: Background, problem: CannotStart | None) -> None:
        """A background process runs, or cannot."""
        pipes = process.pipes
        if self._starting is not None:
            self._starting.cancel()
        if problem is not None:
            pipes.drain()
            if process.reason is None:
                self._cannot_start(step["argv"], problem)
            else:
                self._short({"outcome": "TimedOut", "code": TIMED_OUT_CODE, "limit": "timeout"}, b"", b"")
            self._finish()
            return
        self.background[len(self.records)] = process
        process.when_gone(lambda: self._server.tasks.weigh(self))
        timeout = _seconds(step.get("timeout"))
        if timeout is not None:
            late = self._loop.call_at(pipes.started + timeout, lambda: process.kill("TimedOut", "timeout"))
            process.when_ended(late.cancel)
        self._feed(pipes, step)
        result = {"outcome": "Succeeded", "code": 0, "at": pipes.started_at, "s": time.monotonic() - pipes.started}
        self._short(result, b"", b"")
        self._advance()

    def _env(self, step: dict[str, Any]) -> dict[bytes, bytes]:
        env = dict(self._server.env)
        for pair in step.get("env") or ():
            key, _, value = pair.partition(b"=")
            env[key] = value
        return env

    def _prepare(self, step: dict[str, Any], *, stdin: bool) -> tuple[Pipes, bytes]:
        """Pipes and working directory of a Command."""
        try:
            cwd = self._server.places.absolute(step.get("cwd") or b".")
            pipes = Pipes(self._loop, self._server.spool, stdin=stdin, keep_ends=self._limit // 2)
        except OSError as error:
            raise CannotStart(126, error.strerror or str(error)) from None
        return pipes, cwd

    @staticmethod
    def _feed(pipes: Pipes, step: dict[str, Any]) -> None:
        stdin = step.get("stdin")
        if pipes.feed is not None and stdin is not None:
            pipes.feed.write(stdin)
            pipes.feed.close()

    def _cannot_start(self, argv: list[bytes], problem: CannotStart) -> None:
        name = argv[0][:_LONGEST_NAME].decode("utf-8", "replace")
        text = "arl: cannot start " + name + ": " + problem.reason + "\n"
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
        result = ending(foreground.status, foreground.reason)
        limit = self._blame(result, foreground)
        stdout, stderr = pipes.captures
        result |= {"limit": limit, "s": foreground.ended_at - pipes.started}
        result |= {"at": pipes.started_at, "out": stdout.size, "err": stderr.size}
        inline = stdout.inline, stderr.inline
        whole = None not in inline and max(stdout.size, stderr.size) <= self._limit
        if whole and all(push.quiet for push in pipes.pushes):
            self._record(result | {"o": inline[0], "e": inline[1]}, None)
        else:
            for push, capture in zip(pipes.pushes, pipes.captures, strict=True):
                self._server.link.send_from(self.stream, push.rest(capture))
            self._record(result, pipes.captures)
        if result["outcome"] == "Succeeded":
            self._advance()
        else:
            self._finish()

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
        self._server.link.send_frames(self.stream, frames.split(frames.STEP, self.stream, body))


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
            # Not from here: what goes wrong while it runs is the agent's fault, not the request's.
            self._server.loop.call_at(0, task.start)

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

    @property
    def in_step(self) -> bool:
        """Whether a Command of a task runs."""
        return self._running is not None and self._running.in_step

    def finished(self, task: Task) -> None:
        """A task ended: keep it."""
        self._running = None
        self.weigh(task)

    def weigh(self, task: Task) -> None:
        """Count what a task takes by now, and let go of old ones while all of them take too much memory."""
        if task.id in self._tasks:
            self._kept += task.kept_bytes - task.counted
            task.counted = task.kept_bytes
        while self._kept > _KEPT_BYTES and self._forget_oldest():
            pass

    def _forget_oldest(self) -> bool:
        newest = next(reversed(self._tasks), None)
        for task_id, task in self._tasks.items():
            if task_id != newest and not any(process.alive for process in task.background.values()):
                del self._tasks[task_id]
                self._kept -= task.counted
                task.release()
                return True
        return False


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not value >= 0:
        raise TypeError("a timeout is a number of seconds")
    return float(value)


def _checked(step: dict[str, Any]) -> dict[str, Any]:
    """A step whose fields have the right types; TypeError for others, KeyError for what is missing."""
    _seconds(step.get("timeout"))
    if step["type"] == "FilePatch":
        right = isinstance(step["path"], bytes) and isinstance(step["content"], bytes)
        right = right and isinstance(step.get("mode"), (int, type(None)))
    else:
        words = [*step["argv"], *(step.get("env") or ())]
        right = bool(step["argv"]) and all(isinstance(word, bytes) for word in words)
        right = right and all(isinstance(step.get(key), (bytes, type(None))) for key in ("cwd", "stdin"))
    if not right:
        raise TypeError("a step has a field of a wrong type")
    return step


assert INLINE * 2 < frames.MAX_PAYLOAD
