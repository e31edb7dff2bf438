"""The sandbox of a test: a new one, a shared one after a reset, or a shared one as the last test left it."""

import pytest

from pytest_arl import SandboxFixture, SandboxSession


def files(sandbox: SandboxSession) -> list[str]:
    return sandbox.run("ls").check().stdout.split()


# arl_sandbox: a sandbox for each test (or wider, by `pytest --arl-scope=module`)


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_has_a_sandbox_of_its_own(arl_sandbox: SandboxFixture, turn: int) -> None:
    assert files(arl_sandbox) == []
    arl_sandbox.write(f"left-by-{turn}", "")


# a wider scope: one sandbox, reset between tests to the state that the fixtures prepared


@pytest.mark.parametrize("turn", [1, 2])
def test_a_shared_sandbox_is_reset_between_tests(per_module: SandboxSession, dataset: str, turn: int) -> None:
    assert files(per_module) == [dataset]
    assert per_module.run("tail", "-n1", dataset).check().stdout == "1000\n"
    per_module.run("rm", dataset).check()
    per_module.write(f"left-by-{turn}", "")


class TestClass:
    names: set[str] = set()  # noqa: RUF012 - shared by the two tests

    @pytest.mark.parametrize("turn", [1, 2])
    def test_a_class_shares_one(self, per_class: SandboxSession, turn: int) -> None:
        self.names.add(per_class.name)
        assert self.names == {per_class.name}


# keep_workspace=True: the tests build on one another

turns: list[str] = []


@pytest.mark.parametrize("turn", ["a", "b"])
def test_a_kept_workspace_is_as_the_last_test_left_it(per_session: SandboxSession, turn: str) -> None:
    turns.append(turn)
    per_session.run("sh", "-c", f"echo {turn} >> turns.txt").check()
    assert per_session.read_text("turns.txt").split() == turns
