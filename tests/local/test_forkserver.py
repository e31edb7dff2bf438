"""The fork server: what it starts is ours, inside its cgroup, and given what was asked for."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.cgroup_mounts import memberships, mounts
from pytest_arl.backends.local.forkserver import Child, ForkServer, NoForkServer
from pytest_arl.backends.local.probe import probe
from tests.local.conftest import AS_ROOT, EXPECTED_TIER
from tests.waiting import until

SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass
class Place:
    """A cgroup of version 2, and a server that may start something in it."""

    server: ForkServer
    folder: Path

    def spawn(self, *argv: str, descriptors: tuple[int, ...] = (), stderr: int | None = None) -> spawner.SpawnedProcess:
        cgroup = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            start = partial(self.server.spawn, argv, descriptors, null if stderr is None else stderr, cgroup)
            return spawner.carry_out(start)
        finally:
            os.close(cgroup)
            os.close(null)


def divisible() -> Path | None:
    """A folder of version 2 in which this user may make cgroups, and place processes."""
    found = probe().hierarchies
    if found is not None and found.version == 2:
        return found.folders["memory"]
    for mount in mounts(Path("/proc")):
        if mount.kind == "cgroup2" and AS_ROOT and not mount.read_only:
            return mount.point
    return None


@pytest.fixture
def place() -> Iterator[Place]:
    parent = divisible()
    if parent is None and not EXPECTED_TIER:
        pytest.skip("no cgroup of version 2 can be made here by this user")
    assert parent is not None
    found = probe().hierarchies
    server = found.server if found is not None and found.server is not None else ForkServer.start()
    folder = parent / f"arl-test-{secrets.token_hex(4)}"
    folder.mkdir()
    yield Place(server, folder)
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
    folder.rmdir()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_what_it_starts_is_in_the_cgroup_and_a_child_of_ours_as_if_we_had_forked_it(place: Place) -> None:
    reader, writer = os.pipe()
    process = place.spawn("/bin/sleep", "60", descriptors=(writer,))
    os.close(writer)
    os.close(reader)
    assert str(process.pid) in (place.folder / "cgroup.procs").read_text().split()
    assert memberships(Path("/proc"), str(process.pid))[""].endswith(place.folder.name)
    found = status(process.pid)
    assert int(found["PPid"]) == os.getpid()
    assert found["Umask"] == "0022"
    assert int(found["SigIgn"], 16) == 0
    assert os.getsid(process.pid) == process.pid
    assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
    # The loader has a library open for a moment.
    assert until(lambda: {int(number) for number in os.listdir(f"/proc/{process.pid}/fd")} == {0, 1, 2, writer})
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert [process.wait(20), process.returncode] == [-signal.SIGKILL] * 2
    process.kill()  # nobody by now


def test_descriptors_have_the_numbers_asked_for_whatever_the_servers_are(place: Place) -> None:
    """The server gets them under the lowest free numbers, which are others' wanted ones."""
    pipes = [os.pipe() for _ in range(40)]
    try:
        wanted = [fcntl.fcntl(writer, fcntl.F_DUPFD, 10 + number % 7) for number, (_, writer) in enumerate(pipes)]
        wanted.reverse()
        program = "import os, sys\nfor word in sys.argv[1:]: os.write(int(word), word.encode())"
        words = [str(number) for number in wanted]
        assert place.spawn(sys.executable, "-c", program, *words, descriptors=tuple(wanted)).wait(60) == 0
        for (reader, _), number in zip(pipes, reversed(wanted), strict=True):
            assert os.read(reader, 100) == str(number).encode()
    finally:
        for reader, writer in pipes:
            os.close(reader)
            os.close(writer)
        for number in wanted:
            os.close(number)


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Callable[[int], list[int]]]:
    """Descriptors, each of a file of its own that is named after its place in the list."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []

    def opens(count: int) -> list[int]:
        opened.extend(os.open(tmp_path / str(place), os.O_CREAT | os.O_RDWR) for place in range(count))
        return opened

    yield opens
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_LISTING = """
import os, sys
for number in os.listdir("/proc/self/fd"):
    if os.path.exists("/proc/self/fd/" + number):  # the listing's own is gone
        print(number, os.readlink("/proc/self/fd/" + number).replace(" ", "_"), file=sys.stderr)
"""


# One packet holds 251 beside the cgroup's and standard error's.
@pytest.mark.parametrize("count", [251, 252, 504, 505, 1500])
def test_more_descriptors_than_a_message_may_bring_are_all_given(
    place: Place, many: Callable[[int], list[int]], count: int
) -> None:
    descriptors = many(count)
    said = os.memfd_create("said")
    argv = [sys.executable, "-I", "-S", "-c", _LISTING]
    assert place.spawn(*argv, descriptors=tuple(descriptors), stderr=said).wait(60) == 0
    seen = dict(line.split() for line in os.pread(said, 1 << 20, 0).decode().splitlines())
    os.close(said)

    assert {int(number): Path(path).name for number, path in seen.items() if int(number) > 2} == {
        number: str(place) for place, number in enumerate(descriptors)
    }


def test_what_came_of_a_request_that_was_given_up_is_not_the_next_ones(place: Place) -> None:
    control, null = place.server._control, os.open(os.devnull, os.O_RDONLY)
    before = len(os.listdir(f"/proc/{place.server.pid}/fd"))
    socket.send_fds(control, [b"0 7"], [null] * 3)
    assert control.recv(64) == b"0 0"
    assert len(os.listdir(f"/proc/{place.server.pid}/fd")) == before + 3, "control: the server has them"
    os.close(null)
    said = os.memfd_create("said")
    assert place.spawn("/bin/sh", "-c", "echo /proc/self/fd/* >&2", stderr=said).wait(20) == 0

    assert {Path(each).name for each in os.pread(said, 1000, 0).decode().split()} <= {"0", "1", "2", "3"}
    assert len(os.listdir(f"/proc/{place.server.pid}/fd")) == before
    os.close(said)


def test_a_server_without_a_number_left_says_so(place: Place, many: Callable[[int], list[int]]) -> None:
    descriptors = tuple(many(300))
    soft, hard = resource.prlimit(place.server.pid, resource.RLIMIT_NOFILE)
    try:
        for room in (50, 270):
            resource.prlimit(place.server.pid, resource.RLIMIT_NOFILE, (room, hard))
            with pytest.raises(OSError, match="Too many open files"):
                place.spawn("/bin/true", descriptors=descriptors)
    finally:
        resource.prlimit(place.server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert place.spawn("/bin/true", descriptors=descriptors).wait(20) == 0


def test_the_exit_code_is_the_programs(place: Place) -> None:
    assert place.spawn("/bin/sh", "-c", "exit 7").wait(20) == 7


def test_what_it_says_goes_where_it_was_told(place: Place) -> None:
    said = os.memfd_create("said")
    assert place.spawn("/bin/sh", "-c", "echo to stdout; echo to stderr >&2", stderr=said).wait(20) == 0
    assert os.pread(said, 100, 0) == b"to stderr\n"
    os.close(said)


def test_a_program_that_is_not_there_is_an_error_and_leaves_no_process(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.spawn("/nowhere/program")
    assert (place.folder / "cgroup.procs").read_text() == ""
    assert place.spawn("/bin/true").wait(20) == 0, "the next one is started"


def test_a_descriptor_that_is_none_is_an_error_of_that_start_alone(place: Place) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        place.spawn("/bin/true", stderr=-3)
    assert place.server.alive
    assert place.spawn("/bin/true").wait(20) == 0


def test_a_folder_that_is_no_cgroup_is_an_error(tmp_path: Path) -> None:
    server = ForkServer.start()
    try:
        with pytest.raises(OSError) as caught:
            Place(server, tmp_path).spawn("/bin/true")
        assert caught.value.errno in (errno.EBADF, errno.ENOSYS)
        assert server.alive
    finally:
        server.close()


def test_a_server_that_is_just_answering_is_alive(tmp_path: Path) -> None:
    """Asked by another thread than the one that waits for the answer."""
    server = ForkServer.start()
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    socket.send_fds(server._control, [b"0\0/bin/true"], [folder, folder])
    os.close(folder)
    poll = select.poll()
    poll.register(server._control, select.POLLIN)
    assert poll.poll(60_000), "control: an answer is there to be read"
    assert server.alive
    server.close()


def test_a_server_that_was_killed_is_told_and_not_waited_for(place: Place) -> None:
    server = ForkServer.start()
    alive = [server.alive]
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"fork server|Broken pipe"):
        Place(server, place.folder).spawn("/bin/true")
    assert [*alive, server.alive] == [True, False]
    server.close()
    server.close()


def gone(pid: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


START = """
import os, signal, sys
from pytest_arl.backends.local.forkserver import ForkServer
server = ForkServer.start()
print(server.pid, flush=True)
"""


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + body],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )


@pytest.mark.parametrize(
    "body",
    [
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "if os.fork(): os.kill(os.getpid(), signal.SIGKILL)\nelse: os.close(1); sys.stdin.read()",  # a child lives on
    ],
)
def test_a_server_ends_with_its_owner_however_that_ends(body: str) -> None:
    process = start(f"sys.stdin.readline()\n{body}")
    assert process.stdout
    assert process.stdin
    pid = int(process.stdout.readline())
    assert not gone(pid, 0.2), "control: it lives as long"
    process.stdin.write("go\n")
    process.stdin.flush()
    process.wait(60)
    assert gone(pid)
    process.communicate()


def test_a_forked_child_leaves_its_parents_server_alone() -> None:
    process = start(
        "pid = os.fork()\nif pid == 0: print(server.alive, flush=True); sys.exit()\n"
        "os.waitpid(pid, 0)\nprint(server.alive, flush=True)\n"
    )
    said, _ = process.communicate(timeout=60)
    assert said.split()[1:] == ["False", "True"]
    assert process.returncode == 0


def test_a_command_before_it_that_fails_is_quoted() -> None:
    with pytest.raises(NoForkServer, match=r"^No such luck$"):
        ForkServer.start(["/bin/sh", "-c", "echo first >&2; echo No such luck >&2; exit 3"])


def test_a_command_before_it_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    before = time.monotonic()
    with pytest.raises(NoForkServer, match="no answer within"):
        ForkServer.start(
            ["/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], seconds=1.0, begun=lambda _: False
        )
    assert time.monotonic() - before < 30
    assert gone(int((tmp_path / "pid").read_text()))


def test_once_the_command_before_it_has_done_its_part_python_may_take_its_time() -> None:
    server = ForkServer.start(
        ["/bin/sh", "-c", 'sleep 1; exec "$@"', "sh"], {"PATH": os.environ["PATH"]}, seconds=0.1, begun=lambda _: True
    )
    assert server.alive
    server.close()


def test_what_the_command_before_it_left_open_is_closed() -> None:
    """A sandbox would have it."""
    leave = ["/bin/sh", "-c", 'exec 3</etc/passwd; exec "$@"', "sh"]
    server = ForkServer.start(leave)
    try:
        opened = {os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()}
        assert any("socket" in name for name in opened), "control: its own are there"
        assert "/etc/passwd" not in opened
    finally:
        server.close()


def test_a_command_that_is_not_there_is_told() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoForkServer, match=r"/nowhere/systemd-run: No such file"):
        ForkServer.start(["/nowhere/systemd-run"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_starting_and_ending_leaves_no_descriptor() -> None:
    ForkServer.start().close()
    before = len(os.listdir("/proc/self/fd"))
    ForkServer.start().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_is_waited_for_once_however_many_ask() -> None:
    child = Child(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {}))
    assert [child.wait(20), child.wait(20), child.returncode] == [5, 5, 5]
    child.kill()  # of nobody
