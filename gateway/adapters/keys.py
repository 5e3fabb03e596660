"""Idempotency keys: known in memory, kept in the store for good, the outcomes sealed.

A key is taken in the transaction of its call's begin and settled in the transaction of its end; one that was taken and
never settled (the process died in between) is in doubt, until an operator resolves it.

Memory holds which keys there are, and the outcomes of the latest; others are read from the store when they are asked for.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from gateway.adapters.holds import outcome_from_json, outcome_to_json
from gateway.adapters.sealing import Seal
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.verdict import Failed, Outcome, Write
from gateway.ports import FOREVER, UNNAMED, Clock, Kept

PURPOSE = "idempotency"

LATEST = 64
"""Outcomes that stay in memory whatever their size: the store may not have them yet."""

_Name = tuple[str, str]
"""Principal and key."""

TABLES = """
    CREATE TABLE idempotency (
        principal TEXT NOT NULL,
        key TEXT NOT NULL,
        digest TEXT NOT NULL,
        call_id TEXT NOT NULL,
        until REAL NOT NULL,
        outcome BLOB,
        PRIMARY KEY (principal, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_until ON idempotency (until);
"""


class Reads(Protocol):
    """What is needed of the journal."""

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class StoredKeys:
    """Implements `ports.Keys`.

    Args:
        most_bytes: of outcomes in memory.
    """

    def __init__(self, journal: Reads, seal: Seal, clock: Clock, *, most_bytes: int = 32 * 1024 * 1024) -> None:
        self._journal, self._seal, self._clock, self._most_bytes = journal, seal, clock, most_bytes
        self._kept: dict[_Name, Kept] = {}
        self._ending: list[tuple[float, _Name]] = []
        """A heap of when they end, those that are gone or were replaced included."""
        self._latest: OrderedDict[_Name, int] = OrderedDict()
        """Those whose outcomes are in memory, with their sizes, the oldest first."""
        self._bytes = 0

    async def load(self) -> None:
        """Learn from the store which keys there are."""
        now = self._clock.time_ns() / 1e9
        for principal, key, digest, call_id, until, unfinished in await self._journal.read(_rows, now):
            outcome: Outcome | None = None
            if unfinished:
                if not key.startswith(UNNAMED):
                    until = FOREVER
                outcome = _in_doubt("The gateway stopped while the call ran; whether it took effect is not known.")
            self._keep((principal, key), Kept(digest=digest, outcome=outcome, call_id=call_id, until=until))

    def kept(self, principal: str, key: str) -> Kept | None:
        self._expire()
        return self._kept.get((principal, key))

    async def outcome(self, principal: str, key: str) -> Outcome | None:
        """As the port says. The outcome is in the store by then: memory keeps the latest."""
        if (found := self._kept.get((principal, key))) is None:
            return None
        if found.outcome is not None:
            return found.outcome
        sealed = await self._journal.read(_sealed, principal, key, found.call_id)
        if sealed is not None:
            return outcome_from_json(orjson.loads(self._seal.open(sealed, PURPOSE)))
        if self._kept.get((principal, key)) is not found:
            return None
        return _in_doubt("The call ran, and what became of it could not be kept.")

    def forget(self, call_id: str) -> bool:
        """An operator resolved a call that was in doubt: its key is free. False where no key is its."""
        names = [name for name, kept in self._kept.items() if kept.call_id == call_id]
        for name in names:
            self._drop(name)
        return bool(names)

    def _keep(self, name: _Name, kept: Kept, size: int = 0) -> None:
        self._drop(name)
        self._expire()
        self._kept[name] = kept
        if kept.until < FOREVER:
            heapq.heappush(self._ending, (kept.until, name))
        if not size:
            return
        self._latest[name] = size
        self._bytes += size
        while self._bytes > self._most_bytes and len(self._latest) > LATEST:
            oldest, freed = self._latest.popitem(last=False)
            self._bytes -= freed
            self._kept[oldest] = replace(self._kept[oldest], outcome=None)

    def _drop(self, name: _Name) -> None:
        self._kept.pop(name, None)
        self._bytes -= self._latest.pop(name, 0)

    def _expire(self) -> None:
        """Forget what has ended."""
        if not self._ending:
            return
        now = self._clock.time_ns() / 1e9
        while self._ending and self._ending[0][0] <= now:
            _, name = heapq.heappop(self._ending)
            if (kept := self._kept.get(name)) is not None and kept.until <= now:
                self._drop(name)

    def taken(self, *, principal: str, key: str, digest: str, call_id: str, until: float) -> Write:
        data = {"principal": principal, "key": key, "digest": digest, "call_id": call_id, "until": until}
        return Write(kind="idempotency.taken", data=data)

    def settled(
        self, *, principal: str, key: str, digest: str, call_id: str, until: float, outcome: Outcome | None
    ) -> Write:
        if outcome is None:
            return Write(kind="idempotency.freed", data={"principal": principal, "key": key, "call_id": call_id})
        sealed = self._seal.seal(orjson.dumps(outcome_to_json(outcome)), PURPOSE)
        # What is in doubt is told from memory, as often as it is asked for.
        size = 0 if isinstance(outcome, Failed) else len(sealed)
        self._keep((principal, key), Kept(digest=digest, outcome=outcome, call_id=call_id, until=until), size)
        data = {
            "principal": principal,
            "key": key,
            "digest": digest,
            "call_id": call_id,
            "until": until,
            "outcome": sealed,
        }
        return Write(kind="idempotency.kept", data=data)


def _in_doubt(message: str) -> Failed:
    return Failed(code=Code.SERVER_LOST, message=message, in_doubt=True, sent=True)


def _rows(raw: Any, now: float) -> list[Any]:
    columns = "principal, key, digest, call_id, until, outcome IS NULL"
    query = f"SELECT {columns} FROM idempotency WHERE until > ? OR outcome IS NULL"
    return list(raw.execute(query, (now,)).fetchall())


def _sealed(raw: Any, principal: str, key: str, call_id: str) -> bytes | None:
    query = "SELECT outcome FROM idempotency WHERE principal = ? AND key = ? AND call_id = ?"
    row = raw.execute(query, (principal, key, call_id)).fetchone()
    return None if row is None else row[0]


def _taken(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    values = (data["principal"], data["key"], data["digest"], data["call_id"], data["until"])
    return (
        Statement(sql="DELETE FROM idempotency WHERE until <= ? AND outcome IS NOT NULL", parameters=(at,)),
        Statement(
            sql="INSERT INTO idempotency (principal, key, digest, call_id, until) VALUES (?, ?, ?, ?, ?)",
            parameters=values,
            rows=1,
        ),
    )


def _kept(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    values = (data["principal"], data["key"], data["digest"], data["call_id"], data["until"], data["outcome"])
    sql = (
        "INSERT OR REPLACE INTO idempotency (principal, key, digest, call_id, until, outcome) VALUES (?, ?, ?, ?, ?, ?)"
    )
    return (Statement(sql=sql, parameters=values),)


def _freed(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "DELETE FROM idempotency WHERE principal = ? AND key = ? AND call_id = ?"
    return (Statement(sql=sql, parameters=(data["principal"], data["key"], data["call_id"])),)


def _resolved(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (Statement(sql="DELETE FROM idempotency WHERE call_id = ?", parameters=(data["call_id"],)),)


WRITES: Mapping[str, WriteKind] = {
    "idempotency.taken": _taken,
    "idempotency.kept": _kept,
    "idempotency.freed": _freed,
    "idempotency.resolved": _resolved,
}
