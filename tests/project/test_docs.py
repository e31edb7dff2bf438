"""docs/ says what the code does: every key and option, with its default."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_arl.pools import LocalPool
from pytest_arl.settings import ISOLATION_TIERS, SETTINGS
from pytest_arl.text.units import parse_duration, parse_quantity

DOCS = Path(__file__).parents[2] / "docs"


def rows(document: str, first_cell: str) -> dict[str, str]:
    """A table's rows whose first cell looks like that: the name, and the second cell without its backquotes."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return {
        name: default.strip().strip("`").strip('"')
        for name, default in re.findall(rf"^\| `({first_cell})` \| ([^|]*) \|", text, re.MULTILINE)
    }


def test_the_pools_page_has_every_key_with_its_default() -> None:
    defaults = {field.name: field for field in fields(LocalPool) if field.name not in {"name", "base_dir", "source"}}
    documented = rows("pools.md", r"\w+")
    assert set(documented) == set(defaults)
    for name in ("memory", "workspace", "tmp", "output"):
        assert parse_quantity(documented[name]) == defaults[name].default
    for name in ("processes", "files", "warm"):
        assert int(documented[name]) == defaults[name].default


def test_the_settings_page_has_every_option_with_its_default() -> None:
    documented = rows("settings.md", r"--arl-[\w-]+")
    assert set(documented) == {setting.flag for setting in SETTINGS.values()}
    for setting in SETTINGS.values():
        text = documented[setting.flag]
        value = parse_duration(text) if isinstance(setting.default, float) else text
        assert value == ("none" if setting.default is None else setting.default)


def test_the_security_page_has_every_tier_strongest_first() -> None:
    documented = rows("security.md", "|".join(map(re.escape, ISOLATION_TIERS)))
    assert tuple(documented) == ISOLATION_TIERS


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_names_no_option_that_does_not_exist(document: Path) -> None:
    flags = set(re.findall(r"--arl-[\w-]+", document.read_text(encoding="utf-8")))
    assert flags <= {setting.flag for setting in SETTINGS.values()}


def test_the_security_page_has_a_test_for_everybody_who_may_attack_a_cluster() -> None:
    text = (DOCS / "security.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^### (.+)\n\nCannot:\n\n- [^#]+^Can:\n\n- ", text, re.MULTILINE))
    table = re.findall(r"^\| attacker \| test \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    tested = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", table[0], re.MULTILINE))
    roles = {"a step", "an image's author", "a user with `arl-user`", "a user with `arl-pool-admin`"}
    assert roles < set(tested)
    assert {role.lower() for role in promised} == set(tested)
    for attacker, tests in tested.items():
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", tests), attacker


@pytest.mark.parametrize("page", ["security.md", "cluster.md"])
def test_a_page_names_tests_that_exist(page: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / page).read_text(encoding="utf-8"))
    assert len(named) > 10
    for path, test in named:
        assert f"def {test}(" in (DOCS.parent / path).read_text(encoding="utf-8"), f"{path} has no {test}"
