import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from pytest_arl.cluster.pod import POOL_LABEL, RUN_LABEL, SANDBOX_LABEL, WORKER_LABEL
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.network import NOTHING, Policies, _Outlines, isolation, selects
from pytest_arl.operator.slim import weight

LABELS = {POOL_LABEL: "python", "app": "x", SANDBOX_LABEL: "its-own"}


def policy(name: str = "p", selector: Any = None, **spec: Any) -> Any:
    return {"metadata": {"name": name}, "spec": {"podSelector": selector or {}, **spec}}


def expression(operator: str, key: str = POOL_LABEL, *values: str) -> Any:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {POOL_LABEL: "python"}}, True),
        ({"matchLabels": {POOL_LABEL: "other"}}, False),
        ({"matchLabels": {POOL_LABEL: "python", "app": "y"}}, False),
        (expression("Exists"), True),
        (expression("Exists", "none"), False),
        (expression("DoesNotExist"), False),
        (expression("DoesNotExist", "none"), True),
        (expression("In", POOL_LABEL, "python", "b"), True),
        (expression("In", POOL_LABEL, "b"), False),
        (expression("NotIn", POOL_LABEL, "python"), False),
        (expression("NotIn", "none", "python"), True),
        (expression("SomethingNew"), False),
        ({"matchLabels": {"app": "x"}, **expression("Exists", "none")}, False),
    ],
)
def test_selectors_are_those_of_kubernetes(selector: Any, chosen: bool) -> None:
    assert selects(selector, LABELS) is chosen


@pytest.mark.parametrize(
    ("policies", "status", "words"),
    [
        ([policy(policyTypes=["Ingress", "Egress"])], "True", "NetworkPolicy p"),
        ([policy("b", policyTypes=["Egress"]), policy("a", policyTypes=["Ingress"])], "True", "NetworkPolicy a, b"),
        ([policy(egress=[{}])], "True", "NetworkPolicy p"),
        ([], "False", "reach the network and be reached from it"),
        ([policy(policyTypes=["Ingress"])], "False", "sandboxes can reach the network"),
        ([policy()], "False", "sandboxes can reach the network"),
        ([policy(policyTypes=["Egress"])], "False", "sandboxes can be reached from it"),
        (
            [policy(selector={"matchLabels": {"app": "y"}}, policyTypes=["Ingress", "Egress"])],
            "False",
            "no NetworkPolicy",
        ),
    ],
)
def test_a_pool_is_isolated_where_policies_close_both_ways(policies: Any, status: str, words: str) -> None:
    found = isolation(policies, LABELS, "tests")
    assert (found["type"], found["status"]) == ("Isolated", status)
    assert words in found["message"]
    assert ("pytest-arl manifests --sandboxes tests" in found["message"]) == (status == "False"), "the cure"


def test_many_policies_are_not_all_named() -> None:
    found = isolation(
        [policy(f"p{number:03}", policyTypes=["Ingress", "Egress"]) for number in range(500)], LABELS, "n"
    )
    assert found["message"] == "NetworkPolicy p000, p001, p002, p003, p004 and 495 more"


class Server:
    def __init__(self, status: int) -> None:
        self.status = status
        self.asked = 0
        self.selector: Any = {"matchLabels": {"x": "y"}}

    async def items(self, where: str, keep: Callable[[Any], Any]) -> Any:
        self.asked += 1
        assert where == "/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies"
        await asyncio.sleep(0)
        if self.status:
            raise ApiError(self.status, "x", "networkpolicies is forbidden")
        rules: list[dict[str, str]] = [{} for _ in range(10_000)]
        kept = [
            keep(policy(policyTypes=["Ingress", "Egress"], egress=rules)),
            keep(policy("o", podSelector=self.selector, policyTypes=["Ingress", "Egress"])),
        ]
        assert len(str(kept)) < 5_000, "of each what is asked, not its rules"
        return kept


@pytest.mark.parametrize(("status", "found"), [(0, "True"), (403, "Unknown"), (500, None)])
def test_what_may_not_be_seen_is_not_guessed(status: int, found: str | None) -> None:
    server: Any = Server(status)
    told = asyncio.run(Policies(server).look("ns", LABELS))
    assert (told and told["status"]) == found


@pytest.mark.asyncio
async def test_all_pools_of_a_namespace_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each at once, of large policies, filled the operator."""
    server: Any = Server(0)
    policies = Policies(server)
    told = await asyncio.gather(*(policies.look("ns", LABELS) for _ in range(20)))
    assert {each["message"] for each in told if each} == {"NetworkPolicy p"}
    assert server.asked == 1
    now = time.monotonic()
    for seconds, asked in ((29, 1), (31, 2)):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        await policies.look("ns", LABELS)
        assert server.asked == asked


@pytest.mark.parametrize("more", [0, 1])
def test_a_selector_as_large_as_none_of_pods_selects_none(more: int) -> None:
    def selector(size: int) -> Any:
        return {"matchExpressions": [{"key": POOL_LABEL, "operator": "NotIn", "values": ["x" * size]}]}

    server: Any = Server(0)
    server.selector = selector(4096 - weight(selector(0)) + more)
    told = asyncio.run(Policies(server).look("ns", LABELS))
    assert told is not None
    assert told["message"] == ("NetworkPolicy p" if more else "NetworkPolicy o, p")


@pytest.mark.asyncio
async def test_of_namespaces_that_were_looked_at_long_ago_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everywhere(Server):
        async def items(self, where: str, keep: Callable[[Any], Any]) -> Any:
            return await super().items("/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies", keep)

    server: Any = Everywhere(0)
    policies, now = Policies(server), time.monotonic()
    for number in range(50):
        monkeypatch.setattr(time, "monotonic", lambda number=number: now + 10 * number)
        await policies.look(f"ns{number}", LABELS)
        assert len(policies._seen) <= 4
        assert len(policies._turns) <= 4


def test_so_many_selectors_of_a_namespace_are_held_and_the_rest_select_none() -> None:
    selector = {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x" * 3000]}]}
    outline = _Outlines()
    kept = [outline(policy(f"p{number}", podSelector=selector)) for number in range(1000)]
    selecting = sum(selects(each["spec"]["podSelector"], LABELS) for each in kept)
    assert selecting == 256 * 1024 // weight(selector)
    assert sum(weight(each["spec"]["podSelector"]) for each in kept[selecting:]) == weight(NOTHING) * (1000 - selecting)
    assert len({id(each["spec"]["podSelector"]) for each in kept[selecting:]}) == 1
    assert selects(outline(policy("small"))["spec"]["podSelector"], LABELS), "there is room for a small one"


@pytest.mark.parametrize(
    "selector",
    [
        expression("DoesNotExist", SANDBOX_LABEL),
        expression("NotIn", SANDBOX_LABEL, "x"),
        expression("In", SANDBOX_LABEL, "its-own"),
        {"matchLabels": {SANDBOX_LABEL: "its-own"}},
        *(
            expression(operator, label, *values)
            for label in (RUN_LABEL, WORKER_LABEL)
            for operator, *values in (("Exists",), ("DoesNotExist",), ("In", "r"), ("NotIn", "r"))
        ),
        {"matchLabels": {POOL_LABEL: "python", RUN_LABEL: "r"}},
        *(
            expression(operator, label, *values)
            for label in ("pod-template-hash", "topology.kubernetes.io/zone")
            for operator, *values in (("DoesNotExist",), ("NotIn", "x"), ("Exists",), ("In", "x"))
        ),
    ],
    ids=str,
)
def test_a_policy_for_some_pods_in_use_closes_no_pool(selector: Any) -> None:
    assert isolation([policy(selector=selector, policyTypes=["Ingress", "Egress"])], LABELS, "ns")["status"] == "False"


def test_a_policy_for_all_pods_in_use_closes_it() -> None:
    selector = expression("Exists", SANDBOX_LABEL)
    assert isolation([policy(selector=selector, policyTypes=["Ingress", "Egress"])], LABELS, "ns")["status"] == "True"
