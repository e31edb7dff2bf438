"""Secrets of a namespace that a pool's template shows to every step of its sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import condition
from pytest_arl.operator.template_rules import executor_of
from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.cluster.objects import Object

__all__ = ["exposed", "told"]

_EXPOSES = "ExposesSecrets"


def exposed(pool: Object) -> str:
    """A sentence; empty where there is nothing. The pool's template is one that pods can be made of."""
    spec = pool["spec"]["template"]["spec"]
    found = list(dict.fromkeys(_found(spec, executor_of(spec))))
    return f"every step of its sandboxes can read {', '.join(found)}" if found else ""


def told(pool: Object, text: str) -> list[Object]:
    """The condition that says so, of a pool that exposes something, or did."""
    if not text and not condition(pool, _EXPOSES):
        return []
    status, reason = ("True", "InTemplate") if text else ("False", "AsExpected")
    return [{"type": _EXPOSES, "status": status, "reason": reason, "message": text}]


def _found(spec: Object, executor: Object) -> Iterator[str]:
    mounted = {each.get("name") for each in executor.get("volumeMounts") or ()}
    for volume in spec.get("volumes") or ():
        if volume.get("name") in mounted:
            where = f"(volume {_shown(volume['name'])})"
            if volume.get("secret"):
                yield f"the Secret {_shown(volume['secret'].get('secretName'))} {where}"
            for source in (volume.get("projected") or {}).get("sources") or ():
                yield from (f"{what} {where}" for what in _projected(source, spec))
    for variable in executor.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
        if reference:
            yield f"the Secret {_shown(reference.get('name'))} (variable {_shown(variable.get('name'))})"
    for source in executor.get("envFrom") or ():
        if source.get("secretRef"):
            yield f"the Secret {_shown(source['secretRef'].get('name'))} (envFrom)"


def _projected(source: Object, spec: Object) -> Iterator[str]:
    if source.get("secret"):
        yield f"the Secret {_shown(source['secret'].get('name'))}"
    if source.get("serviceAccountToken"):
        account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        yield f"a token of the service account {_shown(account)}"


def _shown(value: object) -> str:
    return one_line(value, 253)
