"""What is printed for a cluster: complete, minimal in rights, safe to apply and to apply again."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
import yaml

from pytest_arl.cli import main as run_main
from pytest_arl.cli.rights import RIGHTS
from pytest_arl.cluster.installation import Installation, render
from pytest_arl.cluster.pod import POOL_LABEL, PORT
from pytest_arl.errors import UsageError

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
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "ServiceAccount",
        "Deployment",
        "ResourceQuota",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    assert {name for kind, _, name in names if kind == "CustomResourceDefinition"} == {
        "warmpools.arl.infra.io",
        "sandboxes.arl.infra.io",
        "tasks.arl.infra.io",
    }


def test_the_operators_pod_is_scheduled_before_all_others(capsys: pytest.CaptureFixture[str]) -> None:
    """Pods of anybody's may otherwise keep it from every node: by their priority, or as they want it not beside them."""
    found = documents("--namespace", "mine", capsys=capsys)
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    assert spec["priorityClassName"] == "system-cluster-critical"
    quota = one(found, "ResourceQuota")
    assert quota["metadata"]["namespace"] == "mine"
    (scope,) = quota["spec"]["scopeSelector"]["matchExpressions"]
    assert scope == {"scopeName": "PriorityClass", "operator": "In", "values": [spec["priorityClassName"]]}
    assert quota["spec"]["hard"] == {"pods": "1G"}, "none that would bound others of the namespace"


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
    bindings = [thing for thing in of_kind(found, "RoleBinding") if thing["roleRef"]["name"] == "arl-operator"]
    assert [thing["metadata"]["namespace"] for thing in bindings] == ["a", "b"]
    assert {subject["namespace"] for thing in bindings for subject in thing["subjects"]} == {"ops"}


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
    with pytest.raises(UsageError, match="is not a name of"):
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


def operators_rights(found: list[Json]) -> tuple[set[str], list[str]]:
    """Where the operator has rights, "*" being everywhere, and what it is told."""
    bindings = [
        thing
        for thing in (*of_kind(found, "ClusterRoleBinding"), *of_kind(found, "RoleBinding"))
        if thing["roleRef"]["name"] == "arl-operator"
    ]
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {thing["metadata"].get("namespace", "*") for thing in bindings}, container["args"]


def test_the_operator_has_rights_where_the_sandboxes_are_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert operators_rights(documents(capsys=capsys)) == ({"default"}, ["operator", "run", "--namespace", "default"])
    there = documents("--sandboxes", "a", "--sandboxes", "b", capsys=capsys)
    arguments = ["operator", "run", "--namespace", "a", "--namespace", "b"]
    assert operators_rights(there) == ({"a", "b"}, arguments)
    assert of_kind(there, "ClusterRoleBinding") == []
    assert documents("--only-there", "--sandboxes", "a", "--sandboxes", "b", capsys=capsys) == there, "as it was called"


def test_everywhere_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = documents("--everywhere", "--sandboxes", "a", capsys=capsys)
    assert operators_rights(everywhere) == ({"*"}, ["operator", "run"])
    assert [thing["metadata"]["namespace"] for thing in of_kind(everywhere, "NetworkPolicy")] == ["a"]
    with pytest.raises(SystemExit):
        run_main(["manifests", "--everywhere", "--only-there"])


@pytest.mark.parametrize("name", ["kube-system", "kube-public", "kube-node-lease"])
def test_the_cluster_s_own_namespaces_have_no_sandboxes(name: str) -> None:
    with pytest.raises(UsageError, match=f"namespace {name} is the cluster's own"):
        render(Installation(sandboxes=("default", name)))
    assert render(Installation(sandboxes=("default", f"{name}-2")))


# --- admission


def test_policies_hold_where_the_operator_serves(capsys: pytest.CaptureFixture[str]) -> None:
    there = documents("-n", "ops", "--sandboxes", "a", "--sandboxes", "b", capsys=capsys)
    chosen = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}]}
    for found, selector in ((there, chosen), (documents("-n", "ops", "--everywhere", capsys=capsys), {})):
        policies = of_kind(found, "ValidatingAdmissionPolicy")
        names = [thing["metadata"]["name"] for thing in policies]
        neighbours = [] if selector == {} else ["arl-neighbours-ops"]  # everywhere there are the cluster's own pods
        assert names == ["arl-pods-ops", "arl-workloads-ops", "arl-leases-ops", *neighbours], (
            "one for each installation"
        )
        bindings = of_kind(found, "ValidatingAdmissionPolicyBinding")
        assert [thing["spec"]["policyName"] for thing in bindings] == names
        for thing in bindings:
            assert thing["spec"]["validationActions"] == ["Deny"]
            assert thing["spec"]["matchResources"]["namespaceSelector"] == selector
        for policy in policies:
            assert policy["spec"]["failurePolicy"] == "Fail"
            words = [each["expression"] for each in policy["spec"]["matchConditions"]]
            assert "request.userInfo.username != 'system:serviceaccount:ops:arl-operator'" in words


def test_pods_without_the_label_are_not_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    spec = one(documents(capsys=capsys), "ValidatingAdmissionPolicy", "arl-pods-arl-system")["spec"]
    (expression,) = spec["matchConstraints"]["objectSelector"]["matchExpressions"]
    assert expression == {"key": POOL_LABEL, "operator": "Exists"}


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
