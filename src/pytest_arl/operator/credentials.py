"""The way to the API server: a pod's service account, or a kubeconfig."""

from __future__ import annotations

import dataclasses
import logging
import os

import kopf

__all__ = ["connection"]

_LOG = logging.getLogger(__name__)


def connection() -> kopf.ConnectionInfo:
    """Connection data of the API server: the service account of this pod, else the kubeconfig."""
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings, logger=_LOG)
    if found is not None:
        # By address: a cluster may have no DNS, and this needs none.
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        host = f"[{host}]" if ":" in host else host
        return dataclasses.replace(found, server=f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}")
    found = kopf.login_with_kubeconfig(settings=settings, logger=_LOG)
    if found is None:
        raise kopf.LoginError("no cluster: neither a service account nor KUBECONFIG nor ~/.kube/config is there")
    return found
