import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import SandboxSession, UsageError, hooks
from pytest_arl.settings import Settings, current
from tests import toy_backend
from tests.toy_backend import ToyBackend

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registered() -> Iterator[None]:
    hooks.register(toy_backend)
    yield
    hooks.unregister(toy_backend)
    hooks.close_backends()


@pytest.mark.usefixtures("registered")
def test_a_third_party_adds_a_backend_by_the_hook() -> None:
    with SandboxSession(backend="toy") as session:
        assert session.run("echo", "hi").check().stdout == "hi\n"
        assert session.name.startswith("toy-")


@pytest.mark.usefixtures("registered")
def test_a_backend_is_made_once_for_a_process() -> None:
    first = hooks.get_backend("toy", current())
    assert hooks.get_backend("toy", current().overridden({"timeout": 3}, "x")) is first
    hooks.close_backends()
    assert hooks.get_backend("toy", current()) is not first


@pytest.mark.usefixtures("registered")
def test_settings_that_a_backend_is_made_with_get_one_of_their_own(tmp_path: Path) -> None:
    first = hooks.get_backend("toy", current())
    assert hooks.get_backend("toy", Settings.build(cli={"pools_file": tmp_path / "x"})) is not first


@pytest.mark.usefixtures("registered")
def test_closing_the_backends_closes_every_sandbox() -> None:
    session = SandboxSession(backend="toy")
    session.create_sandbox()
    backend = hooks.get_backend("toy", current())
    assert isinstance(backend, ToyBackend)
    assert len(backend.open) == 1
    hooks.close_backends()
    hooks.close_backends()
    assert backend.open == []


def test_one_backend_that_cannot_close_does_not_keep_the_others_open(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    class Backend:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "a":
                raise RuntimeError("stuck")

    plugin: Any = types.ModuleType("two")
    plugin.pytest_arl_backend = lambda name: Backend(name) if name in "ab" else None
    hooks.register(plugin)
    try:
        hooks.get_backend("a", current())
        hooks.get_backend("b", current())
    finally:
        hooks.unregister(plugin)
        hooks.close_backends()
    assert closed == ["a", "b"]
    assert "closing the backend 'a' failed" in caplog.text


@pytest.mark.usefixtures("registered")
def test_an_unknown_backend_lists_the_known_ones_and_how_to_add_one() -> None:
    assert hooks.known_backends() == ("kubernetes", "local", "toy")
    with pytest.raises(UsageError) as caught:
        SandboxSession(backend="toi").create_sandbox()
    said = str(caught.value)
    assert "no backend 'toi'" in said
    assert "did you mean 'toy'? (known: kubernetes, local, toy)" in said
    assert "pytest_arl_backend" in said


def test_an_unknown_backend_of_the_settings_is_named_with_its_source() -> None:
    settings = Settings.build(environ={"PYTEST_ARL_BACKEND": "nope"})
    with pytest.raises(UsageError, match=r"no backend 'nope' \(PYTEST_ARL_BACKEND\)"):
        hooks.get_backend("nope", settings)


def test_pytests_plugins_are_asked_first() -> None:
    made = ToyBackend()

    class Relay:
        @staticmethod
        def pytest_arl_backend(name: str, settings: Settings) -> ToyBackend | None:
            return made if name in {"local", "mine"} else None

        @staticmethod
        def pytest_arl_backend_names() -> list[tuple[str, ...]]:
            return [("mine",)]

    before = hooks.set_pytest_hook(Relay)
    try:
        assert hooks.known_backends() == ("kubernetes", "local", "mine")
        assert hooks.get_backend("mine", current()) is made
        hooks.close_backends()
        assert hooks.get_backend("local", current()) is made
    finally:
        assert hooks.set_pytest_hook(before) is Relay
        hooks.close_backends()


def run(program: str, **environ: str) -> str:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_an_entry_point_adds_a_backend_where_no_pytest_runs(tmp_path: Path) -> None:
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest_arl]\ntoys = tests.toy_backend\n")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from pytest_arl import SandboxSession
with SandboxSession() as session:
    print(session.name[:4], session.run("echo", "hi").stdout, end="")
assert "pytest" not in sys.modules
"""
    assert run(program, PYTEST_ARL_BACKEND="toy") == "toy- hi\n"


def test_the_end_of_the_interpreter_closes_what_was_left_open(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    program = f"""
import tempfile
tempfile.tempdir = {str(folder)!r}
from pytest_arl import SandboxSession, hooks
from tests import toy_backend
hooks.register(toy_backend)
session = SandboxSession(backend="toy")
session.create_sandbox()
session.start("sleep", "100")
kept = SandboxSession(backend="toy", keep_alive=True)
kept.create_sandbox()
import os
print(len(os.listdir({str(folder)!r})) >= 2)
"""
    assert run(program) == "True\n"
    assert list(folder.iterdir()) == []


def test_a_forked_child_makes_backends_of_its_own() -> None:
    program = """
import os
from pytest_arl import SandboxSession, SandboxClosed, hooks
from pytest_arl.settings import current
from tests import toy_backend
hooks.register(toy_backend)
session = SandboxSession(backend="toy")
session.create_sandbox()
session.write("a", "x")
parent = hooks.get_backend("toy", current())
child = os.fork()
if not child:
    try:
        session.read("a")
    except SandboxClosed as error:
        assert "belongs to process" in str(error), error
    else:
        os._exit(1)
    assert not session.is_open
    assert hooks.get_backend("toy", current()) is not parent
    session.delete_sandbox()
    with SandboxSession(backend="toy") as own:
        own.run("true").check()
    raise SystemExit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert session.read_text("a") == "x"
session.delete_sandbox()
"""
    run(program)


def test_a_session_of_the_parent_can_be_opened_anew_in_a_forked_child() -> None:
    program = """
import os
from pytest_arl import SandboxSession, hooks
from tests import toy_backend
hooks.register(toy_backend)
with SandboxSession(backend="toy") as session:
    session.write("a", "x")
    child = os.fork()
    if not child:
        with session:
            session.run("true").check()
            try:
                session.read("a")
            except FileNotFoundError:
                raise SystemExit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.read_text("a") == "x"
"""
    run(program)
