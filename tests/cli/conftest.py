"""A cluster that answers from a dictionary, and remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_arl.errors import PermissionDenied

Json = dict[str, Any]


@dataclass
class FakeCluster:
    """What is not in ``objects`` is not there; what is in ``forbidden`` may not be read; every right is granted but ``refused``."""

    objects: dict[str, Json] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    namespace: str = "team"
    where: str = "https://somewhere (context fake)"

    def get(self, path: str, **query: str) -> Json | None:
        self.asked.append((path, query))
        if path in self.forbidden:
            raise PermissionDenied(f"may not get {path}")
        return self.objects.get(path)

    def post(self, path: str, body: Json) -> Json:
        attributes = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (attributes["resource"], attributes.get("subresource"))))
        return {"status": {"allowed": (attributes["verb"], resource) not in self.refused}}

    def delete(self, path: str, **query: str) -> Json | None:
        self.deleted.append((path, query.get("labelSelector", "")))
        return {}

    def put_list(self, path: str, *things: Json) -> None:
        self.objects[path] = {"items": list(things), "metadata": {}}


@pytest.fixture
def cluster() -> FakeCluster:
    """An empty one."""
    return FakeCluster()
