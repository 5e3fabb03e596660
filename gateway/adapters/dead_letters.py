"""Dead letters: calls that may have run and nobody knows, or that used up their tries, kept so that a person can act.

`Kept` stands in front of the journal and adds to what it commits anyway: with the begin of a call that may not be repeated,
the sealed call itself (if the process dies, this is all that is left of it); with its end, that row goes, or becomes a dead
letter with its attempts. So a dead letter is as durable as the outcome that it is about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from gateway.adapters.sealing import Seal
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.model.call import Call
from gateway.model.errors import GatewayError
from gateway.model.value import replace
from gateway.model.verdict import Failed, Outcome, Write
from gateway.ports import Attempt, Begin, End, Journal

PURPOSE = "dead letter"

TABLES = """
    CREATE TABLE dead_letters (
        call_id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        agent TEXT NOT NULL,
        session_id TEXT NOT NULL,
        tool TEXT NOT NULL,
        risk TEXT NOT NULL,
        state TEXT NOT NULL,
        code TEXT NOT NULL,
        in_doubt INTEGER NOT NULL,
        message TEXT NOT NULL,
        attempts TEXT NOT NULL,
        retried_as TEXT NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX dead_letters_open ON dead_letters (state, at);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter."""

    call_id: str
    at: float
    agent: str
    session_id: str
    tool: str
    risk: str
    state: str
    """`begun` (on its way), `open`, `retried`, `dropped`."""
    code: str
    in_doubt: bool
    message: str
    attempts: tuple[Mapping[str, Any], ...]
    retried_as: str = ""
    """The call that was made of it."""
    method: str = ""
    """Unsealed only where it is asked for: the call as it was forwarded."""
    params: Mapping[str, Any] | None = None


class Records(Protocol):
    """What is needed of the journal besides the port."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class Kept:
    """The journal, with dead letters kept beside it. Implements `ports.Journal`."""

    def __init__(self, journal: Journal, records: Records, seal: Seal) -> None:
        self._journal, self._records, self._seal = journal, records, seal

    # --- the port ---

    async def begin(self, begin: Begin) -> None:
        if _repeatable(begin.call):
            return await self._journal.begin(begin)
        row = {
            **self._row(begin.call, begin.at),
            "state": "begun",
            "code": "server.lost",
            "in_doubt": 1,
            "attempts": "[]",
        }
        row["message"] = "The gateway stopped while the call ran; whether it took effect is not known."
        return await self._journal.begin(
            replace(begin, writes=(*begin.writes, Write(kind="dead_letter.put", data=row)))
        )

    async def end(self, end: End) -> None:
        write = None
        if end.began and is_dead(end.outcome, end.attempt):
            assert isinstance(end.outcome, Failed)
            assert end.attempt is not None
            row = {
                **self._row(end.call, end.at),
                "state": "open",
                "code": str(end.outcome.code),
                "in_doubt": int(end.outcome.in_doubt),
                "message": end.outcome.message,
                "attempts": orjson.dumps(end.attempt.tries, default=str).decode(),
            }
            write = Write(kind="dead_letter.put", data=row)
        elif end.began and not _repeatable(end.call):
            write = Write(kind="dead_letter.ended", data={"call_id": end.call.id})
        await self._journal.end(end if write is None else replace(end, writes=(*end.writes, write)))

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        await self._journal.record(type, body)

    # --- looking and acting ---

    async def load(self) -> int:
        """Make dead letters of the calls that a process before left on their way; how many."""
        left: list[str] = await self._records.read(_begun)
        if left:
            body = {"kind": "dead_letter", "subject": ",".join(left[:100]), "state": "open", "count": len(left)}
            await self._records.record("state.changed", body, (Write(kind="dead_letter.recovered", data={}),))
        return len(left)

    async def all(self, state: str = "open", limit: int = 200) -> list[DeadLetter]:
        """The newest dead letters in a state, without their content."""
        return [_letter(row) for row in await self._records.read(_listed, state, limit)]

    async def get(self, call_id: str) -> DeadLetter | None:
        """One dead letter, its content unsealed."""
        row = await self._records.read(_one, call_id)
        if row is None:
            return None
        if not row[-1]:
            return _letter(row)  # retried or dropped: its content went
        content = orjson.loads(self._seal.open(row[-1], PURPOSE))
        return replace(_letter(row), method=content["method"], params=content["params"])

    async def close(self, call_id: str, state: str, by: str, retried_as: str = "") -> None:
        """Mark a dead letter as `retried` or `dropped`; recorded.

        Raises:
            GatewayError: it is not open.
        """
        letter = await self.get(call_id)
        if letter is None or letter.state != "open":
            raise GatewayError(f"there is no open dead letter {call_id}")
        body = {"kind": "dead_letter", "subject": call_id, "state": state, "by": by, "retried_as": retried_as}
        data = {"call_id": call_id, "state": state, "retried_as": retried_as}
        await self._records.record("state.changed", body, (Write(kind="dead_letter.closed", data=data),))

    def _row(self, call: Call, at: float) -> dict[str, Any]:
        meta = dict(call.meta)
        if call.idempotency_key is not None:
            meta["gateway/idempotency-key"] = call.idempotency_key
        content = {"method": call.method, "params": {**call.params, "_meta": meta}}
        return {
            "call_id": call.id,
            "at": at,
            "agent": call.principal.id,
            "session_id": call.session_id,
            "tool": f"{call.server}/{call.name}",
            "risk": str(call.risk),
            "sealed": self._seal.seal(orjson.dumps(content), PURPOSE),
        }


def is_dead(outcome: Outcome, attempt: Attempt | None) -> bool:
    """Whether a call becomes a dead letter: it is in doubt, or all its tries (more than one) failed."""
    if not isinstance(outcome, Failed) or attempt is None:
        return False
    return outcome.in_doubt or len(attempt.tries) > 1


def _repeatable(call: Call) -> bool:
    return call.entry is not None and call.entry.idempotent


COLUMNS = "call_id, at, agent, session_id, tool, risk, state, code, in_doubt, message, attempts, retried_as, sealed"


def _letter(row: Sequence[Any]) -> DeadLetter:
    names = COLUMNS.split(", ")[:-1]
    values = dict(zip(names, row, strict=False))
    return DeadLetter(
        **{**values, "in_doubt": bool(values["in_doubt"]), "attempts": tuple(orjson.loads(values["attempts"]))}
    )


def _begun(raw: Any) -> list[str]:
    return [call_id for (call_id,) in raw.execute("SELECT call_id FROM dead_letters WHERE state = 'begun'").fetchall()]


def _listed(raw: Any, state: str, limit: int) -> list[Any]:
    where, values = ("", ()) if state == "all" else ("WHERE state = ?", (state,))
    sql = f"SELECT {COLUMNS} FROM dead_letters {where} ORDER BY at DESC LIMIT ?"
    return list(raw.execute(sql, (*values, limit)).fetchall())


def _one(raw: Any, call_id: str) -> Any:
    return raw.execute(f"SELECT {COLUMNS} FROM dead_letters WHERE call_id = ?", (call_id,)).fetchone()


def _put(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    names = COLUMNS.split(", ")
    values = tuple({"retried_as": "", **data}[name] for name in names)
    sql = f"INSERT OR REPLACE INTO dead_letters ({COLUMNS}) VALUES ({', '.join('?' * len(names))})"
    return (Statement(sql=sql, parameters=values),)


def _ended(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (
        Statement(sql="DELETE FROM dead_letters WHERE call_id = ? AND state = 'begun'", parameters=(data["call_id"],)),
    )


def _recovered(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (Statement(sql="UPDATE dead_letters SET state = 'open' WHERE state = 'begun'"),)


def _closed(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "UPDATE dead_letters SET state = ?, retried_as = ?, sealed = x'' WHERE call_id = ? AND state = 'open'"
    return (Statement(sql=sql, parameters=(data["state"], data["retried_as"], data["call_id"]), rows=1),)


WRITES: Mapping[str, WriteKind] = {
    "dead_letter.put": _put,
    "dead_letter.ended": _ended,
    "dead_letter.recovered": _recovered,
    "dead_letter.closed": _closed,
}
