"""The files of /etc that say who and where a sandbox is, and which of this machine's it may see."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from pytest_arl.backends.local.layout import HOSTNAME, UID, Layout

__all__ = ["USER", "add_host_files", "add_resolver", "identity_files", "new_name"]

USER = "arl"
_LONGEST_LABEL = 63 - len("-123abc")
"""RFC 1035, 2.3.4; Linux allows one character more."""
_LONGEST = 1024 * 1024
_SMALL = 64 * 1024
"""Bytes: what is smaller is copied, for each further mount costs a sandbox's start more than that."""
_USERS = (b"root:x:0:0:root:/root:/sbin/nologin", b"nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin")
_GROUPS = (b"root:x:0:", b"nogroup:x:65534:")

_SHARED = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    # Certificates, not /etc/ssl as a whole: it holds private keys.
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/localtime",
)


def new_name(pool: str) -> str:
    """A name for a sandbox of that pool: its hostname too, and so a label of the DNS whatever the pool is called."""
    label = re.sub(r"[^a-z0-9]+", "-", pool.lower())[:_LONGEST_LABEL].strip("-")
    return f"{label or 'sandbox'}-{secrets.token_hex(3)}"


def identity_files(root: Path | None) -> dict[str, bytes]:
    """Path and content of the generated files; users and groups of a root folder are kept beside the sandbox's own."""
    user = USER.encode()
    users = _without(root, "etc/passwd") or list(_USERS)
    groups = _without(root, "etc/group") or list(_GROUPS)
    users.append(b"%s:x:%s:%s:%s:/home/arl:/bin/sh" % (user, UID, UID, user))
    groups.append(b"%s:x:%s:" % (user, UID))
    return {
        "/etc/passwd": b"\n".join(users) + b"\n",
        "/etc/group": b"\n".join(groups) + b"\n",
        "/etc/hosts": b"127.0.0.1 localhost %s\n::1 localhost ip6-localhost ip6-loopback\n" % HOSTNAME,
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    }


def _without(root: Path | None, path: str) -> list[bytes]:
    """The lines of a root folder's user or group file that do not claim our name."""
    if root is None:
        return []
    try:
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        lines = os.read(descriptor, _LONGEST).splitlines()
    except OSError:
        return []
    finally:
        os.close(descriptor)
    return [line for line in lines if line.strip() and not line.startswith(USER.encode() + b":")]


def add_host_files(layout: Layout) -> None:
    """This machine's files of /etc that programs of its /usr need."""
    for name in _SHARED:
        path = Path(name)
        if path.is_symlink() and str(path.resolve()).startswith("/usr/") and path.exists():
            layout.symlink(str(path.resolve()), name)
        elif path.is_file() and path.stat().st_size <= _SMALL:
            layout.file(name, path.read_bytes())
        elif path.exists():
            layout.bind(path.resolve(), name)


def add_resolver(layout: Layout) -> None:
    """Add the files by which names are resolved on this machine's network."""
    resolver = Path("/etc/resolv.conf")
    if resolver.exists():
        layout.bind(resolver.resolve(), str(resolver))
