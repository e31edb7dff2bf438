"""The command ``pytest-arl``: a cluster is installed, looked at and tidied up with it.

Every subcommand is a module that is imported when it is asked for, so that ``pytest-arl manifests`` needs nothing
but this package.
"""

from pytest_arl.cli.subcommands import main

__all__ = ["main"]
