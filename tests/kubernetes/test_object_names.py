"""What objects are called, and what their labels say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.backends.kubernetes import object_names

_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@pytest.mark.parametrize("text", ["main", "gw12", "a" * 63, "A.b_c-d", ""])
def test_a_valid_label_is_left_unchanged(text: str) -> None:
    assert object_names.label_value(text) == text


@given(st.text(max_size=300))
def test_any_text_becomes_a_label(text: str) -> None:
    value = object_names.label_value(text)
    assert len(value) <= 63
    assert _LABEL.fullmatch(value)


def test_two_tests_never_share_a_label() -> None:
    one, other = "tests/a/test_x.py::test_y[1]", "tests/b/test_x.py::test_y[1]"
    long = "tests/" + "x" * 80 + "/test_z.py::test_"
    values = {object_names.label_value(text) for text in (one, other, long + "a", long + "b")}
    assert len(values) == 4
    assert "test_x.py-test_y-1-" in object_names.label_value(one), "it can be read"


@pytest.mark.parametrize("pool", ["p", "python-39-std", "a" * 60, "a" * 51 + "-" * 2 + "b", "dotted.name"])
def test_a_sandboxs_name_fits_a_pods_and_no_two_are_equal(pool: str) -> None:
    found = {object_names.sandbox_name(pool) for _ in range(50)}
    assert len(found) == 50
    for name in found:
        assert len(name) <= 63
        assert name.startswith(pool[:40])
    if "." not in pool:
        assert all(map(_NAME.fullmatch, found))


def test_tasks_of_a_sandbox_sort_in_their_order() -> None:
    found = [object_names.task_name("box", number) for number in (1, 2, 9, 10, 99, 100, 12345)]
    assert found == sorted(found)


def test_workers_of_a_run_share_its_id_and_other_processes_have_their_own() -> None:
    worker = {"PYTEST_XDIST_TESTRUNUID": "f" * 32, "PYTEST_XDIST_WORKER": "gw3"}
    assert object_names.run_id(worker) == object_names.run_id({**worker, "PYTEST_XDIST_WORKER": "gw1"}) == "f" * 32
    assert object_names.worker_id(worker) == "gw3"
    assert object_names.run_id({}) != object_names.run_id({})
    assert object_names.worker_id({}) == "main"
    assert object_names.lease_name("f" * 32, "gw3") != object_names.lease_name("f" * 32, "gw3")
    assert _NAME.fullmatch(object_names.lease_name("F_f.f", "gw3"))


def test_what_a_session_is_for_becomes_labels_and_says_nothing_over_the_process() -> None:
    own = object_names.own_labels("run-1", "gw0", "arl-lease", "0.1.0")
    labels = object_names.labels_of(
        {"test": "tests/test_a.py::test_b", "team": "x", "worker": "forged", "not a key!": "y"}, own
    )
    assert labels["arl.infra.io/worker"] == "gw0"
    assert labels["arl.infra.io/team"] == "x"
    assert labels["arl.infra.io/test"].startswith("tests-test_a.py-test_b-")
    assert labels["arl.infra.io/version"] == "0.1.0"
    assert all(_LABEL.fullmatch(value) for value in labels.values())
    assert not [key for key in labels if "!" in key]
