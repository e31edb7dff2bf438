#!/usr/bin/env bash
# systemd's user manager does not mark the cgroups that it delegates.
#
# Most expect: a unit with Delegate=yes has the extended attribute user.delegate=1 on its cgroup, since systemd documents it
# (docs/CGROUP_DELEGATION.md) as the way for programs to see that a part of the tree is theirs.
# Seen (systemd 257, Debian 13): the system manager sets it, also on user@UID.service; a scope or service of the user manager has
# none, although it may be divided as well. Its owner is the user; so the owner and write access must decide, not the attribute.
#
# Needs: an ordinary user's login on a machine with systemd and cgroup version 2, python3. Installs nothing. Exit status 1 where
# this has changed.
set -euo pipefail
systemctl --version | head -1
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
show='
import os
path = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().split("::")[1]
manager = path[: path.index(".service") + len(".service")]
for folder in (manager, path):
    try:
        mark = os.getxattr(folder, "user.delegate").decode()
    except OSError as error:
        mark = error.strerror
    print(os.path.basename(folder), "owner", os.stat(folder).st_uid, "user.delegate:", mark, "writable:", os.access(folder + "/cgroup.procs", os.W_OK))
'
seen=$(systemd-run --user --scope --quiet -p Delegate=yes -- python3 -c "$show")
printf '%s\n' "$seen"
grep -q '^user@.*user.delegate: 1' <<<"$seen" && grep -q '^run-.*user.delegate: No data available writable: True' <<<"$seen"
