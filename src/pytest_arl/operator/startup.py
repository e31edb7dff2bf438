"""``pytest-arl operator run``: become the leader, learn what there is, then follow it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kopf

from pytest_arl.cluster.kinds import GROUP_PATH, path
from pytest_arl.cluster.names import GROUP
from pytest_arl.operator import election, health, keys, logs
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.async_api import AsyncApi
from pytest_arl.operator.beside import Beside, Pulse
from pytest_arl.operator.context import Context
from pytest_arl.operator.control import Control
from pytest_arl.operator.rounds import Rounds
from pytest_arl.operator.template import Agent
from pytest_arl.operator.watching import Watching
from pytest_arl.text.timestamps import parse_timestamp

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["Options", "add_arguments", "run"]

_LOG = logging.getLogger(__name__)

_MOST_DESCRIPTORS = 65_536

_LONGEST_TERM = 600.0
_ORIGINAL_LEASE = "arl-operator.infra.io"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the operator.

    Attributes:
        namespaces: those it works in; none is all.
        home: the namespace of its lease and key.
        agent_image: the image that brings the agent.
        lease_seconds: after how long without a renewal another operator may lead.
        identity: whose predecessor's lease it takes at once.
    """

    namespaces: Sequence[str]
    home: str
    agent_image: str
    pull_policy: str | None
    health_port: int
    lease_seconds: float
    identity: str
    log_level: str


class StartRefused(Exception):
    """The reason why the operator does not start, in a line with the cure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pytest-arl operator run``."""
    env = os.environ.get
    add = parser.add_argument
    add("--namespace", action="append", default=[], metavar="NS", help="work in this namespace only (repeatable)")
    add(
        "--operator-namespace",
        default=env("ARL_OPERATOR_NAMESPACE"),
        metavar="NS",
        help="namespace of the operator's lease and key (ARL_OPERATOR_NAMESPACE; default: the first --namespace, "
        "else arl-system)",
    )
    add("--agent-image", default=env("ARL_AGENT_IMAGE"), metavar="IMAGE", help="the agent's image (ARL_AGENT_IMAGE)")
    add("--agent-pull-policy", choices=["Always", "IfNotPresent", "Never"], help="imagePullPolicy of that image")
    add("--health-port", type=int, default=8080, metavar="PORT", help="port of /healthz and /readyz; 0: none")
    add("--lease-seconds", type=float, default=15.0, metavar="S", help="seconds that its lease lasts without a renewal")
    add("--identity", default=env("POD_NAME"), metavar="NAME", help="a successor of this name takes over at once")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])


def run(args: argparse.Namespace) -> int:
    """Run until stopped; the exit code."""
    logs.setup(args.log_level)
    _take_descriptors()
    if not args.agent_image:
        sys.stderr.write("pytest-arl: no agent image: set ARL_AGENT_IMAGE or give --agent-image\n")
        return 2
    home = args.operator_namespace or (args.namespace[0] if args.namespace else "arl-system")
    identity = args.identity or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    options = Options(
        namespaces=args.namespace,
        home=home,
        agent_image=args.agent_image,
        pull_policy=args.agent_pull_policy,
        health_port=args.health_port,
        lease_seconds=args.lease_seconds,
        identity=identity,
        log_level=args.log_level,
    )
    try:
        asyncio.run(_main(options))
    except (StartRefused, kopf.LoginError) as refused:
        sys.stderr.write(f"pytest-arl: {refused}\n")
        return 1
    except ApiError as error:
        who = "the API server refuses the operator: " if error.status else ""
        sys.stderr.write(f"pytest-arl: {who}{error}\n")
        return 1
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.stderr.write(f"pytest-arl: port {options.health_port} is in use: give --health-port another one, or 0\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    return 0


def _take_descriptors() -> None:
    """Raise the limit of descriptors: a container may start with 1,024, and each sandbox has a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _main(options: Options) -> None:
    state, pulse = health.Health(), Pulse()
    # The Lease has connections of its own: no crowd of requests stands before a renewal.
    with Beside() as beside:
        async with (
            beside.within(health.serve(state, options.health_port)),
            AsyncApi() as api,
            beside.within(AsyncApi()) as own,
        ):
            await _check(api, options)
            leadership = election.Leadership(own, options.home, options.identity, options.lease_seconds)
            await beside.call(leadership.acquire())
            beating = asyncio.create_task(pulse.beat())
            beside.start(pulse.watch())
            keeping = beside.start(_keep(leadership))
            await _lead(api, options, state, election.Term.of(leadership, beside.call))
            beating.cancel()
            keeping.cancel()  # or it would renew what is released
            await beside.call(leadership.release())
            _LOG.info("stopped")
            # It may be killed at any moment, so there is nothing to put in order.
            logging.shutdown()
            os._exit(0)


async def _lead(api: AsyncApi, options: Options, state: health.Health, term: election.Term) -> None:
    """Serve until the process is asked to end."""
    state.state = "syncing"
    loaded = await keys.load(api, options.home)
    agent = Agent(options.agent_image, options.pull_policy, loaded.public, loaded.claims[0])
    control = Control(Context(api, loaded, term, agent), options.namespaces)
    watching = Watching(control)
    rounds = Rounds(control, watching.resync)
    await watching.start()
    rounds.stray_pods()
    state.alive = lambda: rounds.alive
    state.state = "leading"
    stopped = _stopped()
    working = [asyncio.create_task(each.run()) for each in (rounds, watching)]
    await asyncio.wait((stopped, *working), return_when=asyncio.FIRST_COMPLETED)
    for each in working:
        if each.done():
            each.result()  # neither ends by itself: what it raised is the end of the process


def _stopped() -> asyncio.Future[None]:
    """Done once a signal asks the process to end."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None if stopped.done() else stopped.set_result(None))
    return stopped


async def _keep(leadership: election.Leadership) -> None:
    """Stop the process, whatever it is doing, before another one may lead."""
    try:
        await leadership.keep()
    except election.LeadershipLost as lost:
        _LOG.critical("the lease is lost: %s", lost)
        os._exit(3)


async def _check(api: AsyncApi, options: Options) -> None:
    """Check the cluster for what must be there, and for what must not."""
    try:
        found = await api.get(GROUP_PATH)
    except ApiError as error:
        if error.status != 404:
            raise
        found = {"resources": []}
    missing = {"warmpools", "sandboxes", "tasks"} - {each["name"] for each in found["resources"]}
    if missing:
        raise StartRefused(
            f"the cluster has no {', '.join(sorted(missing))}.{GROUP}: pytest-arl manifests | kubectl apply -f -"
        )
    namespaces: Sequence[str | None] = options.namespaces or [None]
    for namespace in namespaces:
        try:
            leases = await api.items(path("leases", namespace), fieldSelector=f"metadata.name={_ORIGINAL_LEASE}")
        except ApiError as error:
            if error.status == 403:
                continue
            raise
        for lease in leases:
            where = lease["metadata"]["namespace"]
            if not _renewed(lease):
                continue
            text = f"the original ARL operator runs in namespace {where}: stop it first, as both cannot run"
            if where == options.home:
                raise StartRefused(text)
            _LOG.warning("%s; a Lease there says so, which others may have created", text)


def _renewed(lease: dict[str, Any]) -> bool:
    """True if its holder was there within three times its term (by two wall clocks: a guess on the safe side)."""
    import time  # noqa: PLC0415 - here only

    spec = lease.get("spec") or {}
    renewed = parse_timestamp(spec.get("renewTime"))
    term = 3 * min(float(spec.get("leaseDurationSeconds") or 15), _LONGEST_TERM)
    return bool(spec.get("holderIdentity")) and renewed is not None and abs(time.time() - renewed) < term
