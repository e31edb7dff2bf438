"""`pytest-arl pools`: this machine's and the cluster's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.cli import list_pools
from pytest_arl.cli import main as run_main
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import Settings
from tests.cli.conftest import FakeCluster

Json = dict[str, Any]

POOLS = "/apis/arl.infra.io/v1alpha1/namespaces/team/warmpools"


def pool(name: str, **status: object) -> Json:
    containers = [{"name": "sidecar", "image": "old"}, {"name": "executor", "image": "python:3"}]
    return {
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"replicas": 2, "template": {"spec": {"containers": containers}}},
        "status": status,
    }


@pytest.fixture
def connected(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(list_pools, "connect", lambda settings: cluster)
    monkeypatch.setattr(list_pools, "has_cluster", lambda settings: True)
    ready = {"type": "Ready", "status": "True", "reason": "Ready"}
    cluster.put_list(POOLS, pool("python", readyReplicas=2, allocatedReplicas=5, conditions=[ready]), pool("new"))
    return cluster


def test_the_pools_of_this_machine_and_of_the_cluster(
    connected: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pytest-arl.pools.small]\nmemory = "64Mi"\n')
    monkeypatch.chdir(tmp_path)
    assert run_main(["pools"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["small", "host", "none", "64Mi", "512", "0", str(tmp_path / "pyproject.toml")] in lines
    assert ["python", "team", "python:3", "2", "2", "5", "Ready"] in lines
    assert ["new", "team", "python:3", "2", "0", "0", "not", "seen", "by", "an", "operator"] in lines


def test_json_has_the_same(connected: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["pools", "-o", "json", "--backend", "kubernetes"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"kubernetes"}
    assert [(one["name"], one["ready"], one["allocated"]) for one in shown["kubernetes"]] == [
        ("python", 2, 5),
        ("new", 0, 0),
    ]


@pytest.mark.parametrize(
    ("words", "code"), [([], 0), (["--backend", "kubernetes"], 1)], ids=["lies-about", "asked-for"]
)
def test_an_unreachable_cluster_is_an_error_only_if_its_pools_were_asked_for(
    words: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect(settings: Settings) -> FakeCluster:
        raise BackendUnavailable("it is away")

    monkeypatch.setattr(list_pools, "connect", connect)
    monkeypatch.setattr(list_pools, "has_cluster", lambda settings: True)
    assert run_main(["pools", *words]) == code
    said = capsys.readouterr()
    assert "it is away" in said.err
    assert ("default" in said.out) == (code == 0)


def test_what_a_cluster_says_cannot_command_the_terminal(
    connected: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.put_list(POOLS, pool("p", conditions=[{"type": "Ready", "status": "False", "reason": "\x1b[2J"}]))
    assert run_main(["pools", "--backend", "kubernetes"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\\x1b[2J" in said


@pytest.mark.parametrize(
    "template",
    [
        {"spec": "x"},
        {"spec": {"containers": ["x"]}},
        {"spec": {"containers": "x"}},
        {"spec": {"containers": {"a": 1}}},
        [1],
    ],
)
def test_a_template_that_is_none_hides_no_other_pool(template: Any) -> None:
    odd = {"metadata": {"name": "odd", "namespace": "n"}, "spec": {"template": template}}
    assert list_pools._pool(odd).image == "?"
