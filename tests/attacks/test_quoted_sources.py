"""Test modules that code in a sandbox replaces, where pytest's rootdir is a ``:rw`` mount.

Tracebacks quote a module's file as it is by then: pytest once showed lines of any file that a link named, and waited
for ever where a FIFO was.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.attacks.conftest import share_rootdir

_POOL = """
[tool.pytest-arl]
pool = "around"
[tool.pytest-arl.pools.around]
mounts = [".:/project:rw"]
"""
_MODULE = """
    {first}

    def test_of_attack(arl_sandbox):
        assert arl_sandbox.run("sh", "-c", {script!r}).exit_code == 0
        {fails}
"""
_ENOUGH = 4 << 30  # bytes of address space, for a run that would else take all memory of this machine
_SECONDS = 120


@pytest.fixture
def rootdir(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A rootdir in which root's sandboxes too may replace what is there."""
    monkeypatch.setenv("PYTEST_ARL_TRUST", str(pytester.path))
    share_rootdir(pytester, tmp_path_factory, monkeypatch, mode=0o777)
    pytester.makepyprojecttoml(_POOL)
    return pytester.path


def attack(
    pytester: pytest.Pytester, script: str, fails: str = "assert 1 == 2  # as it was", first: str = "", *options: str
) -> str:
    """What pytest prints where a test has a script run in a sandbox and then fails."""
    pytester.makepyfile(test_attack=dedent(_MODULE.format(first=first, script=script, fails=fails)))
    temporary = f"--basetemp={os.environ['HOME']}/temporary"  # pytester's own lies in the rootdir
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_ENOUGH, before[1]))
    try:
        command = ("-p", "no:randomly", "-o", "addopts=", temporary, *options)
        result = pytester.run(sys.executable, "-m", "pytest", *command, timeout=_SECONDS)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    result.assert_outcomes(failed=1, warnings=result.parseoutcomes().get("warnings", 0))
    return result.stdout.str()


def test_a_module_that_is_as_it_was_is_quoted(rootdir: Path, pytester: pytest.Pytester) -> None:
    assert "assert 1 == 2  # as it was" in attack(pytester, "true")


@pytest.mark.parametrize("way", ["the file", "its folder"])
def test_no_line_is_quoted_of_what_a_link_leads_to(
    rootdir: Path, pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "test_attack.py"
    secret.write_text("of this machine alone\n" * 20)
    if way == "the file":
        script = f"rm test_attack.py && ln -s {secret} test_attack.py"
        assert "of this machine alone" not in attack(pytester, f"cd /project && {script}")
        return
    pytester.mkdir("below").chmod(0o777)
    (rootdir / "below/helper.py").write_text("def fail():\n    raise ValueError\n")
    secret.rename(secret.with_name("helper.py"))
    script = f"cd /project && mv below away && ln -s {secret.parent} below"
    load = (
        "import importlib.util as u; spec = u.spec_from_file_location('helper', 'below/helper.py'); "
        "helper = u.module_from_spec(spec); spec.loader.exec_module(helper)"
    )
    said = attack(pytester, script, "helper.fail()", load)
    assert "ValueError" in said
    assert "of this machine alone" not in said


@pytest.mark.parametrize(
    "script",
    [
        "rm test_attack.py && mkfifo test_attack.py",
        "rm test_attack.py && ln -s /dev/zero test_attack.py",
        "truncate -s 8G new && mv -f new test_attack.py",
        """python3 -c 'print("x = " + "-" * 300000 + "1")' > new && mv -f new test_attack.py""",
        "rm test_attack.py && mkdir test_attack.py",
    ],
    ids=["fifo", "device", "hole", "depth", "folder"],
)
def test_what_cannot_be_read_holds_up_no_report(rootdir: Path, pytester: pytest.Pytester, script: str) -> None:
    said = attack(pytester, f"cd /project && {script}")
    assert "E   assert 1 == 2" in said
    assert "INTERNALERROR" not in said


def test_a_warning_quotes_no_such_file_either(
    rootdir: Path, pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("of this machine alone\n" * 20)
    warn = "import warnings; warnings.warn('a warning of the test'); assert False"
    for options in ((), ("-n", "1")):
        script = f"cd /project && rm test_attack.py && ln -s {secret} test_attack.py"
        said = attack(pytester, script, warn, "", *options)
        assert "a warning of the test" in said
        assert "of this machine alone" not in said
        (rootdir / "test_attack.py").unlink()
