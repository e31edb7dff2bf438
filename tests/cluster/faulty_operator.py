"""An operator that kills itself with SIGKILL at a chosen moment: ``python faulty_operator.py FAULT COUNT ARGUMENTS...``.

The moments are those between which a task's at-most-once is decided. They exist here only.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from pytest_arl.agent import frames
from pytest_arl.operator import startup
from pytest_arl.operator.agent_link import AgentLink
from pytest_arl.operator.task_runner import TaskRunner

left = 0


def die_in_time() -> None:
    global left  # noqa: PLW0603 - the one counter of a program
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def before_dispatch() -> None:
    send = AgentLink.send

    def dying(self: AgentLink, kind: int, stream: int, value: object) -> None:
        if kind == frames.TASK:
            die_in_time()
        send(self, kind, stream, value)

    AgentLink.send = dying  # type: ignore[method-assign]  # that is the fault


def during_the_run() -> None:
    ping = AgentLink.ping

    async def dying(self: AgentLink) -> None:
        await ping(self)  # the agent has the task
        die_in_time()

    AgentLink.ping = dying  # type: ignore[method-assign]  # that is the fault


def before_the_status() -> None:
    write_result = TaskRunner._write_result

    async def dying(self: TaskRunner, *args: Any) -> None:
        die_in_time()
        await write_result(self, *args)

    TaskRunner._write_result = dying  # type: ignore[method-assign,assignment]  # that is the fault


FAULTS = {
    "none": lambda: None,
    "before-dispatch": before_dispatch,
    "during-the-run": during_the_run,
    "before-the-status": before_the_status,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    left = int(sys.argv[2])
    parser = argparse.ArgumentParser()
    startup.add_arguments(parser)
    sys.exit(startup.run(parser.parse_args(sys.argv[3:])))
