"""(In the agent's image) Copy the folder of the agent to where the sandbox's container finds it.

``install.py DIRECTORY``. The file that starts the agent comes last, under its name only when it is whole: where it is,
everything is, and nothing is copied twice over what runs.
"""

from __future__ import annotations

import os
import sys

__all__ = ["install"]

_LAST = "boot.py"
_PIECE = 1 << 24


def install(source: str, destination: str) -> None:
    """Copy all below ``source``, readable for every user."""
    if os.path.exists(os.path.join(destination, _LAST)):
        return
    for folder, folders, names in os.walk(source):
        there = os.path.join(destination, os.path.relpath(folder, source))
        for name in folders:
            os.makedirs(os.path.join(there, name), 0o755, exist_ok=True)
        for name in names:
            if folder != source or name != _LAST:
                _copy(os.path.join(folder, name), os.path.join(there, name))
    last = os.path.join(destination, _LAST)
    _copy(os.path.join(source, _LAST), last + ".tmp")
    os.rename(last + ".tmp", last)


def _copy(source: str, destination: str) -> None:
    here = os.open(source, os.O_RDONLY)
    there = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while os.sendfile(there, here, None, _PIECE):
        pass
    os.fchmod(there, os.fstat(here).st_mode & 0o777)
    os.close(there)
    os.close(here)


if __name__ == "__main__":
    install(os.path.dirname(os.path.abspath(sys.argv[0])), sys.argv[1])
