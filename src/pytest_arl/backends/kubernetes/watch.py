"""Objects as they change: one watch for each kind, whose events go to whoever waits for an object of that name.

Nothing is polled. A broken connection is resumed at the version that was seen last; where the server no longer has
that (410), everything is read anew, and what is missing then was deleted.
"""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_arl.backends.kubernetes.refusals import Refused, explained
from pytest_arl.cluster import json_text
from pytest_arl.cluster.kinds import path
from pytest_arl.errors import ArlError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.backends.kubernetes.api import Api

__all__ = ["Mail", "Watch"]

_SERVER_SECONDS = 290
"""The server ends each watch by then; what is between may drop longer ones."""
_SILENCE_SECONDS = 150.0
"""The server sends a bookmark about every minute: after this, the connection is taken for dead."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0
_LEAVE_SECONDS = 2.0


class Mail:
    """The latest state of one object. Thread-safe.

    Attributes:
        latest: the object as it was last seen, or None before it was.
        deleted: whether it is gone.
        failure: why nothing can be known of it.
        number: grows with each of these.
        wakes: those who are to look again when this one has changed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.latest: dict[str, Any] | None = None
        self.deleted = False
        self.failure: ArlError | None = None
        self.number = 0
        self.wakes: set[Mail] = set()
        self._made: dict[str, Any] | None = None

    def claim(self, made: dict[str, Any]) -> None:
        """This is about the object as it was made here. Whoever may make objects in the namespace may delete it and
        make another of its name: that is the end of it, and nothing that the other one says counts.
        """
        with self._changed:
            self._made, seen = made, self.latest
            if seen is not None and _uid(seen) == _uid(made):
                return
            self.latest, self.deleted = made, seen is not None and _came_after(seen, made)
            self._count()
        self._wake()

    def put(self, found: dict[str, Any] | None, *, deleted: bool = False, since: int | None = None) -> None:
        """The object is this now. ``since``: only if nothing has come after that number."""
        with self._changed:
            if since is not None and since != self.number:
                return
            if self._made is not None and found is not None and _uid(found) != _uid(self._made):
                if self.deleted or not _came_after(found, self._made):
                    return
                found, deleted = None, True
            self.latest = found if found is not None else self.latest
            self.deleted = deleted
            self._count()
        self._wake()

    def _wake(self) -> None:
        for other in tuple(self.wakes):
            other.nudge()

    def fail(self, failure: ArlError | None) -> None:
        """Note the reason why nothing can be known of it; None ends that."""
        with self._changed:
            if self.failure is not failure:
                self.failure = failure
                self._count()

    def nudge(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._count()

    def _count(self) -> None:
        self.number += 1
        self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> bool:
        """Wait for something that came after ``seen``; whether it did."""
        with self._changed:
            return self._changed.wait_for(lambda: self.number != seen, max(0.0, seconds))


class Watch:
    """The objects of one kind that carry a process's label, in one namespace. Thread-safe."""

    def __init__(self, api: Api, plural: str, namespace: str, selector: str) -> None:
        self._api = api
        self._plural = plural
        self._namespace = namespace
        self._selector = selector
        self._lock = threading.Lock()
        self._mails: dict[str, Mail] = {}
        self._version = ""
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._response: Any = None
        self._failure: ArlError | None = None

    def mail(self, name: str) -> Mail:
        """The state of the object of that name from here on; to be called before it is created."""
        mail = Mail()
        with self._lock:
            self._mails[name] = mail
            mail.fail(self._failure)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"arl-watch-{self._plural}", daemon=True)
                self._thread.start()
        return mail

    def forget(self, name: str) -> None:
        """Forget that object, for which no caller waits any more."""
        with self._lock:
            self._mails.pop(name, None)

    def close(self) -> None:
        """End the watch's thread and connection. Idempotent."""
        self._closed.set()
        connection = getattr(getattr(self._response, "connection", None), "sock", None)
        if connection is not None:
            # Past SSLSocket's own shutdown(), which takes its state from under the thread that reads.
            with suppress(OSError, ValueError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LEAVE_SECONDS)

    # The thread

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                if not self._version:
                    self._read_all()
                self._fail(None)
                if self._follow():
                    pause = _FIRST_PAUSE
            except Refused as refused:
                self._refused(refused)
            except ArlError as error:
                self._fail(error)
            except Exception:  # noqa: BLE001, S110 - connections break in many ways, all of which mean: once more
                pass
            self._closed.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that many do not come back as one
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _refused(self, refused: Refused) -> None:
        if refused.status == 410:
            self._version = ""
        elif refused.status == 401:
            self._version = ""  # reading all renews the credentials, or says that they are not accepted
        elif not refused.passing:
            self._fail(explained(refused, f"watching {self._plural}", self._api.where(self._namespace)))

    def _read_all(self) -> None:
        with self._lock:
            # What was created while the list was on its way is not in it, and not deleted either.
            before = {name for name, mail in self._mails.items() if mail.latest is not None}
        there: set[str] = set()
        version = ""
        for page, version in self._api.pages(self._plural, self._namespace, labelSelector=self._selector):  # noqa: B007 - the last one's
            for item in page:
                name = item["metadata"]["name"]
                there.add(name)
                with self._lock:
                    mail = self._mails.get(name)
                if mail is not None:
                    mail.put(item)
            page.clear()
        with self._lock:
            gone = [mail for name, mail in self._mails.items() if name in before and name not in there]
        for mail in gone:
            mail.put(None, deleted=True)
        self._version = version

    def _follow(self) -> bool:
        """Hand out events until the connection ends; whether any came."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "labelSelector": self._selector,
            "timeoutSeconds": str(_SERVER_SECONDS),
        }
        where = path(self._plural, self._namespace)
        response = self._api.send("GET", where, None, query, read_seconds=_SILENCE_SECONDS, whole=False)
        self._response = response
        came = False
        try:
            if response.status >= 400:
                raise Refused.read(response.status, response.read(64 * 1024))
            for line in () if self._closed.is_set() else _lines(response):
                self._event(json_text.parse(line))
                came = True
        finally:
            self._response = None
            response.close()
        return came

    def _event(self, event: dict[str, Any]) -> None:
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            raise Refused(int(found.get("code") or 0), str(found.get("reason") or ""), str(found.get("message") or ""))
        self._version = found["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        with self._lock:
            mail = self._mails.get(found["metadata"]["name"])
        if mail is not None:
            mail.put(found, deleted=kind == "DELETED")

    def _fail(self, failure: ArlError | None) -> None:
        with self._lock:
            if failure is self._failure:
                return
            self._failure = failure
            mails = list(self._mails.values())
        for mail in mails:
            mail.fail(failure)


def _uid(found: dict[str, Any]) -> object:
    return found["metadata"].get("uid")


def _came_after(other: dict[str, Any], made: dict[str, Any]) -> bool:
    """True if one of two objects of the same name is the later one (versions are numbers that grow: KEP-5504)."""
    try:
        return int(other["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    except (LookupError, TypeError, ValueError):
        return True


def _lines(response: Any) -> Iterator[bytes]:
    """Events as they come: each is a line, and may come in pieces."""
    rest = b""
    for piece in response.stream(256 * 1024, decode_content=False):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
