"""The same fixture in async tests: each method has a twin whose name starts with `a`."""

import asyncio

import anyio
import pytest

from pytest_arl import SandboxFixture, SandboxSession


@pytest.mark.asyncio
async def test_with_pytest_asyncio(arl_sandbox: SandboxFixture) -> None:
    await arl_sandbox.awrite("app.py", "print(6 * 7)")
    result = await arl_sandbox.arun("python3", "app.py")
    assert result.check().stdout == "42\n"


@pytest.mark.asyncio
async def test_two_sandboxes_side_by_side() -> None:
    async def answer(number: int) -> str:
        async with SandboxSession(pool_ref="python-39-std") as session:
            return (await session.arun("echo", str(number))).check().stdout

    assert [*await asyncio.gather(answer(1), answer(2))] == ["1\n", "2\n"]


@pytest.mark.anyio
async def test_on_asyncio_and_on_trio(arl_sandbox: SandboxFixture) -> None:
    result = await arl_sandbox.aexecute([{"name": "hello", "type": "Command", "command": ["echo", "hello"]}])
    assert result.step("hello").stdout == "hello\n"


@pytest.mark.anyio
async def test_giving_up_ends_the_step_in_the_sandbox(arl_sandbox: SandboxFixture) -> None:
    with anyio.move_on_after(0.2) as scope:
        await arl_sandbox.arun("sleep", "60")
    assert scope.cancelled_caught
    survivors = await arl_sandbox.arun("sh", "-c", "grep -x sleep /proc/[0-9]*/comm")
    assert survivors.stdout == ""
