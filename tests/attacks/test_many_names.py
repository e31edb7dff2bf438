"""Very many names, or very deep ones: what a sandbox makes at no cost must not keep this side busy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pytest_arl import UsageError
from pytest_arl.agent_client import file_transfer
from pytest_arl.backends.local import pins
from pytest_arl.backends.local.pins import Pin
from pytest_arl.hooks import close_backends
from tests.attacks.conftest import OpenSandbox, python


def _calls(action: Callable[[], object]) -> int:
    """How many calls it makes: as good as a time, and the same on a busy machine."""
    count = 0

    def counting(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_folders_above_what_changed_are_looked_at_once() -> None:
    deep = b"/workspace/" + b"a/" * 1900
    few = _calls(lambda: file_transfer._with_parents({deep + b"%d" % number for number in range(10)}))
    many = _calls(lambda: file_transfer._with_parents({deep + b"%d" % number for number in range(200)}))
    assert many < few + 200 * 20
    found = file_transfer._with_parents({b"/workspace/a/b/c", b"/workspace/a/d", b"/tmp"})
    above = {b"/workspace", b"/workspace/a", b"/workspace/a/b"}
    assert found == {b"/workspace/a/b/c", b"/workspace/a/d", b"/tmp"} | above, "control: they are found"


def test_files_deep_down_that_changed_are_put_back(open_sandbox: OpenSandbox) -> None:
    sandbox = open_sandbox()
    server = sandbox.start("sleep", "1000")
    make = """
        import os, sys
        for _ in range(300):
            os.makedirs("deep", exist_ok=True)
            os.chdir("deep")
        for number in range(20):
            with open(str(number), "w") as file:
                file.write(sys.argv[1])
    """
    look = "cd $(printf 'deep/%.0s' $(seq 300)) && cat *"
    python(sandbox, make, "before").check()
    sandbox.checkpoint()
    python(sandbox, make, "after").check()
    assert sandbox.run("bash", "-c", look).check().stdout == "after" * 20, "control"
    sandbox.reset()
    assert sandbox.run("bash", "-c", look).check().stdout == "before" * 20
    assert server.poll() is None, "control: it was in place"


def test_the_work_for_what_stays_read_only_grows_with_its_number() -> None:
    def made(count: int) -> list[Pin]:
        return [Pin(f"d{number}/.git", writable=False) for number in range(count)]

    small, large = (_calls(partial(pins._outermost, made(count))) for count in (1000, 4000))
    assert large < 6 * small


@pytest.mark.parametrize("order", [1, -1])
def test_what_lies_in_something_read_only_needs_no_pin(order: int) -> None:
    given = [
        Pin("a", writable=False),
        Pin("a", writable=True),
        Pin("a-b", writable=False),
        Pin("a/b/c", writable=True),
        Pin("w", writable=True),
        Pin("w/x", writable=False),
        Pin("w/x/y", writable=False),
    ]
    found = pins._outermost(given[::order])
    assert found == [
        Pin("a", writable=False),
        Pin("a-b", writable=False),
        Pin("w", writable=True),
        Pin("w/x", writable=False),
    ]


def test_more_than_can_be_kept_read_only_is_refused(
    open_sandbox: OpenSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "_MOST", 8)  # 256 take a second
    shared = tmp_path / "shared"
    for number in range(8):
        (shared / f"r{number}" / ".git").mkdir(parents=True)
    shared.chmod(0o777)
    keys = f'mounts = ["{shared}:/shared:rw"]'
    sandbox = open_sandbox(keys)
    python(sandbox, "import os; os.makedirs('/shared/new/.git')").check()
    close_backends()
    with pytest.raises(
        UsageError, match=r"more than 8 files in it need a read-only mount of their own, such as .*\.git"
    ):
        open_sandbox(keys)
