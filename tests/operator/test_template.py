import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_arl.cluster import pod
from pytest_arl.operator.pooling import GATE
from pytest_arl.operator.template import (
    Agent,
    TemplateInvalid,
    claim,
    cold_pod,
    deployment,
    executor_of,
    pod_template,
    with_resources,
)
from tests.operator.objects import pod as a_pod
from tests.operator.objects import pool, sandbox

AGENT = Agent("agent:1", "Never", "[keys]", b"secret")


def made(the_pool: Any) -> Any:
    return pod_template(the_pool, AGENT)


def executor(the_pool: Any) -> Any:
    return made(the_pool)["spec"]["containers"][1]


def test_the_agent_comes_first_and_the_executor_loses_its_command_to_it() -> None:
    the_pool = pool(command=["sleep", "1"], args=["x"])
    found = made(the_pool)
    agent, ours = found["spec"]["containers"]
    assert agent["name"] == pod.AGENT_CONTAINER
    assert agent["image"] == "agent:1"
    assert agent["imagePullPolicy"] == "Never"
    assert agent["lifecycle"]["postStart"]["exec"]["command"] == list(pod.INSTALL_COMMAND)
    assert ours["command"] == list(pod.agent_command(AGENT.folder(the_pool)))
    assert "args" not in ours
    assert ours["image"] == "python:3"


def test_no_image_can_know_where_the_agent_lies() -> None:
    """What it declares as a volume would lie over it."""
    the_pool, other = pool(), pool()
    folder = AGENT.folder(the_pool)
    assert re.fullmatch("/arl-[0-9a-f]{32}", folder)
    assert AGENT.folder(the_pool) == folder, "else the pool's pods were replaced again and again"
    assert AGENT.folder(other) != folder
    assert replace(AGENT, secret=b"another").folder(the_pool) != folder
    assert folder not in json.dumps(the_pool)


def test_the_pools_own_object_is_not_changed() -> None:
    the_pool = pool(command=["sleep", "1"])
    made(the_pool)
    assert the_pool["spec"]["template"]["spec"]["containers"][0]["command"] == ["sleep", "1"]


def test_the_executor_is_the_one_of_that_name_else_the_first() -> None:
    assert executor_of({"containers": [{"name": "a"}, {"name": "executor"}]})["name"] == "executor"
    assert executor_of({"containers": [{"name": "a"}, {"name": "b"}]})["name"] == "a"
    assert executor_of({"containers": [{"name": "sidecar"}, {"name": "b"}]})["name"] == "b"


def test_the_executor_of_a_made_template_is_found_again() -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"]["containers"][0]["name"] = "mine"
    assert executor_of(made(the_pool)["spec"], ours=True)["name"] == "mine"


def test_an_old_sidecar_is_left_out_and_other_containers_stay() -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"]["containers"] += [
        {"name": "sidecar", "image": "s"},
        {"name": "db", "image": "d"},
    ]
    assert [each["name"] for each in made(the_pool)["spec"]["containers"]] == [pod.AGENT_CONTAINER, "executor", "db"]


def test_privileges_go() -> None:
    found = made(pool())
    security = found["spec"]["containers"][1]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["spec"]["automountServiceAccountToken"] is False
    assert found["spec"]["enableServiceLinks"] is False
    assert found["spec"]["terminationGracePeriodSeconds"] == 5


def test_what_the_template_says_more_strictly_stays() -> None:
    local = {"type": "Localhost", "localhostProfile": "p"}
    security = executor(pool(securityContext={"seccompProfile": local, "runAsNonRoot": True, "runAsUser": 7}))[
        "securityContext"
    ]
    assert security["seccompProfile"] == local
    assert security["runAsUser"] == 7
    assert security["runAsNonRoot"] is True


def test_an_unconfined_profile_does_not_stay() -> None:
    found = executor(pool(securityContext={"seccompProfile": {"type": "Unconfined"}}))
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def mounts(container: Any) -> Any:
    return {each["mountPath"]: each for each in container["volumeMounts"]}


def test_the_agents_folder_is_read_only_and_the_workspace_is_not() -> None:
    the_pool = pool()
    found = mounts(executor(the_pool))
    assert found[AGENT.folder(the_pool)]["readOnly"] is True
    assert found["/workspace"]["readOnly"] is False
    assert "/arl-spool" in found
    assert "/tmp" not in found


def test_a_read_only_root_gets_a_tmp() -> None:
    assert "/tmp" in mounts(executor(pool(securityContext={"readOnlyRootFilesystem": True})))
    own = {"name": "mine", "mountPath": "/tmp"}
    found = executor(pool(securityContext={"readOnlyRootFilesystem": True}, volumeMounts=[own]))
    assert [each["name"] for each in found["volumeMounts"] if each["mountPath"] == "/tmp"] == ["mine"]


def test_a_workspace_of_the_templates_own_stays() -> None:
    found = executor(pool(volumeMounts=[{"name": "mine", "mountPath": "/workspace/"}]))
    assert [each["name"] for each in found["volumeMounts"] if "workspace" in each["mountPath"]] == ["mine"]


def test_every_volume_that_is_mounted_is_there() -> None:
    spec = made(pool(securityContext={"readOnlyRootFilesystem": True}))["spec"]
    mounted = {each["name"] for container in spec["containers"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["volumes"]}


def test_the_working_directory_is_the_pools() -> None:
    assert executor(pool())["workingDir"] == "/workspace"
    found = executor(pool(sandbox={"workDir": "/src"}))
    assert found["workingDir"] == "/src"
    assert "/src" in mounts(found)
    assert {"name": pod.WORKSPACE_VARIABLE, "value": "/src"} in found["env"]


def test_the_agents_variables_stand_beside_the_templates() -> None:
    found = executor(pool(env=[{"name": "A", "value": "b"}]))["env"]
    env = {each["name"]: each.get("value") for each in found}
    assert len(env) == len(found)
    assert env[pod.OPERATOR_KEYS_VARIABLE] == "[keys]"
    assert env["A"] == "b"


@pytest.mark.parametrize("field", ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"])
def test_probes_and_hooks_on_the_executor_are_refused(field: Any) -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"]["containers"][0][field] = {"exec": {"command": ["true"]}}
    with pytest.raises(TemplateInvalid, match=field):
        made(the_pool)


@pytest.mark.parametrize("field", ["shareProcessNamespace", "hostPID", "hostIPC", "hostNetwork"])
def test_pods_that_share_with_others_are_refused(field: Any) -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"][field] = True
    with pytest.raises(TemplateInvalid, match=field):
        made(the_pool)


@pytest.mark.parametrize(
    "security", [{"privileged": True}, {"allowPrivilegeEscalation": True}, {"capabilities": {"add": ["SYS_ADMIN"]}}]
)
def test_privileges_that_are_asked_for_are_refused_rather_than_dropped(security: Any) -> None:
    with pytest.raises(TemplateInvalid, match="no privileges"):
        made(pool(securityContext=security))


@pytest.mark.parametrize(
    "path",
    [
        "/arl",
        "/arl-spool/",
        "//arl",
        "/x/../arl",
        "/arl/lib",
        "/arl/lib/libm.so.6",
        "//arl-spool/./x",
        f"/arl-{32 * '0'}",
        f"/arl-{32 * 'a'}/lib",
    ],
)
def test_the_agents_folders_cannot_be_mounted_over(path: Any) -> None:
    with pytest.raises(TemplateInvalid, match="reserved for the agent"):
        made(pool(volumeMounts=[{"name": "mine", "mountPath": path}]))


@pytest.mark.parametrize(
    "path", ["/arlington", "/arl.d", "/opt/arl", "/arl-data", f"/arl-{31 * '0'}", f"/arl-{33 * '0'}"]
)
def test_paths_beside_the_agents_can_be_mounted(path: Any) -> None:
    mount = {"name": "mine", "mountPath": path}
    assert mount in executor(pool(volumeMounts=[mount]))["volumeMounts"]


@pytest.mark.parametrize("volume", ["arl-folder", "arl-spool", "arl-workspace"])
def test_no_container_of_the_template_mounts_the_agents_volumes(volume: Any) -> None:
    mount = {"name": volume, "mountPath": "/mine"}
    said = rf"mounts the volume {volume}, which is reserved for the agent"
    with pytest.raises(TemplateInvalid, match=said):
        made(pool(volumeMounts=[mount]))
    for place in ("containers", "initContainers"):
        the_pool = pool()
        spec = the_pool["spec"]["template"]["spec"]
        spec[place] = [*spec.get(place, ()), {"name": "beside", "image": "x", "volumeMounts": [mount]}]
        with pytest.raises(TemplateInvalid, match=f"container beside {said}"):
            made(the_pool)


def test_a_workspace_of_the_templates_own_is_kept_however_it_is_written() -> None:
    for path in ("/workspace", "/workspace/", "//workspace"):
        mounts = executor(pool(volumeMounts=[{"name": "mine", "mountPath": path}]))["volumeMounts"]
        assert [each["name"] for each in mounts] == ["mine", "arl-folder", "arl-spool"]


def test_the_agents_names_cannot_be_taken() -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"]["volumes"] = [{"name": "arl-folder", "emptyDir": {}}]
    with pytest.raises(TemplateInvalid, match="arl-folder"):
        made(the_pool)
    the_pool = pool()
    the_pool["spec"]["template"]["spec"]["containers"].append({"name": pod.AGENT_CONTAINER, "image": "x"})
    with pytest.raises(TemplateInvalid, match=pod.AGENT_CONTAINER):
        made(the_pool)


def test_a_template_without_containers_or_image_is_refused() -> None:
    the_pool = pool()
    the_pool["spec"]["template"] = {}
    with pytest.raises(TemplateInvalid, match="containers is empty"):
        made(the_pool)
    with pytest.raises(TemplateInvalid, match="has no image"):
        made(pool(image=""))


def test_the_deployments_pods_are_idle_and_wait_behind_the_gate() -> None:
    the_pool = pool(replicas=3)
    found = deployment(the_pool, made(the_pool))
    assert found["spec"]["replicas"] == 3
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[pod.STATUS_LABEL] == pod.STATUS_IDLE
    assert {"name": GATE} in found["spec"]["template"]["spec"]["schedulingGates"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == the_pool["metadata"]["uid"]


def test_a_pod_of_its_own_is_allocated_and_has_no_gate() -> None:
    mine = sandbox("mine", resources={})
    mine["metadata"]["labels"] = {pod.RUN_LABEL: "r1", "other": "x"}
    found = cold_pod(mine, made(pool()), "mine-1")
    assert found["metadata"]["labels"][pod.STATUS_LABEL] == pod.STATUS_ALLOCATED
    assert found["metadata"]["labels"][pod.RUN_LABEL] == "r1"
    assert "other" not in found["metadata"]["labels"]
    assert "schedulingGates" not in found["spec"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == mine["metadata"]["uid"]


def test_a_claim_is_one_patch_of_labels_and_owner_under_the_version_that_was_seen() -> None:
    idle, mine = a_pod("p"), sandbox("mine")
    patch = claim(mine, idle)["metadata"]
    assert patch["resourceVersion"] == idle["metadata"]["resourceVersion"]
    assert patch["labels"][pod.STATUS_LABEL] == pod.STATUS_ALLOCATED
    assert [each["kind"] for each in patch["ownerReferences"]] == ["Sandbox"]
    assert patch["ownerReferences"][0]["controller"] is True


def test_resources_of_the_sandbox_stand_over_those_of_the_pool() -> None:
    wanted = {"limits": {"memory": "1Gi"}}
    the_pool = pool(resources={"limits": {"cpu": "1", "memory": "2Gi"}})
    whole = made(the_pool)
    found = with_resources(whole, wanted, the_pool)
    assert found["spec"]["containers"][1]["resources"] == {"limits": {"cpu": "1", "memory": "1Gi"}}
    assert found["spec"]["containers"][0] is whole["spec"]["containers"][0], "the rest is not made again"
    assert whole["spec"]["containers"][1]["resources"]["limits"]["memory"] == "2Gi", "the pool's is the pool's"
    assert with_resources(whole, None, the_pool) is whole


@pytest.mark.parametrize(
    ("security", "drop"),
    [
        ({}, ["NET_RAW"]),
        ({"capabilities": {"drop": ["CHOWN"], "add": ["KILL"]}}, ["CHOWN", "NET_RAW"]),
        ({"capabilities": {"drop": ["NET_RAW"]}}, ["NET_RAW"]),
        ({"capabilities": {"drop": ["ALL"]}}, ["ALL"]),
        ({"runAsUser": 5, "capabilities": None}, ["NET_RAW"]),
    ],
)
@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_what_runs_beside_the_agent_reads_nothing_off_its_network(place: str, security: Any, drop: list[str]) -> None:
    the_pool = pool()
    beside = {"name": "beside", "image": "x", **({"securityContext": security} if security else {})}
    spec = the_pool["spec"]["template"]["spec"]
    spec[place] = [*spec.get(place, ()), beside]
    (found,) = [each for each in made(the_pool)["spec"][place] if each["name"] == "beside"]
    assert found["securityContext"]["capabilities"]["drop"] == drop
    kept = {key: value for key, value in security.items() if key != "capabilities"}
    assert {key: value for key, value in found["securityContext"].items() if key != "capabilities"} == kept
    assert (found["securityContext"]["capabilities"].get("add") == ["KILL"]) is ("CHOWN" in drop)
