"""What a step sees of its container's environment."""

from __future__ import annotations

from pytest_arl.agent.container import KEPT_VARIABLE, OPERATOR_KEYS_VARIABLE, POD_UID_VARIABLE, Container
from pytest_arl.cluster.pod import keys_variable

KUBELETS = {
    b"KUBERNETES_SERVICE_HOST": b"10.96.0.1",
    b"KUBERNETES_SERVICE_PORT": b"443",
    b"KUBERNETES_SERVICE_PORT_HTTPS": b"443",
    b"KUBERNETES_PORT": b"tcp://10.96.0.1:443",
    b"KUBERNETES_PORT_443_TCP": b"tcp://10.96.0.1:443",
    b"KUBERNETES_PORT_443_TCP_PROTO": b"tcp",
    b"KUBERNETES_PORT_443_TCP_PORT": b"443",
    b"KUBERNETES_PORT_443_TCP_ADDR": b"10.96.0.1",
}
"""What a container has though it has ``enableServiceLinks: false``."""


def env_of_steps(variables: dict[bytes, bytes]) -> dict[bytes, bytes]:
    own = {
        POD_UID_VARIABLE.encode(): b"u",
        OPERATOR_KEYS_VARIABLE.encode(): keys_variable([((1 << 2047) + 1, 65537)]).encode(),
    }
    return Container({**own, b"PATH": b"/bin", **variables}).env


def test_steps_are_not_told_where_the_clusters_api_is() -> None:
    others = {
        b"KUBERNETES": b"x",
        b"KUBERNETES_MINE": b"y",
        b"KUBERNETES_PORTAL": b"z",
        b"KUBERNETES_SERVICE_NAME": b"n",
    }
    assert env_of_steps({**KUBELETS, **others}) == {b"PATH": b"/bin", **others}


def test_what_the_template_sets_itself_steps_have() -> None:
    told = {KEPT_VARIABLE.encode(): b"KUBERNETES_PORT KUBERNETES_SERVICE_HOST"}
    kept = {name: KUBELETS[name] for name in (b"KUBERNETES_PORT", b"KUBERNETES_SERVICE_HOST")}
    assert env_of_steps({**KUBELETS, **told}) == {b"PATH": b"/bin", **kept}
