"""A client that reaches the API server and nothing else of the cluster: a network namespace with one relay in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_arl.cluster.pod import PORT
from tests.cluster.clients import cutting, rewritten, run_client
from tests.cluster.installation import Installation

_RELAY = """
    import os, select, socket, sys, threading
    os.system("ip link set lo up")
    def carry(one, other):
        try:
            while data := one.recv(262144): other.sendall(data)
        except OSError: pass
        for end in (one, other):
            try: end.shutdown(2)
            except OSError: pass
    def serve(server):
        while True:
            client, _ = server.accept()
            api = socket.socket(socket.AF_UNIX); api.connect({path!r})
            for pair in ((client, api), (api, client)):
                threading.Thread(target=carry, args=pair, daemon=True).start()
    server = socket.create_server(("127.0.0.1", {port}))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
"""


class Outpost:
    """A place from where only the API server is reached."""

    PORT = 16999

    def __init__(self, found: Installation, pool: str, folder: Path, path: str) -> None:
        self.installation = found
        self.folder = folder
        self._head = dedent(_RELAY.format(path=path, port=self.PORT)) + dedent(f"""
            import hashlib, re, time
            FOLDER = {str(folder)!r}
            from pathlib import Path
            from pytest_arl import SandboxSession
            session = SandboxSession({pool!r}, namespace={found.namespace!r}, backend="kubernetes")
            def high_water(status):
                return int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024
        """)

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        config = rewritten(self.folder / "config", server=f"https://127.0.0.1:{self.PORT}")
        done = run_client(self._head + dedent(code), config=config, wrap=("unshare", "--net"), timeout=170)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def outpost(installation: Installation, python_pool: str, tmp_path: Path) -> Iterator[Outpost]:
    """Runs a client's program where only the API server is."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, unshare and ip")
    path = str(tmp_path / "api.socket")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    with cutting(server):
        yield Outpost(installation, python_pool, tmp_path, path)


def test_a_pod_is_not_reached_from_there(outpost: Outpost) -> None:
    """What makes the other tests mean something."""
    done = outpost.run(f"""
        with session:
            session.run("true").check()
            address = session._held().sandbox.held.mail.latest["status"]["podIP"]
            try:
                socket.create_connection((address, {PORT}), timeout=3)
            except OSError as error:
                print("not reached")
    """)
    assert done.stdout == "not reached\n"


def test_1_mb_of_output_comes_back_complete_and_binary_output_exact(outpost: Outpost) -> None:
    done = outpost.run("""
        with session:
            text = session.run("seq", "-w", "150000").check()
            assert len(text.stdout) == 7 * 150000 and not text.truncated
            assert text.stdout.splitlines() == [f"{n:06}" for n in range(1, 150001)]
            code = "import os, random; data = random.Random(5).randbytes(1 << 20); os.write(1, data[:70000]); os.write(2, data)"
            raw = session.run("python3", "-c", code).check()
            import random
            data = random.Random(5).randbytes(1 << 20)
            assert raw.stdout_bytes == data[:70000]
            assert raw.stderr_bytes == data
            print(raw.stdout_size, raw.stderr_size)
    """)
    assert done.stdout == "70000 1048576\n"


def test_100_mb_go_in_and_come_out_in_bounded_memory(outpost: Outpost) -> None:
    done = outpost.run(
        """
        here, back = Path(FOLDER, "here"), Path(FOLDER, "back")
        import os
        block = os.urandom(1 << 20)
        with here.open("wb") as file:
            for n in range(100): file.write(n.to_bytes(4) + block[4:])
        with session:
            session.run("true").check()
            Path("/proc/self/clear_refs").write_text("5")
            before = high_water(Path("/proc/self/status").read_text())
            began = time.monotonic()
            session.upload(here, "file")
            up = time.monotonic(); session.download("file", back); down = time.monotonic()
            grown = high_water(Path("/proc/self/status").read_text()) - before
            agent = high_water(session.run("cat", "/proc/1/status").check().stdout)
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (here, back)]
            assert digests[0] == digests[1] == session.run("sha256sum", "file").check().stdout.split()[0]
            assert grown < 64 << 20, grown
            assert agent < 64 << 20, agent
            print(f"in {up - began:.1f} s, out {down - up:.1f} s, grown {grown >> 20} MiB, agent {agent >> 20} MiB", file=sys.stderr)
        here.unlink(); back.unlink()
        print("exact")
    """
    )
    assert done.stdout == "exact\n"
    print(done.stderr)


def test_a_background_process_is_written_to_and_its_output_read(outpost: Outpost) -> None:
    done = outpost.run("""
        with session:
            process = session.start("python3", "-u", "-c", "for line in open(0): print(line.strip()[::-1])")
            for word in ("abc", "def"):
                process.write(word.encode() + b"\\n")
                deadline = time.monotonic() + 20
                while word[::-1] not in process.stdout:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            assert process.poll() is None
            process.close_stdin()
            print(process.wait(20).stdout.split())
    """)
    assert done.stdout == "['cba', 'fed']\n"


def test_output_comes_while_its_step_runs(outpost: Outpost) -> None:
    done = outpost.run("""
        heard = []
        step = {"type": "Command", "command": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 2; done"]}
        with session:
            session.execute([step], on_output=lambda _s, _n, data: heard.append(data)).check()
        assert b"".join(heard) == b"1\\n2\\n3\\n"
        assert len(heard) > 1, heard
        print("live")
    """)
    assert done.stdout == "live\n"
