"""Stage 5: has this very call been made already, under its idempotency key.

| what is known of (principal, key)          | a call with the same arguments | with other arguments    |
|--------------------------------------------|--------------------------------|-------------------------|
| nothing                                    | goes on, takes the key         | –                       |
| unfinished                                 | joins: gets the same outcome   | `idempotency.conflict`  |
| completed (a tool's own error included)    | gets what is kept              | `idempotency.conflict`  |
| in doubt                                   | gets that, until an operator resolves it | `idempotency.conflict` |
| refused, held, failed without an effect, in need of input | nothing is known: the key is free | goes on, takes the key |

A failure has no effect where nothing was sent, and where the call is idempotent: to make it again does no harm.

A joiner that is cancelled leaves the call alone. Keys are durable: taken in the transaction of the call's begin, settled in
the transaction of its end; after a crash between the two the key is in doubt.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

import anyio

from gateway.decide.hold import lookup_of
from gateway.model.call import Call, Risk, TargetType
from gateway.model.refusal import Code
from gateway.model.value import replace
from gateway.model.verdict import (
    PROCEED,
    Answer,
    Completed,
    Failed,
    Held,
    Outcome,
    Proceed,
    Refuse,
    Refused,
    Verdict,
    needs_input,
)
from gateway.ports import FOREVER, UNNAMED, Clock, Keys, Settlement


@dataclass(slots=True)
class _Flight:
    """A call that is on its way under a key."""

    digest: str
    call_id: str
    ended: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome | None = None


class Deduplicate:
    """Joins, answers, or lets through.

    Args:
        ttl_seconds: how long an outcome is kept.
        suppress_seconds: write calls without a key that are identical within this time are one; 0 is off.
    """

    name = "deduplicate"

    def __init__(
        self, keys: Keys, *, ttl_seconds: Callable[[], float], suppress_seconds: Callable[[], float], clock: Clock
    ) -> None:
        self._keys, self._ttl, self._suppress, self._clock = keys, ttl_seconds, suppress_seconds, clock
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._held: dict[str, tuple[tuple[str, str], float]] = {}

    async def admit(self, call: Call) -> Verdict:
        key, ttl = call.idempotency_key, self._ttl()
        if key is None:
            ttl = self._suppress()
            if ttl <= 0 or call.risk is Risk.READ or call.type is not TargetType.TOOL:
                return PROCEED
        digest = lookup_of(call)
        name = (call.principal.id, key if key is not None else UNNAMED + digest)
        if (flight := self._flights.get(name)) is not None:
            if flight.digest != digest:
                return conflict(flight.call_id)
            await flight.ended.wait()
            assert flight.outcome is not None
            return Answer(outcome=shared(flight.outcome), facts={"joined": flight.call_id})
        if (kept := self._keys.kept(*name)) is not None:
            if kept.digest != digest:
                return conflict(kept.call_id)
            if (outcome := kept.outcome or await self._keys.outcome(*name)) is None:
                return await self.admit(call)  # it ended in this moment
            return Answer(outcome=shared(outcome), facts={"kept_from": kept.call_id})
        self._flights[name] = _Flight(digest, call.id)
        until = self._clock.time_ns() / 1e9 + ttl
        self._held[call.id] = name, until
        write = self._keys.taken(principal=name[0], key=name[1], digest=digest, call_id=call.id, until=until)
        return Proceed(writes=(write,))

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        if (held := self._held.pop(call.id, None)) is None:
            return None
        name, until = held
        flight = self._flights.pop(name)
        flight.outcome = outcome
        flight.ended.set()
        write = self._keys.settled(
            principal=name[0],
            key=name[1],
            digest=flight.digest,
            call_id=call.id,
            until=FOREVER if isinstance(outcome, Failed) and call.idempotency_key is not None else until,
            outcome=outcome if keeps(outcome) else None,
        )
        return Settlement(writes=(write,))


def keeps(outcome: Outcome) -> bool:
    """Whether an outcome stays under its key: what ran, and what may have run."""
    match outcome:
        case Completed():
            return not needs_input(outcome)
        case Failed():
            return outcome.in_doubt
        case Refused():
            return outcome.executed != "no"
        case Held():
            return False
        case _:
            assert_never(outcome)


def shared(outcome: Outcome) -> Outcome:
    """An outcome as a second call gets it."""
    return replace(outcome, source="idempotency") if isinstance(outcome, Completed) else outcome


def conflict(call_id: str) -> Refuse:
    """The key was used for something else."""
    return Refuse(
        code=Code.IDEMPOTENCY_CONFLICT,
        message="This idempotency key was used before with another tool or other arguments. Nothing was run. Use a new key for a new call.",
        facts={"used_by": call_id},
    )
