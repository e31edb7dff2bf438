"""Who is compared. A peer gets a virtual environment of its own, in a cache folder outside of the repository."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CONTENDERS", "Contender", "Unavailable", "against", "cache_folder", "environment", "prepare"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of the table.

    Attributes:
        key: its name in JSON.
        label: its name in the table.
        module, function: where its adapter is made.
        requirement: what pip installs for it; empty for what runs in this environment.
        python: the interpreter it runs in.
        env: variables for its process.
        source: a folder whose modules it imports instead of the installed ones; None for those.
    """

    key: str
    label: str
    module: str
    function: str = "make"
    requirement: str = ""
    python: Path = Path(sys.executable)
    env: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None


class Unavailable(Exception):
    """A contender cannot be measured here; the text says why."""


CONTENDERS = (
    Contender("subprocess", "subprocess.run", "benchmarks.adapters.bare"),
    Contender("bwrap", "bubblewrap each time", "benchmarks.adapters.bwrap"),
    Contender("arl", "pytest-arl", "benchmarks.adapters.arl"),
    Contender("arl-warm", "pytest-arl, warm pool", "benchmarks.adapters.arl", "make_warm"),
    Contender("llm-sandbox", "llm-sandbox", "benchmarks.adapters.llm_sandbox", requirement="llm-sandbox==0.3.46"),
    Contender("inspect-ai", "inspect-ai local", "benchmarks.adapters.inspect_ai", requirement="inspect-ai==0.3.285"),
    Contender("swe-rex", "SWE-ReX local", "benchmarks.adapters.swe_rex", requirement="swe-rex==1.4.0"),
)


def against(checkout: Path) -> tuple[Contender, ...]:
    """pytest-arl as it is in another checkout, and as it is here. Unavailable where that folder is none."""
    source = checkout.resolve() / "src"
    if not (source / "pytest_arl").is_dir():
        raise Unavailable(f"{checkout} is no checkout of pytest-arl: it has no src/pytest_arl")
    return (
        Contender("before", f"pytest-arl in {checkout}", "benchmarks.adapters.arl", source=source),
        Contender("arl", "pytest-arl", "benchmarks.adapters.arl"),
    )


_WARM_POOLS = "[pools.warm]\nwarm = 4\n"


def cache_folder() -> Path:
    """Where environments are kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pytest-arl-benchmarks"


def environment(name: str, requirements: list[str], say: Callable[[str], None]) -> Path:
    """The Python of an environment that has these, made where it is not there yet. Unavailable with pip's word."""
    folder = cache_folder() / name
    stamp, wanted = folder / "requirements", "\n".join([sys.version, *requirements])
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        say(f"installing {' '.join(requirements)} into {folder}")
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        stamp.write_text(wanted)
    return python


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"cannot be installed: {lines[-1] if lines else done.returncode}")


def prepare(contender: Contender, scratch: Path, say: Callable[[str], None]) -> Contender:
    """The contender as it can be started. Unavailable says why not."""
    bwrap = probe().bwrap
    if not bwrap:
        raise Unavailable(f"no bubblewrap works here: {probe().cure}")
    pools = scratch / "pools.toml"
    pools.write_text(_WARM_POOLS)
    python = environment(contender.key, [contender.requirement], say) if contender.requirement else contender.python
    env = {"ARL_BENCHMARKS_BWRAP": bwrap, "PYTEST_ARL_POOLS_FILE": str(pools)}
    return dataclasses.replace(contender, python=python, env=env)
