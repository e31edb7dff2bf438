"""What an installer and pytest are told about the package."""

import re
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest_arl

DISTRIBUTION = distribution("pytest-arl")


def test_pytest_finds_the_plugin_under_the_name_that_switches_it_off() -> None:
    (entry,) = entry_points(group="pytest11", name="arl")
    assert entry.value == "pytest_arl.plugin"
    assert entry.load()


def test_dependencies_have_lower_bounds_only() -> None:
    requirements = [requirement.partition(";")[0].strip() for requirement in DISTRIBUTION.requires or []]
    assert requirements
    assert [name for name in requirements if not re.fullmatch(r"[A-Za-z0-9._-]+>=[0-9.]+", name)] == []


def test_a_plain_installation_needs_three_packages() -> None:
    required = {name.split(">")[0] for name in DISTRIBUTION.requires or [] if "extra ==" not in name}
    assert required == {"pluggy", "pydantic", "pytest"}


def test_an_extra_is_declared_only_once_it_does_something() -> None:
    extras = set(DISTRIBUTION.metadata.get_all("Provides-Extra") or [])
    package = Path(pytest_arl.__file__).parent
    assert {"dev", "local"} <= extras
    assert ("kubernetes" in extras) == (package / "backends" / "kubernetes").exists()
    assert ("operator" in extras) == (package / "operator").exists()


def test_the_package_carries_its_types() -> None:
    assert (Path(pytest_arl.__file__).parent / "py.typed").exists()


def test_the_classifiers_are_those_by_which_plugins_are_found() -> None:
    classifiers = DISTRIBUTION.metadata.get_all("Classifier") or []
    assert {"Framework :: Pytest", "Typing :: Typed"} <= set(classifiers)


def test_every_public_name_is_there_and_documented() -> None:
    names = pytest_arl.__all__
    assert {"SandboxSession", "Command", "FilePatch", "sandbox_fixture", "StepFailed"} <= set(names)
    assert [name for name in names if name != "__version__" and not getattr(pytest_arl, name).__doc__] == []
