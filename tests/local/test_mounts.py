"""What a pool may show of this machine."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from pytest_arl.backends.local import LocalBackend, homes
from pytest_arl.errors import BackendUnavailable, UsageError
from tests.local.conftest import AS_ROOT, MakeBackend, acquire, needs_root, run, sh


def pool(*mounts: str) -> str:
    return f"[pools.p]\nmounts = {list(mounts)!r}\n"


@pytest.fixture
def project(folder: Path) -> Path:
    """A folder next to the pools file."""
    path = folder / "src"
    path.mkdir()
    (path / "file").write_text("content\n")
    return path


def refused(backend: LocalBackend, *words: str) -> str:
    with pytest.raises(UsageError) as caught:
        acquire(backend, "p")
    message = str(caught.value)
    assert message.startswith("pool 'p': mount ")
    assert len(message) < 400
    for word in words:
        assert word in message, message
    return message


def test_a_mount_is_read_only_unless_it_says_rw(make_backend: MakeBackend, project: Path) -> None:
    project.chmod(0o777)
    sandbox = acquire(make_backend(pool("src:/src")), "p")
    assert sh(sandbox, "cat /src/file") == "content\n"
    assert run(sandbox, "touch", "/src/new").exit_code == 1
    writable = acquire(make_backend(pool("src:/src:rw")), "p")
    assert run(writable, "touch", "/src/new").exit_code == 0
    assert (project / "new").exists()


def test_a_mount_may_lie_in_the_workspace(make_backend: MakeBackend, project: Path) -> None:
    sandbox = acquire(make_backend(pool("src:/workspace/lib/src")), "p")
    assert sh(sandbox, "touch mine lib/mine && cat lib/src/file") == "content\n"


def test_a_single_file_can_be_mounted(make_backend: MakeBackend, project: Path) -> None:
    assert sh(acquire(make_backend(pool("src/file:/data/here")), "p"), "cat /data/here") == "content\n"


def test_a_source_that_does_not_exist_is_named_with_where_it_was_looked_for(
    make_backend: MakeBackend, folder: Path
) -> None:
    refused(make_backend(pool("missing:/src")), str(folder / "missing"), "does not exist", str(folder))


def test_a_relative_source_stays_in_the_project(make_backend: MakeBackend, folder: Path, project: Path) -> None:
    (folder / "way-out").symlink_to("/usr")
    refused(make_backend(pool("way-out:/src")), "leads out of", "/usr")
    refused(make_backend(pool("src/../../..:/src")))
    acquire(make_backend(pool("/usr/share:/data")), "p")  # absolute paths are meant


@pytest.mark.parametrize("source", ["/", "/run", "/tmp", "/proc", "/sys/kernel", "/dev", "/proc/self/cwd", "/var/run"])
def test_folders_that_hold_everything_are_refused(
    make_backend: MakeBackend, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/tmp")
    refused(make_backend(pool(f"{source}:/src")))


def test_the_home_folder_and_what_is_above_it_are_refused(
    make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "homes/me"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for source in (home, home.parent):
        refused(make_backend(pool(f"{source}:/src")), "name a folder below it")
    acquire(make_backend(pool(f"{home}/project:/src")), "p")


@pytest.mark.parametrize("user", ["root", "person", "service", "nobody"])
def test_homes_of_the_machines_people_are_refused_and_folders_in_them_are_not(
    make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    home = folder / "homes/somebody"
    (home / "project").mkdir(parents=True)
    uid = {"root": 0, "person": 1000, "service": 999, "nobody": 65534}[user]
    (folder / "passwd").write_text(f"broken\nsomebody:x:{uid}:{uid}::{home}:/bin/sh\nno:x:one:1::/:/bin/sh\n")
    monkeypatch.setattr(homes, "_ACCOUNTS", str(folder / "passwd"))
    acquire(make_backend(pool(f"{home}/project:/src")), "p")
    for source in (home, home.parent, f"/{home}", f"{home}/project/.."):
        backend = make_backend(pool(f"{source}:/src"))
        if user in ("root", "person"):
            refused(backend, "name a folder below it")
        else:
            acquire(backend, "p")


@pytest.mark.parametrize("source", ["/home", "//home", "/root", "///root", "//run", "//", "//tmp/", "//etc/.."])
def test_the_folders_of_homes_are_refused_for_everybody(make_backend: MakeBackend, source: str) -> None:
    if not Path(source).exists():
        pytest.skip(f"no {source} here")
    refused(make_backend(pool(f"{source}:/src")), "name a folder below it")


def test_a_home_that_is_a_link_is_refused_where_it_leads(
    make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "disk/me/project").mkdir(parents=True)
    (folder / "homes").symlink_to("disk")
    (folder / "you").symlink_to("disk/me")
    (folder / "passwd").write_text(f"me:x:1000:1000::{folder}/homes/me:/bin/sh\n")
    monkeypatch.setattr(homes, "_ACCOUNTS", str(folder / "passwd"))
    for source in ("disk/me", "homes/me", "you", "disk"):
        refused(make_backend(pool(f"{source}:/src")), "name a folder below it")
    (folder / "passwd").write_text(f"you:x:1000:1000::{folder}/you:/bin/sh\n")
    refused(make_backend(pool("disk/me:/src")), "name a folder below it")
    acquire(make_backend(pool("disk/me/project:/src")), "p")


@needs_root
def test_a_home_of_somebody_whom_a_directory_service_knows_is_refused(
    make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "_TOPS", (str(folder),))
    for name, uid in (("theirs", 2_000_000), ("shared", 0)):
        (folder / name / "project").mkdir(parents=True)
        os.chown(folder / name, uid, uid)
    refused(make_backend(pool("theirs:/src")), "name a folder below it")
    acquire(make_backend(pool("theirs/project:/src")), "p")
    acquire(make_backend(pool("shared:/src")), "p")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/proc/x",
        "/dev",
        "/sys",
        "/workspace",
        "/tmp",
        "/home/arl",
        "/arl/agent",
        "/usr",
        "/lib64",
        "/etc",
        "//usr",
        "//proc/x",
        "///tmp",
        "/./usr/",
        "//",
        "//workspace//",
        "//arl/x",
    ],
)
def test_targets_that_are_the_sandboxes_own_are_refused(make_backend: MakeBackend, project: Path, target: str) -> None:
    refused(make_backend(pool(f"src:{target}")), os.path.normpath(target).replace("//", "/"))


def test_targets_have_one_spelling(make_backend: MakeBackend, folder: Path, project: Path) -> None:
    (folder / "other").mkdir()
    refused(make_backend(pool("src:/data", "other://data")), "another mount has the target /data")
    assert sh(acquire(make_backend(pool("src://data/here//")), "p"), "cat /data/here/file") == "content\n"


def test_a_target_through_a_link_of_the_sandbox_is_refused(make_backend: MakeBackend, project: Path) -> None:
    refused(make_backend(pool("src:/var/tmp")), "leads through /var/tmp", "symbolic link")
    for target in ("/var/temporary", "/var/tmp/below"):  # what the link leads to is the sandbox's own
        assert sh(acquire(make_backend(pool(f"src:{target}")), "p"), f"cat {target}/file") == "content\n"


def test_a_target_through_a_link_of_the_host_is_refused(make_backend: MakeBackend, project: Path) -> None:
    if not Path("/bin").is_symlink():
        pytest.skip("/bin is a folder here")
    refused(make_backend(pool("src:/bin/arl-test")), "symbolic link")


def test_nothing_is_made_on_the_host_for_a_mount_point(make_backend: MakeBackend, folder: Path, project: Path) -> None:
    (folder / "inner").mkdir()
    for outer in ("src:/src", "src:/src:rw"):
        project.chmod(0o777)
        refused(make_backend(pool(outer, "inner:/src/not/there")), "does not exist in", str(project / "not/there"))
    refused(make_backend(pool("inner:/usr/arl-not-there")), "does not exist in")
    assert sorted(path.name for path in project.iterdir()) == ["file"]
    (project / "there").mkdir()
    (folder / "inner/deep").write_text("deep\n")
    nested = acquire(make_backend(pool("src:/src", "inner:/src/there")), "p")
    assert sh(nested, "cat /src/there/deep") == "deep\n"


def test_a_link_inside_a_mount_is_never_followed_to_make_a_mount_point(
    make_backend: MakeBackend, folder: Path, project: Path
) -> None:
    outside = folder / "outside"
    outside.mkdir()
    (folder / "inner").mkdir()
    (project / "link").symlink_to("../outside")
    refused(make_backend(pool("src:/src", "inner:/src/link/new")), "symbolic link", str(project / "link"))
    assert list(outside.iterdir()) == []


def test_two_mounts_cannot_have_one_target(make_backend: MakeBackend, folder: Path, project: Path) -> None:
    (folder / "other").mkdir()
    refused(make_backend(pool("src:/src", "other:/src")), "another mount has the target /src")


def test_a_socket_or_fifo_in_a_mount_is_refused_by_name(make_backend: MakeBackend, project: Path) -> None:
    (project / "deep").mkdir()
    os.mkfifo(project / "deep/pipe")
    refused(make_backend(pool("src:/src")), str(project / "deep/pipe"), "FIFO")
    os.unlink(project / "deep/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(project)  # a socket's path may have 107 bytes only
        server.bind("service")
        os.chdir(here)
        refused(make_backend(pool("src:/src")), "service", "socket")
        refused(make_backend(pool("src/service:/service")), "neither a folder nor a regular file")
    os.unlink(project / "service")
    acquire(make_backend(pool("src:/src")), "p")


def test_a_writable_mount_keeps_version_control_read_only(make_backend: MakeBackend, project: Path) -> None:
    for name in (".git", "sub/.hg"):
        (project / name).mkdir(parents=True)
        (project / name).chmod(0o777)
    (project / "module").mkdir()
    (project / "module/.git").write_text("gitdir: elsewhere\n")
    (project / "module/.git").chmod(0o666)
    project.chmod(0o777)
    sandbox = acquire(make_backend(pool("src:/src:rw")), "p")
    assert run(sandbox, "touch", "/src/allowed").exit_code == 0
    for path in ("/src/.git/hook", "/src/sub/.hg/hook", "/src/module/.git"):
        assert run(sandbox, "touch", path).exit_code == 1, path
    assert run(sandbox, "mv", "/src/.git", "/src/moved").exit_code == 1


def test_more_repositories_than_descriptors_are_an_error_with_its_cure(
    make_backend: MakeBackend, project: Path
) -> None:
    for count in range(150):
        (project / f"r{count}/.git").mkdir(parents=True)
    project.chmod(0o777)
    backend = make_backend(pool("src:/src:rw"))
    acquire(make_backend("[pools.p]"), "p").close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in ("no plan can be made", "no sandbox can be started"):
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 200, hard))
        try:
            with pytest.raises(BackendUnavailable, match=r"`ulimit -n`"):
                acquire(backend, "p")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        acquire(backend, "p").close()


def test_a_repository_that_is_a_link_cannot_be_in_a_writable_mount(make_backend: MakeBackend, project: Path) -> None:
    (project / ".git").symlink_to("elsewhere")
    project.chmod(0o777)
    refused(make_backend(pool("src:/src:rw")), "symbolic link")


@needs_root
def test_as_root_a_mount_the_sandboxs_user_cannot_use_is_refused(make_backend: MakeBackend, project: Path) -> None:
    refused(make_backend(pool("src:/src:rw")), "cannot write", "chmod -R o+rwX")
    project.chmod(0o700)
    refused(make_backend(pool("src:/src")), "cannot read", "chmod -R o+rX")


@pytest.mark.skipif(AS_ROOT, reason="root's sandboxes run as somebody else")
def test_an_ordinary_users_own_folder_is_writable_as_it_is(make_backend: MakeBackend, project: Path) -> None:
    sandbox = acquire(make_backend(pool("src:/src:rw")), "p")
    assert run(sandbox, "touch", "/src/new").exit_code == 0
    assert (project / "new").stat().st_uid == os.getuid()


def test_files_of_other_users_stay_out_of_reach_in_a_mount(make_backend: MakeBackend, project: Path) -> None:
    (project / "secret").write_text("secret")
    (project / "secret").chmod(0o600 if AS_ROOT else 0o000)
    sandbox = acquire(make_backend(pool("src:/src")), "p")
    assert run(sandbox, "cat", "/src/file").exit_code == 0
    assert run(sandbox, "cat", "/src/secret").exit_code == 1


def test_a_sandbox_cannot_move_the_way_to_what_is_protected(
    make_backend: MakeBackend, folder: Path, project: Path
) -> None:
    (project / "a/b/.git").mkdir(parents=True)
    (project / "c/d").mkdir(parents=True)
    (project / "free").mkdir()
    (folder / "inner").mkdir()
    for path in (project, *project.rglob("*")):
        path.chmod(0o777)
    sandbox = acquire(make_backend(pool("src:/src:rw", "inner:/src/c/d")), "p")
    for name in ("a", "a/b", "a/b/.git", "c", "c/d"):
        assert run(sandbox, "mv", f"/src/{name}", "/src/moved").exit_code == 1, name
        assert run(sandbox, "rm", "-rf", f"/src/{name}").exit_code == 1, name
    assert run(sandbox, "mv", "/src/free", "/src/moved").exit_code == 0  # the control
    sh(sandbox, "touch /src/a/new /src/a/b/new /src/c/new")
    assert (project / "a/b/.git").is_dir()
    assert (project / "a/b/new").exists()
