"""The link to an agent, against a program that plays one, well or badly."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pytest_arl.agent import auth, frames
from pytest_arl.cluster import pod
from pytest_arl.operator.agent_link import AgentLink
from pytest_arl.operator.introduction import OLDER_EPOCH, AnotherAgent, Claim, Introduction, LinkLost

pytestmark = pytest.mark.asyncio

HELLO = {"version": frames.VERSION, "boot": "b1", "pid": 1, "nonce": b"n" * 32, "pod": "uid-1"}
READY = {"configured": True, "held": False, "running": None}

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def agent(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    there: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.append(writer)
        try:
            await peer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setattr(pod, "PORT", server.sockets[0].getsockname()[1])
    async with server:
        yield
        for writer in there:  # since Python 3.12 a server that is closed waits for its connections
            writer.transport.abort()


def marks(pod_uid: str, boot: str) -> list[bytes]:
    """As two keys make them: the one that signs, and the one before."""
    return [f"{key} {pod_uid} {boot}".encode().ljust(32) for key in ("now", "before")]


async def connect(sign: Any = None, **changes: Any) -> AgentLink:
    operator = Introduction(
        lambda nonce, pod_uid, boot: b"/".join((nonce, pod_uid.encode(), boot.encode())),
        marks,
        7,
    )
    if sign is not None:
        operator = operator._replace(sign=sign)
    wanted: dict[str, Any] = {"config": {"env": []}, "claim": Claim("h", b"c" * 32)}
    return await AgentLink.connect("127.0.0.1", "uid-1", operator, **(wanted | changes))


async def message(reader: asyncio.StreamReader) -> tuple[int, int, Any]:
    size, kind, stream = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
    return kind, stream, frames.decode(await reader.readexactly(size))


def greets(then: Peer | None = None, hello: Any = None, ready: Any = None, seen: list[Any] | None = None) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.HELLO, 0, HELLO | (hello or {})))
        answer = await message(reader)
        if seen is not None:
            seen.append(answer)
        writer.write(frames.message(frames.READY, 0, READY | (ready or {})))
        if then is not None:
            await then(reader, writer)
        await reader.read()

    return peer


async def test_the_operator_signs_the_nonce_for_this_pod_and_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    async with agent(greets(seen=seen, ready={"running": "t1"}), monkeypatch):
        link = await connect()
        ((kind, _, answer),) = seen
        assert kind == frames.HELLO
        assert answer["signature"] == b"n" * 32 + b"/uid-1/b1"
        assert (answer["role"], answer["epoch"], answer["holder"]) == ("operator", 7, "h")
        assert (link.hello.boot, link.hello.running) == ("b1", "t1")
        link.close("over")


async def test_an_agent_is_marked_when_it_is_met_and_asked_for_its_mark_later(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    async with agent(greets(seen=seen), monkeypatch):
        (await connect()).close("over")
        answer = seen[0][2]
        assert answer["mark"] == marks("uid-1", "b1")[0]
        assert (answer["holder"], answer["holderMark"]) == ("h", b"c" * 32)
        assert "ask" not in answer

        with pytest.raises(AnotherAgent, match="cannot prove"):
            await connect(boot="b1")
        told = {"mark", "holder", "holderMark"} & seen[1][2].keys()
        assert told == set(), "what took its place would know it then"
        assert len(seen[1][2]["ask"]) == 32


@pytest.mark.parametrize("which", [0, 1])
async def test_an_agent_that_has_its_mark_is_known_again(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.HELLO, 0, HELLO))
        nonce = (await message(reader))[2]["ask"]
        shown = auth.proof(marks("uid-1", "b1")[which], nonce)
        writer.write(frames.message(frames.READY, 0, READY | {"proof": shown}))
        await reader.read()

    async with agent(peer, monkeypatch):
        link = await connect(boot="b1")
        assert link.hello.boot == "b1"
        link.close("over")


@pytest.mark.parametrize(
    "shown", [None, b"", b"p" * 32, auth.proof(b"m" * 32, b"n" * 32), "text", 1 << 40, [b"p"] * 9, {"proof": b"p"}]
)
async def test_an_agent_with_a_wrong_proof_is_another_agent(monkeypatch: pytest.MonkeyPatch, shown: object) -> None:
    async with agent(greets(ready={"proof": shown}), monkeypatch):
        with pytest.raises(AnotherAgent):
            await connect(boot="b1")


async def test_another_start_of_the_agent_is_shown_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(*_: object) -> bytes:
        raise AssertionError("it was signed")

    async with agent(greets(), monkeypatch):
        with pytest.raises(AnotherAgent, match="restarted"):
            await connect(sign=sign, boot="b2")


async def test_another_pod_at_that_address_gets_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(*_: object) -> bytes:
        raise AssertionError("it was signed")

    async with agent(greets(hello={"pod": "uid-2"}), monkeypatch):
        with pytest.raises(LinkLost, match="uid-2"):
            await connect(sign=sign)


@pytest.mark.parametrize(
    "hello",
    [
        {"version": 99},
        {"version": [frames.VERSION]},
        {"boot": None, "pod": None},
        {"boot": 1 << 40},
        {"boot": "b" * 65},
        {"boot": "b\x1b[2J"},
        {"boot": "b\u202e"},
        {"pod": ["uid-1"]},
        {"nonce": "text"},
        {"nonce": 1 << 40},  # bytes() of it would be a terabyte
        {"nonce": [0] * 32},
        {"nonce": b"n" * 33},
    ],
)
async def test_a_peer_without_an_agents_greeting_is_no_agent(monkeypatch: pytest.MonkeyPatch, hello: Any) -> None:
    async with agent(greets(hello=hello), monkeypatch):
        with pytest.raises(LinkLost):
            await connect()


@pytest.mark.parametrize("running", [7, ["t1"], "t" * 65, {"t1": True}])
async def test_what_runs_there_is_a_name_or_nothing(monkeypatch: pytest.MonkeyPatch, running: Any) -> None:
    async with agent(greets(ready={"running": running}), monkeypatch):
        with pytest.raises(LinkLost, match="garbled"):
            await connect()


async def test_a_closed_port_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(greets(), monkeypatch):
        pass
    with pytest.raises(OSError, match=r".+"):
        await connect()


async def test_a_refusal_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.HELLO, 0, HELLO))
        await message(reader)
        writer.write(frames.message(frames.ERROR, 0, {"text": "older epoch"}))

    async with agent(refuses, monkeypatch):
        with pytest.raises(LinkLost, match="older epoch") as caught:
            await connect()
    assert caught.value.code == OLDER_EPOCH


async def test_an_agent_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[AgentLink.__module__], "_SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with agent(silent, monkeypatch):
        with pytest.raises(LinkLost, match="did not introduce itself"):
            await connect()


async def test_frames_go_to_the_exchange_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, second = await message(reader), await message(reader)
        writer.write(frames.message(frames.DONE, 999, {}))  # nobody's
        writer.write(frames.message(frames.DONE, second[1], {"n": 2}))
        writer.write(frames.message(frames.DONE, first[1], {"n": 1}))

    async with agent(greets(answers), monkeypatch):
        link = await connect()
        got: dict[str, Any] = {}
        both = asyncio.Event()

        def note(name: str) -> Callable[[int, Any], None]:
            def taken(kind: int, value: Any) -> None:
                got[name] = kind, value
                if len(got) == 2:
                    both.set()

            return taken

        for name in ("first", "second"):
            link.send(frames.TASK, link.open(note(name)), {})
        await asyncio.wait_for(both.wait(), 5)
        assert got == {"first": (frames.DONE, {"n": 1}), "second": (frames.DONE, {"n": 2})}
        link.close("over")


async def test_an_agent_that_sends_more_than_it_was_asked_for_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def floods(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(100):
            writer.write(frames.frame(frames.STDOUT, 1, frames.STEP_INDEX.pack(0) + b"x" * 65536))
            await writer.drain()

    async with agent(greets(floods), monkeypatch):
        link = await connect()
        assert "more than it was asked for" in await asyncio.wait_for(link.lost, 5)
        with pytest.raises(LinkLost):
            link.send(frames.PING, 1, {})


async def test_an_agent_holds_no_memory_of_ours_by_messages_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(frames.frame(frames.MORE, 1, b"x" * frames.MAX_PAYLOAD))

    async with agent(greets(parts), monkeypatch):
        link = await connect()
        assert "garbled" in await asyncio.wait_for(link.lost, 5)


async def test_the_end_of_the_connection_is_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with agent(greets(ends), monkeypatch):
        link = await connect()
        assert "ended" in await asyncio.wait_for(link.lost, 5)
        with pytest.raises(LinkLost):
            await link.ping()


async def test_an_agent_that_does_not_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[AgentLink.__module__], "_PONG_SECONDS", 0.2)
    async with agent(greets(), monkeypatch):
        link = await connect()
        async with asyncio.timeout(10):
            with pytest.raises(LinkLost, match="does not answer"):
                await link.ping()


def frame_of(kind: int, stream: int, size: int) -> bytes:
    """A message of text of that many bytes in all."""
    return frames.message(kind, stream, "x" * (size - frames.HEADER.size - 5))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is decoded from here on."""
    found: list[int] = []
    decode = frames.decode

    def counting(data: bytes, *more: int) -> object:
        found.append(len(data))
        return decode(data, *more)

    monkeypatch.setattr(frames, "decode", counting)
    return found


async def fed(link: AgentLink, data: bytes) -> None:
    """As if it had come from the agent; until all of it is looked at."""
    link.data_received(data)
    for _ in range(10_000):
        if not link._paused or link.lost.done():
            return
        await asyncio.sleep(0)


async def test_what_nobody_waits_for_is_not_decoded_and_has_a_small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        decoded = counted(monkeypatch)
        garbage = frames.frame(frames.DONE, 999, b"no value at all")
        for _ in range(4096 // (len(garbage) + 256)):
            await fed(link, garbage)
        assert not link.lost.done()
        await fed(link, garbage)
        assert "more than it was asked for" in link.lost.result()
        assert decoded == []


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
async def test_an_exchange_takes_what_was_asked_for_and_no_byte_more(
    monkeypatch: pytest.MonkeyPatch, more: int, kept: bool
) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        got: list[int] = []
        stream = link.open(lambda kind, _value: got.append(kind), 10_000)
        await fed(link, frame_of(frames.DONE, stream, 10_000 + 4096 - 256 + more))
        assert (got == [frames.DONE], not link.lost.done()) == (kept, kept)


async def test_what_was_left_of_an_exchange_is_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        decoded = counted(monkeypatch)
        for _ in range(100):
            link.shut(link.open(lambda _kind, _value: None, 1024 * 1024))
        late = frame_of(frames.DONE, 1, 64 * 1024)
        for _ in range(16 - 1):  # what was asked for may be on its way, and is passed over
            await fed(link, late)
        assert not link.lost.done()
        for _ in range(2):
            await fed(link, late)
        assert link.lost.done()
        assert decoded == []
        fresh = link.open(lambda _kind, _value: None)
        assert link._streams[fresh].left == 4096


@pytest.mark.parametrize("count", [256, 257])
async def test_a_value_of_more_items_than_any_agents_is_not_made(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        got: list[object] = []
        stream = link.open(lambda _kind, value: got.append(value), 300_000)
        await fed(link, frames.message(frames.DONE, stream, [None] * count))
        assert (len(got), link.lost.done()) == ((1, False) if count == 256 else (0, True))


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("which", [frames.HELLO, frames.READY, frames.ERROR])
async def test_a_greeting_is_short(monkeypatch: pytest.MonkeyPatch, which: int, extra: int) -> None:
    plain: dict[int, dict[str, Any]] = {frames.HELLO: HELLO, frames.READY: READY, frames.ERROR: {"text": "older epoch"}}
    said = {kind: frames.encode(value) for kind, value in plain.items()}
    room = 4096 + extra - len(frames.encode(plain[which] | {"more": ""}))
    said[which] = frames.encode(plain[which] | {"more": "x" * room})
    assert len(said[which]) == 4096 + extra

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.frame(frames.HELLO, 0, said[frames.HELLO]))
        await message(reader)
        last = frames.ERROR if which == frames.ERROR else frames.READY
        writer.write(frames.frame(last, 0, said[last]))
        await reader.read()

    words = "greets with 4097 bytes" if extra else "older epoch"
    async with agent(peer, monkeypatch):
        if extra or which == frames.ERROR:
            with pytest.raises(LinkLost, match=words):
                await connect()
        else:
            (await connect()).close("over")


@pytest.mark.parametrize("kind", [frames.HELLO, frames.STEP, frames.STDOUT, frames.PONG])
async def test_a_greeting_is_one_of_each(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.HELLO, 0, HELLO) + frames.message(kind, 0, HELLO))
        await reader.read()

    async with agent(twice, monkeypatch):
        with pytest.raises(LinkLost, match="greets with a frame of type"):
            await connect()


async def test_nothing_of_a_handshake_is_kept_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames in one piece with READY are looked at as those that come later."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.HELLO, 0, HELLO))
        await message(reader)
        more = b"".join(frames.message(frames.READY, 0, {f"k{n}": {}}) for n in range(10))
        writer.write(frames.message(frames.READY, 0, READY) + more)
        await reader.read()

    async with agent(peer, monkeypatch):
        decoded = counted(monkeypatch)
        link = await connect()
        await asyncio.sleep(0.05)
        assert not link._greetings
        assert not link._reader._data
        hello, ready = (len(frames.encode(each)) for each in (HELLO, READY))
        assert (decoded.count(hello), decoded.count(ready)) == (1, 1)
        assert not link.lost.done()
        link.close("over")


async def test_many_frames_of_one_agent_leave_turns_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        got: list[int] = []
        stream = link.open(lambda kind, _value: got.append(kind), 10**9)
        link.data_received(frames.frame(frames.STDOUT, stream) * 1000)
        turns = [len(got)]
        while len(got) < 1000:
            await asyncio.sleep(0)
            turns.append(len(got))
        assert max(later - before for before, later in itertools.pairwise([0, *turns])) == 64
        await fed(link, frames.frame(frames.STDERR, stream))
        assert got == [frames.STDOUT] * 1000 + [frames.STDERR]
        link.close("over")


async def test_frames_behind_the_end_of_a_link_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(greets(), monkeypatch):
        link = await connect()
        got: list[int] = []

        def once(kind: int, _value: object) -> None:
            got.append(kind)
            link.close("enough")

        stream = link.open(once, 10**6)
        await fed(link, frames.frame(frames.STDOUT, stream) * 100)
        assert got == [frames.STDOUT]
