"""Any tree at all, downloaded to where anything may lie already: nothing outside changes, and what arrives is right."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_arl import SandboxSession, UsageError
from tests.generated import generated

_NAME = st.sampled_from(["a", "b", "c", "outside", "-", "\udcff", " x\n"])
_PATH = st.lists(_NAME, min_size=1, max_size=3).map("/".join)
_TARGET = st.one_of(
    st.sampled_from(["a", "b/c", "..", "../outside", "../../outside", "/tmp", "/etc/passwd", ".", "../a", "OUTSIDE"]),
    st.lists(st.sampled_from(["..", "a", "b", "outside"]), min_size=1, max_size=4).map("/".join),
)
_MADE = st.fixed_dictionaries(
    {
        "path": _PATH,
        "kind": st.sampled_from(["file", "file", "folder", "folder", "link", "link", "hard", "hole", "fifo"]),
        "target": _TARGET,
        "mode": st.sampled_from([0o644, 0o600, 0o755, 0o7777, 0o400]),
        "time": st.sampled_from([0, -1, 1_700_000_000, 13_569_465_600]),
        "size": st.integers(0, 70_000),
    }
)
_TREE = st.lists(_MADE, max_size=8)

_UMASK = os.umask(0o022)
os.umask(_UMASK)

_MAKE = """
import json, os, stat, sys
def make(root, tree):
    os.makedirs(root, exist_ok=True)
    for each in tree:
        path = os.path.join(root, each["path"])
        # A link that was made before would lead this out of the room: on this machine, to its /tmp.
        if os.path.realpath(path) != os.path.join(os.path.realpath(root), each["path"]): continue
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if each["kind"] == "folder": os.makedirs(path, exist_ok=True)
            elif each["kind"] == "link": os.symlink(each["target"], path)
            elif each["kind"] == "hard": os.link(os.path.join(root, each["target"]), path)
            elif each["kind"] == "fifo": os.mkfifo(path)
            else:
                with open(path, "xb") as file:
                    if each["kind"] == "hole": file.truncate(each["size"])
                    else: file.write(bytes(range(256)) * (each["size"] // 256))
            if each["kind"] in ("file", "hole", "folder"):
                os.utime(path, (each["time"], each["time"]))
                os.chmod(path, each["mode"] | 0o500 * (each["kind"] == "folder"))
        except OSError: pass
def look(root):
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            what = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}.get(stat.S_IFMT(state.st_mode))
            content = ""
            if what == "file":
                with open(path, "rb") as file: content = file.read().hex()
            elif what == "link": content = os.readlink(path)
            found[os.path.relpath(path, root)] = [what, content, stat.S_IMODE(state.st_mode), state.st_mtime_ns]
    return found
"""
_INSIDE = (
    _MAKE
    + """
os.system("chmod -R u+rwx /workspace; rm -rf /workspace/o")
make("/workspace/o", json.load(sys.stdin))
print(json.dumps(look("/workspace/o")))
"""
)
_here: dict[str, Any] = {}
exec(_MAKE, _here)


@generated(12)
@given(inside=_TREE, there=_TREE)
def test_a_download_changes_nothing_outside(
    sandbox: SandboxSession, tmp_path: Path, inside: list[dict[str, Any]], there: list[dict[str, Any]]
) -> None:
    room = tmp_path / "room"
    outside, destination = room / "outside", room / "deep" / "destination"
    shutil.rmtree(room, ignore_errors=True)
    outside.mkdir(parents=True)
    (outside / "file").write_text("mine")
    for each in there:
        each["target"] = each["target"].replace("OUTSIDE", str(outside))
    _here["make"](destination, [each for each in there if each["kind"] in {"file", "folder", "link"}])
    made = sandbox.run("python3", "-I", "-c", _INSIDE, stdin=json.dumps(inside)).check()
    sent = json.loads(made.stdout)
    before = _outside(room), _here["look"](destination)

    try:
        sandbox.download("o", destination)
    except (OSError, UsageError):
        arrived = _here["look"](destination)
        assert arrived == before[1], "a refused download leaves nothing"
    else:
        arrived = _here["look"](destination)
        expected = {name: _as_downloaded(*found) for name, found in sent.items() if found[0] is not None}
        old_folders = {name for name, found in before[1].items() if found[0] == "folder"}
        assert _without_state(arrived, old_folders, expected) == _without_state(expected, old_folders, expected)
        kept = {name: found for name, found in before[1].items() if name not in expected}
        assert _without_state(arrived, old_folders, kept) == _without_state(kept, old_folders, kept)
    assert _outside(room) == before[0]


def _as_downloaded(what: str, content: str, mode: int, time: int) -> list[Any]:
    """No file becomes setuid here, or open to whom the umask keeps out, and every folder can be looked into and removed.
    Links are what they are anywhere.
    """
    return [what, content, mode & 0o777 & ~_UMASK | 0o700 * (what == "folder"), time]


def _without_state(found: dict[str, list[Any]], folders: set[str], names: Iterable[str]) -> dict[str, Any]:
    """The entries under these names. Mode and time are left out for links, which have none of their own, and for
    folders that were there before: new entries change theirs.
    """
    return {
        name: found[name][:2] if name in folders or found[name][0] == "link" else found[name]
        for name in names
        if name in found
    } | {name: None for name in names if name not in found}


def _outside(room: Path) -> list[tuple[str, int, str]]:
    """All that is in the room but the destination's content."""
    found = []
    for path in sorted(room.rglob("*")):
        if "destination" not in path.relative_to(room).parts[:2] or path.name == "destination":
            text = path.read_text() if path.is_file() else ""
            found.append((str(path), path.lstat().st_mode, text))
    return found
