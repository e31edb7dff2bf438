"""The proof that a Task is the holder's: its client writes it, the operator checks it.

Whoever may make Tasks in a namespace can name any Sandbox there, and read all that its objects say. So the client seals
a key of its own for the operator (RSAES-OAEP with SHA-256, RFC 8017) and puts it beside the holder of each Sandbox;
each Task has an HMAC over which Sandbox it is for, its own name, and what it runs. The agent takes each proof once: a
copy of a Task is another Task with the same proof.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXPONENT", "KEY_BYTES", "LABEL", "LONGEST_SEALED", "agent_mark", "is_proof", "modulus_of", "proof_of"]

KEY_BYTES = 32
LABEL = b"arl-task-key-v1"
"""The label of OAEP: what is sealed for one purpose is of no use for another."""
LONGEST_SEALED = 1024
"""Hexadecimal digits of a sealed key: an RSA modulus of 4096 bits."""

EXPONENT = 65537
_SHORTEST_BITS, _LONGEST_BITS = 2048, 4096
_COVERED = ("sandboxRef", "steps", "timeout", "retries", "payloadHash")
"""All of a Task's spec that decides what runs: not how long it stays, its trace's id, or that it is cancelled."""


def modulus_of(text: object) -> int | None:
    """The modulus of a published key, in hexadecimal digits; None where it is not one to seal anything for."""
    try:
        modulus = int(text, 16) if isinstance(text, str) and len(text) <= LONGEST_SEALED else 0
    except ValueError:
        return None
    return modulus if modulus & 1 and _SHORTEST_BITS <= modulus.bit_length() <= _LONGEST_BITS else None


def proof_of(key: bytes, sandbox_uid: str, name: str, spec: Mapping[str, Any]) -> str:
    """The proof of a Task, in hexadecimal digits: of that name, for that Sandbox, with that spec."""
    covered: dict[str, Any] = {field: spec[field] for field in _COVERED if spec.get(field) is not None}
    covered["steps"] = [{field: each for field, each in step.items() if each is not None} for step in spec["steps"]]
    text = json.dumps([sandbox_uid, name, covered], sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, b"arl-task-v1\0" + text.encode(), "sha256").hex()


def agent_mark(key: bytes, sandbox_uid: str) -> bytes:
    """The mark that the operator leaves with the agent of a Sandbox, and its client asks for: what else takes the port
    does not have it.
    """
    return hmac.digest(key, b"arl-agent-v1\0" + sandbox_uid.encode(), "sha256")


def is_proof(given: object, wanted: str) -> bool:
    """True if they are the same, found out in a time that tells nothing."""
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, wanted)
