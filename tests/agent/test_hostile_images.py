"""An image that somebody else made: what its variables and files would have the agent load."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.cluster import pod
from tests.agent import remote_harness
from tests.agent.remote_harness import agent_of

OURS = ("/arl/", "/proc/", "/dev/", "/sys/fs/cgroup", "/arl-spool/", "/workspace/")
OWN = ("/", "/proc", "/workspace", "/tmp", "/home/arl", "/dev/shm")
"""Folders, whose size the agent asks for or which it enters."""

HOSTILE = {
    "LD_PRELOAD": "/image/mark.so",
    "LD_AUDIT": "/image/audit.so",
    "LD_LIBRARY_PATH": "/image/lib",
    "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=165",
    "LANG": "xx_XX.ISO-8859-7",
    "LC_CTYPE": "C.UTF-8",
    "LANGUAGE": "xx",
    "LOCPATH": "/image/locale",
    "GCONV_PATH": "/image/gconv",
    "NLSPATH": "/image/%N.cat",
    "TZ": "Image/Zone",
    "TZDIR": "/image/zoneinfo",
    "PYTHONHOME": "/image/python",
    "PYTHONPATH": "/image/python",
    "PYTHONMALLOC": "debug",
    "PYTHONCOERCECLOCALE": "warn",
    "OPENSSL_CONF": "/image/openssl.cnf",
    "MALLOC_TRACE": "/image/trace",
}
"""What an image may set, of all that a loader, a C library and a Python read before a program's first line."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root folder with a file wherever these variables lead, and wherever is looked without any."""
    image = tmp_path / "image"
    for name in ("image/mark.so", "image/audit.so", "image/lib/libc.so.6", "image/lib/libm.so.6", "image/gconv/gconv-modules",
                 "image/locale/C.UTF-8/LC_CTYPE", "image/zoneinfo/Image/Zone", "image/openssl.cnf", "etc/ld.so.cache",
                 "etc/localtime", "usr/lib/locale/locale-archive", "usr/lib/locale/C.utf8/LC_CTYPE", "lib/libm.so.6",
                 "usr/share/locale/locale.alias", "usr/share/zoneinfo/UTC", "arl/bin/python3._pth", "arl/pyvenv.cfg",
                 "etc/mark"):  # fmt: skip
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        (image / name).touch()
    (image / "etc/ld.so.preload").write_text("/image/mark.so\n")
    return image


def opened(trace: Path, program: str) -> tuple[set[str], set[str]]:
    """Each file that was named by what began as ``program`` in its life, and by all others since that began."""
    lines = [line.split(maxsplit=1) for line in trace.read_text().splitlines()]
    first, at = next((pid, at) for at, (pid, call) in enumerate(lines) if call.startswith(f'execve("{program}"'))
    named: tuple[set[str], set[str]] = (set(), set())
    for pid, call in lines[at:]:
        if not re.match(r"\w+\(\d|<", call):  # one below an open folder, or the second half of a call
            named[pid != first].update(re.findall(r'"((?:[^"\\]|\\.)*)"', call)[:1])
    return named


def test_the_agent_opens_no_file_of_the_image_whatever_its_variables_say(
    bubblewrap: str, folder: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace here")
    wrapper = tmp_path / "traced"
    wrapper.write_text(f'#!/bin/sh\nexec {strace} -D -f -qq -e trace=%file -o {tmp_path}/trace {bubblewrap} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(remote_harness, "BUBBLEWRAP", str(wrapper))
    variables = tuple(word for name, value in HOSTILE.items() for word in ("--setenv", name, value))
    files = ["--bind", str(image), "/", "--ro-bind", str(folder), "/arl", "--proc", "/proc", "--dev", "/dev"]
    with agent_of(argv=pod.agent_command("/arl"), files=files, extra=variables) as agent:
        operator = agent.operator(config=AgentConfig())
        seen = operator.run(*pod.INTERPRETER, "-c", "import posix; open('/etc/mark'); print(posix.environ)")
        sandbox = agent.holder()
        sandbox.write("file", b"content", None)
        assert sandbox.read("file") == b"content"

    assert (
        HOSTILE.items() <= {os.fsdecode(name): os.fsdecode(value) for name, value in eval(seen.stdout).items()}.items()
    )
    agents, steps = opened(tmp_path / "trace", "/arl/start")
    assert {name for name in agents if not name.startswith(OURS) and name not in OWN} == set()
    assert "/arl/agent" in agents, "the positive control: what the agent reads is seen"
    assert {"/etc/mark", "/image/mark.so", "/image/audit.so"} <= steps, "likewise: what a step's loader and a step read"
    assert "/etc/ld.so.preload" not in steps, "that interpreter's loader is ours"
