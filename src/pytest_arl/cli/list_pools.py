"""``pytest-arl pools``: what a test can name with ``pool_ref``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pytest_arl.cli.cluster import add_options, connect, has_cluster, items, settings_of
from pytest_arl.cli.text import table
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import condition, status_of
from pytest_arl.cluster.pod import EXECUTOR_CONTAINER
from pytest_arl.errors import InfrastructureError
from pytest_arl.pools import load_pools
from pytest_arl.text.units import format_quantity
from pytest_arl.text.untrusted import neutralise

if TYPE_CHECKING:
    import argparse

    from pytest_arl.cli.cluster import Cluster, Json
    from pytest_arl.settings import Settings

__all__ = ["ClusterPool", "add_arguments", "cluster_pools", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the pools to list, and for the format."""
    add_options(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="the cluster's in every namespace")
    parser.add_argument("--backend", choices=("local", "kubernetes"), help="only those of this backend")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")


def run(arguments: argparse.Namespace) -> int:
    """Print this machine's, then the cluster's where there is one."""
    settings = settings_of(arguments)
    asked: str | None = arguments.backend
    shown: dict[str, list[dict[str, object]]] = {}
    notes = []
    if asked in (None, "local"):
        shown["local"] = _local(settings)
    if asked == "kubernetes" or (asked is None and has_cluster(settings)):
        try:
            cluster = connect(settings)
            found = cluster_pools(cluster, None if arguments.all_namespaces else cluster.namespace)
            shown["kubernetes"] = [asdict(pool) for pool in found]
        except InfrastructureError as error:
            # A kubeconfig lies about on many machines: it matters to those who use it.
            if settings.value("backend") == "kubernetes":
                raise
            notes.append(f"kubernetes: {neutralise(str(error))}")
    if arguments.output == "json":
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_section(backend, pools) for backend, pools in shown.items()))
    for note in notes:
        sys.stderr.write(f"{note}\n")
    return 0


def _section(backend: str, pools: list[dict[str, object]]) -> str:
    if not pools:
        return f"{backend}: no pools here; docs/cluster.md shows how one is made\n"
    columns = [column for column in pools[0] if column != "message"]
    return table([[backend, *columns[1:]], *([str(pool[column]) for column in columns] for pool in pools)])


def _local(settings: Settings) -> list[dict[str, object]]:
    return [
        {
            "name": pool.name,
            "root": "host" if pool.root is None else str(pool.root),
            "network": pool.network,
            "memory": format_quantity(pool.memory),
            "processes": pool.processes,
            "warm": pool.warm,
            "source": "built in" if pool.source is None else str(pool.source),
        }
        for pool in load_pools(settings).values()
    ]


@dataclass(frozen=True, slots=True)
class ClusterPool:
    """A WarmPool, as a line of the table.

    Attributes:
        name: what ``pool_ref`` names.
        namespace: where it is.
        image: what its sandboxes run.
        desired: idle sandboxes to keep.
        ready: idle sandboxes there are.
        allocated: sandboxes in use.
        status: why it is not as it should be, or ``Ready``.
        message: the same in a sentence, which is too long for a table.
    """

    name: str
    namespace: str
    image: str
    desired: int
    ready: int
    allocated: int
    status: str
    message: str


def cluster_pools(cluster: Cluster, namespace: str | None) -> list[ClusterPool]:
    """The WarmPools of a namespace, or of all."""
    return [_pool(pool) for pool in items(cluster, path("warmpools", namespace))]


def _pool(pool: Json) -> ClusterPool:
    said, ready = status_of(pool), condition(pool, "Ready")
    return ClusterPool(
        name=pool["metadata"]["name"],
        namespace=pool["metadata"]["namespace"],
        image=_image(pool["spec"].get("template") or {}),
        desired=pool["spec"].get("replicas", 0),
        ready=said.get("readyReplicas", 0),
        allocated=said.get("allocatedReplicas", 0),
        status="Ready" if ready.get("status") == "True" else ready.get("reason") or "not seen by an operator",
        message=str(ready.get("message") or ""),
    )


def _image(template: Json) -> str:
    """The image of the container that sandboxes run in; a question mark for what is no template."""
    try:
        containers = (template.get("spec") or {}).get("containers") or [{}]
        named = [container for container in containers if container.get("name") == EXECUTOR_CONTAINER]
        return str((named or containers)[0].get("image", ""))
    except (AttributeError, LookupError, TypeError):
        return "?"
