import json
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import SandboxSession, UsageError
from pytest_arl.pools import find_pool
from pytest_arl.settings import SETTINGS, Settings, activate, current, override


def pyproject(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_every_setting_has_its_four_names() -> None:
    setting = SETTINGS["acquire_timeout"]
    assert (setting.flag, setting.ini, setting.env, setting.toml) == (
        "--arl-acquire-timeout", "arl_acquire_timeout", "PYTEST_ARL_ACQUIRE_TIMEOUT", "acquire_timeout",
    )  # fmt: skip


def test_nothing_configured_is_all_default() -> None:
    settings = Settings.build()
    assert {name: value.value for name, value in settings.items()} == {
        "pool": "default", "backend": "local", "namespace": None, "scope": "function", "timeout": None,
        "acquire_timeout": 120.0, "max_sandboxes": None, "output": None, "durations": None,
        "isolation_min": "bwrap+rlimit", "pools_file": None, "kubeconfig": None, "context": None,
    }  # fmt: skip
    assert {value.source for value in settings.values()} == {"default"}
    assert settings.configured() == {}


LEVELS = ["default", "toml", "ini", "environ", "cli", "override"]


@pytest.mark.parametrize("strongest", range(len(LEVELS)))
def test_the_strongest_source_wins_and_is_named(strongest: int, tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    if strongest >= 1:
        path = pyproject(tmp_path, '[tool.pytest-arl]\npool = "toml"')
    if strongest >= 2:
        given["ini"] = {"pool": "ini"}
    if strongest >= 3:
        given["environ"] = {"PYTEST_ARL_POOL": "environ"}
    if strongest >= 4:
        given["cli"] = {"pool": "cli"}
    settings = Settings.build(start_dir=tmp_path, ini_path=tmp_path / "tox.ini", **given)
    if strongest >= 5:
        settings = settings.overridden({"pool": "override"}, "the marker of test_x")
    sources = ["default", f"[tool.pytest-arl] in {tmp_path / 'pyproject.toml'}", "arl_pool in tox.ini",
               "PYTEST_ARL_POOL", "--arl-pool", "the marker of test_x"]  # fmt: skip
    assert tuple(settings["pool"]) == (LEVELS[strongest], sources[strongest])
    assert strongest == 0 or path.exists()


@pytest.mark.parametrize("unset", [None, ""])
def test_an_empty_ini_value_or_variable_is_not_given(unset: Any) -> None:
    assert Settings.build(ini={"pool": unset}, environ={"PYTEST_ARL_POOL": ""}).value("pool") == "default"


@pytest.mark.parametrize(
    ("name", "bad", "says"),
    [
        ("pool", "", "must be a name"),
        ("timeout", "-1", "must be a duration"),
        ("timeout", "0", "more than 0"),
        ("timeout", "abc", "'abc'"),
        ("acquire_timeout", "0", "more than 0"),
        ("acquire_timeout", "none", "must be seconds"),
        ("scope", "package", "sandbox_fixture(scope="),
        ("scope", "modul", "'function', 'class', 'module' or 'session'"),
        ("max_sandboxes", "0", "at least 1"),
        ("max_sandboxes", "1.5", "whole number"),
        ("durations", "-1", "at least 0"),
        ("isolation_min", "docker", "'bwrap+cgroup'"),
        ("output", "a\0", "must be a path"),
    ],
)
def test_a_bad_value_names_the_option_and_what_is_right(name: str, bad: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.build(cli={name: bad})
    assert str(caught.value).startswith(SETTINGS[name].flag + " ")
    assert says in str(caught.value)


def test_a_bad_value_names_its_source_wherever_it_is(tmp_path: Path) -> None:
    path = pyproject(tmp_path / "p", "[tool.pytest-arl]\ntimeout = -1")
    for given, where in [
        ({"environ": {"PYTEST_ARL_TIMEOUT": "x"}}, "PYTEST_ARL_TIMEOUT must be"),
        ({"ini": {"timeout": "x"}, "ini_path": Path("/x/setup.cfg")}, "arl_timeout in setup.cfg must be"),
        ({}, rf"timeout of \[tool.pytest-arl\] in {path} must be"),
    ]:
        with pytest.raises(UsageError, match=where):
            Settings.build(start_dir=tmp_path / "p", **given)  # type: ignore[arg-type] # a table of arguments
    with pytest.raises(UsageError, match="the marker of test_x: timeout must be"):
        Settings.build().overridden({"timeout": "x"}, "the marker of test_x")


@pytest.mark.parametrize(("value", "seconds"), [("90s", 90.0), ("2", 2.0), (3, 3.0), (0.5, 0.5), ("none", None)])
def test_durations_are_taken_as_numbers_and_as_go_writes_them(
    value: object, seconds: float | None, tmp_path: Path
) -> None:
    assert Settings.build(cli={"timeout": value}).value("timeout") == seconds
    literal = f'"{value}"' if isinstance(value, str) else value
    pyproject(tmp_path, f"[tool.pytest-arl]\ntimeout = {literal}")
    assert Settings.build(start_dir=tmp_path).value("timeout") == seconds


def test_the_first_pyproject_upward_that_has_the_table_is_it(tmp_path: Path) -> None:
    pyproject(tmp_path, '[tool.pytest-arl]\npool = "far"')
    near = pyproject(tmp_path / "a", '[tool.pytest-arl]\npool = "near"')
    (tmp_path / ".git").mkdir()
    pyproject(tmp_path / "a" / "b", '[project]\ndependencies = ["pytest-arl"]')
    settings = Settings.build(start_dir=tmp_path / "a" / "b" / "c")
    assert settings.value("pool") == "near"
    assert settings.project is not None
    assert settings.project.path == near


def test_paths_are_relative_to_the_file_that_has_them(tmp_path: Path) -> None:
    pyproject(tmp_path / "a", '[tool.pytest-arl]\noutput = "out"')
    (tmp_path / ".hg").mkdir()
    assert Settings.build(start_dir=tmp_path / "a" / "b").value("output") == tmp_path / "a" / "out"
    ini = Settings.build(ini={"output": "out"}, ini_path=tmp_path / "i" / "pytest.ini")
    assert ini.value("output") == tmp_path / "i" / "out"
    assert Settings.build(cli={"output": "out"}).value("output") == Path.cwd() / "out"
    assert Settings.build(environ={"PYTEST_ARL_OUTPUT": "/abs"}).value("output") == Path("/abs")


def test_an_unknown_key_of_the_table_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    path = pyproject(tmp_path, '[tool.pytest-arl]\npoool = "x"')
    with pytest.raises(UsageError) as caught:
        Settings.build(start_dir=tmp_path)
    assert "unknown key 'poool'" in str(caught.value)
    assert "did you mean 'pool'" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_may_have_hyphens(tmp_path: Path) -> None:
    pyproject(tmp_path, "[tool.pytest-arl]\nacquire-timeout = 7")
    assert Settings.build(start_dir=tmp_path).value("acquire_timeout") == 7.0


@pytest.mark.parametrize("text", ["[tool.pytest-arl\n", "[tool]\npytest-arl = 3\n"])
def test_a_table_that_is_none_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = pyproject(tmp_path, text)
    with pytest.raises(UsageError, match=str(path)):
        Settings.build(start_dir=tmp_path)


def test_a_broken_pyproject_that_is_not_ours_is_nobodys_business(tmp_path: Path) -> None:
    pyproject(tmp_path, "[broken")
    Settings.build(start_dir=tmp_path)


def test_outside_pytest_settings_follow_environment_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert current().value("pool") == "default"
    monkeypatch.setenv("PYTEST_ARL_POOL", "env")
    assert current().value("pool") == "env"
    monkeypatch.delenv("PYTEST_ARL_POOL")
    pyproject(tmp_path, '[tool.pytest-arl]\npool = "here"')
    monkeypatch.chdir(tmp_path)
    assert current().value("pool") == "here"


def test_activated_settings_are_the_processs_until_the_ones_before_are() -> None:
    before = activate(Settings.build(cli={"pool": "run"}))
    try:
        assert current().value("pool") == "run"
    finally:
        assert activate(before) is not None
    assert current().value("pool") == "default"


def test_overrides_stack_and_go() -> None:
    with override({"pool": "a", "timeout": 5}, "module"), override({"pool": "b"}, "marker"):
        assert tuple(current()["pool"]) == ("b", "marker")
        assert tuple(current()["timeout"]) == (5.0, "module")
    assert current().value("pool") == "default"


def test_an_override_is_lifted_from_below_another() -> None:
    first, second = override({"pool": "a"}, "x"), override({"pool": "b"}, "x")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert current().value("pool") == "b"
    second.__exit__(None, None, None)
    assert current().value("pool") == "default"


def test_of_two_equal_overrides_one_stays_when_the_other_goes() -> None:
    first, second = override({"pool": "a"}, "x"), override({"pool": "a"}, "x")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert current().value("pool") == "a"
    second.__exit__(None, None, None)


def test_an_override_reaches_the_threads_that_a_test_starts() -> None:
    seen: list[str] = []
    with override({"pool": "a"}, "marker"):
        thread = threading.Thread(target=lambda: seen.append(SandboxSession().pool_ref))
        thread.start()
        thread.join()
    assert seen == ["a"]


def test_an_override_by_none_lifts_a_limit() -> None:
    with override({"timeout": 5}, "run"), override({"timeout": None}, "marker"):
        assert current().value("timeout") is None


def test_an_unknown_or_bad_override_is_an_error_and_leaves_nothing() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"pol": "a"}, "did you mean 'pool'"),
        ({"timeout": -1}, "marker: timeout must be"),
    ]
    for values, says in cases:
        with pytest.raises(UsageError, match=says), override(values, "marker"):
            pass
    assert current().configured() == {}


def test_a_session_follows_settings_below_its_own_arguments() -> None:
    with override({"pool": "a", "timeout": 5, "namespace": "n", "backend": "b", "acquire_timeout": 7}, "marker"):
        one = SandboxSession()
        assert (one.pool_ref, one.timeout, one.namespace, one.backend, one.acquire_timeout) == ("a", 5.0, "n", "b", 7.0)
        two = SandboxSession("z", "m", backend="c", timeout=9, acquire_timeout="8s")
        assert (two.pool_ref, two.timeout, two.namespace, two.backend, two.acquire_timeout) == ("z", 9.0, "m", "c", 8.0)
        assert SandboxSession(timeout=None).timeout is None


def test_a_repr_tells_what_was_set_by_what() -> None:
    assert repr(Settings.build(cli={"pool": "ci"})) == "<Settings pool='ci' (--arl-pool)>"


def test_a_file_is_what_it_was_when_it_was_first_read(tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    file.write_text('[pools.a]\nnetwork = "none"')
    pyproject(tmp_path, "[tool.pytest-arl]\nscope = 'module'")
    settings = Settings.build(start_dir=tmp_path, cli={"pools_file": str(file)})
    handed = settings.handed()
    file.write_text('[pools.a]\nnetwork = "host"')
    pyproject(tmp_path, "[tool.pytest-arl]\nscope = 'session'")

    for one in (settings, settings.overridden({"timeout": 3}, "marker"), Settings.taken(handed)):
        assert find_pool(one, "a").network == "none"
        assert one.value("scope") == "module"
    anew = Settings.build(start_dir=tmp_path, cli={"pools_file": str(file)})
    assert find_pool(anew, "a").network == "host", "control: another run reads it anew"


def test_settings_are_the_same_in_another_process(tmp_path: Path) -> None:
    pyproject(tmp_path, "[tool.pytest-arl.pools.a]\nwarm = 2")
    (tmp_path / ".git").touch()  # as in a work tree
    below = tmp_path / "below"
    below.mkdir()
    writes = {"--junitxml": tmp_path / "j.xml"}
    settings = Settings.build(start_dir=below, cli={"output": "out", "timeout": "3s"}, writes=writes)
    handed = json.loads(json.dumps(settings.handed(), default=bytes.decode))
    assert isinstance(handed["files"], dict), "control: it is plain data"
    pyproject(below, "[tool.pytest-arl.pools.a]\nwarm = 7")

    there = Settings.taken(settings.handed())

    assert dict(there) == dict(settings)
    assert there.writes == settings.writes == {"--junitxml": tmp_path / "j.xml", "--arl-output": Path.cwd() / "out"}
    assert there.project == settings.project
    assert find_pool(there, "a").warm == 2, "a file that was not there before is not there now"


def test_a_pools_file_that_cannot_be_read_is_told_where_a_pool_is_asked_for(tmp_path: Path) -> None:
    there = Settings.taken(Settings.build(start_dir=tmp_path, cli={"pools_file": str(tmp_path / "no")}).handed())
    (tmp_path / "no").write_text("")
    with pytest.raises(UsageError, match=r"cannot read .*no: No such file"):
        find_pool(there, "a")
