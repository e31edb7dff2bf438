import pytest

from pytest_arl.text import wording
from pytest_arl.text.wording import command_line, hint, last_lines, nearest, one_of, printable, readable, shown


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


def test_control_characters_are_spelled_out_and_text_is_kept() -> None:
    assert printable("a\x1b[31mb\tc\nd\x9b\r é\u202e") == "a\\x1b[31mb\tc\nd\\x9b\\r é\\u202e"


def test_a_command_is_one_line_however_long_it_is() -> None:
    found = command_line(["sh", "-c", "a\nb\t" + "x" * 10_000_000])
    assert found.startswith("sh -c 'a\\nb\\t")
    assert len(found) == 80


def test_the_last_lines_are_bounded_in_number_and_width() -> None:
    lines = last_lines("".join(f"{number} {'y' * 1000}\n\n" for number in range(100)), count=3, width=20)
    assert len(lines) <= 3
    assert all(len(line) <= 20 for line in lines)
    assert last_lines("a\r\nb\n\nc", count=2) == ["b", "c"]


def test_of_somebody_elses_text_no_more_is_looked_at_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(text: str) -> str:
        looked.append(len(text))
        return printable(text)

    monkeypatch.setattr(wording, "printable", counted)
    assert readable("\x01" * 1_000_000, 20) == "\\x01\\x01\\x01\\x01\\..."
    assert shown("\x01" * 1_000_000, 20) == "\\x01\\x01\\x01\\x01\\..."
    assert max(looked) == 20
    assert readable("a" * 20, 20) == "a" * 20
    assert readable("a" * 21, 20) == f"{'a' * 17}..."
    assert readable("one\ntwo", 20) == "one\ntwo"
    assert shown("one\ntwo", 20) == "one two"


def test_what_is_printable_stays_the_same_object_with_its_lines() -> None:
    """It is said of each who waits, and made once."""
    text = "one\n\ttwo \u00e4"
    assert printable(text) is text
    assert printable(f"{text}\x1b\u202e") == f"{text}\\x1b\\u202e"
