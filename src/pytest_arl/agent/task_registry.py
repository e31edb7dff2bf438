"""Every task that is remembered: each runs at most once.

A task is known by its id. A second request for it is answered from its record, or attached to the run that is under
way; nothing is run again, also when the record itself is kept no longer.
"""

from __future__ import annotations

from pytest_arl.agent import exact
from pytest_arl.agent.tasks import LONGEST_ID, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_arl.agent.background import Background
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.link import Link
    from pytest_arl.agent.message_types import TaskKey
    from pytest_arl.agent.parts import AgentParts
    from pytest_arl.agent.records import Subscriber

__all__ = ["LONGEST_PROOF", "TaskRegistry"]

LONGEST_PROOF = 64
_KEPT_BYTES = 8 * 1024 * 1024
_MOST_PROOFS = 100_000  # 20 MB; none is ever forgotten
_TOO_MANY = "this sandbox has run " + str(_MOST_PROOFS) + " tasks: make another one"
_MOST_FORGOTTEN = 100_000  # ids of tasks whose records are gone: 10 MB


class TaskRegistry:
    """Every task that is remembered."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts
        self._tasks: dict[str, Task] = {}
        self._running: Task | None = None
        self._forgotten: dict[str, None] = {}
        self._proofs: dict[str, str | None] = {}  # the id of the task that was run for it
        self._kept = 0
        parts.make_room = self._forget_oldest

    def submit(self, request: Said[TaskKey], subscriber: Subscriber) -> str | None:
        """Run a task, or answer for one that was run; why not, where neither can be."""
        task_id = exact.text(request, "id", LONGEST_ID)
        if task_id in self._tasks:
            return self.attach(task_id, subscriber)
        if task_id in self._forgotten:
            return "task " + task_id + " was run, and its results are no longer kept"
        if self._running is not None:
            return "task " + self._running.id + " is running; a sandbox runs one at a time"
        proof = exact.maybe(exact.text, request, "once", LONGEST_PROOF)
        if proof in self._proofs:
            return "a Task with this proof has run already or was withdrawn: it is a copy"
        if len(self._proofs) >= _MOST_PROOFS:
            return _TOO_MANY
        task = Task(self._parts, request, subscriber, on_end=self._finished, on_growth=self._weigh)
        if proof is not None:
            self._proofs[proof] = task.id
        self._tasks[task.id] = self._running = task
        self._parts.busy = True
        # Not from here: what goes wrong while it runs is the agent's fault, not the request's.
        self._parts.loop.call_at(0, task.start)
        return None

    def spend(self, proof: str) -> str | None:
        """Run nothing for that proof any more; why not, where that cannot be remembered."""
        if proof not in self._proofs:
            if len(self._proofs) >= _MOST_PROOFS:
                return _TOO_MANY
            self._proofs[proof] = None
        return None

    def was_run(self, proof: str) -> tuple[bool, bool]:
        """True if a task was run for that proof, then True if it still runs."""
        task_id = self._proofs.get(proof)
        return task_id is not None, task_id is not None and task_id == self.running

    def attach(self, task_id: str, subscriber: Subscriber) -> str | None:
        """Answer for a task that runs or was run; why not, where that cannot be."""
        task = self._tasks.get(task_id)
        if task is None:
            return "no such task: " + task_id + (" was forgotten" if task_id in self._forgotten else "")
        task.attach(subscriber)
        return None

    def leave(self, link: Link) -> None:
        """A link is closed."""
        if self._running is not None:
            self._running.leave(link)

    def cancel(self, task_id: str) -> None:
        """End the running step of that task, if it runs."""
        if self._running is not None and self._running.id == task_id:
            self._running.cancel()

    def get(self, task_id: str) -> Task | None:
        """A task that is still remembered."""
        return self._tasks.get(task_id)

    @property
    def running(self) -> str | None:
        """The id of the task that runs."""
        return None if self._running is None else self._running.id

    def living(self) -> list[tuple[str, int, Background]]:
        """The background processes of which anything lives, each with its task and step."""
        return [
            (task.id, step, process)
            for task in self._tasks.values()
            for step, process in task.background.items()
            if process.alive
        ]

    def _finished(self, task: Task) -> None:
        """A task ended: keep it."""
        self._running = None
        self._parts.busy = False
        self._parts.loop.call_afterwards(lambda: self._settle(task))

    def _settle(self, task: Task) -> None:
        """Do for the next task what can be done before it is there."""
        self._weigh(task)
        if self._parts.loop.childless:  # else what runs in the background may meet limits until then
            self._parts.limits.settle()
            if self._parts.inheritance is not None:
                self._parts.inheritance.settle()

    def _weigh(self, task: Task) -> None:
        """Count what a task takes by now, and let go of old ones while all of them take too much memory."""
        if task.id in self._tasks:
            before, task.counted = task.counted, task.kept_bytes
            self._kept += task.counted - before
        while self._kept > _KEPT_BYTES and self._forget_oldest():
            pass

    def _forget_oldest(self) -> bool:
        newest = next(reversed(self._tasks), None)
        for task_id, task in self._tasks.items():
            if task_id != newest and not any(process.alive for process in task.background.values()):
                del self._tasks[task_id]
                self._kept -= task.counted
                task.release()
                self._forgotten[task_id] = None
                if len(self._forgotten) > _MOST_FORGOTTEN:
                    del self._forgotten[next(iter(self._forgotten))]
                return True
        return False
