"""Objects that a tenant's role may make, which hypothesis makes up: at the limits of the schemas, with odd metadata."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pytest_arl.cluster.pod import POOL_LABEL, RUN_LABEL, SANDBOX_LABEL, STATUS_LABEL, WORKER_LABEL
from tests.cluster.hostile import schema
from tests.cluster.installation import Json

__all__ = ["CHANGES", "everything"]

_API = "arl.infra.io/v1alpha1"
_UIDS = ["00000000-0000-0000-0000-000000000001", "x", "..", "a/b?c#d", "x" * 200]
_NAMES = ["..", ".", "../../../../healthz", "a%2fb", "x?y=z", "", " ", "pool", "x" * 253, "ä", "\x00"]
_KINDS = [
    (_API, "Sandbox"),
    ("no.such/v1", "Sandbox"),
    ("arl.infra.io/v9", "WarmPool"),
    ("coordination.k8s.io/v1", "Lease"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Pod"),
    ("v1", "Namespace"),
]


def _owner(made: Json) -> Json:
    (version, kind), rest = made["of"], {key: each for key, each in made.items() if key != "of"}
    return {"apiVersion": version, "kind": kind, **rest}


_OWNERS: st.SearchStrategy[list[Json]] = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(_NAMES), "uid": st.sampled_from(_UIDS), "of": st.sampled_from(_KINDS)},
        optional={"controller": st.booleans(), "blockOwnerDeletion": st.booleans()},
    ),
    max_size=3,
).map(lambda owners: [_owner(each) for each in owners])


_LABELS = st.dictionaries(
    st.sampled_from(
        [POOL_LABEL, STATUS_LABEL, SANDBOX_LABEL, RUN_LABEL, WORKER_LABEL, "arl.infra.io/version", "a", "b/c"]
    ),
    st.sampled_from(["", "idle", "allocated", "pool", "x" * 63, "0", "A.b_c"]),
    max_size=5,
)
_ANNOTATIONS: st.SearchStrategy[Json] = st.one_of(
    st.just({}),
    st.sampled_from([1000, 262_000]).map(lambda size: {"a": "x" * size}),
    st.sampled_from(["kopf.zalando.org/last-handled-configuration", "arl.infra.io/x"]).map(lambda key: {key: '{"a":'}),
)
_FINALIZERS = st.sampled_from(
    [[], [], [], [], ["arl.infra.io/sandbox-finalizer"], ["example.com/never"], ["foregroundDeletion"], ["orphan"]]
)


def _meta(longest: int) -> st.SearchStrategy[Json]:
    parts = {"labels": _LABELS, "annotations": _ANNOTATIONS, "ownerReferences": _OWNERS, "finalizers": _FINALIZERS}
    name = st.sampled_from([0, 0, 0, 10, longest - 12]).map(lambda size: {"name": "n" * size})
    return st.tuples(name, st.fixed_dictionaries({}, optional=parts)).map(lambda both: both[0] | both[1])


def _with(kind: str, version: str, spec: st.SearchStrategy[Json], longest: int) -> st.SearchStrategy[tuple[str, Json]]:
    plural = {"Task": "tasks", "Sandbox": "sandboxes", "WarmPool": "warmpools", "Lease": "leases"}[kind]
    made = st.tuples(_meta(longest), spec)
    return made.map(lambda both: (plural, {"apiVersion": version, "kind": kind, "metadata": both[0], "spec": both[1]}))


_SIZES = st.sampled_from([1_000, 100_000, 700_000, 780_000, 1_400_000, 1_560_000])
_TASKS = st.one_of(
    schema.objects("tasks"),
    st.tuples(schema.objects("tasks", 10_000), _SIZES).map(lambda both: {**both[0], "steps": _filled(both[1])}),
    st.tuples(schema.objects("tasks", 1000), st.sampled_from([255, 256])).map(
        lambda both: {**both[0], "steps": [_step(f"s{number}", 10) for number in range(both[1])]}
    ),
)


def _step(name: str, size: int) -> Json:
    return {"name": name, "type": "Command", "command": ["true"], "stdin": "x" * size}


def _filled(size: int) -> list[Json]:
    return [_step(f"s{at}", min(700_000, size - at)) for at in range(0, size, 700_000)]


_RESOURCES = st.sampled_from(
    [
        {},
        {"limits": {"memory": "1"}},
        {"requests": {"cpu": "64"}},
        {"limits": []},
        {"claims": [{"name": "x"}]},
        {"a": 1},
    ]
)
_SANDBOXES = st.tuples(schema.objects("sandboxes"), st.none() | _RESOURCES).map(
    lambda both: both[0] if both[1] is None else {**both[0], "resources": both[1]}
)

_CONTAINERS: list[Any] = [
    [],
    [{}],
    [{"name": "executor"}],
    [{"name": "executor", "image": "registry.invalid/none:1"}],
    [{"name": "executor", "image": "IMAGE", "env": [{"name": "LD_PRELOAD", "value": "/x.so"}] * 500}],
    [{"name": "executor", "image": "IMAGE", "ports": [{"containerPort": 7070, "hostPort": 7070}]}],
    [{"name": "executor", "image": "IMAGE"}, {"name": "arl-agent", "image": "IMAGE"}],
    [{"name": "executor", "image": "IMAGE", "volumeMounts": [{"name": "arl-folder", "mountPath": "/x"}]}],
    [{"name": "executor", "image": "IMAGE"}, {"name": "beside", "image": "IMAGE", "command": ["false"]}],
    [{"name": "executor", "image": "IMAGE", "resources": {"limits": {"memory": "8Mi"}}}],
    "text",
    None,
]
_TEMPLATES = st.fixed_dictionaries(
    {"containers": st.sampled_from(_CONTAINERS)},
    optional={
        "initContainers": st.sampled_from([[], [{"name": "i", "image": "IMAGE", "command": ["false"]}], "x"]),
        "volumes": st.sampled_from(
            [[{"name": "arl-folder", "emptyDir": {}}], [{"name": "h", "hostPath": {"path": "/"}}]]
        ),
        "nodeSelector": st.just({"no": "where"}),
        "schedulingGates": st.just([{"name": "example.com/never"}]),
        "finalizers": st.just(["example.com/never"]),
        "restartPolicy": st.sampled_from(["Never", "x"]),
    },
).map(lambda spec: {"spec": spec})
_POOLS = st.tuples(
    schema.objects("warmpools"),
    st.one_of(_TEMPLATES, _TEMPLATES, st.sampled_from([{}, {"spec": None}, {"spec": []}, {"metadata": 1, "spec": {}}])),
    st.sampled_from([0, 1, 1, 50]),
).map(lambda parts: {**parts[0], "template": parts[1], "replicas": parts[2]})

_LEASES = st.fixed_dictionaries(
    {},
    optional={
        "holderIdentity": st.sampled_from(["", "x", "x" * 1000]),
        "leaseDurationSeconds": st.sampled_from([1, 3, 2**31 - 1]),
        "leaseTransitions": st.sampled_from([0, 2**31 - 1]),
        "renewTime": st.sampled_from(["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"]),
        "acquireTime": st.just("2026-01-01T00:00:00.000000Z"),
    },
)

everything: dict[str, st.SearchStrategy[tuple[str, Json]]] = {
    "tasks": _with("Task", _API, _TASKS, 253),
    "sandboxes": _with("Sandbox", _API, _SANDBOXES, 63),
    "leases": _with("Lease", "coordination.k8s.io/v1", _LEASES, 253),
    "warmpools": _with("WarmPool", _API, _POOLS, 47),
}
"""By plural: an object whose name is to be completed, and whose images are called IMAGE."""

CHANGES: list[Json] = [
    {"spec": {"cancel": True}},
    {"spec": {"ttlSecondsAfterFinished": 0}},
    {"spec": {"replicas": 0}},
    {"spec": {"keepAlive": False, "maxLifetimeSeconds": 1}},
    {"spec": {"idleTimeoutSeconds": 2**63 - 1}},
    {"metadata": {"ownerReferences": [{"apiVersion": _API, "kind": "Sandbox", "name": "..", "uid": "x"}]}},
    {"metadata": {"labels": {POOL_LABEL: "..", RUN_LABEL: ""}}},
    {"metadata": {"finalizers": ["example.com/never"]}},
    {"metadata": {"annotations": {"a": "x" * 262_000}}},
    {"status": {"state": "Succeeded", "phase": "Ready"}},
]
