"""How often, and for how long, an agent is asked again."""

from pytest_arl.operator.patience import MOST_IN_VAIN, NO_TASK, Patience


def test_attempts_in_vain_have_an_end() -> None:
    patience = Patience()
    pauses = [patience.pause("t", 0.01) for _ in range(MOST_IN_VAIN)]
    assert None not in pauses
    assert 10 < sum(pause or 0 for pause in pauses) < 30
    assert patience.pause("t", 0.01) is None


def test_a_link_that_lived_for_long_was_no_attempt_in_vain() -> None:
    patience = Patience()
    for _ in range(5 * MOST_IN_VAIN):
        assert patience.pause("t", 61) is not None
        assert patience.pause("t", 59) is not None


def test_another_task_has_attempts_of_its_own() -> None:
    patience = Patience()
    for _ in range(MOST_IN_VAIN):
        patience.pause("t", 0.01)
    assert patience.pause("u", 0.01) is not None


def test_a_deadline_counts_from_the_first_attempt() -> None:
    patience = Patience()
    assert patience.deadline("t", 100, 60) == 160
    assert patience.deadline("t", 130, 60) == 160
    assert patience.deadline("t", 155, 60) == 165, "what the agent has in its record it may say"
    assert patience.deadline("u", 155, 2) == 157


def test_tasks_that_take_turns_have_an_end_too() -> None:
    """An agent may say of each that the other one runs."""
    patience = Patience()
    pauses = [patience.pause("tu"[number % 2], 0.01) for number in range(2 * MOST_IN_VAIN + 2)]
    assert None not in pauses[:-2]
    assert pauses[-2:] == [None, None]


def test_a_task_that_has_ended_is_forgotten() -> None:
    patience = Patience()
    for _ in range(MOST_IN_VAIN):
        patience.pause("t", 0.01)
    patience.over("t")
    patience.over("never seen")
    assert patience.pause("t", 0.01) is not None


def test_hundreds_that_take_turns_have_an_end_too() -> None:
    patience = Patience()
    pauses = [patience.pause(str(number % 264), 0.01) for number in range(66)]
    assert None not in pauses[:64]
    assert pauses[64:] == [None, None]
    patience.over("a task that has ended")
    assert patience.pause("7", 0.01) is not None
    assert patience.pause("8", 61) is not None


def test_only_so_many_tasks_are_remembered() -> None:
    patience = Patience()
    for number in range(1000):
        patience.pause(str(number), 61)
    assert len(patience._tasks) <= 256
    assert patience.pause("999", 0.01) == 0.2, "the latest are"


def test_links_for_no_task_have_an_end_unless_one_has_served() -> None:
    patience = Patience()
    for _ in range(MOST_IN_VAIN):
        assert patience.pause(NO_TASK, 0.01) is not None
    patience.over("t")
    for _ in range(MOST_IN_VAIN):
        assert patience.pause(NO_TASK, 0.01) is not None
    assert patience.pause(NO_TASK, 0.01) is None
