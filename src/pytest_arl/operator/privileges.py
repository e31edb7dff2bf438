"""Privileges that no securityContext in a pool's template has: those that the Pod Security level `baseline` refuses.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object

__all__ = ["privilege"]

_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
"""Capabilities that runtimes give to every container; other ones are the node's."""
_SELINUX_TYPES = {"container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_RUNTIME = ("RuntimeDefault", "Localhost")
_SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}


def privilege(security: Object) -> str | None:
    """The first field that gives something of the node away, of a container's securityContext or a pod's."""
    added = set((security.get("capabilities") or {}).get("add") or ()) - _CAPABILITIES
    selinux = security.get("seLinuxOptions") or {}
    for what, wrong in (
        ("privileged", security.get("privileged")),
        ("capabilities.add", added),
        ("procMount", security.get("procMount") not in (None, "Default")),
        ("seccompProfile", (security.get("seccompProfile") or {}).get("type") == "Unconfined"),
        ("appArmorProfile", (security.get("appArmorProfile") or {}).get("type", _RUNTIME[0]) not in _RUNTIME),
        ("seLinuxOptions", selinux.get("user") or selinux.get("role")),
        ("seLinuxOptions.type", selinux.get("type") and selinux["type"] not in _SELINUX_TYPES),
        ("windowsOptions", security.get("windowsOptions")),
        ("sysctls", {each.get("name") for each in security.get("sysctls") or ()} - _SAFE_SYSCTLS),
    ):
        if wrong:
            return what
    return None
