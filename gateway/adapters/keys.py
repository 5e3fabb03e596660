"""Idempotency keys: in memory for speed, in the store for good, the outcomes sealed.

A key is taken in the transaction of its call's begin and settled in the transaction of its end; one that was taken and
never settled (the process died in between) is in doubt, until an operator resolves it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from gateway.adapters.holds import outcome_from_json, outcome_to_json
from gateway.adapters.sealing import Seal
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.verdict import Failed, Outcome, Write
from gateway.ports import Clock, Kept

PURPOSE = "idempotency"

FOREVER = 1e15
"""A key in doubt stays until an operator resolves it."""

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
    """Implements `ports.Keys`."""

    def __init__(self, journal: Reads, seal: Seal, clock: Clock) -> None:
        self._journal, self._seal, self._clock = journal, seal, clock
        self._kept: dict[tuple[str, str], Kept] = {}

    async def load(self) -> None:
        """Rebuild the memory from the store."""
        now = self._clock.time_ns() / 1e9
        for principal, key, digest, call_id, until, sealed in await self._journal.read(_rows, now):
            if sealed is None:
                message = "The gateway stopped while the call ran; whether it took effect is not known."
                until = FOREVER
                outcome: Outcome = Failed(code=Code.SERVER_LOST, message=message, in_doubt=True, sent=True)
            else:
                outcome = outcome_from_json(orjson.loads(self._seal.open(sealed, PURPOSE)))
            self._kept[(principal, key)] = Kept(digest=digest, outcome=outcome, call_id=call_id, until=until)

    def kept(self, principal: str, key: str) -> Kept | None:
        found = self._kept.get((principal, key))
        if found is not None and found.until <= self._clock.time_ns() / 1e9:
            del self._kept[(principal, key)]
            return None
        return found

    def forget(self, call_id: str) -> bool:
        """An operator resolved a call that was in doubt: its key is free. False where no key is its."""
        names = [name for name, kept in self._kept.items() if kept.call_id == call_id]
        for name in names:
            del self._kept[name]
        return bool(names)

    def taken(self, *, principal: str, key: str, digest: str, call_id: str, until: float) -> Write:
        data = {"principal": principal, "key": key, "digest": digest, "call_id": call_id, "until": until}
        return Write(kind="idempotency.taken", data=data)

    def settled(
        self, *, principal: str, key: str, digest: str, call_id: str, until: float, outcome: Outcome | None
    ) -> Write:
        if outcome is None:
            return Write(kind="idempotency.freed", data={"principal": principal, "key": key, "call_id": call_id})
        self._kept[(principal, key)] = Kept(digest=digest, outcome=outcome, call_id=call_id, until=until)
        sealed = self._seal.seal(orjson.dumps(outcome_to_json(outcome)), PURPOSE)
        data = {
            "principal": principal,
            "key": key,
            "digest": digest,
            "call_id": call_id,
            "until": until,
            "outcome": sealed,
        }
        return Write(kind="idempotency.kept", data=data)


def _rows(raw: Any, now: float) -> list[Any]:
    query = "SELECT principal, key, digest, call_id, until, outcome FROM idempotency WHERE until > ?"
    return list(raw.execute(query, (now,)).fetchall())


def _taken(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    values = (data["principal"], data["key"], data["digest"], data["call_id"], data["until"])
    return (
        Statement(sql="DELETE FROM idempotency WHERE until <= ?", parameters=(at,)),
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
