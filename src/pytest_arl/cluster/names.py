"""Group, version and limits of the custom resources: all that most of client and operator ask of them."""

from __future__ import annotations

__all__ = [
    "API_VERSION",
    "GROUP",
    "MOST_CONTAINERS",
    "MOST_SPEC_BYTES",
    "MOST_STATUS_BYTES",
    "MOST_STEPS",
    "MOST_VOLUMES",
    "MOST_WORDS",
    "VERSION",
]

GROUP = "arl.infra.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MOST_CONTAINERS, MOST_VOLUMES = 64, 256
"""Limits of a pool's template. The operator checks them, too, as the manifests in a cluster may be older."""

MOST_STEPS = 256
MOST_SPEC_BYTES = 768 * 1024
"""Encoded JSON of a Task's spec. etcd takes objects of 1.5 MB, and spec and status share one."""

MOST_WORDS = 8192
"""Words of commands and variables in a Task's steps: the API server looks at each, at every change of a label too."""

MOST_STATUS_BYTES = 384 * 1024
"""Encoded JSON of a Task's status. A NUL is six bytes of it."""
