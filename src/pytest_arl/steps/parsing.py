"""The check that a task's steps go through before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import UsageError
from pytest_arl.steps.base import StepBase, quoted
from pytest_arl.steps.types import STEP_TYPES, step_type
from pytest_arl.text.wording import one_of, type_name

if TYPE_CHECKING:
    from pytest_arl.steps.types import Step

__all__ = ["parse_steps"]

_EXAMPLE = '[{"name": "hello", "type": "Command", "command": ["echo", "hi"]}]'


def parse_steps(steps: Iterable[Step | Mapping[str, Any]]) -> tuple[Step, ...]:
    """Check a task's steps and name those that have no name; raises UsageError before anything is run."""
    __tracebackhide__ = True
    if isinstance(steps, (str, bytes, Mapping, StepBase)) or not isinstance(steps, Iterable):
        raise UsageError(f"steps must be a list such as {_EXAMPLE}, not {type_name(steps)}")
    # map, unlike a comprehension, puts no frame of ours into the traceback of what it raises.
    parsed = tuple(map(_parse, steps, count(1)))
    if not parsed:
        raise UsageError(f"steps is empty: a task needs at least one, such as {_EXAMPLE}")
    if len(parsed) > 1:
        _refuse_twins(parsed)
    return parsed


_CLASSES = tuple(STEP_TYPES.values())


def _parse(step: object, number: int) -> Step:
    __tracebackhide__ = True
    if isinstance(step, _CLASSES):
        return step if step.name else step.model_copy(update={"name": f"step-{number}"})
    if not isinstance(step, Mapping):
        known = one_of(["a dict", *(f"a {name}" for name in STEP_TYPES)])
        raise UsageError(f"step {number} must be {known}, not {type_name(step)}")
    where = f"step {number}{quoted(step.get('name'))}"
    if "type" not in step:
        raise UsageError(f"{where}: {_no_type(step)}")
    try:
        model = step_type(step["type"])
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    for key in step:
        if not isinstance(key, str):
            raise UsageError(f"{where}: the key {key!r} must be a string")
    try:
        return model(**step) if "name" in step else model(name=f"step-{number}", **step)
    except UsageError as error:
        # The model's own message says «Command 'x': ...», which is right where no list of steps is in sight.
        _, _, rest = str(error).partition(": ")
        raise UsageError(f"{where}: {rest}") from None


def _refuse_twins(steps: tuple[Step, ...]) -> None:
    __tracebackhide__ = True
    seen: dict[str, int] = {}
    for number, step in enumerate(steps, start=1):
        first = seen.setdefault(step.name, number)
        if first != number:
            raise UsageError(f"step {number}: 'name' {step.name!r} is that of step {first} already; names are unique")


def _no_type(step: Mapping[str, Any]) -> str:
    """The message for a step without a type, with the type whose first field it has."""
    looks = (name for name, model in STEP_TYPES.items() if _first_field(model) in step)
    guess = next(looks, None)
    meant = f'; this one looks like {{"type": "{guess}", ...}}' if guess else ""
    return f"'type' is missing: it is {one_of(map(repr, STEP_TYPES))}{meant}"


def _first_field(model: type[Step]) -> str:
    return next(name for name, required in model.json_fields().items() if required)
