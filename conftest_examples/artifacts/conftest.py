"""A build with artifacts: one sandbox for the module, built once."""

import pytest

from pytest_arl import SandboxSession, TaskResult, sandbox_fixture

build_sandbox = sandbox_fixture(pool_ref="python-39-std", scope="module")

BUILD = """
import pathlib, zipfile
site = pathlib.Path("site")
(site / "img").mkdir(parents=True)
(site / "index.html").write_text("<h1>report</h1>")
(site / "img" / "dot.bin").write_bytes(bytes(range(256)))
(site / "serve.sh").write_text("#!/bin/sh\\n")
(site / "serve.sh").chmod(0o755)
with zipfile.ZipFile("site.zip", "w") as archive:
    archive.write(site / "index.html")
print("x" * 100_000)
"""


@pytest.fixture(scope="module")
def build(build_sandbox: SandboxSession) -> TaskResult:
    return build_sandbox.execute(
        [
            {"name": "script", "type": "FilePatch", "path": "build.py", "content": BUILD},
            {"name": "build", "type": "Command", "command": ["python3", "build.py"]},
        ]
    ).check()
