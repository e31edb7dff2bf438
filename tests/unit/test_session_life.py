"""From create_sandbox to delete_sandbox, and what is left: nothing."""

import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from inspect import signature
from typing import Any

import pytest

from pytest_arl import (
    PoolNotFound,
    SandboxClosed,
    SandboxSession,
    SandboxTimeout,
    UsageError,
)
from pytest_arl.backends.base import AcquireRequest
from pytest_arl.settings import override
from tests.toy_backend import ToyBackend, ToySandbox
from tests.unit.sessions import HELLO
from tests.waiting import until

USES: list[Callable[[SandboxSession], object]] = [
    lambda s: s.execute([HELLO]),
    lambda s: s.run("true"),
    lambda s: s.start("true"),
    lambda s: s.write("a", ""),
    lambda s: s.read("a"),
    lambda s: s.upload("/etc/hostname", "a"),
    lambda s: s.download("a", "b"),
    lambda s: s.checkpoint(),
    lambda s: s.reset(),
]


@pytest.mark.parametrize("use", USES)
def test_a_session_without_sandbox_says_how_to_get_one(
    use: Callable[[SandboxSession], object], toy: ToyBackend
) -> None:
    session = SandboxSession(backend="toy")
    with pytest.raises(SandboxClosed, match=r"there is no sandbox yet.*with SandboxSession.*create_sandbox\(\)"):
        use(session)
    with session:
        pass
    with pytest.raises(SandboxClosed, match=r"was deleted; create_sandbox\(\) gives a fresh one"):
        use(session)


def test_deleting_is_idempotent_and_needs_no_sandbox(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    session.delete_sandbox()
    session.create_sandbox()
    session.delete_sandbox()
    session.delete_sandbox()
    assert toy.open == []


def test_a_session_can_be_opened_again(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    for _ in range(2):
        with session:
            assert session.run("ls").stdout == ""
            session.write("a", "x")
    assert toy.open == []


def test_an_open_session_enters_a_block_as_it_is(session: SandboxSession, toy: ToyBackend) -> None:
    with session as same:
        assert same is session
        assert len(toy.open) == 1
    assert not session.is_open


def test_creating_twice_is_a_usage_error(session: SandboxSession, toy: ToyBackend) -> None:
    with pytest.raises(UsageError, match="has its sandbox already"):
        session.create_sandbox()
    assert len(toy.open) == 1


def test_an_error_in_a_block_still_deletes(toy: ToyBackend) -> None:
    with pytest.raises(ZeroDivisionError), SandboxSession(backend="toy"):
        raise ZeroDivisionError
    assert toy.open == []


@pytest.mark.usefixtures("toy")
def test_an_unknown_pool_is_the_backends_error_and_leaves_the_session_usable() -> None:
    session = SandboxSession(pool_ref="nope", backend="toy")
    for _ in range(2):
        with pytest.raises(PoolNotFound, match="pools: default, toys"):
            session.create_sandbox()


def test_a_sandbox_that_cannot_be_checkpointed_is_not_left_behind(
    toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySandbox, "checkpoint", lambda _self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SandboxSession(backend="toy").create_sandbox()
    assert toy.open == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pool_ref": ""}, "pool_ref must be a name, not ''"),
        ({"pool_ref": 3}, "pool_ref must be a name, not an int"),
        ({"namespace": "a\0"}, "namespace must be a name"),
        ({"backend": 3}, "backend must be a name"),
        ({"name": ""}, "name must be a name"),
        ({"keep_alive": "yes"}, "keep_alive must be True or False, not a str"),
        ({"keep_workspace": 1}, "keep_workspace must be True or False, not an int"),
        ({"timeout": -1}, "timeout must be a duration"),
        ({"timeout": "x"}, "timeout must be seconds"),
        ({"acquire_timeout": 0}, "acquire_timeout must be more than 0"),
        ({"idle_timeout": "x"}, "idle_timeout must be seconds"),
        ({"max_lifetime": -1}, "max_lifetime must be a duration"),
        ({"labels": ["a"]}, "labels must be a mapping"),
        ({"labels": {"a": 1}}, "labels must be a mapping"),
    ],
)
def test_bad_arguments_of_a_session_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        SandboxSession(**arguments)
    assert str(caught.value).startswith(f"SandboxSession: {says}")


@pytest.mark.parametrize("option", signature(SandboxSession).parameters)
def test_every_option_of_a_session_is_checked_and_known_by_its_name(option: str) -> None:
    with pytest.raises(UsageError, match=f"^SandboxSession: {option} must be"):
        SandboxSession(**{option: object()})  # type: ignore[arg-type] # on purpose
    assert hasattr(SandboxSession(), option)


def test_the_options_of_a_session_stay_as_they_are() -> None:
    config = SandboxSession(name="a")._config
    for option in ("name", "pool_ref", "new"):
        with pytest.raises(FrozenInstanceError):
            setattr(config, option, "b")
    assert (config.name, config.request()) == ("a", AcquireRequest("default"))


def test_what_a_session_asks_reaches_the_backend(toy: ToyBackend) -> None:
    with SandboxSession(
        "toys", "ns", acquire_timeout="9s", idle_timeout=5, max_lifetime="1m", labels={"a": "b"}, backend="toy"
    ):
        (request,) = toy.requests
    assert (request.pool_ref, request.namespace, request.keep_alive, request.acquire_timeout) == (
        "toys",
        "ns",
        False,
        9.0,
    )
    assert (request.idle_timeout, request.max_lifetime, request.labels) == (5.0, 60.0, {"a": "b"})


def test_a_name_of_ones_own_is_the_sandboxs_in_every_result(toy: ToyBackend) -> None:
    with SandboxSession(name="trained", backend="toy") as session:
        assert session.name == "trained"
        assert session.run("true").ok
        assert session.execute([HELLO])["spec"]["sandboxRef"] == "trained"


def test_a_session_that_is_forgotten_leaves_nothing(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    session.create_sandbox()
    (sandbox,) = toy.open
    session.write("a", "x")
    session.start("sleep", "30")
    (checkpoint,) = sandbox.checkpoints
    del session
    gc.collect()
    assert until(lambda: sandbox.closed and not checkpoint.folder.exists())
    assert toy.open == []


def test_a_session_that_is_forgotten_is_not_kept_alive_by_its_own_parts(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    session.create_sandbox()
    (sandbox,) = toy.open
    result, process = session.execute([HELLO]), session.start("sleep", "30")
    session.reset()
    gone = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert gone() is None
        assert until(lambda: not toy.open)
    finally:
        gc.enable()
    assert (sandbox.closed, result.ok, process.name) == (True, True, "sleep")


def test_a_kept_session_that_is_forgotten_is_kept(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy", keep_alive=True)
    session.create_sandbox()
    held = session._lifecycle.held
    assert held is not None
    del session
    gc.collect()
    time.sleep(0.05)
    assert len(toy.open) == 1
    held.close()


def test_a_backend_that_cannot_close_does_not_break_the_test(
    session: SandboxSession, sandbox: ToySandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = sandbox.close
    monkeypatch.setattr(sandbox, "close", lambda: [close(), 1 / 0])
    session.delete_sandbox()
    assert f"closing the sandbox {sandbox.name} failed" in caplog.text
    assert not sandbox.checkpoints[0].folder.exists()


def test_at_most_so_many_sandboxes_are_open_at_once(toy: ToyBackend) -> None:
    with override({"max_sandboxes": 2}, "test"):
        first, second = SandboxSession(backend="toy"), SandboxSession(backend="toy")
        third = SandboxSession(backend="toy", acquire_timeout=0.05)
        with first, second:
            with pytest.raises(SandboxTimeout, match=r"after 50 ms: 2 are open.*--arl-max-sandboxes"):
                third.create_sandbox()
            first.delete_sandbox()
            with third:
                assert len(toy.open) == 2


def test_repr_is_one_line(session: SandboxSession) -> None:
    assert repr(session) == f"<SandboxSession {session.name!r} of pool 'default', none>"
    session.delete_sandbox()
    assert repr(session) == f"<SandboxSession {session.name!r} of pool 'default', no sandbox>"
