"""What bad input gets from a cluster: a line that says what is wrong, and what to do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import (
    BackendUnavailable,
    PermissionDenied,
    PoolNotFound,
    SandboxSession,
    SandboxTimeout,
    UsageError,
)
from pytest_arl.hooks import close_backends
from pytest_arl.settings import override
from tests.cluster.clients import account, rewritten
from tests.cluster.installation import Installation, pool

Open = Callable[..., SandboxSession]

ALL = ["get", "list", "watch", "create", "patch", "delete", "deletecollection"]
RULES: list[dict[str, Any]] = [
    {"apiGroups": ["arl.infra.io"], "resources": ["warmpools", "sandboxes", "tasks"], "verbs": ALL},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ALL},
]


@pytest.fixture
def session(installation: Installation, python_pool: str) -> Open:
    """Makes a session that is not open, of the pool with Python unless told otherwise."""

    def make(name: str = python_pool, **options: Any) -> SandboxSession:
        return SandboxSession(name, backend="kubernetes", **{"namespace": installation.namespace, **options})

    return make


@contextmanager
def as_configured(**values: object) -> Iterator[None]:
    """Settings of a process that has no backend yet."""
    close_backends()
    try:
        with override(values, "a test"):
            yield
    finally:
        close_backends()


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_pool_that_is_not_there_is_pool_not_found_within_a_second(installation: Installation, session: Open) -> None:
    with session():
        began = time.monotonic()
        with pytest.raises(PoolNotFound) as caught:
            session("pyhton").create_sandbox()
        took = time.monotonic() - began
    said = one_line(caught.value)
    assert took < 1
    assert installation.namespace in said
    assert "did you mean 'python'?" in said


def test_a_pool_that_was_deleted_a_moment_ago_is_pool_not_found_too(installation: Installation, session: Open) -> None:
    installation.apply(pool("brief", installation.images["python"], replicas=1))
    installation.wait("condition=Ready", "warmpool/brief")
    with session("brief") as sandbox:
        assert sandbox.run("true").ok, "control: it is known by now"
    installation.kubectl("delete", "warmpool", "brief")
    with pytest.raises(PoolNotFound, match=r"brief.*python"):
        session("brief", acquire_timeout=30).create_sandbox()


def test_a_namespace_that_is_not_there_is_said_with_what_makes_one(session: Open) -> None:
    with pytest.raises(BackendUnavailable, match=r"no namespace 'arl-nowhere'.*kubectl create namespace arl-nowhere"):
        session(namespace="arl-nowhere").create_sandbox()


def test_an_image_that_cannot_be_pulled_reaches_the_exception_in_the_events_own_words(
    installation: Installation, session: Open
) -> None:
    installation.apply(pool("imageless", "localhost/no-such-image:1", replicas=1))
    try:
        began = time.monotonic()
        with pytest.raises(SandboxTimeout) as caught:
            session("imageless", acquire_timeout=10).create_sandbox()
        said = one_line(caught.value)
        assert 10 <= time.monotonic() - began < 13
        assert "after 10 s" in said
        assert "Sandbox 'imageless-" in said
        assert "ErrImagePull" in said or "ImagePullBackOff" in said
        assert "no-such-image" in said
        left = [item["metadata"]["name"] for item in installation.get("sandboxes")["items"]]
        assert not [name for name in left if name.startswith("imageless-")], "nobody has it, so it does not stay"
    finally:
        installation.kubectl("delete", "warmpool", "imageless")


def test_a_pod_that_fits_nowhere_reaches_the_exception_in_the_schedulers_words(
    installation: Installation, session: Open
) -> None:
    huge = {"resources": {"requests": {"cpu": "1000"}}}
    installation.apply(pool("huge", installation.images["python"], replicas=1, container=huge))
    try:
        with pytest.raises(SandboxTimeout, match=r"Unschedulable.*[Ii]nsufficient cpu"):
            session("huge", acquire_timeout=6).create_sandbox()
    finally:
        installation.kubectl("delete", "warmpool", "huge")


def test_a_token_that_is_not_accepted_is_said_with_what_to_do(tmp_path: Path, session: Open) -> None:
    began = time.monotonic()
    with (
        as_configured(kubeconfig=rewritten(tmp_path / "config", token="expired")),
        pytest.raises(BackendUnavailable, match=r"not accepted \(401\).*expired.*log in"),
    ):
        session().create_sandbox()
    assert time.monotonic() - began < 5


def test_a_cluster_that_is_away_is_said_in_seconds(tmp_path: Path, session: Open) -> None:
    began = time.monotonic()
    with (
        as_configured(kubeconfig=rewritten(tmp_path / "config", server="https://127.0.0.1:1")),
        pytest.raises(BackendUnavailable, match=r"cannot reach the cluster at https://127\.0\.0\.1:1.*refused"),
    ):
        session().create_sandbox()
    assert time.monotonic() - began < 6


def test_another_clusters_certificate_is_said(tmp_path: Path, session: Open) -> None:
    config = rewritten(tmp_path / "config")
    other = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUI="
    text = re.sub(r'("certificate-authority-data": )"[^"]*"', rf'\1"{other}"', config.read_text())
    config.write_text(text)
    with as_configured(kubeconfig=config), pytest.raises(BackendUnavailable, match="certificate"):
        session().create_sandbox()


def test_an_operator_that_is_not_there_is_said_with_what_installs_it(installation: Installation, session: Open) -> None:
    lonely = f"{installation.namespace}-lonely"
    installation.kubectl("create", "namespace", lonely)
    try:
        installation.kubectl(
            "apply", "-f", "-", text=json.dumps(pool("python", installation.images["python"])), namespace=lonely
        )
        began = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"operator.*(pytest-arl manifests|pytest-arl doctor)"):
            session(namespace=lonely).create_sandbox()
        assert time.monotonic() - began < 50
    finally:
        installation.kubectl("delete", "namespace", lonely, "--wait=false")


# RBAC, with real service accounts


@pytest.fixture
def as_account(installation: Installation, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a service account with those rights, whose credentials this process has from then on."""
    made: list[str] = []
    with as_configured():

        def use(name: str, rules: list[dict[str, Any]] | None, role: str | None = None) -> Any:
            made.append(name)
            token = account(installation, name, rules, role=role)
            context = override({"kubeconfig": rewritten(tmp_path / name, token=token)}, "a test")
            close_backends()
            return context

        yield use
    for name in made:
        installation.kubectl("delete", "--ignore-not-found", f"rolebinding/{name}", f"role/{name}", f"sa/{name}")


@pytest.mark.parametrize(
    ("missing", "rule"),
    [
        ("leases", r"apiGroups: \[coordination.k8s.io\], resources: \[leases\], verbs: \[create\]"),
        ("warmpools", r"apiGroups: \[arl.infra.io\], resources: \[warmpools\], verbs: \[get\]"),
        ("sandboxes", r"apiGroups: \[arl.infra.io\], resources: \[sandboxes\], verbs: \[create\]"),
    ],
)
def test_a_right_that_is_missing_is_permission_denied_with_the_rule_to_add(
    installation: Installation, session: Open, as_account: Callable[..., Any], missing: str, rule: str
) -> None:
    rules = [
        {**each, "resources": [name for name in each["resources"] if name != missing] or ["nothing"]} for each in RULES
    ]
    name = f"no-{missing}"
    with as_account(name, rules), pytest.raises(PermissionDenied, match=rule) as caught:
        session().create_sandbox()
    said = one_line(caught.value)
    assert f"system:serviceaccount:{installation.namespace}:{name}" in said
    assert f"namespace {installation.namespace!r}" in said


def test_a_right_to_run_tasks_that_is_missing_is_said_when_one_is_run(
    session: Open, as_account: Callable[..., Any]
) -> None:
    rules = [{**RULES[0], "resources": ["warmpools", "sandboxes"]}, RULES[1]]
    with (
        as_account("no-tasks", rules),
        session() as sandbox,
        pytest.raises(PermissionDenied, match=r"resources: \[tasks\], verbs: \[create\]"),
    ):
        sandbox.run("true")


def test_without_port_forward_what_needs_none_works_and_the_rest_names_the_rule(
    session: Open, as_account: Callable[..., Any], tmp_path: Path
) -> None:
    rule = r'apiGroups: \[""\], resources: \[pods/portforward\], verbs: \[get, create\]'
    with as_account("no-forward", RULES), session() as sandbox:
        patch = {"type": "FilePatch", "path": "x", "content": "hello"}
        assert sandbox.execute([patch, {"type": "Command", "command": ["cat", "x"]}]).check().stdout.endswith("hello")
        uses: list[Callable[[], object]] = [
            lambda: sandbox.write("y", "content"),
            lambda: sandbox.read("x"),
            lambda: sandbox.download("x", tmp_path / "x"),
            lambda: sandbox.run("seq", "200000"),
            lambda: sandbox.run("printf", "\\377"),
            lambda: sandbox.execute([{"type": "Command", "command": ["echo"]}], on_output=lambda *_: None),
        ]
        for use in uses:
            with pytest.raises(PermissionDenied, match=rule):
                use()
        assert sandbox.run("echo", "still here").stdout == "still here\n"


def test_the_role_that_is_printed_for_users_is_all_that_a_run_needs(
    session: Open, as_account: Callable[..., Any], tmp_path: Path
) -> None:
    with as_account("user", None, "arl-user"), session() as sandbox:
        sandbox.write("file", b"\xff" * 100_000)
        sandbox.download("file", tmp_path / "file")
        assert (tmp_path / "file").stat().st_size == 100_000
        assert sandbox.run("seq", "200000").check().stdout_size == 1_288_895
        process = sandbox.start("cat")
        process.write(b"in")
        process.close_stdin()
        assert process.wait(10).stdout == "in"
        heard: list[bytes] = []
        step = {"type": "Command", "command": ["echo", "live"]}
        sandbox.execute([step], on_output=lambda _step, _stream, data: heard.append(data)).check()
        assert b"".join(heard) == b"live\n"
        sandbox.checkpoint()
        sandbox.reset()
        assert sandbox.read("file") == b"\xff" * 100_000


# Steps that a cluster does not take


def test_steps_that_no_task_can_have_are_usage_errors_and_nothing_is_run(session: Open) -> None:
    true = {"type": "Command", "command": ["touch", "ran"]}
    with session() as sandbox:
        for steps in ([true] * 257, [{**true, "name": "n" * 64}], [true, {**true, "name": ""}]):
            with pytest.raises(UsageError):
                sandbox.execute(steps)
        assert not sandbox.run("test", "-e", "ran").ok
        assert sandbox.execute([true] * 256).ok, "control"
        assert sandbox.run("test", "-e", "ran").ok
