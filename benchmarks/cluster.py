"""``python -m benchmarks.cluster``: how fast the operator is, on the cluster that KUBECONFIG names.

Starts an operator of this tree as a process of this machine, restricted to a namespace of its own (so this machine must
reach the pods' addresses, as kind on Linux lets it), and asks it for Sandboxes and Tasks by plain HTTP:
what a client library costs comes on top. Images by ARL_TEST_AGENT_IMAGE and ARL_TEST_PYTHON_IMAGE.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks.machine import describe
from benchmarks.statistics import median, percentile
from pytest_arl.cluster.kinds import path
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.async_api import AsyncApi
from pytest_arl.operator.credentials import connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

__all__: list[str] = []

_WAIT_SECONDS = 120.0
_AT_ONCE = 50  # cold sandboxes: a small node starts two or three pods a second
_GROUP = {"apiVersion": "arl.infra.io/v1alpha1"}


class Watch:
    """What is known of a kind in the namespace, as its watch tells it."""

    def __init__(self, plural: str, namespace: str) -> None:
        self._where = path(plural, namespace)
        self._status: dict[str, Any] = {}
        self._waiting: dict[str, tuple[Callable[[Any], bool], asyncio.Future[Any]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        info = connection()
        self._session = aiohttp.ClientSession(
            info.server,
            headers=info.as_http_headers(),
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context()),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=8 * 1024 * 1024,
        )
        started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(started))
        await started
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._session.close()

    async def _follow(self, started: asyncio.Future[None]) -> None:
        async with self._session.get(self._where, params={"watch": "1", "resourceVersion": "0"}) as response:
            started.set_result(None)
            async for line in response.content:
                event = json.loads(line)
                self._seen(event["object"])

    def _seen(self, body: Any) -> None:
        name = body["metadata"].get("name")
        wanted = self._waiting.get(name)
        self._status[name] = body.get("status") or {}
        if wanted is not None and wanted[0](self._status[name]) and not wanted[1].done():
            wanted[1].set_result(self._status[name])

    async def until(self, name: str, is_so: Callable[[Any], bool]) -> Any:
        """The status of that object once it is as wanted."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[name] = is_so, future
        try:
            if is_so(self._status.get(name, {})):
                return self._status[name]
            async with asyncio.timeout(_WAIT_SECONDS):
                return await future
        finally:
            del self._waiting[name]


class Bench:
    """The namespace, its watches, and what is measured in it."""

    def __init__(self, api: AsyncApi, namespace: str, operator: int) -> None:
        self._api = api
        self._namespace = namespace
        self._operator = operator
        self._tasks = Watch("tasks", namespace)
        self._sandboxes = Watch("sandboxes", namespace)
        self._pools = Watch("warmpools", namespace)
        self._number = 0
        self._owners: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        for watch in (self._tasks, self._sandboxes, self._pools):
            await watch.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in (self._tasks, self._sandboxes, self._pools):
            await watch.__aexit__()

    async def pool(self, name: str, replicas: int, image: str) -> None:
        """A pool with all its pods ready."""
        container = {"name": "executor", "image": image, "imagePullPolicy": "IfNotPresent"}
        spec = {"replicas": replicas, "template": {"spec": {"containers": [container]}}}
        body = {**_GROUP, "kind": "WarmPool", "metadata": {"name": name}, "spec": spec}
        try:
            await self._api.create(path("warmpools", self._namespace), body)
        except ApiError as error:
            if error.status != 409:
                raise
            await self._api.patch(path("warmpools", self._namespace, name), {"spec": {"replicas": replicas}})
        await self.full(name, replicas)

    async def full(self, name: str, replicas: int) -> None:
        """Wait for the pool's pods."""
        await self._pools.until(name, lambda status: status.get("readyReplicas", -1) == replicas)

    async def quiet(self, name: str, replicas: int) -> None:
        """Nothing starts or ends any more that would take part in what is measured."""
        await asyncio.sleep(2)
        await self.full(name, replicas)
        while not all(map(_settled, await self._api.items(path("pods", self._namespace)))):  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.5)
        await asyncio.sleep(2)

    async def sandbox(self, pool: str) -> tuple[str, float]:
        """A sandbox of the pool, and the seconds until it was ready."""
        self._number += 1
        name = f"sb-{self._number}"
        spec = {"poolRef": pool, "keepAlive": True}
        began = time.perf_counter()
        made = await self._api.create(
            path("sandboxes", self._namespace),
            {**_GROUP, "kind": "Sandbox", "metadata": {"name": name}, "spec": spec},
        )
        status = await self._sandboxes.until(name, lambda status: status.get("phase") in ("Ready", "Failed"))
        if status["phase"] != "Ready":
            raise RuntimeError(f"{name}: {status}")
        self._owners[name] = made["metadata"]["uid"]
        return name, time.perf_counter() - began

    async def task(self, sandbox: str, *argv: str) -> float:
        """Seconds from before the POST of a Task until its end is seen."""
        self._number += 1
        name = f"{sandbox}-{self._number:06}"
        owner = {**_GROUP, "kind": "Sandbox", "name": sandbox, "uid": self._owners[sandbox]}
        spec = {
            "sandboxRef": sandbox,
            "steps": [{"name": "s", "type": "Command", "command": list(argv)}],
            "ttlSecondsAfterFinished": 300,
        }
        meta = {"name": name, "ownerReferences": [owner]}
        began = time.perf_counter()
        ended = asyncio.ensure_future(self._tasks.until(name, lambda status: "completionTime" in status))
        await asyncio.sleep(0)
        await self._api.create(
            path("tasks", self._namespace), {**_GROUP, "kind": "Task", "metadata": meta, "spec": spec}
        )
        status = await ended
        if status["state"] != "Succeeded":
            raise RuntimeError(f"{name}: {status}")
        return time.perf_counter() - began

    async def give_back(self, sandbox: str) -> None:
        """Delete it, as a session that is closed does."""
        await self._api.delete(path("sandboxes", self._namespace, sandbox))

    async def clear(self) -> None:
        """No sandboxes, no tasks."""
        await self._api.delete(path("sandboxes", self._namespace))
        while await self._api.items(path("sandboxes", self._namespace)):  # noqa: ASYNC110 - no event tells of the last
            await asyncio.sleep(0.1)
        self._owners.clear()

    def operator_cpu(self) -> float:
        """Seconds of CPU that the operator has taken."""
        fields = Path(f"/proc/{self._operator}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def operator_memory(self) -> float:
        """Its resident megabytes."""
        pages = int(Path(f"/proc/{self._operator}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6


def _settled(pod: Any) -> bool:
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))
    return ready and "deletionTimestamp" not in pod["metadata"]


async def _one_at_a_time(bench: Bench, count: int) -> tuple[list[float], float]:
    sandbox, _ = await bench.sandbox("warm")
    await bench.quiet("warm", 10)
    for _ in range(20):
        await bench.task(sandbox, "/bin/true")
    cpu = bench.operator_cpu()
    times = [await bench.task(sandbox, "/bin/true") for _ in range(count)]
    return times, (bench.operator_cpu() - cpu) / count


async def _throughput(bench: Bench, count: int) -> tuple[float, float]:
    sandboxes = [(await bench.sandbox("warm"))[0] for _ in range(8)]
    await bench.quiet("warm", 10)
    left = count
    cpu, began = bench.operator_cpu(), time.perf_counter()

    async def client(number: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await bench.task(sandboxes[number % len(sandboxes)], "/bin/true")

    await asyncio.gather(*(client(number) for number in range(32)))
    return count / (time.perf_counter() - began), (bench.operator_cpu() - cpu) / count


async def _claims_one_at_a_time(bench: Bench, replicas: int, count: int) -> list[float]:
    times = []
    for _ in range(count):
        await bench.quiet("warm", replicas)
        times.append((await bench.sandbox("warm"))[1])
    return times


async def _claims_at_once(bench: Bench, replicas: int) -> tuple[float, list[float]]:
    await bench.quiet("warm", replicas)
    left = replicas
    times: list[float] = []
    began = time.perf_counter()

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            times.append((await bench.sandbox("warm"))[1])

    await asyncio.gather(*(client() for _ in range(8)))
    return replicas / (time.perf_counter() - began), times


async def _suite(bench: Bench, replicas: int, count: int) -> float:
    """A suite with a sandbox for each test: 2 workers take one, run a command, give it back; tests a second."""
    await bench.quiet("warm", replicas)
    left = count
    began = time.perf_counter()

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            name, _ = await bench.sandbox("warm")
            await bench.task(name, "sleep", "0.1")
            await bench.give_back(name)

    await asyncio.gather(worker(), worker())
    return count / (time.perf_counter() - began)


def _line(what: str, reach: str, found: str) -> None:
    print(f"{what:<58} {reach:>14} {found:>28}", flush=True)


def _ms(times: Sequence[float]) -> str:
    return f"{median(times) * 1000:.1f} / {percentile(times, 0.95) * 1000:.1f} ms"


async def _measure(bench: Bench, options: argparse.Namespace) -> None:
    image = os.environ.get("ARL_TEST_PYTHON_IMAGE", "localhost/python:3")
    bare = os.environ.get("ARL_TEST_BUSYBOX_IMAGE", "localhost/busybox:1")
    few = options.quick
    await bench.pool("warm", 10, image)
    _line("what", "reach", "found (median / 95th)")
    times, cpu = await _one_at_a_time(bench, 50 if few else 300)
    _line("Task /bin/true, POST to its end seen", "15 / 30 ms", _ms(times))
    _line("  operator's CPU for it", "3 ms", f"{cpu * 1000:.2f} ms")
    rate, cpu = await _throughput(bench, 300 if few else 2000)
    _line("Tasks, 32 at once over 8 sandboxes", "180 /s", f"{rate:.0f} /s")
    _line("  operator's CPU for one", "3 ms", f"{cpu * 1000:.2f} ms")
    await bench.clear()
    _line(
        "Sandbox from the pool, one at a time", "40 ms", _ms(await _claims_one_at_a_time(bench, 10, 5 if few else 20))
    )
    await bench.clear()
    await bench.pool("warm", 20, image)
    rates, all_times = [], []
    for _ in range(1 if few else 3):
        rate, times = await _claims_at_once(bench, 20)
        rates.append(rate)
        all_times += times
        await bench.clear()
    _line("Claims, 20 idle pods, 8 clients", "100 /s", f"{median(rates):.0f} /s ({_ms(all_times)})")
    await bench.pool("warm", 4, image)
    rate = await _suite(bench, 4, 20 if few else 60)
    _line("Tests with a sandbox each and 0.1 s of work, 2 workers", "", f"{rate:.2f} /s")
    await bench.clear()
    await bench.pool("warm", 0, image)
    await bench.pool("cold", 0, bare)
    cold = []
    for _ in range(3 if few else 10):
        cold.append((await bench.sandbox("cold"))[1])
        await bench.clear()
        await asyncio.sleep(1)
    _line("cold: no idle pod, image without the agent", "1.2 s", _ms(cold))
    if options.sandboxes:
        for begin in range(0, options.sandboxes, _AT_ONCE):
            count = min(_AT_ONCE, options.sandboxes - begin)
            await asyncio.gather(*(bench.sandbox("cold") for _ in range(count)))
        await asyncio.sleep(5)
        _line(f"operator's memory with {options.sandboxes} sandboxes", "150 MB", f"{bench.operator_memory():.0f} MB")
        await bench.clear()
    _line("operator's memory at the end", "", f"{bench.operator_memory():.0f} MB")


async def _run(options: argparse.Namespace) -> None:
    for key, value in describe().items():
        print(f"{key}: {value}")
    namespace = options.namespace
    async with AsyncApi() as api:
        await api.create(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        operator = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is measured
            [
                *(sys.executable, "-m", "pytest_arl.cli", "operator", "run", "--namespace", namespace),
                *("--agent-image", os.environ["ARL_TEST_AGENT_IMAGE"], "--health-port", "0", "--log-level", "warning"),
            ]
        )
        try:
            async with Bench(api, namespace, operator.pid) as bench:
                await _measure(bench, options)
        finally:
            await api.delete(path("sandboxes", namespace))
            await api.delete(path("warmpools", namespace))
            operator.terminate()
            operator.wait()
            await api.delete(f"/api/v1/namespaces/{namespace}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works, not what it says")
    parser.add_argument("--namespace", default=f"arl-bench-{os.getpid()}", help="made for this, deleted after it")
    parser.add_argument(
        "--sandboxes", type=int, default=200, help="how many at once for the operator's memory; 0: none"
    )
    asyncio.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
