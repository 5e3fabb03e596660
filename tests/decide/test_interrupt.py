"""Interrupts against simple models of their words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decide.interrupt import Arrival, Ending, Kind, Rule, Watch


def arrival(at: float, tool: str = "s/a", digest: bytes = b"") -> Arrival:
    server, _, name = tool.partition("/")
    return Arrival(at=at, server=server, tool=name, digest=digest or tool.encode())


CALLS = st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from(["s/a", "s/b", "t/a", "t/c"])), max_size=40)


@pytest.mark.rule("interrupt.kinds")
@settings(max_examples=200, deadline=None)
@given(calls=CALLS, count=st.integers(1, 5), kind=st.sampled_from(["identical_calls", "calls", "distinct_tools"]))
def test_counting_rules_agree_with_counting(calls: list[tuple[float, str]], count: int, kind: Kind) -> None:
    watch = Watch(Rule(name="r", kind=kind, count=count, within_seconds=20.0))
    now, history = 0.0, list[tuple[float, str]]()
    for gap, tool in calls:
        now += gap
        history.append((now, tool))
        recent = [name for at, name in history if at >= now - 20.0]
        expected = {
            "identical_calls": recent.count(tool),
            "calls": len(recent),
            "distinct_tools": len(set(recent)),
        }[kind]
        assert watch.arrive(arrival(now, tool)) is (expected >= count)


@pytest.mark.rule("interrupt.kinds")
@settings(max_examples=200, deadline=None)
@given(calls=CALLS)
def test_a_sequence_is_met_when_its_globs_were_matched_in_order_within_the_time(calls: list[tuple[float, str]]) -> None:
    watch = Watch(Rule(name="r", kind="sequence", sequence=("s/*", "t/c"), within_seconds=20.0))
    now, begun = 0.0, float("-inf")
    for gap, tool in calls:
        now += gap
        met = tool == "t/c" and begun >= now - 20.0
        assert watch.arrive(arrival(now, tool)) is met
        if tool.startswith("s/"):
            begun = now
    # a read of s, whatever lies between, then the send: met


@pytest.mark.rule("interrupt.kinds")
def test_failures_count_before_the_call_and_successes_do_not() -> None:
    watch = Watch(Rule(name="r", kind="failures", count=2, within_seconds=10.0))
    watch.end(Ending(at=0.0, failed=True))
    watch.end(Ending(at=1.0, failed=False))
    assert not watch.arrive(arrival(2.0))
    watch.end(Ending(at=3.0, failed=True))
    assert watch.arrive(arrival(4.0))
    assert not watch.arrive(arrival(11.0))


@pytest.mark.rule("interrupt.kinds")
def test_result_bytes_add_up_within_the_time() -> None:
    watch = Watch(Rule(name="r", kind="result_bytes", count=100, within_seconds=10.0))
    watch.end(Ending(at=0.0, failed=False, result_bytes=60))
    watch.end(Ending(at=5.0, failed=False, result_bytes=50))
    assert watch.arrive(arrival(6.0))
    assert not watch.arrive(arrival(11.0))


@pytest.mark.rule("interrupt.kinds")
def test_the_same_result_again_and_again_is_noticed() -> None:
    watch = Watch(Rule(name="r", kind="repeated_result", count=3))
    for at, digest in ((0.0, b"x"), (1.0, b"y"), (2.0, b"x"), (3.0, b"x")):
        watch.end(Ending(at=at, failed=False, result_digest=digest))
    assert not watch.arrive(arrival(4.0))
    watch.end(Ending(at=5.0, failed=False, result_digest=b"x"))
    assert watch.arrive(arrival(6.0))


def test_a_tool_is_first_seen_once() -> None:
    watch = Watch(Rule(name="r", kind="first_seen_tool"))
    assert [watch.arrive(arrival(0.0, name)) for name in ("s/a", "s/a", "s/b")] == [True, False, True]


@pytest.mark.rule("interrupt.constant")
def test_a_rule_keeps_bounded_state_however_many_calls_pass() -> None:
    kinds: tuple[Kind, ...] = ("identical_calls", "calls", "failures")
    for kind in kinds:
        watch = Watch(Rule(name="r", kind=kind, count=5, within_seconds=1e9))
        for number in range(5000):
            watch.arrive(arrival(float(number), digest=str(number).encode()))
            watch.end(Ending(at=float(number), failed=True))
        assert len(watch.times) <= 5
        assert len(watch.by_digest) <= 1000
