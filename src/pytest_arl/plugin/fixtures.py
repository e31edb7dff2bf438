"""The fixtures. Importing this costs nothing: what needs a session is imported by the first that opens one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.plugin.run import run_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_arl.plugin.handles import SandboxFactory, SandboxFixture
    from pytest_arl.plugin.run import Run, ScopeName
    from pytest_arl.plugin.test_options import Choice
    from pytest_arl.session import SandboxSession

__all__ = ["arl_sandbox", "arl_sandbox_factory", "sandbox_fixture"]

__tracebackhide__ = True


def _configured_scope(fixture_name: str, config: pytest.Config) -> ScopeName:  # noqa: ARG001 - pytest passes it by name
    return run_of(config).scope


@pytest.fixture(scope=_configured_scope)
def arl_sandbox(request: pytest.FixtureRequest) -> Iterator[SandboxFixture]:
    """A sandbox of this test, ready to use: `arl_sandbox.run("echo", "hi").check().stdout`.

    Pool and options come from the marker `arl`, an indirect parameter, or the settings (`--arl-pool`).
    `arl_sandbox(pool_ref=...)` opens one more. With `--arl-scope`, tests share it, and find it as it was
    at its last checkpoint.
    """
    run = run_of(request.config)
    yield from _opened(request, run, run.asked_options(), asked=dict(run.asked))


@pytest.fixture(scope="session")
def arl_sandbox_factory(request: pytest.FixtureRequest) -> Iterator[SandboxFactory]:
    """Opens sandboxes for fixtures of any scope: `arl_sandbox_factory(pool_ref="a")`; all are closed at the end.

    Between tests each returns to its last checkpoint, unless `keep_workspace=True`.
    """
    from pytest_arl.plugin.handles import SandboxFactory
    from pytest_arl.plugin.shared import ANY
    from pytest_arl.session import SandboxSession

    run = run_of(request.config)
    factory = SandboxFactory(
        lambda options: run.session(SandboxSession, options, "factory", follows_test=False), name="arl_sandbox_factory"
    )
    factory.opened = partial(run.shared.add, scope=ANY, opener="arl_sandbox_factory")
    try:
        yield factory
    finally:
        factory.close(before=run.shared.discard)


def sandbox_fixture(*, scope: ScopeName = "function", name: str | None = None, **options: Any) -> Any:
    """Make a fixture that gives a sandbox of its own.

    Put it into a conftest.py or a test module; the fixture's name is the variable's, or ``name``::

        trained = sandbox_fixture(pool_ref="python-39-std", scope="module")

    ``options`` are those of SandboxSession. An indirect parameter stands above them; the marker ``arl`` does
    not reach such a sandbox. Wider than function, it returns to its last checkpoint between tests.
    """
    pool = options.get("pool_ref")

    # The factory is asked for so that pytest knows, before it runs anything, which items use a sandbox.
    def sandbox(request: pytest.FixtureRequest, arl_sandbox_factory: SandboxFactory) -> Iterator[SandboxFixture]:  # noqa: ARG001
        from pytest_arl.plugin.test_options import from_parameter

        parameter = getattr(request, "param", None)
        chosen = {} if parameter is None else from_parameter(parameter, f"the parameter of {request.fixturename}")
        yield from _opened(request, run_of(request.config), {**options, **chosen}, asked=None)

    sandbox.__doc__ = "A sandbox of its own." if pool is None else f"A sandbox of pool {pool!r}."
    return pytest.fixture(scope=scope, name=name)(sandbox)


def _opened(
    request: pytest.FixtureRequest, run: Run, options: dict[str, Any], *, asked: dict[str, Choice] | None
) -> Iterator[SandboxFixture]:
    """Open the sandbox of a fixture, and close it with all that were opened from it.

    ``asked`` is what the running test asks, or None where that does not reach this sandbox.
    """
    from pytest_arl.plugin.handles import SandboxFactory, SandboxFixture
    from pytest_arl.plugin.test_options import check_options
    from pytest_arl.session import SandboxSession

    name, scope, follows = str(request.fixturename), request.scope, asked is not None
    check_options(options, name)

    def one_more(given: Mapping[str, Any]) -> SandboxSession:
        defaults = run.asked_options() if follows else options
        named = {key: value for key, value in defaults.items() if key != "name"}
        return run.session(SandboxSession, {**named, **given}, scope, follows_test=follows)

    more = SandboxFactory(one_more, name=name)
    sandbox = run.session(SandboxFixture, options, scope, follows_test=follows)
    sandbox.one_more = more
    if scope != "function":
        opener = run.recorder.item.nodeid if run.recorder.item else name
        more.opened = partial(run.shared.add, scope=scope, opener=opener)
    try:
        sandbox.create_sandbox()
        if scope != "function":
            run.shared.add(sandbox, scope=scope, opener=opener, asked=asked, parameter=getattr(request, "param", None))
        yield sandbox
    finally:
        if run.shares:
            run.shared.discard(sandbox)
        try:
            more.close(before=run.shared.discard if run.shares else None)
        finally:
            sandbox.delete_sandbox()
