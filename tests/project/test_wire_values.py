"""What came over a wire is never converted: `bytes(2**40)` is a terabyte, and `str()` of a list of a million is long.

Modules that read a peer's messages take values out by `pytest_arl.agent.exact`, or by the model that checks them. A
conversion of something that was just taken out of a message needs a reason, here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pytest_arl"

READERS = (
    "agent_client/messages.py",
    "operator/frame_reader.py",
    "operator/introduction.py",
    "operator/agent_link.py",
    "operator/idle_links.py",
    "operator/progress.py",
    "operator/task_runner.py",
    "operator/task_status.py",
    "operator/sandbox_link.py",
    "usage.py",
)
CONVERSIONS = {"bytes", "bytearray", "int", "str", "float", "bool", "list", "dict", "tuple", "set"}
ALLOWED: dict[tuple[str, str], str] = {
    ("operator/frame_reader.py", "bytes(memoryview(self._data)[self._at:self._at + size])"): "a copy of bytes",
    ("operator/task_runner.py", "bool(task['spec'].get('cancel'))"): "a boolean, by the API server's own schema",
}
"""By module and source of the call, why it may be."""


def taken_out(node: ast.AST) -> bool:
    """True if a value comes out of a dict or a list by its key."""
    return any(
        isinstance(each, ast.Subscript)
        or (isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr == "get")
        for each in ast.walk(node)
    )


def conversions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in CONVERSIONS and any(map(taken_out, node.args)):
            yield ast.unparse(node)


@pytest.mark.parametrize("module", READERS)
def test_what_a_peer_sent_is_not_converted(module: str) -> None:
    found = set(conversions((SOURCE / module).read_text()))

    assert found == {source for each, source in ALLOWED if each == module}


@pytest.mark.parametrize(
    "source", ["bytes(hello['nonce'])", "int(value.get('out') or 0)", "str(value['text'])", "bool(ready.get('held'))"]
)
def test_a_conversion_is_seen(source: str) -> None:
    assert list(conversions(source))
    assert not list(conversions("len(value['text']), exact.data(value, 'o', 5), bytes(stdout)"))
