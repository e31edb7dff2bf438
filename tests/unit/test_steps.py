import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl import Command, FilePatch, UsageError
from pytest_arl.steps import Step, parse_steps

HELLO: dict[str, Any] = {"name": "hello", "type": "Command", "command": ["echo", "Hello"]}
PATCH: dict[str, Any] = {"name": "config", "type": "FilePatch", "path": "a.txt", "content": "x"}


def message(step: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parse_steps([step])
    return str(caught.value)


def test_dicts_as_in_the_wrapper_become_typed_steps() -> None:
    command, patch = parse_steps([{**HELLO, "env": {"DEBUG": "1"}, "workDir": "/workspace"}, PATCH])
    assert command == Command(name="hello", command=["echo", "Hello"], env={"DEBUG": "1"}, work_dir="/workspace")
    assert patch == FilePatch(name="config", path="a.txt", content="x")


def test_python_names_work_in_dicts_too() -> None:
    assert parse_steps([{**HELLO, "work_dir": "/x"}]) == parse_steps([{**HELLO, "workDir": "/x"}])


def test_typed_steps_pass_as_they_are() -> None:
    step = Command(name="a", command=("true",))
    assert parse_steps((step,))[0] is step


def test_steps_without_a_name_are_numbered() -> None:
    unnamed = {key: value for key, value in HELLO.items() if key != "name"}
    names = [step.name for step in parse_steps([unnamed, HELLO, Command(command=["true"])])]
    assert names == ["step-1", "hello", "step-3"]


def test_what_is_left_out_has_its_default() -> None:
    (step,) = parse_steps([HELLO])
    assert isinstance(step, Command)
    assert (step.env, step.work_dir, step.stdin, step.timeout, step.background) == ({}, None, None, None, False)


def test_a_step_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Command(command=["a"]).command = ("b",)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"type": "command"}, ["unknown type 'command'", "did you mean 'Command'?"]),
        ({"type": "Shell"}, ["unknown type 'Shell'", "Command, FilePatch"]),
        ({"type": 3}, ["'type' must be 'Command'", "not an int"]),
        ({"workdir": "/x"}, ["unknown key 'workdir'", "did you mean 'workDir'?"]),
        ({"shell": True}, ["unknown key 'shell'", "known: name, type, command"]),
        ({"content": "x"}, ["unknown key 'content'", "a FilePatch has that"]),
        ({"work_dir": "/x", "workDir": "/y"}, ["'work_dir'", "'workDir' is given as well"]),
        ({"command": []}, ["'command' is empty"]),
        ({"command": [""]}, ["'command' item 0 is empty"]),
        ({"command": "echo hi there"}, ["'command' must be a list", "write ['echo', 'hi', 'there']"]),
        ({"command": {"echo"}}, ["'command' must be a list", "not a set"]),
        ({"command": None}, ["'command' must be a list", "not None"]),
        ({"command": ["sleep", 5]}, ["'command' item 1 must be a string, not an int"]),
        ({"command": ["a", "b\0c"]}, ["'command' item 1 has a NUL byte at position 1"]),
        ({"command": ["a", "\ud800"]}, ["'command' item 1 has a lone surrogate"]),
        ({"env": {"A": 1}}, ["env['A'] must be a string, not an int; write it as a string"]),
        ({"env": {"A": "x\0"}}, ["env['A'] has a NUL byte"]),
        ({"env": {"A=B": "x"}}, ["'env' has the name 'A=B'"]),
        ({"env": {"": "x"}}, ["'env' has the name ''"]),
        ({"env": {"A\0": "x"}}, ["env['A\\x00'] has a NUL byte"]),
        ({"env": ["A=1"]}, ["'env' must be a mapping", "not a list"]),
        ({"workDir": ""}, ["'workDir' is empty"]),
        ({"workDir": "a\0"}, ["'workDir' has a NUL byte"]),
        ({"stdin": 3}, ["'stdin' must be a string or bytes, not an int"]),
        ({"timeout": -1}, ["'timeout' must be a duration"]),
        ({"timeout": 0}, ["'timeout' must be more than 0"]),
        ({"timeout": "soon"}, ["'timeout' must be seconds or a duration", "'soon'"]),
        ({"timeout": True}, ["'timeout' must be seconds", "a bool"]),
        ({"cpuTime": -1}, ["'cpuTime' must be a duration"]),
        ({"cpu_time": 0}, ["'cpu_time' must be more than 0"]),
        ({"cpuTime": "soon"}, ["'cpuTime' must be seconds or a duration", "'soon'"]),
        ({"cpu_time": [2]}, ["'cpu_time' must be seconds or a duration", "a list"]),
        ({"cpuTime": 1, "cpu_time": 1}, ["'cpuTime' is given as well"]),
        ({"background": "yes"}, ["'background' must be true or false, not a str"]),
        ({"background": 1}, ["'background' must be true or false, not an int"]),
    ],
)
def test_a_bad_command_is_refused_by_step_field_and_fix(change: dict[str, Any], parts: list[str]) -> None:
    said = message({**HELLO, **change})
    for part in ["step 1 'hello': ", *parts]:
        assert part in said


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"path": ""}, ["'path' is empty"]),
        ({"path": "a\0b"}, ["'path' has a NUL byte at position 1"]),
        ({"path": 3}, ["'path' must be a string, not an int"]),
        ({"content": 3}, ["'content' must be a string or bytes, not an int"]),
        ({"content": "\ud800"}, ["'content' has a lone surrogate"]),
        ({"encoding": "base64", "content": "%%"}, ["'content' is not base64"]),
        ({"encoding": "latin-1"}, ["'encoding' must be 'utf-8' or 'base64'"]),
        ({"mode": "0755"}, ["'mode' must be an integer such as 0o755"]),
        ({"mode": 0o10000}, ["'mode' must be from 0 to 0o7777"]),
        ({"mode": -1}, ["'mode' must be from 0 to 0o7777"]),
        ({"command": ["x"]}, ["unknown key 'command'", "a Command has that"]),
    ],
)
def test_a_bad_patch_is_refused_by_step_field_and_fix(change: dict[str, Any], parts: list[str]) -> None:
    said = message({**PATCH, **change})
    for part in ["step 1 'config': ", *parts]:
        assert part in said


@pytest.mark.parametrize(("step", "field"), [(HELLO, "command"), (PATCH, "path"), (PATCH, "content")])
def test_a_missing_field_is_named(step: dict[str, Any], field: str) -> None:
    assert f"{field!r} is missing" in message({key: value for key, value in step.items() if key != field})


def test_a_misspelt_key_is_said_rather_than_the_one_that_is_missing_for_it() -> None:
    said = message({"name": "x", "type": "Command", "comand": ["a"]})
    assert "unknown key 'comand'; did you mean 'command'?" in said


def test_a_missing_type_is_guessed_at() -> None:
    assert '"type": "Command"' in message({"command": ["a"]})
    assert '"type": "FilePatch"' in message({"path": "a", "content": ""})


@pytest.mark.parametrize("name", ["", "a\0", 3, None])
def test_a_bad_name_is_refused(name: object) -> None:
    assert "'name'" in message({**HELLO, "name": name})


@pytest.mark.parametrize("bad", [3, None, "echo hi", ["echo"]])
def test_what_is_no_step_is_refused_with_its_number(bad: object) -> None:
    with pytest.raises(UsageError, match="step 2 must be a dict, a Command"):
        parse_steps([HELLO, bad])  # type: ignore[list-item] # on purpose


def test_a_key_that_is_no_string_is_refused() -> None:
    step: dict[Any, Any] = {**HELLO, 1: 2}
    assert "the key 1 must be a string" in message(step)


@pytest.mark.parametrize("steps", [[], (), iter(())])
def test_no_steps_at_all_are_refused(steps: Any) -> None:
    with pytest.raises(UsageError, match="steps is empty"):
        parse_steps(steps)


@pytest.mark.parametrize("steps", [HELLO, "echo", b"echo", 3, None, Command(command=["a"])])
def test_steps_that_are_no_list_are_refused_with_the_right_form(steps: Any) -> None:
    with pytest.raises(UsageError, match=r"steps must be a list such as \[\{"):
        parse_steps(steps)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="step 3: 'name' 'hello' is that of step 1"):
        parse_steps([HELLO, PATCH, HELLO])


def test_typed_steps_are_checked_when_they_are_made() -> None:
    with pytest.raises(UsageError, match=r"Command 'x': unknown key 'workdir'; did you mean 'workDir'"):
        Command(name="x", command=["a"], workdir="/x")  # type: ignore[call-arg] # on purpose
    with pytest.raises(UsageError, match="FilePatch: 'content' is missing"):
        FilePatch(path="a")  # type: ignore[call-arg] # on purpose


@pytest.mark.parametrize(
    "step",
    [
        {**HELLO, "env": {"TOKEN": "hunter2", "BAD": 3}},
        {**HELLO, "stdin": ["hunter2"]},
        {**PATCH, "content": {"password": "hunter2"}},
        {**PATCH, "content": "hunter2", "mode": "x"},
        {**HELLO, "env": {"TOKEN": "hunter2"}, "timeout": -1},
    ],
)
def test_no_message_shows_a_value_that_may_be_secret(step: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_steps([step])
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = None if error.__suppress_context__ else error.__context__


def test_a_repr_shows_names_of_variables_and_no_content() -> None:
    step = Command(name="x", command=["echo", "hi"], env={"TOKEN": "hunter2"}, stdin="hunter2")
    patch = FilePatch(name="y", path="a", content="hunter2")
    for text in (repr(step), str(step), repr(step.env), repr(patch), f"{patch}", repr(step.to_json()["env"])):
        assert "hunter2" not in text
        assert "\n" not in text
    assert "TOKEN" in repr(step)


def test_env_is_a_dict_all_the_same() -> None:
    assert Command(command=["a"], env={"A": "b"}).env == {"A": "b"}


def test_paths_are_taken_for_strings() -> None:
    step = Command(command=[Path("/bin/echo"), PurePosixPath("x")], work_dir=Path("/tmp"))
    assert (step.command, step.work_dir) == (("/bin/echo", "x"), "/tmp")
    assert FilePatch(path=Path("a/b"), content=b"").path == "a/b"


def test_strings_carry_bytes_that_are_no_utf_8() -> None:
    name = os.fsdecode(b"caf\xe9")
    step = Command(command=["cat", name], env={"F": name}, work_dir=name)
    assert os.fsencode(step.command[1]) == b"caf\xe9"
    assert step.to_json()["command"] == ["cat", "caf\ufffd"]


@pytest.mark.parametrize("content", [b"\xff\0", bytearray(b"\xff\0"), memoryview(b"\xff\0")])
def test_bytes_of_any_kind_are_content(content: Any) -> None:
    assert FilePatch(path="a", content=content).content == b"\xff\0"
    assert Command(command=["a"], stdin=content).stdin == b"\xff\0"


def test_content_in_base64_is_decoded_and_bytes_never_are() -> None:
    assert FilePatch(path="a", content="aG\nk=", encoding="base64").content == b"hi"
    assert FilePatch(path="a", content=b"aGk=", encoding="base64").content == b"aGk="


def test_processor_time_is_taken_by_both_names_and_written_by_one() -> None:
    assert Command(command=["a"], cpu_time="1m30s").cpu_time == 90.0
    (step,) = parse_steps([{"type": "Command", "command": ["a"], "cpuTime": 0.5}])
    assert isinstance(step, Command)
    assert step.cpu_time == 0.5
    assert step.to_json()["cpuTime"] == "0.5s"
    assert "cpuTime" not in Command(command=["a"]).to_json()


def test_timeouts_are_taken_as_go_writes_them() -> None:
    assert Command(command=["a"], timeout="1m30s").timeout == 90.0


def test_json_has_what_was_given_and_nothing_else() -> None:
    assert Command(name="x", command=["a"]).to_json() == {"name": "x", "type": "Command", "command": ["a"]}
    full = Command(
        name="x", command=["a"], env={"A": "1"}, work_dir="/w", stdin="in", timeout=90, background=True
    ).to_json()
    assert full == {
        "name": "x", "type": "Command", "command": ["a"], "env": {"A": "1"}, "workDir": "/w",
        "stdin": "in", "timeout": "90s", "background": True,
    }  # fmt: skip


@given(st.binary(), st.one_of(st.none(), st.integers(0, 0o7777)))
def test_a_patch_survives_its_json(content: bytes, mode: int | None) -> None:
    step = FilePatch(name="x", path="a", content=content, mode=mode)
    (again,) = parse_steps([step.to_json()])
    assert isinstance(again, FilePatch)
    assert (again.content, again.mode) == (content, mode)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
commands = st.builds(
    Command,
    name=words.filter(bool),
    command=st.lists(words, min_size=1).filter(lambda command: bool(command[0])),
    env=st.dictionaries(words.filter(lambda name: bool(name) and "=" not in name), words),
    stdin=st.none() | words,
    timeout=st.none() | st.integers(1, 10_000).map(float),
    background=st.booleans(),
)


@given(commands)
def test_a_command_survives_its_json_and_pickle(step: Command) -> None:
    assert parse_steps([step.to_json()]) == (step,)
    assert pickle.loads(pickle.dumps(step)) == step


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["name", "type", "command", "env", "workDir", "work_dir", "stdin", "timeout", "background", "path", "content",
     "encoding", "mode", "nope"]
)  # fmt: skip
step_like = st.dictionaries(keys, anything).flatmap(
    lambda step: st.sampled_from(["Command", "FilePatch", step.get("type")]).map(lambda kind: {**step, "type": kind})
)


@given(st.lists(step_like | anything, max_size=3))
def test_whatever_is_given_is_a_checked_step_or_a_usage_error_of_one_line(steps: Any) -> None:
    parsed: tuple[Step, ...] = ()
    refusal = None
    try:
        parsed = parse_steps(steps)
    except UsageError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert len(refusal) < 600
        assert refusal.startswith("step")
        return
    assert len(parsed) == len(steps)
    assert len({step.name for step in parsed}) == len(parsed)
    for step in parsed:
        texts = [text for value in dict(step).values() for text in texts_in(value)]
        assert all("\0" not in text and os.fsencode(text) is not None for text in texts)


def texts_in(value: object) -> list[str]:
    """The strings of a field."""
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return [part for part in parts if isinstance(part, str)]
