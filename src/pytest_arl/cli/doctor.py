"""``pytest-arl doctor``: what is missing here, with the cure for each. It changes nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_arl.cli.cluster import add_options, connect, has_cluster, settings_of
from pytest_arl.cli.findings import bad, note, show
from pytest_arl.cluster.installation import DEFAULT_NAMESPACE
from pytest_arl.errors import InfrastructureError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_arl.cli.findings import Finding
    from pytest_arl.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the backend and the cluster."""
    parser.epilog = (
        "Exits 1 if something is missing for the backend of --backend, else for the configured one (`local` by "
        "default). What only the other backend needs is shown but does not count."
    )
    add_options(parser)
    parser.add_argument("--backend", choices=("local", "kubernetes"), help="check this backend only")
    parser.add_argument(
        "--operator-namespace",
        metavar="NAME",
        default=DEFAULT_NAMESPACE,
        help=f"where the operator runs (default: {DEFAULT_NAMESPACE})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, print it, and say by the exit code whether tests can run."""
    settings = settings_of(arguments)
    asked: str | None = arguments.backend
    needed = settings.value("backend")  # --backend is over all other sources
    missing = False
    if asked in (None, "local"):
        missing |= _section("this machine (backend local)", _machine(settings)) and needed == "local"
    if asked == "kubernetes" or (asked is None and (needed == "kubernetes" or has_cluster(settings))):
        found = _cluster(settings, arguments.operator_namespace)
        missing |= _section("the cluster (backend kubernetes)", found) and needed == "kubernetes"
    elif asked is None:
        _section("the cluster (backend kubernetes)", iter([note("no kubeconfig here, so none was looked at")]))
    return 1 if missing else 0


def _section(title: str, findings: Iterator[Finding]) -> bool:
    """Print the findings as they come, since some take a moment; whether anything is missing."""
    sys.stdout.write(f"{title}\n")
    missing = False
    for finding in findings:
        sys.stdout.write(show([finding]))
        sys.stdout.flush()
        missing |= finding.level == "MISSING"
    return missing


def _machine(settings: Settings) -> Iterator[Finding]:
    from pytest_arl.cli.machine import examine_machine  # noqa: PLC0415 - who asks for the cluster needs no bubblewrap

    yield from examine_machine(settings)


def _cluster(settings: Settings, operator_namespace: str) -> Iterator[Finding]:
    from pytest_arl.cli.cluster_checks import examine_cluster  # noqa: PLC0415 - likewise

    try:
        cluster = connect(settings)
        yield from examine_cluster(cluster, settings, operator_namespace)
    except InfrastructureError as error:
        yield bad(str(error), "")
