"""The built-in backend: sandboxes on this machine."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.backends.local import process_resources
from pytest_arl.backends.local.mount_sources import Sources
from pytest_arl.backends.local.plan import Plan, make_plan
from pytest_arl.backends.local.probe import probe
from pytest_arl.backends.local.sandbox_process import SandboxProcess
from pytest_arl.backends.local.survey import Survey
from pytest_arl.backends.local.warm import WarmPools
from pytest_arl.errors import BackendUnavailable, SandboxTimeout
from pytest_arl.pools import LocalPool, find_pool, load_pools, refuse_written
from pytest_arl.settings import Settings, in_force
from pytest_arl.text.units import format_quantity

if TYPE_CHECKING:
    from pytest_arl.backends.base import AcquireRequest, Backend
    from pytest_arl.backends.local.probe import Host
    from pytest_arl.backends.local.process_resources import ProcessResources

__all__ = ["LocalBackend", "create_backend"]

_logger = logging.getLogger("pytest_arl")
_WARM_SECONDS = 120.0


class _Prepared:
    """A sandbox that is ready; once it is handed out, it has a ``place`` among those that are open."""

    place: object = None

    def __init__(self, plan: Plan, around: ProcessResources, deadline: float) -> None:
        """Make one. Raises BackendUnavailable, SandboxTimeout."""
        self.plan = plan
        plan.check_sources()
        self.hidden = plan.sockets.look() if plan.sockets.seen is None else plan.sockets.seen
        while not self._start(around, deadline):
            self.hidden = plan.check()

    def _start(self, around: ProcessResources, deadline: float) -> bool:
        """Start it; false where other sockets have to be hidden than were known of.

        Those that were there when the last one was made are all as a rule. They are looked for again while the
        interpreter starts, when that delays nothing.
        """
        plan = self.plan
        try:
            self.sandbox_process = SandboxProcess(plan, around, deadline, self.hidden)
            try:
                if set(plan.sockets.look()).issubset(self.hidden):
                    self._greet(deadline)
                    return True
            except BaseException:
                self.sandbox_process.close()
                raise
        except BackendUnavailable:
            if plan.check() == self.hidden:  # what was replaced meanwhile is named
                raise
        else:
            self.sandbox_process.close()
        return False

    def _greet(self, deadline: float) -> None:
        self.channel = Channel(
            self.sandbox_process.connection, lost=self.sandbox_process.epitaph, starved=self.sandbox_process.starved
        )
        try:
            self.channel.handshake(self.sandbox_process.config, deadline, started=self.sandbox_process.watch)
        except ChannelLost as error:
            raise BackendUnavailable(self.sandbox_process.explain(str(error))) from None
        except TimeoutError:
            pool = self.plan.pool.name
            raise SandboxTimeout(
                f"a sandbox of pool {pool!r} was started, but its agent was not ready in time"
            ) from None
        self.sandbox_process.settle()
        if self.plan.by_path:
            self.plan.check()

    def alive(self) -> bool:
        """True if it can be handed out."""
        return not self.channel.broken and self.sandbox_process.alive()

    def close(self) -> None:
        """End it. Idempotent."""
        self.channel.close()
        self.sandbox_process.close()


class LocalBackend:
    """Sandboxes under bubblewrap. See :class:`pytest_arl.backends.base.Backend`.

    Nothing is looked for or started before the first :meth:`acquire`.
    """

    name = "local"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._plans: dict[str, Plan] = {}
        self._sources = Sources()
        self._survey: Survey | None = None
        self._open: dict[str, _Prepared] = {}
        self._opening: set[object] = set()
        """The places of sandboxes that are being acquired."""
        self._surroundings: ProcessResources | None = None
        self._closed = False
        self._warm: WarmPools[_Prepared] = WarmPools(self._make_warm, self._has_room)
        _backends.add(self)
        atexit.register(self.close)

    def pools(self) -> tuple[str, ...]:
        """Names of the pools there are, sorted."""
        return tuple(sorted(load_pools(self._settings)))

    def acquire(self, request: AcquireRequest) -> DirectSandbox:
        """A ready sandbox."""
        __tracebackhide__ = True
        deadline = time.monotonic() + request.acquire_timeout
        pool = find_pool(self._settings, request.pool_ref)
        if pool.name not in self._plans:
            refuse_written(pool, {**self._settings.writes, "TMPDIR": Path(tempfile.gettempdir())})
        plan = self._plan(pool)
        place = object()
        try:
            with self._lock:
                self._opening.add(place)
            return self._hand_out(plan, place, deadline)
        finally:
            with self._lock:
                self._opening.discard(place)

    def _plan(self, pool: LocalPool) -> Plan:
        __tracebackhide__ = True
        with self._lock:
            plan = self._plans.get(pool.name)
            if plan is None or plan.pool != pool:
                host = probe()
                host.require(self._settings.value("isolation_min"))
                plan = self._plans[pool.name] = make_plan(pool, host, self._surveyed(pool, host))
                if self._surroundings is None:
                    self._surroundings = process_resources.take(host)
            return plan

    def _surveyed(self, pool: LocalPool, host: Host) -> Survey:
        """The pools' survey, as it was when the first was used; looked up again where a pool itself has changed."""
        if self._survey is None or self._survey.pools.get(pool.name) != pool:
            self._survey = Survey(self._sources, self._settings, pool, [host.bwrap], self._survey)
        return self._survey

    def _hand_out(self, plan: Plan, place: object, deadline: float) -> DirectSandbox:
        """A warm sandbox or a fresh one.

        One that replaces another has its ``place``: the two count as one while a reset has both.
        """
        __tracebackhide__ = True
        prepared = self._take_warm(plan, deadline)
        warm = prepared is not None
        if prepared is None:
            if self._warm.count() and not self._has_room(self._warm.count() - 1):
                self._warm.give_up_one()
            with self._warm.paused():
                prepared = self._make(plan, deadline)
        name = prepared.sandbox_process.name
        with self._lock:
            closed = self._closed
            if not closed:
                prepared.place = place
                self._open[name] = prepared
        if closed:
            prepared.close()
            raise BackendUnavailable("the local backend is closed")
        return DirectSandbox(
            prepared.channel,
            name=name,
            pool_ref=plan.pool.name,
            isolation=plan.isolation,
            output_limit=plan.pool.output,
            on_close=lambda: self._close_one(name),
            kill=prepared.sandbox_process.kill,
            replace=lambda: self._replace(plan, place),
            limits=_shown_limits(plan.pool),
            warm=warm,
            shared=plan.shared,
            budget=_budget(plan.pool),
        )

    def _take_warm(self, plan: Plan, deadline: float) -> _Prepared | None:
        """A warm sandbox; none where it has something in its mounts that is not there any more, or sees a socket."""
        prepared = self._warm.take(plan, deadline)
        if prepared is None:
            return None
        try:
            seen = set(plan.check()).difference(prepared.hidden)
        except BaseException:
            prepared.close()
            raise
        if seen:
            prepared.close()
            return None
        return prepared

    def _replace(self, plan: Plan, place: object) -> DirectSandbox:
        """A sandbox in the place of one that is about to be closed."""
        return self._hand_out(plan, place, time.monotonic() + self._settings.value("acquire_timeout"))

    def _close_one(self, name: str) -> None:
        prepared = self._open.get(name)
        if prepared is not None:
            prepared.close()
            with self._lock:  # only then has it left its place
                self._open.pop(name, None)

    def _make(self, plan: Plan, deadline: float) -> _Prepared:
        with self._lock:
            if self._closed or self._surroundings is None:
                raise BackendUnavailable("the local backend is closed")
            around = self._surroundings
        return _Prepared(plan, around, deadline)

    def _make_warm(self, plan: Plan) -> _Prepared:
        return self._make(plan, time.monotonic() + _WARM_SECONDS)

    def _has_room(self, beside: int) -> bool:
        """True if one more may be kept warm, beside all that are open and ``beside`` that are warm.

        Sessions see to it that no more than ``--arl-max-sandboxes`` are open; warm ones take only what is left of that.
        """
        most: int | None = in_force(self._settings).value("max_sandboxes")
        if most is None:
            return True
        with self._lock:
            taken = self._opening | {prepared.place for prepared in self._open.values()}
        return len(taken) + beside < most

    def close(self) -> None:
        """Close every sandbox that is still open and free everything. Idempotent."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            left, self._open = list(self._open.values()), {}
        self._warm.close()
        for prepared in left:
            prepared.close()
        self._sources.close()
        with self._lock:
            if self._surroundings is not None:
                self._surroundings = None
                process_resources.release()

    def forget(self) -> None:
        """Leave everything to the parent, in a forked child."""
        self._lock = threading.RLock()
        self._closed = True
        for prepared in (*self._open.values(), *self._warm.ready()):
            prepared.sandbox_process.forget()
        self._sources.forget()
        atexit.unregister(self.close)


def _budget(pool: LocalPool) -> Budget:
    """The bound on what is kept of one sandbox of a pool."""
    return Budget(pool.most_kept, f"take less of it, or raise `kept` of pool {pool.name!r}")


def _shown_limits(pool: LocalPool) -> dict[str, str]:
    sizes = {"memory": pool.memory, "workspace": pool.workspace, "tmp": pool.tmp, "shm": pool.memory}
    counts = {"processes": pool.processes, "files": pool.files}
    return {name: format_quantity(size) for name, size in sizes.items()} | {name: str(n) for name, n in counts.items()}


_backends: weakref.WeakSet[LocalBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_backends):
        backend.forget()


os.register_at_fork(after_in_child=_forget_all)


def create_backend(settings: Settings) -> Backend:
    """The backend that the hook gives out for the name ``local``."""
    return LocalBackend(settings)
