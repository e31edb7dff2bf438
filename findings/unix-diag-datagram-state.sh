#!/usr/bin/env bash
# A bound Unix datagram socket that a client has once connected to is "established" to the kernel's socket diagnosis, for ever.
#
# Most expect: connect(2) of a datagram socket changes that socket only, as it does for UDP. A server such as a log daemon stays
# unconnected (TCP_CLOSE, "UNCONN" of ss), so a dump that asks for listening and unconnected sockets has every server, and `ss -xl` too.
# Seen (Linux 6.18): the first client that connects puts the *server* into TCP_ESTABLISHED as well. It stays there when the client is
# gone, while others send to it as before. Whoever looks for sockets that can be reached must ask for all states.
#
# Needs: python3, a kernel with CONFIG_UNIX_DIAG. Installs nothing. Exit status 1 where this has changed, 2 without the diagnosis.
set -euo pipefail
uname -sr
python3 --version
exec python3 - <<'PYTHON'
import os, socket, struct, sys, tempfile

CLOSE, ESTABLISHED = 7, 1


def state(path):
    """The state in which the kernel has the socket that is bound to a path."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diagnosis:  # NETLINK_SOCK_DIAG
        request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 1, 0, 0)  # all states, with names
        diagnosis.send(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 0, 0) + request)
        while True:
            answer, at = diagnosis.recv(1 << 16), 0
            while at + 16 <= len(answer):
                size, kind = struct.unpack_from("=IH", answer, at)
                if kind == 2:
                    sys.exit(2)
                if kind == 3:
                    return None
                if os.fsencode(path) in answer[at : at + size]:
                    return answer[at + 18]
                at += size + 3 & ~3


with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/socket"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    seen = [state(path)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(path)
        seen.append(state(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(b"still served", path)
        assert server.recv(64) == b"still served"
    seen.append(state(path))
    server.close()

print("the server: bound", seen[0], "- a client has connected", seen[1], "- that client is gone", seen[2])
sys.exit(seen != [CLOSE, ESTABLISHED, ESTABLISHED])
PYTHON
