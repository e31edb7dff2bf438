import asyncio
from typing import Any

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import Key, uid
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.makers import AT_ONCE, Makers
from pytest_arl.operator.store import Store
from tests.operator.objects import owned_by, pod

POOL = Key("ns", "pool")


class Server:
    """ReplicaSets by name; how often it was asked, and what it refuses."""

    def __init__(self, **there: Any) -> None:
        self.there = there
        self.asked: list[str] = []
        self.refusal: ApiError | None = None

    async def get(self, where: str, **_: str) -> Any:
        self.asked.append(where)
        if self.refusal is not None:
            raise self.refusal
        found = self.there.get(where.rpartition("/")[2])
        if found is None:
            raise ApiError(404, "NotFound", "none")
        return found


def replica_set(which: str, deployment: str, **more: Any) -> Any:
    return {"metadata": {"uid": which, "ownerReferences": owned_by("Deployment", deployment, **more)}}


def scene(server: Any) -> tuple[Store, Makers]:
    store = Store()
    found = Makers(server, store, POOL)
    found.applied({"metadata": {"uid": "d"}})
    return store, found


def made(number: object, name: str, which: str) -> Any:
    return pod(f"p{number}", ownerReferences=owned_by("ReplicaSet", which, name))


def test_a_replica_set_is_asked_for_once_however_many_pods_it_has() -> None:
    server = Server(rs=replica_set("r", "d"))
    store, makers = scene(server)
    for number in range(3):
        store.put("pods", made(number, "rs", "r"))
    assert len(asyncio.run(makers.look_up())) == 3
    store.put("pods", made(3, "rs", "r"))
    assert asyncio.run(makers.look_up()) == [], "nothing to ask"
    assert len(store.idle[POOL]) == 4
    assert server.asked == [path("replicasets", "ns", "rs")]


def test_only_the_pools_own_deployment_makes_its_pods() -> None:
    server = Server(
        another=replica_set("a", "e"),
        orphan={"metadata": {"uid": "o"}},
        renamed=replica_set("not-this", "d"),
        group=replica_set("g", "d", apiVersion="no.such/v1"),
    )
    store, makers = scene(server)
    for which, name in (("a", "another"), ("o", "orphan"), ("r", "renamed"), ("g", "group"), ("n", "none")):
        store.put("pods", made(which, name, which))
    assert asyncio.run(makers.look_up()) == []
    assert not store.idle
    assert not makers.behind()
    assert len(server.asked) == 5, "the positive control: it was asked for each"


def test_what_is_no_name_is_not_asked_for() -> None:
    server = Server()
    store, makers = scene(server)
    store.put("pods", made(1, "../../../../healthz", "r"))
    assert asyncio.run(makers.look_up()) == []
    assert server.asked == []
    assert not makers.behind()


def test_strangers_are_asked_for_a_few_at_a_time() -> None:
    server = Server(rs=replica_set("zz", "d"))
    store, makers = scene(server)
    for number in range(AT_ONCE):
        store.put("pods", made(number, f"a{number}", f"u{number}"))
    its = made("its", "rs", "zz")
    store.put("pods", its)
    asyncio.run(makers.look_up())
    assert len(server.asked) == AT_ONCE
    assert makers.behind()
    assert [uid(each) for each in asyncio.run(makers.look_up())] == [uid(its)]
    assert not makers.behind()


def test_a_refusal_is_told_and_asked_again() -> None:
    server = Server(rs=replica_set("r", "d"))
    store, makers = scene(server)
    store.put("pods", made(1, "rs", "r"))
    server.refusal = ApiError(403, "Forbidden", "replicasets is forbidden")
    assert asyncio.run(makers.look_up()) == []
    assert makers.trouble is not None
    assert "replicasets is forbidden" in makers.trouble.message
    server.refusal = None
    assert len(asyncio.run(makers.look_up())) == 1
    assert makers.trouble is None
