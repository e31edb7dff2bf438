"""Whatever is killed, a task runs at most once, and what is known is told."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.cluster.operator_room import Json, Room, command, room

pytestmark = pytest.mark.timeout(600)

FAULTS = ("before-dispatch", "during-the-run", "before-the-status")
KILLS = 21
TASKS = 100
SANDBOXES = 4


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with room(tmp_path_factory.mktemp("operator") / "log") as found:
        yield found


def test_an_operator_that_is_killed_again_and_again_runs_each_task_exactly_once(killed: Room) -> None:
    names = [f"s{number}" for number in range(SANDBOXES)]
    for name in names:
        killed.sandbox(name)
    for name in names:
        killed.ready(name)
    killed.kill()
    killed.tasks(*(_appends(number, names[number % SANDBOXES]) for number in range(TASKS)))
    ends = []
    for fault in islice(cycle(FAULTS), KILLS):
        killed.start(fault, 3)
        ends.append((fault, killed.died()))
    killed.start()
    assert ends == [(fault, -signal.SIGKILL) for fault in islice(cycle(FAULTS), KILLS)], killed.log()
    states = {number: killed.finished(f"t{number:03}", 120)["state"] for number in range(TASKS)}
    assert set(states.values()) == {"Succeeded"}
    for index, name in enumerate(names):
        wanted = [f"{number:03}" for number in range(index, TASKS, SANDBOXES)]
        assert killed.run(name, "cat", "lines")["stdout"].split() == wanted


def _appends(number: int, sandbox: str) -> Json:
    return command(f"t{number:03}", sandbox, "sh", "-c", f"echo {number:03} >> lines; sleep 0.1")


def _running(killed: Room, sandbox: str) -> Json:
    """A sandbox with a task that has written its line and runs."""
    killed.sandbox(sandbox)
    body = killed.ready(sandbox)
    killed.tasks(command(f"{sandbox}-t", sandbox, "sh", "-c", "echo x >> lines; sleep 60"))
    killed.tasks(command(f"{sandbox}-next", sandbox, "true"))
    killed.until("task", f"{sandbox}-t", lambda task: task.get("status", {}).get("state") == "Running")
    return body


def _kill_agent(killed: Room, pod: str) -> None:
    """SIGKILL from outside of the pod: nothing inside can do that to its PID 1."""
    uid: str = (killed.get("pod", pod) or {})["metadata"]["uid"]
    agents = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if {uid, uid.replace("-", "_")} & set(re.findall(r"pod([0-9a-f_-]{36})", _read(process / "cgroup")))
        and re.search(r"/arl-[0-9a-f]{32}/boot\.py", _read(process / "cmdline"))
    ]
    # What runs below it, the supervisor of a background step, has its command line, too.
    found = [pid for pid in agents if re.search(r"^NSpid:.*\s1$", _read(Path(f"/proc/{pid}/status")), re.MULTILINE)]
    if not found:
        pytest.skip("the pod's processes are not to be seen from here: run the tests as root on the node")
    os.kill(found[0], signal.SIGKILL)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _lost(killed: Room, sandbox: str, *reasons: str) -> None:
    status = killed.finished(f"{sandbox}-t")
    assert (status["state"], "exitCode" in status) == ("Failed", False)
    (told,) = [each for each in status["conditions"] if each["type"] == "Failed"]
    assert told["reason"] == "SandboxLost"
    following = killed.finished(f"{sandbox}-next")
    assert (following["state"], "exitCode" in following) == ("Failed", False)
    assert killed.reason(sandbox) in reasons


def test_an_agent_that_ends_in_the_middle_of_a_task_is_a_lost_sandbox(killed: Room) -> None:
    pod = _running(killed, "agent")["status"]["podName"]
    _kill_agent(killed, pod)
    _lost(killed, "agent", "AgentEnded", "AgentRestarted")
    killed.until("pod", pod, lambda body: body == {} or "deletionTimestamp" in body["metadata"])


def test_a_pod_that_is_deleted_in_the_middle_of_a_task_is_a_lost_sandbox(killed: Room) -> None:
    pod = _running(killed, "pod")["status"]["podName"]
    began = time.monotonic()
    killed.kubectl("delete", "pod", pod, "--wait=false")
    _lost(killed, "pod", "PodDeleted", "AgentEnded")
    assert time.monotonic() - began < 15


def test_agent_and_operator_killed_together_do_not_run_a_task_again(killed: Room) -> None:
    pod = _running(killed, "both")["status"]["podName"]
    killed.kill()
    _kill_agent(killed, pod)
    # Kubelet starts the container again, in the same pod, with the same workspace and a fresh agent.
    killed.until("pod", pod, lambda body: any(each["restartCount"] and each["ready"] for each in _executor(body)))
    killed.start()
    _lost(killed, "both", "AgentEnded", "AgentRestarted")
    lines = killed.kubectl("exec", pod, "-c", "executor", "--", "cat", "/workspace/lines", check=False)
    assert lines.split() in (["x"], [])  # none where the pod is gone by now


def _executor(body: Json) -> list[Json]:
    return [each for each in body["status"].get("containerStatuses", ()) if each["name"] == "executor"]


def test_a_task_that_was_deleted_while_no_operator_ran_is_ended(killed: Room) -> None:
    _running(killed, "deleted")
    killed.kill()
    killed.kubectl("delete", "task", "deleted-t", "--wait=true")
    killed.start()
    assert killed.finished("deleted-next")["state"] == "Succeeded"
    left = killed.run("deleted", "sh", "-c", "ps ax | grep -c '[s]leep 60'")
    assert left["stdout"].strip() == "0"


def test_a_task_that_was_cancelled_while_no_operator_ran_is_ended_where_it_runs(killed: Room) -> None:
    _running(killed, "cancelled")
    killed.kill()
    killed.kubectl("patch", "task", "cancelled-t", "--type=merge", "-p", '{"spec": {"cancel": true}}')
    killed.start()
    status = killed.finished("cancelled-t")
    (told,) = [each for each in status["conditions"] if each["type"] == "Failed"]
    assert told["reason"] == "Cancelled"
    assert "before it began" not in told["message"]
    assert status["steps"][0]["durationSeconds"] > 0
    assert killed.finished("cancelled-next")["state"] == "Succeeded"
    left = killed.run("cancelled", "sh", "-c", "cat lines; ps ax | grep -c '[s]leep 60'")
    assert left["stdout"].split() == ["x", "0"]


def test_a_second_operator_stands_by_and_takes_over_from_one_that_is_killed(killed: Room, tmp_path: Path) -> None:
    killed.sandbox("handed")
    killed.ready("handed")
    heir = Room(killed.namespace, tmp_path / "log")
    heir.start(identity="heir")
    try:
        deadline = time.monotonic() + 60
        while "standing by" not in heir.log():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert killed.run("handed", "true")["state"] == "Succeeded"
        assert '"task"' not in heir.log()  # it really only stood by
        killed.kill()
        assert killed.run("handed", "true")["state"] == "Succeeded"
        assert '"task"' in heir.log()
    finally:
        heir.stop()
        killed.start()


def test_what_happened_while_no_operator_ran_is_seen_by_the_next(killed: Room) -> None:
    killed.sandbox("old")
    pod = killed.ready("old")["status"]["podName"]
    killed.kill()
    killed.kubectl("delete", "sandbox", "old", "--cascade=orphan")
    killed.sandbox("new")
    killed.start()
    killed.ready("new")
    assert killed.run("new", "true")["state"] == "Succeeded"
    killed.until("pod", pod, lambda body: body == {} or "deletionTimestamp" in body["metadata"])
