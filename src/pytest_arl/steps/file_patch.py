"""A file to write."""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from pytest_arl.errors import UsageError
from pytest_arl.steps import objects
from pytest_arl.steps.base import StepBase, label
from pytest_arl.steps.fields import Content, Mode, RequiredPath  # noqa: TC001 - pydantic reads the annotations
from pytest_arl.text.untrusted import one_line, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.agent.step_types import FilePatchMessage

__all__ = ["FilePatch"]


class FilePatch(StepBase):
    """Write a file: exactly ``content``, at once or not at all.

    Attributes:
        name: unique in its task; empty until :func:`parse_steps` numbers it.
        path: absolute, or relative to the workspace; missing folders are made.
        content: the whole file. A string is UTF-8, or base64 where ``encoding`` says so.
        encoding: how a string ``content`` is to be read; bytes are what they are.
        mode: permission bits, or None to leave them to the sandbox.
    """

    free_text: ClassVar[dict[str, str]] = {"content": "text"}
    needs: ClassVar[str] = "path and content"

    model_config = ConfigDict(defer_build=False)

    type: Literal["FilePatch"] = "FilePatch"
    path: RequiredPath
    content: Content
    encoding: Literal["utf-8", "base64"] = "utf-8"
    mode: Mode = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            path: str | os.PathLike[str],
            content: str | bytes,
            name: str = ...,
            type: Literal["FilePatch"] = ...,  # noqa: A002 - the field's name
            encoding: Literal["utf-8", "base64"] = ...,
            mode: int | None = ...,
        ) -> None: ...

    else:

        def __init__(self, /, **data: Any) -> None:
            __tracebackhide__ = True
            if data.get("encoding") == "base64" and isinstance(data.get("content"), str):
                try:
                    data["content"] = base64.b64decode("".join(data["content"].split()), validate=True)
                except (binascii.Error, ValueError) as error:
                    what = f"'content' is not base64 ({error}); a plain string needs no 'encoding'"
                    raise UsageError(f"{label(FilePatch, data)}: {what}") from None
            super().__init__(**data)

    def __repr__(self) -> str:
        return f"<FilePatch {self.name!r} ({shorten(repr(self.path), 80)}, {len(self.content)} bytes)>"

    # What runs

    def to_agent(self) -> FilePatchMessage:
        """The step as the agent takes it."""
        return {"type": "FilePatch", "path": os.fsencode(self.path), "content": self.content, "mode": self.mode}

    @property
    def longest(self) -> float:
        """None that is worth counting."""
        return 0.0

    # What people read

    @property
    def shown(self) -> str:
        """The path."""
        return one_line(self.path, 80)

    def to_record(self, most: int) -> dict[str, Any]:
        """The step for reports, without its content."""
        return {"path": objects.spelled(self.path)[:most], "size": len(self.content)}

    @staticmethod
    def record_line(record: Mapping[str, Any]) -> str:
        """``wrote 12 bytes to a.txt``."""
        return f"wrote {record['size']} bytes to {one_line(record['path'], 120)}"

    @staticmethod
    def record_command(record: Mapping[str, Any]) -> str:
        """The path: it has no command."""
        path: str = record["path"]
        return path

    # Objects of a cluster

    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``spec.steps`` has it; content that is no text is base64."""
        body: dict[str, Any] = {"name": self.name, "type": self.type, "path": objects.readable(self.path)}
        try:
            body["content"] = self.content.decode("utf-8")
        except UnicodeDecodeError:
            body["content"] = base64.b64encode(self.content).decode("ascii")
            body["encoding"] = "base64"
        if self.mode is not None:
            body["mode"] = self.mode
        return body

    @property
    def fits_object(self) -> bool:
        """True if a Task can hold its path; any content has a form there."""
        return objects.fits(self.path, objects.LONGEST_PATH)

    def described(self) -> dict[str, Any]:
        """Its path, and the size of its content."""
        content = f"({len(self.content)} bytes, which the client gave the agent itself)"
        path = shorten(objects.readable(self.path), objects.SHOWN)
        return {"name": self.name, "type": self.type, "path": path, "content": content}

    @classmethod
    def object_fields(cls, longest: int) -> dict[str, Any]:
        """The fields that a Task's step has for a FilePatch."""
        return {
            "path": (Annotated[str, Field(min_length=1, max_length=objects.LONGEST_PATH)] | None, None),
            "content": (Annotated[str, Field(max_length=longest)] | None, None),
            "encoding": (Literal["utf-8", "base64"] | None, None),
            "mode": (Annotated[int, Field(ge=0, le=0o7777)] | None, None),
        }

    @classmethod
    def message_from_json(cls, step: Mapping[str, Any], default_timeout: str | None) -> FilePatchMessage:  # noqa: ARG003 - it takes no time
        """A FilePatch of a Task as the agent takes it."""
        return {
            "type": "FilePatch",
            "path": step["path"].encode(),
            "content": _content(step),
            "mode": step.get("mode"),
        }

    @staticmethod
    def longest_of(message: Any) -> float:  # noqa: ARG004 - the same for each
        """None that is worth counting."""
        return 0.0


def _content(step: Mapping[str, Any]) -> bytes:
    if step.get("encoding") != "base64":
        content: str = step["content"]
        return content.encode()
    try:
        return base64.b64decode(step["content"], validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("content is not base64") from None
