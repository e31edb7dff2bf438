"""Sandboxes on a cluster: objects that the operator acts on, and the agent's channel through the API server.

============ ======================================================================================
backend      acquire, replace, close: the protocol of :mod:`pytest_arl.backends.base`
namespace_client
             what a process shares in one namespace: its Lease, its watches, the pools it knows
kubernetes_sandbox
             one sandbox; ``held_sandbox`` its object, ``agent_connection`` its channel to the agent, ``task`` one task
access       which cluster, as whom; ``api`` requests to it, ``refusals`` what it refuses, in words
watch        objects as they change, for those who wait for them; ``lease`` what says that this process lives
portforward  a socket that ends at a pod's port
object_names names and labels; ``manifests`` objects that are sent; ``statuses`` those that come back
============ ======================================================================================

The official client is imported by the first use of a cluster, never by importing this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.backends.base import Backend
    from pytest_arl.settings import Settings

__all__ = ["create_backend"]


def create_backend(settings: Settings) -> Backend:
    """The backend that the hook gives out for the name ``kubernetes``."""
    from pytest_arl.backends.kubernetes.backend import KubernetesBackend  # noqa: PLC0415 - modules here are used alone

    return KubernetesBackend(settings)
