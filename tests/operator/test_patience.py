"""How often, and for how long, an agent is asked again."""

from pytest_arl.operator.patience import MOST_IN_VAIN, Patience


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
