import base64
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.cluster.names import MOST_SPEC_BYTES
from pytest_arl.cluster.proof import proof_of
from pytest_arl.operator.task_message import KEPT_BYTES, SENT_BYTES, Held, Refused, cpu_time, kept_bytes, message
from tests.operator.objects import command, pool, sandbox, task


def sent(the_task: Any, the_pool: Any = None) -> Any:
    return message(the_task, boot="b", epoch=7, pool=the_pool)


def test_a_task_goes_by_its_uid_boot_and_epoch() -> None:
    the_task = task()
    found = sent(the_task)
    assert found["id"] == the_task["metadata"]["uid"]
    assert (found["boot"], found["epoch"]) == ("b", 7)
    frames.encode(found)


def test_a_command_as_the_agent_takes_it() -> None:
    step = command("s", "é", "x", env={"A": "b=c"}, workDir="/w", stdin="in", timeout="1m30s", background=True)
    (found,) = sent(task("t", step))["steps"]
    assert found == {
        "type": "Command",
        "argv": ["é".encode(), b"x"],
        "env": [b"A=b=c"],
        "cwd": b"/w",
        "stdin": b"in",
        "timeout": 90.0,
        "background": True,
    }


def test_what_a_command_does_not_say_is_not_sent() -> None:
    assert sent(task())["steps"] == [{"type": "Command", "argv": [b"true"]}]


def test_empty_stdin_is_not_none() -> None:
    assert sent(task("t", command(stdin="")))["steps"][0]["stdin"] == b""


def test_a_file_is_text_or_base64() -> None:
    text = {"name": "f", "type": "FilePatch", "path": "a", "content": "é"}
    raw = {**text, "name": "g", "content": base64.b64encode(b"\0\xff").decode(), "encoding": "base64", "mode": 0o755}
    first, second = sent(task("t", text, raw))["steps"]
    assert first == {"type": "FilePatch", "path": b"a", "content": "é".encode(), "mode": None}
    assert (second["content"], second["mode"]) == (b"\0\xff", 0o755)


def test_content_that_is_no_base64_is_refused_without_a_word_of_it() -> None:
    bad = {"name": "f", "type": "FilePatch", "path": "a", "content": "secret!", "encoding": "base64"}
    with pytest.raises(Refused, match="'f'") as caught:
        sent(task("t", bad))
    assert caught.value.reason == "SpecInvalid"
    assert "secret" not in str(caught.value)


def test_a_nul_is_refused_without_a_word_of_it() -> None:
    with pytest.raises(Refused) as caught:
        sent(task("t", command("s", "secret\0")))
    assert "secret" not in str(caught.value)


def test_a_spec_at_the_bound_is_run_and_one_above_it_is_not() -> None:
    def sized(size: Any) -> Any:
        return task("t", command("s", "cat", stdin="x" * size))

    import json

    overhead = len(json.dumps(sized(0)["spec"], ensure_ascii=False).encode())
    sent(sized(MOST_SPEC_BYTES - overhead))
    with pytest.raises(Refused) as caught:
        sent(sized(MOST_SPEC_BYTES - overhead + 1))
    assert caught.value.reason == "SpecTooLarge"


def test_the_pools_step_timeout_is_for_steps_without_one() -> None:
    defaults = pool(sandbox={"stepTimeout": "5s"})
    own, none, background = sent(
        task("t", command("a", timeout="1s"), command("b"), command("c", background=True)), defaults
    )["steps"]
    assert own["timeout"] == 1.0
    assert none["timeout"] == 5.0
    assert "timeout" not in background


def test_processor_time_is_passed_on() -> None:
    own, none, background = sent(
        task("t", command("a", cpuTime="1.5s"), command("b"), command("c", cpuTime="2s", background=True))
    )["steps"]
    assert (own["cpu"], background["cpu"]) == (1.5, 2.0)
    assert "cpu" not in none
    with pytest.raises(Refused, match="step 'a': cpuTime must be"):
        sent(task("t", command("a", cpuTime="99999999h")))


def test_a_pools_processor_time_is_its_agents() -> None:
    assert cpu_time(pool(sandbox={"cpuTime": "90s"})) == 90.0
    assert [cpu_time(each) for each in (None, pool(), pool(sandbox={"cpuTime": "0s"}))] == [None, None, None]


def test_output_is_kept_up_to_the_pools_limit_and_sent_up_to_a_bound() -> None:
    assert (sent(task())["keep"], sent(task())["limit"]) == (KEPT_BYTES, SENT_BYTES)
    small = sent(task(), pool(sandbox={"outputLimit": "1Ki"}))
    assert (small["keep"], small["limit"]) == (1024, 1024)


def test_steps_that_the_holder_supplied_are_named() -> None:
    digest = "a" * 64
    assert sent(task("t", payloadHash=digest))["payload"] == digest
    assert "payload" not in sent(task())


def test_a_tasks_timeout_is_passed_on() -> None:
    assert sent(task("t", timeout="2s"))["timeout"] == 2.0
    assert sent(task())["timeout"] is None
    with pytest.raises(Refused, match=r"spec\.timeout"):
        sent(task("t", timeout="99999999h"))


KEY = b"k" * 32


def proved(the_task: Any, held: Any, key: bytes = KEY) -> Any:
    the_task["spec"]["proof"] = proof_of(key, held.uid, the_task["metadata"]["name"], the_task["spec"])
    return the_task


def held_sandbox(**holder: Any) -> Any:
    return Held.of(sandbox("sb", holder={"secretHash": "0" * 64, **holder}))


@pytest.mark.parametrize(
    ("holder", "demanded"), [({}, True), ({"openToAll": False}, True), ({"openToAll": True}, False)]
)
def test_one_that_is_open_to_all_runs_every_task(holder: Any, demanded: bool) -> None:
    assert (held_sandbox(sealedKey="aa", **holder) is not None) is demanded


def test_a_task_of_the_holder_is_run_once() -> None:
    held = held_sandbox(sealedKey="aa")
    the_task = proved(task(), held)
    held.check(the_task, {"aa": KEY}.get)
    assert sent(the_task)["once"] == the_task["spec"]["proof"]
    assert "once" not in sent(task())


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["spec"].pop("proof"),
        lambda body: body["spec"].update(proof="0" * 64),
        lambda body: body["spec"].update(proof="\u00e4" * 64),
        lambda body: body["metadata"].update(name="other"),
        lambda body: body["spec"].update(sandboxRef="other"),
        lambda body: body["spec"].update(timeout="1s"),
        lambda body: body["spec"].update(retries=1),
        lambda body: body["spec"].update(payloadHash="0" * 64),
        lambda body: body["spec"]["steps"].append(command("b", "true")),
        lambda body: body["spec"]["steps"][0].update(command=["false"]),
        lambda body: body["spec"]["steps"][0].update(env={"A": "b"}),
    ],
)
def test_a_task_that_differs_in_anything_from_the_holders_is_refused(change: Any) -> None:
    held = held_sandbox(sealedKey="aa")
    the_task = proved(task(), held)
    held.check(the_task, {"aa": KEY}.get)  # control
    change(the_task)
    with pytest.raises(Refused, match="no proof") as caught:
        held.check(the_task, {"aa": KEY}.get)
    assert caught.value.reason == "NotTheHolders"


def test_a_proof_for_another_sandbox_or_by_another_key_is_none() -> None:
    held, other = held_sandbox(sealedKey="aa"), held_sandbox(sealedKey="bb")
    for the_task in (proved(task(), other), proved(task(), held, b"o" * 32)):
        with pytest.raises(Refused, match="no proof"):
            held.check(the_task, {"aa": KEY, "bb": b"o" * 32}.get)
    with pytest.raises(Refused, match="not sealed for this operator"):
        other.check(proved(task(), other), {"aa": KEY}.get)


def test_a_sandbox_whose_holder_sealed_no_key_runs_every_task() -> None:
    assert held_sandbox() is None
    assert Held.of(sandbox("sb")) is None
    assert Held.of(None) is None


def test_what_may_be_changed_later_and_what_the_api_server_leaves_out_is_not_in_a_proof() -> None:
    held = held_sandbox(sealedKey="aa")
    the_task = proved(task("t", {**command("s", "true"), "env": None}), held)
    the_task["spec"] |= {"cancel": True, "ttlSecondsAfterFinished": 5, "traceID": "t", "timeout": None}
    del the_task["spec"]["steps"][0]["env"]
    held.check(the_task, {"aa": KEY}.get)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(None, 16 << 20), ("1Mi", 1 << 20), ("9999999999999Ti", 1 << 50), ("much", 16 << 20), ("-1", 16 << 20), (5, 5)],
)
def test_what_is_kept_of_an_output_is_a_number_that_an_agent_takes(limit: object, kept: int) -> None:
    found = kept_bytes({"spec": {"sandbox": {"outputLimit": limit}}})
    assert found == kept
