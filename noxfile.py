"""What CI does, for `nox`: each session in an environment of its own."""

import nox

nox.options.sessions = ["lint", "types", "tests", "examples"]
nox.options.error_on_missing_interpreters = False


def _install(session: nox.Session) -> None:
    session.install("-e", ".[local,kubernetes,operator,dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, imports, changelog fragments."""
    _install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strictly."""
    _install(session)
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests; arguments after `--` go to pytest."""
    _install(session)
    session.run("pytest", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples."""
    _install(session)
    session.run("pytest", "conftest_examples", *session.posargs)
