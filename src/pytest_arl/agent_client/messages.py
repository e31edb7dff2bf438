"""Messages between host and agent, as the host makes and reads them. Their types are those of the agent's
``message_types``; the first message of a host that starts an agent is in ``agent_config``, a step's part is the step's.

What an agent says is not trusted: a reader raises LookupError, TypeError or ValueError for what no agent of ours says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.results import StepResult
from pytest_arl.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import (
        Attach,
        Cancel,
        ClientHello,
        EntryKey,
        Fetch,
        Get,
        HelloKey,
        Hole,
        HoleKey,
        OutputEndKey,
        PongKey,
        ProcessKey,
        ProcessRequest,
        Put,
        RefusalKey,
        Reset,
        ResetAnswerKey,
        Spend,
        SpentKey,
        Supply,
        TakenKey,
        Task,
        TransferEnd,
        TransferEndKey,
        Write,
    )
    from pytest_arl.agent.step_types import StepEndKey, StepMessage
    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.steps import Step

__all__ = [
    "attach",
    "boot_of",
    "cancel",
    "check_entry",
    "fetch",
    "get",
    "holder_hello",
    "hole",
    "hole_size",
    "inline_output",
    "is_busy",
    "is_ended",
    "output_end",
    "process_request",
    "put",
    "refusal",
    "reset",
    "reset_answer",
    "spend",
    "spent",
    "step_number",
    "step_result",
    "stopped_transfer",
    "supply",
    "taken",
    "task_message",
    "transfer_checksum",
    "transfer_end",
    "write",
]

_MOST = 1 << 62  # bytes
_LATEST = 253402300800.0  # seconds: the year 10000
_LONGEST_WORD = 100
_LARGEST_ERRNO = 4095  # MAX_ERRNO


# Introduction


def holder_hello(secret: bytes, nonce: bytes) -> ClientHello:
    """HELLO of a sandbox's holder, which asks for a proof over the nonce."""
    return {"version": frames.VERSION, "role": "holder", "secret": secret, "ask": nonce}


def boot_of(value: object) -> str | None:
    """HELLO of an agent: its boot id; None where it is of another version, which may have none."""
    said: Said[HelloKey] = value if isinstance(value, dict) else {}
    boot = said.get("boot")
    return boot if isinstance(boot, str) and said.get("version") == frames.VERSION else None


# Tasks


def task_message(task: TaskRequest, limit: int, *, live: bool, brief: bool = False) -> Task:
    """TASK. ``live`` asks for output as it comes, ``brief`` for nothing beyond the last result."""
    message: Task = {"id": task.id, "limit": limit, "steps": [step.to_agent() for step in task.steps]}
    if task.timeout is not None:
        message["timeout"] = task.timeout
    if live:
        message["live"] = True
    if brief:
        message["brief"] = True
    return message


def attach(task_id: str, limit: int, *, live: bool) -> Attach:
    """ATTACH: answer as to the TASK of that id."""
    return {"id": task_id, "limit": limit, "live": live}


def cancel(task_id: str) -> Cancel:
    """CANCEL."""
    return {"id": task_id}


def step_number(value: object) -> int:
    """The number of the step that a STEP is about."""
    said: Said[StepEndKey] = _table(value)
    number: int = said["i"]
    return number


def inline_output(value: object, limit: int) -> tuple[bytes, bytes]:
    """The output that a STEP has in it."""
    said: Said[StepEndKey] = _table(value)
    return _output(said.get("o", b""), limit), _output(said.get("e", b""), limit)


def step_result(
    step: Step, value: object, streams: tuple[bytes, bytes], label: Callable[[str | None], str | None]
) -> StepResult:
    """A step's result, of a STEP or of what a background process came to, as the type that callers get. ``label`` adds
    the pool's value to the name of a limit.
    """
    said: Said[StepEndKey] = _table(value)
    _check(said)
    return StepResult(
        name=step.name,
        type=step.type,
        outcome=said["outcome"],
        exit_code=said["code"],
        signal=said.get("signal"),
        stdout_bytes=streams[0],
        stderr_bytes=streams[1],
        stdout_size=said.get("out", len(streams[0])),
        stderr_size=said.get("err", len(streams[1])),
        limit=label(said.get("limit")),
        started_at=said.get("at"),
        duration=said.get("s", 0.0),
        usage=Usage.from_agent(said.get("u")),
    )


def _output(data: object, limit: int) -> bytes:
    if not isinstance(data, bytes) or len(data) > limit:
        raise TypeError("the output of a step is bytes, as many as were asked for")
    return data


def _check(said: Said[StepEndKey]) -> None:
    """Raise for what would be an error only later, where somebody looks at the result or prints it."""
    if any(type(size) is not int or not 0 <= size < _MOST for size in (said.get("out", 0), said.get("err", 0))):
        raise ValueError("the size of a step's output is a number of bytes")
    if type(said["code"]) is not int or (said["outcome"] == "Succeeded") is not (said["code"] == 0):
        raise ValueError("a step's exit code is 0 where it succeeded")
    for number in (said.get("s", 0.0), said.get("at", 0.0)):
        if number is not None and not (type(number) in (int, float) and 0 <= number < _LATEST):
            raise ValueError("a step's times are seconds")
    for word in (said.get("signal"), said.get("limit")):
        if word is not None and not (isinstance(word, str) and word.isprintable() and len(word) < _LONGEST_WORD):
            raise ValueError("a signal and a limit are words")


def is_busy(value: object) -> bool:
    """True for a PONG of an agent that runs a task."""
    said: Said[PongKey] = value if isinstance(value, dict) else {}
    return said.get("busy") is True


# Background processes, kept output


def process_request(task: str, step: int, do: Literal["wait", "kill", "write", "close", "output"]) -> ProcessRequest:
    """PROCESS; what an action has besides is the caller's to add."""
    return {"task": task, "step": step, "do": do}


def is_ended(value: object) -> bool:
    """True if a background process has ended, and the answer has its result."""
    said: Said[ProcessKey] = _table(value)
    return said["ended"] is True


def taken(value: object) -> bool:
    """True if a background process takes what was written."""
    said: Said[TakenKey] = _table(value)
    if not isinstance(said.get("taken"), bool):
        raise TypeError("the answer to a write")
    return said["taken"] is True


def fetch(task: str, step: int, stream: int, *, start: int, most: int) -> Fetch:
    """FETCH: a part of a step's stream."""
    return {"task": task, "step": step, "stream": stream, "from": start, "most": most}


def output_end(value: object) -> tuple[int, int]:
    """The END of a part: bytes of the whole stream, and those of it that are not kept."""
    said: Said[OutputEndKey] = value if isinstance(value, dict) else {}
    size, lost = said.get("size"), said.get("lost")
    if type(size) is not int or type(lost) is not int:
        raise TypeError("the end of an output")
    return size, lost


# Files


def write(path: bytes, content: bytes, mode: int | None) -> Write:
    """WRITE: a file, whole."""
    return {"path": path, "content": content, "mode": mode}


def put(path: bytes, *, merge: bool) -> Put:
    """PUT: where the files go that follow."""
    return {"path": path, "merge": merge}


def get(path: bytes, *, data: int, size: int, entries: int, one_filesystem: bool = False) -> Get:
    """GET: bytes without holes, bytes with them, and entries, at most."""
    message: Get = {"path": path, "data": max(0, data), "size": size, "entries": entries}
    if one_filesystem:
        message["one_filesystem"] = True
    return message


def transfer_end(crc: int) -> TransferEnd:
    """END of files that were sent."""
    return {"crc": crc}


def stopped_transfer() -> TransferEnd:
    """END of files that are given up."""
    return {"abort": True}


def transfer_checksum(value: object) -> object:
    """The checksum in the END of files that came."""
    said: Said[TransferEndKey] = _table(value)
    return said.get("crc")


def check_entry(value: object) -> None:
    """TypeError for what is no ENTRY: what a right one says of sizes and names is still only what it says."""
    said: Said[EntryKey] = _table(value)
    numbers = said.get("m"), said.get("at"), said.get("n"), said.get("seconds", 0)
    right = (
        isinstance(said.get("p"), bytes)
        and isinstance(said.get("t"), str)
        and said["t"] in {"f", "d", "l"}
        and all(type(number) is int for number in numbers)
        and said["n"] >= 0
        and (said["t"] != "l" or isinstance(said.get("to"), bytes))
    )
    if not right:
        raise TypeError("an entry of a transfer")


def hole(size: int) -> Hole:
    """HOLE."""
    return {"n": size}


def hole_size(value: object) -> int:
    """Bytes of a HOLE."""
    said: Said[HoleKey] = value if isinstance(value, dict) else {}
    size = said.get("n")
    if type(size) is not int or size <= 0:
        raise TypeError("a hole")
    return size


# Checkpoints


def reset(do: Literal["alive", "mark", "forget", "return"], number: int, keep: Sequence[list[Any]] = ()) -> Reset:
    """RESET: something with the checkpoint of that number; ``keep`` has the processes that a ``return`` lets live."""
    return {"do": do, "id": number, "keep": list(keep)}


def reset_answer(value: object, key: ResetAnswerKey) -> list[Any]:
    """The list in the answer: pairs of a task and a step that live, or paths that changed."""
    said: Said[ResetAnswerKey] = value if isinstance(value, dict) else {}
    listed = said.get(key)
    if not isinstance(listed, list) or not all(map(_is_path if key == "changed" else _is_process, listed)):
        raise TypeError(f"the answer to {key}")
    return listed


def _is_path(value: object) -> bool:
    return isinstance(value, bytes)


def _is_process(value: object) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [str, int]


# A holder's


def supply(steps: list[StepMessage]) -> Supply:
    """SUPPLY: the steps of a TASK that will name them by their digest."""
    return {"steps": steps}


def spend(proof: str) -> Spend:
    """SPEND: no TASK is to run for this proof any more."""
    return {"once": proof}


def spent(value: object) -> tuple[bool, bool]:
    """True if a task was run for the proof, then True if it still runs."""
    said: Said[SpentKey] = value if isinstance(value, dict) else {}
    return said.get("ran") is True, said.get("runs") is True


# Refusals


def refusal(value: object) -> tuple[str, int, bytes]:
    """The text of an ERROR, its errno or 0, and the file concerned or nothing."""
    said: Said[RefusalKey] = value if isinstance(value, dict) else {}
    text, errno, path = said.get("text"), said.get("errno"), said.get("path")
    if not (isinstance(text, str) and type(errno) is int and 0 <= errno <= _LARGEST_ERRNO and isinstance(path, bytes)):
        raise TypeError("a refusal without a reason")
    return text, errno, path


def _table(value: object) -> Any:
    if not isinstance(value, dict):
        raise TypeError("a message is a dict")
    return value
