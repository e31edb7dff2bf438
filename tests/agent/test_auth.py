"""Who an agent that listens believes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pytest_arl.agent import auth
from pytest_arl.cluster import pod
from tests.agent.remote_harness import MODULUS, POD, sign

NONCE = bytes(range(32))
KEYS = [(MODULUS, 65537)]
SIZE = 256  # bytes of the modulus


def test_a_signature_with_the_operators_key_is_believed() -> None:
    message = auth.challenge(NONCE, POD, "b00t", 3)

    assert auth.signed(message, sign(message), KEYS)


@pytest.mark.parametrize(
    "other",
    [(NONCE[::-1], POD, "b00t", 3), (NONCE, POD[::-1], "b00t", 3), (NONCE, POD, "b01t", 3), (NONCE, POD, "b00t", 4)],
    ids=["nonce", "pod", "boot", "epoch"],
)
def test_a_signature_is_for_one_connection_of_one_agent_in_one_epoch(other: tuple[bytes, str, str, int]) -> None:
    signature = sign(auth.challenge(NONCE, POD, "b00t", 3))

    assert not auth.signed(auth.challenge(*other), signature, KEYS)


def test_no_two_challenges_are_alike() -> None:
    assert auth.challenge(NONCE, POD, "1", 23) != auth.challenge(NONCE, POD, "12", 3)
    assert auth.challenge(NONCE, "1", "23", 4) != auth.challenge(NONCE, "12", "3", 4)


def test_any_of_the_keys_will_do() -> None:
    other = MODULUS + 2  # nobody has its private half

    assert auth.signed(b"text", sign(b"text"), [(other, 65537), *KEYS])
    assert not auth.signed(b"text", sign(b"text"), [(other, 65537)])


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes(SIZE),
        bytes(SIZE - 1) + b"\1",
        b"\xff" * SIZE,
        sign(b"text") + b"\0",
        b"\0" + sign(b"text"),
        sign(b"text")[:-1],
        (int.from_bytes(sign(b"text")) + MODULUS).to_bytes(SIZE + 1),
        sign(b"text").hex(),
        None,
        7,
        [sign(b"text")],
    ],
    ids=["empty", "zero", "one", "large", "longer", "padded", "shorter", "plus modulus", "text", "none", "int", "list"],
)
def test_what_is_no_signature_is_not_believed(signature: object) -> None:
    assert not auth.signed(b"text", signature, KEYS)


def test_a_signature_has_one_form_only() -> None:
    """Its number plus the modulus is the same to ``pow``, and fits where it is small."""
    for number in range(100):
        message = b"%d" % number
        other = int.from_bytes(sign(message)) + MODULUS
        if other < 1 << (8 * SIZE):
            assert not auth.signed(message, other.to_bytes(SIZE), KEYS)
            return
    raise AssertionError("no signature was small enough")


def encoded_as(encoded: bytes) -> bytes:
    """A signature of just these bytes, made with the private key: what only a bug in the check would let through."""
    from tests.agent.remote_harness import _PRIVATE

    return pow(int.from_bytes(encoded), _PRIVATE, MODULUS).to_bytes(SIZE)


def test_the_whole_padding_is_checked() -> None:
    tail = auth._DIGEST_INFO + auth.digest(b"text")
    right = b"\0\1" + b"\xff" * (SIZE - len(tail) - 3) + b"\0" + tail
    assert auth.signed(b"text", encoded_as(right), KEYS)
    short = b"\0\1" + b"\xff" * 8 + b"\0" + tail
    for wrong in (
        short + b"\0" * (SIZE - len(short)),  # what follows the digest is anything: Bleichenbacher's forgery
        right[:2] + b"\xfe" + right[3:],
        b"\0\2" + right[2:],
        right[: -len(tail) - 1] + b"\1" + tail,
        b"\0\1" + b"\xff" * (SIZE - 32 - 3) + b"\0" + auth.digest(b"text"),  # no algorithm named
    ):
        assert not auth.signed(b"text", encoded_as(wrong), KEYS)


def test_what_a_usual_library_signs_is_believed() -> None:
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.hashes import SHA256

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = key.public_key().public_numbers()
    keys = auth.read_keys(pod.keys_variable([(numbers.n, numbers.e)]))
    message = auth.challenge(NONCE, POD, "b00t", 3)

    assert auth.signed(message, key.sign(message, padding.PKCS1v15(), SHA256()), keys)


# Keys


def test_keys_are_read_as_they_were_written() -> None:
    keys = [(MODULUS, 65537), (MODULUS + 2, 3)]

    assert auth.read_keys(pod.keys_variable(keys)) == keys


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[",
        "[]",
        "{}",
        '"text"',
        "[1]",
        "[{}]",
        '[{"n": "ff", "e": 65537}]',
        '[{"n": "no number", "e": 65537}]',
        '[{"n": 7, "e": 65537}]',
        json.dumps([{"n": f"{MODULUS:x}"}]),
        json.dumps([{"n": f"{MODULUS:x}", "e": 1}]),
        json.dumps([{"n": f"{MODULUS:x}", "e": True}]),
        json.dumps([{"n": f"{MODULUS:x}", "e": "65537"}]),
        json.dumps([{"n": f"{MODULUS + 1:x}", "e": 65537}]),
        json.dumps([{"n": f"{MODULUS:x}", "e": 65537}]) + "x",
        json.dumps([{"n": f"{MODULUS:x}", "e": 65537}] * 17),
    ],
)
def test_what_is_no_list_of_strong_keys_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RSA"):
        auth.read_keys(text)


def test_keys_are_read_without_loading_what_takes_long() -> None:
    program = (
        "import sys; from pytest_arl.agent import auth; auth.read_keys(sys.argv[1]); "
        "print(sorted({'json', 'hashlib', '_hashlib'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", program, pod.keys_variable(KEYS)]

    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"


# The holder


def test_the_holders_secret_is_known_by_its_digest() -> None:
    holder = auth.digest(b"secret").hex()

    assert auth.same(b"secret", holder)
    for other in (b"", b"Secret", "secret", None, holder, holder.encode(), bytes.fromhex(holder)):
        assert not auth.same(other, holder)


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", b"0" * 64, None, 0])
def test_what_is_no_digest_is_told_apart(text: object) -> None:
    assert auth.is_digest("0123456789abcdef" * 4)
    assert not auth.is_digest(text)
