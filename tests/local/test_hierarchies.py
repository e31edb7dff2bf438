"""Finding where cgroups can be made, on made-up machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_arl.backends.local import hierarchies
from pytest_arl.backends.local.hierarchies import NoCgroups, find


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
        lines.append(
            f"{number} 1 0:{number} {root} {machine / point} rw,relatime shared:1 - {kind} {kind} rw,{options}"
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


def test_version_2_needs_delegation_and_says_how_to_get_it(machine: Path) -> None:
    folder = version_2(machine / "cg2/user.slice/session.scope")
    if os.geteuid() != 0:
        folder.chmod(0o555)
    proc = describe(machine, ["/ cg2 cgroup2 nsdelegate"], "0::/user.slice/session.scope\n")
    with pytest.raises(NoCgroups, match=r"systemd-run .*--scope -p Delegate=yes"):
        find(proc)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_cgroup_that_cannot_be_written_is_not_ours(machine: Path) -> None:
    folder = version_2(machine / "cg2/mine")
    folder.chmod(0o555)
    proc = describe(machine, ["/ cg2 cgroup2 rw"], "0::/mine\n")
    with pytest.raises(NoCgroups, match="cannot be written"):
        find(proc)


@pytest.mark.skipif(os.geteuid() == 0, reason="root owns everything: for root systemd's mark decides")
def test_a_scope_that_belongs_to_the_user_is_delegated_without_systemds_mark(machine: Path) -> None:
    """As the user manager of systemd gives one: it sets no attribute ``user.delegate``."""
    folder = version_2(machine / "cg2/user.slice/run-1.scope")
    proc = describe(machine, ["/ cg2 cgroup2 rw"], "0::/user.slice/run-1.scope\n")
    assert set(find(proc).folders.values()) == {folder}


def delegate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def getxattr(path: Path, name: str) -> bytes:
        if Path(path) == folder and name == "user.delegate":
            return b"1"
        raise OSError

    monkeypatch.setattr(os, "getxattr", getxattr)


def test_a_delegated_scope_is_divided_after_its_processes_have_moved(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/scope", procs="17\n")
    (folder / "arl-host").mkdir()
    (folder / "arl-host/cgroup.procs").write_text("")
    proc = describe(machine, ["/ cg2 cgroup2 rw"], "0::/scope\n")
    delegate(monkeypatch, folder)
    write = Path.write_text

    def write_text(path: Path, text: str) -> int:
        if path.name == "cgroup.subtree_control" and not (folder / "arl-host/cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")  # as the kernel says while processes are in the folder
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", write_text)
    found = find(proc)
    assert found.version == 2
    assert set(found.folders) == {"memory", "pids", "cpu"}
    assert set(found.folders.values()) == {folder}
    assert (folder / "arl-host/cgroup.procs").read_text() == "17"
    assert (folder / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_a_worker_that_is_in_the_leaf_already_uses_the_same_scope(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_2(machine / "cg2/scope", enabled="cpu memory pids")
    (folder / "arl-host").mkdir()
    proc = describe(machine, ["/ cg2 cgroup2 rw"], "0::/scope/arl-host\n")
    delegate(monkeypatch, folder)
    assert set(find(proc).folders.values()) == {folder}


def test_a_containers_own_top_counts_as_delegated(machine: Path) -> None:
    top = version_2(machine / "cg2", controllers="memory pids", procs="1\n17\n")
    proc = describe(machine, ["/ cg2 cgroup2 rw"], "0::/\n")
    assert find(proc).folders["memory"] == top
    assert not (top / "arl-host").exists()  # where the kernel lets it be, nothing is moved


def test_a_scope_without_the_memory_controller_is_not_enough(machine: Path) -> None:
    version_2(machine / "cg2", controllers="pids", enabled="pids")
    with pytest.raises(NoCgroups, match="memory"):
        find(describe(machine, ["/ cg2 cgroup2 rw"], "0::/\n"))


def test_no_cgroup_file_system_at_all(machine: Path) -> None:
    with pytest.raises(NoCgroups, match="no cgroup file system"):
        find(describe(machine, [], ""))


def test_mount_points_with_spaces_are_understood() -> None:
    assert hierarchies._unescape(r"/a\040b") == "/a b"


def test_what_this_machine_has_is_found_or_refused_with_a_reason() -> None:
    try:
        found = find()
    except NoCgroups as reason:
        assert str(reason)
    else:
        assert all(path.is_dir() for path in found.folders.values())
