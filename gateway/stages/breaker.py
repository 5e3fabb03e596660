"""Stage 8: is the tool server, and this tool of it, healthy. The state machine is `decide/breaker.py`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

import orjson

from gateway.decide.breaker import Breaker, Permit, Rejection, Rules, Signal, State, admit, reset, settle, trip
from gateway.model.call import Call, TargetType
from gateway.model.events import StateChanged
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Completed, Failed, Held, Outcome, Refuse, Refused, Verdict
from gateway.ports import Clock, Events, Settlement

SERVER_FAILURES = frozenset({Code.SERVER_UNAVAILABLE, Code.SERVER_TIMEOUT, Code.SERVER_LOST})

CLIENT_ERRORS = frozenset({-32700, -32600, -32601, -32602, -32002, -32042, -32020, -32021, -32022})
"""JSON-RPC errors that say something of the request; any other says that the server failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """One breaker, as operators see it."""

    subject: str
    """`server` or `server/tool`."""
    state: State
    failures: int
    tripped: bool
    retry_after_seconds: float | None


class CircuitBreaker:
    """One breaker a tool server and one a tool.

    Args:
        rules: the rules for a call's server and tool, as configured now.
    """

    name = "breaker"

    def __init__(self, rules: Callable[[Call], Rules], clock: Clock, events: Events) -> None:
        self._rules, self._clock, self._events = rules, clock, events
        self._breakers: dict[str, Breaker] = {}
        self._latest: dict[str, Rules] = {}
        self._held: dict[str, list[tuple[str, Permit]]] = {}

    async def admit(self, call: Call) -> Verdict:
        rules, now = self._rules(call), self._now()
        held: list[tuple[str, Permit]] = []
        for subject in _subjects(call):
            self._latest[subject] = rules
            before = self._breakers.get(subject, CLOSED)
            after, admitted = admit(before, rules, now)
            self._keep(subject, before, after)
            if isinstance(admitted, Rejection):
                for other, permit in held:  # the server's probe is not used up by a tool that is open
                    self._settle(other, permit, "neutral", rules)
                when = (
                    ""
                    if admitted.retry_after_seconds is None
                    else f" Try again in {admitted.retry_after_seconds:.0f} s, or"
                )
                return Refuse(
                    code=Code.BREAKER_OPEN,
                    message=(
                        f"{subject} is not called at the moment: {admitted.reason}. Nothing was run."
                        f"{when or ' You can'} use another tool, or tell the user."
                    ),
                    retry_after_seconds=admitted.retry_after_seconds,
                    rule=subject,
                )
            held.append((subject, admitted))
        self._held[call.id] = held
        return PROCEED

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        signal, rules = _signal(outcome), self._rules(call)
        for subject, permit in self._held.pop(call.id, ()):
            self._settle(subject, permit, signal, rules)
        return None

    # --- operators ---

    def states(self) -> Iterator[BreakerState]:
        """Every breaker that was ever used, by subject."""
        now = self._now()
        for subject, breaker in sorted(self._breakers.items()):
            rules = self._latest.get(subject, Rules())
            left = None
            if breaker.state is State.OPEN and not breaker.tripped:
                left = max(0.0, breaker.opened_at + rules.cool_down_seconds - now)
            yield BreakerState(
                subject=subject,
                state=breaker.state,
                failures=len(breaker.failed_at),
                tripped=breaker.tripped,
                retry_after_seconds=left,
            )

    def trip(self, subject: str) -> None:
        """Open it until it is reset."""
        before = self._breakers.get(subject, CLOSED)
        self._keep(subject, before, trip(before, self._now()))

    def reset(self, subject: str) -> bool:
        """Close it; False where there is no such breaker."""
        if (before := self._breakers.get(subject)) is None:
            return False
        self._keep(subject, before, reset(before))
        return True

    def _settle(self, subject: str, permit: Permit, signal: Signal, rules: Rules) -> None:
        before = self._breakers.get(subject, CLOSED)
        if before.state is State.CLOSED and signal != "failure":
            return  # the common case changes nothing
        self._keep(subject, before, settle(before, rules, permit, signal, self._now()))

    def _keep(self, subject: str, before: Breaker, after: Breaker) -> None:
        if after is before:
            return
        self._breakers[subject] = after
        if after.state is not before.state:
            self._events.publish(
                StateChanged(
                    at=self._clock.time_ns() / 1e9,
                    kind="breaker",
                    subject=subject,
                    state=str(after.state),
                    facts={"before": str(before.state), "tripped": after.tripped},
                )
            )

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


CLOSED = Breaker()


def _subjects(call: Call) -> tuple[str, ...]:
    if call.type is TargetType.TOOL:
        return call.server, f"{call.server}/{call.name}"
    return (call.server,)


def _signal(outcome: Outcome) -> Signal:
    """What an outcome says of its server: an answer is a success, even a tool's own error."""
    match outcome:
        case Completed(error=None):
            return "success"
        case Completed():
            return "success" if _code(outcome.error or b"") in CLIENT_ERRORS else "failure"
        case Failed():
            return "failure" if outcome.code in SERVER_FAILURES else "neutral"
        case Refused():
            # withheld by a later stage's settlement: the server did answer
            return "success" if outcome.executed == "yes" else "neutral"
        case Held():
            return "neutral"
        case _:
            assert_never(outcome)


def _code(error: bytes) -> int | None:
    try:
        code = orjson.loads(error).get("code")
    except (ValueError, AttributeError):
        return None
    return code if isinstance(code, int) else None
