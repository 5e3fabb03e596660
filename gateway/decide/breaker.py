"""The circuit breaker, as a pure state machine: closed, open, half-open with exactly one probe at a time.

| state     | event                                   | next      |
|-----------|-----------------------------------------|-----------|
| closed    | the nth failure within the window       | open      |
| closed    | success, neutral                        | closed    |
| open      | a call before the cool-down is over     | open (refused) |
| open      | a call after the cool-down              | half-open, this call is the probe |
| half-open | another call while the probe runs       | half-open (refused) |
| half-open | the probe succeeds                      | closed    |
| half-open | the probe fails                         | open, cool-down anew |
| half-open | the probe is neutral (cancelled, refused) | half-open, the next call is the probe |
| any       | an operator trips it                    | open until an operator resets it |
| any       | an operator resets it                   | closed    |

What a late answer says about a time that is over is not counted: every admission carries the breaker's generation, which
changes with every change of state, and a settlement of another generation changes nothing.

Libraries' half-open states let every waiting caller through at once (measured); this one hands out one permit.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from gateway.model.value import Value


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


Signal = Literal["success", "failure", "neutral"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`[defaults] breaker`."""

    failures: int = 5
    window_seconds: float = 30.0
    cool_down_seconds: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The whole state of one breaker. Times are seconds on one monotonic clock."""

    state: State = State.CLOSED
    generation: int = 0
    failed_at: tuple[float, ...] = ()
    """The failures within the window, oldest first, while closed."""
    opened_at: float = 0.0
    probing: bool = False
    """A probe is on its way, while half-open."""
    tripped: bool = False
    """An operator opened it; time does not close it."""


class Permit(Value, frozen=True, kw_only=True):
    """What an admitted call holds until it settles."""

    generation: int
    probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a call is not let through, and when to try again (None: when an operator resets the breaker)."""

    retry_after_seconds: float | None
    reason: str = field(default="")


def admit(breaker: Breaker, rules: Rules, now: float) -> tuple[Breaker, Permit | Rejection]:
    """Let a call through or not."""
    match breaker.state:
        case State.CLOSED:
            return breaker, Permit(generation=breaker.generation)
        case State.OPEN:
            if breaker.tripped:
                return breaker, Rejection(retry_after_seconds=None, reason="an operator opened it")
            left = breaker.opened_at + rules.cool_down_seconds - now
            if left > 0:
                return breaker, Rejection(
                    retry_after_seconds=left, reason=f"{rules.failures} failures in a row of calls"
                )
            probing = replace(_changed(breaker, State.HALF_OPEN), probing=True)
            return probing, Permit(generation=probing.generation, probe=True)
        case State.HALF_OPEN:
            if breaker.probing:
                return breaker, Rejection(retry_after_seconds=1.0, reason="one call is trying whether it has recovered")
            return replace(breaker, probing=True), Permit(generation=breaker.generation, probe=True)


def settle(breaker: Breaker, rules: Rules, permit: Permit, signal: Signal, now: float) -> Breaker:
    """Take in what became of an admitted call."""
    if permit.generation != breaker.generation:
        return breaker
    match breaker.state:
        case State.CLOSED:
            if signal != "failure":
                return breaker
            recent = tuple(at for at in breaker.failed_at if at > now - rules.window_seconds)[-rules.failures :]
            failed = (*recent, now)
            if len(failed) >= rules.failures:
                return replace(_changed(breaker, State.OPEN), opened_at=now)
            return replace(breaker, failed_at=failed)
        case State.HALF_OPEN:
            match signal:
                case "success":
                    return _changed(breaker, State.CLOSED)
                case "failure":
                    return replace(_changed(breaker, State.OPEN), opened_at=now)
                case "neutral":
                    return replace(breaker, probing=False)
        case State.OPEN:
            return breaker


def trip(breaker: Breaker, now: float) -> Breaker:
    """An operator opens it, until `reset`."""
    return replace(_changed(breaker, State.OPEN), opened_at=now, tripped=True)


def reset(breaker: Breaker) -> Breaker:
    """An operator closes it."""
    return _changed(breaker, State.CLOSED)


def _changed(breaker: Breaker, state: State) -> Breaker:
    return Breaker(state=state, generation=breaker.generation + 1)
