"""Files of this machine are reached through one room, `host_files`: by descriptors, where others decide names.

A path that is looked up again may lead elsewhere by then. So everywhere else a call that opens, makes, moves or removes
by path needs a reason, here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pytest_arl"

ROOM = "host_files/"
ELSEWHERE = ("agent/", "operator/")
"""These run in sandboxes and in a pod of their own: no file of a user's machine is there."""

OF_MODULES = {
    "os": {"chmod", "chown", "link", "makedirs", "mkdir", "open", "remove", "removedirs", "rename", "renames", "replace"}
    | {"rmdir", "symlink", "truncate", "unlink"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"},
    "tempfile": {"NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory", "TemporaryFile", "mkdtemp", "mkstemp"},
}  # fmt: skip
OF_PATHS = {"chmod", "hardlink_to", "mkdir", "read_bytes", "read_text", "rename", "rmdir", "symlink_to", "touch"} | {
    "unlink",
    "write_bytes",
    "write_text",
}
DIRECTED = {"dir_fd", "src_dir_fd"}
"""With one of these, a name is looked up in an open folder."""

KERNELS = "cgroupfs: no sandbox and no repository decides names there"
SHIPPED = "our own package's files"
ASKED = "a command of the developer's, with no sandbox about"
ALLOWED: dict[str, tuple[str, set[str]]] = {
    "agent_package/image.py": (ASKED, {"NamedTemporaryFile", "chmod", "mkdir", "read_bytes", "touch", "write_bytes", "write_text"}),
    "backends/kubernetes/access.py": ("the service account that the kubelet mounts", {"read_text"}),
    "backends/local/*": ("procfs, cgroupfs, and what a plan holds open and compares", {"open", "read_bytes", "read_text"}),
    "backends/local/cgroups.py": (KERNELS, {"mkdir", "rmdir"}),
    "backends/local/sandbox_process.py": ("in TMPDIR, where no file without a name can be had", {"mkstemp", "unlink"}),
    "backends/local/hierarchies.py": (KERNELS, {"mkdir", "rmdir", "write_text"}),
    "backends/local/janitor_program.py": (KERNELS, {"rmdir"}),
    "agent_client/file_transfer.py": ("a file without a name, for a checkpoint", {"SpooledTemporaryFile"}),
    "cli/cluster_checks.py": (SHIPPED, {"read_text"}),
    "cli/subcommands.py": ("/dev/null", {"open"}),
    "config_files.py": ("the one place that reads configuration, once", {"open"}),
    "cluster/__main__.py": (ASKED, {"read_text", "write_text"}),
    "cluster/installation.py": (SHIPPED, {"read_text"}),
    "agent_package/elf.py": ("programs of an image that is made, by a command of the developer's", {"read_bytes"}),
    "session/async_methods.py": ("a file of the sandbox", {"read_text"}),
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[str]:
    """Names of calls that look a path up; those in an open folder, and methods of other things, are none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or DIRECTED & {keyword.arg for keyword in node.keywords}:
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            yield called.id
        elif isinstance(called, ast.Attribute) and _by_path(node, called):
            yield called.attr


def _by_path(node: ast.Call, called: ast.Attribute) -> bool:
    name = called.attr
    if isinstance(called.value, ast.Name) and called.value.id in OF_MODULES:
        return name in OF_MODULES[called.value.id]
    if name == "replace":  # a str's has two arguments
        return len(node.args) == 1 and not node.keywords
    if name == "open":  # a path's has a mode, or is of something that is named so
        mode = node.args[0] if node.args else None
        return isinstance(mode, ast.Constant) or "path" in ast.unparse(called.value)
    return name in OF_PATHS


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("shutil.move(a, b)", "move"),
        ("open(path)", "open"),
        ("os.open(path, flags)", "open"),
        ("path.open('wb')", "open"),
        ("path.mkdir(parents=True)", "mkdir"),
        ("path.write_bytes(b'')", "write_bytes"),
        ("path.write_text('')", "write_text"),
        ("path.unlink()", "unlink"),
        ("os.unlink(path)", "unlink"),
        ("path.rename(other)", "rename"),
        ("os.replace(a, b)", "replace"),
        ("os.remove(path)", "remove"),
        ("path.open()", "open"),
        ("self._path.read_text()", "read_text"),
        ("path.replace(other)", "replace"),
        ("shutil.rmtree(path)", "rmtree"),
        ("os.open(name, flags, dir_fd=folder)", None),
        ("os.rename(a, b, src_dir_fd=x, dst_dir_fd=y)", None),
        ("text.replace('a', 'b')", None),
        ("channel.open()", None),
        ("os.fdopen(descriptor)", None),
        ("names.remove(name)", None),
        ("sources.open(way.end)", None),
    ],
)
def test_the_reader_of_calls_sees_those_by_path(code: str, found: str | None) -> None:
    assert list(calls(ast.parse(code))) == ([found] if found else [])


def _modules() -> list[Path]:
    return [
        path
        for path in sorted(SOURCE.rglob("*.py"))
        if not str(path.relative_to(SOURCE)).startswith((ROOM, *ELSEWHERE))
    ]


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_reached_through_their_room_or_for_a_reason(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    allowed = {call for key, (_, found) in ALLOWED.items() if fnmatch(name, key) for call in found}
    assert set(calls(ast.parse(path.read_text(encoding="utf-8")))) - allowed == set()


@pytest.mark.parametrize("key", [key for key in ALLOWED if "*" not in key])
def test_no_reason_is_left_for_calls_that_are_gone(key: str) -> None:
    found = set(calls(ast.parse((SOURCE / key).read_text(encoding="utf-8"))))
    assert ALLOWED[key][1] <= found
