"""A socket that ends at a pod's port, through the API server: for clients that reach nothing else of a cluster.

The official client's own forwarder takes everything that comes into memory, however slow its reader is, and ends
without a word where something breaks. So only its rules of connecting are used, and one thread carries bytes between
the websocket and a socketpair: never more of them at a time than one frame each way.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.cluster.kinds import path

if TYPE_CHECKING:
    from pytest_arl.backends.kubernetes.access import Access

__all__ = ["Forward", "open_forward"]

_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 30.0  # then a ping keeps what is between from forgetting the connection
_PIECE = 128 * 1024
_LEAVE_SECONDS = 1.0
_DATA, _ERROR = 0, 1  # channels of the first port
_OPENING = 3  # bytes of the frame that opens each channel: its number and the port's
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def open_forward(access: Access, namespace: str, pod: str, port: int) -> Forward:
    """Connect to a pod's port. Refused as the API server says; ConnectionError where it is not reached."""
    import websocket  # noqa: PLC0415 - comes with the client

    configuration = access.configuration
    url = f"{access.host}{path('pods', namespace, pod, 'portforward')}?ports={port}"
    connection: Any = websocket.WebSocket(sslopt=_tls(configuration), skip_utf8_validation=True)
    options: dict[str, Any] = {
        "header": [f"{key}: {value}" for key, value in access.headers().items()],
        "subprotocols": ["v4.channel.k8s.io"],
        "suppress_origin": True,
        "timeout": _CONNECT_SECONDS,
        "redirect_limit": 0,
    }
    if configuration.proxy or getattr(configuration, "proxy_headers", None):
        from kubernetes.stream import ws_client  # noqa: PLC0415 - as above

        proxied: Any = ws_client.websocket_proxycare
        options = proxied(options, configuration, url, access.headers())
    try:
        connection.connect("ws" + url.removeprefix("http"), **options)
    except websocket.WebSocketBadStatusException as error:
        raise Refused.read(error.status_code, error.resp_body or b"") from None
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionError(f"a port-forward to pod {pod} could not be opened: {error}") from None
    return Forward(connection, websocket.ABNF)


def _tls(configuration: Any) -> dict[str, Any]:
    """Options of TLS, as the official client's ``create_websocket`` has it."""
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE}
    if configuration.verify_ssl:
        options = {"cert_reqs": ssl.CERT_REQUIRED}
        if configuration.ssl_ca_cert:
            options["ca_certs"] = configuration.ssl_ca_cert
        if configuration.assert_hostname is not None:
            options["check_hostname"] = configuration.assert_hostname
    named = {"certfile": "cert_file", "keyfile": "key_file", "server_hostname": "tls_server_name"}
    found = {key: getattr(configuration, name, None) for key, name in named.items()}
    return options | {key: value for key, value in found.items() if value}


class Forward:
    """One connection to a pod's port. ``socket`` is this side's end of it, for its user to close.

    Attributes:
        socket: connected; end-of-file where the pod's side or the connection ended.
        said: what the node said of why, or empty.
    """

    def __init__(self, connection: Any, abnf: Any) -> None:
        self.said = ""
        self._connection = connection
        self._abnf = abnf
        self._remote: socket.socket = connection.sock
        self._remote.setblocking(False)
        self.socket, self._local = socket.socketpair()
        self._local.setblocking(False)
        self._inbound: memoryview = memoryview(b"")
        self._outbound: memoryview = memoryview(b"")
        self._opened: set[int] = set()
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._carry, name="arl-port-forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connection; waits a moment for its thread. Idempotent."""
        if os.getpid() != self._owner:
            return
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_LEAVE_SECONDS)

    # The thread

    def _carry(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - whatever breaks the connection is told to its user as its end
            self.said = self.said or f"{type(error).__name__}: {error}"
        finally:
            self._local.close()
            with suppress(Exception):
                self._remote.close()

    def _turn(self) -> bool:
        """Carry what can be carried, then wait for more of it; False at the end of either side."""
        inward, outward = self._carry_in(), self._carry_out()
        if inward is None or outward is None:
            return False
        poll = select.poll()
        remote = (select.POLLIN if inward == "remote" else 0) | (select.POLLOUT if outward == "remote" else 0)
        local = (select.POLLOUT if inward == "local" else 0) | (select.POLLIN if outward == "local" else 0)
        if remote:
            poll.register(self._remote, remote)
        if local:
            poll.register(self._local, local)
        if not poll.poll(_IDLE_SECONDS * 1000) and not self._outbound:
            self._outbound = self._frame(b"", self._abnf.OPCODE_PING)
        return True

    def _carry_in(self) -> str | None:
        """Carry data from the pod to here until one side has to be waited for. Returns which one, None at the end."""
        while True:
            try:
                if not self._inbound:
                    found = self._next_data()
                    if found is None:
                        return None
                    self._inbound = found
            except _WOULD_BLOCK:
                return "remote"
            try:
                while self._inbound:
                    self._inbound = self._inbound[self._local.send(self._inbound) :]
            except BlockingIOError:
                return "local"

    def _carry_out(self) -> str | None:
        """Carry data from here to the pod, likewise."""
        while True:
            try:
                if not self._outbound:
                    data = self._local.recv(_PIECE)
                    if not data:
                        return None
                    self._outbound = self._frame(bytes((_DATA,)) + data, self._abnf.OPCODE_BINARY)
            except BlockingIOError:
                return "local"
            try:
                while self._outbound:
                    self._outbound = self._outbound[self._remote.send(self._outbound) :]
            except _WOULD_BLOCK:
                return "remote"

    def _frame(self, payload: bytes, opcode: int) -> memoryview:
        return memoryview(self._abnf.create_frame(payload, opcode).format())

    def _next_data(self) -> memoryview | None:
        """Data of the next frame, empty for one that has none; None where the connection ends."""
        frame = self._connection.recv_frame()
        if frame.opcode == self._abnf.OPCODE_CLOSE:
            return None
        if frame.opcode == self._abnf.OPCODE_PING and not self._outbound:
            self._outbound = self._frame(frame.data, self._abnf.OPCODE_PONG)
        if frame.opcode == self._abnf.OPCODE_CONT:
            return memoryview(frame.data)  # of a message that was cut; errors are short
        if frame.opcode != self._abnf.OPCODE_BINARY or len(frame.data) <= 1:
            return memoryview(b"")
        return self._received(memoryview(frame.data))

    def _received(self, data: memoryview) -> memoryview | None:
        channel = data[0]
        if channel not in self._opened:
            self._opened.add(channel)
            return data[_OPENING:]
        if channel == _ERROR:
            self.said = bytes(data[1:]).decode("utf-8", "replace").strip()
            return None
        return data[1:]
