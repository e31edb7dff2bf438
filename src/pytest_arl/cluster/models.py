"""The models of WarmPool, Sandbox and Task. The manifests are written from them.

Client and operator handle the objects as plain dicts, for speed: what they read is in :mod:`pytest_arl.cluster.fields`,
what they write is built beside its cause, and tests hold both to these models.

Python's names are snake_case, those of the objects camelCase. What a model cannot say in JSON Schema (that a spec
does not change, that a Command has a command) is said in CEL, in ``x-kubernetes-validations``, and so refused by
the API server itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from pytest_arl.cluster.names import (
    API_VERSION,
    MOST_CONTAINERS,
    MOST_SPEC_BYTES,
    MOST_STEPS,
    MOST_VOLUMES,
    MOST_WORDS,
)
from pytest_arl.cluster.step_rules import CHARACTERS, WORDS, rule, step_fields, step_rules
from pytest_arl.steps import STEP_TYPES, StepType
from pytest_arl.steps.objects import DURATION, Duration
from pytest_arl.text.wording import one_of

__all__ = [
    "KINDS",
    "Condition",
    "Holder",
    "Resource",
    "Resources",
    "Sandbox",
    "SandboxDefaults",
    "SandboxSpec",
    "SandboxStatus",
    "StepStatus",
    "StepUsage",
    "Task",
    "TaskSpec",
    "TaskStatus",
    "TaskStep",
    "WarmPool",
    "WarmPoolSpec",
    "WarmPoolStatus",
]

_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_AMOUNT = r"^[0-9]+(\.[0-9]{1,9})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{1,2})?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"


def _name_rule(kind: str, most: int) -> dict[str, str]:
    return rule(
        f"self.metadata.name.size() <= {most} && self.metadata.name.matches('{_LABEL}')",
        f"the name of a {kind} becomes part of a pod's: at most {most} lower-case letters, digits and '-', "
        "beginning and ending with a letter or digit",
    )


def _unchanged(*fields: str) -> str:
    """CEL: none of these optional fields was added, removed or changed."""
    return " && ".join(
        f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
        for name in fields
    )


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    rules: ClassVar[list[dict[str, str]]] = []
    """CEL rules of the object as a whole."""

    def to_json(self) -> dict[str, Any]:
        """The part as the API has it; what is None is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Name = Annotated[str, Field(min_length=1, max_length=63)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Amount = Annotated[
    int | str,
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": _AMOUNT, "maxLength": 24, "minimum": 0}),
]
Amounts = Annotated[
    dict[str, Amount],
    Field(
        max_length=16,
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.all(name, name.size() <= 128)", "the name of a resource has at most 128 characters")
            ]
        },
    ),
]
Free = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class Condition(_Part):
    """A condition, as Kubernetes has them."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32768)] = ""
    last_transition_time: Time
    observed_generation: int | None = None


Conditions = Annotated[
    list[Condition],
    Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class SandboxDefaults(_Part):
    """Defaults for a pool's sandboxes."""

    idle_timeout_seconds: Annotated[int, Field(ge=0, description="0 is never.")] | None = None
    max_lifetime_seconds: Annotated[int, Field(ge=0, description="0 is never.")] | None = None
    step_timeout: Duration | None = None
    cpu_time: (
        Annotated[
            str,
            Field(
                pattern=DURATION,
                max_length=32,
                description="Processor time that each Command may use with all that it starts, such as 10s.",
            ),
        ]
        | None
    ) = None
    output_limit: (
        Annotated[str, Field(pattern=_QUANTITY, max_length=16, description="Bytes kept of each stream.")] | None
    ) = None
    kept: (
        Annotated[
            str,
            Field(
                pattern=_QUANTITY,
                max_length=16,
                description="Bytes of one sandbox that its client keeps over its life: downloads, checkpoints and the "
                "files of --arl-output.",
            ),
        ]
        | None
    ) = None
    work_dir: Annotated[str, Field(pattern="^/", max_length=1024)] | None = None
    max_resources: (
        Annotated[
            Amounts,
            Field(
                description="What spec.resources of a Sandbox may ask for at most, by resource; what is not named here "
                "is bounded by the executor's own limit.",
            ),
        ]
        | None
    ) = None


def _free(**properties: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of an object in which anything else may stand, too."""
    named = {"properties": properties} if properties else {}
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, **named}


_CONTAINERS = {"type": "array", "maxItems": MOST_CONTAINERS, "items": _free()}
_VOLUMES = {"type": "array", "maxItems": MOST_VOLUMES, "items": _free()}


class WarmPoolSpec(_Part):
    """A pool: how many idle sandboxes to keep ready, and what they are."""

    replicas: Annotated[int, Field(ge=0, le=10000, description="Idle sandboxes to keep; claimed ones come on top.")]
    template: Annotated[
        dict[str, Any],
        Field(
            json_schema_extra=_free(spec=_free(containers=_CONTAINERS, initContainers=_CONTAINERS, volumes=_VOLUMES)),
            description="A PodTemplateSpec. The sandbox is its container `executor`, else the first one.",
        ),
    ]
    sandbox: SandboxDefaults | None = None


class WarmPoolStatus(_Part):
    """The state of a pool."""

    ready_replicas: int = 0
    allocated_replicas: int = 0
    replicas: int = 0
    selector: str | None = None
    task_key: (
        Annotated[str, Field(max_length=1024, description="The RSA modulus that clients seal a key for.")] | None
    ) = None
    observed_generation: int | None = None
    conditions: Conditions | None = None


class Holder(_Part):
    """The test run that holds a sandbox, and its key to the agent."""

    rules: ClassVar[list[dict[str, str]]] = [rule("self == oldSelf", "the holder of a Sandbox cannot be changed")]

    run: Name | None = None
    worker: Name | None = None
    test: Annotated[str, Field(max_length=1024)] | None = None
    secret_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]
    sealed_key: (
        Annotated[
            str,
            Field(
                pattern="^([0-9a-f]{2})+$",
                max_length=1024,
                description="The key of the holder's Tasks, sealed for the operator. With it, only Tasks with a proof "
                "are run, and its agent is known again.",
            ),
        ]
        | None
    ) = None
    open_to_all: Annotated[bool, Field(description="That Tasks need no proof, though there is a sealedKey.")] | None = (
        None
    )


class Resources(_Part):
    """Changes to the resources of the pool's executor, as far as the pool allows; the rest stays."""

    limits: Amounts | None = None
    requests: Amounts | None = None


class SandboxSpec(_Part):
    """A request for a sandbox of a pool."""

    rules: ClassVar[list[dict[str, str]]] = [
        rule("self.poolRef == oldSelf.poolRef", "poolRef cannot be changed: create another Sandbox"),
        rule("has(self.holder) == has(oldSelf.holder)", "the holder of a Sandbox cannot be changed"),
        rule(
            "has(self.resources) == has(oldSelf.resources)",
            "resources cannot be added or removed: create another Sandbox",
        ),
        rule(
            "!has(self.resources) || !has(oldSelf.resources) || self.resources == oldSelf.resources",
            "resources cannot be changed: create another Sandbox",
        ),
    ]

    pool_ref: Name
    keep_alive: bool = False
    idle_timeout_seconds: Annotated[int, Field(ge=0, description="0 is never.")] | None = None
    max_lifetime_seconds: Annotated[int, Field(ge=0, description="0 is never.")] | None = None
    resources: Resources | None = None
    holder: Holder | None = None


class SandboxStatus(_Part):
    """The state of a sandbox."""

    phase: Literal["Pending", "Bound", "Ready", "Failed", "Terminating"] | None = None
    pod_name: str | None = None
    pod_ip: str | None = Field(default=None, alias="podIP")
    work_dir: str | None = None
    last_task_time: Time | None = None
    agent_boot_id: str | None = Field(default=None, alias="agentBootID")
    warm: Annotated[bool, Field(description="Whether its pod was ready before it was asked for.")] | None = None
    observed_generation: int | None = None
    conditions: Conditions | None = None


class _TaskStep(_Part):
    rules: ClassVar[list[dict[str, str]]] = list(step_rules())

    name: Name
    type: StepType


if TYPE_CHECKING:

    class TaskStep(_TaskStep):
        """One step, with the fields of its type."""

        def __init__(self, *, name: str, type: StepType, **fields: Any) -> None: ...  # noqa: A002 - the field's name

else:
    TaskStep = create_model(
        "TaskStep",
        __base__=_TaskStep,
        __doc__=f"One step: {one_of(f'a {kind}' for kind in STEP_TYPES)}.",
        **step_fields(),
    )


class TaskSpec(_Part):
    """Steps to run in a sandbox, in order."""

    rules: ClassVar[list[dict[str, str]]] = [
        rule(
            # Lists whose items have a key are equal to CEL in whatever order: the names say in which they run.
            "self.sandboxRef == oldSelf.sandboxRef && self.steps == oldSelf.steps && "
            "self.steps.map(step, step.name) == oldSelf.steps.map(step, step.name) && "
            + _unchanged("timeout", "retries", "payloadHash", "proof"),
            "a Task cannot be changed once it is created (but for cancel): create another one",
        ),
        rule(
            f"{WORDS} <= {MOST_WORDS}",
            f"its steps have more than {MOST_WORDS} words and variables together: put them into a file, or run two "
            "Tasks",
        ),
        rule(
            f"{CHARACTERS} <= {MOST_SPEC_BYTES}",
            f"its steps have more than {MOST_SPEC_BYTES} characters, so its status would find no room: copy files "
            "into the sandbox instead",
        ),
        rule(
            "!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)",
            "cancel goes from false to true only",
        ),
    ]

    sandbox_ref: Name
    steps: Annotated[
        list[TaskStep],
        Field(
            min_length=1,
            max_length=MOST_STEPS,
            # No two have one name, at a price that grows with their number: a rule in CEL took a second for 256 of
            # them, at each change of a label.
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    timeout: Duration | None = None
    retries: Annotated[int, Field(ge=0, le=10)] | None = None
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    trace_id: Annotated[str, Field(max_length=256)] | None = Field(default=None, alias="traceID")
    payload_hash: (
        Annotated[
            str,
            Field(
                pattern="^[0-9a-f]{64}$",
                max_length=64,
                description="SHA-256 of the exact steps, which the sandbox's holder has given the agent itself because "
                "they are too large or no text; spec.steps then only describes them.",
            ),
        ]
        | None
    ) = None
    proof: (
        Annotated[
            str,
            Field(
                pattern="^[0-9a-f]{64}$",
                max_length=64,
                description="That the Task is the holder's of its Sandbox, where that has a sealedKey.",
            ),
        ]
        | None
    ) = None
    cancel: bool | None = None


class StepUsage(_Part):
    """Resources that a Command used with everything it started. A figure that is missing is not known."""

    user_time: float | None = None
    system_time: float | None = None
    max_rss: int | None = None
    memory_peak: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    processes: int | None = None
    oom_kills: int | None = None
    voluntary_context_switches: int | None = None
    involuntary_context_switches: int | None = None


class StepStatus(_Part):
    """The result of a step."""

    name: str
    type: StepType
    outcome: Literal["Succeeded", "Failed", "TimedOut", "OutOfMemory", "Killed", "Cancelled", "Skipped"]
    exit_code: int | None = None
    signal: str | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_size: int = 0
    stderr_size: int = 0
    truncated: bool = False
    limit: str | None = None
    started_at: Time | None = None
    duration_seconds: float = 0.0
    usage: StepUsage | None = None


class TaskStatus(_Part):
    """The result of a task, or its progress."""

    state: Literal["Pending", "Running", "Succeeded", "Failed"] | None = None
    steps: Annotated[list[StepStatus], Field(json_schema_extra={"x-kubernetes-list-type": "atomic"})] | None = None
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    start_time: Time | None = None
    completion_time: Time | None = None
    duration: str | None = None
    observed_generation: int | None = None
    conditions: Conditions | None = None


class Resource(_Part):
    """An object of ours: its kind, its names, and what ``kubectl get`` shows of it."""

    plural: ClassVar[str]
    singular: ClassVar[str]
    short_names: ClassVar[list[str]] = []
    columns: ClassVar[list[tuple[str, str, str]]]
    scale: ClassVar[dict[str, str] | None] = None

    api_version: str = API_VERSION
    kind: str
    metadata: Free = Field(default_factory=dict)


class WarmPool(Resource):
    """A pool of sandboxes that are ready before they are asked for."""

    plural = "warmpools"
    singular = "warmpool"
    short_names: ClassVar[list[str]] = ["wp"]
    columns: ClassVar[list[tuple[str, str, str]]] = [
        ("Desired", "integer", ".spec.replicas"),
        ("Ready", "integer", ".status.readyReplicas"),
        ("Allocated", "integer", ".status.allocatedReplicas"),
        ("Status", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ]
    scale: ClassVar[dict[str, str] | None] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    rules: ClassVar[list[dict[str, str]]] = [_name_rule("WarmPool", 47)]  # a pod's name adds two suffixes of 16 in all

    kind: str = "WarmPool"
    spec: WarmPoolSpec
    status: WarmPoolStatus | None = None


class Sandbox(Resource):
    """One isolated environment from a pool."""

    plural = "sandboxes"
    singular = "sandbox"
    short_names: ClassVar[list[str]] = ["sb"]
    columns: ClassVar[list[tuple[str, str, str]]] = [
        ("Pool", "string", ".spec.poolRef"),
        ("Phase", "string", ".status.phase"),
        ("Pod", "string", ".status.podName"),
        ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ]
    rules: ClassVar[list[dict[str, str]]] = [_name_rule("Sandbox", 63)]

    kind: str = "Sandbox"
    spec: SandboxSpec
    status: SandboxStatus | None = None


class Task(Resource):
    """Steps to run in a sandbox, and what came of them."""

    plural = "tasks"
    singular = "task"
    columns: ClassVar[list[tuple[str, str, str]]] = [
        ("Sandbox", "string", ".spec.sandboxRef"),
        ("State", "string", ".status.state"),
        ("Exit", "integer", ".status.exitCode"),
        ("Duration", "string", ".status.duration"),
        ("Age", "date", ".metadata.creationTimestamp"),
    ]

    kind: str = "Task"
    spec: TaskSpec
    status: TaskStatus | None = None


KINDS: tuple[type[Resource], ...] = (WarmPool, Sandbox, Task)
