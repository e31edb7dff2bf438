"""Connections break: nothing is lost by it, nothing comes twice, nothing is run again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import SandboxLost, SandboxSession
from pytest_arl.hooks import close_backends
from pytest_arl.settings import override
from tests.cluster.clients import Cutter, cutter, rewritten
from tests.cluster.installation import Installation


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Cutter]:
    """The way to the API server that this process has, for the test to cut."""
    with cutter() as found:
        config = rewritten(tmp_path / "config", server=found.url)
        close_backends()
        with override({"kubeconfig": config}, "a test"):
            yield found
        close_backends()


@pytest.fixture
def sandbox(way: Cutter, installation: Installation, python_pool: str) -> Iterator[SandboxSession]:
    with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
        yield session


def command(*argv: str, **more: Any) -> dict[str, Any]:
    return {"type": "Command", "command": list(argv), **more}


def later(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_a_result_comes_though_every_connection_is_cut_while_the_task_runs(
    way: Cutter, sandbox: SandboxSession
) -> None:
    cut: list[int] = []
    for moment in (0.05, 0.3, 0.6):
        later(moment, lambda: cut.append(way.cut()))
    result = sandbox.run("sh", "-c", "echo ran >> log; sleep 1; wc -l < log")
    assert (result.stdout, result.ok) == ("1\n", True)
    assert sum(cut) >= 2, "control: there were connections to cut"


def test_a_result_comes_though_the_cluster_is_away_when_the_task_ends(way: Cutter, sandbox: SandboxSession) -> None:
    def close() -> None:
        way.closed = True
        way.cut()

    def reopen() -> None:
        way.closed = False

    later(0.3, close)
    later(3.0, reopen)
    began = time.monotonic()
    assert sandbox.run("sh", "-c", "sleep 1; echo done").stdout == "done\n"
    assert 2.5 < time.monotonic() - began < 15, "control: nothing came meanwhile"


def test_a_watch_whose_version_is_too_old_is_read_anew(way: Cutter, sandbox: SandboxSession) -> None:
    client: Any = sandbox._held().sandbox.held.client  # type: ignore[attr-defined]  # looks inside

    def expire() -> None:
        client.tasks._version = "1"
        way.cut()

    assert sandbox.run("true").ok
    later(0.3, expire)
    assert sandbox.run("sh", "-c", "sleep 1; echo done").stdout == "done\n"
    assert int(client.tasks._version) > 1


def test_live_output_comes_once_though_its_connection_is_cut_again_and_again(
    way: Cutter, sandbox: SandboxSession
) -> None:
    heard: list[bytes] = []
    cuts: list[int] = []

    def on_output(_step: str, _stream: str, data: bytes) -> None:
        heard.append(data)
        if len(cuts) < 5 and b"".join(heard).count(b"\n") > 40 * (len(cuts) + 1):
            cuts.append(way.cut())

    code = "import time\nfor n in range(400): print(f'{n:05}', flush=True); time.sleep(0.01)"
    result = sandbox.execute([command("python3", "-c", code), command("echo", "end")], on_output=on_output)
    assert len(cuts) == 5
    assert sum(cuts) >= 5, "control: connections were cut"
    expected = "".join(f"{n:05}\n" for n in range(400))
    assert b"".join(heard).decode() == expected + "end\n"
    assert [step.stdout for step in result.check().steps] == [expected, "end\n"]


def test_files_arrive_whole_though_their_connection_is_cut_in_the_middle(
    way: Cutter, sandbox: SandboxSession, tmp_path: Path
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    here.write_bytes(random.Random(1).randbytes(30_000_000))
    copies: list[Callable[[], object]] = [
        lambda: sandbox.upload(here, "there"),
        lambda: sandbox.download("there", back),
    ]
    for copy in copies:
        start = way.carried
        cuts: list[int] = []

        def cut_in_the_middle(start: int = start, cuts: list[int] = cuts) -> None:
            while way.carried < start + 10_000_000:
                time.sleep(0.001)
            cuts.append(way.cut())

        thread = threading.Thread(target=cut_in_the_middle)
        thread.start()
        copy()
        thread.join()
        assert cuts, "control"
    assert back.read_bytes() == here.read_bytes()
    assert sandbox.run("ls").stdout == "there\n", "nothing half-done is left"


def test_a_background_process_outlives_the_connection(way: Cutter, sandbox: SandboxSession) -> None:
    process = sandbox.start("cat")
    words = [f"{number} ".encode() for number in range(20)]
    for word in words:
        process.write(word)
        way.cut()  # noticed before the next write, during it, or after it
    process.close_stdin()
    assert process.wait(20).stdout_bytes == b"".join(words), "each once, in order"


def test_a_pod_that_goes_away_is_sandbox_lost_that_says_so(installation: Installation, sandbox: SandboxSession) -> None:
    pod = installation.get("sandbox", sandbox.name)["status"]["podName"]
    later(1, lambda: installation.kubectl("delete", "pod", pod, "--grace-period=0", "--force"))
    began = time.monotonic()
    with pytest.raises(SandboxLost) as caught:
        sandbox.execute([command("echo", "first"), command("sleep", "60")])
    assert time.monotonic() - began < 20
    assert "\n" not in str(caught.value)
    assert caught.value.result is not None
    assert caught.value.result.steps[0].stdout == "first\n", "what was known of it is kept"
    with pytest.raises(SandboxLost):
        sandbox.run("true")


def test_a_pod_that_goes_away_while_its_output_is_watched_is_sandbox_lost_too(
    installation: Installation, sandbox: SandboxSession
) -> None:
    pod = installation.get("sandbox", sandbox.name)["status"]["podName"]
    heard: list[bytes] = []

    def on_output(_step: str, _stream: str, data: bytes) -> None:
        if not heard:
            later(0, lambda: installation.kubectl("delete", "pod", pod, "--grace-period=0", "--force"))
        heard.append(data)

    began = time.monotonic()
    with pytest.raises(SandboxLost) as caught:
        sandbox.execute([command("sh", "-c", "echo first; sleep 60")], on_output=on_output)
    assert time.monotonic() - began < 30
    assert caught.value.result is not None
    assert caught.value.result.steps[0].stdout == "first\n"


def test_a_sandbox_that_somebody_deletes_is_sandbox_lost(installation: Installation, sandbox: SandboxSession) -> None:
    later(0.5, lambda: installation.kubectl("delete", "sandbox", sandbox.name, "--wait=false"))
    with pytest.raises(SandboxLost, match="deleted"):
        sandbox.run("sleep", "60")
    assert not sandbox.is_open
