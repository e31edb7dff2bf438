"""Namespaces made by programs below a bubblewrap."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_arl.backends.local.apparmor import label_denies
from pytest_arl.backends.local.bubblewraps import label_of
from pytest_arl.backends.local.children import refused_below
from pytest_arl.backends.local.probe import probe
from tests.local.conftest import AS_ROOT

pytestmark = pytest.mark.skipif(not probe().bwrap, reason="no bubblewrap works here")


def test_here_they_may_and_below_one_that_takes_their_rights_they_may_not(tmp_path: Path) -> None:
    wrapper = tmp_path / "bwrap"
    taken = "--cap-drop ALL" if AS_ROOT else "--disable-userns"
    wrapper.write_text(f'#!/bin/sh\nshift 6\nexec {probe().bwrap} --unshare-ipc --unshare-pid {taken} "$@"\n')
    wrapper.chmod(0o755)

    confined = label_denies(label_of(probe().bwrap))
    assert bool(refused_below(probe().bwrap, privileged=AS_ROOT)) == confined
    if confined:
        return
    refused = "namespaces: Operation not permitted" if AS_ROOT else "user namespace: No space left on device"
    assert refused_below(str(wrapper), privileged=AS_ROOT) == refused


def test_where_it_cannot_be_found_out_nothing_is_said(tmp_path: Path) -> None:
    assert refused_below(str(tmp_path / "none"), privileged=AS_ROOT) == ""
    assert refused_below("/bin/echo", privileged=AS_ROOT) == ""
