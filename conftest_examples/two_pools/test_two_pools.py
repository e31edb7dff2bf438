"""Choosing pools: for a test, for each of its parameters, or two at once."""

import pytest

from pytest_arl import SandboxFixture, SandboxSession

ASK = ("sh", "-c", "echo ${FLAVOUR:-none}")


@pytest.mark.arl(pool_ref="small", timeout=30)
def test_a_marker_chooses_the_pool(arl_sandbox: SandboxFixture) -> None:
    assert arl_sandbox.run(*ASK).check().stdout == "small\n"


@pytest.mark.parametrize("arl_sandbox", ["python-39-std", "small"], indirect=True)
def test_one_test_on_every_pool(arl_sandbox: SandboxFixture) -> None:
    assert arl_sandbox.run("python3", "-c", "print(6 * 7)").check().stdout == "42\n"


def test_two_sandboxes_see_nothing_of_each_other(arl_sandbox: SandboxFixture, small: SandboxSession) -> None:
    arl_sandbox.write("secret.txt", "for this sandbox only")
    small.write("/tmp/other.txt", "")

    assert arl_sandbox.run("cat", "secret.txt").ok
    assert small.run("cat", "secret.txt").exit_code == 1
    assert not arl_sandbox.run("test", "-e", "/tmp/other.txt").ok
    assert arl_sandbox.name != small.name


def test_data_goes_from_one_to_the_other_through_the_test(arl_sandbox: SandboxFixture) -> None:
    with arl_sandbox(pool_ref="small") as producer:  # closed here; without `with`, together with arl_sandbox
        data = producer.run("seq", "3").check().stdout_bytes

    assert arl_sandbox.run("sort", "-r", stdin=data).check().stdout == "3\n2\n1\n"
