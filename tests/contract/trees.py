"""Process trees that do not want to end: each prints ``ready`` once it stands, then lasts for ever.

They are Python programs; argv[1] is a marker that every process of the tree shows in its own argv.
"""

from __future__ import annotations

__all__ = ["TREES"]

_HEAD = """
import os, signal, subprocess, sys, time
marker = sys.argv[1]
def ready():
    os.write(1, b"ready\\n")
def last():
    while True:
        time.sleep(1000)
"""

TREES = {
    "double fork": """
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            last()
        os.wait(); ready(); last()
    """,
    "sessions of their own": """
        for _ in range(5):
            subprocess.Popen(["setsid", "sleep", "1000." + marker], start_new_session=True)
        ready(); last()
    """,
    "deaf to every signal": """
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.fork(); os.fork(); ready(); last()
    """,
    "stopped": """
        child = os.fork()
        if child == 0:
            os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(child, os.WUNTRACED); ready(); os.kill(os.getpid(), signal.SIGSTOP); last()
    """,
    "vfork chain": """
        never = "/tmp/never" + str(os.getpid())
        os.mkfifo(never)
        wait_for_ever = [(os.POSIX_SPAWN_OPEN, 0, never, os.O_RDONLY, 0)]
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                # Suspended until its child execs, which waits for a writer.
                os.posix_spawn("/bin/true", ["true", marker], {}, file_actions=wait_for_ever)
        time.sleep(0.05); ready(); last()
    """,
    "fork and exit for ever": """
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                while True:
                    if os.fork():
                        os._exit(0)
                    time.sleep(0.0005)
        ready(); last()
    """,
    "two hundred": """
        for _ in range(200):
            if os.fork() == 0:
                last()
        ready(); last()
    """,
    "writing without end": """
        if os.fork() == 0:
            os.setsid(); ready()
            while True:
                os.write(1, b"ready for ever\\n" * 1000)
        last()
    """,
    "on a terminal of its own": """
        import pty
        pid, terminal = pty.fork()
        if pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_IGN); last()
        ready(); last()
    """,
    "many threads": """
        import threading
        for _ in range(20):
            threading.Thread(target=last).start()
        os.fork(); ready(); last()
    """,
    "parents waiting for children": """
        for _ in range(20):
            if os.fork():
                ready() if _ == 0 else None
                os.wait(); last()
        last()
    """,
}
"""Name and program of each."""

TREES = {name: _HEAD + "\n".join(line[8:] for line in body.splitlines()) for name, body in TREES.items()}
