from typing import Any

import pytest

from pytest_arl.cluster.objects import MOST_MESSAGE
from pytest_arl.operator.pod_problems import (
    DEFAULT_CONTAINER,
    end_of_pod,
    newest_warning,
    refused_pod,
    trouble_of,
)
from tests.operator.objects import pod


def container(name: Any = "executor", **state: Any) -> Any:
    return {"name": name, "image": "python:3", **state}


def with_containers(*containers: Any, **status: Any) -> Any:
    return pod("p", ready=False, status={"containerStatuses": list(containers), **status})


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "CrashLoopBackOff"]
)
def test_kubelets_words_are_passed_on(reason: Any) -> None:
    found = trouble_of(with_containers(container(state={"waiting": {"reason": reason, "message": "kubelet's words"}})))
    assert found is not None
    assert found.reason == reason
    assert "kubelet's words" in found.message
    assert "executor (python:3)" in found.message


def test_a_container_that_is_just_being_created_is_no_trouble() -> None:
    assert trouble_of(with_containers(container(state={"waiting": {"reason": "ContainerCreating"}}))) is None


def test_the_schedulers_words_are_passed_on() -> None:
    words = "0/1 nodes are available: 1 Insufficient cpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    assert trouble_of(pod("p", status={"conditions": [condition]})) == ("Unschedulable", words)


def test_our_own_gate_is_no_trouble() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    assert trouble_of(pod("p", status={"conditions": [condition]})) is None


def test_an_eviction_is_told_in_kubelets_words() -> None:
    words = "The node was low on resource: memory."
    assert end_of_pod(pod("p", status={"phase": "Failed", "reason": "Evicted", "message": words})) == ("Evicted", words)


def test_a_drain_is_told() -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    assert end_of_pod(pod("p", status={"conditions": [condition]}))[0] == "EvictionByEvictionAPI"


@pytest.mark.parametrize("where", ["state", "lastState"])
def test_memory_is_named_also_where_the_container_was_started_again(where: Any) -> None:
    ended = {where: {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    found = end_of_pod(with_containers(container(**ended)), boot_changed=True)
    assert found.reason == "OOMKilled"
    assert "137" in found.message


def test_an_agent_that_ended_is_told_with_its_code() -> None:
    found = end_of_pod(with_containers(container(lastState={"terminated": {"reason": "Error", "exitCode": 70}})))
    assert found.reason == "AgentEnded"
    assert "exit code 70" in found.message


@pytest.mark.parametrize("reason", ["Error", "Completed", "OOMKilled", None])
@pytest.mark.parametrize("where", ["state", "lastState"])
def test_a_steps_words_are_not_the_cause_of_death(where: Any, reason: Any) -> None:
    """Every step can write the file that the kubelet takes a container's last message from."""
    ended = {where: {"terminated": {"reason": reason, "exitCode": 1, "message": "the node caught fire"}}}
    found = end_of_pod(with_containers(container(**ended)))
    assert "fire" not in found.message
    assert "exit code 1" in found.message


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun", "ContainerStatusUnknown"])
def test_the_runtimes_words_about_what_never_ran_are_passed_on(reason: Any) -> None:
    words = 'exec: "/arl/start": no such file or directory'
    ended = {"lastState": {"terminated": {"reason": reason, "exitCode": 128, "message": words}}}
    assert words in end_of_pod(with_containers(container(**ended))).message


def test_the_end_of_the_container_that_brought_the_agent_is_no_end() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 1}}
    assert end_of_pod(with_containers(container("arl-agent", lastState=ended))).reason == "AgentLost"
    assert end_of_pod(with_containers(container("database", lastState=ended))).reason == "AgentLost"


def test_the_executor_may_have_another_name() -> None:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    found = with_containers(container("mine", lastState=ended))
    found["metadata"]["annotations"] = {DEFAULT_CONTAINER: "mine"}
    assert end_of_pod(found).reason == "OOMKilled"


def test_ends_without_words() -> None:
    assert end_of_pod(None).reason == "PodDeleted"
    assert end_of_pod(pod("p", deletionTimestamp="2026-01-01T00:00:00Z")).reason == "PodDeleted"
    assert end_of_pod(pod("p"), boot_changed=True).reason == "AgentRestarted"
    assert end_of_pod(pod("p")).reason == "AgentLost"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0', "QuotaExceeded"),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            "PodSecurityViolated",
        ),
        ("something else", "PodRefused"),
    ],
)
def test_the_api_servers_refusal_is_passed_on(message: Any, reason: Any) -> None:
    assert refused_pod(message) == (reason, message)


def test_a_long_message_is_cut() -> None:
    assert len(refused_pod("x" * 100_000).message) == MOST_MESSAGE


def test_the_latest_warning_counts() -> None:
    events = [
        {"type": "Warning", "reason": "Old", "message": "", "lastTimestamp": "2026-01-01T00:00:01Z"},
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": "no such secret",
            "lastTimestamp": "2026-01-01T00:00:02Z",
        },
        {"type": "Normal", "reason": "Scheduled", "message": "", "lastTimestamp": "2026-01-01T00:00:03Z"},
    ]
    assert newest_warning(events) == ("FailedMount", "no such secret")
    assert newest_warning(events[2:]) is None
