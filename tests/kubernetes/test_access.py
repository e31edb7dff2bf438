"""Which cluster, as whom, in which namespace; and what is said where none is configured."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from pytest_arl import BackendUnavailable
from pytest_arl.backends.kubernetes.access import connect
from pytest_arl.backends.kubernetes.api import Api
from tests.kubernetes.fake import kubeconfig, settings_for


@pytest.fixture(autouse=True)
def _no_cluster_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_the_contexts_namespace_is_the_default_and_else_default(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    assert connect(settings_for(path)).namespace == "default"
    assert connect(settings_for(path, context="elsewhere")).namespace == "far"
    assert connect(settings_for(kubeconfig(tmp_path, "http://127.0.0.1:1", namespace="near"))).namespace == "near"


def test_the_environments_kubeconfig_is_read_where_none_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:1", namespace="near")))
    access = connect(settings_for(None))
    assert access.namespace == "near"
    assert access.headers()["authorization"] == "Bearer secret"
    assert "context 'here'" in access.described


def test_no_kubeconfig_is_said_with_what_to_do() -> None:
    with pytest.raises(BackendUnavailable, match=r"no kubeconfig.*--arl-kubeconfig"):
        connect(settings_for(None))


def test_a_missing_kubeconfig_is_named_with_the_setting_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"missing \(--arl-kubeconfig\)"):
        connect(settings_for(tmp_path / "missing"))


@pytest.mark.parametrize("content", ["", "a: [", "- list", "contexts: 3", "{}"])
def test_a_kubeconfig_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken"
    path.write_text(content)
    with pytest.raises(BackendUnavailable) as caught:
        connect(settings_for(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_context_that_is_not_there_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(BackendUnavailable, match=r"no context 'elsewere'.*--arl-context.*did you mean 'elsewhere'"):
        connect(settings_for(path, context="elsewere"))


def test_a_context_can_be_chosen_where_none_is_current(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    path.write_text(path.read_text().replace("current-context: here\n", ""))
    assert connect(settings_for(path, context="here")).namespace == "default"
    with pytest.raises(BackendUnavailable, match="no current context"):
        connect(settings_for(path))


def test_a_plugin_that_gives_no_credentials_is_one_line(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:1")
    plugin = "exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin}"
    path.write_text(path.read_text().replace("token: secret", plugin))
    with pytest.raises(BackendUnavailable, match=r"'here'.*no-such-plugin"):
        connect(settings_for(path))


def test_inside_a_pod_without_a_service_account_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(BackendUnavailable, match="service account"):
        connect(settings_for(None))


def test_a_cluster_that_is_away_is_said_in_seconds(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        api = Api(settings_for(kubeconfig(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")))
        began = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"cannot reach .*refused.*kubectl"):
            api.get("sandboxes", "n", "x")
    assert time.monotonic() - began < 5


def test_a_server_that_speaks_no_tls_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        api = Api(settings_for(kubeconfig(tmp_path, f"https://127.0.0.1:{plain.getsockname()[1]}")))
        plain.settimeout(0.1)

        def answer() -> None:
            while True:
                try:
                    peer, _ = plain.accept()
                except OSError:
                    return
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1"):
            api.get("sandboxes", "n", "x")
