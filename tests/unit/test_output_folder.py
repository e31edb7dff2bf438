"""The folder of --arl-output: what a repository, another user or a sandbox puts there leads nowhere else."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl import UsageError
from pytest_arl.plugin.output import OutputFolder, _whole


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "precious"


def _keep(output: OutputFolder, stem: str = "0001-01-echo", sandbox: str = "box") -> str:
    output._append([{"name": "step", "stdout": "", "stderr": ""}], "test")
    return output._write_file(sandbox, stem, "stdout", iter([b"printed"]))


def test_what_is_written_is_there(tmp_path: Path) -> None:
    output = OutputFolder.start(tmp_path / "deep/out", None)
    name = _keep(output)
    output.close()
    assert (tmp_path / "deep/out" / name).read_text() == "printed"
    assert (tmp_path / "deep/out/steps.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("link", "to"), [("steps.jsonl", "../outside/file"), ("output", "../outside"), ("", "outside")]
)
def test_a_link_that_was_there_before_is_refused_by_name(tmp_path: Path, outside: Path, link: str, to: str) -> None:
    path = tmp_path / "out" / link if link else tmp_path / "out"
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(to)
    with pytest.raises(UsageError, match=f"{path} is a link to '{to}'"):
        OutputFolder.start(tmp_path / "out", None)


@pytest.mark.parametrize("whose", ["", "steps.jsonl", "output"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, whose: str) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    OutputFolder.start(tmp_path / "out", None).close()
    (tmp_path / "out/output").mkdir()
    os.chown(tmp_path / "out" / whose, 65534, 65534)
    with pytest.raises(UsageError, match="belongs to the user"):
        OutputFolder.start(tmp_path / "out", None)
    os.chown(tmp_path / "out" / whose, 0, 0)
    OutputFolder.start(tmp_path / "out", None).close()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out/steps.jsonl").mkdir(parents=True)
    with pytest.raises(UsageError, match="is not a file"):
        OutputFolder.start(tmp_path / "out", None)


def test_a_folder_that_is_swapped_in_a_run_leads_nowhere_else(tmp_path: Path, outside: Path) -> None:
    output = OutputFolder.start(tmp_path / "out", None)
    (tmp_path / "out").rename(tmp_path / "kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/steps.jsonl").symlink_to(outside / "file")
    (tmp_path / "out/output").symlink_to(outside)
    name = _keep(output)
    output.close()
    assert (tmp_path / "kept" / name).read_text() == "printed"
    assert (tmp_path / "kept/steps.jsonl").read_text()


def test_a_link_in_the_place_of_the_next_file_is_not_followed(tmp_path: Path, outside: Path) -> None:
    output = OutputFolder.start(tmp_path / "out", None)
    first = _keep(output)
    link = (tmp_path / "out" / first).parent / "0002-01-echo.stdout"
    link.symlink_to(outside / "file")
    second = _keep(output, "0002-01-echo")
    output.close()
    assert second.endswith("0002-01-echo~1.stdout")
    assert (tmp_path / "out" / second).read_text() == "printed"


@pytest.mark.parametrize("link", ["output", "output/box"])
def test_a_link_in_the_place_of_a_folder_is_an_error(tmp_path: Path, outside: Path, link: str) -> None:
    output = OutputFolder.start(tmp_path / "out", None)
    (tmp_path / "out" / link).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / link).symlink_to(outside)
    with pytest.raises(OSError):
        _keep(output)
    output.close()


def test_a_worker_joins_the_folder_that_the_run_has_begun_and_no_other(tmp_path: Path, outside: Path) -> None:
    output = OutputFolder.start(tmp_path / "out", None)
    worker = OutputFolder.join(tmp_path / "out", "gw0", output.identity)
    _keep(worker)
    worker.close()
    assert (tmp_path / "out/steps.jsonl").read_text()

    (tmp_path / "out/steps.jsonl").rename(tmp_path / "kept")
    (tmp_path / "out/steps.jsonl").write_text("")
    with pytest.raises(UsageError, match="was replaced since the run began"):
        OutputFolder.join(tmp_path / "out", "gw0", output.identity)
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to(outside)
    with pytest.raises(UsageError, match="is a link"):
        OutputFolder.join(tmp_path / "out", "gw0", output.identity)
    output.close()


@pytest.mark.parametrize(
    "blocks", [[b"0123456789"], [b"012", b"3456", b"789"], [b"0123456789", b"more"], [b"0123456789m", b""]]
)
def test_no_more_of_an_output_is_kept_than_was_counted(blocks: list[bytes]) -> None:
    """Its size was compared with what the pool lets be kept; an agent may send more than it said."""
    session: Any = SimpleNamespace(output=lambda _step, _stream: iter(blocks))
    step: Any = None
    assert b"".join(_whole(session, step, "stdout", b"012", 10)) == b"0123456789"


def test_an_output_without_an_end_is_not_read_on() -> None:
    read: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number in itertools.count():
            read.append(number)
            yield b"x" * 4

    session: Any = SimpleNamespace(output=lambda _step, _stream: blocks())
    step: Any = None
    assert sum(map(len, _whole(session, step, "stdout", b"", 10))) == 10
    assert read == [0, 1, 2]
