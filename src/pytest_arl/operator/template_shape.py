"""The shape of a pool's template, as far as the operator itself looks, and how much there may be of it.

The API server takes anything there. What is a list of thousands in each of many pools would hold up all the others; no
pod has so much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.names import MOST_CONTAINERS, MOST_VOLUMES

if TYPE_CHECKING:
    from collections.abc import Sized

__all__ = ["HANDLER", "HOOKS", "POD_AFFINITIES", "TemplateInvalid", "refuse_shape"]

_PROFILE = {"type": str}
_SECURITY = {
    "capabilities": {"add": [str], "drop": [str]},
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
    "seLinuxOptions": {"type": str, "user": str, "role": str},
    "windowsOptions": {},
    "procMount": str,
}
HANDLER: dict[str, Any] = {"httpGet": {}, "tcpSocket": {}}
HOOKS = {
    "livenessProbe": HANDLER,
    "readinessProbe": HANDLER,
    "startupProbe": HANDLER,
    "lifecycle": {"postStart": HANDLER, "preStop": HANDLER},
}
_CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str}, 1024],
    "ports": [{}],
    "resources": {"limits": {}, "requests": {}},
    "securityContext": _SECURITY,
    "terminationMessagePath": str,
    "volumeDevices": [{"name": str, "devicePath": str}],
    "volumeMounts": [{"name": str, "mountPath": str}],
    **HOOKS,
}
_POD_TERM: dict[str, Any] = {"namespaceSelector": {}}
_POD_TERMS = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_POD_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": _POD_TERM}],
}
POD_AFFINITIES = ("podAffinity", "podAntiAffinity")
_LONGEST_FIELD = 1024
_MOST = 256
"""Items of any other list of a template, and names in a mapping that anything may stand in."""
_MOST_OF_OTHERS = 1024
"""Items of a list that the operator does not look into: the API server compares each with each in some."""
_TEMPLATE = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "affinity": dict.fromkeys(POD_AFFINITIES, _POD_TERMS),
        "containers": [_CONTAINER, MOST_CONTAINERS],
        "initContainers": [_CONTAINER, MOST_CONTAINERS],
        "priorityClassName": str,
        "schedulingGates": [{"name": str}],
        "securityContext": {**_SECURITY, "sysctls": [{"name": str}]},
        "volumes": [{"name": str}, MOST_VOLUMES],
    },
}
"""The shape as far as the operator itself looks: mappings, lists with their bounds, types. The rest is left to the API
server.
"""


class TemplateInvalid(Exception):
    """The reason for refusing a template: a sentence for its author."""


def refuse_shape(template: object) -> None:
    """TemplateInvalid where a field is a list that should be a mapping, and so on."""
    _refuse_shape(template, _TEMPLATE, "spec.template")
    _refuse_long(template, "spec.template")


def _refuse_shape(value: object, shape: Any, field: str) -> None:
    if value is None:
        return
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise TemplateInvalid(f"{field} is not a mapping")
        if not shape:
            _refuse_more(value, _MOST, field)
        for name, part in shape.items():
            _refuse_shape(value.get(name), part, f"{field}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or None in value:
            raise TemplateInvalid(f"{field} is not a list of {'strings' if shape[0] is str else 'mappings'}")
        _refuse_more(value, shape[1] if len(shape) > 1 else _MOST, field)
        for number, each in enumerate(value):
            _refuse_shape(each, shape[0], f"{field}[{number}]")
    elif type(value) is not shape:
        raise TemplateInvalid(f"{field} is not a string")


def _refuse_long(value: object, field: str) -> None:
    """TemplateInvalid for lists that are too long. The store leaves out whatever is nested too deeply."""
    if isinstance(value, dict):
        for name, part in value.items():
            if isinstance(part, dict | list):
                _refuse_long(part, f"{field}.{name}"[:_LONGEST_FIELD])
    elif isinstance(value, list):
        _refuse_more(value, _MOST_OF_OTHERS, field)
        for number, part in enumerate(value):
            if isinstance(part, dict | list):
                _refuse_long(part, f"{field}[{number}]"[:_LONGEST_FIELD])


def _refuse_more(value: Sized, most: int, field: str) -> None:
    if len(value) > most:
        raise TemplateInvalid(f"{field} has {len(value)} items: at most {most} are taken")
