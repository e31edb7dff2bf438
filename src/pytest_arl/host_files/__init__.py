"""Work on this machine's files where somebody else decides names: a sandbox, a repository, the command line.

A path that is looked up twice may lead to two places. So a folder is opened once, and everything in it is reached from
its descriptor, one name at a time, links never followed: what is swapped meanwhile leads nowhere else.

Standard library only.
"""

from __future__ import annotations

from pytest_arl.host_files.below import open_below
from pytest_arl.host_files.folders import Folder, open_folder
from pytest_arl.host_files.sources import Source

__all__ = ["Folder", "Source", "open_below", "open_folder"]
