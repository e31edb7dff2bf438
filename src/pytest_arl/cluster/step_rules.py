"""Steps of a Task, as the API server checks them: CEL and fields, of what each type of step says of itself."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.names import MOST_SPEC_BYTES
from pytest_arl.steps import STEP_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_arl.steps import Step

__all__ = ["CHARACTERS", "WORDS", "rule", "step_fields", "step_rules"]


def rule(cel: str, message: str) -> dict[str, str]:
    """A rule of the API server's, and what it says of an object that breaks it."""
    return {"rule": cel, "message": message}


def step_fields() -> dict[str, Any]:
    """The fields of all types of step, as ``pydantic.create_model`` takes them."""
    return {
        name: field for model in STEP_TYPES.values() for name, field in model.object_fields(MOST_SPEC_BYTES).items()
    }


def step_rules() -> Iterator[dict[str, str]]:
    """A step has the fields that its type needs, and none that only others have."""
    for kind, model in STEP_TYPES.items():
        needed = [name for name, required in _own(model).items() if required]
        there = f"has(self.{needed[0]})" if len(needed) == 1 else f"({_has(needed, '&&')})"
        yield rule(f"self.type != '{kind}' || {there}", f"a {kind} needs {model.needs}")
    for owner, other in itertools.permutations(STEP_TYPES, 2):
        known = list(_own(STEP_TYPES[other]))
        foreign = [name for name in _own(STEP_TYPES[owner]) if name not in known]
        if foreign:
            yield rule(
                f"self.type != '{other}' || !({_has(foreign, '||')})",
                f"a {other} has {_listed(known)}; {_listed(foreign)} belong to a {owner}",
            )


def _own(model: type[Step]) -> dict[str, bool]:
    """The fields of a type of step that not every step has, and whether each must be given."""
    return {name: required for name, required in model.json_fields().items() if name not in ("name", "type")}


def _has(names: Iterable[str], operator: str) -> str:
    return f" {operator} ".join(f"has(self.{name})" for name in names)


def _listed(names: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _sum(forms: Mapping[str, str]) -> str:
    """CEL: the size of all free texts of a Task's steps together, each measured by its form."""
    texts = [(form, name) for model in STEP_TYPES.values() for name, form in model.free_text.items() if form in forms]
    texts.sort(key=lambda text: list(forms).index(text[0]))
    each = (f"(has(s.{name}) ? {forms[form].format(f's.{name}')} : 0)" for form, name in texts)
    return f"self.steps.map(s, {' + '.join(each)}).sum()"


CHARACTERS = _sum(
    {
        "text": "size({0})",
        "list": "{0}.map(word, size(word)).sum()",
        "map": "{0}.map(name, size(name) + size({0}[name])).sum()",
    }
)
"""CEL: characters of all that is free text in the steps of a Task."""

WORDS = _sum({"list": "size({0})", "map": "size({0})"})
"""CEL: words of commands and variables."""
