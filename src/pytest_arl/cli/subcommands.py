"""The commands of ``pytest-arl``. Their errors are a line for the user, without a traceback."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.errors import ArlError, UsageError
from pytest_arl.text.untrusted import neutralise

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXIT_FOUND", "EXIT_OK", "EXIT_USAGE", "main"]

EXIT_OK = 0
EXIT_FOUND = 1
"""Something is missing, or could not be done; it is said what."""
EXIT_USAGE = 2
"""The command was not understood, as argparse has it."""


class _Command(NamedTuple):
    """A subcommand: the module that has its ``add_arguments`` and ``run``, and a line about it."""

    module: str
    about: str


_COMMANDS = {
    "doctor": _Command(
        "pytest_arl.cli.doctor", "show what is missing on this machine and on the cluster, and how to fix it"
    ),
    "gc": _Command("pytest_arl.cli.gc", "remove what ended test runs left on the cluster"),
    "manifests": _Command(
        "pytest_arl.cli.print_manifests", "print what installs pytest-arl on a cluster, for kubectl apply -f -"
    ),
    "operator": _Command("pytest_arl.cli.operator", "the cluster's side of pytest-arl (operator run)"),
    "pools": _Command("pytest_arl.cli.list_pools", "list the pools of this machine and of the cluster"),
    "setup": _Command("pytest_arl.cli.setup", "allow bubblewrap to make sandboxes where AppArmor blocks it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parse(words)
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _say(error, EXIT_USAGE)
    except ArlError as error:
        return _say(error, EXIT_FOUND)
    except ModuleNotFoundError as error:
        return _missing(error)
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 130


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pytest-arl", description="Sandboxes for tests: checks, set-up and clean-up.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, command in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.about, description=_sentence(command.about))
        if name == chosen:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser.parse_args(words)


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


class _Version(argparse.Action):
    """Looks the version up only when it is printed: that takes longer than all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from pytest_arl.cluster.installation import version  # noqa: PLC0415

        sys.stdout.write(f"pytest-arl {version()}\n")
        parser.exit()


def _say(error: ArlError, code: int) -> int:
    sys.stderr.write(f"pytest-arl: {neutralise(str(error))}\n")
    return code


_EXTRAS = {"kubernetes": "kubernetes", "kopf": "operator", "aiohttp": "operator", "cryptography": "operator"}


def _missing(error: ModuleNotFoundError) -> int:
    """A package that an extra brings is not there: which extra. What else is missing is a defect, and shown as one."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        raise error
    sys.stderr.write(f"pytest-arl: this needs the extra {extra!r}: pip install 'pytest-arl[{extra}]' ({error})\n")
    return EXIT_FOUND
