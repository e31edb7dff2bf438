"""Watches: events reach who waits, whatever happens to the connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from pytest_arl import PermissionDenied
from pytest_arl.backends.kubernetes.api import Api
from pytest_arl.backends.kubernetes.watch import Mail, Watch
from pytest_arl.cluster import json_text, kinds
from tests.kubernetes.fake import Answer, FakeApi, status

SELECTOR = "arl.infra.io/lease=mine"


def path(name: str) -> str:
    return kinds.path("tasks", "n", name)


@pytest.fixture
def watch(api: Api) -> Iterator[Watch]:
    found = Watch(api, "tasks", "n", SELECTOR)
    yield found
    found.close()


def comes(mail: Mail, what: Callable[[], object], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if not mail.wait(mail.number, 0.05) and time.monotonic() > deadline:
            return False
    return True


def state(mail: Mail) -> object:
    return (mail.latest or {}).get("state")


def await_the_watch(fake: FakeApi) -> None:
    """What was seen so far may have come from the list before it."""
    deadline = time.monotonic() + 5
    while not fake.watches:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def watching(fake: FakeApi) -> int:
    return sum(1 for _, _, query in fake.requests if query.get("watch"))


def test_events_reach_the_waiters_for_an_object_of_that_name(watch: Watch, fake: FakeApi) -> None:
    mail, other = watch.mail("a"), watch.mail("b")
    fake.put(path("a"), {"state": 1})
    assert comes(mail, lambda: state(mail) == 1)
    fake.put(path("a"), {"state": 2})
    assert comes(mail, lambda: state(mail) == 2)
    fake.remove(path("a"))
    assert comes(mail, lambda: mail.deleted)
    assert other.latest is None
    assert watching(fake) == 1
    assert all(query["labelSelector"] == SELECTOR for _, _, query in fake.requests)


def test_an_event_comes_at_once(watch: Watch, fake: FakeApi) -> None:
    mail = watch.mail("a")
    fake.put(path("a"), {"state": 0})
    assert comes(mail, lambda: state(mail) == 0)
    times = []
    for number in range(1, 21):
        began = time.monotonic()
        fake.put(path("a"), {"state": number})
        while state(mail) != number:
            assert mail.wait(mail.number - (state(mail) == number), 5)
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 0.05


def test_what_is_there_already_is_seen(watch: Watch, fake: FakeApi) -> None:
    fake.put(path("a"), {"state": 1})
    mail = watch.mail("a")
    assert comes(mail, lambda: state(mail) == 1)


def test_a_broken_connection_is_resumed_where_it_broke(watch: Watch, fake: FakeApi) -> None:
    mail = watch.mail("a")
    fake.put(path("a"), {"state": 1})
    assert comes(mail, lambda: state(mail) == 1)
    seen = fake.version
    await_the_watch(fake)
    fake.break_watches()
    fake.put(path("a"), {"state": 2})
    assert comes(mail, lambda: state(mail) == 2)

    versions = [query["resourceVersion"] for _, _, query in fake.requests if query.get("watch")]
    assert versions[-1] == str(seen), "not from the beginning"
    assert fake.count("GET", "/tasks") == 1 + len(versions), "and without reading everything anew"


def test_a_version_that_is_too_old_is_read_anew_and_what_is_missing_was_deleted(watch: Watch, fake: FakeApi) -> None:
    mail, gone, later = watch.mail("a"), watch.mail("b"), watch.mail("c")
    fake.put(path("a"), {"state": 1})
    fake.put(path("b"), {"state": 1})
    assert comes(gone, lambda: state(gone) == 1)
    await_the_watch(fake)
    with fake.changed:
        # All at once: nobody saw these events, and nobody ever will.
        del fake.objects[path("b")]
        fake.events.clear()
        fake.version = fake.oldest = 1000
        fake.objects[path("a")]["state"] = 2
    fake.break_watches()

    assert comes(mail, lambda: state(mail) == 2)
    assert comes(gone, lambda: gone.deleted)
    assert not mail.deleted
    assert not later.deleted, "one that was never seen may still be created"


def test_a_server_that_is_away_for_a_while_costs_nothing_but_time(watch: Watch, fake: FakeApi) -> None:
    mail = watch.mail("a")
    fake.put(path("a"), {"state": 1})
    assert comes(mail, lambda: state(mail) == 1)
    away = threading.Event()
    away.set()

    def refuse(*_: object) -> Answer:
        return (503, status(503, "", "away")) if away.is_set() else None

    await_the_watch(fake)
    fake.intercept = refuse
    fake.break_watches()
    fake.put(path("a"), {"state": 2})
    time.sleep(0.3)
    assert state(mail) == 1
    away.clear()
    assert comes(mail, lambda: state(mail) == 2)
    assert mail.failure is None


def test_a_forbidden_watch_fails_its_waiters_until_it_is_allowed(watch: Watch, fake: FakeApi) -> None:
    message = 'tasks.arl.infra.io is forbidden: User "u" cannot watch resource "tasks" in API group "arl.infra.io"'
    fake.intercept = lambda _method, _path, query: (
        (403, status(403, "Forbidden", message)) if query.get("watch") else None
    )
    mail = watch.mail("a")
    assert comes(mail, lambda: mail.failure is not None)
    late = watch.mail("b")
    assert isinstance(mail.failure, PermissionDenied)
    assert isinstance(late.failure, PermissionDenied)
    assert "verbs: [watch]" in str(mail.failure)

    fake.intercept = lambda *_: None
    fake.put(path("a"), {"state": 1})
    assert comes(mail, lambda: state(mail) == 1)
    assert comes(mail, lambda: mail.failure is None)


def test_what_is_created_while_everything_is_read_was_not_deleted(watch: Watch, fake: FakeApi) -> None:
    mails: list[Mail] = []

    def create_meanwhile(_method: str, path_: str, query: dict[str, object]) -> Answer:
        if path_.endswith("/tasks") and not query.get("watch"):
            version = str(fake.version)
            while not mails:
                time.sleep(0.01)
            mails[0].put({"state": 1})  # as its creator does, who has the server's answer
            return 200, {"metadata": {"resourceVersion": version}, "items": []}
        return None

    fake.intercept = create_meanwhile
    mail = watch.mail("a")
    mails.append(mail)
    was_deleted = comes(mail, lambda: mail.deleted, 0.5)
    fake.put(path("a"), {"state": 2})
    assert comes(mail, lambda: state(mail) == 2)
    assert not was_deleted


def test_another_object_of_the_same_name_is_the_end_of_the_one_that_was_made(watch: Watch, fake: FakeApi) -> None:
    """Whoever may make objects in the namespace may put one of their own in its place."""
    mail = watch.mail("a")
    made = fake.put(path("a"), {"state": "mine", "metadata": {"uid": "mine"}})
    mail.claim(dict(made))
    await_the_watch(fake)
    with fake.changed:  # nobody sees that it was deleted
        del fake.objects[path("a")]
        fake.events.clear()
    fake.put(path("a"), {"state": "forged", "metadata": {"uid": "another"}})

    assert comes(mail, lambda: mail.deleted)
    fake.put(path("a"), {"state": "forged again", "metadata": {"uid": "another"}})
    mine = watch.mail("b")
    fake.put(path("b"), {"state": 1})
    assert comes(mine, lambda: state(mine) == 1), "control: events come"
    assert (state(mail), mail.deleted) == ("mine", True)


def test_an_object_of_the_name_with_another_uid_is_not_taken_for_it_after_a_new_list(
    watch: Watch, fake: FakeApi
) -> None:
    mail = watch.mail("a")
    made = fake.put(path("a"), {"state": "mine", "metadata": {"uid": "mine"}})
    mail.claim(dict(made))
    await_the_watch(fake)
    with fake.changed:
        fake.events.clear()
        fake.objects[path("a")] = {"metadata": {"name": "a", "uid": "another", "resourceVersion": "999"}, "state": 2}
        fake.version = fake.oldest = 1000
    fake.break_watches()

    assert comes(mail, lambda: mail.deleted)
    assert state(mail) == "mine"


@pytest.mark.parametrize("deleted", [False, True])
def test_an_earlier_object_of_the_name_is_nothing_to_it(deleted: bool) -> None:
    earlier = {"metadata": {"uid": "earlier", "resourceVersion": "7"}, "state": 1}
    mail = Mail()
    mail.put(earlier, deleted=deleted)
    mail.claim({"metadata": {"uid": "mine", "resourceVersion": "9"}, "state": 2})
    assert (state(mail), mail.deleted) == (2, False)

    mail.put(earlier, deleted=True)
    assert (state(mail), mail.deleted) == (2, False)
    mail.put({"metadata": {"uid": "mine", "resourceVersion": "10"}, "state": 3})
    assert state(mail) == 3


def test_one_that_took_the_name_before_the_answer_came_is_seen() -> None:
    mail = Mail()
    mail.put({"metadata": {"uid": "another", "resourceVersion": "11"}, "state": "forged"})
    mail.claim({"metadata": {"uid": "mine", "resourceVersion": "9"}, "state": "mine"})
    assert (state(mail), mail.deleted) == ("mine", True)


def test_an_object_that_nests_deep_hides_no_other(watch: Watch, fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may make an object decides how deep, in what of it nobody reads."""

    def too_deep(_text: bytes) -> object:
        raise RecursionError

    monkeypatch.setattr(json_text, "json", SimpleNamespace(loads=too_deep))
    fake.put(path("a"), {"state": 1})
    mail = watch.mail("a")
    assert comes(mail, lambda: state(mail) == 1)
    await_the_watch(fake)
    fake.put(path("a"), {"state": 2})
    assert comes(mail, lambda: state(mail) == 2)


def test_closing_ends_the_thread_and_the_connection(watch: Watch, fake: FakeApi) -> None:
    before = threading.active_count()
    others = set(threading.enumerate())  # of another backend that lives in this process
    mail = watch.mail("a")
    fake.put(path("a"), {"state": 1})
    assert comes(mail, lambda: state(mail) == 1)
    assert comes(mail, lambda: fake.watches)
    time.sleep(0.2)  # so that the thread waits for the connection's next event
    began = time.monotonic()
    watch.close()
    assert time.monotonic() - began < 1
    mine = set(threading.enumerate()) - others
    assert not [thread for thread in mine if thread.name == "arl-watch-tasks"]
    assert threading.active_count() >= before, "control: the server's own threads"


def test_what_was_asked_for_earlier_does_not_hide_what_came_since() -> None:
    mail = Mail()
    number = mail.number
    mail.put({"state": "new"})
    mail.put({"state": "old"}, since=number)
    assert mail.latest == {"state": "new"}
    mail.put({"state": "newer"}, since=mail.number)
    assert mail.latest == {"state": "newer"}


def test_a_change_wakes_those_who_depend_on_it() -> None:
    sandbox, task = Mail(), Mail()
    sandbox.wakes.add(task)
    threading.Timer(0.1, sandbox.put, [None], {"deleted": True}).start()
    assert task.wait(task.number, 5)
    assert not task.wait(task.number, 0.01), "control"
