"""What the API server refuses becomes a line with the cure. The answers are those of a real one (1.34)."""

from __future__ import annotations

import json

import pytest

from pytest_arl import BackendUnavailable, PermissionDenied, UsageError
from pytest_arl.backends.kubernetes.refusals import Refused, Where, explained
from tests.kubernetes.fake import status

WHERE = Where("https://1.2.3.4 (context 'dev' of /x)", "tests")


def said(code: int, body: object) -> Exception:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return explained(Refused.read(code, content), "creating the Sandbox 'x'", WHERE)


def test_a_verb_that_rbac_refuses_is_permission_denied_with_the_rule_that_grants_it() -> None:
    message = (
        'sandboxes.arl.infra.io is forbidden: User "system:serviceaccount:tests:runner" cannot create resource '
        '"sandboxes" in API group "arl.infra.io" in the namespace "tests"'
    )
    error = said(403, status(403, "Forbidden", message, group="arl.infra.io", kind="sandboxes"))
    assert isinstance(error, PermissionDenied)
    assert "system:serviceaccount:tests:runner" in str(error)
    assert "{apiGroups: [arl.infra.io], resources: [sandboxes], verbs: [create]}" in str(error)
    assert "namespace 'tests'" in str(error)


def test_the_rule_for_a_port_forward_has_both_verbs_that_api_servers_ask_for() -> None:
    message = 'pods "p" is forbidden: User "u" cannot get resource "pods/portforward" in API group "" in the namespace "tests"'
    error = said(403, status(403, "Forbidden", message))
    assert isinstance(error, PermissionDenied)
    assert '{apiGroups: [""], resources: [pods/portforward], verbs: [get, create]}' in str(error)


@pytest.mark.parametrize(
    ("code", "body", "cure"),
    [
        (401, status(401, "Unauthorized", "Unauthorized"), r"expired.*log in"),
        (404, status(404, "NotFound", 'namespaces "tests" not found', name="tests", kind="namespaces"), "kubectl create namespace tests"),
        (404, b"404 page not found\n", r"does not serve arl.infra.io/v1alpha1.*pytest-arl manifests"),
        (400, status(400, "BadRequest", 'strict decoding error: unknown field "spec.holder"'), r"another version.*pytest-arl manifests"),
        (403, status(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q, requested: count/x=1'), r"quota is used up"),
        (403, status(403, "Forbidden", "unable to create new content in namespace tests because it is being terminated"), r"is being deleted"),
        (500, status(500, "InternalError", "etcdserver: leader changed"), r"has a problem"),
        (502, b"<html>Bad Gateway</html>", r"Bad Gateway.*has a problem"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_cluster_is_said_with_its_cure(code: int, body: object, cure: str) -> None:
    error = said(code, body)
    assert type(error) is BackendUnavailable
    assert "\n" not in str(error)
    with pytest.raises(BackendUnavailable, match=cure):
        raise error


def test_a_manifest_that_is_wrong_is_a_usage_error_in_the_servers_words() -> None:
    message = 'Task.arl.infra.io "t" is invalid: spec.steps[0].name: Too long: may not be more than 63 bytes'
    error = said(422, status(422, "Invalid", message))
    assert isinstance(error, UsageError)
    assert "Too long" in str(error)


def test_control_characters_of_an_answer_reach_no_terminal() -> None:
    assert "\x1b" not in str(said(500, b"\x1b[2Jboo"))
    assert "boo" in str(said(500, b"\x1b[2Jboo")), "control"


def test_only_what_may_pass_is_tried_again() -> None:
    assert [code for code in (400, 401, 403, 404, 409, 410, 422, 429, 500, 503) if Refused(code, "", "").passing] == [
        429,
        500,
        503,
    ]
