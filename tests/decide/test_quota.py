"""Quotas against simple models: never more permissive than exact, all or nothing, and what settles is what was used."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decide.quota import SLOTS, Budget, Exhausted, Ledger, Quota, Taken, Window, applies, cost_in
from gateway.model.call import Call, Principal, Risk
from tests.building import call, tool

HOUR = Window(seconds=3600.0)


def rate(limit: int, window: Window = HOUR, **changes: Any) -> Quota:
    return Quota(**{"name": "rate", "limit": limit, "window": window, **changes})


def take(ledger: Ledger, quota: Quota, now: float, request: Call | None = None) -> Exhausted | Taken:
    found = ledger.take([quota], request or call(tool()), now)
    return found if isinstance(found, Exhausted) else found[0]


@pytest.mark.rule("quota.never-more-permissive")
@settings(max_examples=200, deadline=None)
@given(limit=st.integers(1, 5), window=st.floats(1.0, 100.0), gaps=st.lists(st.floats(0.0, 50.0), max_size=40))
def test_a_rolling_window_never_lets_more_through_than_an_exact_one(
    limit: int, window: float, gaps: list[float]
) -> None:
    ledger, quota, now = Ledger(), rate(limit, Window(seconds=window)), 1_795_205_460.0
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        result = take(ledger, quota, now)
        exact = sum(1 for at in admitted if at > now - window)
        if isinstance(result, Taken):
            assert exact < limit
            admitted.append(now)
        else:
            wider = sum(1 for at in admitted if at >= now - window * (1 + 1 / SLOTS) - 1e-6)
            assert wider >= limit, "refused although a window that is one slot wider has room"
            assert result.retry_after_seconds is not None
            assert isinstance(take(ledger, quota, now + result.retry_after_seconds + 1e-3), Taken)
            now += result.retry_after_seconds + 1e-3
            admitted.append(now)


@pytest.mark.rule("quota.calendar")
@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("Europe/Berlin", "2026-11-20T22:59:59", "2026-11-20T23:00:00"),
        ("Europe/Berlin", "2026-03-29T21:59:59", "2026-03-29T22:00:00"),
        ("America/New_York", "2026-11-01T03:59:59", "2026-11-01T04:00:00"),
        ("UTC", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
    ],
)
def test_a_calendar_day_ends_at_midnight_of_its_zone_in_summer_and_in_winter(zone: str, last: str, first: str) -> None:
    ledger, quota = Ledger(), rate(1, Window(unit="day", zone=zone))
    before = datetime.fromisoformat(last).replace(tzinfo=UTC).timestamp()
    after = datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(after, ZoneInfo(zone)).hour == 0
    assert isinstance(take(ledger, quota, before), Taken)
    refused = take(ledger, quota, before)
    assert isinstance(refused, Exhausted)
    assert refused.retry_after_seconds == pytest.approx(after - before)
    assert isinstance(take(ledger, quota, after), Taken)


@pytest.mark.rule("quota.all-or-nothing")
def test_a_refusal_by_one_quota_takes_from_none() -> None:
    ledger = Ledger()
    wide, narrow = rate(10, name="wide"), rate(1, name="narrow")
    assert not isinstance(ledger.take([wide, narrow], call(tool()), 0.0), Exhausted)
    refused = ledger.take([wide, narrow], call(tool()), 0.0)
    assert isinstance(refused, Exhausted)
    assert refused.quota is narrow
    assert "narrow" in refused.message
    assert "1 of 1" in refused.message
    assert ledger.calls[(wide.id, "local")].used(HOUR, 0.0) == 1


@pytest.mark.rule("quota.given-back")
def test_a_call_that_did_not_run_is_given_back_and_one_that_may_have_run_is_not() -> None:
    ledger, quota = Ledger(), rate(1)
    taken = take(ledger, quota, 0.0)
    assert isinstance(taken, Taken)
    ledger.settle(taken, executed=False, cost=None)
    again = take(ledger, quota, 1.0)
    assert isinstance(again, Taken)
    ledger.settle(again, executed=True, cost=None)
    assert isinstance(take(ledger, quota, 2.0), Exhausted)


@pytest.mark.rule("quota.budget")
@pytest.mark.parametrize(
    ("result", "charged"),
    [
        ({"_meta": {"cost": 0.02}}, 0.02),
        ({"_meta": {"cost": 0}}, 0.0),
        ({"_meta": {"cost": -1}}, 0.05),
        ({"_meta": {"cost": "1"}}, 0.05),
        ({"_meta": {"cost": True}}, 0.05),
        ({"_meta": {"cost": float("inf")}}, 0.05),
        ({}, 0.05),
        ([], 0.05),
    ],
)
def test_a_budget_keeps_its_reserve_where_the_result_names_no_cost(result: Any, charged: float) -> None:
    budget = Budget(unit="usd", amount=1.0, window=HOUR, cost="result._meta.cost", reserve=0.05)
    ledger, quota = Ledger(), Quota(name="money", budget=budget)
    taken = take(ledger, quota, 0.0)
    assert isinstance(taken, Taken)
    assert taken.cost == 0.05
    assert ledger.settle(taken, executed=True, cost=cost_in(result, budget.cost)) == charged
    assert ledger.costs[(quota.id, "local")].used(HOUR, 0.0) == pytest.approx(charged)


@pytest.mark.rule("quota.budget")
@given(costs=st.lists(st.floats(0.0, 3.0), max_size=30))
def test_a_budget_is_overrun_by_at_most_the_last_calls_cost_beyond_its_reserve(costs: list[float]) -> None:
    budget = Budget(unit="usd", amount=5.0, window=HOUR, cost="result.cost", reserve=0.5)
    ledger, quota, spent = Ledger(), Quota(name="money", budget=budget), 0.0
    for cost in costs:
        taken = take(ledger, quota, 0.0)
        if isinstance(taken, Exhausted):
            assert spent + 0.5 > 5.0 - 1e-6
            return
        assert spent + 0.5 <= 5.0 + 1e-6
        spent += ledger.settle(taken, executed=True, cost=cost)


def test_a_fixed_cost_of_the_tool_is_what_a_budget_without_a_path_charges() -> None:
    ledger, quota = Ledger(), Quota(name="money", budget=Budget(unit="usd", amount=0.05, window=HOUR))
    request = call(tool(cost=0.02))
    assert [isinstance(take(ledger, quota, 0.0, request), Taken) for _ in range(3)] == [True, True, False]


def test_calls_at_once_are_counted_while_they_run() -> None:
    ledger, quota = Ledger(), Quota(name="few", in_flight=2)
    one, two = take(ledger, quota, 0.0), take(ledger, quota, 0.0)
    assert isinstance(one, Taken)
    assert isinstance(two, Taken)
    assert isinstance(take(ledger, quota, 0.0), Exhausted)
    ledger.settle(one, executed=True, cost=None)
    assert isinstance(take(ledger, quota, 0.0), Taken)


def test_a_sessions_wall_clock_ends_it_for_good() -> None:
    ledger, quota = Ledger(), Quota(name="long", per="session", wall_seconds=600)
    assert isinstance(take(ledger, quota, 0.0), Taken)
    assert isinstance(take(ledger, quota, 599.0), Taken)
    refused = take(ledger, quota, 600.0)
    assert isinstance(refused, Exhausted)
    assert refused.retry_after_seconds is None


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"agent": "cl*"}, True),
        ({"agent": "other"}, False),
        ({"role": "reader"}, True),
        ({"role": "admin"}, False),
        ({"tool": "git/git_*"}, True),
        ({"tool": "git"}, True),
        ({"tool": "docs/*"}, False),
        ({"risk": "write"}, True),
        ({"risk": "read"}, False),
        ({"server": "g*", "risk": "write"}, True),
        ({"server": "g*", "risk": "read"}, False),
        ({"unheard_of": "*"}, False),
    ],
)
@pytest.mark.rule("quota.match")
def test_a_quota_applies_where_all_its_globs_fit(match: dict[str, str], fits: bool) -> None:
    request = call(tool("git_commit", "git", Risk.WRITE), principal=Principal(id="claude", roles=("reader", "x")))
    assert applies(Quota(name="q", match=match), request) is fits


@pytest.mark.rule("quota.forgotten")
def test_sessions_that_come_and_go_leave_no_counters_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.decide.quota.SWEEP_SUBJECTS", 50)
    ledger, now = Ledger(), 1_795_205_460.0
    quotas = (
        rate(3, Window(seconds=60.0), per="session"),
        Quota(name="cost", per="session", budget=Budget(unit="usd", amount=5, window=HOUR, cost="result.c", reserve=1)),
    )
    most = 0
    for number in range(2_000):
        now += 10.0
        assert not isinstance(ledger.take(quotas, call(tool(), session_id=f"s-{number}"), now), Exhausted)
        most = max(most, len(ledger.calls) + len(ledger.costs))
    # A minute's and an hour's worth of sessions count at any time, and twice as many are kept at most.
    assert most < 800, "of 4,000"


@pytest.mark.rule("quota.forgotten")
@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
    sessions=st.lists(st.integers(0, 3), min_size=60, max_size=60),
)
def test_what_is_forgotten_changes_no_decision(gaps: list[float], sessions: list[int]) -> None:
    quotas = (rate(3, Window(seconds=60.0), per="session"), rate(7, Window(seconds=100.0), name="all", per="gateway"))
    swept, kept, now = Ledger(), Ledger(), 1_795_205_460.0
    for gap, session in zip(gaps, sessions, strict=False):
        now += gap
        swept.sweep(quotas, now)
        request = call(tool(), session_id=f"s-{session}")
        one, other = (ledger.take(quotas, request, now) for ledger in (swept, kept))
        assert isinstance(one, Exhausted) == isinstance(other, Exhausted)
        if isinstance(one, Exhausted) and isinstance(other, Exhausted):
            assert one == other


@pytest.mark.rule("quota.forgotten")
def test_a_call_that_outlasts_its_window_is_given_back_all_the_same() -> None:
    ledger, quota = Ledger(), rate(1, Window(seconds=60.0))
    taken = take(ledger, quota, 1_000_000.0)
    assert isinstance(taken, Taken)
    ledger.sweep([quota], 1_000_200.0)
    ledger.settle(taken, executed=False, cost=None)
    assert isinstance(take(ledger, quota, 1_000_200.0), Taken)
    assert isinstance(take(ledger, quota, 1_000_200.0), Exhausted)


@pytest.mark.rule("quota.forgotten")
def test_a_session_s_time_begins_anew_after_its_end_and_nobody_else_s() -> None:
    ledger = Ledger()
    per_session = Quota(name="time", per="session", wall_seconds=10)
    per_agent = Quota(name="time", per="agent", wall_seconds=10)
    request = call(tool(), session_id="ada", principal=Principal(id="ada", roles=()))
    for quota in (per_session, per_agent):
        take(ledger, quota, 100.0, request)
        assert isinstance(take(ledger, quota, 111.0, request), Exhausted)
    ledger.forget([per_session, per_agent], "ada")
    assert isinstance(take(ledger, per_session, 112.0, request), Taken)
    assert isinstance(take(ledger, per_agent, 112.0, request), Exhausted), "a session may be named like its agent"
