"""What is left in the cluster by clients that end: well, badly, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_arl import SandboxSession
from pytest_arl.hooks import close_backends
from tests.cluster.clients import run_client
from tests.cluster.installation import Installation, pool
from tests.waiting import until

LEASE_SECONDS = 60


def of_run(found: Installation, run: str) -> dict[str, list[str]]:
    """Names of what carries a run's label, by kind, where there is any."""
    kinds = ("sandboxes", "tasks", "leases")
    selected = {kind: found.get(kind, "-l", f"arl.infra.io/run={run}")["items"] for kind in kinds}
    return {kind: [item["metadata"]["name"] for item in items] for kind, items in selected.items() if items}


def pods_of(found: Installation, sandboxes: list[str]) -> list[str]:
    """Pods that belong to these sandboxes."""
    owned = []
    for item in found.get("pods")["items"]:
        owners = [owner["name"] for owner in item["metadata"].get("ownerReferences") or ()]
        owned += [item["metadata"]["name"]] * bool(set(owners) & set(sandboxes))
    return owned


HOLD = """
    import sys, time
    from pytest_arl import SandboxSession

    def test_hold(arl_sandbox, arl_sandbox_factory):
        many = [arl_sandbox_factory() for _ in range({many} - 1)]
        for sandbox in many:
            sandbox.run("echo", "hello").check()
        open("ready", "w").close()
        time.sleep(600)
"""


def test_after_kill_9_of_pytest_with_20_sandboxes_nothing_is_left_once_its_lease_is_over(
    installation: Installation, tmp_path: Path
) -> None:
    """Done by the operator: the process that was killed says nothing any more."""
    many = 20
    installation.apply(pool("crowd", installation.images["python"], replicas=4))
    (tmp_path / "test_hold.py").write_text(dedent(HOLD.format(many=many)))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = f"killed-{os.getpid()}"
    command = [sys.executable, "-m", "pytest", "-q", "--arl-backend", "kubernetes", "--arl-pool", "crowd"]
    process = subprocess.Popen(
        [*command, "--arl-namespace", installation.namespace],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_XDIST_TESTRUNUID": run, "PYTEST_XDIST_WORKER": "main"},
    )
    try:
        assert until(lambda: (tmp_path / "ready").exists() or process.poll() is not None, 180, every=0.5)
        assert process.poll() is None
        before = of_run(installation, run)
        pods = pods_of(installation, before["sandboxes"])
        assert (len(before["sandboxes"]), len(before["leases"]), len(pods)) == (many, 1, many), "control"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = time.monotonic()
    time.sleep(20)
    assert len(of_run(installation, run)["sandboxes"]) == many, "control: while it lasts, they stay"

    assert until(lambda: not of_run(installation, run), LEASE_SECONDS + 40, every=0.5), of_run(installation, run)
    assert until(lambda: not pods_of(installation, before["sandboxes"]), 30, every=0.5)
    assert time.monotonic() - killed < LEASE_SECONDS + 60
    installation.kubectl("delete", "warmpool", "crowd")


@pytest.mark.parametrize("end", ["well", "sys.exit", "exception", "SIGTERM", "SIGINT"])
def test_a_client_that_ends_otherwise_leaves_nothing_at_once(
    installation: Installation, python_pool: str, end: str
) -> None:
    run = f"ended-{end.lower().replace('.', '-')}-{os.getpid()}"
    code = f"""
        import os, signal, sys
        from pytest_arl import SandboxSession
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        def make():
            session = SandboxSession({python_pool!r}, namespace={installation.namespace!r}, backend="kubernetes")
            session.create_sandbox()
            assert session.run("echo", "hi").stdout == "hi\\n"
            return session
        one, other = make(), make()
        print("made", flush=True)
        end = {end!r}
        if end == "sys.exit": sys.exit(3)
        if end == "exception": raise RuntimeError
        if end.startswith("SIG"): os.kill(os.getpid(), getattr(signal, end)); import time; time.sleep(30)
    """
    done = run_client(dedent(code), PYTEST_XDIST_TESTRUNUID=run)
    assert done.stdout == "made\n", done.stderr
    assert until(lambda: not of_run(installation, run), 10, every=0.5), of_run(installation, run)


def test_a_session_that_is_closed_takes_its_sandbox_along_while_its_process_goes_on(
    installation: Installation, python_pool: str
) -> None:
    def there(name: str) -> bool:
        return bool(installation.kubectl("get", "sandbox", name, "-o", "name", "--ignore-not-found").stdout)

    with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
        session.run("true").check()
        assert there(session.name), "control"
        lease = installation.get("sandbox", session.name)["metadata"]["ownerReferences"][0]["name"]
    assert until(lambda: not there(session.name), 10, every=0.5)
    assert installation.get("lease", lease), "control: this process has not ended, nor has its lease"


def test_what_is_kept_outlives_its_process_and_nothing_else_does(installation: Installation, python_pool: str) -> None:
    run = f"kept-{os.getpid()}"
    code = f"""
        from pytest_arl import SandboxSession
        options = dict(namespace={installation.namespace!r}, backend="kubernetes")
        with SandboxSession({python_pool!r}, keep_alive=True, idle_timeout=600, **options) as kept:
            kept.run("touch", "file").check()
        other = SandboxSession({python_pool!r}, **options)
        other.create_sandbox()
        print(kept.name)
    """
    done = run_client(dedent(code), PYTEST_XDIST_TESTRUNUID=run)
    name = done.stdout.strip()
    assert name, done.stderr
    try:
        assert until(lambda: of_run(installation, run).get("sandboxes") == [name], 10, every=0.5), of_run(
            installation, run
        )
        assert "leases" not in of_run(installation, run)
        time.sleep(2)
        found = installation.get("sandbox", name)
        assert found["status"]["phase"] == "Ready"
        assert found["spec"]["idleTimeoutSeconds"] == 600
    finally:
        installation.kubectl("delete", "sandbox", name)


def test_a_forked_child_neither_uses_nor_ends_its_parents_sandbox(installation: Installation, python_pool: str) -> None:
    code = f"""
        import os
        from pytest_arl import SandboxClosed, SandboxSession
        with SandboxSession({python_pool!r}, namespace={installation.namespace!r}, backend="kubernetes") as session:
            session.write("file", "content")
            child = os.fork()
            if child == 0:
                try:
                    session.run("true")
                except SandboxClosed:
                    pass
                else:
                    os._exit(1)
                with SandboxSession({python_pool!r}, namespace={installation.namespace!r}, backend="kubernetes") as own:
                    assert own.run("echo", "child").stdout == "child\\n"
                raise SystemExit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert session.read("file") == b"content"
            print("well")
    """
    done = run_client(dedent(code))
    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr


def test_closing_leaves_no_thread_and_no_descriptor_behind(installation: Installation, python_pool: str) -> None:
    import threading

    def live() -> None:
        with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
            session.write("file", "content")
            session.run("seq", "100000").check()
        close_backends()

    live()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        live()
    assert until(lambda: threading.active_count() <= threads, 5, every=0.5), threading.enumerate()
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2, 5, every=0.5)


def test_every_object_names_its_run_worker_test_and_version(installation: Installation, python_pool: str) -> None:
    test = "tests/test_a.py::TestLong::test_" + "x" * 80
    labels = {"test": test, "scope": "function"}
    with SandboxSession(
        python_pool, namespace=installation.namespace, backend="kubernetes", labels=labels, keep_alive=False
    ) as session:
        session.run("true").check()
        found = installation.get("sandbox", session.name)
        # By Lease: another worker of this run may be using the namespace too.
        mine = f"arl.infra.io/lease={found['metadata']['labels']['arl.infra.io/lease']}"
        tasks, leases = installation.get("tasks", "-l", mine), installation.get("leases", "-l", mine)
    own = found["metadata"]["labels"]
    assert found["spec"]["holder"]["test"] == test
    assert own["arl.infra.io/test"].startswith("x" * 40)
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Lease"
    for other in (*tasks["items"], *leases["items"]):
        for name in ("run", "worker", "version", "lease"):
            assert other["metadata"]["labels"][f"arl.infra.io/{name}"] == own[f"arl.infra.io/{name}"]
    assert tasks["items"]
    assert leases["items"]
