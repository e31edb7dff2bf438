"""Resources that a Command used."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Usage"]

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]


class Usage(BaseModel):
    """Resources that a Command used with everything it started, orphans and children that ended before it included.

    The names are those of getrusage(2). What cannot be known is None, never a guess.

    Attributes:
        user_time, system_time: seconds of processor time, in programs and in the kernel for them. Processes that nobody
            waited for, because their parent ignores SIGCHLD, are in it only where the sandbox has a cgroup.
        max_rss: bytes of memory that the largest process held (its resident set). None where no process was larger than
            the agent that starts them, about 10 MiB: the kernel counts a process from the size of what started it.
        memory_peak: bytes of memory that all of them held at one time.
        read_bytes, write_bytes: bytes that had to come from and go to block devices, as GNU time's «file system inputs»
            and «outputs»: what the page cache had costs nothing, and so do a sandbox's own folders, which are memory.
        processes: how many processes were started, threads too, as the limit ``processes`` counts them. None beside
            background programs, whose are not told apart.
        oom_kills: how many processes the kernel killed for memory. None where no cgroup counts them.
        voluntary_context_switches: how often they waited for something.
        involuntary_context_switches: how often another one had the processor in their place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    user_time: _Seconds = 0.0
    system_time: _Seconds = 0.0
    max_rss: _Count | None = None
    memory_peak: _Count | None = None
    read_bytes: _Count = 0
    write_bytes: _Count = 0
    processes: _Count | None = None
    oom_kills: _Count | None = None
    voluntary_context_switches: _Count = 0
    involuntary_context_switches: _Count = 0

    @property
    def cpu_time(self) -> float:
        """Seconds of processor time in all: what the limit ``cpu_time`` bounds."""
        return self.user_time + self.system_time

    def to_json(self) -> dict[str, Any]:
        """The figures as a Task's ``status.steps[].usage`` has them: camelCase."""
        return {camel: getattr(self, name) for name, camel in _CAMEL.items()}

    @classmethod
    def from_agent(cls, figures: object) -> Usage | None:
        """The figures of an agent, as :mod:`pytest_arl.agent.usage_meter` packs them; None where there are none.
        ValueError for what cannot be.
        """
        if figures is None:
            return None
        if not isinstance(figures, bytes) or len(figures) < _AGENTS.size:
            raise ValueError("the usage of a step is bytes that hold its figures")
        known = zip(_CAMEL, _AGENTS.unpack_from(figures), strict=True)
        return cls(**{name: value for name, value in known if value != -1 or name not in _UNKNOWN})

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Usage | None:
        """The figures of a Task's status; keys of a later version are left out. ValueError for what cannot be."""
        if not found:
            return None
        return cls(**{name: found[camel] for name, camel in _CAMEL.items() if camel in found})


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


_AGENTS = struct.Struct("!2d8q")
_UNKNOWN = {name for name, field in Usage.model_fields.items() if field.default is None}
_CAMEL = {name: _camel(name) for name in Usage.model_fields}
"""Each figure's name in JSON, in their order."""
