"""A server in the background, clients as steps of the same sandbox."""

from pytest_arl import Process, SandboxSession


def test_a_client_reads(shelf_sandbox: SandboxSession, server: Process) -> None:
    answer = shelf_sandbox.run("python3", "app/client.py", "GET", "/books/1").check()
    assert answer.stdout == '200 {"book": "Dune"}\n'


def test_what_one_client_writes_another_reads(shelf_sandbox: SandboxSession, server: Process) -> None:
    result = shelf_sandbox.execute(
        [
            {"name": "put", "type": "Command", "command": ["python3", "app/client.py", "PUT", "/books/2", "Emma"]},
            {"name": "get", "type": "Command", "command": ["python3", "app/client.py", "GET", "/books/2"]},
        ]
    ).check()
    assert result.step("put").stdout.startswith("201")
    assert result.step("get").stdout == '200 {"book": "Emma"}\n'


def test_the_server_still_runs_and_logged_each_request(shelf_sandbox: SandboxSession, server: Process) -> None:
    shelf_sandbox.run("python3", "app/client.py", "GET", "/books/none").check()
    assert server.poll() is None
    assert '"GET /books/none HTTP/1.1" 404' in server.stderr
