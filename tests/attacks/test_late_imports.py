"""What code in a sandbox puts into pytest's rootdir, where that is a ``:rw`` mount and on ``sys.path``.

With the name of a module that a plugin imports late, as some do when a test has failed, pytest itself once ran it; and
metadata of a package can name one for whoever looks for plugins late.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
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


@pytest.fixture
def rootdir(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A rootdir that also root's sandboxes can write, though root believes its configuration."""
    share_rootdir(pytester, tmp_path_factory, monkeypatch, mode=0o1777)
    pytester.makepyprojecttoml(_POOL)
    pytester.path.joinpath("pyproject.toml").chmod(0o644)
    return pytester.path


def attack(pytester: pytest.Pytester, script: str, after: str = "pass", *options: str) -> pytest.RunResult:
    """Run a shell script in the sandbox of a test that then fails, with a line of Python before."""
    code = f"""
        def test_of_attack(arl_sandbox):
            arl_sandbox.run("sh", "-c", {script!r})
            {after}
            assert 1 == 2
    """
    pytester.makepyfile(test_attack=dedent(code))
    temporary = f"--basetemp={os.environ['HOME']}/temporary"  # pytester's own lies in the rootdir
    return pytester.runpytest_subprocess("-p", "no:randomly", "-o", "addopts=", temporary, *options)


def test_a_module_that_comes_later_is_not_imported(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    late = """try:
                import arl_late
            except ImportError:
                print("not found")"""
    result = attack(pytester, "echo 'print(\"run by pytest\")' > /project/arl_late.py; ls /project", late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_late.py").exists()
    result.stdout.fnmatch_lines(["not found"])
    result.stdout.no_fnmatch_line("run by pytest")


def test_a_module_that_was_there_is_imported(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("")
    (rootdir / "arl_early.py").write_text("print('run by pytest')")
    result = attack(pytester, "true", "import arl_early")
    result.stdout.fnmatch_lines(["run by pytest"])


def test_what_was_no_module_does_not_become_one(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    (rootdir / "arl_report.xml").touch()
    pytester.mkdir("arl_folder").chmod(0o777)
    (rootdir / "arl_early.py").write_text("print('an early one')")
    script = """cd /project
        echo 'print("run by pytest")' | tee arl_report.py > arl_folder/__init__.py"""
    late = """import importlib
            importlib.import_module("arl_early")
            for name in ("arl_report", "arl_folder"):
                try:
                    importlib.import_module(name)
                except ImportError:
                    print(name, "not found")"""
    result = attack(pytester, script, late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_report.py").exists()
    assert (rootdir / "arl_folder/__init__.py").exists()
    result.stdout.fnmatch_lines(["an early one", "arl_report not found", "arl_folder not found"])
    result.stdout.no_fnmatch_line("run by pytest")


_PLANT = """mkdir -p /project/arl_evil-1.0.dist-info && cd /project/arl_evil-1.0.dist-info
    echo 'Metadata-Version: 2.1\nName: arl-evil\nVersion: 1.0' > METADATA
    echo '[arl_plugins]\nevil = arl_early' > entry_points.txt"""
_LOOK = """import {0} as metadata
            print("names:", sorted(point.name for point in metadata.entry_points(group="arl_plugins")))
            for name in ("arl-good", "Arl.Evil"):
                try:
                    print(metadata.distribution(name).metadata["Name"], "found")
                except metadata.PackageNotFoundError:
                    print(name, "not found")"""


def give_metadata(rootdir: Path, ending: str = "-1.0.dist-info") -> Path:
    """A package's, by the name of arl_good, with one entry point."""
    folder = rootdir / f"arl_good{ending}"
    folder.mkdir()
    for name in ("METADATA", "PKG-INFO"):
        (folder / name).write_text("Metadata-Version: 2.1\nName: arl_good\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[arl_plugins]\ngood = arl_early\n")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    return folder


@pytest.mark.parametrize("ending", ["-1.0.dist-info", ".egg-info"])
def test_metadata_that_comes_later_is_not_found(rootdir: Path, pytester: pytest.Pytester, ending: str) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    give_metadata(rootdir, ending)
    result = attack(pytester, _PLANT, _LOOK.format("importlib.metadata"))
    result.assert_outcomes(failed=1)
    assert {point.name for point in _entry_points(rootdir)} == {"good", "evil"}  # any other process finds it
    result.stdout.fnmatch_lines(["names: ['good']", "arl_good found", "Arl.Evil not found"])


def _entry_points(folder: Path) -> list[importlib.metadata.EntryPoint]:
    return [point for found in importlib.metadata.distributions(path=[str(folder)]) for point in found.entry_points]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_metadata_that_comes_later_is_not_found_by_the_backport(
    rootdir: Path, pytester: pytest.Pytester, moment: str
) -> None:
    """Libraries that load entry points late often do it by the package importlib_metadata."""
    library = pytester.mkdir("library")
    source = Path(importlib.metadata.__file__).parent
    shutil.copytree(source, library / "importlib_metadata", ignore=shutil.ignore_patterns("__pycache__"))
    with (library / "importlib_metadata/__init__.py").open("a") as file:
        file.write("\nsys.meta_path.append(MetadataPathFinder())\n")  # as the package on PyPI does
    first = "import importlib_metadata" if moment == "before" else "import importlib.metadata"
    pytester.makeconftest(f"import sys; sys.path.insert(0, {str(library)!r}); {first}")
    give_metadata(rootdir)
    result = attack(pytester, _PLANT, _LOOK.format("importlib_metadata"))
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_evil-1.0.dist-info/METADATA").exists()
    result.stdout.fnmatch_lines(["names: ['good'*", "arl_good found", "Arl.Evil not found"])
    result.stdout.no_fnmatch_line("names:*evil*")


@pytest.mark.parametrize("ending", ["-1.0.dist-info", ".egg-info"])
def test_metadata_that_was_there_stays_as_it_was(rootdir: Path, pytester: pytest.Pytester, ending: str) -> None:
    pytester.makeconftest("")
    folder = give_metadata(rootdir, ending)
    names = sorted(os.listdir(folder))
    script = f"""cd /project/{folder.name}
        for name in entry_points.txt top_level.txt; do echo '[arl_plugins]\nevil = arl_early' >> $name; done
        mv /project/{folder.name} /project/moved; rm -rf /project/{folder.name}
        touch /project/beside"""
    result = attack(pytester, script, _LOOK.format("importlib.metadata"))
    result.assert_outcomes(failed=1)
    assert (rootdir / "beside").exists()
    assert sorted(os.listdir(folder)) == names
    result.stdout.fnmatch_lines(["names: ['good']", "arl_good found"])


@pytest.mark.parametrize("below", ["", "/inner"])
def test_a_mount_of_metadata_is_refused(rootdir: Path, pytester: pytest.Pytester, below: str) -> None:
    pytester.makeconftest("")
    source = f"{give_metadata(rootdir).name}{below}"
    (rootdir / source).mkdir(exist_ok=True)
    (rootdir / source).chmod(0o777)
    pytester.makepyprojecttoml(_POOL.replace(".:/project", f"{source}:/project"))
    result = attack(pytester, "true")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*metadata of a package on sys.path*mount it :ro, or mount a copy*"])


def test_pkgutil_lists_the_modules_that_were_there(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("")
    (rootdir / "arl_early.py").touch()
    late = """import pkgutil
            print("names:", sorted(found.name for found in pkgutil.iter_modules() if found.name.startswith("arl_")))"""
    result = attack(pytester, "touch /project/arl_late.py", late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_late.py").exists()
    result.stdout.fnmatch_lines(["names: ['arl_early']"])


def test_another_spelling_of_the_folder_is_the_same_folder(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("")
    link = Path(os.environ["HOME"], "link")
    link.symlink_to(rootdir)
    (rootdir / "arl_early.py").touch()
    late = f"""import importlib, sys
            for spelling in (".", {f"{rootdir}/."!r}, {str(link)!r}):
                sys.path.insert(0, spelling)
                importlib.invalidate_caches()
                import arl_early
                print(arl_early.__spec__.origin)
                del sys.modules["arl_early"]
                try:
                    import arl_late
                except ImportError:
                    print("not found")"""
    result = attack(pytester, "echo 'print(\"run by pytest\")' > /project/arl_late.py", late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_late.py").exists()
    for place in (rootdir, f"{rootdir}/.", link):
        result.stdout.fnmatch_lines([f"{place}/arl_early.py", "not found"])
    result.stdout.no_fnmatch_line("run by pytest")


def test_a_mounted_folder_below_does_not_become_a_package(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    pytester.makepyprojecttoml(_POOL.replace(".:/project", "arl_build:/project"))
    pytester.mkdir("arl_build").chmod(0o777)
    late = """try:
                import arl_build.late
            except ImportError:
                print("not found")
            from pathlib import Path
            Path("arl_own.py").write_text("print('what the test makes beside it')")
            import importlib; importlib.invalidate_caches()
            import arl_own"""
    result = attack(pytester, "echo 'print(\"run by pytest\")' | tee /project/__init__.py > /project/late.py", late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_build/__init__.py").exists()
    result.stdout.fnmatch_lines(["not found", "what the test makes beside it"])
    result.stdout.no_fnmatch_line("run by pytest")


def test_neither_other_workers_nor_the_controller_import_what_came(rootdir: Path, pytester: pytest.Pytester) -> None:
    """A worker that has made no sandbox yet, and the controller, which never does."""
    look = """
        from importlib.metadata import entry_points

        def look(who):
            assert not entry_points(group="arl_plugins"), who
            try:
                import arl_late
            except ImportError:
                print(who, "not found")
    """
    pytester.makeconftest(
        dedent(look)
        + dedent("""
        import os

        def pytest_sessionfinish(session):
            if not hasattr(session.config, "workerinput"):
                assert os.path.exists("arl_late.py")
                look("controller")
        """)
    )
    test = f"""
        import os, time
        import pytest
        from conftest import look

        @pytest.mark.parametrize("number", range(2))
        def test_of_attack(number, request):
            if number == 0:
                sandbox = request.getfixturevalue("arl_sandbox")
                sandbox.run("sh", "-c", {_PLANT + "; echo 'raise OSError' > /project/arl_late.py"!r}).check()
                return
            while not os.path.exists("arl_late.py"):
                time.sleep(0.02)
            look("worker")
    """
    pytester.makepyfile(test_attack=dedent(test))
    temporary = f"--basetemp={os.environ['HOME']}/temporary"
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-o", "addopts=", temporary, "-n", "2", "-rP")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["worker not found"])
    result.stdout.fnmatch_lines(["*controller not found"])


def test_a_script_without_pytest_finds_nothing_either(rootdir: Path, pytester: pytest.Pytester) -> None:
    give_metadata(rootdir)
    (rootdir / "arl_early.py").write_text("print('an early one')")
    script = f"""
        from pytest_arl import SandboxSession
        with SandboxSession("around") as session:
            session.run("sh", "-c", {_PLANT + "; echo 'raise OSError' > /project/arl_late.py"!r}).check()
        for point in __import__("importlib.metadata").metadata.entry_points(group="arl_plugins"):
            print(point.name)
        import arl_early
        try:
            import arl_late
        except ImportError:
            print("not found")
    """
    (rootdir / "arl_script.py").write_text(dedent(script))
    done = subprocess.run([sys.executable, "arl_script.py"], cwd=rootdir, capture_output=True, text=True, check=False)
    assert (rootdir / "arl_late.py").exists(), done.stderr
    assert done.stdout.splitlines() == ["good", "an early one", "not found"]
