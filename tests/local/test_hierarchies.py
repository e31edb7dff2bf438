"""Finding where cgroups can be made, on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_arl.backends.local import cgroup_mounts
from pytest_arl.backends.local.cgroup_mounts import CgroupMount
from pytest_arl.backends.local.forkserver import ForkServer
from pytest_arl.backends.local.hierarchies import Hierarchies, NoCgroups
from pytest_arl.backends.local.hierarchies import find as find_with
from pytest_arl.backends.local.scopes import NoScope, Systemd

AS_ROOT = os.geteuid() == 0
UID = os.geteuid()


class Manager(Systemd):
    """One that gives no scope, and answers what a test says about delegation."""

    def __init__(self, *, booted: bool = True, delegates: bool | None = None) -> None:
        super().__init__(root=False)
        self._booted = booted
        self._delegates = delegates
        self.asked: list[str] = []

    @property
    def booted(self) -> bool:
        return self._booted

    def delegates(self, unit: str) -> bool | None:
        self.asked.append(unit)
        return self._delegates

    def scope(self, path: str) -> ForkServer:
        raise NoScope("the manager of this test gives none", "the cure for that")


def find(proc: Path, *, root: bool | None = None, systemd: Systemd | None = None) -> Hierarchies:
    return find_with(proc, root=root, systemd=systemd or Manager())


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def describe(machine: Path, mounts: list[str], membership: str) -> Path:
    """Write a /proc: each mount is ``root point kind options``, with points below the machine's folder."""
    lines = []
    for number, mount in enumerate(mounts):
        root, point, kind, options = mount.split()
        (machine / point).mkdir(parents=True, exist_ok=True)
        flag = "ro" if "ro" in options.split(",") else "rw"
        lines.append(
            f"{number} 1 0:{number} {root} {machine / point} {flag},relatime shared:1 - {kind} {kind} rw,{options}"
        )
    proc = machine / "proc"
    (proc / "self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n" + "\n".join(lines) + "\n")
    (proc / "self/cgroup").write_text(membership)
    return proc


def version_2(folder: Path, *, controllers: str = "cpu memory pids", enabled: str = "", procs: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text(enabled)
    (folder / "cgroup.procs").write_text(procs)
    return folder


V1 = ["/ cg/memory cgroup memory", "/ cg/pids cgroup pids", "/ cg/cpu cgroup cpu,cpuacct"]
V2 = ["/ cg2 cgroup2 nsdelegate"]


def test_version_1_is_used_below_our_own_cgroup_of_each_hierarchy(machine: Path) -> None:
    for path in ("memory/mine", "pids", "cpu/other"):
        (machine / "cg" / path).mkdir(parents=True)
    proc = describe(machine, V1, "3:cpu,cpuacct:/other\n2:pids:/\n1:memory:/mine\n0::/\n")
    found = find(proc, root=True)
    assert found.version == 1
    assert {name: str(path.relative_to(machine / "cg")) for name, path in found.folders.items()} == {
        "memory": "memory/mine",
        "pids": "pids",
        "cpu": "cpu/other",
        "cpuacct": "cpu/other",
    }


def test_a_container_sees_its_part_of_version_1(machine: Path) -> None:
    proc = describe(
        machine,
        ["/docker/x cg/memory cgroup memory", "/docker/x cg/pids cgroup pids"],
        "1:memory:/docker/x\n2:pids:/docker/x\n",
    )
    assert set(find(proc, root=True).folders.values()) == {machine / "cg/memory", machine / "cg/pids"}


def test_version_1_is_roots_alone(machine: Path) -> None:
    proc = describe(machine, V1, "1:memory:/\n2:pids:/\n")
    with pytest.raises(NoCgroups, match="root"):
        find(proc, root=False)


def test_a_hierarchy_without_pids_is_not_enough(machine: Path) -> None:
    proc = describe(machine, V1[:1], "1:memory:/\n")
    with pytest.raises(NoCgroups, match="pids"):
        find(proc, root=True)


@pytest.mark.parametrize(
    ("root", "path", "inside"),
    [
        ("/", "/", ""),
        ("/", "/a/b", "a/b"),
        ("/docker/x", "/docker/x", ""),
        ("/docker/x", "/docker/x/y", "y"),
        ("/docker/x", "/docker/x2", "docker/x2"),  # its neighbour, by a name that begins alike
        ("/", "/../other", None),  # outside of this cgroup namespace
        ("/../..", "/", None),  # the other way round: a mount of another one
    ],
)
def test_a_cgroup_lies_where_its_mount_shows_it(root: str, path: str, inside: str | None) -> None:
    mount = CgroupMount(root, Path("/cg"), "cgroup2", frozenset(), read_only=False)
    assert mount.folder(path) == (None if inside is None else Path("/cg") / inside)


def session(machine: Path) -> Path:
    """A login session's cgroup, as systemd makes it: root's, and nobody's to divide."""
    folder = version_2(machine / "cg2/user.slice/session-3.scope")
    if not AS_ROOT:
        for path in (folder, *folder.iterdir()):
            path.chmod(0o555)
    return describe(machine, V2, "0::/user.slice/session-3.scope\n")


def test_a_sessions_scope_is_not_divided_and_the_reason_and_the_cure_are_the_managers(machine: Path) -> None:
    with pytest.raises(NoCgroups, match=r"session-3\.scope .*, and the manager of this test gives none") as caught:
        find(session(machine))
    assert caught.value.cure == "the cure for that"
    folder = machine / "cg2/user.slice/session-3.scope"
    assert not (folder / "arl-host").exists()
    assert not (folder / "cgroup.subtree_control").read_text()


USERS = f"user.slice/user@{UID}.service/app.slice"


@pytest.mark.skipif(AS_ROOT, reason="root owns everything: for root systemd's mark decides")
def test_a_unit_of_the_user_manager_is_delegated_where_that_says_so(machine: Path) -> None:
    """It belongs to the user, and has no attribute ``user.delegate``, either way."""
    folder = version_2(machine / f"cg2/{USERS}/run-1.scope")
    proc = describe(machine, V2, f"0::/{USERS}/run-1.scope\n")
    terminal = Manager(delegates=False)
    with pytest.raises(NoCgroups, match=r"run-1\.scope is not delegated"):
        find(proc, systemd=terminal)
    assert terminal.asked == ["run-1.scope"]
    assert not (folder / "arl-host").exists()
    with pytest.raises(NoCgroups, match=r"does not say whether .*run-1\.scope is delegated"):
        find(proc, systemd=Manager(delegates=None))
    assert not (folder / "arl-host").exists()
    # In a container nobody can be asked, and the owner decides.
    for manager in (Manager(delegates=True), Manager(delegates=False, booted=False)):
        assert set(find(proc, systemd=manager).folders.values()) == {folder}


@pytest.mark.skipif(AS_ROOT, reason="as above")
def test_a_folder_that_belongs_to_the_user_is_delegated_where_no_user_manager_is(machine: Path) -> None:
    folder = version_2(machine / "cg2/mine")
    manager = Manager(delegates=False)
    assert set(find(describe(machine, V2, "0::/mine\n"), systemd=manager).folders.values()) == {folder}
    assert manager.asked == []


@pytest.mark.skipif(AS_ROOT, reason="root may write anything")
@pytest.mark.parametrize("name", ["", "cgroup.procs", "cgroup.subtree_control"])
def test_a_cgroup_that_cannot_be_written_is_not_ours(machine: Path, name: str) -> None:
    folder = version_2(machine / "cg2/mine")
    (folder / name).chmod(0o555)
    proc = describe(machine, V2, "0::/mine\n")
    with pytest.raises(NoCgroups, match="cannot be written"):
        find(proc)


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "cgroup.procs", "cgroup.subtree_control"])
def test_a_cgroup_that_belongs_to_another_user_in_part_is_not_ours(
    machine: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/mine")
    for path in (folder, *folder.iterdir()):
        os.chown(path, 1234, -1)
        path.chmod(0o777)
    proc = describe(machine, V2, "0::/mine\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert find(proc, root=False).folders["memory"] == folder
    os.chown(folder / name, 0, -1)
    with pytest.raises(NoCgroups, match="does not belong to this user"):
        find(proc, root=False)


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")
def test_what_is_roots_is_not_ours_where_a_user_namespace_gives_root_another_number(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/system.slice/a.service")
    for path in (folder, *folder.iterdir()):
        os.chown(path, 1234, -1)
        path.chmod(0o777)
    proc = describe(machine, V2, "0::/system.slice/a.service\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    (proc / "self/uid_map").write_text("      1234       1234          1\n")
    assert find(proc).folders["memory"] == folder
    (proc / "self/uid_map").write_text("      1234          0          1\n")
    with pytest.raises(NoCgroups, match="not delegated"):
        find(proc)


def delegate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def getxattr(path: Path, name: str) -> bytes:
        if Path(path) == folder and name == "user.delegate":
            return b"1"
        raise OSError

    monkeypatch.setattr(os, "getxattr", getxattr)


def test_a_delegated_scope_is_divided_after_its_processes_have_moved(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/a.scope", procs="17\n")
    (folder / "arl-host").mkdir()
    (folder / "arl-host/cgroup.procs").write_text("")
    proc = describe(machine, V2, "0::/a.scope\n")
    delegate(monkeypatch, folder)
    write = Path.write_text

    def write_text(path: Path, text: str) -> int:
        if path.name == "cgroup.subtree_control" and not (folder / "arl-host/cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")  # as the kernel says while processes are in the folder
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", write_text)
    found = find(proc)
    assert found.version == 2
    assert found.way == "delegated by systemd"
    assert set(found.folders) == {"memory", "pids", "cpu"}
    assert set(found.folders.values()) == {folder}
    assert (folder / "arl-host/cgroup.procs").read_text() == "17"
    assert (folder / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_a_worker_that_is_in_the_leaf_already_uses_the_same_scope(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/a.scope", enabled="cpu memory pids")
    (folder / "arl-host").mkdir()
    proc = describe(machine, V2, "0::/a.scope/arl-host\n")
    delegate(monkeypatch, folder)
    assert set(find(proc).folders.values()) == {folder}


def test_what_a_unit_was_divided_into_is_divided_further_where_it_has_the_controllers(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DelegateSubgroup=, and a supervisor that bounds its jobs: the job's own bounds go on to hold."""
    unit = version_2(machine / "cg2/system.slice/ci.service")
    job = version_2(unit / "job", controllers="")
    proc = describe(machine, V2, "0::/system.slice/ci.service/job\n")
    delegate(monkeypatch, unit)
    assert set(find(proc).folders.values()) == {unit}
    version_2(job, controllers="memory pids")
    assert set(find(proc).folders.values()) == {job}


def test_what_the_user_manager_divides_itself_is_not_ours(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = version_2(machine / f"cg2/user@{UID}.service")
    version_2(manager / "somebody", controllers="")
    delegate(monkeypatch, manager)  # to the manager, that is
    with pytest.raises(NoCgroups, match="does not have the controllers"):
        find(describe(machine, V2, f"0::/user@{UID}.service/somebody\n"))


def test_a_containers_own_top_counts_as_delegated(machine: Path) -> None:
    top = version_2(machine / "cg2", controllers="memory pids", procs="1\n17\n")
    proc = describe(machine, V2, "0::/\n")
    assert find(proc, systemd=Manager(booted=False)).folders["memory"] == top
    assert not (top / "arl-host").exists()  # where the kernel lets it be, nothing is moved


def test_a_container_with_a_read_only_tree_is_told_how_to_get_another(machine: Path) -> None:
    version_2(machine / "cg2")
    with pytest.raises(NoCgroups, match="mounted read-only") as caught:
        find(describe(machine, ["/ cg2 cgroup2 ro"], "0::/\n"))
    assert "writable-cgroups=true" in caught.value.cure


@pytest.mark.parametrize("mount", ["/../../.. cg2 cgroup2 rw", "/.. cg2 cgroup2 rw"])
def test_a_mount_of_another_cgroup_namespace_is_not_taken_for_our_top(machine: Path, mount: str) -> None:
    """``unshare --cgroup``: our own cgroup is called ``/`` then, and the mount shows the whole machine's."""
    version_2(machine / "cg2")
    with pytest.raises(NoCgroups, match="another cgroup namespace"):
        find(describe(machine, [mount], "0::/\n"), root=True)


def test_of_two_mounts_at_one_place_the_later_one_is_seen(machine: Path) -> None:
    """A container's, over the machine's."""
    top = version_2(machine / "cg2")
    proc = describe(machine, ["/../.. cg2 cgroup2 rw", "/ cg2 cgroup2 rw"], "0::/\n")
    assert set(find(proc, systemd=Manager(booted=False)).folders.values()) == {top}


def test_roots_own_cgroup_is_used_where_no_systemd_is(machine: Path) -> None:
    folder = version_2(machine / "cg2/service")
    proc = describe(machine, V2, "0::/service\n")
    with pytest.raises(NoCgroups, match="not delegated"):
        find(proc, root=True, systemd=Manager(booted=True))
    assert set(find(proc, root=True, systemd=Manager(booted=False)).folders.values()) == {folder}


def test_a_scope_without_the_memory_controller_is_not_enough(machine: Path) -> None:
    version_2(machine / "cg2", controllers="pids", enabled="pids")
    with pytest.raises(NoCgroups, match="memory"):
        find(describe(machine, V2, "0::/\n"))


def test_no_cgroup_file_system_at_all(machine: Path) -> None:
    with pytest.raises(NoCgroups, match="no cgroup file system"):
        find(describe(machine, [], ""))


def test_mount_points_with_spaces_are_understood() -> None:
    assert cgroup_mounts._unescape(r"/a\040b") == "/a b"


def test_what_this_machine_has_is_found_or_refused_with_a_reason() -> None:
    try:
        found = find_with()
    except NoCgroups as reason:
        assert str(reason)
    else:
        assert all(path.is_dir() for path in found.folders.values())
        assert found.way
        assert found.server is None or find_with() is found, "a process has one server"
