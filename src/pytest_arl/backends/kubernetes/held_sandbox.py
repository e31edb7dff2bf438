"""A Sandbox object that this process holds, as the API shows it, and the Task objects that are made in it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytest_arl.backends.kubernetes import object_names, statuses
from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.cluster import fields
from pytest_arl.errors import ArlError

if TYPE_CHECKING:
    from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient
    from pytest_arl.backends.kubernetes.watch import Mail

__all__ = ["HeldSandbox"]

_logger = logging.getLogger("pytest_arl")


class HeldSandbox:
    """A Sandbox of a cluster, as its holder knows it by the API.

    Attributes:
        client: what the process shares in the namespace.
        name, uid: the object's.
        mail: what the watch knows of it.
        proves: Tasks have a proof that they are ours.
    """

    def __init__(self, client: NamespaceClient, made: tuple[str, str], mail: Mail, *, proves: bool) -> None:
        """``made`` is the object's name and uid."""
        self.client = client
        self.name, self.uid = made
        self.mail = mail
        self.proves = proves
        self._numbers: dict[str, int] = {}
        self._agents: dict[str, str] = {}
        self._cancels: set[str] = set()

    def pod(self) -> tuple[str, str]:
        """The names of its pod and of the agent that is in it, by its boot id; empty where they are not known."""
        return fields.pod_name(self.mail.latest), fields.boot_id(self.mail.latest)

    def over(self) -> str | None:
        """The reason why it can run nothing any more, as far as is known; None while it can."""
        if self.mail.deleted:
            return "its Sandbox was deleted, or its Lease expired"
        found = self.mail.latest
        if fields.phase(found) in ("Failed", "Terminating"):
            return statuses.why(found, "Ready") or f"it is {fields.phase(found)}"
        if found is not None and found["metadata"].get("deletionTimestamp"):
            return "its Sandbox is being deleted"
        return None

    def delete(self) -> None:
        """Delete the object; its Lease ends it where that is refused."""
        try:
            self.client.api.delete("sandboxes", self.client.namespace, self.name, uid=self.uid)
        except (ArlError, Refused) as error:
            _logger.warning("sandbox %s could not be deleted, and ends with its Lease: %s", self.name, error)

    # Tasks

    def name_of(self, task_id: str) -> str:
        """The name of the Task object of a task; the same for the same task."""
        number = self._numbers.setdefault(task_id, len(self._numbers) + 1)
        return object_names.task_name(self.name, number)

    def created(self, task_id: str, uid: str) -> None:
        """A task has its object."""
        self._agents[task_id] = uid

    def agents_name(self, task_id: str) -> str:
        """The agent's name of a task: the uid of its object."""
        return self._agents.get(task_id, task_id)

    def cancel(self, task_id: str) -> None:
        """Ask the operator to end the running step of that task, if the task was made here."""
        if task_id not in self._numbers:
            return
        self._cancels.add(task_id)
        try:
            self.client.api.merge(
                "tasks",
                self.client.namespace,
                self.name_of(task_id),
                {"spec": {"cancel": True}},
                uid=self._agents.get(task_id),
            )
        except Refused as refused:
            if refused.status != 404:
                _logger.warning("task %s of sandbox %s could not be cancelled: %s", task_id, self.name, refused)

    def has_cancelled(self, task_id: str) -> bool:
        """True if that task, which runs, is to end because somebody here has asked for it."""
        return task_id in self._cancels

    def ended(self, task_id: str) -> None:
        """A task is over: that it was cancelled is of no use any more."""
        self._cancels.discard(task_id)
