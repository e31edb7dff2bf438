"""Someone else's test suite, run where it can do no harm, with its result in this report."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

SPEC = find_spec("pyflakes.test")
FILES = sorted(path.stem for folder in SPEC.submodule_search_locations for path in Path(folder).glob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_the_suite_passes(suite: dict[str, Counter[str]], file: str) -> None:
    assert suite[file]["passed"] > 0
    assert not suite[file]["failure"] + suite[file]["error"]


def test_the_whole_suite_was_run(suite: dict[str, Counter[str]]) -> None:
    assert set(suite) == set(FILES)
    assert sum(counts.total() for counts in suite.values()) > 400
