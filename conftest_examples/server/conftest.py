"""A server in a sandbox of its own, started once for the module.

It takes no port of this machine: each sandbox has its own loopback interface, so any number of servers run side by
side.
"""

import time
from pathlib import Path

import pytest

from pytest_arl import Process, SandboxSession, sandbox_fixture

shelf_sandbox = sandbox_fixture(pool_ref="python-39-std", scope="module")


@pytest.fixture(scope="module")
def server(shelf_sandbox: SandboxSession) -> Process:
    shelf_sandbox.upload(Path(__file__).parent / "app", "app")
    process = shelf_sandbox.start("python3", "app/server.py")
    deadline = time.monotonic() + 30
    while "listening" not in process.stdout:
        assert process.poll() is None, process.wait(0)
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.01)
    return process  # ends with its sandbox
