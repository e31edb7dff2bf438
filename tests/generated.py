"""Attacks that hypothesis makes up: some in each run of the tests, and as many as there is time for where that is asked.

    ARL_TEST_ATTACK_SECONDS=1200 .venv/bin/pytest --timeout=0 -n 0 -rP -m generated

attacks for that long with each of the tests that are marked so, and ``-rP`` shows with how many cases.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings

_SECONDS = float(os.environ.get("ARL_TEST_ATTACK_SECONDS") or 0)

_MOST_SECONDS, _FEWEST = 120.0, 3
"""In a run that was asked for no time: after how long no more cases are made, but these few. There are machines that take a
minute for one.
"""

Test = TypeVar("Test", bound=Callable[..., None])


def generated(examples: int, *, shrink: bool = True) -> Callable[[Test], Test]:
    """A test whose arguments hypothesis makes up, ``examples`` of them or as many as there is time for.

    One that fails is shown as small as it gets; without ``shrink`` as it was, where each failure takes long.
    """
    # What one example left in a fixture is there for the next one, as it would be for an attacker.
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = [phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)]
    chosen = settings(max_examples=examples, deadline=None, suppress_health_check=health, phases=phases)

    def decorate(test: Test) -> Test:
        done, end = [0], [0.0]
        given: Any = test
        case = given.hypothesis.inner_test  # there for plugins to wrap

        @functools.wraps(case)
        def counted(*args: object, **named: object) -> object:
            if not _SECONDS and done[0] >= _FEWEST and time.monotonic() > end[0]:
                return None
            done[0] += 1
            try:
                return case(*args, **named)
            except BaseException:
                end[0] = math.inf  # hypothesis runs it again, to see it fail again
                raise

        given.hypothesis.inner_test = counted
        bounded = chosen(test)

        @functools.wraps(test)
        def attack(*args: object, **named: object) -> None:
            done[0], end[0] = 0, time.monotonic() + (_SECONDS or _MOST_SECONDS)
            while True:
                bounded(*args, **named)
                if not _SECONDS or time.monotonic() >= end[0]:
                    break
            print(f"{done[0]} cases")

        return cast("Test", pytest.mark.generated(attack))

    return decorate
