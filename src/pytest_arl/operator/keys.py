"""The operator's key: who has it is let in by the agents. It lives in a Secret that the operator makes by itself.

Every entry of the Secret is a private key in PEM, and agents are told the public half of each; ``key.pem`` signs. To
rotate, add the new one under another name, let the pools' pods be replaced, then swap the names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pytest_arl.agent.auth import challenge
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.names import GROUP
from pytest_arl.cluster.pod import keys_variable
from pytest_arl.cluster.proof import KEY_BYTES, LABEL
from pytest_arl.operator.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.operator.async_api import AsyncApi

__all__ = ["SECRET", "Keys", "load"]

SECRET = "arl-operator-key"  # noqa: S105 - its name
_SIGNING = "key.pem"
_BITS = 2048
_MOST_OPENED = 4096
"""Sealed keys that are remembered opened: a test run has one, and opening takes as long as signing."""


class Keys:
    """The key that signs, and all that are believed.

    Attributes:
        public: the variable by which agents are told.
        modulus: of the key that clients seal theirs for, in hexadecimal digits; its exponent is 65537.
        claims: keys for the MACs on claimed pods and for the marks of agents, that of the key that signs first.
    """

    def __init__(self, pems: Mapping[str, bytes]) -> None:
        loaded = {name: serialization.load_pem_private_key(pem, None) for name, pem in sorted(pems.items())}
        found = {name: each for name, each in loaded.items() if isinstance(each, rsa.RSAPrivateKey)}
        if _SIGNING not in found or len(found) != len(loaded):
            raise ValueError(f"the Secret {SECRET} needs RSA keys in PEM, one of them as {_SIGNING}")
        self._signing = found[_SIGNING]
        numbers = [each.public_key().public_numbers() for each in found.values()]
        self.public = keys_variable([(each.n, each.e) for each in numbers])
        self.modulus = f"{self._signing.public_key().public_numbers().n:x}"
        self._keys = list(found.values())
        self.opened = functools.lru_cache(_MOST_OPENED)(self._opened)
        others = [each for name, each in found.items() if name != _SIGNING]
        self.claims = [_derived(each) for each in (self._signing, *others)]

    def sign(self, nonce: bytes, pod: str, boot: str, epoch: int) -> bytes:
        """The answer to an agent's nonce."""
        return self._signing.sign(challenge(nonce, pod, boot, epoch), padding.PKCS1v15(), hashes.SHA256())

    def marks(self, pod: str, boot: str) -> list[bytes]:
        """An agent's marks, one by each of the keys: it is known again by the first or, after a rotation, by
        another.
        """
        text = b"\0".join((b"arl-agent-v1", pod.encode(), boot.encode()))
        return [hmac.digest(key, text, "sha256") for key in self.claims]

    def _opened(self, sealed: str) -> bytes | None:
        """A client's key that was sealed for one of ours; None where it was not."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), LABEL)
        for key in self._keys:
            try:
                found = key.decrypt(bytes.fromhex(sealed), oaep)
            except ValueError:
                continue
            return found if len(found) == KEY_BYTES else None
        return None


async def load(api: AsyncApi, namespace: str) -> Keys:
    """The keys of the Secret, which is made where it is not there."""
    where = path("secrets", namespace, SECRET)
    try:
        found = await api.get(where)
    except ApiError as error:
        if error.status != 404:
            raise
        try:
            found = await api.create(path("secrets", namespace), _new(namespace))
        except ApiError as refused:
            if refused.status != 409:
                raise
            found = await api.get(where)
    return Keys({name: base64.b64decode(text) for name, text in (found.get("data") or {}).items()})


def _derived(key: rsa.RSAPrivateKey) -> bytes:
    """A secret of its own for another purpose: what is made with it tells nothing of the key."""
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return hashlib.sha256(f"{GROUP}/claim\0".encode() + der).digest()


def _new(namespace: str) -> dict[str, object]:
    pem = rsa.generate_private_key(public_exponent=65537, key_size=_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace},
        "type": "Opaque",
        "data": {_SIGNING: base64.b64encode(pem).decode()},
    }
