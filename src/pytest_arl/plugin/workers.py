"""Data that passes between the processes of pytest-xdist: the run's settings to its workers, their totals back.

A worker starts, or starts anew, when untrusted code may have run: it is given what the controller has read before, and
reads no configuration of ours itself. A worker says its totals at its end. One that crashes cannot, so reports carry a
running total too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.plugin.options import HANDED

if TYPE_CHECKING:
    from pytest_arl.plugin.output import Identity
    from pytest_arl.plugin.recorder import Totals
    from pytest_arl.settings import Settings

__all__ = ["ATTRIBUTE", "Handover", "Workers", "handed_output"]

_OUTPUT = "arl_output"

ATTRIBUTE = "arl_totals"
"""Attribute of a report from a worker: the worker's totals so far. Key of its ``workeroutput`` too."""


class Handover:
    """The controller's plugin that gives each worker what it must not look up itself."""

    def __init__(self, settings: Settings, output: Identity | None) -> None:
        self._handed = {HANDED: settings.handed(), _OUTPUT: output}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker is about to start. One on another machine has files of its own."""
        if node.gateway.spec.popen:
            node.workerinput.update(self._handed)


def handed_output(config: pytest.Config) -> Identity | None:
    """The output folder that the controller has opened, in a worker; else None."""
    handed = getattr(config, "workerinput", {}).get(_OUTPUT)
    return None if handed is None else tuple(handed)


class Workers:
    """The controller's book of its workers' totals."""

    def __init__(self) -> None:
        self._latest: dict[str, Totals] = {}
        self.crashed: list[str] = []

    def report(self, report: object) -> None:
        """A report came in; take the running total off it."""
        totals = getattr(report, ATTRIBUTE, None)
        node = getattr(report, "node", None)
        if totals is not None and node is not None:
            self._latest[node.gateway.id] = totals
            delattr(report, ATTRIBUTE)

    def down(self, node: Any) -> None:
        """A worker ended, or crashed."""
        name = node.gateway.id
        output = getattr(node, "workeroutput", None)
        if output is None:
            if name in self._latest:
                # Its sandboxes ended with it: nothing in them outlives the process that made them.
                self._latest[name] = {**self._latest[name], "open": 0}
                self.crashed.append(name)
        elif ATTRIBUTE in output:
            self._latest[name] = output[ATTRIBUTE]

    def totals(self, own: Totals) -> Totals:
        """The sum over processes, this one included."""
        several = [own, *self._latest.values()]
        return {
            "sandboxes": sum(totals["sandboxes"] for totals in several),
            "steps": sum(totals["steps"] for totals in several),
            "open": sum(totals["open"] for totals in several),
            "isolation": sorted({tier for totals in several for tier in totals["isolation"]}),
            "problems": [problem for totals in several for problem in totals["problems"]],
            "unavailable": list(dict.fromkeys(each for totals in several for each in totals["unavailable"])),
        }
