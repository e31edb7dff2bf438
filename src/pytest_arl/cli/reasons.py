"""Cures for the reasons that Kubernetes and the operator give for a sandbox that does not start."""

from __future__ import annotations

__all__ = ["cure_of"]

_CURES = {
    "ErrImagePull": "check the image's name in the pool's template, and imagePullSecrets if its registry wants a login",
    "ImageNeverPull": "the node does not have the image, and imagePullPolicy Never keeps it from being pulled",
    "InvalidImageName": "correct the image's name in the pool's template",
    "CreateContainerConfigError": "a ConfigMap, Secret or user that the template names does not exist: "
    "kubectl describe pod says which",
    "CrashLoopBackOff": "the container ends by itself: kubectl logs says why; with an agent image of another version, "
    "install both images of one version",
    "Unschedulable": "no node has room, or the right labels and tolerations: lower the requests, or add a node",
    "QuotaExceeded": "raise the ResourceQuota, or lower the pool's replicas or requests",
    "PodSecurityViolated": "for the level `restricted`: runAsNonRoot: true and a runAsUser in the template's "
    "securityContext; else the message says which field",
    "PodRefused": "see the API server's message: an admission policy, or a name that does not exist",
    "NamespaceTerminating": "wait until the namespace is gone, or use another one",
    "AgentEnded": "kubectl logs of the pod says why the agent cannot run in this image",
    "OOMKilled": "raise resources.limits.memory of the pool's template",
    "Evicted": "the node ran out of something: set requests and limits in the pool's template",
    "TemplateInvalid": "correct spec.template of the pool: the condition's message says what the API server refuses",
}
_SAME = {
    "ImagePullBackOff": "ErrImagePull",
    "ErrImageNeverPull": "ImageNeverPull",
    "RunContainerError": "CreateContainerConfigError",
    "CreateContainerError": "CreateContainerConfigError",
}


def cure_of(reason: str) -> str:
    """The cure; empty where none is known."""
    return _CURES.get(_SAME.get(reason, reason), "")
