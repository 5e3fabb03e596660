"""What a stop meets: a client does not escape it with a new session, and its neighbours are left alone."""

import pytest

from gateway.decide.pause import MAX_SESSIONS, Stop, Stops, client_key
from gateway.model.call import Call, Client
from tests.building import call, tool

TOOL = tool()


def of(session: str, client: str = "editor") -> Call:
    return call(TOOL, session_id=session, client=Client(name=client))


def paused(session: str, *, until: float | None = None, killed: bool = False) -> Stop:
    client = client_key(of(session).principal.id, "editor")
    return Stop(subject="session", name=session, until=until, killed=killed, client=client)


@pytest.mark.rule("interrupt.neighbours")
def test_a_stopped_session_stops_new_ones_of_its_client_and_not_those_that_were_there() -> None:
    stops = Stops()
    for session in ("one", "two"):
        assert stops.stopping(of(session), 0.0) is None
    stops.put(paused("one"))
    assert stops.stopping(of("one"), 1.0) is not None
    assert stops.stopping(of("two"), 1.0) is None
    assert stops.stopping(of("three"), 1.0) is not None
    assert stops.stopping(of("three"), 2.0) is not None, "to be refused makes it no session that was there"
    assert stops.stopping(of("three", client="another"), 2.0) is None
    stops.forget("two")
    assert stops.stopping(of("two"), 3.0) is not None, "its name alone does not make it the same session"


@pytest.mark.rule("interrupt.neighbours", "interrupt.not-escaped")
def test_of_two_stopped_sessions_of_a_client_each_is_resumed_alone() -> None:
    stops = Stops()
    for session in ("one", "two"):
        assert stops.stopping(of(session), 0.0) is None
    stops.put(paused("one"))
    stops.put(paused("two", killed=True))
    assert stops.resume("session", "two") is not None
    assert stops.stopping(of("two"), 1.0) is None
    assert stops.stopping(of("one"), 1.0) is not None
    assert stops.stopping(of("three"), 1.0) is not None, "the first is paused still"
    assert stops.resume("session", "one") is not None
    assert stops.stopping(of("three"), 1.0) is None


@pytest.mark.rule("interrupt.neighbours")
def test_a_stop_whose_time_has_passed_stops_nobody() -> None:
    stops = Stops()
    stops.put(paused("one", until=10.0))
    assert stops.stopping(of("two"), 9.0) is not None
    assert stops.stopping(of("two"), 10.0) is None
    assert list(stops) == []


@pytest.mark.rule("interrupt.neighbours")
def test_a_session_that_is_forgotten_counts_as_new() -> None:
    stops = Stops()
    for number in range(MAX_SESSIONS + 1):
        assert stops.stopping(of(f"s{number}"), 0.0) is None
    stops.put(paused("elsewhere"))
    assert stops.stopping(of("s0"), 1.0) is not None
    assert stops.stopping(of(f"s{MAX_SESSIONS}"), 1.0) is None
