"""The manifests of an installation as one stream of YAML, for ``kubectl apply -f -``.

The templates are text and stay text: a plain installation of this package prints them, without a YAML library, and
comments reach whoever reads them before applying. So everything that is filled in is checked here, word by word.
Applying the stream again changes nothing that did not change in it: no object has a generated name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import metadata, resources
from string import Template
from typing import TYPE_CHECKING

from pytest_arl.cluster.pod import LEASE_LABEL, OPERATOR_LEASE, POOL_LABEL, PORT, SANDBOX_LABEL, STATUS_LABEL
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

__all__ = ["DEFAULT_NAMESPACE", "Installation", "crds", "default_image", "render", "version"]

DEFAULT_NAMESPACE = "arl-system"
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CLUSTERS_OWN = ("kube-system", "kube-public", "kube-node-lease")
_IMAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:/@-]{0,510}[A-Za-z0-9])?")


def default_image(role: str) -> str:
    """The image of ``operator`` or ``agent`` that goes with this version, as docs/cluster.md builds it."""
    return f"localhost/pytest-arl-{role}:{version()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Values that differ from one cluster to another.

    Attributes:
        namespace: where the operator runs.
        create_namespace: whether that namespace is part of the stream, and goes when the stream is deleted.
        sandboxes: namespaces with pools; each gets the network policy.
        everywhere: the operator serves all namespaces; else it may touch only those of ``sandboxes``.
        operator_image: what the operator runs from.
        agent_image: what the operator brings the agent into pods from.
        with_crds: whether the custom resources are part of the stream.
    """

    namespace: str = DEFAULT_NAMESPACE
    create_namespace: bool = True
    sandboxes: tuple[str, ...] = ("default",)
    everywhere: bool = False
    operator_image: str = ""
    agent_image: str = ""
    with_crds: bool = True

    def check(self) -> None:
        """Raise UsageError where a value is no namespace or image: it must not become other YAML."""
        for name in (self.namespace, *self.sandboxes):
            if not _NAMESPACE.fullmatch(name):
                raise UsageError(
                    f"{name!r} is not a name of a namespace: lower-case letters, digits and '-', at most 63 characters"
                )
        for name in self.sandboxes:
            if name in _CLUSTERS_OWN:
                raise UsageError(f"namespace {name} is the cluster's own: give sandboxes another one by --sandboxes")
        for image in (self.operator_image, self.agent_image):
            if image and not _IMAGE.fullmatch(image):
                raise UsageError(
                    f"{image!r} is not a name of an image, such as registry.example/pytest-arl-operator:1.0"
                )


def render(installation: Installation) -> str:
    """The whole stream. UsageError where the installation's values are none."""
    installation.check()
    parts = list(_documents(installation))
    return "---\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def crds() -> str:
    """The custom resources alone."""
    return "---\n".join(_crds())


def _documents(installation: Installation) -> Iterator[str]:
    if installation.create_namespace:
        yield _filled("namespace.yaml", installation)
    if installation.with_crds:
        yield from _crds()
    yield _filled("users.yaml", installation)
    yield _filled("operator-roles.yaml", installation)
    yield _filled("admission.yaml", installation)
    if installation.everywhere:
        yield _filled("operator-everywhere.yaml", installation)
    else:
        yield _filled("admission-neighbours.yaml", installation)
    for sandboxes in installation.sandboxes:
        if not installation.everywhere:
            yield _filled("operator-there.yaml", installation, sandboxes)
        yield _filled("network-policy.yaml", installation, sandboxes)
    yield _filled("operator.yaml", installation)


def _crds() -> Iterator[str]:
    folder = resources.files("pytest_arl.cluster") / "crds"
    for file in sorted(folder.iterdir(), key=_name):
        if file.name.endswith(".yaml"):
            yield file.read_text(encoding="utf-8")


def _name(file: Traversable) -> str:
    return file.name


def _filled(template: str, installation: Installation, sandboxes: str = "") -> str:
    text = (resources.files("pytest_arl.cluster") / "templates" / template).read_text(encoding="utf-8")
    arguments = ["operator", "run"]
    if not installation.everywhere:
        arguments += [word for name in installation.sandboxes for word in ("--namespace", name)]
    return Template(text).substitute(
        namespace=installation.namespace,
        sandboxes=sandboxes,
        served=_served(installation),
        operator=f"system:serviceaccount:{installation.namespace}:arl-operator",
        operator_image=installation.operator_image or default_image("operator"),
        agent_image=installation.agent_image or default_image("agent"),
        arguments=json.dumps(arguments),
        version=version(),
        pool_label=POOL_LABEL,
        status_label=STATUS_LABEL,
        sandbox_label=SANDBOX_LABEL,
        lease_label=LEASE_LABEL,
        operator_lease=OPERATOR_LEASE,
        port=PORT,
    )


def _served(installation: Installation) -> str:
    """A selector of the namespaces in which the operator works."""
    if installation.everywhere:
        return "{}"
    names = json.dumps(list(installation.sandboxes))
    return f"{{matchExpressions: [{{key: kubernetes.io/metadata.name, operator: In, values: {names}}}]}}"


def version() -> str:
    """The version of this package, which is also that of its images."""
    return metadata.version("pytest-arl")
