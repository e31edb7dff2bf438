"""Paths that a caller names, and that turn out to be links: a repository or a submission may have brought them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["link_refused", "named"]


def named(what: str, path: Path, *, follow: bool) -> Path:
    """The path to use for one that a caller named: what a link leads to, with ``follow``, else UsageError for it."""
    if not path.is_symlink():
        return path
    if not follow:
        raise link_refused(what, path, str(path.readlink()))
    return path.resolve()


def link_refused(what: str, path: Path, target: str) -> UsageError:
    """The error for a link that nobody said to follow."""
    return UsageError(
        f"{what}: {path} is a link to {target!r}, which may be anything on this machine: name what it leads to, or "
        "say follow_symlinks=True if it may be followed"
    )
