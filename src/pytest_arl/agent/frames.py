"""The wire: values, frames and their parser. Shared by both ends.

A *frame* is a header (payload length, type, stream) and a payload of at most ``MAX_PAYLOAD`` bytes, so
that a long transfer never blocks a short answer for long. A *message* is a value (None, bool, int, float,
bytes, str, list, dict with str keys) in one frame or more: all but its last are full and have the type ``MORE``.
Streams tell exchanges apart: whoever opens one picks its number and every answer carries it.

Nothing here trusts its input: what is malformed raises :class:`ProtocolError`, never anything else.
"""

from __future__ import annotations

import _struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Buffer = bytes | bytearray | memoryview

VERSION = 1
"""Both ends must speak the same version; the first message of either side names it."""

MAX_PAYLOAD = 256 * 1024
"""Bytes in one frame. 256 KiB is where larger writes to a socket stopped being faster (2 cores, Linux 6)."""

MAX_MESSAGE = 256 * 1024 * 1024
"""Bytes in one message, all its frames together: bounds what a peer can make this side hold."""

MAX_DEPTH = 8
"""Nesting of a value. Ours nest four deep."""

MAX_ITEMS = 2_000_000
"""Items of all lists and dicts of one message: five bytes of it become an empty dict of 64."""

# Frame types. 0x00-0x3f carry raw bytes, 0x40-0x7f carry a value.
MORE = 0x01  # a part of a message that continues in the next frame of its stream
STDOUT = 0x02  # output of a step as it comes: step (u32), bytes
STDERR = 0x03
STDOUT_TAIL = 0x04  # the end of output whose middle is not sent: step (u32), bytes
STDERR_TAIL = 0x05
DATA = 0x06  # a piece of a file, of stdin, of kept output

HELLO = 0x40  # agent: who it is; host: what it is to be
READY = 0x41  # agent: at work
TASK = 0x42  # host: run these steps
STEP = 0x43  # agent: a step has ended
DONE = 0x44  # agent: the task has ended
CANCEL = 0x45  # host: end the running step of a task
PROCESS = 0x46  # host: about a background process
FETCH = 0x47  # host: all of a step's output
PUT = 0x48  # host: files are coming
GET = 0x49  # host: send files
ENTRY = 0x4A  # either: one file, folder or link of a transfer
END = 0x4B  # either: nothing more of this transfer
WRITE = 0x4C  # host: one file, whole
RESET = 0x4D  # host: checkpoints
REPLY = 0x4E  # agent: the answer to a request that has one
ERROR = 0x4F  # agent: why there is no answer
PING = 0x50  # host
PONG = 0x51  # agent
ATTACH = 0x52  # host: answer as to the TASK of this id, if there is one
SUPPLY = 0x53  # host: the steps of a TASK that will name them by their digest
HOLE = 0x54  # either: so many bytes of a file are nothing but zeros, and take no room
SPEND = 0x55  # host: no TASK is to run for this proof any more
LAST = SPEND

CONTENT = "content"
"""The key of what is large in messages: a file's content."""

_CONTENT = CONTENT.encode()
_BYTES = 0x62  # b
_WORDS = {0x4E: None, 0x54: True, 0x46: False}  # N, T, F
VALUE = 0x40
"""The first type of a frame that carries a value."""

_LARGE = 16 * 1024  # bytes from which on it pays to handle a piece by itself
HEADER = _struct.Struct("!IBI")
STEP_INDEX = _struct.Struct("!I")
_U32 = _struct.Struct("!I")
_I64 = _struct.Struct("!q")
_F64 = _struct.Struct("!d")


class ProtocolError(Exception):
    """The peer sent what no version of this protocol has, or more than it may."""


def encode(value: object) -> bytes:
    """A value as bytes. TypeError for a type that the wire has not, ValueError for a number too large for it."""
    return b"".join(_parts(value))


def _parts(value: object) -> list[Buffer]:
    out: list[Buffer] = []
    try:
        _encode(value, out)
    except _struct.error as error:  # type: ignore[attr-defined]  # it is there
        raise ValueError("a value cannot be encoded: " + str(error)) from None
    return out


def _encode(value: object, out: list[Buffer]) -> None:
    put = _PUT.get(type(value))
    if put is None:
        put = next((each for kind, each in _PUT.items() if isinstance(value, kind)), None)
        if put is None:
            raise TypeError("cannot encode " + type(value).__name__)
    put(value, out)


def _put_text(value: str, out: list[Buffer]) -> None:
    raw = value.encode("utf-8", "surrogateescape")
    out.append(b"s" + _U32.pack(len(raw)))
    out.append(raw)


def _put_bytes(value: Buffer, out: list[Buffer]) -> None:
    out.append(b"b" + _U32.pack(len(value)))
    out.append(value)


def _put_list(value: list[object] | tuple[object, ...], out: list[Buffer]) -> None:
    out.append(b"l" + _U32.pack(len(value)))
    for item in value:
        _encode(item, out)


def _put_dict(value: dict[str, object], out: list[Buffer]) -> None:
    out.append(b"d" + _U32.pack(len(value)))
    for key, item in value.items():
        out.append(_KEYS.get(key) or _encoded_key(key))
        (_PUT.get(type(item)) or _encode)(item, out)


_KEYS: dict[str, bytes] = {}
"""Keys of dicts as the wire has them: ours are few, and always the same."""
_NAMES: dict[bytes, str] = {}
"""The same, by the bytes of the key."""
_MOST_KEYS, _LONGEST_KEY = 512, 32


def _encoded_key(key: object) -> bytes:
    if not isinstance(key, str):
        raise TypeError("cannot encode a key that is " + type(key).__name__)
    raw = key.encode()
    encoded = _U32.pack(len(raw)) + raw
    if len(raw) <= _LONGEST_KEY and len(_KEYS) < _MOST_KEYS:
        _KEYS[key] = encoded
    return encoded


def _decoded_key(raw: bytes) -> str:
    key = raw.decode()
    if len(raw) <= _LONGEST_KEY and len(_NAMES) < _MOST_KEYS:
        _NAMES[raw] = key
    return key


_PUT: dict[type, Callable[[Any, list[Buffer]], None]] = {
    dict: _put_dict,
    bytes: _put_bytes,
    str: _put_text,
    bool: lambda value, out: out.append(b"T" if value else b"F"),  # before int, which it is a kind of
    int: lambda value, out: out.append(b"i" + _I64.pack(value)),
    float: lambda value, out: out.append(b"f" + _F64.pack(value)),
    type(None): lambda _value, out: out.append(b"N"),
    list: _put_list,
    tuple: _put_list,
    bytearray: _put_bytes,
    memoryview: _put_bytes,
}


def decode(data: bytes | bytearray | memoryview, most: int | None = None) -> object:
    """The value of :func:`encode`'s bytes, of at most so many items (else MAX_ITEMS). ProtocolError for anything else.

    In a large buffer that is not bytes, those of a key CONTENT are not copied but a read-only view of it, which must
    then stay as it is.
    """
    if isinstance(data, bytes):
        raw: bytes | memoryview = data
    else:
        raw = bytes(data) if len(data) < _LARGE else memoryview(data).toreadonly()
    try:
        value, end = _decode(raw, 0, 0, [MAX_ITEMS if most is None else most])
    except (_struct.error, IndexError, UnicodeDecodeError) as error:  # type: ignore[attr-defined]  # it is there
        raise ProtocolError("a value is cut short or garbled: " + str(error)) from None
    if end != len(raw):
        raise ProtocolError("unexpected bytes after the value")
    return value


def _bounds(raw: bytes | memoryview, at: int) -> tuple[int, int]:
    """Begin and end of the bytes whose length is next."""
    begin = at + 4
    end = begin + _U32.unpack_from(raw, at)[0]
    if end > len(raw):
        raise ProtocolError("a value is longer than its message")
    return begin, end


def _decode(  # noqa: C901, PLR0911 - one case for each type
    raw: bytes | memoryview, at: int, depth: int, left: list[int]
) -> tuple[object, int]:
    kind = raw[at]
    at += 1
    if kind == _BYTES:
        begin, end = _bounds(raw, at)
        return bytes(raw[begin:end]), end
    if kind == 0x69:  # i
        return _I64.unpack_from(raw, at)[0], at + 8
    if kind == 0x73:  # s
        begin, end = _bounds(raw, at)
        return str(raw[begin:end], "utf-8", "surrogateescape"), end
    if kind == 0x66:  # f
        return _F64.unpack_from(raw, at)[0], at + 8
    if kind in _WORDS:
        return _WORDS[kind], at
    if kind not in (0x6C, 0x64):
        raise ProtocolError("unknown type byte " + repr(kind))
    if depth == MAX_DEPTH:
        raise ProtocolError("a value nests too deep")
    (count,) = _U32.unpack_from(raw, at)
    at += 4
    left[0] -= count
    if left[0] < 0:
        raise ProtocolError("a value has too many items")
    if kind == 0x64:  # d
        return _decode_dict(raw, at, count, depth + 1, left)
    items = []
    for _ in range(count):
        item, at = _decode(raw, at, depth + 1, left)
        items.append(item)
    return items, at


def _decode_dict(
    raw: bytes | memoryview, at: int, count: int, depth: int, left: list[int]
) -> tuple[dict[str, object], int]:
    # Most of what is said is a dict, so here the calls are spared that _bounds and _decode would be.
    table: dict[str, object] = {}
    views, size, whole = type(raw) is memoryview, _U32.unpack_from, len(raw)
    for _ in range(count):
        begin = at + 4
        at = begin + size(raw, at)[0]
        key = bytes(raw[begin:at])
        name = _NAMES.get(key) or _decoded_key(key)
        kind = raw[at]  # IndexError where the key is cut short
        if kind == _BYTES:
            begin = at + 5
            at = begin + size(raw, at + 1)[0]
            if at > whole:
                raise ProtocolError("a value is longer than its message")
            table[name] = raw[begin:at] if views and key == _CONTENT else bytes(raw[begin:at])
        elif kind in _WORDS:
            at += 1
            table[name] = _WORDS[kind]
        else:
            table[name], at = _decode(raw, at, depth, left)
    if len(table) != count:
        raise ProtocolError("a value has a key twice")
    return table, at


def frame(kind: int, stream: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame. The payload has at most MAX_PAYLOAD bytes."""
    return HEADER.pack(len(payload), kind, stream) + payload


def message(kind: int, stream: int, value: object) -> bytes:
    """A value as the frames of one message. TypeError and ValueError as ``encode`` has them."""
    return split(kind, stream, encode(value))


def pieces(kind: int, stream: int, value: object) -> list[Buffer]:
    """The result of :func:`message` in pieces to be sent one after the other: what is large in it is not copied."""
    parts = _parts(value)
    left = sum(map(len, parts))
    if left <= MAX_PAYLOAD:
        return [HEADER.pack(left, kind, stream) + b"".join(parts)]
    _check_message(left)
    out: list[Buffer] = []
    room = 0
    for part in _joined(parts):
        view = memoryview(part)
        while view:
            if not room:
                room = min(left, MAX_PAYLOAD)
                out.append(HEADER.pack(room, kind if room == left else MORE, stream))
            out.append(view[:room])
            taken = len(out[-1])
            view = view[taken:]
            room -= taken
            left -= taken
    return out


def _joined(parts: list[Buffer]) -> Iterator[Buffer]:
    """The same bytes in few parts: the short ones between two large ones as one."""
    short: list[Buffer] = []
    for part in parts:
        if len(part) < _LARGE:
            short.append(part)
            continue
        yield b"".join(short)
        short = []
        yield part
    yield b"".join(short)


def split(kind: int, stream: int, body: bytes) -> bytes:
    """An encoded value as the frames of one message."""
    if len(body) <= MAX_PAYLOAD:
        return HEADER.pack(len(body), kind, stream) + body
    _check_message(len(body))
    out: list[Buffer] = []
    view = memoryview(body)
    for at in range(0, len(body), MAX_PAYLOAD):
        piece = view[at : at + MAX_PAYLOAD]
        last = at + MAX_PAYLOAD >= len(body)
        out += (HEADER.pack(len(piece), kind if last else MORE, stream), piece)
    return b"".join(out)


def _check_message(size: int) -> None:
    if size > MAX_MESSAGE:
        raise ValueError("a message of " + str(size) + " bytes is over the limit of " + str(MAX_MESSAGE))


class Parser:
    """Bytes in, frames and messages out.

    ``feed`` takes bytes as they come and returns what they complete: ``(kind, stream, value)`` with the decoded
    value for messages and with the bytes for raw frames. After a ProtocolError the parser is of no more use.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()  # of a short frame
        self._parts: dict[int, bytearray] = {}
        self._held = 0
        self._missing = 0  # bytes of a large frame that is under way,
        self._into = bytearray()  # and where they go
        self._under_way = 0, 0, 0  # its type, stream and length

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, int, object]]:
        """The messages that ``data`` completes, in order."""
        found: list[tuple[int, int, object]] = []
        if self._missing:
            data = self._fill(memoryview(data), found)
        if self._buffer:
            self._buffer += data
            at = self._cut(self._buffer, found)
            if at:
                del self._buffer[:at]
        else:
            at = self._cut(data, found)
            if at < len(data):
                self._buffer += memoryview(data)[at:]
        return found

    @property
    def between(self) -> bool:
        """True if no message has begun that is not complete."""
        return not (self._buffer or self._parts or self._missing)

    def _cut(self, buffer: bytes | bytearray | memoryview, found: list[tuple[int, int, object]]) -> int:
        """Cut off every complete frame; where the first incomplete one begins."""
        at = 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - at >= HEADER.size:
                size, kind, stream = HEADER.unpack_from(view, at)
                if size > MAX_PAYLOAD:
                    raise ProtocolError("a frame of " + str(size) + " bytes is over the limit of " + str(MAX_PAYLOAD))
                start = at + HEADER.size
                partly = end - start < size
                if partly and size < _LARGE:
                    break
                at = start + size
                if partly or kind == MORE:
                    self._begin(kind, stream, size)
                    self._fill(view[start:at], found)
                    at = min(at, end)
                elif kind >= VALUE:
                    self._message(kind, stream, bytes(view[start:at]), 0, found)
                elif STDOUT <= kind <= DATA:
                    found.append((kind, stream, bytes(view[start:at])))
                else:
                    raise _refused(kind, size)
        return at

    def _begin(self, kind: int, stream: int, size: int) -> None:
        """A large frame: its bytes are collected as they come, a message's all in one place."""
        if kind == MORE:
            # Were shorter ones allowed, empty parts of many streams would be held and not be counted.
            if size != MAX_PAYLOAD:
                raise _refused(kind, size)
            self._held += size
            if self._held > MAX_MESSAGE:
                raise ProtocolError("unfinished messages are over the limit of " + str(MAX_MESSAGE) + " bytes")
            self._into = self._parts.setdefault(stream, bytearray())
        elif kind >= VALUE and stream in self._parts:
            self._into = self._parts[stream]
        elif kind >= STDOUT:
            self._into = bytearray()
        else:
            raise _refused(kind, size)
        self._missing = size
        self._under_way = kind, stream, size

    def _fill(self, data: memoryview, found: list[tuple[int, int, object]]) -> memoryview:
        """Take what belongs to the large frame under way; what is left of ``data``."""
        mine = data[: self._missing]
        self._into += mine
        self._missing -= len(mine)
        if not self._missing:
            kind, stream, size = self._under_way
            if kind >= VALUE:
                self._message(kind, stream, self._into, size, found)
            elif kind != MORE:
                found.append((kind, stream, bytes(self._into)))
            self._into = bytearray()
        return data[len(mine) :]

    def _message(
        self, kind: int, stream: int, payload: bytes | bytearray, filled: int, found: list[tuple[int, int, object]]
    ) -> None:
        """The last frame of a message has come; ``filled`` of its bytes are where the others are already."""
        if kind > LAST:
            raise ProtocolError("unknown message type " + str(kind))
        parts = self._parts.pop(stream, None) if self._parts else None
        if parts is not None:
            self._held -= len(parts) - filled
            if not filled:
                parts += payload
            payload = parts
        found.append((kind, stream, decode(payload)))


def _refused(kind: int, size: int) -> ProtocolError:
    if kind != MORE:
        return ProtocolError("unknown frame type " + str(kind))
    return ProtocolError("a part of a message has " + str(size) + " bytes: only the last may be short")
