"""The pytest plugin: the only place that imports pytest.

The entry point ``arl`` names this package. Its rooms:

=================  =====================================================================
startup_hooks      pytest's hooks that every run calls
test_hooks         pytest's hooks while tests run; each says which room does the work
options            command line, ini file and environment; the header
own_files          what pytest reads and writes here in a run, and so no sandbox may
test_options       what a test asks: markers and indirect parameters
fixtures, handles  arl_sandbox, arl_sandbox_factory, sandbox_fixture, and what they give
shared             sandboxes that outlive a test: checkpoints, resets, markers in conflict
run                one run of pytest in this process, which the other rooms share
recorder, record   which test ran what, as bounded JSON
infrastructure     E instead of F, and nothing for xfail to absorb
reports            what a report carries
report_sinks       what a sink of records is; ``sinks`` has a module for each, ``own_files`` a row
harmless           untrusted text in what pytest itself shows
output             ``--arl-output``
summary, workers   the end of the run; sums over pytest-xdist's workers
=================  =====================================================================
"""

from __future__ import annotations

from pytest_arl.plugin.fixtures import arl_sandbox, arl_sandbox_factory
from pytest_arl.plugin.startup_hooks import (
    pytest_addhooks,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_make_parametrize_id,
    pytest_report_header,
    pytest_sessionstart,
    pytest_unconfigure,
)

__all__ = [
    "arl_sandbox",
    "arl_sandbox_factory",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_make_parametrize_id",
    "pytest_report_header",
    "pytest_sessionstart",
    "pytest_unconfigure",
]
