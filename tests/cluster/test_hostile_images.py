"""Pods of an image that would have every program load something: its steps obey it, the agent does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_arl import SandboxSession
from tests.cluster.installation import Installation, pool

VARIABLES = {
    "LD_PRELOAD": "/variable-was-read.so",
    "LD_DEBUG": "libs",
    "LANG": "C.UTF-8",
    "TZ": "Image/Zone",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/image",
    "JAVA_HOME": "/opt/jävä",
    "EMPTY": "",
}
"""The kubelet makes one environment of an image's variables and its template's."""


@pytest.fixture(scope="module")
def sandbox(installation: Installation) -> Iterator[SandboxSession]:
    """A sandbox of a pool over such an image; a loader tells of a library that it shall load and is not there."""
    plant = {
        "name": "plant",
        "image": installation.images["python"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "echo /file-was-read.so > /planted/ld.so.preload"],
        "volumeMounts": [{"name": "planted", "mountPath": "/planted"}],
    }
    container = {
        "env": [{"name": name, "value": value} for name, value in VARIABLES.items()],
        "volumeMounts": [{"name": "planted", "mountPath": "/etc/ld.so.preload", "subPath": "ld.so.preload"}],
    }
    volumes = [{"name": "planted", "emptyDir": {}}]
    installation.apply(
        pool(
            "hostile",
            installation.images["python"],
            replicas=1,
            container=container,
            initContainers=[plant],
            volumes=volumes,
        )
    )
    installation.wait("condition=Ready", "warmpool/hostile")
    with SandboxSession("hostile", namespace=installation.namespace, backend="kubernetes") as session:
        yield session
    installation.kubectl("delete", "warmpool/hostile")


def test_an_image_loads_nothing_into_the_agent(installation: Installation, sandbox: SandboxSession) -> None:
    step = sandbox.run("python3", "-c", "pass").check()
    pod = installation.get("sandbox", sandbox.name)["status"]["podName"]
    log = installation.kubectl("logs", pod, "-c", "executor").stdout

    assert log == ""
    for sign in ("/variable-was-read.so", "/file-was-read.so", "find library="):
        assert sign in step.stderr, "the positive control: a step's loader obeys the image, and tells"


def test_steps_have_the_images_variables_and_none_of_the_agents(sandbox: SandboxSession) -> None:
    code = "import os; print({name: os.environ[name] for name in os.environ})"
    seen = eval(sandbox.run("python3", "-c", code).check().stdout)

    assert VARIABLES.items() <= seen.items()
    assert not {name for name in seen if name.startswith(("ARL_", "=", "LC_ALL"))}
