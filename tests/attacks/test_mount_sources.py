"""What code in one sandbox does to the places where the mounts of later sandboxes begin.

A source replaced by a link once gave the next sandbox what the link led to, whatever that was. Each attack here is made
from inside, in every tier, and what a later sandbox gets is looked at from inside too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_arl.backends.base import BackendSandbox
from pytest_arl.backends.local import LocalBackend
from pytest_arl.config_files import TRUST
from pytest_arl.errors import BackendUnavailable, UsageError
from pytest_arl.settings import Settings
from tests.folders import open_to_all
from tests.local.conftest import acquire, run, sh

MakeRun = Callable[[dict[str, str]], LocalBackend]
SECRET = "not for sandboxes"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """``shared/sub/file``, and beside it ``outside/file``, which no pool mounts."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        if path != Path("/tmp"):
            path.chmod(0o755)
    for name in ("shared/sub", "shared/a/b/sub", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(SECRET if name == "outside" else "given")
    open_to_all(tmp_path / "shared")
    open_to_all(tmp_path / "outside")
    return tmp_path


@pytest.fixture
def make_run(tier: str, project: Path) -> Iterator[MakeRun]:
    """Makes one run's backend out of pools, each by its keys in TOML."""
    made: list[LocalBackend] = []

    def make(pools: dict[str, str]) -> LocalBackend:
        path = project / f"pools-{len(made)}.toml"
        path.write_text("".join(f"[pools.{name}]\n{keys}\n" for name, keys in pools.items()))
        settings = Settings.build(cli={"pools_file": str(path)}, environ={TRUST: str(project)}, start_dir=project)
        made.append(LocalBackend(settings))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def mounts(*texts: str) -> str:
    return f"mounts = {list(texts)!r}"


def replace(sandbox: BackendSandbox, path: str, by: str) -> str:
    """Try to put a link in a path's place in every way there is; gives what was said."""
    result = run(
        sandbox,
        "sh",
        "-c",
        f"mv {path} {path}.old; mv -T {path} {path}.old; rm -f {path}; rmdir {path}; ln -sfn {by} {path}; "
        f"ln -s {by} {path}.new && mv -fT {path}.new {path}; rm -f {path}.new",
    )
    return result.stderr


@pytest.mark.parametrize("writable", ["", ":rw"])
def test_a_source_inside_another_mount_of_the_pool_stays_what_it_was(
    make_run: MakeRun, project: Path, writable: str
) -> None:
    backend = make_run({"p": mounts("shared:/data:rw", f"shared/sub:/x{writable}")})
    first = acquire(backend, "p")
    said = replace(first, "/data/sub", str(project / "outside"))
    assert "busy" in said.lower(), said
    second = acquire(backend, "p")
    assert SECRET not in run(second, "sh", "-c", "cat /x/* /data/sub/*; echo planted > /x/planted").stdout
    assert sorted(path.name for path in (project / "outside").iterdir()) == ["file"]
    assert (project / "shared/sub").is_dir()
    sh(second, "touch /data/fine; cat /x/../data/a/b/sub/file")  # the control: around it all is writable


@pytest.mark.parametrize("writable", ["", ":rw"])
@pytest.mark.parametrize("source", ["shared/sub", "shared/a/b/sub", "shared/sub/file"])
@pytest.mark.parametrize("used", ["before", "after"])
def test_a_pool_does_not_decide_what_another_one_mounts(
    make_run: MakeRun, project: Path, source: str, used: str, writable: str
) -> None:
    backend = make_run({"a": mounts("shared:/data:rw"), "b": mounts(f"{source}:/x{writable}")})
    if used == "before":
        acquire(backend, "b").close()
    attacker = acquire(backend, "a")
    names = source.split("/")[1:]
    for count in range(1, len(names) + 1):
        replace(attacker, "/data/" + "/".join(names[:count]), str(project / "outside"))
    victim = acquire(backend, "b")
    seen = run(victim, "sh", "-c", "cat /x /x/file; echo planted > /x/planted; echo planted > /x").stdout
    assert SECRET not in seen
    assert "given" in seen
    assert (project / "outside/file").read_text() == SECRET
    assert not (project / "outside/planted").exists()
    sh(attacker, "touch /data/fine && mkdir /data/free && mv /data/free /data/moved")  # the control


def test_what_another_pool_mounts_may_still_be_written_to(make_run: MakeRun, project: Path) -> None:
    backend = make_run({"build": mounts("shared:/out:rw"), "use": mounts("shared/sub:/in", "shared:/all")})
    sh(acquire(backend, "build"), "echo built > /out/sub/result")
    assert sh(acquire(backend, "use"), "cat /in/result /all/sub/result") == "built\nbuilt\n"


def test_what_the_same_pool_mounts_read_only_is_so_by_every_path(make_run: MakeRun, project: Path) -> None:
    backend = make_run({"p": mounts("shared:/data:rw", "shared/sub:/x")})
    sandbox = acquire(backend, "p")
    for path in ("/x/new", "/data/sub/new", "/data/sub/file"):
        assert "Read-only" in run(sandbox, "sh", "-c", f"echo x > {path}").stderr
    assert "cross-device" in run(sandbox, "ln", "/data/sub/file", "/data/alias").stderr
    sh(sandbox, "echo x > /data/new && ln /data/new /data/alias")  # the control


def test_a_link_made_in_a_writable_mount_is_not_followed_by_a_later_run(make_run: MakeRun, project: Path) -> None:
    pools = {"a": mounts("shared:/data:rw"), "b": mounts("shared/new:/x"), "c": mounts("shared/sub:/x")}
    sh(acquire(make_run(pools), "a"), f"ln -s {project}/outside /data/new; ln -s sub /data/here")
    later = make_run(pools)
    with pytest.raises(UsageError, match=r"leads out of|symbolic link"):
        acquire(later, "b")
    assert "given" in sh(acquire(later, "c"), "cat /x/file")  # the control
    absolute = make_run({**pools, "b": mounts(f"{project}/shared/new:/x"), "d": mounts("shared/here:/x")})
    for pool in ("b", "d"):
        with pytest.raises(UsageError, match=r"symbolic link .*lets sandboxes change"):
            acquire(absolute, pool)
    (project / "beside").symlink_to(project / "shared/sub")  # the control: a link where no sandbox writes
    assert "given" in sh(acquire(make_run({"b": mounts("beside:/x")}), "b"), "cat /x/file")


def test_a_wrong_pool_beside_them_changes_nothing(make_run: MakeRun, project: Path) -> None:
    backend = make_run({"a": mounts("shared:/data:rw"), "wrong": "memory = 0", "b": mounts("shared/sub:/x")})
    attacker = acquire(backend, "a")
    assert "busy" in replace(attacker, "/data/sub", str(project / "outside")).lower()
    assert sh(acquire(backend, "b"), "cat /x/file") == "given"


def test_a_pool_that_comes_later_follows_no_link_that_a_sandbox_made(make_run: MakeRun, project: Path) -> None:
    sh(acquire(make_run({"a": mounts("shared:/data:rw")}), "a"), f"ln -s {project}/outside /data/new")
    later = make_run({"b": mounts(f"{project}/shared/new:/x")})  # the pool that could write it is not there
    with pytest.raises(UsageError, match="symbolic link"):
        acquire(later, "b")


def test_where_one_pool_mounts_something_another_one_cannot_put_a_link(make_run: MakeRun, project: Path) -> None:
    inner = project / "inner"
    inner.mkdir()
    (inner / "mine").write_text("mine")
    backend = make_run({"a": mounts("shared:/data:rw"), "b": mounts("shared:/s", "inner:/s/sub")})
    acquire(backend, "b").close()
    attacker = acquire(backend, "a")
    assert "busy" in replace(attacker, "/data/sub", str(project / "outside")).lower()
    assert sh(acquire(backend, "b"), "cat /s/sub/mine") == "mine"


def test_a_repository_stays_what_it_was_for_every_pool(make_run: MakeRun, project: Path) -> None:
    for name in (".git", "a/.hg"):
        (project / "shared" / name).mkdir()
    open_to_all(project / "shared")
    backend = make_run({"a": mounts("shared:/data:rw"), "b": mounts("shared/a:/a:rw"), "c": mounts(".:/all:rw")})
    project.chmod(0o777)
    for pool, path in (("a", "/data/.git"), ("b", "/a/.hg"), ("c", "/all/shared/.git"), ("c", "/all/shared/a/.hg")):
        sandbox = acquire(backend, pool)
        assert "busy" in replace(sandbox, path, str(project / "outside")).lower()
        assert "Read-only" in run(sandbox, "touch", f"{path}/hook").stderr
    with pytest.raises(UsageError, match="version control"):
        acquire(make_run({"p": mounts("shared/.git:/g:rw")}), "p")
    acquire(make_run({"p": mounts("shared/.git:/g")}), "p")


def test_a_repository_replaced_from_outside_is_an_error_that_names_it(make_run: MakeRun, project: Path) -> None:
    (project / "shared/.git").mkdir()
    backend = make_run({"a": mounts("shared:/data:rw")})
    acquire(backend, "a").close()
    (project / "shared/.git").rmdir()
    (project / "shared/.git").symlink_to(project / "outside")
    with pytest.raises(BackendUnavailable, match=r"mount 'shared:/data:rw'.*\.git has been replaced.*symbolic link to"):
        acquire(backend, "a")


@pytest.fixture
def image(project: Path) -> Path:
    """A root folder in the shared one, and another that would give itself away."""
    for name in ("shared/root", "outside/root"):
        root = project / name
        for top in ("bin", "etc", "lib"):
            (root / top).mkdir(parents=True)
        for program in ("ls", "cat", "sh"):
            copy_program(root, program)
        (root / "etc/which").write_text(name)
    open_to_all(project / "shared")
    return project / "shared/root"


def copy_program(root: Path, program: str) -> None:
    import subprocess

    found = shutil.which(program)
    assert found
    shutil.copy(Path(found).resolve(), root / "bin" / program)
    for word in subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout.split():
        if word.startswith("/"):
            there = root / word.lstrip("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(word).resolve(), there)


def test_a_root_folder_in_a_writable_mount_cannot_be_changed(make_run: MakeRun, project: Path, image: Path) -> None:
    backend = make_run({"a": mounts("shared:/data:rw"), "image": 'root = "shared/root"'})
    attacker = acquire(backend, "a")
    assert "busy" in replace(attacker, "/data/root", str(project / "outside/root")).lower()
    for path in ("/data/root/etc/which", "/data/root/new"):
        assert "Read-only" in run(attacker, "sh", "-c", f"echo theirs > {path}").stderr
    replace(attacker, "/data/root/etc", str(project / "outside/root/etc"))
    assert sh(acquire(backend, "image"), "cat /etc/which") == "shared/root"
    for inside in ("shared/root", "shared/root/etc"):
        with pytest.raises(UsageError, match="root folder of a pool"):
            acquire(make_run({"a": mounts(f"{inside}:/data:rw"), "image": 'root = "shared/root"'}), "a")
    acquire(make_run({"a": mounts("shared/root/etc:/data"), "image": 'root = "shared/root"'}), "a")


def test_a_root_folder_replaced_from_outside_is_an_error_that_names_it(
    make_run: MakeRun, project: Path, image: Path
) -> None:
    backend = make_run({"image": 'root = "shared/root"', "other": ""})
    assert sh(acquire(backend, "image"), "cat /etc/which") == "shared/root"
    image.rename(project / "shared/moved")
    image.symlink_to(project / "outside/root")
    with pytest.raises(BackendUnavailable, match=r"root '.*shared/root': .* has been replaced .*symbolic link"):
        acquire(backend, "image")
    acquire(backend, "other")


def _by_link(path: Path, outside: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(outside)


def _by_another(path: Path, outside: Path) -> None:
    path.rename(path.with_name("moved"))
    shutil.copytree(outside, path) if outside.is_dir() else path.write_text("other")


def _by_nothing(path: Path, outside: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _by_a_file(path: Path, outside: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_text("a file")


def _by_a_link_above(path: Path, outside: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to(path.parent.with_name("moved"))


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (_by_link, "symbolic link to '.*outside'"),
        (_by_another, "is another folder "),
        (_by_nothing, "is nothing now"),
        (_by_a_file, "is another file "),
        (_by_a_link_above, "is behind the symbolic link .*/shared to '.*moved'"),
    ],
)
@pytest.mark.parametrize("warm", [0, 1])
def test_a_mount_replaced_since_it_was_planned_is_an_error_that_names_both(
    make_run: MakeRun, project: Path, change: Callable[[Path, Path], None], now: str, warm: int
) -> None:
    backend = make_run({"p": f"warm = {warm}\n" + mounts("shared/sub:/x"), "other": mounts("outside:/x")})
    acquire(backend, "p").close()
    change(project / "shared/sub", project / "outside")
    with pytest.raises(BackendUnavailable, match=rf"pool 'p': mount 'shared/sub:/x': .*it was a folder.*{now}"):
        acquire(backend, "p")
    assert sh(acquire(backend, "other"), "cat /x/file") == SECRET  # the run's other pools go on


def test_a_file_replaced_by_rename_is_an_error_and_one_written_to_is_none(make_run: MakeRun, project: Path) -> None:
    backend = make_run({"p": mounts("shared/sub/file:/x")})
    acquire(backend, "p").close()
    (project / "shared/sub/file").write_text("newer")
    assert sh(acquire(backend, "p"), "cat /x") == "newer"
    (project / "new").write_text("replaced")
    (project / "new").rename(project / "shared/sub/file")
    with pytest.raises(BackendUnavailable, match=r"it was a file .* is another file"):
        acquire(backend, "p")


def test_the_same_file_by_another_of_its_names_is_no_replacement(make_run: MakeRun, project: Path) -> None:
    backend = make_run({"p": mounts("shared/sub/file:/x")})
    acquire(backend, "p").close()
    file = project / "shared/sub/file"
    os.link(file, project / "second")
    file.unlink()
    (project / "second").rename(file)
    assert sh(acquire(backend, "p"), "cat /x") == "given"


def exchange(one: Path, other: Path) -> None:
    """At once, so that there is always something at either name: bubblewrap would make a folder where nothing is."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchanged = -100, 2
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchanged) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.parametrize(
    ("mount", "name", "seen_as"),
    [("shared/sub:/x", "shared/sub", "/x/file"), ("shared:/x:rw", "shared/.hg", "/x/.hg/file")],
)
def test_a_source_that_comes_and_goes_gives_what_was_planned_or_nothing(
    make_run: MakeRun, project: Path, mount: str, name: str, seen_as: str
) -> None:
    shutil.copytree(project / "shared/sub", project / "shared/.hg")
    backend = make_run({"p": mounts(mount)})
    acquire(backend, "p").close()
    path, spare, ended = project / name, project / "spare", threading.Event()
    spare.symlink_to(project / "outside")

    def swap() -> None:
        while not ended.is_set():
            for _ in range(2):
                exchange(path, spare)
                ended.wait(0.004)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = []
    try:
        for _ in range(40):
            try:
                sandbox = acquire(backend, "p")
            except BackendUnavailable:
                seen.append("")
                continue
            seen.append(run(sandbox, "cat", seen_as).stdout)
            sandbox.close()
    finally:
        ended.set()
        swapping.join()
    assert set(seen) <= {"", "given"}
    assert sh(acquire(backend, "p"), f"cat {seen_as}") == "given"


def test_a_sandbox_has_no_descriptor_of_its_mounts(make_run: MakeRun, project: Path, image: Path) -> None:
    backend = make_run({"p": mounts("shared:/data:rw", "shared/sub:/x"), "image": 'root = "shared/root"'})
    for pool in ("p", "image"):
        # PID 1 is closed to a step, but a step has what it inherits.
        assert sh(acquire(backend, pool), "ls /proc/self/fd").split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("hidden", ["mv /data/new /data/gone", "rm -r /data/new", "true"])
@pytest.mark.parametrize("asked", ["before", "only then"])
def test_a_link_that_was_followed_is_refused_when_it_is_gone(
    make_run: MakeRun, project: Path, hidden: str, asked: str
) -> None:
    (project / "shared/new").mkdir()
    if asked == "only then":  # a link that an earlier run has left, found before the first sandbox of this one
        (project / "shared/new/x").symlink_to(project / "outside")
        open_to_all(project / "shared/new")
    backend = make_run({"writes": mounts("shared:/data:rw"), "reads": mounts("shared/new/x:/x")})
    open_to_all(project / "shared")
    first = acquire(backend, "writes")
    if asked == "before":
        sh(first, f"ln -s {project}/outside /data/new/x")
        with pytest.raises(UsageError, match="symbolic link"):
            acquire(backend, "reads")
    sh(first, hidden)
    with pytest.raises(UsageError, match="symbolic link"):
        sh(acquire(backend, "reads"), "cat /x/file")
