"""A step: what all types have in common, and what each has to say of itself.

A type is one module: a subclass of :class:`StepBase` that implements every abstract method here, and a row in
``types``. The agent has its part in ``agent/step_types.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pytest_arl.errors import UsageError
from pytest_arl.steps.fields import Name  # noqa: TC001 - pydantic reads the annotation
from pytest_arl.text.untrusted import shorten
from pytest_arl.text.wording import hint, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.agent.step_types import StepMessage

__all__ = ["StepBase", "label", "quoted"]


class StepBase(BaseModel, ABC):
    """One step of a task.

    Attributes:
        free_text: its fields of any length, each a ``text``, a ``list`` of words or a ``map``. Their sizes together are
            bounded in an object.
        needs: the fields that it must have, for a message.
    """

    # Deferred, as this class has no instances, and a validator takes milliseconds of each start. Types say False.
    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )

    free_text: ClassVar[dict[str, str]] = {}
    needs: ClassVar[str]

    name: Name = ""

    def __init__(self, /, **data: Any) -> None:
        __tracebackhide__ = True
        try:
            super().__init__(**data)
        except ValidationError as error:
            why = _explain(error, type(self))
            for name, field in type(self).model_fields.items():
                written = f"'{field.alias}' "
                if name in data and why.startswith(written):  # of the two names, the one that the caller wrote
                    why = f"'{name}' {why.removeprefix(written)}"
            raise UsageError(f"{label(type(self), data)}: {why}") from None

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def json_fields(cls) -> dict[str, bool]:
        """The names of its fields in JSON, and whether each must be given."""
        return {field.alias or name: field.is_required() for name, field in cls.model_fields.items()}

    # What runs

    @abstractmethod
    def to_agent(self) -> StepMessage:
        """The step as the agent takes it."""

    @property
    @abstractmethod
    def longest(self) -> float | None:
        """Seconds after which it ends by itself or is ended; 0 for one that takes no time, None where nothing bounds
        it.
        """

    @property
    def in_background(self) -> bool:
        """True if a program keeps running after the step."""
        return False

    # What people read

    @property
    @abstractmethod
    def shown(self) -> str:
        """The step in a few words, safe to print."""

    @abstractmethod
    def to_record(self, most: int) -> dict[str, Any]:
        """The step for reports, beside its name and type: JSON, at most about ``most`` bytes, no secret."""

    @staticmethod
    @abstractmethod
    def record_line(record: Mapping[str, Any]) -> str:
        """A record of this type on one line, for a failing test."""

    @staticmethod
    @abstractmethod
    def record_command(record: Mapping[str, Any]) -> str:
        """The command of a record of this type, or the nearest that it has to one."""

    # Objects of a cluster

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``spec.steps`` has it; what was left out stays out."""

    @property
    @abstractmethod
    def fits_object(self) -> bool:
        """True if a Task can hold the step exactly."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The step as a reader of a Task is to see it whose real steps go another way: never run."""

    @property
    def words(self) -> int:
        """Words and variables that the API server looks at."""
        return sum(len(getattr(self, name)) for name, kind in self.free_text.items() if kind != "text")

    @classmethod
    @abstractmethod
    def object_fields(cls, longest: int) -> dict[str, Any]:
        """The fields that a Task's step has for this type, by their Python names, as ``pydantic.create_model`` takes
        them. ``longest``: characters of a free text.
        """

    @classmethod
    @abstractmethod
    def message_from_json(cls, step: Mapping[str, Any], default_timeout: str | None) -> StepMessage:
        """A step of a Task as the agent takes it: :meth:`to_agent` without the checks of a client, for the operator,
        whose API server has checked it. ``default_timeout`` is the pool's. UsageError for what no agent can be given;
        nothing of the step's content is in it.
        """

    @staticmethod
    @abstractmethod
    def longest_of(message: Any) -> float | None:
        """:attr:`longest` of a message."""


def label(model: type[StepBase], data: Mapping[str, Any]) -> str:
    """``Command 'build'``."""
    return f"{model.__name__}{quoted(data.get('name'))}".replace(": ", " ")


def quoted(name: object) -> str:
    """A step's name after a word; empty where it has none."""
    return f" {shorten(repr(name), 60)}" if isinstance(name, str) and name else ""


def _explain(error: ValidationError, model: type[StepBase]) -> str:
    """The first thing that pydantic found wrong, in our words and without the value."""
    # An unknown key comes first: it is often the reason why another one seems to be missing.
    problems = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    problem = problems[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shorten(repr(field), 60)}; {_meant(field, model)}"
    if problem["type"] == "missing":
        return f"{field!r} is missing: a {model.__name__} needs it"
    if problem["type"] == "literal_error":
        return f"{field!r} must be {problem['ctx']['expected']}"
    cause = str(problem.get("ctx", {}).get("error") or problem["msg"])
    return f"{field}{cause}" if cause.startswith("[") else f"{field!r} {cause}"


def _meant(key: str, model: type[StepBase]) -> str:
    if key in model.model_fields:
        return f"{model.model_fields[key].alias!r} is given as well"
    kind, known = model.__name__, model.json_fields()
    owner = next(
        (other for other in StepBase.__subclasses__() if key in other.json_fields() and other is not model), None
    )
    if owner and not nearest(key, known):
        return f"a {owner.__name__} has that; known keys of a {kind}: {', '.join(known)}"
    return hint(key, known)
