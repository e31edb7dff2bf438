"""One task of a sandbox: a Task object that is created, watched, and asked after where its status is not all.

What the status holds is taken from there. What it cut, what is no text, and what is wanted while it happens comes from
the agent, over the holder's channel, in the very frames that a sandbox on this machine answers with.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.task_run import GRACE_SECONDS, TaskRun
from pytest_arl.backends.kubernetes import holder_words, statuses
from pytest_arl.backends.kubernetes.manifests import task_manifest
from pytest_arl.backends.kubernetes.operator_check import LOOK_SECONDS, OperatorCheck
from pytest_arl.backends.kubernetes.refusals import INSTALL, Refused
from pytest_arl.backends.kubernetes.unseen import Unseen
from pytest_arl.cluster import fields
from pytest_arl.errors import ArlError, BackendUnavailable, InfrastructureError, PermissionDenied, UsageError
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.sandbox import AgentSandbox
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import OnOutput, OnStep, TaskRequest
    from pytest_arl.backends.kubernetes.held_sandbox import HeldSandbox

__all__ = ["RunningTask"]

_CHECK_SECONDS = 15.0
"""Silence after which the object is looked at: an event may have been lost with a connection."""
_LAST_WORDS_SECONDS = 2.0
_CANCEL_SECONDS = 2.0
_OPERATOR_SECONDS = 15.0  # how much later than the agent the operator may be with its report
_AGAIN_SECONDS = 600.0
"""And as long as the Task may take: for what it has printed to come once more, where a connection broke."""
_CANCELLED_CODE = 137
_LOST = frozenset({"SandboxLost", "SandboxNotFound", "SandboxFailed", "AgentRestarted", "SandboxDeleted"})


class RunningTask:
    """A task on its way. ``results`` is filled as steps end."""

    def __init__(
        self,
        sandbox: AgentSandbox,
        held: HeldSandbox,
        task: TaskRequest,
        results: list[StepResult],
        on_output: OnOutput | None,
        on_step: OnStep | None,
    ) -> None:
        """``sandbox`` is the agent's side of it, ``held`` the object's."""
        self._sandbox = sandbox
        self._held = held
        self._client = held.client
        self._task = task
        self._results = results
        self._on_output = None if on_output is None else Unseen(on_output)
        self._on_step = on_step
        self._told = 0
        self._began: float | None = None
        self._cancelled = False
        self._proof: str | None = None
        self._taken = False
        self.name = held.name_of(task.id)
        self.mail = self._client.tasks.mail(self.name)
        held.mail.wakes.add(self.mail)

    def close(self) -> None:
        """Wait for nothing of it any more."""
        self._held.mail.wakes.discard(self.mail)
        self._client.tasks.forget(self.name)

    def run(self) -> None:
        """Run it, from creating the Task to its last result."""
        manifest, payload = task_manifest(
            self.name,
            {"name": self._held.name, "uid": self._held.uid},
            self._client.labels,
            self._task,
            self._client.task_key if self._held.proves else None,
        )
        if payload is not None:
            self._sandbox.exchange(holder_words.supply(payload))
        self._proof = manifest["spec"].get("proof")
        try:
            self._create(manifest)
            if self._on_output is None:
                self._finish(self._wait(fields.is_over))
            else:
                self._watch_live()
                self._refuse_meddling()
        except ArlError:
            with suppress(ArlError):
                self._spend()
            raise
        except BaseException:
            if not self._cancelled:
                self.cancel()
            with suppress(ArlError):
                self._spend()
            raise
        self._spend()

    # Before

    def _create(self, manifest: dict[str, Any]) -> None:
        api, namespace = self._client.api, self._client.namespace
        asked = _newer_fields(manifest)
        strict = {"fieldValidation": "Strict"} if any(asked) else {}
        try:
            made = api.explaining(
                f"creating the Task {self.name!r}",
                namespace,
                lambda: api.create("tasks", namespace, manifest, **strict),
            )
        except (PermissionDenied, UsageError):
            self._proof = None  # nobody has read an object that there never was
            raise
        uid = str(made["metadata"]["uid"])
        if _newer_fields(made) != asked:
            api.delete("tasks", namespace, self.name, uid=uid)
            raise BackendUnavailable(
                "the custom resources in the cluster are older than this client: a Task lost its payloadHash, its "
                f"proof or a cpuTime; {INSTALL}"
            )
        self._held.created(self._task.id, uid)
        self.mail.claim(made)

    def _spend(self) -> None:
        """Have the agent refuse the proof after the end of a Task that it may never have had. Whoever reads the
        object could otherwise make it anew and have it run beside what comes later.
        """
        if self._taken or self._proof is None or not self._sandbox.alive():
            return
        spend = holder_words.Spend(self._proof)
        try:
            self._sandbox.exchange(spend)
        except ArlError as error:
            self._lose(f"its agent does not withdraw a Task that it never had: {error}")
        if spend.runs or (spend.ran and not self._cancelled):
            self._lose(f"its agent ran Task {self.name!r}, but the Task never said so")

    # Waiting

    def _wait(self, done: Callable[[dict[str, Any]], bool], deadline: float | None = None) -> dict[str, Any]:
        """The Task, once it is what ``done`` asks for. Raises what keeps it from that; TimeoutError at ``deadline``."""
        operator_check = OperatorCheck(self._client, f"Task {self.name!r}")
        lost_at: float | None = None
        looked = time.monotonic()
        while True:
            number, found = self.mail.number, self.mail.latest
            if found is not None:
                self._note(found)
                if done(found) or fields.is_over(found):
                    return found
            if self.mail.failure is not None:
                raise type(self.mail.failure)(str(self.mail.failure))
            over = "its Task was deleted" if self.mail.deleted else self._held.over()
            if over:
                # The Task's own last words may be on their way still: they know more of the steps.
                lost_at = lost_at or time.monotonic() + (0 if self.mail.deleted else _LAST_WORDS_SECONDS)
                if time.monotonic() >= lost_at:
                    (self._lose if self.mail.deleted else self._sandbox.lost)(over)
            elif found is None or not found.get("status"):
                operator_check.check()
            self._check_deadline(deadline)
            pause = LOOK_SECONDS if over or deadline or not (found or {}).get("status") else _CHECK_SECONDS
            if self.mail.wait(number, pause):
                looked = time.monotonic()
            elif time.monotonic() >= looked + _CHECK_SECONDS:
                self._look(number)
                looked = time.monotonic()

    def _note(self, found: dict[str, Any]) -> None:
        """Keep and tell what is known by now."""
        if self._began is None and fields.has_begun(found):
            self._began = time.monotonic()
        self._taken = self._taken or statuses.taken(found)
        if self._on_output is None:
            self._results[:] = statuses.read_steps(self._task.steps, found, self._sandbox.label)
            self._tell()

    def _tell(self) -> None:
        while self._told < len(self._results):
            if self._is_foreign(self._results[self._told]):
                return  # nobody is told of it as of a result
            self._told += 1
            if self._on_step is not None:
                self._on_step(self._results[self._told - 1])

    def _look(self, number: int) -> None:
        try:
            found = self._client.api.get("tasks", self._client.namespace, self.name)
        except Refused as refused:
            if refused.status == 404:
                self.mail.put(None, deleted=True, since=number)
        else:
            self.mail.put(found, since=number)

    def _check_deadline(self, deadline: float | None) -> None:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise TimeoutError
        limit = self._limit()
        if self._began is not None and limit is not None and now > self._began + limit:
            self._sandbox.kill()
            self._sandbox.lost(f"its agent did not report the end of a task that must end within {limit:.0f} s")

    def _latest(self) -> float | None:
        """The time when it is no longer followed, over however many connections; None where nothing bounds it."""
        limit = self._limit()
        return None if limit is None or self._began is None else self._began + 2 * limit + _AGAIN_SECONDS

    def _limit(self) -> float | None:
        """Seconds after its start in which the task is over, reported or not; None where nothing bounds it."""
        bounds = [] if self._task.timeout is None else [self._task.timeout]
        each = [step.longest for step in self._task.steps]
        known = [timeout for timeout in each if timeout is not None]
        if len(known) == len(each):
            bounds.append(sum(known))
        return min(bounds) + GRACE_SECONDS + _OPERATOR_SECONDS if bounds else None

    # Its end

    def _finish(self, found: dict[str, Any]) -> None:
        self._refuse_failure(found)
        self._refuse_meddling()
        if not statuses.is_whole(found):
            exact: list[StepResult] = []

            def ask(stream: Stream) -> None:
                exact.clear()  # a connection may have broken before
                self._attach(stream, exact, None, None)

            self._sandbox.exchange(ask)
            if _ends(exact) != _ends(self._results):
                self._sandbox.lost("its agent gave the operator another result of that task")
            self._results[:] = exact
        self._tell()

    def _refuse_failure(self, found: dict[str, Any]) -> None:
        """Raise what the infrastructure did to the task."""
        failed = statuses.why_failed(found)
        if failed is None:
            return
        if not self._results:
            self._results[:] = statuses.read_steps(self._task.steps, found, self._sandbox.label)
        reason, message = failed
        said = ": ".join(part for part in failed if part) or "it gives no reason"
        if reason == "Cancelled":
            self._end_cancelled()
            self._refuse_meddling()
        elif reason == "SpecTooLarge":
            raise UsageError(f"the cluster refuses this task: {message}")
        elif reason in _LOST or not self._sandbox.alive():
            self._sandbox.lost(said)
        else:
            raise InfrastructureError(f"sandbox {self._sandbox.name}: Task {self.name!r} failed: {said}")

    def _refuse_meddling(self) -> None:
        """Raise where the task ended neither by itself nor by this client: what there is says nothing of its steps."""
        last = self._results[-1] if self._results else None
        if last is not None and self._is_foreign(last):
            self._lose(f"its Task {self.name!r} was cancelled or deleted by another client")
        whole = len(self._results) == len(self._task.steps) or (last is not None and last.outcome != "Succeeded")
        if not whole and not self._is_ours():
            self._lose(f"its Task {self.name!r} ended before its last step")

    def _lose(self, why: str) -> NoReturn:
        """End the sandbox and say that it is lost. What its agent has not run yet, somebody may make anew with the
        proof that it had, and nothing of this client is to run beside that.
        """
        if self._held.proves:
            self._sandbox.kill()
        self._sandbox.lost(why)

    def _is_foreign(self, result: StepResult) -> bool:
        return result.outcome == "Cancelled" and not self._is_ours()

    def _is_ours(self) -> bool:
        """True if this client has ended the task, or has asked for that."""
        return self._cancelled or self._held.has_cancelled(self._task.id)

    def _end_cancelled(self) -> None:
        """It was cancelled before the agent had it."""
        if len(self._results) < len(self._task.steps):
            step = self._task.steps[len(self._results)]
            self._results.append(
                StepResult(name=step.name, type=step.type, outcome="Cancelled", exit_code=_CANCELLED_CODE)
            )

    def _attach(
        self, stream: Stream, results: list[StepResult], on_output: OnOutput | None, on_step: OnStep | None
    ) -> None:
        """All results from the agent, exactly."""
        sandbox = self._sandbox
        run = TaskRun(
            self._task,
            on_output,
            results,
            limit=sandbox.output_limit,
            label=sandbox.label,
            on_step=on_step,
            until=self._latest(),
        )
        name, live = sandbox.agents_name(self._task.id), on_output is not None
        asked = messages.attach(name, sandbox.output_limit, live=live)
        try:
            stream.send(frames.ATTACH, asked)
            run.collect(stream)
        except AgentError as error:
            raise _NotThereError(error.text) from None
        except (ChannelLost, ChannelTimeout):
            run.keep_partial()
            raise
        except BaseException:
            if not run.cancel(stream):
                self.cancel()
            self._cancelled = True
            raise

    # Live

    def _watch_live(self) -> None:
        """Follow the agent from the moment that it has the task."""
        while True:
            found = self._wait(fields.has_begun)
            number = self.mail.number
            if fields.is_over(found):
                self._refuse_failure(found)
                if statuses.why_failed(found) is not None:
                    return
            try:
                self._sandbox.exchange(self._attach_live, lasting=True)
                return
            except _NotThereError as error:
                if fields.is_over(found):
                    raise InfrastructureError(
                        f"sandbox {self._sandbox.name}: the output of task {self.name!r} is no longer kept ({error})"
                    ) from None
                self.mail.wait(number, _CANCEL_SECONDS)

    def _attach_live(self, stream: Stream) -> None:
        assert self._on_output is not None
        self._on_output.again()
        self._results.clear()
        self._attach(stream, self._results, self._on_output, lambda _result: self._tell())

    # Cancelling

    def cancel(self) -> None:
        """The caller was interrupted: end the step in the sandbox, wait a little for what is known of it."""
        self._on_output, self._cancelled = None, True
        try:
            self._held.cancel(self._task.id)
            found = self._wait(fields.is_over, time.monotonic() + _CANCEL_SECONDS)
            self._results[:] = statuses.read_steps(self._task.steps, found, self._sandbox.label)
        except (ArlError, TimeoutError):
            pass  # whoever interrupted wants to go on


def _ends(results: list[StepResult]) -> list[tuple[str, int | None]]:
    return [(each.outcome, each.exit_code) for each in results]


def _newer_fields(task: dict[str, Any]) -> list[str | None]:
    """Fields that a Task must not lose silently, as it would to custom resources that do not have it."""
    spec = task["spec"]
    return [spec.get("payloadHash"), spec.get("proof"), *(step.get("cpuTime") for step in spec["steps"])]


class _NotThereError(InfrastructureError):
    """The agent does not know the task, yet or any more."""
