"""Checks of ``pytest-arl doctor`` on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.backends.local.bubblewraps import described, lacks
from pytest_arl.backends.local.children import refused_below
from pytest_arl.backends.local.inherited_limits import lowered
from pytest_arl.backends.local.probe import probe
from pytest_arl.cli.findings import bad, good, note, warn
from pytest_arl.errors import ArlError
from pytest_arl.pools import load_pools
from pytest_arl.settings import ISOLATION_TIERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.backends.local.probe import Host
    from pytest_arl.cli.findings import Finding
    from pytest_arl.settings import Settings

__all__ = ["examine_machine"]


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """The isolation that sandboxes of the backend ``local`` get here, and their pools."""
    host = probe()
    yield _isolation(host, settings.value("isolation_min"))
    if host.bwrap and lacks(host.bwrap):
        yield note(
            f"in use is {described(host.bwrap)}",
            "sandboxes do not need it (docs/security.md); the newest that works, the system's or the wheel's, is used",
        )
    yield from (
        warn(f"{path} does not work here: {said}", "the next one is used")
        for path, said in host.tried
        if said and host.bwrap not in ("", path)
    )
    if host.bwrap and (refused := refused_below(host.bwrap, privileged=host.privileged)):
        yield note(
            f"programs that {host.bwrap} starts get no capabilities here, even in their own namespaces ({refused})",
            "sandboxes need none, but on this machine no sandbox can be made inside another, whatever its pool says",
        )
    yield from (
        warn(f"sandboxes inherit this limit from the shell: {what}", "start from a shell without it, or as root")
        for what in lowered()
    )
    try:
        pools = load_pools(settings)
    except ArlError as error:
        yield bad(f"the pools of this machine cannot be read: {error}", "correct that file")
    else:
        yield good(f"pools: {', '.join(pools)}")


def _isolation(host: Host, weakest: str) -> Finding:
    try:
        host.require(weakest)
    except ArlError as error:
        return bad(str(error).removesuffix(host.cure).rstrip(), host.cure or "see docs/security.md")
    what = described(host.bwrap).partition(" without ")[0]
    said = f"{host.bwrap} ({what}): sandboxes are {host.tier!r}{' (as root)' if host.privileged else ''}"
    found = host.hierarchies
    if found is not None:
        said += f"; cgroups of version {found.version} in {found.folders['memory']} ({found.way})"
    if host.tier == ISOLATION_TIERS[0]:
        return good(said)
    why = f": {host.without_cgroups}" if host.without_cgroups else ""
    return warn(f"{said}; stronger would be {ISOLATION_TIERS[0]!r}{why}", host.cure or "see docs/security.md")
