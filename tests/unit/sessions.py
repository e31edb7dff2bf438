"""What the tests of sessions share."""

from typing import Any, Self

from pytest_arl import (
    SandboxSession,
    TaskResult,
)
from pytest_arl.backends.base import TaskRequest
from pytest_arl.session import add_listener, remove_listener

HELLO: dict[str, Any] = {"name": "hello", "type": "Command", "command": ["echo", "Hello, World!"]}


def shell(script: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    step = {"type": "Command", "command": ["sh", "-c", script], **more}
    return step if name is None else {"name": name, **step}


class Listener(list[tuple[Any, ...]]):
    def sandbox_ready(self, session: SandboxSession, seconds: float, isolation: str) -> None:
        self.append(("ready", session, seconds, isolation))

    def task_finished(
        self, session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
    ) -> None:
        self.append(("finished", session, task, result, error))

    def sandbox_closed(self, session: SandboxSession) -> None:
        self.append(("closed", session))

    def __enter__(self) -> Self:
        add_listener(self)
        return self

    def __exit__(self, *_: object) -> None:
        remove_listener(self)


def listening() -> Listener:
    return Listener()
