"""The types of step: a row for each. Where a type's name comes from outside, it is looked up here, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_arl.errors import UsageError
from pytest_arl.steps.command import Command
from pytest_arl.steps.file_patch import FilePatch
from pytest_arl.text.untrusted import shorten
from pytest_arl.text.wording import hint, one_of, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STEP_TYPES", "Command", "FilePatch", "Step", "StepType", "step_type"]

Step: TypeAlias = Command | FilePatch
StepType: TypeAlias = Literal["Command", "FilePatch"]
STEP_TYPES: Mapping[str, type[Step]] = {"Command": Command, "FilePatch": FilePatch}


def step_type(name: object) -> type[Step]:
    """The type of that name. UsageError for anything else."""
    __tracebackhide__ = True
    if not isinstance(name, str):
        raise UsageError(f"'type' must be {one_of(map(repr, STEP_TYPES))}, not {type_name(name)}")
    if name not in STEP_TYPES:
        raise UsageError(f"unknown type {shorten(repr(name), 60)}; {hint(name, STEP_TYPES)}")
    return STEP_TYPES[name]
