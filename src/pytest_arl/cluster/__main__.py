"""``python -m pytest_arl.cluster`` writes the manifests; ``--check`` says which are not what the models say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_arl.cluster.schema import custom_resources

_FOLDER = Path(__file__).parent / "crds"
_HEAD = "# Written by `python -m pytest_arl.cluster` from src/pytest_arl/cluster/models.py: change it there.\n"


def manifests() -> dict[str, str]:
    """Each manifest's text by its file name."""
    import yaml  # noqa: PLC0415 - comes with the extra `kubernetes`

    return {
        name: _HEAD + yaml.safe_dump(definition, sort_keys=False, width=120) for name, definition in custom_resources()
    }


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(prog="python -m pytest_arl.cluster", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a manifest differs")
    check = parser.parse_args().check
    differing = []
    for name, text in manifests().items():
        path = _FOLDER / name
        if not path.exists() or path.read_text() != text:
            differing.append(name)
            if not check:
                path.write_text(text)
    if check and differing:
        sys.stderr.write(f"differs from the models: {', '.join(differing)}; run python -m pytest_arl.cluster\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
