import pytest

from pytest_arl.text.wording import hint, nearest, one_of


@pytest.mark.parametrize(
    ("word", "meant"),
    [("workdir", "workDir"), ("WORK_DIR", "workDir"), ("timout", "timeout"), ("zzz", None)],
)
def test_the_nearest_name_is_found_whatever_its_case_and_separators(word: str, meant: str | None) -> None:
    assert nearest(word, ["workDir", "timeout", "env"]) == meant


def test_a_hint_lists_what_there_is() -> None:
    assert hint("zzz", ["a", "b"]) == "known: a, b"
    assert hint("tol", ["tool", "b"]) == "did you mean 'tool'? (known: tool, b)"


def test_choices_read_as_a_sentence() -> None:
    assert [one_of("a"), one_of("ab"), one_of("abc")] == ["a", "a or b", "a, b or c"]
