"""Registration of operator and holder with an agent that listens, each once; whoever is connected to it by then."""

from __future__ import annotations

import os

from pytest_arl.agent import auth, container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_arl.agent.container import Container
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import ConfigKey
    from pytest_arl.agent.parts import AgentParts
    from pytest_arl.agent.step_types import StepMessage
    from pytest_arl.agent.task_registry import TaskRegistry

__all__ = ["Registration"]


class Registration:
    """The holder of a listening agent, and the marks by which it is known.

    Attributes:
        here: what its pod has given it.
        boot: another one for each start of the agent, which remembers no task of the one before.
        epoch: the highest that an operator proved.
        holder: the digest of the holder's secret (hexadecimal), empty before the sandbox is claimed.
        mark, holder_mark: what the first operator and the holder left, to know this agent again.
        supplies: steps that a holder sent, by their digest.
    """

    def __init__(self, parts: AgentParts, tasks: TaskRegistry, here: Container) -> None:
        self.parts = parts
        self.tasks = tasks
        self.here = here
        self.boot = os.urandom(16).hex()
        self.epoch = -1
        self.holder = ""
        self.mark: bytes | None = None
        self.holder_mark: bytes | None = None
        self.supplies: dict[str, list[StepMessage]] = {}

    def configure(self, config: Said[ConfigKey]) -> None:
        """Become what the first operator says; later ones change nothing. Raises as ``own_config`` does."""
        if not self.parts.configured:
            self.parts.configure(container.own_config(self.here, config))

    def hold(self, holder: object, mark: bytes | None) -> str | None:
        """The sandbox is claimed for whoever knows this digest's secret; why not, where that cannot be. ``mark``: by
        which the holder knows this agent again.
        """
        if holder is None:
            return None
        if type(holder) is not str or not auth.is_digest(holder):
            return "a holder must be the SHA-256 of a secret, in hexadecimal digits"
        if self.holder not in ("", holder):
            return "the sandbox has another holder"
        self.holder = holder
        self.holder_mark = self.holder_mark or mark
        return None
