"""What the doctor says of this machine's cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_arl.backends.local import probe
from pytest_arl.backends.local.hierarchies import Hierarchies, NoCgroups
from pytest_arl.cli.findings import Finding
from pytest_arl.cli.machine import examine_machine
from pytest_arl.settings import Settings

pytestmark = pytest.mark.skipif(not probe.probe().bwrap, reason="no bubblewrap works here")


def look(monkeypatch: pytest.MonkeyPatch, answer: Hierarchies | NoCgroups) -> Finding:
    def find() -> Hierarchies:
        if isinstance(answer, NoCgroups):
            raise answer
        return answer

    monkeypatch.setattr("pytest_arl.backends.local.hierarchies.find", find)
    probe.forget()
    try:
        return next(examine_machine(Settings.build(start_dir=Path("/"))))
    finally:
        probe.forget()


def test_why_there_are_no_cgroups_and_what_would_help_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, NoCgroups("the manager is asleep", "wake it"))
    assert found.level == "warning"
    assert "'bwrap+rlimit'" in found.what
    assert found.what.endswith("stronger would be 'bwrap+cgroup': the manager is asleep")
    assert found.cure == "wake it"


def test_a_reason_without_a_cure_has_a_page_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, NoCgroups("nobody knows")).cure == "see docs/security.md"


def test_where_cgroups_are_made_and_by_which_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, Hierarchies(2, dict.fromkeys(("memory", "pids"), Path("/cg/a.scope")), "a scope from me"))
    assert found.level == "ok"
    assert "cgroups of version 2 in /cg/a.scope (a scope from me)" in found.what
