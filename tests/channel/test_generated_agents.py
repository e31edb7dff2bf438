"""An agent in wrong hands that sends anything at all: an answer, or a lost sandbox, and soon."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.agent import frames
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.backends.base import TaskRequest
from pytest_arl.errors import InfrastructureError, UsageError
from pytest_arl.results import StepResult
from pytest_arl.steps import parse_steps
from tests.channel.fake import in_thread, sandbox_and_agent
from tests.generated import generated

_KINDS = sorted(
    {value for name, value in vars(frames).items() if name.isupper() and isinstance(value, int) and value < 256}
)
_NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**63), 2**63 - 1, 2**31, 255, 256, 253402300800]))
_ATOMS = st.one_of(
    st.none(), st.booleans(), _NUMBERS, st.floats(), st.binary(max_size=30), st.text(max_size=10), st.just("\x1b[2J")
)
_VALUES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


def _dicts(**right: object) -> st.SearchStrategy[dict[str, Any]]:
    """An agent's answer there, with any fields wrong or missing."""
    fields = {name: st.one_of(st.just(value), st.just(value), _VALUES) for name, value in right.items()}
    return st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields)


_STEP = _dicts(
    i=0, outcome="Succeeded", code=0, out=1, err=0, o=b"x", e=b"", s=0.5, at=1.0, limit=None, signal=None, u=bytes(80)
)
_MESSAGES = st.one_of(
    st.tuples(st.just(frames.STEP), _STEP),
    st.tuples(st.just(frames.DONE), _VALUES),
    st.tuples(st.just(frames.REPLY), _dicts(ended=True, taken=True, alive=[["id", 0]], changed=[b"/workspace/x"])),
    st.tuples(st.just(frames.REPLY), _STEP.map(lambda step: {"ended": True, **step})),
    st.tuples(st.just(frames.ENTRY), _dicts(p=b"", t="d", m=0o755, at=0, n=0)),
    st.tuples(st.just(frames.ENTRY), _dicts(p=b"f", t="f", m=0o644, at=0, n=4)),
    st.tuples(st.just(frames.ENTRY), _dicts(p=b"l", t="l", m=0o777, at=0, n=0, to=b"f")),
    st.tuples(st.just(frames.END), _dicts(crc=0, size=3, lost=0)),
    st.tuples(st.just(frames.ERROR), _dicts(text="no\x1b[2J", errno=2, path=b"/x")),
    st.tuples(st.sampled_from(_KINDS), _VALUES),
)
_RAW = st.tuples(
    st.sampled_from([frames.DATA, frames.STDOUT, frames.STDERR, frames.STDOUT_TAIL]), st.binary(max_size=40)
)


@st.composite
def _streams(draw: st.DrawFn) -> list[tuple[int, Callable[[int], bytes]]]:
    """Frames, as a function of the stream that was asked on; then cut, repeated or followed by noise."""
    made: list[Any] = []
    for kind, value in draw(st.lists(st.one_of(_MESSAGES, _RAW), max_size=6)):
        other = draw(st.sampled_from([0, 0, 0, 0, 1, 7]))
        raw = isinstance(value, bytes) and kind < frames.HELLO
        make = frames.frame if raw else frames.message
        made += [lambda own, make=make, kind=kind, value=value, other=other: make(kind, own + other, value)] * draw(
            st.sampled_from([1, 1, 1, 2])
        )
    if draw(st.booleans()):
        noise = draw(st.binary(max_size=40))
        made.insert(draw(st.integers(0, len(made))), lambda _own: noise)
    return [(draw(st.integers(0, 60)) if draw(st.integers(0, 9)) == 0 else 0, each) for each in made]


def _execute(sandbox: DirectSandbox) -> object:
    steps = parse_steps([{"type": "Command", "command": ["true"], "timeout": 5}] * 2)
    return sandbox.execute(TaskRequest("id", steps), lambda *_: None)


def _process(sandbox: DirectSandbox) -> Any:
    steps = parse_steps([{"type": "Command", "command": ["true"], "background": True}])
    sandbox._remember_background(TaskRequest("id", steps))
    return sandbox.process("id", 0)


def _download(sandbox: DirectSandbox) -> object:
    with tempfile.TemporaryDirectory() as folder:
        sandbox.download("/workspace/x", Path(folder) / "here")
        return None


def _checkpoint(sandbox: DirectSandbox) -> object:
    sandbox._pristine = False
    sandbox.checkpoint().close()
    return None


REQUESTS: dict[str, Callable[[DirectSandbox], object]] = {
    "execute": _execute,
    "read": lambda sandbox: sandbox.read("/workspace/x"),
    "write": lambda sandbox: sandbox.write("/workspace/x", b"content", None),
    "download": _download,
    "checkpoint": _checkpoint,
    "output": lambda sandbox: list(sandbox.output("id", 0, "stdout")),
    "wait": lambda sandbox: _process(sandbox).wait(1),
    "feed": lambda sandbox: _process(sandbox).write(b"line", 1),
    "kill": lambda sandbox: _process(sandbox).kill(),
    "printed": lambda sandbox: _process(sandbox).output("stdout"),
}


@generated(60)
@given(st.sampled_from(sorted(REQUESTS)), _streams())
def test_whatever_an_agent_sends_is_an_answer_or_a_lost_sandbox(
    request_: str, stream: list[tuple[int, Callable[[int], bytes]]]
) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: REQUESTS[request_](sandbox))
        _, own, _ = agent.receive()
        try:
            for cut, make in stream:
                data = make(own)
                agent.send_raw(data[: len(data) - cut])
        except (OSError, frames.ProtocolError, ValueError):
            pass  # it is not listened to any more; or this cannot be packed
        agent.hang_up()
        try:
            found = result(20)
        except (InfrastructureError, UsageError, OSError) as error:
            told = str(error)
            assert "\x1b" not in told
            assert len(told) < 5000
        else:
            _check(found)


def _check(found: object) -> None:
    """Check that what came is of use: nothing in it fails later, or is larger than what was asked for."""
    for result in found if isinstance(found, list) else [found]:
        if isinstance(result, StepResult):
            result.to_json()
            assert "\x1b" not in repr(result)
            assert len(result.stdout_bytes) <= 1000
            assert result.ok is (result.exit_code == 0)
