import signal
import threading
import time

import pytest

from pytest_arl import UsageError
from pytest_arl.session.fair_queue import Abandoned, Cancellation, FairQueue, Place
from tests.waiting import until


class Caller(threading.Thread):
    """Takes a turn in a thread, notes that it has it, and keeps it until it is told."""

    def __init__(self, turns: FairQueue, log: list[str], name: str, cancellation: Cancellation | None = None) -> None:
        super().__init__(daemon=True)
        self.turns = turns
        self.log = log
        self.label = name
        self.cancellation = cancellation
        self.go_on = threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        ticket = Place()
        try:
            self.turns.enter(ticket, cancellation=self.cancellation)
            self.log.append(self.label)
            self.go_on.wait(5)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        finally:
            self.turns.leave(ticket)


def queue_up(turns: FairQueue, log: list[str], names: str) -> list[Caller]:
    callers = []
    for name in names:
        callers.append(Caller(turns, log, name))
        assert until(lambda: len(turns._inside) + len(turns._waiting) == len(callers))
    return callers


def test_callers_get_their_turn_in_the_order_in_which_they_asked() -> None:
    turns, log = FairQueue(), list[str]()
    callers = queue_up(turns, log, "abcdef")
    for number, caller in enumerate(callers, start=1):
        assert until(lambda number=number: len(log) == number)  # type: ignore[misc] # bound on purpose
        time.sleep(0.005)
        assert log == list("abcdef")[:number]
        caller.go_on.set()


def test_many_may_be_inside_where_the_limit_says_so() -> None:
    turns, log = FairQueue(2), list[str]()
    callers = queue_up(turns, log, "abc")
    assert until(lambda: len(log) == 2)
    time.sleep(0.01)
    assert log == ["a", "b"]
    callers[1].go_on.set()
    assert until(lambda: len(log) == 3)
    for caller in callers:
        caller.go_on.set()


def test_a_higher_limit_lets_waiting_callers_in() -> None:
    turns, log = FairQueue(1), list[str]()
    callers = queue_up(turns, log, "abc")
    turns.set_limit(None)
    assert until(lambda: sorted(log) == ["a", "b", "c"])
    for caller in callers:
        caller.go_on.set()


def test_a_wait_ends_with_its_timeout_and_leaves_the_queue() -> None:
    turns, log = FairQueue(), list[str]()
    (holder,) = queue_up(turns, log, "a")
    ticket = Place()
    assert turns.enter(ticket, timeout=0.02) is False
    turns.leave(ticket)
    assert not turns._waiting
    holder.go_on.set()
    holder.join(5)
    another = Place()
    assert turns.enter(another, timeout=0.5)
    turns.leave(another)


def test_leaving_twice_gives_nobody_two_places() -> None:
    turns = FairQueue()
    first, second = Place(), Place()
    turns.enter(first)
    turns.leave(first)
    assert turns.enter(second, timeout=0.5)
    turns.leave(first)
    assert turns._inside == {second}


def test_an_interrupt_while_waiting_leaves_the_queue_as_it_was() -> None:
    turns, log = FairQueue(), list[str]()
    (holder,) = queue_up(turns, log, "a")

    def interrupt() -> None:
        assert until(lambda: len(turns._waiting) == 1)
        after = Caller(turns, log, "after")
        assert until(lambda: len(turns._waiting) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert after.is_alive()

    helper = threading.Thread(target=interrupt)
    ticket = Place()
    with pytest.raises(KeyboardInterrupt):
        try:
            helper.start()
            turns.enter(ticket, timeout=5)
        finally:
            turns.leave(ticket)
    helper.join(5)
    assert log == ["a"]
    holder.go_on.set()
    assert until(lambda: log == ["a", "after"])


def test_the_thread_inside_is_told_that_it_would_wait_for_itself() -> None:
    turns = FairQueue()
    ticket, again = Place(), Place()
    turns.enter(ticket)
    with pytest.raises(UsageError, match="this thread is already running a task"):
        turns.enter(again, timeout=1)
    turns.leave(again)
    turns.leave(ticket)
    assert (turns._inside, list(turns._waiting)) == (set(), [])


def test_a_cancelled_wait_is_abandoned_and_passes_nothing_on() -> None:
    turns, log = FairQueue(), list[str]()
    (holder,) = queue_up(turns, log, "a")
    cancellation = Cancellation()
    waiting = Caller(turns, log, "b", cancellation)
    assert until(lambda: len(turns._waiting) == 1)
    cancellation.cancel()
    waiting.join(5)
    assert isinstance(waiting.error, Abandoned)
    assert log == ["a"]
    holder.go_on.set()
    holder.join(5)
    assert (turns._inside, list(turns._waiting)) == (set(), [])


def test_what_was_cancelled_before_it_began_does_not_begin() -> None:
    turns, cancellation = FairQueue(), Cancellation()
    cancellation.cancel()
    ticket = Place()
    with pytest.raises(Abandoned):
        turns.enter(ticket, cancellation=cancellation)
    turns.leave(ticket)
    assert turns._inside == set()


def test_under_contention_one_is_inside_at_a_time_and_none_is_forgotten() -> None:
    turns, inside, most = FairQueue(), 0, 0
    done = []

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            ticket = Place()
            try:
                turns.enter(ticket)
                inside += 1
                most = max(most, inside)
                inside -= 1
            finally:
                turns.leave(ticket)
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(done), most) == (8, 1)
