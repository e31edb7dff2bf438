#!/usr/bin/env bash
# A signalfd gives one record at a time in gVisor, of 130 bytes.
#
# Most expect: read(2) of a signalfd fills the buffer with as many struct signalfd_siginfo as there are signals and room, 128 bytes each
# (signalfd(2)), so that a program takes them apart by that size.
# Seen (gVisor 160fafc42237; Linux 6.18): with two signals waiting Linux gives 256 bytes, gVisor 130: one record, and two bytes that are
# no part of one. Its struct has 2 bytes of ssi_addr_lsb and 48 of padding, where Linux's has 46. A program that takes 128 bytes for
# as long as there are any reads past the end of what it was given; one that reads into a single struct notices nothing.
#
# Needs: Linux, python3, and Go to build runsc with (some minutes), or RUNSC=path of one. Installs nothing. Exit status 1 where this
# has changed.
set -euo pipefail
version=v0.0.0-20260905035102-160fafc42237
work=$(mktemp -d /var/tmp/finding.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
if [ -z "${RUNSC:-}" ]; then
    CGO_ENABLED=0 GOBIN="$work" go install "gvisor.dev/gvisor/runsc@$version"
    RUNSC=$work/runsc
fi
cat >"$work/program.py" <<'PYTHON'
import ctypes, os, signal, struct

libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGTERM])
mask = struct.pack("=Q", sum(1 << (number - 1) for number in (signal.SIGHUP, signal.SIGTERM))) + bytes(120)
fd = libc.signalfd(-1, mask, 0)
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGTERM)
many = len(os.read(fd, 1024))
os.kill(os.getpid(), signal.SIGHUP)
one = len(os.read(fd, 128))
print(f"two signals: {many} bytes; one, into 128 bytes: {one}")
PYTHON
uname -sr
"$RUNSC" --version | head -1
here=$(python3 "$work/program.py")
mkdir "$work/root"
options=(--root "$work/root" --rootless --platform=systrap --network=none --ignore-cgroups)
there=$(timeout 120 "$RUNSC" "${options[@]}" do "$(command -v python3)" "$work/program.py" | cat)
printf 'Linux:  %s\ngVisor: %s\n' "$here" "$there"
[ "$here" = "two signals: 256 bytes; one, into 128 bytes: 128" ]
[ "$there" = "two signals: 130 bytes; one, into 128 bytes: 128" ]
