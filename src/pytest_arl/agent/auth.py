"""Admission to an agent that listens: the operator, by a signature, and the sandbox's holder, by a secret.

Nothing secret is in the pod. The agent has public keys and sends a nonce; the operator signs what ``challenge`` gives
(RSASSA-PKCS1-v1_5 with SHA-256, which is one ``pow`` here). The operator tells the agent the SHA-256 of the holder's
secret. No part of a signature is parsed: the one right encoding is built and compared as a whole.

The other way round, something else may listen on the port once the agent has ended, and repeat all that is public. So
the operator leaves a mark with the agent when it first meets it, one of its own and one of the holder's, and each asks
for a proof of it later.
"""

from __future__ import annotations

from _operator import _compare_digest as _equal

try:
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found]  # 3.12; hashlib would load OpenSSL
except ImportError:
    from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]  # 3.11

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "MARK_BYTES",
    "NONCE_BYTES",
    "Keys",
    "challenge",
    "digest",
    "is_digest",
    "proof",
    "read_keys",
    "same",
    "signed",
]

Keys = list[tuple[int, int]]
"""RSA public keys: modulus and exponent."""

NONCE_BYTES = MARK_BYTES = 32
_SHORTEST_BITS = 2048
_SHORTEST_EXPONENT = 3
_MOST_KEYS = 16
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, 9.2: SHA-256


def challenge(nonce: bytes, pod: str, boot: str, epoch: int) -> bytes:
    """The message that the operator signs: for this connection only, to this agent only, as the leader of this epoch.

    The nonce has a fixed length, and neither a pod's UID nor a boot id holds a NUL: no two challenges are alike.
    """
    return b"\0".join((b"arl-operator-v1", nonce, pod.encode(), boot.encode(), str(epoch).encode()))


def signed(message: bytes, signature: object, keys: Keys) -> bool:
    """True if one of the keys has signed the message."""
    return isinstance(signature, bytes) and any(_signed(message, signature, *key) for key in keys)


def _signed(message: bytes, signature: bytes, modulus: int, exponent: int) -> bool:
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != size or number >= modulus:
        return False
    encoded = _DIGEST_INFO + digest(message)
    wanted = b"\0\1" + b"\xff" * (size - len(encoded) - 3) + b"\0" + encoded
    return pow(number, exponent, modulus).to_bytes(size, "big") == wanted


def digest(data: bytes) -> bytes:
    """Its SHA-256."""
    value: bytes = _sha256(data).digest()
    return value


def is_digest(text: object) -> bool:
    """True if this is a SHA-256 in hexadecimal digits, lower case."""
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def same(secret: object, holder: str) -> bool:
    """True if a secret has this digest (hexadecimal); the time that it takes tells nothing."""
    return isinstance(secret, bytes) and bool(_equal(digest(secret).hex(), holder))


def proof(mark: bytes, nonce: bytes) -> bytes:
    """The answer to a nonce that only an agent with that mark can give. Both have a fixed length."""
    return digest(b"arl-agent-v1\0" + mark + nonce)


def read_keys(text: str) -> Keys:
    """The keys of ``[{"n": "hexadecimal digits", "e": 65537}]``. ValueError for anything else, and for weak ones."""
    try:
        value = _read_json(text)
        keys = [(int(key["n"], 16), key["e"]) for key in value]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError("not a JSON list of RSA public keys: " + str(error)) from None
    if not 0 < len(keys) <= _MOST_KEYS:
        raise ValueError("expected 1 to " + str(_MOST_KEYS) + " RSA public keys, got " + str(len(keys)))
    for modulus, exponent in keys:
        if not isinstance(exponent, int) or exponent < _SHORTEST_EXPONENT or not exponent & modulus & 1:
            raise ValueError("an RSA public key has an invalid exponent or an even modulus")
        if modulus.bit_length() < _SHORTEST_BITS:
            raise ValueError("an RSA public key has fewer than " + str(_SHORTEST_BITS) + " bits")
    return keys


def _read_json(text: str) -> list[dict[str, Any]]:
    """JSON by the C half of ``json`` alone, as the whole costs 2 ms."""
    from _json import make_scanner  # noqa: PLC0415 - wanted once

    class Context:
        strict = True
        object_hook = object_pairs_hook = None
        parse_float = parse_constant = str
        parse_int = int
        memo: dict[str, str] = {}  # noqa: RUF012 - as the scanner wants it

    text = text.strip()
    try:
        value, end = make_scanner(Context)(text, 0)  # type: ignore[arg-type]  # it takes what has these attributes
    except (StopIteration, ImportError):  # its errors are in the half that is not there
        raise ValueError("not JSON") from None
    if end != len(text) or not isinstance(value, list):
        raise ValueError("not a JSON list")
    return value
