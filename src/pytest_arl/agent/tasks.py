"""A task: steps in order, each ended on time with its whole tree."""

from __future__ import annotations

import time

from pytest_arl.agent import exact, frames, step_types
from pytest_arl.agent.command import CannotStart, spawn
from pytest_arl.agent.foreground import CANCELLED_CODE, TIMED_OUT_CODE, Foreground, ending
from pytest_arl.agent.pipes import Pipes
from pytest_arl.agent.records import Record
from pytest_arl.agent.spool import INLINE
from pytest_arl.agent.step_types import LONGEST_NAME, LONGEST_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_arl.agent.background import Background
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.link import Link
    from pytest_arl.agent.loop import Timer
    from pytest_arl.agent.message_types import Done, TaskKey
    from pytest_arl.agent.parts import AgentParts
    from pytest_arl.agent.pipes import Push
    from pytest_arl.agent.records import Subscriber
    from pytest_arl.agent.spool import Capture
    from pytest_arl.agent.step_types import CommandMessage, StepEnd, StepMessage

__all__ = ["LONGEST_ID", "LONGEST_PATH", "MOST_STEPS", "Task"]

LONGEST_ID = 4096
"""Characters of a task's id."""
MOST_STEPS = 1_000_000

_TASK_BYTES = 500
_PROCESS_BYTES = 4000
_TURN_SECONDS = 0.05


class Task:
    """One task, from its request to its last result. TypeError or ValueError for a request of another shape."""

    def __init__(
        self,
        parts: AgentParts,
        request: Said[TaskKey],
        subscriber: Subscriber,
        *,
        on_end: Callable[[Task], None],
        on_growth: Callable[[Task], None],
    ) -> None:
        """``on_end`` is called once; ``on_growth`` where what it keeps has changed after that."""
        self._parts = parts
        self._on_end = on_end
        self._on_growth = on_growth
        self._loop = parts.loop
        self.places, self.limits = parts.places, parts.limits
        self.id = exact.text(request, "id", LONGEST_ID)
        self._steps: list[StepMessage] = [
            step_types.checked(step) for step in exact.items(request, "steps", MOST_STEPS)
        ]
        self._timeout = step_types.seconds(request, "timeout")
        self._limit = subscriber.limit
        self._keep = max(self._limit, exact.maybe(exact.integer, request, "keep", 0, exact.LARGEST) or 0)
        self._subscribers = [subscriber]
        self.records: list[Record] = []
        self.background: dict[int, Background] = {}
        self.done = False
        self.counted = 0
        """Bytes that the registry has counted for it."""
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

    def attach(self, subscriber: Subscriber) -> None:
        """Answer another request for this task: what there is by now, and what comes from here on. A link has one
        answer at a time.
        """
        self.leave(subscriber.link)
        subscriber.link.send_from(subscriber.stream, self._replay(subscriber, list(self.records), self.done))
        if not self.done:
            self._subscribers.append(subscriber)
        if self._foreground is not None:
            self._foreground.pipes.join(subscriber.pushes(len(self.records)))

    def leave(self, link: Link) -> None:
        """Tell nobody over this link any more."""
        self._subscribers = [subscriber for subscriber in self._subscribers if subscriber.link is not link]
        if self._foreground is not None:
            self._foreground.pipes.leave(link)

    def release(self) -> None:
        """Forget the task, for which no request can come any more."""
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

    @staticmethod
    def _replay(subscriber: Subscriber, records: list[Record], done: bool) -> Generator[bytes, None, None]:
        for index, record in enumerate(records):
            yield from record.replay(index, subscriber)
        if done:
            ran: Done = {"ran": len(records)}
            yield frames.message(frames.DONE, subscriber.stream, ran)

    def _pushes(self) -> tuple[list[Push], list[Push]]:
        """Pushes that pass on the outputs of the step that starts."""
        pairs = [subscriber.pushes(len(self.records)) for subscriber in self._subscribers]
        return [stdout for stdout, _ in pairs], [stderr for _, stderr in pairs]

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
                self.short({"outcome": "Cancelled", "code": CANCELLED_CODE}, b"", b"")
                break
            if self._deadline is not None and now >= self._deadline:
                self.short({"outcome": "TimedOut", "code": TIMED_OUT_CODE, "limit": "timeout"}, b"", b"")
                break
            step = self._steps[len(self.records)]
            if self._parts.inheritance is not None:
                self._parts.inheritance.check()
            ended = step_types.run(step, self)
            if ended is None:
                return
            failed = not ended
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self._steps = []  # contents of files and stdin may be large
        subscribers, self._subscribers = self._subscribers, []
        ran: Done = {"ran": len(self.records)}
        for subscriber in subscribers:
            if not (subscriber.brief and self.records):
                subscriber.tell(frames.DONE, frames.encode(ran))
        self._on_end(self)

    def start_program(self, step: CommandMessage) -> bool:
        """Start a Command; whether it runs. What cannot be started is a failed step."""
        parts, argv, env = self._parts, step["argv"], self._env(step)
        alone = not parts.backgrounds.alive()
        parts.limits.begin(parts.meter.begin(alone=alone), alone=alone)
        try:
            pipes, cwd = self._prepare(step, stdin=step.get("stdin") is not None)
            pid = self._spawn(pipes, argv, env, cwd) if alone else 0
        except CannotStart as problem:
            self._cannot_start(argv, problem)
            return False
        deadline, cpu_time = self._deadline_of(step, pipes), self._cpu_time_of(step)
        self._foreground = Foreground(parts, pipes, deadline, self._over, cpu_time)
        if pid:
            self._foreground.child(pid)
        else:
            self._foreground.supervise(argv, env, cwd, lambda problem: self._never_ran(argv, problem))
        pipes.listen(self._pushes())
        pipes.outputs[1].heard = parts.limits.heard
        self._feed(pipes, step)
        return True

    def _spawn(self, pipes: Pipes, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes) -> int:
        try:
            return spawn(argv, env, cwd, pipes.stdio, self._parts.oom)
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

    def _deadline_of(self, step: CommandMessage, pipes: Pipes) -> float | None:
        """The time when a step must end, its task's timeout included."""
        timeout = step.get("timeout")
        deadlines = [] if self._deadline is None else [self._deadline]
        deadlines += [] if timeout is None else [pipes.started + timeout]
        return min(deadlines, default=None)

    def _cpu_time_of(self, step: CommandMessage) -> float | None:
        """Seconds of processor time that a step may use."""
        limits = (step.get("cpu"), self._parts.cpu_time)
        return min((limit for limit in limits if limit is not None), default=None)

    def start_background(self, step: CommandMessage) -> bool:
        """Start a Command that outlives its step; whether it is under way."""
        argv, env = step["argv"], self._env(step)
        self._parts.limits.begin(self._parts.meter.begin_background(), alone=False)
        try:
            pipes, cwd = self._prepare(step, stdin=True)
        except CannotStart as problem:
            self._cannot_start(argv, problem)
            return False
        process = self._parts.backgrounds.new(pipes)
        process.start(argv, env, cwd, self._parts.oom, lambda problem: self._started(step, process, problem))
        pipes.listen(([], []))
        deadline = self._deadline_of(step, pipes)
        if deadline is not None:
            self._starting = self._loop.call_at(deadline, lambda: process.kill("TimedOut", "timeout"))
        return True

    def _started(self, step: CommandMessage, process: Background, problem: CannotStart | None) -> None:
        """A background process runs, or cannot."""
        pipes = process.pipes
        if self._starting is not None:
            self._starting.cancel()
        if problem is not None:
            pipes.drain()
            if process.reason is None:
                self._cannot_start(step["argv"], problem)
            else:
                self.short({"outcome": "TimedOut", "code": TIMED_OUT_CODE, "limit": "timeout"}, b"", b"")
            self._finish()
            return
        self.background[len(self.records)] = process
        process.when_gone(lambda: self._on_growth(self))
        timeout = step.get("timeout")
        if timeout is not None:
            late = self._loop.call_at(pipes.started + timeout, lambda: process.kill("TimedOut", "timeout"))
            process.when_ended(late.cancel)
        cpu_time = self._cpu_time_of(step)
        if cpu_time is not None:
            process.bound(cpu_time)
        self._feed(pipes, step)
        took = time.monotonic() - pipes.started
        self.short({"outcome": "Succeeded", "code": 0, "at": pipes.started_at, "s": took}, b"", b"")
        self._advance()

    def _env(self, step: CommandMessage) -> dict[bytes, bytes]:
        env = dict(self._parts.env)
        for pair in step.get("env") or ():
            key, _, value = pair.partition(b"=")
            env[key] = value
        return env

    def _prepare(self, step: CommandMessage, *, stdin: bool) -> tuple[Pipes, bytes]:
        """Pipes and working directory of a Command."""
        try:
            cwd = self._parts.places.absolute(step.get("cwd") or b".")
            pipes = Pipes(self._loop, self._parts.spool, self._parts.null, stdin=stdin, keep_ends=self._keep // 2)
        except OSError as error:
            raise CannotStart(126, error.strerror or str(error)) from None
        return pipes, cwd

    @staticmethod
    def _feed(pipes: Pipes, step: CommandMessage) -> None:
        stdin = step.get("stdin")
        if pipes.feed is not None and stdin is not None:
            pipes.feed.write(stdin)
            pipes.feed.close()

    def _cannot_start(self, argv: list[bytes], problem: CannotStart) -> None:
        name = argv[0][:LONGEST_NAME].decode("utf-8", "replace")
        text = "arl: cannot start " + name + ": " + problem.reason + "\n"
        result: StepEnd = {"outcome": "Failed", "code": problem.code, "at": time.time(), "s": 0.0}
        if self._parts.limits.memory_killed():  # the supervisor, by what runs in the background
            result |= {"outcome": "OutOfMemory", "code": CANCELLED_CODE, "limit": "memory"}
        self.short(result, b"", text.encode("utf-8", "surrogateescape"))

    def short(self, result: StepEnd, stdout: bytes, stderr: bytes) -> None:
        """A result that the agent itself produced."""
        self._record(_with_output(result, stdout, stderr), None)

    def _over(self) -> None:
        """The running Command is over, and nothing of it lives."""
        foreground, self._foreground = self._foreground, None
        if foreground is None or foreground.status is None:
            raise RuntimeError("a step ended before its program")
        pipes = foreground.pipes
        pipes.drain()
        self._parts.limits.stop()
        used, cpu = self._parts.meter.end(self._parts.limits)
        foreground.judge(cpu)
        result = ending(foreground.status, foreground.reason)
        limit = self._blame(result, foreground)
        stdout, stderr = pipes.captures
        result |= {"s": foreground.ended_at - pipes.started, "u": used, "at": pipes.started_at}
        if limit is not None:
            result["limit"] = limit
        inline = stdout.inline, stderr.inline
        limit_of_all = min((subscriber.limit for subscriber in self._subscribers), default=self._limit)
        whole = None not in inline and max(stdout.size, stderr.size) <= limit_of_all
        if whole and all(push.quiet for output in pipes.outputs for push in output.pushes):
            self._record(_with_output(result, inline[0] or b"", inline[1] or b""), None)
        else:
            for output in pipes.outputs:
                for push in output.pushes:
                    push.link.send_from(push.stream, push.rest(output.capture))
            result |= {"out": stdout.size, "err": stderr.size}
            self._record(result, pipes.captures)
        if result["outcome"] == "Succeeded":
            self._advance()
        else:
            self._finish()

    def _blame(self, result: StepEnd, foreground: Foreground) -> str | None:
        """The limit that ended a Command; a kill for memory is given its name in ``result``."""
        limits = self._parts.limits
        if limits.memory_killed() and foreground.reason in (None, "OutOfMemory"):
            self._parts.backgrounds.kill_for("memory")  # whose memory it is cannot be told
            result |= {"outcome": "OutOfMemory", "code": CANCELLED_CODE, "signal": "SIGKILL"}
            return "memory"
        if foreground.reason is None and result["outcome"] != "Succeeded":
            return limits.blame()
        if foreground.limit == "timeout" and limits.refused_processes():
            return "processes"
        return foreground.limit

    def _record(self, result: StepEnd, captures: tuple[Capture, Capture] | None) -> None:
        self._parts.limits.end()
        result["i"] = len(self.records)
        body = frames.encode(result)
        self.records.append(Record(body, captures))
        for subscriber in self._subscribers:
            subscriber.tell(frames.STEP, body)


def _with_output(result: StepEnd, stdout: bytes, stderr: bytes) -> StepEnd:
    """The result of a step with all that it printed. Nothing is said of nothing: each key costs time on both sides."""
    if stdout:
        result["o"] = stdout
    if stderr:
        result["e"] = stderr
    return result


assert INLINE * 2 < frames.MAX_PAYLOAD
