import asyncio
import base64
from typing import Any

import pytest

from pytest_arl.agent.auth import challenge, read_keys, signed
from pytest_arl.backends.kubernetes.sealing import seal
from pytest_arl.cluster.proof import modulus_of
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.keys import Keys, load


class Secrets:
    def __init__(self) -> None:
        self.there: Any = None
        self.beaten: Any = None

    async def get(self, _where: Any) -> Any:
        if self.there is None:
            raise ApiError(404, "NotFound", "none")
        return self.there

    async def create(self, _where: Any, body: Any) -> Any:
        if self.beaten is not None:
            self.there = self.beaten
            raise ApiError(409, "AlreadyExists", "there")
        self.there = body
        return body


def secrets() -> Any:
    return Secrets()


def test_a_key_is_made_once_and_agents_believe_it() -> None:
    async def scene() -> None:
        there = secrets()
        keys = await load(there, "ns")
        again = await load(there, "ns")
        assert keys.public == again.public
        nonce = b"n" * 32
        believed = read_keys(keys.public)
        message = challenge(nonce, "pod", "boot", 5)
        assert signed(message, keys.sign(nonce, "pod", "boot", 5), believed)
        assert not signed(message, keys.sign(nonce, "pod", "boot", 4), believed)
        assert not signed(message, keys.sign(nonce, "other", "boot", 5), believed)

    asyncio.run(scene())


def test_an_operator_that_loses_the_race_uses_the_others_key() -> None:
    async def scene() -> None:
        winner, loser = secrets(), secrets()
        keys = await load(winner, "ns")
        loser.beaten = winner.there
        assert (await load(loser, "ns")).public == keys.public

    asyncio.run(scene())


def test_every_key_of_the_secret_is_believed_and_one_signs() -> None:
    async def scene() -> None:
        one, other = secrets(), secrets()
        await load(one, "ns")
        await load(other, "ns")
        pems = {
            "key.pem": base64.b64decode(one.there["data"]["key.pem"]),
            "old.pem": base64.b64decode(other.there["data"]["key.pem"]),
        }
        keys = Keys(pems)
        believed = read_keys(keys.public)
        assert len(believed) == 2
        assert signed(challenge(b"n" * 32, "p", "b", 1), keys.sign(b"n" * 32, "p", "b", 1), believed[:1])
        with pytest.raises(ValueError, match=r"key\.pem"):
            Keys({"old.pem": pems["old.pem"]})

    asyncio.run(scene())


def test_what_a_client_seals_with_a_published_key_the_operator_opens_and_no_other_does() -> None:
    async def scene() -> None:
        keys, other = await load(secrets(), "ns"), await load(secrets(), "ns")
        modulus, others = modulus_of(keys.modulus), modulus_of(other.modulus)
        assert modulus is not None
        assert others is not None
        for key in (b"k" * 32, bytes(32), b"\xff" * 32):
            sealed = seal(key, modulus)
            assert sealed != seal(key, modulus), "twice is never the same"
            assert keys.opened(sealed) == key
            assert other.opened(sealed) is None
            assert keys.opened(seal(key, others)) is None
        assert keys.opened(seal(b"k" * 31, modulus)) is None
        assert keys.opened("00" * 256) is None
        assert keys.opened("00") is None

    asyncio.run(scene())


@pytest.mark.parametrize("text", [None, 5, "", "xyz", "3", "f" * 511 + "e", "f" * 300, "f" * 1025, ["f" * 512]])
def test_nothing_is_sealed_for_what_is_no_key(text: object) -> None:
    assert modulus_of(text) is None
    assert modulus_of("f" * 512) is not None, "control"
