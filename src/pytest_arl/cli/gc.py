"""``pytest-arl gc``: does at once what the end of a run's Leases does within a minute, and what nobody else does.

A run's Leases own its sandboxes, so that deleting those deletes these. What is left to this command are sandboxes whose
Lease is gone and that nobody collected, because the operator does not run, and kept ones. Objects without the label of
a run were made by hand, and are never touched.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_arl.cli.cluster import add_options, connect, items, settings_of
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.pod import RUN_LABEL
from pytest_arl.errors import UsageError
from pytest_arl.text.timestamps import parse_timestamp
from pytest_arl.text.units import parse_duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pytest_arl.cli.cluster import Cluster, Json

__all__ = ["Leftovers", "Selection", "add_arguments", "collect", "run", "what_is_left"]

_SKEW = 60.0
"""Seconds. A Lease is renewed by the clock of the machine that holds it, which may be this far from ours."""
_DURATION = 60
"""Seconds that a Lease lasts where it does not say."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the runs, and for how much of them goes."""
    parser.description = (
        "Removes what ended test runs left on the cluster: their Leases, their Sandboxes, and with these their Tasks "
        "and pods. A run has ended when none of its Leases is renewed. Kept sandboxes stay unless asked for."
    )
    add_options(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="in every namespace")
    parser.add_argument("--run", metavar="ID", dest="run_id", help="everything of this run, ended or not, kept or not")
    parser.add_argument("--older-than", metavar="DURATION", help="only what is older than this, such as 1h")
    parser.add_argument("--kept", action="store_true", help="kept sandboxes of ended runs, too")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")


def run(arguments: argparse.Namespace) -> int:
    """Remove, and say what."""
    choice = Selection(arguments.run_id, _age(arguments.older_than), arguments.kept)
    cluster = connect(settings_of(arguments))
    namespace = None if arguments.all_namespaces else cluster.namespace
    found = [left for left in what_is_left(cluster, namespace, choice, now=time.time()) if left]
    verb = "would remove" if arguments.dry_run else "removed"
    for left in found:
        if not arguments.dry_run:
            collect(cluster, left)
        sys.stdout.write(f"{verb} {left.summary()}\n")
    if not found:
        sys.stdout.write(f"nothing is left in {'any namespace' if namespace is None else f'namespace {namespace}'}\n")
    return 0


def _age(text: str | None) -> float:
    try:
        return parse_duration(text) if text else 0.0
    except UsageError as error:
        raise UsageError(f"--older-than {error}") from None


@dataclass(frozen=True, slots=True)
class Selection:
    """The choice that the command line makes.

    Attributes:
        run: one run only, whether it has ended or not, and its kept sandboxes too; None for all that have ended.
        older_than: seconds since an object was created, at least.
        kept: whether kept sandboxes of ended runs go, too.
    """

    run: str | None = None
    older_than: float = 0.0
    kept: bool = False


@dataclass(slots=True)
class Leftovers:
    """Objects that a run left in a namespace."""

    run: str
    namespace: str
    leases: list[Json] = field(default_factory=list)
    sandboxes: list[Json] = field(default_factory=list)
    everything: bool = True
    """True if these are all of the run's objects in the namespace, so that one request can delete them."""

    def __bool__(self) -> bool:
        return bool(self.leases or self.sandboxes)

    def summary(self) -> str:
        """A line for people."""
        counts = ", ".join(
            f"{len(objects)} {kind if len(objects) == 1 else plural}"
            for kind, plural, objects in (("Lease", "Leases", self.leases), ("Sandbox", "Sandboxes", self.sandboxes))
            if objects
        )
        return f"{counts} of run {self.run} in namespace {self.namespace}"


def what_is_left(cluster: Cluster, namespace: str | None, choice: Selection, *, now: float) -> list[Leftovers]:
    """Objects to remove, by run and namespace."""
    selector = RUN_LABEL if choice.run is None else f"{RUN_LABEL}={choice.run}"
    runs: dict[tuple[str, str], Leftovers] = {}
    for plural in ("leases", "sandboxes"):
        for thing in items(cluster, path(plural, namespace), labelSelector=selector):
            labels = thing["metadata"]["labels"]
            key = (labels[RUN_LABEL], thing["metadata"]["namespace"])
            objects: list[Json] = getattr(runs.setdefault(key, Leftovers(*key)), plural)
            objects.append(thing)
    return [_narrowed(left, choice, now) for _, left in sorted(runs.items())]


def _narrowed(left: Leftovers, choice: Selection, now: float) -> Leftovers:
    """The objects of a run that are to be removed."""
    if choice.run is None and any(_is_held(lease, now) for lease in left.leases):
        return Leftovers(left.run, left.namespace)
    keep_kept = choice.run is None and not choice.kept

    def goes(thing: Json) -> bool:
        kept = keep_kept and bool(thing["spec"].get("keepAlive"))
        created = parse_timestamp(thing["metadata"].get("creationTimestamp")) or 0.0
        return not kept and now - created >= choice.older_than

    leases, sandboxes = [*filter(goes, left.leases)], [*filter(goes, left.sandboxes)]
    everything = (len(leases), len(sandboxes)) == (len(left.leases), len(left.sandboxes))
    return Leftovers(left.run, left.namespace, leases, sandboxes, everything)


def _is_held(lease: Json, now: float) -> bool:
    spec: dict[str, Any] = lease.get("spec") or {}
    renewed = parse_timestamp(spec.get("renewTime") or lease["metadata"].get("creationTimestamp")) or 0.0
    return now < renewed + (spec.get("leaseDurationSeconds") or _DURATION) + _SKEW


def collect(cluster: Cluster, left: Leftovers) -> None:
    """Delete them: the sandboxes first, so that nothing is asked for twice of the cluster's garbage collector."""
    selector = f"{RUN_LABEL}={left.run}"
    if left.everything:
        for plural, objects in (("sandboxes", left.sandboxes), ("leases", left.leases)):
            if objects:
                cluster.delete(path(plural, left.namespace), labelSelector=selector)
        return
    _delete_each(cluster, (path("sandboxes", left.namespace, _name(thing)) for thing in left.sandboxes))
    _delete_each(cluster, (path("leases", left.namespace, _name(thing)) for thing in left.leases))


def _delete_each(cluster: Cluster, paths: Iterable[str]) -> None:
    for each in paths:
        cluster.delete(each)


def _name(thing: Json) -> str:
    return str(thing["metadata"]["name"])
