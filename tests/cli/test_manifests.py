"""What is printed for a cluster: complete, minimal in rights, safe to apply and to apply again."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
import yaml

from pytest_arl.cli import main as run_main
from pytest_arl.cli.rights import RIGHTS
from pytest_arl.deploy.manifests import Installation, render
from pytest_arl.errors import UsageError
from pytest_arl.pod import POOL_LABEL, PORT

Json = dict[str, Any]


def documents(*words: str, capsys: pytest.CaptureFixture[str]) -> list[Json]:
    assert run_main(["manifests", *words]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def of_kind(found: list[Json], kind: str, name: str | None = None) -> list[Json]:
    return [thing for thing in found if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]


def one(found: list[Json], kind: str, name: str | None = None) -> Json:
    (thing,) = of_kind(found, kind, name)
    return thing


def rights(role: Json) -> set[tuple[str, str, str, str]]:
    return {
        (group, resource, verb, ",".join(rule.get("resourceNames", [])))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_everything_is_there_and_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents(capsys=capsys)
    names = [(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in found]
    assert len(names) == len(set(names))
    assert {kind for kind, _, _ in names} == {
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "ServiceAccount",
        "Deployment",
    }
    assert {name for kind, _, name in names if kind == "CustomResourceDefinition"} == {
        "warmpools.arl.infra.io",
        "sandboxes.arl.infra.io",
        "tasks.arl.infra.io",
    }


def test_applying_twice_gives_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert documents(capsys=capsys) == documents(capsys=capsys)


def test_what_is_not_ours_to_make_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    # Applying would change the labels of a namespace that others use; deleting the stream would delete it.
    assert of_kind(documents("--namespace", "shared", capsys=capsys), "Namespace") == []
    made = documents("--namespace", "mine", "--create-namespace", capsys=capsys)
    assert one(made, "Namespace")["metadata"]["name"] == "mine"
    assert of_kind(documents("--no-create-namespace", capsys=capsys), "Namespace") == []


def test_the_custom_resources_alone_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert {thing["kind"] for thing in documents("--crds-only", capsys=capsys)} == {"CustomResourceDefinition"}
    assert of_kind(documents("--no-crds", capsys=capsys), "CustomResourceDefinition") == []


def test_images_and_namespaces_are_those_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents(
        "-n", "ops", "--sandboxes", "a", "--sandboxes", "b", "--sandboxes", "a", "--operator-image", "r.example:5000/op@sha256:00",
        "--agent-image", "r.example/agent:2", capsys=capsys,
    )  # fmt: skip
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "r.example:5000/op@sha256:00"
    assert {"name": "ARL_AGENT_IMAGE", "value": "r.example/agent:2"} in container["env"]
    assert [thing["metadata"]["namespace"] for thing in of_kind(found, "NetworkPolicy")] == ["a", "b"]
    assert one(found, "Deployment")["metadata"]["namespace"] == "ops"
    subjects = [subject for thing in of_kind(found, "ClusterRoleBinding") for subject in thing["subjects"]]
    assert {subject["namespace"] for subject in subjects} == {"ops"}


def test_images_are_those_of_this_version_unless_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    (container,) = one(documents(capsys=capsys), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"localhost/pytest-arl-operator:{version('pytest-arl')}"


@pytest.mark.parametrize(
    "installation",
    [
        Installation(operator_image="a\nkind: Secret"),
        Installation(agent_image="a: b"),
        Installation(agent_image="$(id)"),
        Installation(namespace="Upper"),
        Installation(sandboxes=("a\nb",)),
        Installation(sandboxes=("x" * 64,)),
    ],
)
def test_what_would_become_other_yaml_is_refused(installation: Installation) -> None:
    with pytest.raises(UsageError, match="is no name of"):
        render(installation)
    assert render(Installation(operator_image="a", agent_image="b/c:1", sandboxes=("x" * 63,)))


# --- rights


def test_the_operator_may_read_and_change_no_secret_but_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents(capsys=capsys)
    secrets = {
        (role["kind"], verb, names)
        for role in (*of_kind(found, "ClusterRole"), *of_kind(found, "Role"))
        for _, resource, verb, names in rights(role)
        if resource == "secrets"
    }
    # `create` cannot be bound to a name: that of an object to be made is not known to the authorizer.
    assert secrets == {
        ("Role", "create", ""),
        ("Role", "get", "arl-operator-key"),
    }


def test_no_role_has_a_wildcard_or_a_way_to_more_rights(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents(capsys=capsys)
    everything = {right for role in (*of_kind(found, "ClusterRole"), *of_kind(found, "Role")) for right in rights(role)}
    assert ("", "pods", "create", "") in everything
    words = {word for group, resource, verb, _ in everything for word in (group, resource, verb)}
    assert {"*", "escalate", "bind", "impersonate", "pods/exec", "nodes", "serviceaccounts/token"} & words == set()


def test_who_runs_tests_makes_no_pools_and_no_pods(capsys: pytest.CaptureFixture[str]) -> None:
    user = rights(one(documents(capsys=capsys), "ClusterRole", "arl-user"))
    assert ("arl.infra.io", "sandboxes", "create", "") in user
    assert ("arl.infra.io", "warmpools", "create", "") not in user
    assert {verb for _, resource, verb, _ in user if resource == "pods"} == {"get", "list"}
    admin = rights(one(documents(capsys=capsys), "ClusterRole", "arl-pool-admin"))
    assert ("arl.infra.io", "warmpools", "create", "") in admin


def test_the_doctor_asks_for_the_rights_that_the_role_gives(capsys: pytest.CaptureFixture[str]) -> None:
    role = rights(one(documents(capsys=capsys), "ClusterRole", "arl-user"))
    assert {(right.group, right.resource, verb, "") for right in RIGHTS for verb in right.verbs} == role


def test_an_operator_for_some_namespaces_has_rights_there_only(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = documents(capsys=capsys)
    assert one(everywhere, "ClusterRoleBinding")["roleRef"]["name"] == "arl-operator"
    assert "arl-operator" not in {thing["roleRef"]["name"] for thing in of_kind(everywhere, "RoleBinding")}
    there = documents("--only-there", "--sandboxes", "a", "--sandboxes", "b", capsys=capsys)
    assert of_kind(there, "ClusterRoleBinding") == []
    bound = {
        thing["metadata"]["namespace"]: thing["subjects"][0]
        for thing in of_kind(there, "RoleBinding")
        if thing["roleRef"]["name"] == "arl-operator"
    }
    assert set(bound) == {"a", "b"}
    assert {subject["namespace"] for subject in bound.values()} == {"arl-system"}
    (container,) = one(there, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["operator", "run", "--namespace", "a", "--namespace", "b"]
    (container,) = one(everywhere, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["operator", "run"]


# --- the network policy and the pod


def test_sandboxes_are_reached_by_the_operator_alone_and_reach_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents("-n", "ops", capsys=capsys)
    policy = one(found, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    assert policy["podSelector"]["matchExpressions"] == [{"key": POOL_LABEL, "operator": "Exists"}]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": PORT}]
    (source,) = rule["from"]
    # One entry with both selectors: two entries would admit every pod of the operator's namespace.
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ops"}
    labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_operator_s_pod_has_no_privilege(capsys: pytest.CaptureFixture[str]) -> None:
    spec = one(documents(capsys=capsys), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_the_labels_that_select_pods_are_those_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    spec = one(documents(capsys=capsys), "Deployment")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
