"""Stage 7: rates, counts, concurrency and budgets. Reserved before, committed or given back after."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import orjson

from gateway.decide.quota import Exhausted, Ledger, Quota, Taken, cost_in
from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Completed, Failed, Held, Outcome, Proceed, Refuse, Refused, Verdict, Write
from gateway.ports import Clock, Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """One counter, as `gateway quotas` shows it."""

    quota: str
    per: str
    subject: str
    measure: str
    used: float
    limit: float


class Quotas:
    """Counts what is forwarded. Counts of what merely arrived are `Arrivals`', which share the ledger.

    Args:
        quotas: those that apply now; replaced by a reload, use carries over by the quotas' ids.
        ledger: the use, shared by all stages of this process; the journal keeps the reservations that must survive.
    """

    name = "quota"

    def __init__(self, quotas: Callable[[], Sequence[Quota]], ledger: Ledger, clock: Clock) -> None:
        self._quotas, self._ledger, self._clock = quotas, ledger, clock
        self._held: dict[str, tuple[Taken, ...]] = {}
        self._picked: tuple[Sequence[Quota], tuple[Quota, ...]] = ((), ())

    async def admit(self, call: Call) -> Verdict:
        quotas = self._forwarded()
        if not quotas:
            return PROCEED
        taken = self._ledger.take(quotas, call, self._clock.time_ns() / 1e9)
        if isinstance(taken, Exhausted):
            return refused(taken)
        if not taken:
            return PROCEED
        self._held[call.id] = taken
        rows = [_written(held, held.cost, held.calls) for held in taken if durable(held)]
        return Proceed(writes=(Write(kind="quota.reserved", data={"rows": rows}),)) if rows else PROCEED

    def _forwarded(self) -> tuple[Quota, ...]:
        """The quotas that count what is forwarded; picked once a configuration."""
        every = self._quotas()
        if every is not self._picked[0]:
            self._picked = every, tuple(quota for quota in every if quota.count == "forwarded")
        return self._picked[1]

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        held = self._held.pop(call.id, ())
        if not held:
            return None
        ran = may_have_run(outcome)
        rows: list[tuple[str, str, float, int, float]] = []
        changed = False
        for taken in held:
            cost = None
            budget = taken.quota.budget
            if (
                budget is not None
                and not _fixed(call)
                and isinstance(outcome, Completed)
                and outcome.result is not None
            ):
                cost = cost_in(orjson.loads(outcome.received or outcome.result), budget.cost)
            final = self._ledger.settle(taken, executed=ran, cost=cost)
            if durable(taken):
                changed = changed or not ran or final != taken.cost
                rows.append(_written(taken, final, taken.calls if ran else 0))
        return Settlement(writes=(Write(kind="quota.settled", data={"rows": rows}),)) if changed else None

    def use(self) -> Iterator[QuotaUse]:
        """Every counter that has been used, against its limit."""
        now = self._clock.time_ns() / 1e9
        for quota in self._quotas():
            yield from use_of(self._ledger, quota, now)


def use_of(ledger: Ledger, quota: Quota, now: float) -> Iterator[QuotaUse]:
    """The use of one quota, by subject."""

    def line(subject: str, measure: str, used: float, limit: float) -> QuotaUse:
        return QuotaUse(quota=quota.name, per=quota.per, subject=subject, measure=measure, used=used, limit=limit)

    for (identifier, subject), use in ledger.calls.items():
        if identifier == quota.id and quota.limit is not None and quota.window is not None:
            yield line(subject, f"calls in {quota.window}", use.used(quota.window, now), quota.limit)
    for (identifier, subject), flying in ledger.flying.items():
        if identifier == quota.id and quota.in_flight is not None:
            yield line(subject, "calls at once", flying, quota.in_flight)
    for (identifier, subject), started in ledger.started.items():
        if identifier == quota.id and quota.wall_seconds is not None:
            yield line(subject, "seconds", now - started, quota.wall_seconds)
    for (identifier, subject), costs in ledger.costs.items():
        if identifier == quota.id and quota.budget is not None:
            yield line(
                subject,
                f"{quota.budget.unit} in {quota.budget.window}",
                costs.used(quota.budget.window, now),
                quota.budget.amount,
            )


def refused(exhausted: Exhausted) -> Refuse:
    """The refusal of a quota without room."""
    return Refuse(
        code=Code.QUOTA_EXHAUSTED,
        message=f"{exhausted.message} Nothing was run.",
        retry_after_seconds=exhausted.retry_after_seconds,
        rule=exhausted.quota.name,
        facts={
            "quota": exhausted.quota.name,
            "subject": exhausted.subject,
            "used": exhausted.used,
            "limit": exhausted.limit,
        },
    )


def durable(taken: Taken) -> bool:
    """Counts and budgets survive a restart; concurrency ends with the process."""
    return bool(taken.calls) or taken.quota.budget is not None


def may_have_run(outcome: Outcome) -> bool:
    """Whether a call counts as used: it ran, or nobody knows."""
    match outcome:
        case Completed():
            return True
        case Failed():
            return outcome.in_doubt or outcome.sent
        case Refused():
            return outcome.executed != "no"
        case Held():
            return False
        case _:
            assert_never(outcome)


def _fixed(call: Call) -> bool:
    """Whether the tool has a cost of its own, whatever its results say."""
    return call.entry is not None and call.entry.cost is not None


def _written(taken: Taken, cost: float, calls: int) -> tuple[str, str, float, int, float]:
    """One line of a call's use: quota, subject, instant, calls, cost."""
    return taken.quota.id, taken.subject, taken.at, calls, cost
