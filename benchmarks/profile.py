"""Where the milliseconds of a sandbox and of a step go: the pieces, one by one, taking turns."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.compare import Measured
from benchmarks.rows import Figure
from pytest_arl import SandboxSession
from pytest_arl.agent_package import bundle
from pytest_arl.backends.local.layout import UID, Content, HeldSource
from pytest_arl.backends.local.mount_sources import Sources
from pytest_arl.backends.local.plan import make_plan
from pytest_arl.backends.local.probe import probe
from pytest_arl.backends.local.survey import Survey
from pytest_arl.pools import find_pool
from pytest_arl.settings import current

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIGURES", "LABELS", "measure"]

FIGURES = (
    Figure("part", "what a sandbox is made of", "ms"),
    Figure("own", "of that, processor time of the calling process", "ms"),
)
LABELS = {
    "process": "starting any process (/bin/true)",
    "bubblewrap": "bubblewrap with the pool's mounts and namespaces, around /bin/true",
    "interpreter": "python -I -S -B -c pass",
    "agent": "the same, with the agent's modules loaded",
    "create": "a sandbox, from asking to ready",
    "step": "a step `echo hi`",
    "close": "closing it",
}

_SPARE_UID = b"2130706433"


def measure(*, quick: bool, say: Callable[[str], None]) -> list[Measured]:
    """The pieces, and the whole."""
    begin = time.perf_counter()
    cells = {key: Measured("part", key) for key in LABELS}
    own = {key: Measured("own", key) for key in ("create", "step", "close")}
    with _Pieces() as pieces:
        for number in range(-3, 5 if quick else 200):
            times = {key: _timed(work) for key, work in pieces.works().items()} | _whole()
            if number >= 0:
                for key, (seconds, processor) in times.items():
                    cells[key].samples.append(seconds * 1e3)
                    if key in own:
                        own[key].samples.append(processor * 1e3)
    say(f"profile: {time.perf_counter() - begin:.0f} s")
    return [*cells.values(), *own.values()]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of this process's threads on the processors."""
    begin, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - processor


def _whole() -> dict[str, tuple[float, float]]:
    session = SandboxSession()
    create = _timed(session.create_sandbox)
    session.run("echo", "hi")
    step = _timed(lambda: session.run("echo", "hi"))
    return {"create": create, "step": step, "close": _timed(session.delete_sandbox)}


class _Pieces:
    """The commands whose times are the pieces; a context manager, for the files they read."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        pool, host = find_pool(current(), "default"), probe()
        self._sources = Sources()
        plan = make_plan(pool, host, Survey(self._sources, current(), pool, [host.bwrap]))
        self._bwrap = plan.bwrap
        self._arguments = plan.arguments
        self._interpreter = plan.command[: plan.command.index("-c")]
        self._blob = Path(self._folder.name, "agent")
        self._blob.write_bytes(bundle.bundle())
        return self

    def __exit__(self, *_: object) -> None:
        self._sources.close()
        self._folder.cleanup()

    def works(self) -> dict[str, Callable[[], object]]:
        """What to time, by piece."""
        return {
            "process": lambda: subprocess.run(["/bin/true"], check=True),
            "bubblewrap": self._run_bubblewrap,
            "interpreter": lambda: subprocess.run([*self._interpreter, "-c", "pass"], check=True),
            "agent": lambda: subprocess.run([*self._interpreter, "-c", bundle.LOAD, str(self._blob)], check=True),
        }

    def _run_bubblewrap(self) -> None:
        with ExitStack() as stack:
            descriptors: list[int] = []
            words: list[str] = []
            for argument in self._arguments:
                if isinstance(argument, Content):
                    file = stack.enter_context(tempfile.TemporaryFile())
                    file.write(argument.data.replace(UID, _SPARE_UID))
                    file.seek(0)
                    descriptors.append(file.fileno())
                    words.append(str(file.fileno()))
                elif isinstance(argument, HeldSource):
                    descriptors.append(argument.source.descriptor)
                    words.append(str(argument.source.descriptor))
                else:
                    words.append(argument)
            subprocess.run([self._bwrap, *words, "--", "/bin/true"], check=True, pass_fds=descriptors, env={})
