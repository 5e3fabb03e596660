"""Calls, begins and ends for tests of the journal; a clock that a test can set."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.control import new_id
from gateway.model.call import Call, Risk
from gateway.model.verdict import Completed, Outcome, Step, Write
from gateway.ports import Attempt, Begin, End
from tests import building

AT = 1_795_205_460.0

STEPS = (
    Step(stage="resolve", verdict="proceed", elapsed_us=4),
    Step(stage="validate", verdict="proceed", elapsed_us=9),
)


class TestClock:
    """A clock that moves a millisecond whenever it is read."""

    __test__ = False

    def __init__(self) -> None:
        self._ticks = itertools.count(1)

    def time_ns(self) -> int:
        return int(AT * 1e9) + next(self._ticks) * 1_000_000

    def monotonic_ns(self) -> int:
        return next(self._ticks) * 1_000_000


def a_call(risk: Risk = Risk.READ, arguments: Mapping[str, Any] | None = None, **changes: Any) -> Call:
    """A resolved call of `fixture/echo` with its own id."""
    sent = {"text": "hello"} if arguments is None else arguments
    values: dict[str, Any] = {"id": new_id(), "params": {"name": "fixture__echo", "arguments": sent}}
    values["logical_id"] = values["id"]
    return building.call(building.tool(risk=risk), sent, **{**values, **changes})


def begin(call: Call, writes: tuple[Write, ...] = (), steps: Sequence[Step] = STEPS) -> Begin:
    return Begin(call=call, steps=steps, at=AT + 1, writes=writes)


def end(call: Call, outcome: Outcome | None = None, *, began: bool = True, **changes: Any) -> End:
    values: dict[str, Any] = {
        "call": call,
        "steps": STEPS,
        "outcome": outcome or Completed(result=b'{"content":[{"type":"text","text":"hello"}]}'),
        "attempt": Attempt(sent=True) if began else None,
        "began": began,
        "at": AT + 2,
        "elapsed_us": 1234,
    }
    return End(**{**values, **changes})
