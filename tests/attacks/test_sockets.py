"""Sockets of this machine that lie in what a sandbox is shown, or come to lie there."""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_arl import BackendUnavailable
from pytest_arl.backends.base import BackendSandbox
from pytest_arl.backends.local import LocalBackend, sockets
from pytest_arl.settings import Settings
from tests.local.conftest import acquire, run

MakeSocket = Callable[..., Path]
MakeRun = Callable[..., LocalBackend]

KERNEL_DENIES = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 9
"""Landlock's interface, by its number."""
_CONNECT = """
import socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        with socket.socket(socket.AF_UNIX, kind) as one:
            one.connect(sys.argv[1])
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
_OWN = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    if os.fork() == 0:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(sys.argv[1])
        os._exit(0)
    server.accept()[0].close()
    print("connected" if os.wait()[1] == 0 else "failed")
"""


@pytest.fixture
def make_socket() -> Iterator[MakeSocket]:
    """Makes sockets that anybody may connect to, and that are gone with the test."""
    made: list[tuple[socket.socket, Path]] = []

    def make(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Path:
        one = socket.socket(socket.AF_UNIX, kind)
        made.append((one, path))
        one.bind(str(path))
        path.chmod(0o777)
        if kind is socket.SOCK_STREAM:
            one.listen()
        return path

    yield make
    for one, path in made:
        one.close()
        path.unlink(missing_ok=True)


@pytest.fixture
def in_environment() -> Path:
    """A path in the Python environment, which sandboxes are shown."""
    folder = Path(sys.prefix).resolve() / "lib"
    if not os.access(folder, os.W_OK):
        pytest.skip(f"{folder} belongs to somebody else")
    return folder / f"arl-{secrets.token_hex(4)}"


@pytest.fixture
def make_run(tier: str, tmp_path: Path) -> Iterator[MakeRun]:
    """Makes one run's backend out of the keys of its one pool, in TOML."""
    made: list[LocalBackend] = []

    def make(keys: str = "") -> LocalBackend:
        path = tmp_path / f"pools-{len(made)}.toml"
        path.write_text(f"[pools.p]\n{keys}\n")
        made.append(LocalBackend(Settings.build(cli={"pools_file": str(path)}, start_dir=tmp_path)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def reached(sandbox: BackendSandbox, path: Path | str) -> bool:
    return "connected" in run(sandbox, "python3", "-c", _CONNECT, str(path)).stdout.split()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("warm", [0, 1])
def test_a_socket_that_appears_in_a_mount_is_an_error_of_the_next_sandbox(
    make_run: MakeRun, tmp_path: Path, make_socket: MakeSocket, kind: socket.SocketKind, warm: int
) -> None:
    (tmp_path / "data/sub").mkdir(parents=True)
    backend = make_run(f'warm = {warm}\nmounts = ["{tmp_path}/data:/data"]')
    first = acquire(backend, "p")
    path = make_socket(tmp_path / "data/sub/s", kind)
    assert reached(first, "/data/sub/s") != KERNEL_DENIES, "one that runs already: as the docs say"
    for _ in range(2):
        with pytest.raises(
            BackendUnavailable, match=rf"mount '{tmp_path}/data:/data': {path} is a socket.*: remove it"
        ):
            acquire(backend, "p")
    path.unlink()
    assert not reached(acquire(backend, "p"), "/data/sub/s")


def test_a_socket_that_appears_in_a_root_folder_is_an_error_of_the_next_sandbox(
    make_run: MakeRun, tmp_path: Path, make_socket: MakeSocket
) -> None:
    root = tmp_path / "root"
    for name in ("bin", "opt"):
        (root / name).mkdir(parents=True)
    backend = make_run(f'root = "{root}"')
    acquire(backend, "p").close()
    path = make_socket(root / "opt/s")
    with pytest.raises(BackendUnavailable, match=rf"root '{root}': {path} is a socket"):
        acquire(backend, "p")
    path.unlink()
    acquire(backend, "p").close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_in_the_environment_is_not_reached(
    make_run: MakeRun, in_environment: Path, make_socket: MakeSocket, kind: socket.SocketKind
) -> None:
    before, later = in_environment.with_suffix(".a"), in_environment.with_suffix(".b")
    make_socket(before, kind)
    backend = make_run()
    first = acquire(backend, "p")
    assert not reached(first, before)
    make_socket(later, kind)
    second = acquire(backend, "p")
    for path in (before, later):
        assert not reached(second, path)
        with socket.socket(socket.AF_UNIX, kind) as control:
            control.connect(str(path))
    assert run(second, "ls", str(in_environment.parent)).exit_code == 0
    assert reached(first, later) != KERNEL_DENIES, "one that runs already: as the docs say"


def test_a_warm_sandbox_that_sees_a_socket_is_not_handed_out(
    make_run: MakeRun, in_environment: Path, make_socket: MakeSocket
) -> None:
    backend = make_run("warm = 1")
    acquire(backend, "p").close()
    make_socket(in_environment)
    assert not any(reached(acquire(backend, "p"), in_environment) for _ in range(3))


def test_a_sandbox_reaches_its_own_sockets_and_moves_files_as_before(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    sandbox = acquire(make_run(f'mounts = ["{tmp_path}/shared:/shared:rw"]'), "p")
    for folder in ("/workspace", "/tmp", "/shared"):
        said = run(sandbox, "python3", "-c", _OWN, f"{folder}/s").stdout
        assert said == "connected\n"
        script = f"mkdir {folder}/a {folder}/b && touch {folder}/a/f && mv {folder}/a/f {folder}/b/ && ls {folder}/b"
        assert run(sandbox, "sh", "-c", script).stdout == "f\n"


def test_what_is_bound_here_is_known_by_both_ways(tmp_path: Path, make_socket: MakeSocket) -> None:
    made = {str(make_socket(tmp_path / "stream")), str(make_socket(tmp_path / "datagram", socket.SOCK_DGRAM))}
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(tmp_path / "stream"))
        assert made <= set(sockets.bound_paths())
        assert {os.fsencode(path) for path in made} <= set(sockets._listed())


def test_a_name_in_which_lines_begin_hides_no_socket(tmp_path: Path, make_socket: MakeSocket) -> None:
    """Neither its own nor those that come after it; nor does one that fills all the room for a name."""
    names = ["a\nb", "c\rd \t", "e" * (107 - len(f"{tmp_path}/"))]
    paths = [str(make_socket(tmp_path / name)) for name in names]
    assert set(paths).issubset(sockets.bound_paths())
