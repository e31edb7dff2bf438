"""The manifests of the custom resources are what the models say, and say what crds promise. The API server's part is tests/cluster's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml

from pytest_arl.cluster.models import Task, TaskStatus
from pytest_arl.cluster.schema import custom_resources

Schema = dict[str, Any]

DEFINITIONS = dict(custom_resources())


def schema_of(plural: str) -> Schema:
    version = DEFINITIONS[f"{plural}.yaml"]["spec"]["versions"][0]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def every_schema(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from every_schema(part, f"{path}.{name}")
    if "items" in schema:
        yield from every_schema(schema["items"], f"{path}[]")


def test_the_manifests_are_what_the_models_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_arl.cluster", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_manifest_that_was_changed_by_hand_is_found(name: str) -> None:
    text = (resources.files("pytest_arl.cluster") / "crds" / name).read_text()
    assert yaml.safe_load(text) == DEFINITIONS[name]
    assert yaml.safe_load(text.replace("v1alpha1", "v1beta1")) != DEFINITIONS[name]


@pytest.mark.parametrize("plural", ["warmpools", "sandboxes", "tasks"])
def test_schemas_are_structural(plural: str) -> None:
    for path, schema in every_schema(schema_of(plural)):
        assert "type" in schema, path
        assert not {"$ref", "anyOf", "allOf", "title", "const"} & schema.keys(), path


@pytest.mark.parametrize("plural", ["warmpools", "sandboxes", "tasks"])
def test_each_has_a_status_subresource_and_columns(plural: str) -> None:
    version = DEFINITIONS[f"{plural}.yaml"]["spec"]["versions"][0]
    assert "status" in version["subresources"]
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"


def test_a_template_takes_anything_but_lists_without_an_end() -> None:
    template = schema_of("warmpools")["properties"]["spec"]["properties"]["template"]
    spec = template["properties"]["spec"]
    bounds = {name: part["maxItems"] for name, part in spec["properties"].items()}
    assert bounds == {"containers": 64, "initContainers": 64, "volumes": 256}
    for part in (template, spec, *(each["items"] for each in spec["properties"].values())):
        assert part["x-kubernetes-preserve-unknown-fields"] is True
        assert "additionalProperties" not in part


def test_abbreviations_keep_their_capitals() -> None:
    assert {"podIP", "agentBootID"} <= schema_of("sandboxes")["properties"]["status"]["properties"].keys()
    assert "traceID" in schema_of("tasks")["properties"]["spec"]["properties"]


def test_what_the_operator_writes_is_what_the_client_reads() -> None:
    status = TaskStatus(state="Failed", exit_code=42, steps=[])
    assert status.to_json() == {"state": "Failed", "exitCode": 42, "steps": []}
    task = {"metadata": {"name": "t"}, "spec": {"sandboxRef": "s", "steps": [{"name": "a", "type": "Command"}]}}
    assert Task.model_validate({**task, "status": status.to_json()}).status == status
