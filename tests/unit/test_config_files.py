"""Configuration is obeyed where it is ours or root's, and nobody else could have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_arl import UsageError
from pytest_arl.config_files import TRUST, ConfigFiles
from pytest_arl.pools import find_pool
from pytest_arl.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that all may write to, as /tmp is, with a project in it."""
    folder = tmp_path / "shared"
    (folder / "project").mkdir(parents=True)
    folder.chmod(0o1777)
    return folder


def plant(folder: Path, table: str = "[tool.pytest-arl]\npool = 'evil'") -> Path:
    path = folder / "pyproject.toml"
    path.write_text(table)
    return path


def pool_of(start: Path, **environ: str) -> str:
    pool: str = Settings.build(start_dir=start, environ=environ).value("pool")
    return pool


def test_the_search_ends_where_it_begins_if_that_is_in_no_repository(shared: Path) -> None:
    plant(shared)
    assert pool_of(shared / "project") == "default"
    assert pool_of(shared) == "evil", "control: it would be obeyed there"


@pytest.mark.parametrize("name", [".git", ".hg"])
def test_the_search_ends_at_the_top_of_the_repository(shared: Path, name: str) -> None:
    plant(shared)
    below = shared / "project/a/b"
    below.mkdir(parents=True)
    (shared / "project" / name).mkdir()
    assert pool_of(below) == "default"
    plant(shared / "project", "[tool.pytest-arl]\npool = 'own'")
    assert pool_of(below) == "own", "control: the top itself is looked at"


@needs_root
def test_a_repository_of_another_user_does_not_widen_the_search(shared: Path) -> None:
    plant(shared)
    (shared / ".git").mkdir()
    assert pool_of(shared / "project") == "evil", "control: one of ours does"
    os.chown(shared / ".git", NOBODY, NOBODY)
    assert pool_of(shared / "project") == "default"


@needs_root
def test_another_users_file_is_refused_with_its_owner_and_the_cure(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plant(shared)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(UsageError) as caught:
        pool_of(shared)
    said = str(caught.value)
    assert said.startswith(f"{path} belongs to the user nobody: make it yours, or set PYTEST_ARL_TRUST={shared} ")
    assert "\n" not in said
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    assert pool_of(shared) == "evil", "root by sudo obeys who asked for it"


@needs_root
def test_another_users_file_that_says_nothing_of_sandboxes_is_nobodys_business(shared: Path) -> None:
    path = plant(shared, "[project]\ndependencies = ['pytest-arl']")
    os.chown(path, NOBODY, NOBODY)
    assert pool_of(shared) == "default"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("what", "said"), [("file", "can be written by every user: `chmod o-w "), ("folder", "lies in a folder that every")]
)
def test_what_every_user_can_write_is_refused(tmp_path: Path, what: str, said: str, named: bool) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    path = plant(folder, "[pools.x]" if named else "[tool.pytest-arl.pools.x]")

    def find(**environ: str) -> str:
        cli = {"pools_file": str(path)} if named else {}
        return find_pool(Settings.build(start_dir=folder, cli=cli, environ=environ), "x").name

    assert find() == "x", "control"
    (path if what == "file" else folder).chmod(0o777)
    with pytest.raises(UsageError, match=said):
        find()
    assert find(**{TRUST: str(tmp_path)}) == find(**{TRUST: f"/nowhere:{folder}"}) == find(**{TRUST: "*"}) == "x"
    with pytest.raises(UsageError, match=said):
        find(**{TRUST: f"{folder}/below"})
    (path if what == "file" else folder).chmod(0o775)
    assert find() == "x", "a group is one's own"


def test_what_is_ours_in_a_sticky_folder_stays_ours(shared: Path) -> None:
    plant(shared)
    assert pool_of(shared) == "evil"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "pyproject.toml")
    assert pool_of(tmp_path) == "default"
    with pytest.raises(UsageError, match="cannot read"):
        find_pool(Settings.build(start_dir=tmp_path, cli={"pools_file": str(tmp_path / "pyproject.toml")}), "x")


def test_a_worker_does_not_judge_anew(tmp_path: Path) -> None:
    path = plant(tmp_path)
    handed = Settings.build(start_dir=tmp_path).handed()
    path.chmod(0o777)
    assert Settings.taken(handed).value("pool") == "evil"
    with pytest.raises(UsageError, match="can be written"):
        pool_of(tmp_path)


def test_dev_null_says_nothing() -> None:
    settings = Settings.build(cli={"pools_file": os.devnull})

    assert find_pool(settings, "default").name == "default"


def test_values_in_values_without_end_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    for depth, fine in ((20, True), (100_000, False)):
        file.write_text("key = " + "[" * depth + "]" * depth)
        if fine:
            assert ConfigFiles().read_toml(file)["key"]
        else:
            with pytest.raises(UsageError, match=r"pools\.toml nests its values too deep"):
                ConfigFiles().read_toml(file)
