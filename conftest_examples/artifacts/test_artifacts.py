"""Files and folders copied out of the sandbox, byte for byte."""

import io
import zipfile
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, TaskResult


def test_a_file_is_read_without_a_copy_on_disk(build_sandbox: SandboxSession, build: TaskResult) -> None:
    assert build_sandbox.read_text("site/index.html") == "<h1>report</h1>"

    archive = zipfile.ZipFile(io.BytesIO(build_sandbox.read("site.zip")))
    assert archive.namelist() == ["site/index.html"]


def test_a_folder_is_downloaded_with_its_modes(
    build_sandbox: SandboxSession, build: TaskResult, tmp_path: Path
) -> None:
    build_sandbox.download("site", tmp_path / "site")

    assert (tmp_path / "site" / "img" / "dot.bin").read_bytes() == bytes(range(256))
    assert (tmp_path / "site" / "serve.sh").stat().st_mode & 0o777 == 0o755


def test_the_output_of_a_step_can_be_streamed_to_a_file(
    build_sandbox: SandboxSession, build: TaskResult, tmp_path: Path
) -> None:
    log = tmp_path / "build.log"
    with log.open("wb") as file:
        file.writelines(build_sandbox.output(build.step("build"), "stdout"))
    assert log.stat().st_size == build.step("build").stdout_size == 100_001


def test_a_missing_artifact_is_an_ordinary_error(build_sandbox: SandboxSession, build: TaskResult) -> None:
    with pytest.raises(FileNotFoundError, match=r"site/missing\.html"):
        build_sandbox.read("site/missing.html")
