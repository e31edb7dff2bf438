"""How much of one sandbox of a cluster this machine keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, UsageError
from tests.cluster.installation import Installation, pool

OpenSandbox = Callable[[str], SandboxSession]
KIB = 1024


@pytest.fixture
def open_sandbox(installation: Installation) -> Iterator[OpenSandbox]:
    """A function that opens a sandbox of a pool: ``told`` keeps 1 MiB; ``sized`` holds 192 KiB and does not say."""
    told = pool("told", installation.images["busybox"], replicas=1)
    told["spec"]["sandbox"] = {"kept": "1Mi"}
    sizes = {"work": ("/workspace", "128Ki"), "temporary": ("/tmp", "64Ki")}
    sized = pool(
        "sized",
        installation.images["busybox"],
        replicas=1,
        container={"volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in sizes.items()]},
        volumes=[
            {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size}} for name, (_, size) in sizes.items()
        ],
    )
    installation.apply(told, sized)
    with ExitStack() as keep:
        keep.callback(installation.kubectl, "delete", "warmpool", "told", "sized")
        yield lambda name: keep.enter_context(
            SandboxSession(name, namespace=installation.namespace, backend="kubernetes", acquire_timeout=120)
        )


def test_a_download_just_below_what_a_pool_keeps_arrives_and_one_just_above_is_refused(
    open_sandbox: OpenSandbox, tmp_path: Path
) -> None:
    sandbox = open_sandbox("told")
    most = 1024 * KIB - KIB  # a file counts its data and 1 KiB
    sandbox.run("sh", "-c", f"head -c {most} /dev/zero > most; head -c {most + 1} /dev/zero > more").check()
    with pytest.raises(UsageError) as caught:
        sandbox.download("more", tmp_path / "more")
    message = str(caught.value)
    assert message.startswith("download of more: it takes "), message
    assert message.endswith(
        "bytes more, but of the 1Mi that this machine keeps of a sandbox only 1Mi were left: take less of it, or raise "
        "`spec.sandbox.kept` of pool 'told'"
    )
    assert not (tmp_path / "more").exists()

    sandbox.download("most", tmp_path / "most")
    assert (tmp_path / "most").stat().st_size == most
    sandbox.run("sh", "-c", ": > empty").check()
    with pytest.raises(UsageError, match="empty"):
        sandbox.download("empty", tmp_path / "empty")


def test_without_a_word_a_pool_keeps_four_times_what_its_sandboxes_can_hold(
    open_sandbox: OpenSandbox, tmp_path: Path
) -> None:
    sandbox = open_sandbox("sized")
    most = 4 * 192 * KIB
    sandbox.run("sh", "-c", f"head -c {96 * KIB - KIB} /dev/zero > file").check()
    for number in range(most // (96 * KIB)):
        sandbox.download("file", tmp_path / str(number))
    sandbox.run("sh", "-c", ": > empty").check()
    with pytest.raises(UsageError, match="of the 768Ki that this machine keeps of a sandbox only 0 were left"):
        sandbox.download("empty", tmp_path / "empty")
