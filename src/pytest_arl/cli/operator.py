"""``pytest-arl operator run``: what the operator's Deployment starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Leave the operator's options to the operator."""
    import pytest_arl.operator.startup as operator  # noqa: PLC0415 - it needs the extra `operator`

    actions = parser.add_subparsers(dest="action", required=True, metavar="run")
    operator.add_arguments(actions.add_parser("run", help="serve pools, sandboxes and tasks until ended"))


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM, or until another operator leads."""
    import pytest_arl.operator.startup as operator  # noqa: PLC0415

    return int(operator.run(arguments) or 0)
