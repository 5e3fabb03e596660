"""The breaker's table, and a state machine of concurrent, late and cancelled calls."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.decide.breaker import Breaker, Permit, Rejection, Rules, Signal, State, admit, reset, settle, trip

RULES = Rules(failures=3, window_seconds=10.0, cool_down_seconds=5.0)


def permit(breaker: Breaker, now: float) -> tuple[Breaker, Permit]:
    after, admitted = admit(breaker, RULES, now)
    assert isinstance(admitted, Permit)
    return after, admitted


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(RULES.failures):
        breaker, held = permit(breaker, now)
        breaker = settle(breaker, RULES, held, "failure", now)
    assert breaker.state is State.OPEN
    return breaker


@pytest.mark.rule("breaker.states")
def test_failures_within_the_window_open_it_and_older_ones_do_not_count() -> None:
    breaker = Breaker()
    for now in (0.0, 11.0, 12.0):
        breaker, held = permit(breaker, now)
        breaker = settle(breaker, RULES, held, "failure", now)
    assert breaker.state is State.CLOSED
    breaker, held = permit(breaker, 13.0)
    assert settle(breaker, RULES, held, "failure", 13.0).state is State.OPEN


@pytest.mark.rule("breaker.states")
def test_an_open_breaker_refuses_and_says_when_to_try_again() -> None:
    _, rejection = admit(opened(), RULES, 2.0)
    assert isinstance(rejection, Rejection)
    assert rejection.retry_after_seconds == pytest.approx(3.0)


@pytest.mark.rule("breaker.one-probe")
@pytest.mark.parametrize(
    ("signal", "state", "next_admitted"),
    [("success", State.CLOSED, True), ("failure", State.OPEN, False), ("neutral", State.HALF_OPEN, True)],
)
def test_half_open_lets_one_probe_through_and_goes_by_its_outcome(
    signal: Signal, state: State, next_admitted: bool
) -> None:
    breaker, probe = permit(opened(), 6.0)
    assert probe.probe
    for _ in range(50):
        breaker, other = admit(breaker, RULES, 6.0)
        assert isinstance(other, Rejection)
    breaker = settle(breaker, RULES, probe, signal, 6.5)
    assert breaker.state is state
    assert isinstance(admit(breaker, RULES, 7.0)[1], Permit) is next_admitted


@pytest.mark.rule("breaker.late-answers")
def test_an_answer_from_before_the_change_of_state_changes_nothing() -> None:
    breaker, late = permit(Breaker(), 0.0)
    for _ in range(RULES.failures):
        breaker, held = permit(breaker, 0.0)
        breaker = settle(breaker, RULES, held, "failure", 0.0)
    breaker, probe = permit(breaker, 6.0)
    for signal in ("success", "failure", "neutral"):
        assert settle(breaker, RULES, late, signal, 6.1) == breaker
    assert settle(breaker, RULES, probe, "success", 6.2).state is State.CLOSED


def test_an_operator_trips_it_for_good_and_resets_it() -> None:
    breaker = trip(Breaker(), 0.0)
    _, rejection = admit(breaker, RULES, 1e9)
    assert isinstance(rejection, Rejection)
    assert rejection.retry_after_seconds is None
    assert isinstance(admit(reset(breaker), RULES, 1e9)[1], Permit)


class Traffic(RuleBasedStateMachine):
    """Calls that overlap in every order, with time passing between."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now = Breaker(), 0.0
        self.held: list[Permit] = []

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_arrives(self) -> None:
        self.breaker, admitted = admit(self.breaker, RULES, self.now)
        if isinstance(admitted, Permit):
            self.held.append(admitted)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), signal=st.sampled_from(["success", "failure", "neutral"]))
    def a_call_settles(self, data: st.DataObject, signal: Signal) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.breaker = settle(self.breaker, RULES, held, signal, self.now)

    @rule()
    def an_operator_resets_it(self) -> None:
        self.breaker = reset(self.breaker)

    @invariant()
    def at_most_one_probe_of_the_present_half_open_state_is_out(self) -> None:
        probes = [held for held in self.held if held.probe and held.generation == self.breaker.generation]
        assert len(probes) == (1 if self.breaker.probing else 0)

    @invariant()
    def no_call_of_the_present_open_state_is_out(self) -> None:
        if self.breaker.state is State.OPEN:
            assert not [held for held in self.held if held.generation == self.breaker.generation]

    @invariant()
    def it_remembers_no_more_failures_than_it_needs(self) -> None:
        assert len(self.breaker.failed_at) < RULES.failures


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
