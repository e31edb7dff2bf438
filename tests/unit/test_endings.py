from typing import Any

import pytest

from pytest_arl.text.endings import cpu_time, ending, memory_used


@pytest.mark.parametrize(
    ("outcome", "code", "more", "says"),
    [
        ("Succeeded", 0, {"seconds": 0.0012}, "succeeded after 1.2 ms"),
        ("Failed", 2, {}, "exited 2"),
        ("Failed", 1, {"limit": "processes 512", "seconds": 4.1}, "exited 1 after 4.1 s (limit processes 512)"),
        ("Failed", 139, {"signal": "SIGSEGV"}, "was killed by SIGSEGV (exit code 139)"),
        ("TimedOut", 124, {"limit": "timeout"}, "timed out (exit code 124)"),
        (
            "TimedOut",
            124,
            {"limit": "cpu time 2s", "signal": "SIGKILL"},
            "timed out (limit cpu time 2s, exit code 124)",
        ),
        ("OutOfMemory", 137, {"limit": "memory 512Mi"}, "ran out of memory (limit 512Mi, exit code 137)"),
        ("OutOfMemory", 137, {"limit": "memory"}, "ran out of memory (exit code 137)"),
        ("Skipped", None, {}, "was skipped"),
        (None, None, {}, "no result"),
    ],
)
def test_an_ending_is_a_verb_and_its_facts(outcome: str | None, code: int | None, more: Any, says: str) -> None:
    assert ending(outcome, code, **more) == says


def test_the_words_of_an_agent_are_safe_to_print_and_short() -> None:
    found = ending("Killed", 137, signal="\x1b[2J" + "x" * 1000, limit="a\nb" * 1000)
    assert found.startswith("was killed by \\x1b[2J")
    assert "\n" not in found
    assert len(found) < 130


def test_memory_and_processor_time_are_said_as_far_as_they_are_known() -> None:
    usage: dict[str, Any] = {"userTime": 3.0, "systemTime": 0.9, "memoryPeak": 241 * 2**20, "maxRss": 2**20}
    assert cpu_time(usage) == "cpu 3.9 s"
    assert memory_used(usage, "256Mi") == "peak 241Mi of 256Mi"
    assert memory_used(usage) == "peak 241Mi"
    assert memory_used({**usage, "memoryPeak": None}, "256Mi") == "largest 1Mi"
    assert memory_used({**usage, "memoryPeak": None, "maxRss": None}) == ""
    assert (cpu_time(None), memory_used(None)) == ("", "")
