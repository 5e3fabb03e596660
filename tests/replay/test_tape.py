"""Which recorded call answers a request: strict order is the recorded order and no more; nothing that is erased is compared."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.playback import Missing, RecordedCall, Tape, differences
from gateway.model.verdict import Completed


def recorded(number: int, arguments: Any = None, *, tool: str = "t", **changes: Any) -> RecordedCall:
    """Call `number`, which begins and ends after the one before."""
    values: dict[str, Any] = {
        "id": f"call-{number}",
        "number": number,
        "method": "tools/call",
        "target": tool,
        "params": {"name": tool, "arguments": {} if arguments is None else arguments},
        "tool": tool,
        "server": "s",
        "received_at": float(number),
        "ended_at": number + 0.5,
        "outcome": Completed(result=b"{}"),
    }
    return RecordedCall(**{**values, **changes})


def asked(arguments: Any = None, tool: str = "t") -> dict[str, Any]:
    return {"name": tool, "arguments": {} if arguments is None else arguments}


def taken(tape: Tape, arguments: Any = None, tool: str = "t") -> int | str:
    """The number of the call that answers, or why none does."""
    found = tape.take("tools/call", asked(arguments, tool))
    return found.message if isinstance(found, Missing) else found.number


@pytest.mark.rule("replay.strict-order")
def test_in_strict_order_a_later_call_does_not_answer() -> None:
    tape = Tape([recorded(1, {"a": 1}), recorded(2, {"a": 2})])
    said = taken(tape, {"a": 2})
    assert isinstance(said, str)
    assert "recorded as call 2 of 2, which is not next" in said
    assert "Next in the recording is call 1" in said
    assert [taken(tape, {"a": 1}), taken(tape, {"a": 2})] == [1, 2]
    assert "was played once" in str(taken(tape, {"a": 2}))


@pytest.mark.rule("replay.strict-order")
def test_what_was_done_at_once_may_come_in_any_order() -> None:
    calls = [recorded(1, {"a": 1}, ended_at=9.0), recorded(2, {"a": 2}, ended_at=8.0), recorded(10, {"a": 3})]
    tape = Tape(calls)
    assert taken(tape, {"a": 2}) == 2
    assert isinstance(taken(tape, {"a": 3}), str)
    assert [taken(tape, {"a": 1}), taken(tape, {"a": 3})] == [1, 10]


@pytest.mark.rule("replay.loose")
def test_loose_takes_any_recorded_call_once() -> None:
    tape = Tape([recorded(1, {"a": 1}), recorded(2, {"a": 2}), recorded(3, {"a": 1})], loose=True)
    assert [taken(tape, {"a": 2}), taken(tape, {"a": 1}), taken(tape, {"a": 1})] == [2, 1, 3]
    assert "recorded 2 times, and was played 2 times" in str(taken(tape, {"a": 1}))


@pytest.mark.rule("replay.missing")
def test_the_nearest_recorded_call_is_named_with_what_differs() -> None:
    tape = Tape([recorded(1, {"path": "/a", "limit": 5}), recorded(2, {"x": 1}, tool="u")])
    said = str(taken(tape, {"path": "/a", "limit": 9}))
    assert "the nearest is call 1 of 2" in said
    assert "arguments.limit is 5 there and 9 here" in said
    assert "/a" not in said
    assert "holds no call of tools/call v" in str(taken(tape, {}, tool="v"))


@pytest.mark.rule("replay.erased-arguments")
def test_what_was_erased_is_not_compared_and_nothing_else_is_forgiven() -> None:
    call = recorded(1, {"user": "ada", "password": "***"}, unknown=("arguments.password",))
    assert taken(Tape([call]), {"user": "ada", "password": "correct horse"}) == 1
    said = str(taken(Tape([call]), {"user": "eve", "password": "correct horse"}))
    assert "***" not in said
    whole = recorded(1, {}, unknown=("arguments",))
    assert taken(Tape([whole]), {"any": "thing"}) == 1
    assert isinstance(taken(Tape([whole], loose=True), {"any": "thing"}), str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.rule("replay.strict-order")
@given(st.lists(st.tuples(st.sampled_from("tuv"), st.dictionaries(st.text(max_size=5), JSON, max_size=3)), max_size=12))
def test_every_session_plays_again_in_its_own_order(session: list[tuple[str, dict[str, Any]]]) -> None:
    tape = Tape([recorded(number, arguments, tool=tool) for number, (tool, arguments) in enumerate(session, 1)])
    for number, (tool, arguments) in enumerate(session, 1):
        assert taken(tape, dict(reversed(arguments.items())), tool=tool) == number
    assert tape.left == 0


@given(JSON, JSON)
def test_values_differ_exactly_where_their_json_does(left: Any, right: Any) -> None:
    assert differences(left, left) == []
    if type(left) is not type(right):
        assert differences(left, right)
