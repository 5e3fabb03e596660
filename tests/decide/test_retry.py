"""The retry budget bounds what a failing server sees."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.retry import FLOOR, RetryBudget, backoff_seconds


@pytest.mark.rule("retry.budget")
@given(percent=st.floats(0.0, 100.0), calls=st.integers(1, 500))
def test_a_server_that_always_fails_sees_at_most_the_declared_share_more(percent: float, calls: int) -> None:
    budget, retries = RetryBudget(percent), 0
    for _ in range(calls):
        budget.earn()
        for _ in range(5):
            if budget.spend():
                retries += 1
    assert retries <= calls * percent / 100.0 + FLOOR


def test_the_wait_grows_is_jittered_and_is_bounded() -> None:
    chance = random.Random(1)
    waits = [[backoff_seconds(attempt, 0.2, chance) for _ in range(200)] for attempt in (2, 3, 4, 20)]
    assert [max(row) <= bound for row, bound in zip(waits, (0.4, 0.8, 1.6, 30.0), strict=True)] == [True] * 4
    assert len(set(waits[0])) > 190
