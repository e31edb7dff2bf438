"""What goes into a Task, and what goes another way because no Task can hold it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pytest_arl import UsageError
from pytest_arl.agent import frames
from pytest_arl.agent_client.messages import task_message
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.kubernetes.api import encoded
from pytest_arl.backends.kubernetes.manifests import Payload, go_size, holder_of, sandbox_manifest, task_manifest
from pytest_arl.cluster.models import Sandbox, Task
from pytest_arl.cluster.names import MOST_SPEC_BYTES, MOST_WORDS
from pytest_arl.cluster.proof import proof_of
from pytest_arl.steps import parse_steps

SANDBOX = {"name": "box", "uid": "u-1"}
LABELS = {"arl.infra.io/run": "r"}


def made(*steps: dict[str, Any], timeout: float | None = None) -> tuple[dict[str, Any], Payload | None]:
    task = TaskRequest("t", parse_steps(steps), timeout)
    manifest, payload = task_manifest("box-000001", SANDBOX, LABELS, task)
    Task.model_validate(manifest)
    json.loads(encoded(manifest))
    if payload is not None:
        exact = task_message(task, 0, live=False)["steps"]
        assert payload.steps == exact
        assert payload.hash == hashlib.sha256(frames.encode(exact)).hexdigest() == manifest["spec"]["payloadHash"]
        named = [(step["name"], step["type"]) for step in manifest["spec"]["steps"]]
        assert named == [(step.name, step.type) for step in task.steps]
    return manifest, payload


def test_a_task_says_what_it_runs_where_and_for_how_long() -> None:
    manifest, payload = made(
        {"name": "a", "type": "Command", "command": ["x", "ü"], "env": {"K": "v"}, "stdin": "in", "timeout": "90s"},
        {"name": "b", "type": "FilePatch", "path": "f", "content": b"\xff\x00", "mode": 0o600},
        timeout=1.5,
    )
    assert payload is None
    assert manifest["spec"] == {
        "sandboxRef": "box",
        "ttlSecondsAfterFinished": 300,
        "timeout": "1.5s",
        "steps": [
            {"name": "a", "type": "Command", "command": ["x", "ü"], "env": {"K": "v"}, "stdin": "in", "timeout": "90s"},
            {"name": "b", "type": "FilePatch", "path": "f", "content": "/wA=", "encoding": "base64", "mode": 0o600},
        ],
    }
    assert manifest["metadata"]["name"] == "box-000001"
    assert manifest["metadata"]["ownerReferences"][0]["uid"] == "u-1"


RAW = b"\xff".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Command", "command": ["cat"], "stdin": b"\xff"},
        {"type": "Command", "command": ["cat", RAW]},
        {"type": "Command", "command": ["cat"], "env": {"K": RAW}},
        {"type": "Command", "command": ["cat"], "env": {RAW: "v"}},
        {"type": "Command", "command": ["cat"], "workDir": RAW},
        {"type": "Command", "command": ["cat"] * 1025},
        {"type": "Command", "command": ["cat", "x" * 131073]},
        {"type": "Command", "command": ["cat"], "stdin": "x" * MOST_SPEC_BYTES},
        {"type": "Command", "command": ["cat"], "stdin": "<" * (MOST_SPEC_BYTES // 6)},
        {"type": "FilePatch", "path": RAW, "content": ""},
        {"type": "FilePatch", "path": "p" * 4097, "content": ""},
        {"type": "FilePatch", "path": "f", "content": "\0" * (MOST_SPEC_BYTES // 6)},
        {"type": "FilePatch", "path": "f", "content": "x" * MOST_SPEC_BYTES},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_task_can_hold_goes_to_the_agent_itself_and_is_described(step: dict[str, Any]) -> None:
    manifest, payload = made({"type": "Command", "command": ["true"]}, step)
    assert payload is not None
    assert len(encoded(manifest)) < 20_000


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Command", "command": ["cat"], "stdin": "ü" * 1000},
        {"type": "Command", "command": ["cat"] * 1024},
        {"type": "FilePatch", "path": "f", "content": "x" * (MOST_SPEC_BYTES - 300)},
        {"type": "FilePatch", "path": "f", "content": b"\xff" * (MOST_SPEC_BYTES * 3 // 4 - 400)},
    ],
    ids=str,
)
def test_what_a_task_can_hold_is_in_it(step: dict[str, Any]) -> None:
    assert made(step)[1] is None


def test_the_description_of_what_goes_another_way_shows_no_content() -> None:
    steps: list[dict[str, Any]] = [
        {"type": "Command", "command": ["cat"], "stdin": b"\xffsecret", "env": {"TOKEN": "secret"}},
        {"type": "FilePatch", "path": "f", "content": "secret"},
    ]
    assert "secret" not in encoded(made(*steps)[0]).decode()
    assert "secret" in encoded(made(*steps[1:])[0]).decode(), "control"


@pytest.mark.parametrize("text", ["plain", "<>&" * 10, "\u2028\u2029ü", 'quote " back \\ \0\n'])
def test_sizes_are_those_of_what_go_writes(text: str) -> None:
    plain = encoded({"k": text}).decode()
    for char in "<>&\u2028\u2029":
        plain = plain.replace(char, f"\\u{ord(char):04x}")
    assert go_size(encoded({"k": text})) == len(plain.encode())


def test_more_steps_or_longer_names_than_a_cluster_takes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"257 steps.*256"):
        made(*[{"type": "Command", "command": ["true"]}] * 257)
    with pytest.raises(UsageError, match=r"step 1.*64 characters.*63"):
        made({"name": "n" * 64, "type": "Command", "command": ["true"]})
    made({"name": "n" * 63, "type": "Command", "command": ["true"]})


def test_a_sandbox_says_who_holds_it_and_by_which_lease_it_lives() -> None:
    request = AcquireRequest("p", idle_timeout=0.3, max_lifetime=90, labels={"test": "t::x\udcff"})
    holder = holder_of(request, "run", "gw0", b"secret", None)
    manifest = sandbox_manifest("box", request, LABELS, holder, {"kind": "Lease", "name": "l", "uid": "u"})
    Sandbox.model_validate(manifest)
    assert manifest["spec"] == {
        "poolRef": "p",
        "keepAlive": False,
        "idleTimeoutSeconds": 1,
        "maxLifetimeSeconds": 90,
        "holder": {
            "run": "run",
            "worker": "gw0",
            "test": "t::x\ufffd",
            "secretHash": hashlib.sha256(b"secret").hexdigest(),
        },
    }
    assert manifest["metadata"]["ownerReferences"] == [{"kind": "Lease", "name": "l", "uid": "u"}]
    assert "ownerReferences" not in sandbox_manifest("box", request, LABELS, holder, None)["metadata"]
    assert b"secret:" not in encoded(manifest)


@pytest.mark.parametrize("size", [10, MOST_SPEC_BYTES])
def test_a_task_of_a_sandbox_that_wants_it_has_a_proof_over_what_is_sent(size: int) -> None:
    step = {"name": "a", "type": "Command", "command": ["cat"], "stdin": "x" * size, "env": {"b": "1", "a": "\u00fc"}}
    task = TaskRequest("t", parse_steps([step]), 1.5)
    manifest, payload = task_manifest("box-000001", SANDBOX, LABELS, task, b"k" * 32)
    Task.model_validate(manifest)
    sent = json.loads(encoded(manifest))["spec"]
    assert (payload is None) is (size == 10)
    assert sent["proof"] == proof_of(b"k" * 32, "u-1", "box-000001", sent)
    assert go_size(encoded(manifest["spec"])) <= MOST_SPEC_BYTES


@pytest.mark.parametrize("what", ["words", "variables"])
def test_what_has_more_words_than_the_api_server_looks_at_goes_to_the_agent(what: str) -> None:
    def sent(count: int) -> bool:
        parts = [1000] * (count // 1000) + [count % 1000]
        steps: list[dict[str, Any]] = [
            {"name": f"s{number}", "type": "Command", "command": ["true"] * part}
            if what == "words"
            else {
                "name": f"s{number}",
                "type": "Command",
                "command": ["true"],
                "env": {f"v{each}": "" for each in range(part - 1)},
            }
            for number, part in enumerate(parts)
        ]
        manifest, payload = task_manifest("n", SANDBOX, LABELS, TaskRequest("t", parse_steps(steps), None), b"k" * 32)
        Task.model_validate(manifest)
        assert (payload is None) is ("payloadHash" not in manifest["spec"])
        return payload is None

    assert sent(MOST_WORDS)
    assert not sent(MOST_WORDS + 1)


def test_the_largest_task_that_is_sent_as_it_is_has_room_for_its_proof() -> None:
    def made(size: int) -> tuple[dict[str, Any], Payload | None]:
        step = {"name": "a", "type": "Command", "command": ["cat"], "stdin": "x" * size}
        return task_manifest("n", SANDBOX, LABELS, TaskRequest("t", parse_steps([step]), None), b"k" * 32)

    left = MOST_SPEC_BYTES - go_size(encoded(made(0)[0]["spec"]))
    manifest, payload = made(left)
    assert (payload, go_size(encoded(manifest["spec"]))) == (None, MOST_SPEC_BYTES)
    assert made(left + 1)[1] is not None


def test_a_holder_names_the_key_that_is_sealed_for_the_operator() -> None:
    request = AcquireRequest(pool_ref="p")
    assert holder_of(request, "run", "gw0", b"secret", "abcd")["sealedKey"] == "abcd"
    assert "sealedKey" not in holder_of(request, "run", "gw0", b"secret", None)


def test_one_that_is_kept_is_open_to_all_and_its_agent_is_known_again() -> None:
    kept, held = (AcquireRequest(pool_ref="p", keep_alive=each) for each in (True, False))
    assert holder_of(kept, "run", "gw0", b"secret", "abcd")["openToAll"] is True
    assert holder_of(kept, "run", "gw0", b"secret", "abcd")["sealedKey"] == "abcd"
    assert "openToAll" not in holder_of(held, "run", "gw0", b"secret", "abcd")
    assert "openToAll" not in holder_of(kept, "run", "gw0", b"secret", None)
