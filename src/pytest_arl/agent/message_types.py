"""Messages between a host and an agent, as type checkers see them: there is nothing here at run time.

A ``TypedDict`` is for the end that makes a message. What came from a peer is not trusted, so the other end has it as
:data:`exact.Said` of the keys beside it: its values are anything, and a misspelt key is an error to mypy.
``agent_client/messages.py`` makes and reads messages on the host's side. A step and its end are in ``step_types``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, NotRequired, TypedDict

    from pytest_arl.agent.step_types import StepMessage

    # Introduction

    class Hello(TypedDict):
        """HELLO of an agent; ``nonce`` and ``pod`` of one that listens."""

        version: int
        boot: str
        pid: int
        nonce: NotRequired[bytes]
        pod: NotRequired[str]

    HelloKey = Literal["version", "boot", "pid", "nonce", "pod"]

    class Place(TypedDict):
        """The files, folders and limits that an agent works with."""

        env: Any  # pairs of bytes, or a dict
        workspace: bytes
        folders: Any  # pairs of a path and a key
        spool_fd: int | None
        spool_bytes: int | None
        oom_fd: int | None
        pids_fd: int | None
        cpu_fd: int | None
        memory: int | None
        processes: int
        cpu_time: float | None
        watch: NotRequired[dict[str, Any] | None]
        rlimits: NotRequired[dict[str, int]]
        crowd_fd: NotRequired[int | None]
        files_count: NotRequired[bool]

    class Config(Place):
        """HELLO of a host that has started the agent; an operator's has it as ``config``."""

        version: int
        uid: int | None
        gid: int | None
        chown: list[bytes]
        lock_fd: int | None

    ConfigKey = Literal[
        "version", "uid", "gid", "workspace", "folders", "chown", "env", "rlimits", "spool_fd", "spool_bytes", "oom_fd",
        "pids_fd", "cpu_fd", "lock_fd", "memory", "processes", "watch", "cpu_time", "crowd_fd", "files_count",
    ]  # fmt: skip

    class Claim(TypedDict):
        """HELLO of an operator that was admitted before: whose the sandbox is."""

        holder: NotRequired[str]
        holderMark: NotRequired[bytes]

    class ClientHello(Claim):
        """HELLO to an agent that listens: an operator's (``epoch`` to ``mark``), or its sandbox's holder's."""

        version: int
        role: Literal["operator", "holder"]
        epoch: NotRequired[int]
        signature: NotRequired[bytes]
        config: NotRequired[Config]
        mark: NotRequired[bytes]
        ask: NotRequired[bytes]
        secret: NotRequired[bytes]

    ClientHelloKey = Literal[
        "version", "role", "epoch", "signature", "config", "mark", "ask", "secret", "holder", "holderMark"
    ]

    class Ready(TypedDict, total=False):
        """READY; empty from one that does not listen."""

        configured: bool
        held: bool
        running: str | None
        proof: bytes

    ReadyKey = Literal["configured", "held", "running", "proof"]

    # Tasks

    class Attach(TypedDict):
        """ATTACH: a task by its id, and what of its output is wanted."""

        id: str
        limit: int
        live: NotRequired[bool]
        brief: NotRequired[bool]

    class Task(Attach):
        """TASK. An operator's has ``boot``, ``epoch`` and ``keep``, and what a Task object says."""

        steps: list[StepMessage]
        timeout: NotRequired[float | None]
        boot: NotRequired[str]
        epoch: NotRequired[int]
        keep: NotRequired[int]
        payload: NotRequired[str]
        once: NotRequired[str]

    TaskKey = Literal["id", "limit", "live", "brief", "steps", "timeout", "boot", "epoch", "keep", "payload", "once"]

    class Cancel(TypedDict):
        """CANCEL."""

        id: str

    CancelKey = Literal["id"]

    class Process(TypedDict):
        """REPLY about a background process: how far it is, and how it ended where it has."""

        ended: bool
        out: NotRequired[int]
        err: NotRequired[int]
        at: NotRequired[float]
        outcome: NotRequired[str]
        code: NotRequired[int]
        signal: NotRequired[str]
        s: NotRequired[float]
        u: NotRequired[bytes | None]
        limit: NotRequired[str | None]

    ProcessKey = Literal["ended", "outcome", "code", "signal", "out", "err", "at", "s", "u", "limit"]

    class Done(TypedDict):
        """DONE: how many steps were run."""

        ran: int

    class Pong(TypedDict):
        """PONG."""

        busy: bool

    PongKey = Literal["busy"]

    # Background processes and kept output

    class ProcessRequest(TypedDict):
        """PROCESS: ``wait`` has ``limit`` and ``timeout``, ``output`` ``limit``, ``write`` ``data`` and ``at``."""

        task: str
        step: int
        do: Literal["wait", "kill", "write", "close", "output"]
        limit: NotRequired[int]
        timeout: NotRequired[float | None]
        data: NotRequired[bytes | memoryview]
        at: NotRequired[int]

    ProcessRequestKey = Literal["task", "step", "do", "limit", "timeout", "data", "at"]

    class Taken(TypedDict):
        """REPLY to a ``write``: whether anybody reads."""

        taken: bool

    TakenKey = Literal["taken"]

    Fetch = TypedDict("Fetch", {"task": str, "step": int, "stream": int, "from": int, "most": int})
    """FETCH: a part of a step's stream."""

    FetchKey = Literal["task", "step", "stream", "from", "most"]

    class OutputEnd(TypedDict):
        """END of a part: bytes of the whole stream, and those of it that are not kept."""

        size: int
        lost: int

    OutputEndKey = Literal["size", "lost"]

    # Files

    class Write(TypedDict):
        """WRITE: a file, whole."""

        path: bytes
        content: bytes | memoryview
        mode: int | None

    WriteKey = Literal["path", "content", "mode"]

    class Put(TypedDict):
        """PUT: where files go."""

        path: bytes
        merge: bool

    PutKey = Literal["path", "merge"]

    class Get(TypedDict):
        """GET: bytes without holes, bytes with them, and entries, at most."""

        path: bytes
        data: int
        size: int
        entries: int
        one_filesystem: NotRequired[bool]

    GetKey = Literal["path", "data", "size", "entries", "one_filesystem"]

    Kind = Literal["f", "d", "l"]
    """A file, a directory or a link."""

    class Entry(TypedDict):
        """ENTRY: path, type, mode, bytes, time of change in nanoseconds (and seconds), and where a link leads."""

        p: bytes
        t: Kind
        m: int | None
        n: int
        at: int
        seconds: NotRequired[int]
        to: NotRequired[bytes]

    EntryKey = Literal["p", "t", "m", "n", "to", "at", "seconds"]

    class Hole(TypedDict):
        """HOLE: its length."""

        n: int

    HoleKey = Literal["n"]

    class TransferEnd(TypedDict, total=False):
        """END of a transfer: its checksum, and the number of entries from an agent; or that it is given up."""

        crc: int
        n: int
        abort: bool

    TransferEndKey = Literal["crc", "n", "abort"]

    class Arrived(TypedDict):
        """REPLY to a transfer: the number of entries."""

        n: int

    # Checkpoints

    class Reset(TypedDict):
        """RESET: what to do with a checkpoint, and for ``return`` the processes that live on, by task and step."""

        do: Literal["alive", "mark", "forget", "return"]
        id: int
        keep: list[list[Any]]

    ResetKey = Literal["do", "id", "keep"]

    class ResetAnswer(TypedDict, total=False):
        """REPLY to it: processes to ``alive``, paths to ``return``."""

        alive: list[list[Any]]
        changed: list[bytes]

    ResetAnswerKey = Literal["alive", "changed"]

    # A holder's

    class Supply(TypedDict):
        """SUPPLY."""

        steps: list[StepMessage]

    SupplyKey = Literal["steps"]

    class Spend(TypedDict):
        """SPEND: a proof."""

        once: str

    SpendKey = Literal["once"]

    class Spent(TypedDict):
        """REPLY to it: whether a task was run for the proof, and whether it runs."""

        ran: bool
        runs: bool

    SpentKey = Literal["ran", "runs"]

    # Answers

    class Nothing(TypedDict):
        """REPLY to what is done."""

    class Refusal(TypedDict):
        """ERROR."""

        text: str
        errno: int
        path: bytes

    RefusalKey = Literal["text", "errno", "path"]
