"""How a Task shows that it is the holder's: what its client writes, and the operator checks.

Whoever may make Tasks in a namespace can name any Sandbox there, and read all that its objects say. So the client seals
a key of its own for the operator (RSAES-OAEP with SHA-256, RFC 8017) and puts it beside the holder of each Sandbox;
each Task has an HMAC over which Sandbox it is for, its own name, and what it runs. The agent takes each proof once: a
copy of a Task is another Task with the same proof.

The standard library only: a client has no other, and sealing takes nothing that is secret but what is sealed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KEY_BYTES", "LABEL", "LONGEST_SEALED", "is_proof", "modulus_of", "proof_of", "seal"]

KEY_BYTES = 32
LABEL = b"arl-task-key-v1"
"""The label of OAEP: what is sealed for one purpose is of no use for another."""
LONGEST_SEALED = 1024
"""Hexadecimal digits of a sealed key: an RSA modulus of 4096 bits."""

_EXPONENT = 65537
_SHORTEST_BITS, _LONGEST_BITS = 2048, 4096
_DIGEST = 32
_COVERED = ("sandboxRef", "steps", "timeout", "retries", "payloadHash")
"""All of a Task's spec that decides what runs: not how long it stays, its trace's id, or that it is cancelled."""


def modulus_of(text: object) -> int | None:
    """The modulus of a published key, in hexadecimal digits; None where it is not one to seal anything for."""
    try:
        modulus = int(text, 16) if isinstance(text, str) and len(text) <= LONGEST_SEALED else 0
    except ValueError:
        return None
    return modulus if modulus & 1 and _SHORTEST_BITS <= modulus.bit_length() <= _LONGEST_BITS else None


def seal(key: bytes, modulus: int) -> str:
    """A key that only who has the private half of that RSA key can read, in hexadecimal digits."""
    size = (modulus.bit_length() + 7) // 8
    hashed = hashlib.sha256(LABEL).digest()
    data = hashed + bytes(size - len(key) - 2 * _DIGEST - 2) + b"\1" + key
    seed = os.urandom(_DIGEST)
    masked = _xor(data, _mask(seed, len(data)))
    encoded = b"\0" + _xor(seed, _mask(masked, _DIGEST)) + masked
    return pow(int.from_bytes(encoded, "big"), _EXPONENT, modulus).to_bytes(size, "big").hex()


def _mask(seed: bytes, size: int) -> bytes:
    """MGF1."""
    count = -(-size // _DIGEST)
    return b"".join(hashlib.sha256(seed + number.to_bytes(4, "big")).digest() for number in range(count))[:size]


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def proof_of(key: bytes, sandbox_uid: str, name: str, spec: Mapping[str, Any]) -> str:
    """The proof of a Task, in hexadecimal digits: of that name, for that Sandbox, with that spec."""
    covered: dict[str, Any] = {field: spec[field] for field in _COVERED if spec.get(field) is not None}
    covered["steps"] = [{field: each for field, each in step.items() if each is not None} for step in spec["steps"]]
    text = json.dumps([sandbox_uid, name, covered], sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, b"arl-task-v1\0" + text.encode(), "sha256").hex()


def is_proof(given: object, wanted: str) -> bool:
    """True if they are the same, found out in a time that tells nothing."""
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, wanted)
