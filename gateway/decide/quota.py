"""Quotas, as pure functions on their use: rates, counts, concurrency, wall-clock and cost budgets.

A *rolling* window is kept in slots of a sixtieth of the window. A slot counts until all of it has left the window, so a
quota is never more permissive than the exact one, and at most a sixtieth of the window stricter. A *calendar* window
begins at midnight (or the first of the month, ...) of its zone and ends with the next.

`take` looks at every quota that matches before it takes from any, so a refusal takes nothing; it runs without an await in
between, inside the counters' atomic section, so N tasks against a limit of K let exactly K through.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal
from zoneinfo import ZoneInfo

from gateway.decide.catalogue import matches
from gateway.model.call import Call, TargetType
from gateway.model.value import Value

SLOTS = 60

SWEEP_SUBJECTS = 4_096
"""Below so many counters none is looked for that could be forgotten."""

MAX_KINDS = 10_000
"""Kinds of calls whose quotas are remembered."""

Per = Literal["agent", "session", "server", "tool", "gateway"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Either `seconds` of a rolling window, or a calendar `unit` in `zone`."""

    seconds: float = 0.0
    unit: Literal["", "hour", "day", "week", "month"] = ""
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.unit}@{self.zone}" if self.unit else f"{self.seconds:g}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A sum of costs within a window."""

    unit: str
    amount: float
    window: Window
    cost: str = ""
    """Path into the result (`result._meta.cost`); a tool's own fixed cost goes before it."""
    reserve: float = 0.0
    """Charged before, and kept where the result names no cost, a negative one, or the call is in doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One `[[quotas]]` table."""

    name: str
    """How refusals and `gateway quotas` call it."""
    match: Mapping[str, str] = field(default_factory=dict)
    """`agent`, `role`, `session`, `server`, `tool`, `risk` to a glob; all must fit."""
    per: Per = "agent"
    limit: int | None = None
    window: Window | None = None
    count: Literal["forwarded", "arrived"] = "forwarded"
    in_flight: int | None = None
    wall_seconds: float | None = None
    budget: Budget | None = None

    id: str = ""
    """Stays the same as long as what is counted is the same, so that use carries over a reload and a restart."""

    def __post_init__(self) -> None:
        conditions = ",".join(f"{key}={value}" for key, value in sorted(self.match.items()))
        object.__setattr__(self, "id", f"{self.name}|{conditions}|{self.per}")


def applies(quota: Quota, call: Call) -> bool:
    """Whether a quota counts this call. Only tool calls have a tool; globs as in `fnmatch`."""
    for key, glob in quota.match.items():
        match key:
            case "agent":
                fits = fnmatchcase(call.principal.id, glob)
            case "role":
                fits = any(fnmatchcase(role, glob) for role in call.principal.roles)
            case "session":
                fits = fnmatchcase(call.session_id, glob)
            case "server":
                fits = fnmatchcase(call.server, glob)
            case "tool":
                fits = call.type is TargetType.TOOL and matches(glob, call.server, call.name)
            case "risk":
                fits = fnmatchcase(str(call.risk), glob)
            case _:
                fits = False
        if not fits:
            return False
    return True


def subject(quota: Quota, call: Call) -> str:
    """Whose use it is: the key of the counter beside the quota's id."""
    match quota.per:
        case "agent":
            return call.principal.id
        case "session":
            return call.session_id
        case "server":
            return call.server
        case "tool":
            return f"{call.server}/{call.name}"
        case "gateway":
            return ""


@dataclass(slots=True)
class Use:
    """What one subject has used of one window. Amounts by the slot they fell into, and their sum."""

    slots: dict[int, float] = field(default_factory=dict)
    total: float = 0.0
    oldest: int = 0
    """No slot is older; while it counts, so does the whole total."""

    def used(self, window: Window, now: float) -> float:
        """The amount that counts now; slots that no longer do are forgotten."""
        first = _first_slot(window, now)
        if first > self.oldest:
            for slot in [slot for slot in self.slots if slot < first]:
                del self.slots[slot]
            self.oldest = min(self.slots, default=first)
            self.total = math.fsum(self.slots.values())
        return self.total

    def add(self, window: Window, at: float, amount: float) -> None:
        """Count an amount at an instant; a negative one gives back."""
        slot = _slot(window, at)
        before = self.slots.get(slot, 0.0)
        after = before + amount
        if after > 0:
            self.slots[slot] = after
            self.total += amount
            self.oldest = min(self.oldest, slot)
        else:
            self.slots.pop(slot, None)
            self.total -= before

    def free_after(self, window: Window, now: float, limit: float, amount: float) -> float | None:
        """Seconds until `amount` fits below `limit`; None where it never does."""
        if amount > limit:
            return None
        if window.unit:
            return _calendar(window, now)[1] - now
        left = self.used(window, now)
        for slot, value in sorted(self.slots.items()):
            left -= value
            if left + amount <= limit:
                return max(0.0, (slot + 1) * window.seconds / SLOTS + window.seconds - now)
        return 0.0


def _slot(window: Window, at: float) -> int:
    if window.unit:
        return int(_calendar(window, at)[0])
    return int(at // (window.seconds / SLOTS))


def _first_slot(window: Window, now: float) -> int:
    """The oldest slot of which a part may still lie in the window."""
    if window.unit:
        return int(_calendar(window, now)[0])
    return int((now - window.seconds) // (window.seconds / SLOTS))


def _calendar(window: Window, at: float) -> tuple[float, float]:
    """Begin and end, in seconds since the epoch, of the calendar window that holds an instant."""
    known = _latest_calendar.get((window.unit, window.zone))
    if known is not None and known[0] <= at < known[1]:
        return known
    found = _latest_calendar[window.unit, window.zone] = _calendar_of(window, at)
    return found


_latest_calendar: dict[tuple[str, str], tuple[float, float]] = {}
"""Of each unit and zone the window that was asked for last: nearly always the present one."""


def _calendar_of(window: Window, at: float) -> tuple[float, float]:
    zone = ZoneInfo(window.zone)
    local = datetime.fromtimestamp(at, zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    match window.unit:
        case "hour":
            begin = math.floor(at / 3600) * 3600.0
            return begin, begin + 3600.0
        case "day":
            begin_at, end_at = midnight, midnight + timedelta(days=1)
        case "week":
            begin_at = midnight - timedelta(days=local.weekday())
            end_at = begin_at + timedelta(days=7)
        case _:
            begin_at = midnight.replace(day=1)
            end_at = (begin_at + timedelta(days=32)).replace(day=1)
    return begin_at.timestamp(), end_at.timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """A quota that has no room for a call: what the refusal says."""

    quota: Quota
    subject: str
    used: float
    limit: float
    unit: str
    retry_after_seconds: float | None

    @property
    def message(self) -> str:
        """Which limit, for whom, how much is used, when to try again."""
        whom = f"{self.quota.per} {self.subject}" if self.subject else "the gateway"
        when = (
            "It does not come back by waiting."
            if self.retry_after_seconds is None
            else f"Try again in {math.ceil(self.retry_after_seconds)} s."
        )
        return (
            f"The quota {self.quota.name!r} of {whom} is used up: {self.used:g} of {self.limit:g} {self.unit}. {when}"
        )


class Taken(Value, frozen=True, kw_only=True):
    """What a call holds of one quota until it settles."""

    quota: Quota
    subject: str
    calls: int = 0
    in_flight: int = 0
    cost: float = 0.0
    at: float = 0.0


def cost_of(quota: Quota, call: Call) -> float:
    """What a call is charged before it runs: the tool's fixed cost, where it has one, else the reserve."""
    assert quota.budget is not None
    if call.entry is not None and call.entry.cost is not None:
        return call.entry.cost
    return quota.budget.reserve


def cost_in(result: Any, path: str) -> float | None:
    """The cost that a result names at `result.a.b`; None where it names none, or one that is no amount."""
    value = result
    for part in path.split(".")[1:]:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


class Ledger:
    """The use of all quotas by all subjects, in memory; one atomic section a method, because none awaits."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], Use] = {}
        self.costs: dict[tuple[str, str], Use] = {}
        self.flying: dict[tuple[str, str], int] = {}
        self._applying: dict[tuple[object, ...], tuple[Sequence[Quota], tuple[_Counter, ...]]] = {}
        self.started: dict[tuple[str, str], float] = {}
        """First call of a subject under a `wall_seconds` quota."""
        self._sweep_at = SWEEP_SUBJECTS
        """At so many subjects those of which nothing counts any more are forgotten."""

    def take(self, quotas: Sequence[Quota], call: Call, now: float) -> Exhausted | tuple[Taken, ...]:
        """Take from every quota that applies, or from none."""
        counters = self._counters(quotas, call)
        if len(self.calls) + len(self.costs) > self._sweep_at:
            self.sweep(quotas, now)
            counters = self._counters(quotas, call)
        for counter in counters:
            if (refusal := self._exhausted(counter, call, now)) is not None:
                return refusal
        return tuple([self._take(counter, call, now) for counter in counters])

    def sweep(self, quotas: Sequence[Quota], now: float) -> None:
        """Forget the subjects of these quotas of whose use nothing lies in the window any more: sessions come and go."""
        for quota in quotas:
            windows = (self.calls, quota.window), (self.costs, quota.budget.window if quota.budget else None)
            for uses, window in windows:
                if window is not None:
                    for key in [key for key, use in uses.items() if key[0] == quota.id and not use.used(window, now)]:
                        del uses[key]
        self._applying.clear()  # it holds the uses that are gone
        self._sweep_at = max(SWEEP_SUBJECTS, 2 * (len(self.calls) + len(self.costs)))

    def forget(self, quotas: Sequence[Quota], session_id: str) -> None:
        """A session has ended: under these quotas its time begins anew, should its name come back."""
        for quota in quotas:
            if quota.per == "session":
                self.started.pop((quota.id, session_id), None)

    def _exhausted(self, counter: "_Counter", call: Call, now: float) -> Exhausted | None:
        """The first of the quota's limits that has no room for the call."""
        quota, key = counter.quota, counter.key
        if counter.calls is not None:
            assert quota.limit is not None
            assert quota.window is not None
            if (used := counter.calls.used(quota.window, now)) + 1 > quota.limit:
                return Exhausted(
                    quota=quota,
                    subject=key[1],
                    used=used,
                    limit=quota.limit,
                    unit=f"calls in {quota.window}",
                    retry_after_seconds=counter.calls.free_after(quota.window, now, quota.limit, 1),
                )
        if quota.in_flight is not None and (flying := self.flying.get(key, 0)) >= quota.in_flight:
            return Exhausted(
                quota=quota,
                subject=key[1],
                used=flying,
                limit=quota.in_flight,
                unit="calls at once",
                retry_after_seconds=1.0,
            )
        if quota.wall_seconds is not None:
            elapsed = now - self.started.get(key, now)
            if elapsed >= quota.wall_seconds:
                return Exhausted(
                    quota=quota,
                    subject=key[1],
                    used=elapsed,
                    limit=quota.wall_seconds,
                    unit="seconds",
                    retry_after_seconds=None,
                )
        if counter.costs is not None:
            assert quota.budget is not None
            budget, wanted = quota.budget, cost_of(quota, call)
            spent = counter.costs.used(budget.window, now)
            if spent + wanted > budget.amount + 1e-9 or spent >= budget.amount:
                return Exhausted(
                    quota=quota,
                    subject=key[1],
                    used=spent,
                    limit=budget.amount,
                    unit=f"{budget.unit} in {budget.window}",
                    retry_after_seconds=counter.costs.free_after(budget.window, now, budget.amount, max(wanted, 1e-12)),
                )
        return None

    def _counters(self, quotas: Sequence[Quota], call: Call) -> "tuple[_Counter, ...]":
        """What the quotas (one at least) that apply count the call on; globs are matched once for each kind of call."""
        principal = call.principal
        kind = (
            quotas[0].count,
            principal.id,
            principal.roles,
            call.server,
            call.name,
            call.type,
            call.risk,
            call.session_id,
        )
        known = self._applying.get(kind)
        if known is None or known[0] is not quotas:
            if len(self._applying) >= MAX_KINDS:
                self._applying.clear()
            counters = tuple(self._counter(quota, call) for quota in quotas if applies(quota, call))
            known = self._applying[kind] = (quotas, counters)
        return known[1]

    def _counter(self, quota: Quota, call: Call) -> "_Counter":
        key = (quota.id, subject(quota, call))
        counts = quota.limit is not None and quota.window is not None
        return _Counter(
            quota=quota,
            key=key,
            calls=_of(self.calls, key) if counts else None,
            costs=_of(self.costs, key) if quota.budget is not None else None,
        )

    def _take(self, counter: "_Counter", call: Call, now: float) -> Taken:
        quota, key = counter.quota, counter.key
        calls = flying = 0
        cost = 0.0
        if counter.calls is not None:
            assert quota.window is not None
            counter.calls.add(quota.window, now, 1)
            calls = 1
        if quota.in_flight is not None:
            self.flying[key] = self.flying.get(key, 0) + 1
            flying = 1
        if quota.wall_seconds is not None:
            self.started.setdefault(key, now)
        if counter.costs is not None:
            assert quota.budget is not None
            cost = cost_of(quota, call)
            counter.costs.add(quota.budget.window, now, cost)
        return Taken(quota=quota, subject=key[1], calls=calls, in_flight=flying, cost=cost, at=now)

    def settle(self, taken: Taken, *, executed: bool, cost: float | None) -> float:
        """Give back what a call did not use; the cost that stays charged.

        Args:
            executed: the call ran, or may have: its count stays.
            cost: what the result names; None keeps the reserve.
        """
        key = (taken.quota.id, taken.subject)
        if taken.in_flight:
            left = self.flying[key] - 1
            if left:
                self.flying[key] = left
            else:
                del self.flying[key]
        if taken.calls and not executed and taken.quota.window is not None:
            _of(self.calls, key).add(taken.quota.window, taken.at, -1)
        budget = taken.quota.budget
        if budget is None:
            return 0.0
        final = 0.0 if not executed else taken.cost if cost is None else cost
        if final != taken.cost:
            _of(self.costs, key).add(budget.window, taken.at, final - taken.cost)
        return final


class _Counter(Value, frozen=True, kw_only=True):
    """What one quota counts the calls of one subject on."""

    quota: Quota
    key: tuple[str, str]
    """The quota's id, and the subject."""
    calls: Use | None
    costs: Use | None


def _of(uses: dict[tuple[str, str], Use], key: tuple[str, str]) -> Use:
    """A subject's use, made when it is first asked for."""
    use = uses.get(key)
    if use is None:
        use = uses[key] = Use()
    return use
