"""A key for the operator's eyes only, in an object that everybody in the namespace reads."""

from __future__ import annotations

from pytest_arl.cluster.proof import EXPONENT, LABEL

__all__ = ["seal"]


def seal(key: bytes, modulus: int) -> str:
    """A key that only the holder of the private half of that RSA key can read, in hexadecimal digits (RSAES-OAEP with
    SHA-256, RFC 8017).
    """
    # 30 ms: for those who use a cluster, once in a run.
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    public = rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()
    return public.encrypt(key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), LABEL)).hex()
