"""Check that the user of this kubeconfig has the rights of a test run: the API server is asked about each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.cli.findings import bad, good, note, warn
from pytest_arl.cluster.kinds import KINDS, group_of
from pytest_arl.errors import InfrastructureError
from pytest_arl.text.wording import one_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.cli.cluster import Cluster
    from pytest_arl.cli.findings import Finding

__all__ = ["RIGHTS", "Right", "examine_rights"]

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Right(NamedTuple):
    """The rights that a test run needs for one kind of object.

    Attributes:
        resource: the plural, with the subresource.
        verbs: what it does.
        without: what does not work without it.
        needed: whether no test runs without it.
    """

    resource: str
    verbs: tuple[str, ...]
    without: str
    needed: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return group_of(KINDS[self.resource.partition("/")[0]].api_version)


RIGHTS = (
    Right("warmpools", ("get", "list", "watch"), "pools are not found"),
    Right(
        "sandboxes",
        ("get", "list", "watch", "create", "patch", "delete", "deletecollection"),
        "there are no sandboxes",
    ),
    Right("tasks", ("get", "list", "watch", "create", "patch", "delete", "deletecollection"), "no step can be run"),
    Right(
        "leases",
        ("get", "list", "create", "patch", "delete"),
        "a killed run goes unnoticed",
    ),
    Right("pods/portforward", ("get", "create"), "no files, no live output, no long output", needed=False),
    Right("pods", ("get", "list"), "errors cannot say why a pod does not start", needed=False),
    Right("events", ("get", "list"), "errors cannot say why a pod does not start", needed=False),
)
"""The rules of the ClusterRole arl-user."""


def examine_rights(cluster: Cluster) -> Iterator[Finding]:
    """One finding for all that is allowed, one for each kind with a right that is not."""
    cure = (
        f"kubectl create rolebinding arl-user -n {cluster.namespace} --clusterrole arl-user "
        f"--user NAME (or --serviceaccount NAMESPACE:NAME)"
    )
    allowed = []
    for right in RIGHTS:
        try:
            refused = [verb for verb in right.verbs if not _may(cluster, right, verb)]
        except InfrastructureError as error:
            yield note(f"the rights of this user cannot be checked: {error}")
            return
        if refused:
            what = f"this user may not {one_of(refused)} {right.resource}: {right.without}"
            yield bad(what, cure) if right.needed else warn(what, cure)
        else:
            allowed.append(right.resource)
    if allowed:
        yield good(f"this user has the rights that tests need for {', '.join(allowed)}")


def _may(cluster: Cluster, right: Right, verb: str) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "namespace": cluster.namespace,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    return bool(cluster.post(_REVIEWS, review)["status"]["allowed"])
