"""Paths that a caller names, and that turn out to be links: a repository or a submission may have brought them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["link_refused", "looked_up", "named"]

_MOST_LINKS = 40  # as the kernel has it


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
        f"{what}: {path} is a link to {target!r}, which may be anything on this machine: name its target, or give "
        "follow_symlinks=True if it may be followed"
    )


def looked_up(path: Path) -> Iterator[Path]:
    """Every place where the kernel looks a name up on its way along a path, each without a link above it."""
    pending = list(Path.cwd().joinpath(path).parts[1:])
    here = Path("/")
    links = 0
    while pending and links <= _MOST_LINKS:
        part = pending.pop(0)
        if part == "..":
            here = here.parent
            continue
        step = here / part
        yield step
        try:
            target = step.readlink()
        except OSError:
            here = step  # no link, or not there yet
            continue
        links += 1
        here = Path("/") if target.is_absolute() else here
        pending = [*(part for part in target.parts if part != "/"), *pending]
