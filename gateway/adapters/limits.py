"""Quota use and stops, durable: written with the calls they belong to, read back at start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import orjson

from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.decide.pause import Stop, Stops
from gateway.decide.quota import Ledger, Quota, Use, Window
from gateway.model.call import Call

TABLES = """
    -- one row a call: [[quota, subject, at, calls, cost], ...] in JSON
    CREATE TABLE quota_use (
        call_id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        data BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX quota_use_at ON quota_use (at);

    CREATE TABLE stops (
        subject TEXT NOT NULL,
        name TEXT NOT NULL,
        killed INTEGER NOT NULL,
        reason TEXT NOT NULL,
        by TEXT NOT NULL,
        at REAL NOT NULL,
        until REAL,
        client TEXT NOT NULL,
        PRIMARY KEY (subject, name)
    ) WITHOUT ROWID;
"""

KEEP_SECONDS = 32 * 86_400.0
"""No window is longer than a month; older use is forgotten."""


class Reads(Protocol):
    """What is needed of the journal."""

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


async def load_use(journal: Reads, ledger: Ledger, quotas: Sequence[Quota], now: float) -> None:
    """Bring back what was used of counts and budgets before the process began."""
    windows: dict[str, Quota] = {quota.id: quota for quota in quotas}
    for (data,) in await journal.read(_use, now - KEEP_SECONDS):
        for identifier, subject, at, calls, cost in orjson.loads(data):
            quota = windows.get(identifier)
            if quota is None:
                continue
            key = (identifier, subject)
            if calls and quota.window is not None:
                _add(ledger.calls, key, quota.window, at, calls)
            if cost and quota.budget is not None:
                _add(ledger.costs, key, quota.budget.window, at, cost)


def _add(uses: dict[tuple[str, str], Use], key: tuple[str, str], window: Window, at: float, amount: float) -> None:
    uses.setdefault(key, Use()).add(window, at, amount)


async def load_stops(journal: Reads, stops: Stops, now: float, idle_seconds: float) -> None:
    """Bring back the pauses and kills that are in force.

    Args:
        idle_seconds: after which a session has ended: those of a stopped one's client that had not are left alone.
    """
    for subject, name, killed, reason, by, at, until, client in await journal.read(_stops):
        if until is None or until > now:
            stop = Stop(
                subject=subject,
                name=name,
                killed=bool(killed),
                reason=reason,
                by=by,
                at=at,
                until=until,
                client=client,
            )
            stops.put(stop, await journal.read(_neighbours, client, at, idle_seconds) if client else ())


def stop_row(stop: Stop) -> Mapping[str, Any]:
    """The data of a `stop.put` write."""
    return asdict(stop)


def _use(raw: Any, since: float) -> list[Any]:
    return list(raw.execute("SELECT data FROM quota_use WHERE at > ?", (since,)).fetchall())


def _stops(raw: Any) -> list[Any]:
    return list(raw.execute("SELECT subject, name, killed, reason, by, at, until, client FROM stops").fetchall())


def _neighbours(raw: Any, client: str, at: float, idle_seconds: float) -> list[str]:
    """The sessions of a client that were there at an instant."""
    agent, _, name = client.partition("\0")
    query = "SELECT id FROM sessions WHERE agent = ? AND client = ? AND first_at < ? AND last_at >= ?"
    return [identifier for (identifier,) in raw.execute(query, (agent, name, at, at - idle_seconds)).fetchall()]


def _reserved(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    assert call is not None
    sql = "INSERT OR REPLACE INTO quota_use (call_id, at, data) VALUES (?, ?, ?)"
    return (Statement(sql=sql, parameters=(call.id, at, orjson.dumps(data["rows"]))),)


def _pruned(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (Statement(sql="DELETE FROM quota_use WHERE at <= ?", parameters=(at - KEEP_SECONDS,)),)


def _stop_put(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    names = ("subject", "name", "killed", "reason", "by", "at", "until", "client")
    sql = "INSERT OR REPLACE INTO stops (subject, name, killed, reason, by, at, until, client) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    return (Statement(sql=sql, parameters=tuple(data[name] for name in names)),)


def _stop_lifted(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (
        Statement(sql="DELETE FROM stops WHERE subject = ? AND name = ?", parameters=(data["subject"], data["name"])),
    )


WRITES: Mapping[str, WriteKind] = {
    "quota.reserved": _reserved,
    "quota.settled": _reserved,
    "quota.pruned": _pruned,
    "stop.put": _stop_put,
    "stop.lifted": _stop_lifted,
}
