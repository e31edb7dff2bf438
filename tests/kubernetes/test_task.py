"""A task that somebody else meddles with: an error, and never a result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.backends.base import TaskRequest
from pytest_arl.backends.kubernetes.held_sandbox import HeldSandbox
from pytest_arl.backends.kubernetes.kubernetes_sandbox import KubernetesSandbox
from pytest_arl.backends.kubernetes.task import RunningTask
from pytest_arl.cluster.proof import proof_of
from pytest_arl.errors import BackendUnavailable, PermissionDenied, SandboxLost
from pytest_arl.results import StepResult
from pytest_arl.steps import parse_steps


def steps(*outcomes: str) -> list[dict[str, Any]]:
    return [
        {"name": f"s{number}", "type": "Command", "outcome": outcome, "exitCode": 0 if outcome == "Succeeded" else 137}
        for number, outcome in enumerate(outcomes)
    ]


FAILED = {"type": "Failed", "status": "True", "reason": "Cancelled", "message": "it was cancelled before it began"}


class Scene:
    """A task of three steps, and a cluster that answers at once."""

    def __init__(self, status: dict[str, Any] | None, live: list[str] | None = None) -> None:
        self.task = TaskRequest(
            "id", parse_steps([{"type": "Command", "command": ["x"], "name": f"s{number}"} for number in range(3)])
        )
        self.results: list[StepResult] = []
        self.told: list[str] = []
        sandbox: Any = object.__new__(KubernetesSandbox)
        sandbox.name, sandbox.pool_ref, sandbox.limits = "sb", "p", {}
        sandbox._closed, sandbox._killed = False, True
        wakes = SimpleNamespace(add=lambda _mail: None)
        mail: Any = SimpleNamespace(deleted=False, latest=None, failure=None, number=0, wakes=wakes)
        mine: Any = SimpleNamespace(**{**vars(mail), "claim": lambda _made: None, "wait": lambda *_: False})
        mine.latest = {"spec": {}, "status": status}
        self.merged: list[Any] = []
        self.deleted: list[Any] = []
        api = SimpleNamespace(
            create=lambda _plural, _namespace, body, **_: self._make(body),
            explaining=lambda _what, _namespace, do: do(),
            merge=lambda *given, **_: self.merged.append(given),
            delete=lambda *given, **_: self.deleted.append(given),
        )
        client: Any = SimpleNamespace(
            api=api, namespace="n", labels={}, task_key=b"k", tasks=SimpleNamespace(mail=lambda _: mine)
        )
        self.sandbox = sandbox
        self.held: Any = HeldSandbox(client, ("sb", "u"), mail, proves=False)
        sandbox.held = self.held
        on_output = None if live is None else (lambda *_: None)
        self.held.name_of(self.task.id)
        self.run = RunningTask(
            sandbox, self.held, self.task, self.results, on_output, lambda step: self.told.append(step.outcome)
        )
        if live is not None:
            sandbox.exchange = lambda _action, **_: self._attached(live)

    def _make(self, body: dict[str, Any]) -> dict[str, Any]:
        self.made = body
        return {**body, "metadata": {"uid": "u-t"}}

    def _attached(self, outcomes: list[str]) -> None:
        """Play the agent, step by step, as it is followed."""
        for number, outcome in enumerate(outcomes):
            code = 0 if outcome == "Succeeded" else 137
            step: Any = StepResult(name=f"s{number}", type="Command", outcome=outcome, exit_code=code)  # type: ignore[arg-type]  # one of them
            self.results.append(step)
            self.run._tell()


def scene(how: str, *outcomes: str) -> Scene:
    """In its status, or as its agent says it to whoever watches."""
    if how == "live":
        return Scene({"state": "Running"}, list(outcomes))
    done = all(each == "Succeeded" for each in outcomes)
    missing = ["Skipped"] * (3 - len(outcomes))
    return Scene(
        {
            "state": "Succeeded" if done else "Failed",
            "exitCode": 0 if done else 137,
            "steps": steps(*outcomes, *missing),
        }
    )


@pytest.mark.parametrize("how", ["status", "live"])
def test_a_task_that_somebody_else_cancels_has_no_result(how: str) -> None:
    its = scene(how, "Succeeded", "Cancelled")
    with pytest.raises(SandboxLost, match="was cancelled or deleted by another client"):
        its.run.run()
    assert its.told == ["Succeeded"], "nobody is told of a step that somebody else ended"
    assert [step.outcome for step in its.results] == ["Succeeded", "Cancelled"], "what is known of it is in the report"


@pytest.mark.parametrize("how", ["status", "live"])
def test_a_task_that_this_client_cancels_has_one(how: str) -> None:
    its = scene(how, "Succeeded", "Cancelled")
    its.sandbox.cancel("id")
    assert its.merged, "control: it is asked for"
    its.run.run()
    assert its.told == ["Succeeded", "Cancelled"]


@pytest.mark.parametrize("proves", [True, False])
@pytest.mark.parametrize("how", ["status", "live", "deleted"])
def test_a_sandbox_in_which_somebody_else_ended_a_task_is_used_no_more(how: str, proves: bool) -> None:
    """A Task that its agent has not seen yet could be made anew there. One that is open to all goes on."""
    its = scene("status" if how == "deleted" else how, "Succeeded", "Cancelled")
    if how == "deleted":
        its.run.mail.latest, its.run.mail.deleted = None, True
    its.held.proves, its.sandbox._killed = proves, False
    its.held.mail.wait = lambda *_: False
    with pytest.raises(SandboxLost):
        its.run.run()
    assert its.deleted == ([("sandboxes", "n", "sb")] if proves else [])
    assert its.sandbox.alive() is not proves


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("live", [None, []])
def test_a_task_cancelled_before_it_began_gives_its_caller_a_result(live: list[str] | None, ours: bool) -> None:
    """As an operator says it that has nothing to say of its steps."""
    its = Scene({"state": "Failed", "conditions": [FAILED]}, live)
    if ours:
        its.sandbox.cancel("id")
        its.run.run()
        assert [step.outcome for step in its.results] == ["Cancelled"]
    else:
        with pytest.raises(SandboxLost, match="another client"):
            its.run.run()
        assert its.told == []


@pytest.mark.parametrize("how", ["status", "live"])
@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        (("Succeeded", "Succeeded"), False),
        (("Succeeded", "Succeeded", "Succeeded"), True),
        (("Succeeded", "Failed"), True),
        (("Succeeded", "Killed"), True),
        ((), False),
    ],
)
def test_a_task_whose_steps_did_not_all_have_their_turn_has_no_result(
    how: str, outcomes: tuple[str, ...], whole: bool
) -> None:
    its = scene(how, *outcomes)
    if whole:
        its.run.run()
        assert its.told == list(outcomes)
    else:
        with pytest.raises(SandboxLost, match="ended before its last step"):
            its.run.run()


@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_results_that_are_asked_for_again_after_a_broken_connection_are_what_they_were(breaks: int) -> None:
    its = scene("status", "Succeeded", "Succeeded", "Succeeded")
    found: Any = its.run.mail.latest
    found["status"]["steps"][1] |= {"stdout": "\ufffd", "stdoutSize": 1}
    answers: list[int] = []

    def attach(_stream: Any, results: list[StepResult], *_: Any) -> None:
        answers.append(len(results))
        for number in range(3):
            if len(answers) <= breaks and number == 2:
                results.append(StepResult(name="s2", type="Command", outcome="Cancelled", exit_code=137))
                return
            results.append(StepResult(name=f"s{number}", type="Command", outcome="Succeeded", exit_code=0))

    def exchange(action: Any) -> None:
        for _ in range(breaks + 1):  # each but the last ends with ChannelLost
            action(None)

    its.run._attach = attach  # type: ignore[method-assign, assignment]
    its.sandbox.exchange = exchange
    its.run.run()
    assert answers == [0] * (breaks + 1)
    assert [step.outcome for step in its.results] == ["Succeeded"] * 3


class Heard:
    """An agent's end of a stream, which notes what it is sent."""

    def __init__(self, refuses: bool, **said: bool) -> None:
        self.frames: list[Any] = []
        self._refuses = refuses
        self._said = said

    def send(self, kind: int, value: Any) -> None:
        self.frames.append((kind, value))

    def reply(self, _deadline: float) -> dict[str, bool]:
        if self._refuses:
            raise AgentError("no", 0, b"")
        return self._said


BEFORE_IT_BEGAN = {"state": "Failed", "conditions": [FAILED]}


@pytest.mark.parametrize("refuses", [False, True])
def test_a_task_that_the_agent_never_had_is_given_up_there(refuses: bool) -> None:
    """Else whoever has read the object makes it anew, with its proof, and it runs beside what comes later."""
    its, heard = Scene(BEFORE_IT_BEGAN), Heard(refuses)
    its.held.proves, its.sandbox._killed = True, False
    its.sandbox.exchange = lambda action: action(heard)
    its.sandbox.cancel("id")
    if refuses:
        with pytest.raises(SandboxLost, match="does not withdraw a Task"):
            its.run.run()
        assert its.deleted == [("sandboxes", "n", "sb")]
    else:
        its.run.run()
    proof = proof_of(b"k", "u", its.run.name, its.made["spec"])
    assert heard.frames == [(frames.SPEND, {"once": proof})]


@pytest.mark.parametrize(
    ("said", "cancelled", "lost"),
    [
        ({"ran": False, "runs": False}, True, False),
        ({"ran": True, "runs": True}, True, True),
        ({"ran": True, "runs": False}, True, False),
        ({"ran": True, "runs": False}, False, True),
    ],
)
def test_where_the_agent_has_run_what_nothing_said_its_sandbox_is_used_no_more(
    said: dict[str, bool], cancelled: bool, lost: bool
) -> None:
    """What runs in it, or has run, is beside what comes later. A caller that was interrupted expects it."""
    its, heard = Scene(BEFORE_IT_BEGAN), Heard(False, **said)
    its.held.proves, its.sandbox._killed = True, False
    its.sandbox.exchange = lambda action: action(heard)
    its.sandbox.cancel("id")
    its.run._cancelled = cancelled
    if lost:
        with pytest.raises(SandboxLost, match="its agent ran Task"):
            its.run.run()
    else:
        its.run.run()
    assert its.deleted == ([("sandboxes", "n", "sb")] if lost else [])


CANCELLED = {
    "state": "Failed",
    "exitCode": 137,
    "steps": [{"name": "s0", "type": "Command", "outcome": "Cancelled", "exitCode": 137}],
    "conditions": [{"type": "Failed", "status": "True", "reason": "Cancelled", "message": "before it began"}],
}


def test_a_task_that_was_cancelled_before_the_agent_had_it_is_given_up_there() -> None:
    """It has an exit code, and its object a proof that nothing was run for."""
    its, heard = Scene(CANCELLED), Heard(False)
    its.held.proves, its.sandbox._killed = True, False
    its.sandbox.exchange = lambda action: action(heard)
    its.sandbox.cancel("id")
    its.run.run()
    assert [kind for kind, _ in heard.frames] == [frames.SPEND]


@pytest.mark.parametrize("proves", [True, False])
@pytest.mark.parametrize("how", ["taken", "open to all"])
def test_nothing_is_given_up_where_the_agent_had_it_or_nobody_proves_anything(how: str, proves: bool) -> None:
    its, heard = (scene("status", *["Succeeded"] * 3) if how == "taken" else Scene(BEFORE_IT_BEGAN)), Heard(False)
    its.held.proves, its.sandbox._killed = proves and how == "taken", False
    its.sandbox.exchange = lambda action: action(heard)
    its.sandbox.cancel("id")
    its.run.run()
    assert heard.frames == []


@pytest.mark.parametrize("refused", [True, False])
def test_a_task_that_was_never_made_is_not_given_up_and_keeps_its_error(refused: bool) -> None:
    """One whose creation had no answer may be there; where its agent cannot be told, its sandbox is used no more."""
    its = Scene(None)
    its.held.proves, its.sandbox._killed = True, False
    error: Exception = PermissionDenied("may not create tasks") if refused else BackendUnavailable("no answer")

    def create(*_: Any, **_more: Any) -> None:
        raise error

    def exchange(_action: Any) -> None:
        raise PermissionDenied("may not open a port-forward")

    its.held.client.api.create = create
    its.sandbox.exchange = exchange
    with pytest.raises(type(error), match=str(error)):
        its.run.run()
    assert its.deleted == ([] if refused else [("sandboxes", "n", "sb")])
