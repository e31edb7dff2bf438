"""The agent as PID 1 of a pod's container: from the exec to serving the clients that are admitted.

Everybody can connect, the code in the sandbox too. Who does is told what to sign, has a few seconds and one frame to
say who he is, and is given nothing before. However many come from one address (the code in the sandbox from its own),
they keep out no connection from another: see :class:`pytest_arl.agent.handshake.PendingHandshakes`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import _socket
import os
import sys
import time

from pytest_arl.agent import auth, container, exact, frames, main, system, tree, unshielded
from pytest_arl.agent.clients import HolderClient, OperatorClient, asked
from pytest_arl.agent.handshake import Handshake, PendingHandshakes, prepare, side_of
from pytest_arl.agent.inheritance import Inheritance
from pytest_arl.agent.loop import READ, Loop
from pytest_arl.agent.parts import AgentParts
from pytest_arl.agent.registration import Registration
from pytest_arl.agent.task_registry import TaskRegistry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_arl.agent.clients import Client
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import ClientHelloKey, Refusal

__all__ = ["Listener", "serve"]

_EX_CONFIG = 78
_MOST_CLIENTS = 64
_MOST_ACCEPTED = 16  # in one round, so that those who are admitted have their turn
_BACKLOG = 1024
_PAUSE_SECONDS = 0.1


def serve(port: int = container.PORT) -> None:
    """Be the agent of this container; never returns."""
    oom = main.oom_score()
    try:
        variables = container.environment()
        system.harden()
        if not tree.tells_last_pid() and unshielded.is_reached():
            unshielded.ignore_signals()
        here = container.look(variables)
        system.set_limits({"CORE": 0, **({} if here.file_bytes is None else {"FSIZE": here.file_bytes})})
        os.umask(0o022)
        parts = AgentParts(Loop(), oom)
        parts.inheritance = Inheritance()
        listener = Listener(Registration(parts, TaskRegistry(parts), here), port)
    except (OSError, ValueError) as error:
        _say("it cannot start: " + str(error))
        os._exit(_EX_CONFIG)
    try:
        listener.serve()
    except BaseException as error:  # noqa: BLE001 - the last word of PID 1, whatever happened
        listener.last_word(main.described(error))
        _say(main.described(error))
    finally:
        os._exit(main.EX_SOFTWARE)


def _end_if_asked(signals: int) -> None:
    """End, if it is not the code in the sandbox that asks: no sender outside has a pid in this namespace."""
    if any(sender == 0 for sender in system.senders(signals)):
        os._exit(0)


def _say(text: str) -> None:
    """Write a line for `kubectl logs`."""
    os.write(2, ("pytest-arl agent: " + text + "\n").encode("utf-8", "replace"))


class Listener:
    """Accepts connections, and keeps those that were admitted."""

    def __init__(self, registration: Registration, port: int) -> None:
        self._registration = registration
        self._parts = registration.parts
        self._clients: list[Client] = []
        self._pending = PendingHandshakes()
        self._socket = _listen(port)

    def serve(self) -> None:
        """Let in whoever comes, for ever."""
        loop = self._parts.loop
        loop.add(self._socket.fileno(), READ, self._accept)
        asked = system.signal_fd(_signal.SIGTERM)
        loop.add(asked, READ, lambda _events: _end_if_asked(asked))
        loop.after = self._flush
        loop.run()

    def last_word(self, text: str) -> None:
        """Tell all why the agent ends."""
        refusal: Refusal = {"text": text, "errno": 0, "path": b""}
        for client in self._clients:
            client.link.last_word(frames.ERROR, refusal)

    def _gone(self, handshake: Handshake) -> None:
        """Somebody waits no more, admitted or not."""
        self._pending.remove(handshake.side, handshake)

    def _admit(self, handshake: Handshake, hello: Said[ClientHelloKey]) -> None:
        """Let somebody in who proves who he is, or send him away with the reason."""
        version, role = hello.get("version"), hello.get("role")
        problem = None
        if type(version) is not int or version != frames.VERSION:
            problem = "the agent speaks version " + str(frames.VERSION)
        elif role == "operator":
            problem = self._doubt_operator(handshake.nonce, hello)
        elif role == "holder":
            problem = self._doubt_holder(hello)
        else:
            problem = "only the operator and the sandbox's holder are admitted"
        if problem is None and len(self._clients) >= _MOST_CLIENTS:
            problem = "too many connections"
        if problem is not None:
            handshake.dismiss(problem)
            return
        socket = handshake.released()
        if role == "operator":
            operator = OperatorClient(self._registration, socket, self._clients.remove, hello["epoch"])
            self._clients.append(operator)
            self._supersede(operator.epoch)
            operator.told(hello)
        else:
            holder = HolderClient(self._registration, socket, self._clients.remove)
            self._clients.append(holder)
            holder.ready(asked(hello))

    def _doubt_operator(self, nonce: bytes, hello: Said[ClientHelloKey]) -> str | None:
        try:
            epoch = exact.integer(hello, "epoch", 0, exact.LARGEST)
        except exact.Inexact:
            return "an operator needs an epoch"
        here = self._registration.here
        challenge = auth.challenge(nonce, here.pod, self._registration.boot, epoch)
        if not auth.signed(challenge, hello.get("signature"), here.keys):
            return "the signature is not the operator's"
        return "older epoch" if epoch < self._registration.epoch else None

    def _doubt_holder(self, hello: Said[ClientHelloKey]) -> str | None:
        if not self._registration.holder:
            return "this sandbox has no holder"
        try:
            asked(hello)
        except exact.Inexact as error:
            return str(error)
        return None if auth.same(hello.get("secret"), self._registration.holder) else "the secret is not the holder's"

    def _supersede(self, epoch: int) -> None:
        """An operator leads by now: those of before do no more."""
        self._registration.epoch = epoch
        for client in list(self._clients):
            if isinstance(client, OperatorClient) and client.epoch < epoch:
                client.dismiss("older epoch")

    def _accept(self, _events: int) -> None:
        for _ in range(_MOST_ACCEPTED):
            try:
                fd, address = self._socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what `socket`'s calls
            except BlockingIOError:
                return
            except OSError:  # no descriptor or memory is left, or the caller is gone: not asked again and again
                self._have_back()
                self._pause()
                return
            socket = _socket.socket(self._socket.family, self._socket.type, 0, fd)
            try:
                prepare(socket)
                side = side_of(socket.family, address)
                handshake = Handshake(self._parts.loop, socket, side, admit=self._admit, gone=self._gone)
            except OSError:  # it is gone already, or no descriptor is left
                socket.close()
                self._have_back()
                continue
            excess = self._pending.add(handshake.side, handshake)
            if excess is not None:
                excess.dismiss("too many connections that have sent no HELLO")
            handshake.greet(self._registration.boot, self._registration.here.pod)

    def _have_back(self) -> None:
        """Undo a lower limit of descriptors, which a program in the background may have set: no step comes to look."""
        if self._parts.inheritance is not None:
            self._parts.inheritance.restore()

    def _pause(self) -> None:
        loop, fd = self._parts.loop, self._socket.fileno()
        loop.modify(fd, 0)
        loop.call_at(time.monotonic() + _PAUSE_SECONDS, lambda: loop.modify(fd, READ))

    def _flush(self) -> None:
        for client in list(self._clients):
            client.link.flush()


def _listen(port: int) -> _socket.socket:
    """A socket that takes the port of every address, so that nobody inside can take it of one."""
    try:
        listening = _socket.socket(_socket.AF_INET6, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        listening.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listening.bind(("::", port))
    except OSError:
        listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", port))  # noqa: S104 - every address of the pod, as above
    listening.listen(_BACKLOG)
    return listening


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
