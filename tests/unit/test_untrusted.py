import pytest

from pytest_arl.text import untrusted
from pytest_arl.text.untrusted import command_line, one_line, printable, readable, shorten, tail


def test_control_characters_are_spelled_out_and_text_is_kept() -> None:
    assert printable("a\x1b[31mb\tc\nd\x9b\r é\u202e") == "a\\x1b[31mb\tc\nd\\x9b\\r é\\u202e"


def test_printable_text_stays_the_same_object_with_its_lines() -> None:
    """A message for many is made printable once more for each of them."""
    text = "one\n\ttwo \u00e4"
    assert printable(text) is text
    assert printable(f"{text}\x1b\u202e") == f"{text}\\x1b\\u202e"


def test_a_long_text_keeps_its_start_and_its_end() -> None:
    assert shorten("a" * 20, 20) == "a" * 20
    assert shorten("a" * 11 + "b" * 10, 20) == "aaaaaaaa ... bbbbbbb"
    assert [len(shorten("x" * 100, length)) for length in range(30)] == list(range(30))


def test_a_command_is_one_line_however_long_it_is() -> None:
    found = command_line(["sh", "-c", "a\nb\t" + "x" * 10_000_000])
    assert found.startswith("sh -c 'a\\nb\\t")
    assert found.endswith("x'")
    assert len(found) == 80


def test_a_command_of_many_words_shows_its_first_and_its_last() -> None:
    found = command_line(["cp", *(["x"] * 1_000_000), "target"])
    assert found.startswith("cp x x")
    assert found.endswith("x target")
    assert len(found) == 80


def test_the_last_lines_are_bounded_in_number_and_width() -> None:
    shown, count = tail("".join(f"{number} {'y' * 1000}\n" for number in range(100)), 3)
    assert (len(shown), count) == (3, 100)
    assert all(len(line) <= 200 for line in shown)
    assert tail("a\r\nb\nc", 2) == (["b", "c"], 3)


def test_no_more_of_a_long_text_is_looked_at_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(text: str) -> str:
        looked.append(len(text))
        return printable(text)

    monkeypatch.setattr(untrusted, "printable", counted)
    assert readable("\x01" * 1_000_000, 20) == readable("\x01" * 20, 20)
    assert one_line("\x01" * 1_000_000, 20) == one_line("\x01" * 20, 20)
    assert max(looked) == 20


def test_a_text_of_lines_keeps_them_and_one_line_spells_them_out() -> None:
    assert readable("one\ntwo", 20) == "one\ntwo"
    assert one_line("one\ntwo\t", 20) == "one\\ntwo\\t"
    assert one_line({"a": 1}) == "{'a': 1}"
