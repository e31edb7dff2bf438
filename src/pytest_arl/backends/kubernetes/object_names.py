"""Names and labels of objects: pure functions, so that `kubectl get -l` finds what ran where.

Every object of a process carries its run (shared by the workers of pytest-xdist), its worker, the test it is for, the
library's version, and the Lease it lives by.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from typing import TYPE_CHECKING

from pytest_arl.cluster.names import GROUP
from pytest_arl.cluster.pod import LEASE_LABEL, LEASE_PREFIX, RUN_LABEL, WORKER_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "KEPT_LABEL",
    "LEASE_LABEL",
    "TEST_LABEL",
    "VERSION_LABEL",
    "label_value",
    "labels_of",
    "lease_name",
    "own_labels",
    "run_id",
    "sandbox_name",
    "selector",
    "task_name",
    "worker_id",
]

_PREFIX = f"{GROUP}/"
TEST_LABEL = f"{_PREFIX}test"
VERSION_LABEL = f"{_PREFIX}version"
KEPT_LABEL = f"{_PREFIX}kept"
"""Label of Sandboxes that outlive their process."""

_LONGEST_LABEL = 63
_LONGEST_NAME = 63  # of a Sandbox: it becomes part of a pod's
_HASH_DIGITS = 8
_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def label_value(text: str) -> str:
    """Text as a label may have it; what had to be changed or cut ends in a hash, so that two never become one."""
    if len(text) <= _LONGEST_LABEL and (not text or _KEY.fullmatch(text)):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_DIGITS]
    # The end of a test's id tells more than its beginning, which is a folder that all share.
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", text)[-(_LONGEST_LABEL - _HASH_DIGITS - 1) :].strip("-_.")
    return f"{plain}-{digest}" if plain else digest


def run_id(environ: Mapping[str, str]) -> str:
    """One for all workers of a run under pytest-xdist, else one for this process."""
    shared = environ.get("PYTEST_XDIST_TESTRUNUID")
    return label_value(shared) if shared else secrets.token_hex(8)


def worker_id(environ: Mapping[str, str]) -> str:
    """The name of the worker of its run that this process is."""
    return label_value(environ.get("PYTEST_XDIST_WORKER") or "main")


def lease_name(run: str, worker: str) -> str:
    """The Lease of a process: two of one run and worker (a fork) have two."""
    short = re.sub(r"[^a-z0-9]+", "-", f"{run[:16]}-{worker[:16]}".lower()).strip("-")
    return f"{LEASE_PREFIX}{short}-{os.getpid()}-{secrets.token_hex(3)}"


def sandbox_name(pool: str) -> str:
    """A new Sandbox's name: its pool's, and what makes it the only one."""
    tail = secrets.token_hex(5)
    return f"{pool[: _LONGEST_NAME - len(tail) - 1].rstrip('-.')}-{tail}"


def task_name(sandbox: str, number: int) -> str:
    """A Task's name: padded, because Tasks of one sandbox that came within one second run in the order of names."""
    return f"{sandbox}-{number:06d}"


def labels_of(asked: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Labels of a Sandbox: what its session is for, and over that what the process says of itself."""
    found = {}
    for key, value in asked.items():
        name = key.rpartition("/")[2]
        if len(name) <= _LONGEST_LABEL and _KEY.fullmatch(name):
            found[key if "/" in key else _PREFIX + key] = label_value(value)
    return {**found, **own}


def selector(labels: Mapping[str, str]) -> str:
    """A label selector that finds what carries all of these."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def own_labels(run: str, worker: str, lease: str, version: str) -> dict[str, str]:
    """Labels that everything of this process carries."""
    return {
        RUN_LABEL: run,
        WORKER_LABEL: worker,
        LEASE_LABEL: lease,
        VERSION_LABEL: label_value(version),
    }
