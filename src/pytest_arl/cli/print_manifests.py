"""``pytest-arl manifests``: prints, changes nothing."""

from __future__ import annotations

import argparse
import sys

from pytest_arl.cluster.installation import DEFAULT_NAMESPACE, Installation, crds, default_image, render

__all__ = ["add_arguments", "run"]

_EPILOG = """\
install, or change an installation:   pytest-arl manifests | kubectl apply -f -
remove it, every sandbox included:    pytest-arl manifests | kubectl delete -f -
let an account run tests:             kubectl create rolebinding arl-user -n NAMESPACE \\
                                        --clusterrole arl-user --serviceaccount NAMESPACE:ACCOUNT
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what differs from one cluster to another."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "-n", "--namespace", default=DEFAULT_NAMESPACE, help=f"where the operator runs (default: {DEFAULT_NAMESPACE})"
    )
    parser.add_argument(
        "--create-namespace",
        action=argparse.BooleanOptionalAction,
        help=f"print that namespace as well (default: only for {DEFAULT_NAMESPACE})",
    )
    parser.add_argument(
        "--sandboxes",
        action="append",
        metavar="NAMESPACE",
        help="a namespace with pools: the operator serves it, and it gets the network policy; may be repeated "
        "(default: default)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--only-there",
        action="store_true",
        help="the operator has rights in the namespaces of --sandboxes only (the default)",
    )
    where.add_argument(
        "--everywhere",
        action="store_true",
        help="the operator serves all namespaces, kube-system included, and may make pods there; --sandboxes then says "
        "which ones get a network policy",
    )
    parser.add_argument("--operator-image", metavar="IMAGE", help=f"default: {default_image('operator')}")
    parser.add_argument("--agent-image", metavar="IMAGE", help=f"default: {default_image('agent')}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--crds-only", action="store_true", help="print the custom resources and nothing else")
    which.add_argument("--no-crds", action="store_true", help="leave the custom resources out")


def run(arguments: argparse.Namespace) -> int:
    """Print the stream."""
    sys.stdout.write(crds() if arguments.crds_only else render(_installation(arguments)))
    return 0


def _installation(arguments: argparse.Namespace) -> Installation:
    create = arguments.create_namespace
    return Installation(
        namespace=arguments.namespace,
        create_namespace=arguments.namespace == DEFAULT_NAMESPACE if create is None else create,
        sandboxes=tuple(dict.fromkeys(arguments.sandboxes or ["default"])),
        everywhere=arguments.everywhere,
        operator_image=arguments.operator_image or "",
        agent_image=arguments.agent_image or "",
        with_crds=not arguments.no_crds,
    )
