"""Steps: what to run, and the check that everything goes through before anything runs.

A step is written as a dict, the way the ARL wrapper takes it, or typed::

    {"name": "build", "type": "Command", "command": ["make"], "env": {"DEBUG": "1"}, "workDir": "/workspace"}
    Command(name="build", command=["make"], env={"DEBUG": "1"}, work_dir="/workspace")

Whatever is wrong with one is a :class:`~pytest_arl.errors.UsageError` that names the step, the field and the fix,
and never prints a value of ``env``, ``stdin`` or ``content``.

types        a row for each type of step
command      one type; ``file_patch`` another
base         what a type has to say of itself
parsing      a task's steps, checked
fields       checks of single values
objects      bounds and texts of steps in a cluster's objects
"""

from pytest_arl.steps.fields import HiddenValues, check_content, check_mode, check_path
from pytest_arl.steps.parsing import parse_steps
from pytest_arl.steps.types import STEP_TYPES, Command, FilePatch, Step, StepType, step_type
from pytest_arl.text.units import parse_duration

__all__ = [
    "STEP_TYPES",
    "Command",
    "FilePatch",
    "HiddenValues",
    "Step",
    "StepType",
    "check_content",
    "check_mode",
    "check_path",
    "parse_duration",
    "parse_steps",
    "step_type",
]
