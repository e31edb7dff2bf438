"""The host's end of the wire: many threads on one socket, and an end to every wait."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client import agent_socket
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.stream import Stream
from tests.channel.fake import FakeAgent, Server, agent_and_channel, echo, in_thread
from tests.waiting import until


def ask(channel: Channel, value: object, seconds: float = 5) -> Any:
    with channel.open() as stream:
        stream.send(frames.PROCESS, value)
        return stream.reply(time.monotonic() + seconds)


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def test_an_answer_reaches_the_caller_that_asked() -> None:
    with agent_and_channel() as (agent, channel):
        Server(agent, echo)

        assert ask(channel, {"a": 1}) == {"a": 1}


def test_streams_have_numbers_of_their_own() -> None:
    with agent_and_channel() as (_, channel), channel.open() as one, channel.open() as two:
        assert one.number != two.number


def test_stream_numbers_start_again_after_the_last() -> None:
    with agent_and_channel() as (_, channel):
        channel._next = 0xFFFF_FFFF
        with channel.open() as last, channel.open() as first:
            assert (last.number, first.number) == (0xFFFF_FFFF, 1)


def test_answers_may_come_in_any_order() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as one, channel.open() as two:
        for stream in (one, two):
            stream.send(frames.PROCESS, {"n": stream.number})
        requests = [agent.receive() for _ in range(2)]
        for kind, number, value in reversed(requests):
            assert kind == frames.PROCESS
            agent.send(frames.REPLY, number, value)

        assert one.reply(soon()) == {"n": one.number}
        assert two.pending() or two.reply(soon())


def test_what_comes_for_a_stream_that_is_closed_is_dropped() -> None:
    with agent_and_channel() as (agent, channel):
        with channel.open() as stream:
            number = stream.number
        agent.send(frames.REPLY, number, {})
        agent.send(frames.ERROR, number, {"text": "x", "errno": 0, "path": b""})
        Server(agent, echo)

        assert ask(channel, {"still": "works"}) == {"still": "works"}


def test_a_refusal_is_raised_with_what_it_says() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.send(frames.ERROR, stream.number, {"text": "no", "errno": 13, "path": b"/x"})
        with pytest.raises(AgentError, match="no") as error:
            stream.receive(soon())

        assert (error.value.errno, error.value.path) == (13, b"/x")


def test_a_request_too_large_for_a_message_is_an_agent_error_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 1_000_000)
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        with pytest.raises(AgentError, match="over the limit"):
            stream.send(frames.WRITE, {"content": bytes(1_000_001)})
        stream.send(frames.PING, {})

        assert agent.receive()[0] == frames.PING


# Threads


@pytest.mark.parametrize("threads", [2, 12])
def test_many_threads_get_their_own_answers(threads: int) -> None:
    waiting: list[tuple[int, Any]] = []

    def shuffle(agent: FakeAgent, _kind: int, stream: int, value: Any) -> None:
        waiting.append((stream, value))
        if len(waiting) >= threads:
            random.shuffle(waiting)
            while waiting:
                agent.send(frames.REPLY, *waiting.pop())

    with agent_and_channel() as (agent, channel):
        Server(agent, shuffle)
        barrier = threading.Barrier(threads)

        def work(name: int) -> bool:
            good = True
            for turn in range(60):
                barrier.wait(10)  # else some could be done while others wait for the rest of a shuffle
                good &= ask(channel, {"name": name, "turn": turn}) == {"name": name, "turn": turn}
            return good

        results = [in_thread(partial(work, name)) for name in range(threads)]

        assert all(result(30) for result in results)


def test_large_messages_of_many_threads_do_not_mix() -> None:
    with agent_and_channel() as (agent, channel):
        Server(agent, echo)

        def work(letter: bytes) -> bool:
            content = letter * 2_000_000
            return all(ask(channel, content) == content for _ in range(4))

        results = [in_thread(partial(work, letter)) for letter in (b"a", b"b", b"c", b"d")]

        assert all(result(60) for result in results)


def test_when_the_thread_that_reads_leaves_another_reads_on() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as patient:
        follower_waits = threading.Event()

        def read() -> None:
            with channel.open() as stream, pytest.raises(ChannelTimeout):
                stream.receive(soon(0.3))

        leader = in_thread(read)
        assert until(lambda: channel._reader is not None)

        def follow() -> Any:
            follower_waits.set()
            return patient.reply(soon(5))

        follower = in_thread(follow)
        follower_waits.wait()
        leader()
        began = time.monotonic()
        agent.send(frames.REPLY, patient.number, {"for": "the patient one"})

        assert follower() == {"for": "the patient one"}
        assert time.monotonic() - began < 2


def test_the_thread_that_reads_hands_over_what_is_not_for_it() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as mine, channel.open() as other:
        leader = in_thread(lambda: mine.reply(soon()))
        assert until(lambda: channel._reader is not None)
        follower = in_thread(lambda: other.reply(soon()))
        agent.send(frames.REPLY, other.number, "other's")
        assert follower() == "other's"
        agent.send(frames.REPLY, mine.number, "mine")

        assert leader() == "mine"


def test_a_follower_keeps_its_own_deadline() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as mine, channel.open() as other:
        leader = in_thread(lambda: mine.reply(soon()))
        assert until(lambda: channel._reader is not None)
        began = time.monotonic()
        with pytest.raises(ChannelTimeout):
            other.receive(soon(0.2))
        assert 0.19 < time.monotonic() - began < 2
        agent.send(frames.REPLY, mine.number, {})
        leader()


def test_every_waiting_thread_learns_of_the_end() -> None:
    with agent_and_channel(lost=lambda: "it exited with code 3") as (agent, channel):
        streams = [Stream(channel, number) for number in range(1, 5)]
        results = [in_thread(partial(stream.receive, None)) for stream in streams]
        assert until(lambda: channel._reader is not None)
        agent.hang_up()
        for result in results:
            with pytest.raises(ChannelLost, match="it exited with code 3"):
                result()


def test_a_thread_that_waits_does_not_read_without_end_for_one_that_is_slow() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as slow:
        sent = 0

        def flood() -> None:
            nonlocal sent
            with suppress(OSError):
                for _ in range(400):
                    agent.send_raw(frames.frame(frames.DATA, slow.number, bytes(250_000)))
                    sent += 250_000

        def wait() -> None:
            with channel.open() as other, suppress(ChannelLost):
                other.receive(None)

        results = [in_thread(wait), in_thread(flood)]
        time.sleep(0.8)
        waiting = sum(len(value) for _, value in slow.inbox)
        taken = sum(len(slow.receive(soon())[1]) for _ in range(400))
        channel.close()
        for result in results:
            result()

    assert 8_000_000 < waiting < 16_000_000
    assert taken == sent == 100_000_000


def test_a_thread_whose_answer_is_behind_what_a_slow_one_does_not_take_gets_it_all_the_same() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as slow:
        result = in_thread(lambda: ask(channel, "mine", 20))
        kind, number, value = agent.receive()
        assert (kind, value) == (frames.PROCESS, "mine")
        sending = in_thread(lambda: agent.send_raw(frames.frame(frames.DATA, slow.number, bytes(250_000)) * 40))
        sending()
        agent.send(frames.REPLY, number, "yours")

        assert result(20) == "yours"


def test_a_request_from_within_on_output_reads_the_frames_before_its_answer() -> None:
    with agent_and_channel() as (agent, channel), channel.open():
        for _ in range(5):
            channel._hand_out(frames.DATA, 1, bytes(4_000_000))
        Server(agent, echo)
        began = time.monotonic()

        assert ask(channel, "nested") == "nested"
        assert time.monotonic() - began < 0.5


# Time


def test_a_deadline_is_kept() -> None:
    with agent_and_channel() as (_, channel), channel.open() as stream:
        began = time.monotonic()
        with pytest.raises(ChannelTimeout):
            stream.receive(soon(0.2))

        assert 0.19 < time.monotonic() - began < 1


def test_a_timeout_breaks_nothing() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        with pytest.raises(ChannelTimeout):
            stream.receive(soon(0.05))
        agent.send(frames.REPLY, stream.number, "late")

        assert stream.reply(soon()) == "late"


def test_what_is_there_is_given_even_after_the_deadline() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.send(frames.REPLY, stream.number, "there")
        time.sleep(0.05)

        assert stream.reply(time.monotonic() - 1) == "there"


@pytest.mark.parametrize("deadline", [float("inf"), 1e300])
def test_a_deadline_may_be_as_far_as_one_likes(deadline: float) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as mine, channel.open() as other:
        leader, follower = in_thread(lambda: mine.reply(deadline)), in_thread(lambda: other.reply(deadline))
        time.sleep(0.05)
        agent.send(frames.REPLY, other.number, 1)
        agent.send(frames.REPLY, mine.number, 2)

        assert (leader(), follower()) == (2, 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence of a tenth of a second is long."""
    monkeypatch.setattr(agent_socket, "_SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(agent_socket, "_ANSWER_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_is_silent_and_does_not_answer_is_given_up() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        began = time.monotonic()
        with pytest.raises(ChannelLost, match="has not answered"):
            stream.receive(None)

        assert 0.35 < time.monotonic() - began < 2
        assert agent.receive()[:2] == (frames.PING, 0)


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_is_silent_and_answers_is_waited_for() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        server = Server(agent, echo)
        later = threading.Timer(1.0, lambda: agent.send(frames.REPLY, stream.number, "at last"))
        later.start()

        assert stream.reply(None) == "at last"
        assert len(server.seen) >= 3


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_waits_for_a_processor_is_waited_for() -> None:
    with agent_and_channel(starved=lambda: True) as (agent, channel), channel.open() as stream:
        later = threading.Timer(1.5, lambda: agent.send(frames.REPLY, stream.number, "at last"))
        later.start()

        assert stream.reply(None) == "at last"
        assert agent.receive()[:2] == (frames.PING, 0)
        with pytest.raises(TimeoutError):
            agent.receive(0.1)  # it was asked once


@pytest.mark.usefixtures("impatient")
def test_a_starved_agent_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_socket, "_STARVED_SECONDS", 1.0)
    with agent_and_channel(starved=lambda: True) as (_, channel), channel.open() as stream:
        began = time.monotonic()
        with pytest.raises(ChannelLost, match="has not answered"):
            stream.receive(None)

        assert 1.0 < time.monotonic() - began < 5


@pytest.mark.usefixtures("impatient")
def test_a_pause_of_the_caller_is_not_taken_for_silence_of_the_agent() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        Server(agent, echo)
        for _ in range(2):
            time.sleep(0.6)  # a slow on_output, a debugger
            with pytest.raises(ChannelTimeout):
                stream.receive(soon(0.25))
        agent.send(frames.REPLY, stream.number, "fine")

        assert stream.reply(soon()) == "fine"


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_nobody_listened_to_is_not_asked_at_once() -> None:
    with agent_and_channel() as (agent, channel):
        server = Server(agent, echo)
        for turn in range(3):
            time.sleep(0.2)
            assert ask(channel, turn) == turn

        assert [kind for kind, _, _ in server.seen] == [frames.PROCESS] * 3


@pytest.mark.usefixtures("impatient")
def test_a_busy_agent_is_not_asked() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        server = Server(agent, echo)
        for _ in range(10):
            agent.send(frames.STEP, stream.number, {})
            assert stream.receive(soon(0.05)) == (frames.STEP, {})
            time.sleep(0.03)

        assert server.seen == []


def test_an_agent_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_socket, "_SEND_SECONDS", 0.2)
    with agent_and_channel() as (_, channel), channel.open() as stream:
        with pytest.raises(ChannelLost, match="read nothing"):
            stream.send(frames.WRITE, bytes(10_000_000))
        with pytest.raises(ChannelLost, match="read nothing"):
            stream.send(frames.PING, {})


def test_a_large_request_to_a_slow_reader_arrives_whole() -> None:
    content = random.Random(1).randbytes(5_000_000)
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        sending = in_thread(lambda: stream.send(frames.WRITE, content))
        received = b""
        parser = frames.Parser()
        found: list[Any] = []
        agent.socket.settimeout(5)
        while not found:
            received = agent.socket.recv(7001)
            found = parser.feed(received)
        sending()

        assert found[0][2] == content


# The end


def test_an_end_without_a_word_is_told_as_such() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.hang_up()
        with pytest.raises(ChannelLost, match="closed the connection"):
            stream.receive(soon())
        assert channel.broken


def test_what_came_before_the_end_is_still_given() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        for number in range(3):
            agent.send(frames.STEP, stream.number, number)
        agent.hang_up()

        assert [stream.receive(soon())[1] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ChannelLost):
            stream.receive(soon())


def test_the_last_word_of_an_agent_is_the_reason() -> None:
    with agent_and_channel(lost=lambda: "exit code 70") as (agent, channel), channel.open() as stream:
        agent.send(frames.ERROR, 0, {"text": "KeyError: 'x'", "errno": 0, "path": b""})
        agent.hang_up()
        with pytest.raises(ChannelLost, match="the agent gave up: KeyError: 'x'"):
            stream.receive(soon())


def test_writing_to_an_agent_that_is_gone_is_a_loss() -> None:
    with agent_and_channel(lost=lambda: "it was killed") as (agent, channel), channel.open() as stream:
        agent.hang_up()
        with pytest.raises(ChannelLost, match="it was killed"):
            stream.send(frames.WRITE, bytes(1_000_000))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        frames.frame(0x3F, 1, b""),
        frames.frame(frames.REPLY, 1, b"garbage"),
        frames.frame(frames.MORE, 1, b"short"),
        frames.message(frames.ERROR, 1, "no dict"),
        frames.message(frames.ERROR, 1, {"text": 1, "errno": 0, "path": b""}),
        frames.message(frames.ERROR, 0, {}),
    ],
    ids=["length", "type", "value", "part", "refusal", "reason", "last word"],
)
def test_an_agent_that_does_not_keep_to_the_protocol_is_given_up(data: bytes) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.send_raw(data)
        with pytest.raises(ChannelLost, match="protocol"):
            stream.receive(soon())
        with pytest.raises(ChannelLost, match="protocol"):
            stream.send(frames.PING, {})


def test_an_answer_of_the_wrong_kind_is_the_end() -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.send(frames.STEP, stream.number, {})
        with pytest.raises(ChannelLost, match="frame of type 0x43"):
            stream.reply(soon())
        assert channel.broken


def test_closing_wakes_waiters_with_the_reason() -> None:
    asked = []

    def lost() -> str:
        asked.append(1)
        return ""

    with agent_and_channel(lost=lost) as (_, channel):
        with channel.open() as stream:
            waiting = in_thread(lambda: stream.receive(None))
            assert until(lambda: channel._reader is not None)
            channel.close()
            with pytest.raises(ChannelLost, match="is closed"):
                waiting()
        assert asked == []


def test_closing_twice_is_once() -> None:
    with agent_and_channel() as (agent, channel):
        channel.close()
        channel.close()
        with pytest.raises(EOFError):
            agent.receive()
        assert channel._agent._socket.fileno() == -1


def test_a_closed_channel_takes_and_gives_nothing() -> None:
    with agent_and_channel() as (_, channel), channel.open() as stream:
        channel.close()
        with pytest.raises(ChannelLost, match="is closed"):
            stream.send(frames.PING, {})
        with pytest.raises(ChannelLost, match="is closed"):
            stream.receive(None)


def test_threads_that_close_ask_and_wait_at_once_all_come_to_an_end() -> None:
    for _ in range(30):
        with agent_and_channel() as (agent, channel):
            Server(agent, echo)

            def work(channel: Channel = channel) -> None:
                with pytest.raises(ChannelLost):
                    while True:
                        ask(channel, bytes(1000))

            results = [in_thread(work) for _ in range(4)]
            time.sleep(0.005)
            closing = in_thread(channel.close)
            for result in [*results, closing]:
                result(5)


# Interrupts and forks


class _Alarm(BaseException):
    pass


@pytest.fixture
def alarm() -> Any:
    """Raises in this thread after so many seconds, as Ctrl-C and pytest-timeout do."""

    def ring(_number: int, _frame: object) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_wait_breaks_nothing(alarm: Any) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        alarm(0.1)
        with pytest.raises(_Alarm):
            stream.receive(None)
        agent.send(frames.REPLY, stream.number, "later")

        assert stream.reply(soon()) == "later"


def test_an_interrupted_wait_hands_reading_over(alarm: Any) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as mine, channel.open() as other:

        def follow() -> Any:
            until(lambda: channel._reader is not None)
            return other.reply(soon())

        follower = in_thread(follow)
        alarm(0.2)
        with pytest.raises(_Alarm):
            mine.receive(None)
        agent.send(frames.REPLY, other.number, "other's")

        assert follower() == "other's"


def test_an_interrupted_wait_of_a_follower_breaks_nothing(alarm: Any) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as mine, channel.open() as other:
        leader = in_thread(lambda: other.reply(soon()))
        assert until(lambda: channel._reader is not None)
        alarm(0.1)
        with pytest.raises(_Alarm):
            mine.receive(None)
        agent.send(frames.REPLY, other.number, 1)

        assert leader() == 1


def test_an_interrupt_before_anything_was_sent_breaks_nothing(alarm: Any) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        channel._agent._socket.setblocking(False)
        filler = 0
        while True:
            try:
                filler += channel._agent._socket.send(frames.message(frames.PING, 0, {}) * 1000)
            except BlockingIOError:
                break
        alarm(0.1)
        with pytest.raises(_Alarm):
            stream.send(frames.PROCESS, {})
        assert not channel.broken
        agent.socket.recv(filler, socket.MSG_WAITALL)
        stream.send(frames.CANCEL, {})

        assert agent.receive()[0] == frames.CANCEL


def test_an_interrupt_in_the_middle_of_a_request_is_the_end(alarm: Any) -> None:
    with agent_and_channel() as (_, channel), channel.open() as stream:
        alarm(0.1)
        with pytest.raises(_Alarm):
            stream.send(frames.WRITE, bytes(10_000_000))
        with pytest.raises(ChannelLost, match="interrupted"):
            stream.send(frames.PING, {})


@pytest.mark.parametrize("where", ["recv", "feed"])
def test_an_interrupt_that_may_have_lost_an_answer_is_the_end(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with agent_and_channel() as (agent, channel), channel.open() as stream:
        agent.send(frames.REPLY, stream.number, "lost")

        class Socket:
            def __init__(self, real: socket.socket) -> None:
                self._real = real

            def recv(self, size: int) -> bytes:
                data = self._real.recv(size)
                raise _Alarm(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        def fail(_data: bytes) -> list[Any]:
            raise _Alarm

        if where == "recv":
            monkeypatch.setattr(channel._agent, "_socket", Socket(channel._agent._socket))
        else:
            monkeypatch.setattr(channel._agent._parser, "feed", fail)
        with pytest.raises(_Alarm):
            stream.receive(soon())
        with pytest.raises(ChannelLost, match="interrupted"):
            stream.receive(soon())


def in_fork(work: Any) -> int:
    """Run it in a fork; its exit code: 0 if it returned, 1 if it raised, 9 if it hung."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 9


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_can_neither_use_nor_end_its_parents_channel() -> None:
    with agent_and_channel() as (agent, channel):
        Server(agent, echo)

        def use() -> None:
            with pytest.raises(ChannelLost, match="forked"), channel.open():
                pass

        assert in_fork(use) == 0
        assert in_fork(channel.close) == 0
        assert ask(channel, "works") == "works"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_closing_in_a_fork_waits_for_no_lock_of_a_thread_that_is_not_there() -> None:
    with agent_and_channel() as (_, channel), channel._state, channel._agent._sending:
        assert in_fork(channel.close) == 0


# Handshake


def test_the_handshake_tells_the_agent_what_it_is_to_be() -> None:
    with agent_and_channel() as (agent, channel):
        config = AgentConfig(uid=7, gid=8, env={"A": "ä"}, rlimits={"NOFILE": 9}, lock_fd=3)
        handshake = in_thread(lambda: channel.handshake(config, soon()))
        agent.send(frames.HELLO, 0, {"version": frames.VERSION, "boot": "abc", "pid": 1})
        kind, stream, value = agent.receive()
        agent.send(frames.READY, 0, {})
        handshake()

        assert (kind, stream) == (frames.HELLO, 0)
        assert value["version"] == frames.VERSION
        assert (value["uid"], value["gid"], value["lock_fd"], value["rlimits"]) == (7, 8, 3, {"NOFILE": 9})
        assert value["env"] == [[b"A", "ä".encode()]]
        assert channel.boot_id == "abc"


@pytest.mark.parametrize("hello", [{"version": 99, "boot": ""}, {}, "hello", None])
def test_an_agent_of_no_known_version_is_given_up(hello: object) -> None:
    with agent_and_channel() as (agent, channel):
        agent.send(frames.HELLO, 0, hello)
        with pytest.raises(ChannelLost, match="does not speak protocol version"):
            channel.greet(soon())


def test_an_agent_that_says_why_it_cannot_be_what_it_is_told_is_quoted() -> None:
    with agent_and_channel() as (agent, channel):
        agent.send(frames.ERROR, 0, {"text": "PermissionError: setresuid", "errno": 1, "path": b""})
        with pytest.raises(ChannelLost, match="the agent gave up: PermissionError: setresuid"):
            channel.handshake(AgentConfig(), soon())


def test_a_handshake_has_a_deadline() -> None:
    with agent_and_channel() as (_, channel), pytest.raises(ChannelTimeout):
        channel.handshake(AgentConfig(), soon(0.1))


def test_a_timeout_of_the_channel_is_a_timeout_error_like_any_other() -> None:
    assert issubclass(ChannelTimeout, TimeoutError)
