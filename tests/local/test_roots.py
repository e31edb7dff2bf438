"""Pools with a root folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_arl.backends.local.probe import Host, probe
from pytest_arl.errors import UsageError
from tests.local.conftest import AS_ROOT, MakeBackend, acquire, needs_cgroups, needs_root, run

MakeRoot = Callable[..., Path]


def pool(root: Path | str, more: str = "") -> str:
    return f'[pools.image]\nroot = "{root}"\n{more}\n'


def listing(root: Path) -> list[str]:
    return sorted(f"{path} {path.lstat().st_mode:o} {path.lstat().st_size}" for path in root.rglob("*"))


def test_a_root_with_neither_python_nor_shell_runs_its_programs(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("cat", "ls")
    (root / "etc/marker").write_text("the image's own\n")
    sandbox = acquire(make_backend(pool(root)), "image")
    assert run(sandbox, "cat", "/etc/marker").stdout == "the image's own\n"
    assert run(sandbox, "ls", "/").stdout.split() == sorted(
        [
            "arl",
            "bin",
            "dev",
            "etc",
            "home",
            "lib",
            *(["lib64"] if (root / "lib64").exists() else []),
            "opt",
            "proc",
            "tmp",
            "workspace",
        ]
    )
    for program in ("sh", "python3"):
        assert run(sandbox, program, "-c", "").exit_code == 127


def test_nothing_of_this_machine_but_the_agent_is_in_a_root_folder(
    make_backend: MakeBackend, make_root: MakeRoot
) -> None:
    sandbox = acquire(make_backend(pool(make_root("ls"))), "image")
    assert run(sandbox, "ls", "/usr").exit_code != 0
    assert run(sandbox, "ls", "/arl").stdout.split() == ["lib", "python"]


def test_a_sandbox_leaves_the_root_folder_as_it_was(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("cp", "mkdir", "touch")
    (root / "opt/open").mkdir(mode=0o777)
    (root / "opt/open").chmod(0o777)
    before = listing(root)
    sandbox = acquire(make_backend(pool(root)), "image")
    for command in (
        ("touch", "/opt/open/a"),
        ("cp", "/bin/cp", "/bin/x"),
        ("mkdir", "/srv"),
        ("touch", "/workspace/w"),
    ):
        run(sandbox, *command)
    sandbox.close()
    assert listing(root) == before


@needs_cgroups
def test_writes_beside_the_workspace_go_to_memory(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("touch", "ls")
    (root / "opt/open").mkdir()
    (root / "opt/open").chmod(0o777)
    if probe().overlay_bwrap() is None:
        pytest.skip("no bubblewrap can make an overlay here, for this user on this kernel")
    backend = make_backend(pool(root))
    sandbox = acquire(backend, "image")
    assert run(sandbox, "touch", "/opt/open/a").exit_code == 0
    assert run(sandbox, "ls", "/opt/open").stdout == "a\n"
    assert run(acquire(backend, "image"), "ls", "/opt/open").stdout == ""


def test_without_overlays_the_root_is_read_only_and_complete(
    make_backend: MakeBackend, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "overlay_bwrap", lambda _self: None)
    root = make_root("touch", "ls", "cat")
    (root / "link").symlink_to("bin")
    (root / "home/somebody").mkdir(parents=True)
    (root / "opt/open").mkdir()
    (root / "opt/open").chmod(0o777)
    before = listing(root)
    sandbox = acquire(make_backend(pool(root)), "image")
    assert run(sandbox, "touch", "/opt/open/a").exit_code == 1
    assert run(sandbox, "/link/ls", "/home").stdout.split() == ["arl", "somebody"]
    assert run(sandbox, "touch", "/home/arl/mine", "/tmp/mine", "mine").exit_code == 0
    assert "arl:x:" in run(sandbox, "cat", "/etc/passwd").stdout
    sandbox.close()
    assert listing(root) == before


def test_users_of_the_image_keep_their_names(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("cat")
    (root / "etc/passwd").write_text("postgres:x:999:999::/var/lib/postgresql:/bin/sh\narl:x:5:5::/:/bin/sh\n")
    users = run(acquire(make_backend(pool(root)), "image"), "cat", "/etc/passwd").stdout.splitlines()
    assert users[0].startswith("postgres:")
    assert len([user for user in users if user.startswith("arl:")]) == 1


def test_mounts_work_in_a_root_folder_that_has_no_place_for_them(
    make_backend: MakeBackend, make_root: MakeRoot, folder: Path
) -> None:
    (folder / "data").mkdir()
    (folder / "data/file").write_text("here\n")
    root = make_root("cat")
    sandbox = acquire(make_backend(pool(root, 'mounts = ["data:/opt/deep/data"]')), "image")
    assert run(sandbox, "cat", "/opt/deep/data/file").stdout == "here\n"
    assert not (root / "opt/deep").exists()


@pytest.mark.parametrize("link", ["workspace", "tmp", "home", "etc/passwd", "arl", "opt/data"])
def test_a_mount_point_that_is_a_link_is_refused_and_nothing_is_made(
    make_backend: MakeBackend, make_root: MakeRoot, folder: Path, link: str
) -> None:
    outside, data = folder / "outside", folder / "data"
    outside.mkdir()
    data.mkdir()
    root = make_root("cat")
    if (root / link).is_dir():
        (root / link).rmdir()
    (root / link).symlink_to(os.path.relpath(outside, (root / link).parent))
    with pytest.raises(UsageError, match="symbolic link"):
        acquire(make_backend(pool(root, 'mounts = ["data:/opt/data/inner"]')), "image")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "not a folder"),
        (lambda path: path.mkdir(), "not a root file system"),
        (lambda path: (path / "rootfs/bin").mkdir(parents=True), "did you mean .*rootfs"),
        (lambda path: (path / "blobs").mkdir(parents=True) or (path / "oci-layout").write_text("{}"), "not unpacked"),
    ],
)
def test_a_folder_that_is_no_root_is_named_with_the_cure(
    make_backend: MakeBackend, folder: Path, make: Callable[[Path], object], message: str
) -> None:
    make(folder / "root")
    with pytest.raises(UsageError, match=message) as caught:
        acquire(make_backend(pool("root")), "image")
    assert str(folder / "root") in str(caught.value)


@pytest.mark.parametrize("root", ["/", "/tmp", "/proc/self/root"])
def test_this_machine_itself_is_no_root_folder(make_backend: MakeBackend, root: str) -> None:
    with pytest.raises(UsageError):
        acquire(make_backend(pool(root)), "image")


def test_a_socket_in_a_root_folder_is_refused(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("cat")
    os.mkfifo(root / "opt/pipe")
    with pytest.raises(UsageError, match="opt/pipe is a FIFO"):
        acquire(make_backend(pool(root)), "image")


@needs_root
def test_a_device_in_a_root_folder_is_refused(make_backend: MakeBackend, make_root: MakeRoot) -> None:
    root = make_root("cat")
    (root / "dev").mkdir()
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))  # covered by the sandbox's own
    backend = make_backend(pool(root))
    acquire(backend, "image").close()
    os.mknod(root / "opt/disk", 0o60666, os.makedev(7, 0))
    with pytest.raises(UsageError, match="block device"):
        acquire(make_backend(pool(root)), "image")


def test_the_interpreter_that_is_carried_needs_nothing_of_the_image(
    make_backend: MakeBackend, make_root: MakeRoot
) -> None:
    root = make_root("true")
    for name in os.listdir(root):
        if name not in ("bin", "opt"):
            shutil.rmtree(root / name)
    sandbox = acquire(make_backend(pool(root)), "image")
    assert run(sandbox, "/bin/true").exit_code in (126, 127)  # its loader is gone, and it is not ours that steps get
    sandbox.write("/workspace/a", b"still served", None)
    assert sandbox.read("/workspace/a") == b"still served"


def test_the_tier_decides_whether_an_overlay_is_made(make_root: MakeRoot) -> None:
    host = probe()
    assert host.cgroups == (host.tier == "bwrap+cgroup")
    assert not AS_ROOT or host.privileged
