"""What a Sandbox may have of its pool's processors and memory."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from pytest_arl.operator.resources import ResourcesInvalid, amount
from pytest_arl.operator.template import (
    Agent,
    TemplateInvalid,
    own_resources,
    pod_template,
    resources_for,
    with_resources,
)
from tests.operator.objects import pool

OWN = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def granted(asked: Any, *, own: Any = OWN, most: Any = None) -> Any:
    """The executor's resources, as a pod of its own would have them."""
    the_pool = pool(resources=own, sandbox=None if most is None else {"maxResources": most})
    assert own_resources(the_pool) == own
    found = resources_for(asked, own, the_pool)
    whole = pod_template(the_pool, Agent("agent:1", None, "[]", b"secret"))
    made = with_resources(whole, asked, the_pool)["spec"]["containers"][1]["resources"]
    assert made == found
    return found


@pytest.mark.parametrize("asked", [{}, {"limits": {}}, {"requests": {}, "limits": {}}, {"limits": {"memory": "512Mi"}}])
def test_a_sandbox_without_resources_has_those_of_the_pool(asked: Any) -> None:
    assert granted(asked) == OWN


def test_less_than_the_pools_is_granted_and_requests_go_along() -> None:
    assert granted({"limits": {"memory": "48Mi"}}) == {
        "requests": {"cpu": "50m", "memory": "48Mi"},
        "limits": {"memory": "48Mi"},
    }
    assert granted({"requests": {"memory": "32Mi", "cpu": 0}, "limits": {"memory": "300Mi"}}) == {
        "requests": {"cpu": 0, "memory": "32Mi"},
        "limits": {"memory": "300Mi"},
    }


def test_a_limit_where_the_pool_has_none_is_less() -> None:
    assert granted({"limits": {"cpu": "64"}})["limits"] == {"memory": "512Mi", "cpu": "64"}


@pytest.mark.parametrize(
    ("asked", "field", "bound"),
    [
        ({"limits": {"memory": "18Gi"}}, "limits.memory is 18Gi", "up to 512Mi"),
        ({"limits": {"memory": 512 * 2**20 + 1}}, "limits.memory is 536870913", "up to 512Mi"),
        ({"limits": {"memory": "1e9"}}, "limits.memory is 1e9", "up to 512Mi"),
        ({"requests": {"memory": "513Mi"}}, "requests.memory is 513Mi", "up to 512Mi"),
        ({"requests": {"cpu": "64"}}, "requests.cpu is 64", "up to 50m"),
        ({"requests": {"cpu": "51m"}}, "requests.cpu is 51m", "up to 50m"),
    ],
)
def test_more_than_the_pools_is_refused_with_field_bound_and_cure(asked: Any, field: str, bound: str) -> None:
    with pytest.raises(ResourcesInvalid) as told:
        granted(asked)
    said = str(told.value)
    assert said.startswith(f"spec.resources.{field}, but pool pool allows {bound}: ask for no more")
    assert "spec.sandbox.maxResources." in said


def test_a_pools_bound_may_be_more_than_its_own() -> None:
    most = {"memory": "2Gi", "cpu": 4}
    assert granted({"limits": {"memory": "2Gi"}}, most=most)["limits"] == {"memory": "2Gi"}
    assert granted({"requests": {"cpu": "4000m"}}, most=most)["requests"]["cpu"] == "4000m"
    assert granted({}, most=most) == OWN
    for over in ({"limits": {"memory": "2049Mi"}}, {"limits": {"cpu": "4001m"}}, {"requests": {"cpu": "4001m"}}):
        with pytest.raises(ResourcesInvalid, match="pool pool allows up to"):
            granted(over, most=most)


@pytest.mark.parametrize("field", ["limits", "requests"])
@pytest.mark.parametrize("name", ["nvidia.com/gpu", "ephemeral-storage", "hugepages-2Mi", "x" * 500])
def test_a_resource_that_the_pool_has_not_is_refused(field: str, name: str) -> None:
    with pytest.raises(ResourcesInvalid, match=r"pool pool has no such resource: leave it out") as told:
        granted({field: {name: "1"}})
    assert len(str(told.value)) < 400
    assert granted({field: {name: "1"}}, most={name: "1"})[field][name] == "1", "the control"


@pytest.mark.parametrize("nothing", ["0", 0, "0Mi", "0.0", "0e5"])
def test_a_limit_of_nothing_is_none_and_refused(nothing: Any) -> None:
    """Kubernetes runs a container with a limit of 0 without any."""
    with pytest.raises(ResourcesInvalid, match="which is not a limit"):
        granted({"limits": {"memory": nothing}})
    assert granted({"limits": {"memory": 1}})["limits"] == {"memory": 1}


def test_a_request_of_more_than_its_limit_is_refused() -> None:
    with pytest.raises(
        ResourcesInvalid, match=r"requests.memory is 65Mi, more than the limit of 64Mi: lower the request"
    ):
        granted({"requests": {"memory": "65Mi"}, "limits": {"memory": "64Mi"}})
    granted({"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}})


def test_of_a_device_the_request_is_the_limit() -> None:
    own = {"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 1}}
    assert granted({"limits": {"nvidia.com/gpu": 2}}, own=own, most={"nvidia.com/gpu": 2}) == {
        "limits": {"nvidia.com/gpu": 2},
        "requests": {"nvidia.com/gpu": 2},
    }


@pytest.mark.parametrize(
    "asked",
    [
        [],
        "1Gi",
        {"claims": [{"name": "gpu"}]},
        {"limits": []},
        {"limits": {f"n{number}": 1 for number in range(17)}},
        {"limits": {"memory": None}},
        {"limits": {"memory": True}},
        {"limits": {"memory": 0.5}},
        {"limits": {"memory": ["1"]}},
        {"limits": {"memory": "-1"}},
        {"limits": {"memory": -1}},
        {"limits": {"memory": "NaN"}},
        {"limits": {"memory": "1" * 65}},
        {"limits": {"memory": "1e999"}},
        {"limits": {"memory": "1Qi"}},
        {"limits": {"memory": "1 Mi"}},
    ],
)
def test_what_is_misshapen_is_refused(asked: Any) -> None:
    with pytest.raises(ResourcesInvalid, match=r"^spec\.resources"):
        granted(asked)


def test_what_the_executor_has_besides_stays() -> None:
    own = {**OWN, "claims": [{"name": "device"}]}
    assert granted({"limits": {"memory": "1Mi"}}, own=own)["claims"] == own["claims"]


def test_a_pool_without_resources_has_none_to_give() -> None:
    assert granted({}, own={}) == {}
    with pytest.raises(ResourcesInvalid, match="has no such resource"):
        granted({"limits": {"memory": "1Mi"}}, own={})


@pytest.mark.parametrize("most", [{"memory": "511Mi"}, {"cpu": "49m"}, {"memory": "0"}, {"memory": "much"}])
def test_a_bound_below_what_the_pool_gives_anyway_is_the_pools_fault(most: Any) -> None:
    with pytest.raises(TemplateInvalid, match=r"spec\.sandbox\.maxResources\."):
        pod_template(pool(resources=OWN, sandbox={"maxResources": most}), Agent("a", None, "[]", b"secret"))
    pod_template(
        pool(resources=OWN, sandbox={"maxResources": {"memory": "512Mi", "cpu": "50m"}}),
        Agent("a", None, "[]", b"secret"),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("+5", 5),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("", None),
        ("m", None),
        ("1ki", None),
        ("1K", None),
        ("٣", None),
        ("1\n", None),
        ("1" * 64, int("1" * 64)),
        ("1" * 65, None),
        ("1e99", 10**99),
        ("1e100", None),
    ],
)
def test_quantities_are_read_as_kubernetes_does(text: str, value: Any) -> None:
    assert amount(text) == value
