import copy
from typing import Any

import pytest

from pytest_arl.cluster.objects import Key, key, name, uid, version
from pytest_arl.cluster.pod import POOL_LABEL, STATUS_LABEL
from pytest_arl.operator import memory_shares
from pytest_arl.operator.ownership import Ownership
from pytest_arl.operator.slim import is_cut, is_too_large, slim, weight
from pytest_arl.operator.store import DEFAULT_TTL_SECONDS, Store
from tests.operator.objects import command, owned_by, pod, pool, sandbox, task

POOL = Key("ns", "pool")
SB = Key("ns", "sb")


def later(body: Any, **changes: Any) -> Any:
    meta = {**body["metadata"], "resourceVersion": str(int(body["metadata"]["resourceVersion"]) + 1000)}
    return {**body, "metadata": meta, **changes}


def listed_as(*bodies: Any, later_by: int = 0) -> dict[str, tuple[Key, int]]:
    return {uid(each): (key(each), version(each) + later_by) for each in bodies}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store, old = Store(), sandbox()
    new = later(old, status={"phase": "Ready"})
    assert store.put("sandboxes", new)
    assert not store.put("sandboxes", old)
    assert store.get("sandboxes", SB) == new


def test_versions_are_numbers() -> None:
    store, old = Store(), sandbox()
    old["metadata"]["resourceVersion"] = "99"
    new = {**old, "metadata": {**old["metadata"], "resourceVersion": "100"}}
    store.put("sandboxes", old)
    assert store.put("sandboxes", new)


def test_another_object_of_the_same_name_replaces_the_old_one() -> None:
    store, old, new = Store(), sandbox(), sandbox()
    store.put("sandboxes", old)
    assert store.put("sandboxes", new)
    assert not store.remove("sandboxes", old)  # a late event about the old one
    assert store.get("sandboxes", SB) == new


def knowing() -> Store:
    """A store that knows the pool's Deployment d and the ReplicaSets r, which is d's, and other, which is another's."""
    ours = Ownership([b"key"])
    ours.applied(POOL, "d")
    ours.learn("r", "d")
    ours.learn("other", "e")
    return Store(ours)


def made(by: str = "r", **more: Any) -> Any:
    return pod("p", ownerReferences=owned_by("ReplicaSet", by), **more)


def test_a_claim_moves_a_pod_from_the_pool_to_its_sandbox() -> None:
    store, idle, claimer = knowing(), made(), sandbox()
    store.put("pods", idle)
    assert list(store.idle[POOL]) == [uid(idle)]
    claimed = later(idle)
    claimed["metadata"] |= {
        "labels": {POOL_LABEL: "pool"},
        "annotations": store.ours.mark(idle, claimer),
        "ownerReferences": owned_by("Sandbox", uid(claimer)),
    }
    store.put("pods", claimed)
    assert not store.idle[POOL]
    assert list(store.allocated[POOL]) == [uid(idle)]
    assert list(store.owned[uid(claimer)]) == ["p"]
    store.remove("pods", claimed)
    assert not store.allocated[POOL]
    assert uid(claimer) not in store.owned


def test_labels_alone_make_no_pod_a_pools() -> None:
    store = knowing()
    strangers = [
        pod("none"),
        pod("another", ownerReferences=owned_by("ReplicaSet", "other")),
        pod("group", ownerReferences=owned_by("ReplicaSet", "r", apiVersion="no.such/v1")),
        pod("no-controller", ownerReferences=owned_by("ReplicaSet", "r", controller=False)),
        pod("job", ownerReferences=owned_by("Job", "r")),
    ]
    for stranger in strangers:
        store.put("pods", stranger)
        assert not store.is_idle(stranger), name(stranger)
    its = made()
    store.put("pods", its)
    assert store.is_idle(its)
    assert list(store.idle[POOL]) == [uid(its)]


def test_a_pod_with_an_owner_but_without_a_claim_is_no_sandboxs() -> None:
    store, one, other = knowing(), sandbox("one"), sandbox("other")
    allocated = {POOL_LABEL: "pool", STATUS_LABEL: "allocated"}
    forged = pod("forged", labels=allocated, ownerReferences=owned_by("Sandbox", uid(one)))
    copied = pod("copied", labels=allocated, ownerReferences=owned_by("Sandbox", uid(one)))
    copied["metadata"]["annotations"] = store.ours.mark(forged, one)
    handed = pod("handed", labels=allocated, ownerReferences=owned_by("Sandbox", uid(other)))
    handed["metadata"]["annotations"] = store.ours.mark(handed, one)
    foreign = pod("foreign", labels=allocated, ownerReferences=owned_by("Sandbox", uid(one), apiVersion="x/v1"))
    foreign["metadata"]["annotations"] = store.ours.mark(foreign, one)
    for stranger in (forged, copied, handed, foreign):
        store.put("pods", stranger)
        assert store.ours.sandbox(stranger) is None, name(stranger)
    assert not store.owned
    assert not store.allocated[POOL]
    # Of the one that has lost its owner it is still known that it was claimed.
    assert store.ours.claimed(handed) == uid(one)
    assert store.ours.claimed(copied) is None


def test_what_is_learned_of_a_replica_set_sorts_the_pods_that_wait_for_it() -> None:
    store, its = Store(), made()
    store.put("pods", its)
    assert [maker.uid for maker in store.unknown_makers(POOL)] == ["r"]
    store.ours.learn("r", "d")
    assert store.unknown_makers(POOL) == []
    assert store.sort_again(POOL) == [], "the pool's Deployment is not known"
    store.ours.applied(POOL, "d")
    assert [maker.uid for maker in store.unknown_makers(POOL)] == ["r"], "a new Deployment may adopt what is there"
    store.ours.learn("r", "d")
    assert [uid(each) for each in store.sort_again(POOL)] == [uid(its)]
    store.ours.applied(POOL, "d2")
    assert store.sort_again(POOL) == []
    store.remove("pods", its)
    assert not store.unproven
    assert not store.idle


def test_of_a_pod_only_what_is_asked_of_it_is_kept() -> None:
    store, large = Store(), pod("p", ready=False, gated=True)
    large["spec"]["containers"] = [
        {"name": "executor", "env": [{"name": "x"}], "resources": {"limits": {"memory": "1Gi"}}}
    ]
    store.put("pods", large)
    kept = store.get("pods", Key("ns", "p"))
    assert kept is not None
    assert kept["spec"]["containers"] == [{"name": "executor", "resources": {"limits": {"memory": "1Gi"}}}]
    assert kept["spec"]["schedulingGates"] == large["spec"]["schedulingGates"]
    assert kept["metadata"] == large["metadata"]
    assert kept["status"]["podIP"] == "10.0.0.1"


def test_tasks_run_by_time_then_name() -> None:
    store = Store()
    for number, second in (("b", 1), ("a", 1), ("0", 2)):
        each = task(number)
        each["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:0{second}Z"
        store.put("tasks", each)
    assert [name(each) for each in store.tasks(SB)] == ["a", "b", "0"]


def test_of_a_finished_task_only_its_end_is_kept() -> None:
    store, running = Store(), task(ttlSecondsAfterFinished=30)
    store.put("tasks", running)
    assert [uid(each) for each in store.tasks(SB)] == [uid(running)]
    store.put("tasks", later(running, status={"state": "Succeeded", "completionTime": "1970-01-01T00:01:00Z"}))
    assert store.tasks(SB) == []
    assert store.get("tasks", Key("ns", "t")) is None
    (kept,) = store.over[SB].values()
    assert (kept.expires, kept.completed) == (90.0, "1970-01-01T00:01:00Z")


def test_a_late_event_does_not_open_a_finished_task_again() -> None:
    store, running = Store(), task()
    store.put("tasks", later(running, status={"state": "Failed"}))
    assert not store.put("tasks", running)
    assert store.tasks(SB) == []


def test_a_list_tells_what_is_gone_but_not_of_other_namespaces() -> None:
    store, one, other = Store(), sandbox("one"), sandbox("other")
    other["metadata"]["namespace"] = "elsewhere"
    store.put("sandboxes", one)
    store.put("sandboxes", other)
    assert store.reconcile("sandboxes", {}, "ns", 10**6) == ([one], [])
    assert store.all("sandboxes") == [other]


def test_a_list_forgets_finished_tasks_that_are_gone() -> None:
    store = Store()
    kept, gone = task("kept", status={"state": "Failed"}), task("gone", status={"state": "Failed"})
    store.put("tasks", kept)
    store.put("tasks", gone)
    assert store.reconcile("tasks", listed_as(kept), None, 10**6) == ([], [])
    assert list(store.over[SB]) == [uid(kept)]


def test_without_a_ttl_a_finished_task_is_kept_for_a_day() -> None:
    store = Store()
    store.put("tasks", task(status={"state": "Failed", "completionTime": "1970-01-01T00:01:00Z"}))
    (kept,) = store.over[SB].values()
    assert (kept.expires, kept.own_ttl) == (60.0 + DEFAULT_TTL_SECONDS, False)


def test_nothing_is_left_of_what_is_gone() -> None:
    store, gone = Store(), task()
    store.put("tasks", gone)
    store.remove("tasks", gone)
    assert not store.open
    assert not store.over


def test_what_came_while_a_list_was_on_its_way_is_not_gone() -> None:
    store, young = Store(), sandbox("young")
    store.put("sandboxes", young)
    listed = int(young["metadata"]["resourceVersion"]) - 1
    assert store.reconcile("sandboxes", {}, None, listed) == ([], [])
    assert store.get("sandboxes", Key("ns", "young")) == young
    finished = task(status={"state": "Failed"})
    store.put("tasks", finished)
    store.reconcile("tasks", {}, None, int(finished["metadata"]["resourceVersion"]) - 1)
    assert list(store.over[SB]) == [uid(finished)]


def test_what_went_while_a_list_was_on_its_way_does_not_come_back() -> None:
    store, gone = Store(), sandbox()
    store.put("sandboxes", gone)
    store.remove("sandboxes", gone)
    assert store.reconcile("sandboxes", listed_as(gone), None, 10**6) == ([], [])
    store.put("sandboxes", gone)
    assert store.all("sandboxes") == []
    unknown = task()
    store.remove("tasks", unknown)
    assert not store.put("tasks", unknown)


def test_a_list_tells_what_is_to_be_asked_for() -> None:
    store, same, changed, unknown = Store(), sandbox("same"), sandbox("changed"), sandbox("unknown")
    finished, waiting, young = task("a", status={"state": "Failed"}), task("b"), task("c")
    for kind, body in (("sandboxes", same), ("sandboxes", changed), ("tasks", finished), ("tasks", waiting)):
        store.put(kind, body)
    there = listed_as(same, unknown) | listed_as(changed, later_by=1)
    assert store.reconcile("sandboxes", there, None, 10**6) == ([], [key(unknown), key(changed)])
    there = listed_as(waiting, young) | listed_as(finished, later_by=1)
    assert store.reconcile("tasks", there, None, 10**6) == ([], [key(young)])


def large(name: str, size: int) -> Any:
    return task(name, command("s", "cat", stdin="x" * size))


def test_a_large_task_waits_without_its_content() -> None:
    store = Store()
    small, big = large("small", 200 * 1024), large("big", 256 * 1024)
    store.put("tasks", small)
    store.put("tasks", big)
    assert [is_cut(each) for each in store.tasks(SB)] == [True, False]
    cut, whole = store.tasks(SB)
    assert cut["spec"] == {"sandboxRef": "sb", "steps": []}
    assert whole["spec"] == small["spec"]


@pytest.mark.parametrize("more", [0, 1])
def test_a_small_task_waits_whole_however_many_large_ones_do(more: int) -> None:
    """It would be read behind all of them."""

    def of_size(name: str, size: int) -> dict[str, Any]:
        bare = weight(slim("tasks", task(name, command("x", "y"))))
        return task(name, command("x", "y" * (1 + size - bare)))

    store = Store()
    for number in range(50):
        store.put("tasks", task(f"large{number}", command("x", "y" * 250_000)))
    for number in range(100):  # what these have left is less than one that is not small
        store.put("tasks", of_size(f"more{number:03}", 4096 + 1))
    assert is_cut(store.tasks(SB)[-1])
    store.put("tasks", of_size("nextone", 4096 + more))
    assert is_cut(store.tasks(SB)[-1]) is bool(more)


def test_of_many_tasks_as_many_wait_whole_as_there_is_room_for() -> None:
    store = Store()
    tasks = [large(f"t{number:02}", 200 * 1024) for number in range(60)]
    other = large("other", 200 * 1024)
    other["metadata"]["namespace"] = "elsewhere"
    for each in [*tasks, other]:
        store.put("tasks", each)
    whole = [each for each in store.tasks(SB) if not is_cut(each)]
    assert 30 < len(whole) < 42
    assert not is_cut(store.tasks(Key("elsewhere", "sb"))[0])
    for each in tasks[:30]:  # what is over, or gone, makes room
        store.put("tasks", later(each, status={"state": "Failed"}))
    for each in tasks[30:]:
        store.remove("tasks", each)
    again = [large(f"again{number}", 200 * 1024) for number in range(30)]
    for each in again:
        store.put("tasks", each)
        store.put("tasks", later(each))
    assert not any(map(is_cut, store.tasks(SB)))


def test_a_task_that_was_given_up_is_neither_run_nor_asked_for_again() -> None:
    store, poison = Store(), task()
    store.put("tasks", poison)
    store.give_up(poison)
    assert store.tasks(SB) == []
    assert not store.put("tasks", later(poison))
    assert store.reconcile("tasks", listed_as(poison, later_by=5), None, 10**6) == ([], [])
    assert store.reconcile("tasks", {}, "elsewhere", 10**6) == ([], [])
    assert not store.put("tasks", later(poison)), "another namespace's list says nothing of it"
    store.remove("tasks", poison)
    assert store.reconcile("tasks", {}, None, 10**6) == ([], [])


@pytest.mark.parametrize("group", ["arl.infra.io.example/v1", "no.such/v1", "v1"])
def test_another_groups_kind_of_that_name_is_no_owner(group: str) -> None:
    store, stray = Store(), pod("p")
    stray["metadata"]["ownerReferences"] = owned_by("Sandbox", "u1", apiVersion=group)
    store.put("pods", stray)
    assert not store.owned
    assert not store.allocated[POOL]


def held_by(lease: str, number: int = 0, **meta: Any) -> Any:
    body = sandbox(f"held-{lease}-{number}", owners=owned_by("Lease", lease))
    body["metadata"] |= meta
    return body


def test_the_sandboxes_of_a_lease_are_found_without_a_look_at_the_others() -> None:
    store, mine, other, free = Store(), held_by("l1"), held_by("l2"), sandbox("free")
    for body in (mine, other, free):
        store.put("sandboxes", body)
    assert store.of_lease["l1"] == {uid(mine): key(mine)}
    assert store.of_lease["l3"] == {}
    let_go = later(mine)
    let_go["metadata"]["ownerReferences"] = owned_by("Lease", "l2")
    store.put("sandboxes", let_go)
    assert "l1" not in store.of_lease
    assert store.of_lease["l2"] == {uid(other): key(other), uid(mine): key(mine)}
    for body in (let_go, other):
        store.remove("sandboxes", body)
    assert not store.of_lease


def test_another_sandbox_of_the_same_name_takes_the_place_of_the_old_one_in_all_tables() -> None:
    store, old, new = Store(), held_by("l1"), held_by("l1")
    store.put("sandboxes", old)
    store.put("sandboxes", new)
    assert store.of_lease["l1"] == {uid(new): key(new)}
    assert store.of_pool[POOL] == {uid(new): key(new)}
    store.remove("sandboxes", old)
    assert store.of_pool[POOL] == {uid(new): key(new)}


def test_of_many_pods_pools_and_sandboxes_that_are_gone_no_table_has_anything() -> None:
    """Pods may say that they are of any number of pools."""
    store = knowing()
    for number in range(50):
        one, its = held_by(f"l{number}", number), pod(f"p{number}", labels={POOL_LABEL: f"pool{number}"})
        its["metadata"]["annotations"] = store.ours.mark(its, one)
        its["metadata"]["ownerReferences"] = owned_by("Sandbox", uid(one))
        idle = pod(f"i{number}", labels={POOL_LABEL: f"pool{number}", STATUS_LABEL: "idle"})
        waits = task(f"t{number}", sandboxRef=f"sb{number}")
        over = task(f"o{number}", sandboxRef=f"sb{number}", status={"state": "Failed"})
        bodies = [("sandboxes", one), ("pods", its), ("pods", idle), ("tasks", waits), ("tasks", over)]
        for kind, body in bodies:
            store.put(kind, body)
        for where in (Key("ns", f"pool{number}"), Key("ns", f"none{number}")):
            assert len(store.allocated[where]) + len(store.unproven[where]) + len(store.idle[where]) in (0, 2)
        for kind, body in bodies:
            store.remove(kind, body)
    tables = (store.allocated, store.idle, store.unproven, store.owned, store.open, store.over)
    assert [dict(each) for each in (*tables, store.of_lease, store.of_pool)] == [{}] * 8
    assert not store._room._taken
    assert not store._room._held


def little_room(monkeypatch: pytest.MonkeyPatch, kind: str, size: int) -> None:
    monkeypatch.setitem(memory_shares.MOST, kind, size)


MAKE: dict[str, Any] = {
    "warmpools": lambda number: pool(f"n{number:03}"),
    "sandboxes": lambda number: sandbox(f"n{number:03}"),
    "tasks": lambda number: task(f"n{number:03}"),
    "pods": lambda number: pod(f"n{number:03}"),
    "leases": lambda number: {"metadata": {**pod(f"n{number:03}")["metadata"], "labels": {}}, "spec": {}},
}


@pytest.mark.parametrize("kind", list(MAKE))
def test_of_a_namespace_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    little_room(monkeypatch, kind, 64 * 1024)
    told: list[str] = []
    store = Store(left_out=lambda kind, body: told.append(f"{kind} {name(body)}"))
    bodies = [MAKE[kind](number) for number in range(100)]
    news = [store.put(kind, each) for each in bodies]
    kept = news.index(False)
    assert 10 < kept < 60
    assert not any(news[kept:])
    assert len(store.all(kind)) == kept
    assert sum(map(weight, store.all(kind))) + 512 * kept <= 64 * 1024
    assert told == [f"{kind} {name(bodies[kept])}"], "it is said once"

    other = MAKE[kind](0)
    other["metadata"]["namespace"] = "elsewhere"
    assert store.put(kind, other)
    for each in bodies[:kept]:  # what is known stays so, however often it is written
        assert store.put(kind, later(each))
    store.remove(kind, bodies[0])
    assert store.put(kind, bodies[-1]), "what goes makes room"
    if kind == "tasks":
        for each in bodies[1:kept]:  # so does what is over, of which less is kept
            store.put(kind, later(later(each), status={"state": "Failed"}))
        assert store.put(kind, bodies[-2])


@pytest.mark.parametrize("kind", ["warmpools", "tasks", "pods"])
def test_what_is_known_and_grows_without_end_is_kept_in_its_least_form(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    little_room(monkeypatch, kind, 64 * 1024)
    store = Store()
    bodies = [MAKE[kind](number) for number in range(15)]
    for each in bodies:
        assert store.put(kind, each)
    for each in bodies:
        grown = copy.deepcopy(later(each))
        if kind == "warmpools":
            grown["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "x" * 50_000}]
        elif kind == "tasks":
            grown["spec"]["steps"][0]["stdin"] = "x" * 50_000
        else:
            grown["status"]["message"] = "x" * 50_000
        assert store.put(kind, grown)
    assert sum(map(weight, store.all(kind))) < 64 * 1024 * 5 // 4
    assert len(store.all(kind)) == 15
    least = {"warmpools": is_too_large, "tasks": is_cut, "pods": lambda each: each["status"]["phase"] == "Failed"}[kind]
    assert sum(map(least, store.all(kind))) >= 14


def test_a_sandbox_that_is_known_is_kept_whatever_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    little_room(monkeypatch, "sandboxes", 4 * 1024)
    store, one = Store(), sandbox()
    store.put("sandboxes", one)
    said = later(one, status={"conditions": [{"type": "Ready", "message": "x" * 4096}]})
    assert store.put("sandboxes", said)
    assert store.get("sandboxes", SB) == said


def test_finished_tasks_take_room_and_those_for_which_there_is_none_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    little_room(monkeypatch, "tasks", 64 * 1024)
    store = Store()
    for number in range(200):
        store.put("tasks", task(f"t{number}", status={"state": "Failed", "completionTime": "t" * 10_000}))
    kept = store.over[SB]
    assert 50 < len(kept) < 128
    assert max(len(each.completed) for each in kept.values()) == 64


def test_a_list_lets_so_many_be_asked_for_and_none_for_which_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    store, many = Store(), [sandbox(f"n{number}") for number in range(501)]
    one = sandbox("one")
    one["metadata"]["namespace"] = "elsewhere"
    _, news = store.reconcile("sandboxes", listed_as(*many, one), None, 10**6)
    assert len(news) == 501
    assert key(one) in news
    known = many[0]
    store.put("sandboxes", known)
    little_room(monkeypatch, "sandboxes", store._room.held("sandboxes", "ns") + 1024)
    _, news = store.reconcile("sandboxes", listed_as(*many[1:]) | listed_as(known, later_by=10**5), "ns", 0)
    assert news == [key(known)]


def test_quota_of_the_docs_has_room() -> None:
    """Nothing is left out of a namespace that keeps to the ResourceQuota which docs/cluster.md recommends."""
    store = Store()
    for kind, count in (("warmpools", 20), ("sandboxes", 200), ("tasks", 5000), ("pods", 250), ("leases", 200)):
        assert all(store.put(kind, MAKE[kind](number)) for number in range(count)), kind
        assert store._room.held(kind, "ns") < memory_shares.MOST[kind] * 2 // 3
