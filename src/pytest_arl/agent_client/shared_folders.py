"""Folders of this machine that a sandbox can write: nothing is copied through the links that it may put there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["keep_out"]


def keep_out(what: str, local: Path, shared: Mapping[Path, str]) -> None:
    """Raise UsageError where the sandbox itself can write what this side would handle: with a link that it puts in a
    folder's place meanwhile, it would decide which folder this side opens. ``shared`` has its folders here (resolved),
    and where it sees them.
    """
    if not shared:
        return
    written = Path(os.path.abspath(local))  # noqa: PTH100 - links stay
    # Each folder on the way, too: of `shared/x/../../y` the sandbox decides where it leads.
    passed = {written, *(folder.resolve() for folder in (local, *local.parents))}
    for source, target in shared.items():
        inside = any(folder.is_relative_to(source) for folder in passed)
        if inside or (local.is_dir() and source.is_relative_to(local.resolve())):
            raise UsageError(
                f"{what}: {local} is inside {source} or contains it, and the sandbox can write there: name another "
                f"folder, or copy in the sandbox, where it is {target}"
            )
