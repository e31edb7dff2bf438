import base64
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.crds.models import MOST_SPEC_BYTES
from pytest_arl.operator.wire import KEPT_BYTES, SENT_BYTES, Refused, cpu_time, message
from tests.operator.objects import command, pool, task


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
    with pytest.raises(Refused, match="the cpuTime of step 'a' must be"):
        sent(task("t", command("a", cpuTime="99999999h")))


def test_a_pools_processor_time_is_its_agents() -> None:
    assert cpu_time(pool(sandbox={"cpuTime": "90s"})) == 90.0
    assert [cpu_time(each) for each in (None, pool(), pool(sandbox={"cpuTime": "0s"}))] == [None, None, None]


def test_what_is_kept_is_the_pools_what_is_sent_is_bounded() -> None:
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
