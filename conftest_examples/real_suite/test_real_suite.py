"""A foreign test suite that runs in a sandbox, with its results in this report."""

from collections import Counter
from importlib.resources import files

import pytest

NAMES = [entry.name for entry in files("pyflakes.test").iterdir()]
FILES = sorted(name.removesuffix(".py") for name in NAMES if name.startswith("test_"))


@pytest.mark.parametrize("file", FILES)
def test_the_suite_passes(suite: dict[str, Counter[str]], file: str) -> None:
    assert suite[file].total() > 0
    assert not suite[file]["failure"] + suite[file]["error"]


def test_the_whole_suite_was_run(suite: dict[str, Counter[str]]) -> None:
    assert set(suite) == set(FILES)
    assert sum(counts.total() for counts in suite.values()) > 400
