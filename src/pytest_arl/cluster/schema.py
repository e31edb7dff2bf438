"""Translate pydantic's JSON Schema to that of a CustomResourceDefinition: structural, inline, without nulls.

Kubernetes leaves a field out where pydantic has None, so ``X | None`` becomes X, not required.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.models import KINDS, Resource, _Part
from pytest_arl.cluster.names import GROUP, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["custom_resource", "custom_resources"]

_KEPT = {
    "type",
    "format",
    "description",
    "pattern",
    "enum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
}


def custom_resources() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each CustomResourceDefinition with the name of its manifest."""
    for kind in KINDS:
        yield f"{kind.plural}.yaml", custom_resource(kind)


def custom_resource(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of a model."""
    name = kind.model_fields["kind"].default
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale is not None:
        subresources["scale"] = kind.scale
    names: dict[str, Any] = {"kind": name, "listKind": f"{name}List", "plural": kind.plural, "singular": kind.singular}
    if kind.short_names:
        names["shortNames"] = kind.short_names
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": names,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [
                        {"name": title, "type": type_, "jsonPath": path} for title, type_, path in kind.columns
                    ],
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _root(kind: type[Resource]) -> dict[str, Any]:
    schema = kind.model_json_schema(by_alias=True, mode="validation")
    models = {model.__name__: model for model in _models(_Part)}
    root = _convert(schema, schema.get("$defs", {}), models, kind)
    root["properties"]["metadata"] = {"type": "object"}
    root["required"] = ["spec"]
    return root


def _models(base: type[_Part]) -> Iterator[type[_Part]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _convert(
    schema: dict[str, Any], defs: dict[str, Any], models: dict[str, type[_Part]], model: type[_Part] | None = None
) -> dict[str, Any]:
    """One schema with everything it refers to inside of it."""
    if "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:  # which has no type
        kept = [option for option in schema["anyOf"] if option.get("type") != "null"]
        outer = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _convert({**kept[0], **outer}, defs, models)
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        outer = {key: value for key, value in schema.items() if key != "$ref"}
        return _convert({**defs[name], **outer}, defs, models, models.get(name))
    found = {key: value for key, value in schema.items() if key in _KEPT or key.startswith("x-kubernetes-")}
    match schema.get("type"):
        case "object":
            found |= _object(schema, defs, models)
        case "array":
            found["items"] = _convert(schema["items"], defs, models)
        case "integer":
            found["format"] = "int64"
        case "boolean" if schema.get("default") is False:
            found["default"] = False
    if model is not None:
        if model.__doc__:
            found["description"] = " ".join(model.__doc__.split())
        if model.rules:
            found["x-kubernetes-validations"] = model.rules
    return found


def _object(schema: dict[str, Any], defs: dict[str, Any], models: dict[str, type[_Part]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "properties" in schema:
        found["properties"] = {name: _convert(part, defs, models) for name, part in schema["properties"].items()}
        if schema.get("required"):
            found["required"] = schema["required"]
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _convert(schema["additionalProperties"], defs, models)
    return found
