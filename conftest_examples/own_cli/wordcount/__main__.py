"""The project under test: `python -m wordcount [FILE]` counts words."""

import sys
from collections import Counter
from pathlib import Path


def main(arguments: list[str]) -> int:
    try:
        text = Path(arguments[0]).read_text() if arguments else sys.stdin.read()
    except OSError as error:
        print(f"wordcount: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    for word, count in Counter(text.lower().split()).most_common():
        print(f"{count:>4} {word}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
