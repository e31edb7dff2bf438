"""The process in which one contender runs: ``python -m benchmarks.worker MODULE FUNCTION DESCRIPTOR QUICK``.

It reads one JSON object a line from the descriptor, and answers each with one. Its stdout is not used for that: some
contenders print.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys

from benchmarks.samples import Sampler

__all__: list[str] = []


def _answer(sampler: Sampler, request: dict[str, object]) -> dict[str, object]:
    try:
        match request["do"]:
            case "version":
                return {"version": sampler.version()}
            case "sample":
                return {"figures": sampler.take(str(request["row"]))}
            case "litter":
                sampler.litter(str(request["marker"]), close=bool(request["close"]))
            case "stop":
                sampler.stop()
    except NotImplementedError:
        return {"missing": "has no such thing"}
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        text = f"{type(error).__name__}: {error}"
        return {"missing": text.splitlines()[0][:200]}
    return {}


def main() -> None:
    """Serve until told to stop."""
    module, function, descriptor, quick = sys.argv[1:]
    del os.environ["PYTHONPATH"]  # was for this process: programs that contenders start are to find their own
    adapter = getattr(importlib.import_module(module), function)()
    sampler = Sampler(adapter, quick=quick == "1")
    with socket.socket(fileno=int(descriptor)) as connection, connection.makefile("rw") as lines:
        os.set_inheritable(connection.fileno(), False)
        for line in lines:
            request = json.loads(line)
            lines.write(json.dumps(_answer(sampler, request)) + "\n")
            lines.flush()
            if request["do"] == "stop":
                return


if __name__ == "__main__":
    main()
