"""Installed and unused, the plugin costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from tests.plugin.conftest import Project

HEAVY = ("pydantic", "kubernetes", "yaml", "asyncio", "subprocess", "tomllib", "kopf", "requests")

PROBE = f"""
    import sys
    loaded_before = {{name for name in {HEAVY!r} if name in sys.modules}}

    def pytest_unconfigure():
        with open("loaded.txt", "w") as file:
            file.write("\\n".join(sorted(sys.modules)))
"""


def loaded(project: Project, *args: str) -> set[str]:
    project.run(*args)
    return set((project.path / "loaded.txt").read_text().split())


def test_what_a_project_without_sandboxes_imports(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.write("pyproject.toml", "[project]\nname = 'theirs'\n")
    project.write("conftest.py", PROBE)
    project.test("def test_it(): pass")
    for args in (["--co"], []):
        without = loaded(project, *args)
        with_it = loaded(project, "-p", "arl", *args)
        assert "pytest_arl.plugin" in with_it
        new = {name.partition(".")[0] for name in with_it - without}
        assert new.isdisjoint(HEAVY), new & set(HEAVY)
        assert "pytest_arl.session.sandbox_session" not in with_it


def test_collecting_imports_none_of_what_runs_tests(project: Project) -> None:
    project.write("conftest.py", PROBE)
    project.test("def test_it(arl_sandbox): pass")
    modules = {name for name in loaded(project, "--co") if name.startswith("pytest_arl.plugin.")}
    assert modules <= {
        f"pytest_arl.plugin.{room}" for room in ("fixtures", "options", "own_files", "run", "startup_hooks")
    }, modules


def test_importing_the_package_imports_neither_pytest_nor_pydantic(project: Project) -> None:
    result = project.pytester.runpython_c(
        "import sys, pytest_arl; print(sorted({'pytest', 'pydantic', 'asyncio', 'subprocess'} & set(sys.modules)))"
    )
    assert result.outlines == ["[]"]
