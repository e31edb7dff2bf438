"""``python -m pytest_arl.cli``, where scripts are not on the path."""

import sys

from pytest_arl.cli.subcommands import main

if __name__ == "__main__":
    sys.exit(main())
