"""Requests: what is tried again, and what a lost answer leads to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import BackendUnavailable
from pytest_arl.backends.kubernetes.api import Api
from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.cluster.kinds import path
from tests.kubernetes.fake import Answer, FakeApi, Json, settings_for, status

BODY: Json = {"metadata": {"name": "x"}, "spec": {}}
PATH = path("sandboxes", "n", "x")


def test_objects_are_created_read_changed_and_deleted(api: Api, fake: FakeApi) -> None:
    made = api.create("sandboxes", "n", BODY)
    api.merge("sandboxes", "n", "x", {"spec": {"a": "ü"}})
    assert api.get("sandboxes", "n", "x")["spec"] == {"a": "ü"}
    assert [item["metadata"]["uid"] for item in api.items("sandboxes", "n")[0]] == [made["metadata"]["uid"]]
    api.delete("sandboxes", "n", "x")
    api.delete("sandboxes", "n", "x")  # one that is gone is no error
    assert fake.objects == {}
    assert fake.requests[0][2]["headers"]["authorization"] == "Bearer secret"


def test_an_answer_that_was_lost_is_found_by_the_objects_own_name(api: Api, fake: FakeApi) -> None:
    lost: list[str] = []

    def lose(method: str, path: str, _query: Json) -> Answer:
        if method == "POST" and not lost:
            lost.append(path)
            fake.put(PATH, {"metadata": {"name": "x", "uid": "the first's"}, "spec": {}})
            return 504, status(504, "Timeout", "the request timed out")
        return None

    fake.intercept = lose
    assert api.create("sandboxes", "n", BODY)["metadata"]["uid"] == "the first's"
    assert fake.count("POST", "/sandboxes") == 2


@pytest.mark.parametrize("change", [{"spec": {"steps": ["mine", "more"]}}, {"labels": {"run": "another"}}])
def test_an_object_of_the_name_that_somebody_else_made_is_not_taken_for_it(
    api: Api, fake: FakeApi, change: Json
) -> None:
    body = {"metadata": {"name": "x", "labels": {"run": "mine"}}, "spec": {"steps": ["mine"]}}
    there: Json = {"metadata": {"name": "x", "labels": {"run": "mine"}}, "spec": {"steps": ["mine"]}, "status": {}}
    fake.put(PATH, there)
    assert api.create("sandboxes", "n", body)["metadata"]["uid"] == fake.objects[PATH]["metadata"]["uid"]

    there["spec"] = change.get("spec", there["spec"])
    there["metadata"] |= {key: change[key] for key in ("labels",) if key in change}
    with pytest.raises(Refused) as caught:
        api.create("sandboxes", "n", body)
    assert caught.value.status == 409


def test_only_the_object_that_is_meant_is_changed(api: Api, fake: FakeApi) -> None:
    fake.put(PATH, {"metadata": {"name": "x", "uid": "another"}, "spec": {}})
    with pytest.raises(Refused) as caught:
        api.merge("sandboxes", "n", "x", {"spec": {"a": 1}}, uid="mine")
    assert caught.value.status == 404
    assert fake.objects[PATH]["spec"] == {}
    api.merge("sandboxes", "n", "x", {"spec": {"a": 1}}, uid="another")
    assert fake.objects[PATH]["spec"] == {"a": 1}


@pytest.mark.parametrize(("others", "written"), [(4, True), (5, False)])
def test_others_that_write_meanwhile_are_no_other_object(api: Api, fake: FakeApi, others: int, written: bool) -> None:
    """A renewal that met five conflicts in a row is no Lease that is gone."""
    fake.put(PATH, {"metadata": {"name": "x", "uid": "mine"}, "spec": {}})
    left = [409] * others
    fake.intercept = lambda method, _path, _query: (
        (left.pop(), status(409, "Conflict", "modified")) if left and method == "PATCH" else None
    )
    if written:
        api.merge("sandboxes", "n", "x", {"spec": {"a": 1}}, uid="mine")
    else:
        with pytest.raises(Refused) as caught:
            api.merge("sandboxes", "n", "x", {"spec": {"a": 1}}, uid="mine")
        assert caught.value.status == 409


def test_only_the_object_that_is_meant_is_deleted(api: Api, fake: FakeApi) -> None:
    fake.put(PATH, {"metadata": {"name": "x", "uid": "another"}})
    api.delete("sandboxes", "n", "x", uid="mine")
    assert PATH in fake.objects
    api.delete("sandboxes", "n", "x", uid="another")
    assert fake.objects == {}


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(api: Api, fake: FakeApi, code: int) -> None:
    answers = [code, code]
    fake.put(PATH, {})
    fake.intercept = lambda *_: (answers.pop(), status(code, "", "busy")) if answers else None
    assert api.get("sandboxes", "n", "x")["metadata"]["name"] == "x"
    assert fake.count("GET", "/x") == 3


@pytest.mark.parametrize("code", [400, 403, 404, 409, 422])
def test_a_lasting_refusal_is_raised_at_once(api: Api, fake: FakeApi, code: int) -> None:
    fake.intercept = lambda *_: (code, status(code, "No", "no"))
    with pytest.raises(Refused, match="no"):
        api.get("sandboxes", "n", "x")
    assert len(fake.requests) == 1


def test_trying_again_has_an_end_in_seconds(api: Api, fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.put(PATH, {})
    assert api.get("sandboxes", "n", "x"), "control"
    monkeypatch.setattr("pytest_arl.backends.kubernetes.api.PATIENCE_SECONDS", 0.5)
    fake.intercept = lambda *_: (503, status(503, "", "down"))
    began = time.monotonic()
    with pytest.raises(Refused, match="down"):
        api.get("sandboxes", "n", "x")
    assert time.monotonic() - began < 2
    assert 2 < len(fake.requests) < 20, "with pauses that grow"


def test_credentials_are_read_anew_before_they_are_given_up(server: tuple[FakeApi, Path], tmp_path: Path) -> None:
    fake, path = server
    api = Api(settings_for(path))
    fake.put(PATH, {})

    def only_fresh(_method: str, _path: str, _query: Json) -> Answer:
        token: Any = fake.requests[-1][2]["headers"]["authorization"]
        return None if token == "Bearer fresh" else (401, status(401, "Unauthorized", "Unauthorized"))

    fake.intercept = only_fresh
    with pytest.raises(BackendUnavailable, match="expired"):
        api.explaining("reading", "n", lambda: api.get("sandboxes", "n", "x"))
    path.write_text(path.read_text().replace("secret", "fresh"))
    assert api.get("sandboxes", "n", "x")["metadata"]["name"] == "x"


def test_a_connection_that_went_away_meanwhile_is_no_error(api: Api, fake: FakeApi) -> None:
    fake.put(PATH, {})
    broken: list[int] = []

    def hang_up(*_: Any) -> Answer:
        if not broken:
            broken.append(1)
            raise ConnectionAbortedError
        return None

    fake.intercept = hang_up
    assert api.get("sandboxes", "n", "x")["metadata"]["name"] == "x"


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert (
        path("sandboxes", "a/../b", "c?d#e") == "/apis/arl.infra.io/v1alpha1/namespaces/a%2F..%2Fb/sandboxes/c%3Fd%23e"
    )
    assert path("leases", "n").startswith("/apis/coordination.k8s.io/v1/")


def test_a_list_is_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of colleagues may be large, and are not all held at once."""
    api = object.__new__(Api)
    asked: list[dict[str, str]] = []

    def call(method: str, path: str, *, query: dict[str, str]) -> Any:
        asked.append(query)
        at = int(query.get("continue", "0"))
        items = [{"metadata": {"name": str(number)}} for number in range(at, min(at + int(query["limit"]), 250))]
        left = {"continue": str(at + len(items))} if at + len(items) < 250 else {}
        return {"metadata": {"resourceVersion": "7", **left}, "items": items}

    monkeypatch.setattr(api, "call", call)
    sizes = [len(page) for page, _ in api.pages("tasks", "n", labelSelector="a=b")]
    assert sizes == [100, 100, 50]
    assert all(each["labelSelector"] == "a=b" for each in asked)
    found, version = api.items("tasks", "n")
    assert ([each["metadata"]["name"] for each in found], version) == ([str(number) for number in range(250)], "7")
