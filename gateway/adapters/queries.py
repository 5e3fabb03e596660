"""What readers ask of the SQL store: plain functions over a connection that cannot write.

A command opens the store by `sqlite.read_only`; the gateway itself runs these beside its writer (`SqlJournal.read`). Lists are
read by keyset (`before` or `after` a `seq`), so that the millionth page costs what the first does.
"""

import hashlib
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from gateway.adapters import records
from gateway.adapters.checkpoints import Signatures
from gateway.adapters.recordings import with_erased
from gateway.adapters.retention import tombstone
from gateway.model.recording import (
    FIRST_PREV,
    RECORD_VERSION,
    CallFilter,
    CallSummary,
    OpenCall,
    Record,
    SessionSummary,
)

_CALL = "seq, id, at, agent, session_id, client, method, tool, risk, outcome, code, executed, in_doubt, elapsed_us, recovered"
_SESSION = "id, agent, client, first_at, last_at, calls, completed, errors, refused, held, failed, in_doubt"
_PAYLOAD = ", ".join(f"{role}_salt, {role}_encoding, {role}" for role in records.ROLES)

LAST = 2**63 - 1
"""Beyond every place of the chain."""

EVER = 1e300
"""An instant after every other, in seconds."""

VALUES = 1000
"""With more agents, tools or codes that meet a pattern, a list is read in the order of the chain."""

ENTRIES = 50_000
"""So many entries of an index are counted to find the one with the fewest."""

PAGE = 1000
"""Records read at once where all are read: between two pages the store may be checkpointed."""


# --- lists -------------------------------------------------------------------------------------------------------


def list_calls(
    raw: sqlite3.Connection,
    filter: CallFilter,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[CallSummary]:
    """Calls that meet the filter: the newest first, or with `after` the oldest first.

    Every list is read through the index whose entries are the fewest, so that a million calls cost what some thousand do.
    """
    conditions, parameters = _conditions(filter)
    low, high = after or 0, before if before is not None else LAST
    if filter.since is not None or filter.until is not None:
        spanned = _spanned(raw, filter.since, filter.until)
        if spanned is None:
            return []
        low, high = max(low, spanned[0] - 1), min(high - 1, spanned[1]) + 1
    driving = _driving(raw, filter, low, high)
    order = "ASC" if after is not None else "DESC"
    source, values = (
        ("calls NOT INDEXED", [None]) if driving is None else (f"calls INDEXED BY {driving[1]}", driving[2])
    )
    where = " AND ".join(["seq > ?", "seq < ?", *([] if driving is None else [driving[0]]), *conditions])
    seqs: list[int] = []
    for value in values:
        bound = [low, high, *([] if value is None else [value]), *parameters, limit]
        seqs.extend(
            row[0] for row in raw.execute(f"SELECT seq FROM {source} WHERE {where} ORDER BY seq {order} LIMIT ?", bound)
        )
    seqs.sort(reverse=after is None)
    found: list[CallSummary] = []
    for start in range(0, min(limit, len(seqs)), PAGE):
        wanted = seqs[start : min(start + PAGE, limit)]
        rows = raw.execute(
            f"SELECT {_CALL} FROM calls WHERE seq IN ({', '.join('?' * len(wanted))}) ORDER BY seq {order}", wanted
        )
        found.extend(_call(row) for row in rows)
    return found


def list_sessions(
    raw: sqlite3.Connection, *, agent: str | None = None, before: str | None = None, limit: int = 50
) -> list[SessionSummary]:
    """Sessions, the newest first; `before` is the id of the last one of the page before."""
    numbered = "number < ?"
    high = LAST
    if before is not None:
        row = raw.execute("SELECT number FROM sessions WHERE id = ?", (before,)).fetchone()
        high = 0 if row is None else row[0]
    select, order = f"SELECT number, {_SESSION} FROM sessions", "ORDER BY number DESC LIMIT ?"
    if agent is None:
        rows = raw.execute(f"{select} WHERE {numbered} {order}", (high, limit)).fetchall()
    else:
        rows = []
        for value in _values(raw, "sessions", "agent", agent):
            rows += raw.execute(f"{select} WHERE agent = ? AND {numbered} {order}", (value, high, limit)).fetchall()
        rows.sort(key=lambda row: int(row[0]), reverse=True)
    return [_session(row[1:]) for row in rows[:limit]]


def open_calls(raw: sqlite3.Connection) -> list[OpenCall]:
    """Calls whose begin is durable and whose outcome is not, the oldest first."""
    rows = raw.execute("SELECT call_id, at, command FROM begins ORDER BY number")
    return [OpenCall(id=id, at=at, command=orjson.loads(command)) for id, at, command in rows]


# --- one of them -------------------------------------------------------------------------------------------------


class Ambiguous(ValueError):
    """Several ids begin like this; the text names the first."""


def find_call(raw: sqlite3.Connection, id: str) -> Record | None:
    """The record of a call, by its id or the beginning of it.

    Raises:
        Ambiguous: several calls' ids begin so.
    """
    found = _by_beginning(raw, "calls", "seq", id)
    return None if found is None else record(raw, found)


def find_session(raw: sqlite3.Connection, id: str) -> SessionSummary | None:
    """A session, by its id or the beginning of it. Raises as `find_call`."""
    found = _by_beginning(raw, "sessions", "number", id)
    if found is None:
        return None
    return _session(raw.execute(f"SELECT {_SESSION} FROM sessions WHERE number = ?", (found,)).fetchone())


def record(raw: sqlite3.Connection, seq: int) -> Record | None:
    """The record at a place of the chain, with its payloads."""
    for found in read_records(raw, after=seq - 1, limit=1):
        return found if found.seq == seq else None
    return None


def erasures(raw: sqlite3.Connection, seq: int) -> dict[str, dict[str, Any]]:
    """Which payloads of a record were erased, by role: the bodies of their tombstones."""
    found: dict[str, dict[str, Any]] = {}
    rows = raw.execute(
        "SELECT data FROM records WHERE type = 'tombstone' AND type <> 'call' AND seq > ? ORDER BY seq", (seq,)
    )
    for (data,) in rows:
        fields = orjson.loads(data)
        if fields["body"]["kind"] == "payload" and fields["body"]["seq"] == seq:
            found[str(fields["body"]["role"])] = {**fields["body"], "at": fields["at"]}
    return found


def snapshot(raw: sqlite3.Connection, sha256: str) -> bytes | None:
    """A stored snapshot's bytes."""
    row = raw.execute("SELECT encoding, data FROM snapshots WHERE sha256 = ?", (sha256,)).fetchone()
    return None if row is None else records.stored(*row)


# --- the chain ---------------------------------------------------------------------------------------------------


def head(raw: sqlite3.Connection) -> int:
    """The newest record's `seq`; 0 where there is none."""
    return int(raw.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])


def read_records(
    raw: sqlite3.Connection,
    *,
    filter: CallFilter | None = None,
    types: Sequence[str] | None = None,
    after: int = 0,
    limit: int | None = None,
) -> Iterator[Record]:
    """Records in the order of the chain, with payloads.

    Args:
        filter: calls alone, and only those that meet it.
        types: only these record types.
    """
    conditions, parameters = _conditions(filter) if filter is not None else ([], [])
    source = "calls JOIN records USING (seq)" if filter is not None else "records"
    if types is not None:
        conditions.append(f"type IN ({', '.join('?' * len(types))})")
        parameters.extend(types)
    where = " AND ".join(["seq > ?", *conditions])
    while limit is None or limit > 0:
        page = PAGE if limit is None else min(PAGE, limit)
        rows = raw.execute(
            f"SELECT seq, data, {_PAYLOAD} FROM {source} LEFT JOIN payloads USING (seq) WHERE {where} ORDER BY seq LIMIT ?",
            [after, *parameters, page],
        ).fetchall()
        for seq, data, *columns in rows:
            yield _record(seq, data, columns)
        if len(rows) < page:
            return
        after = rows[-1][0]
        limit = None if limit is None else limit - len(rows)


def read_requests(raw: sqlite3.Connection, filter: CallFilter) -> Iterator[tuple[bytes, bytes | None]]:
    """The calls that meet the filter in the order of the chain: each record's bytes, and its request's exact bytes."""
    conditions, parameters = _conditions(filter)
    where = " AND ".join(["seq > ?", *conditions])
    after = 0
    while True:
        rows = raw.execute(
            "SELECT seq, data, request_encoding, request, request_salt FROM calls JOIN records USING (seq)"
            f" LEFT JOIN payloads USING (seq) WHERE {where} ORDER BY seq LIMIT ?",
            [after, *parameters, PAGE],
        ).fetchall()
        for _, data, encoding, request, salt in rows:
            if encoding == records.REDACTED:
                data = records.dump(with_erased(orjson.loads(data), "request", orjson.loads(salt)))
            yield data, None if request is None else records.stored(encoding, request)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def read_snapshots(raw: sqlite3.Connection, kind: str) -> list[bytes]:
    """All stored snapshots of a kind, the oldest first."""
    rows = raw.execute("SELECT encoding, data FROM snapshots WHERE kind = ? ORDER BY at", (kind,))
    return [records.stored(encoding, data) for encoding, data in rows]


def export_lines(raw: sqlite3.Connection, filter: CallFilter | None = None) -> Iterator[bytes]:
    """The store as JSON Lines: each record's exact bytes, then its payloads (`{"payload": ...}`), and the snapshots.

    A record line stays what was hashed, so that the export verifies by itself; where a filter leaves records out, each line
    still shows that it is whole, but no longer that none is missing.
    """
    for sha256, kind, encoding, data in raw.execute("SELECT sha256, kind, encoding, data FROM snapshots ORDER BY at"):
        content = records.stored(encoding, data).decode("utf-8", "replace")
        yield records.dump({"snapshot": {"sha256": sha256, "kind": kind, "content": content}})
    if (buried := tombstone(raw)) is not None:
        yield records.dump({"tombstone": buried["envelope"]})
    for found in read_records(raw, filter=filter):
        yield found.data
        row = raw.execute(f"SELECT {_PAYLOAD} FROM payloads WHERE seq = ?", (found.seq,)).fetchone()
        lines: dict[str, bytes] = {}
        for role, salt, exact in _payloads(row or ()):
            text = exact.decode("utf-8", "replace")
            lines[role] = records.dump({"payload": {"seq": found.seq, "role": role, "salt": salt.hex(), "data": text}})
        for role, erased, left in _redacted(row or ()):
            kept = {"seq": found.seq, "role": role, "data": left.decode("utf-8", "replace"), "erased": erased}
            lines[role] = records.dump({"redacted": kept})
        for role in records.ROLES:
            if role in lines:
                yield lines[role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first thing that does not fit."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What checking a chain found."""

    writer: str
    first_seq: int
    """Greater than 1 where older records were dropped."""
    last_seq: int
    head: str
    """SHA-256 of the newest record, in hex."""
    records: int
    payloads: int
    """Payloads whose bytes were compared with their record."""
    erased: int
    """Payloads that a record names and that are not there any more."""
    unproven: int
    """Of those: how many no tombstone accounts for."""
    first_unproven: int | None
    """The first record of which such a payload is missing, but for those that an export left out or changed."""
    fault: Fault | None


def verify(raw: sqlite3.Connection, *, payloads: bool = True, signatures: Signatures | None = None) -> Verification:
    """Check the whole chain, that every payload is what its record says, and the snapshots. Stops at the first fault.

    All of it is of one moment: what retention drops or an operator erases meanwhile is still there.

    Args:
        signatures: checks the checkpoints and tombstones as well.
    """
    alone = not raw.in_transaction
    if alone:
        raw.execute("BEGIN")
    try:
        return _verify(raw, payloads, signatures)
    finally:
        if alone:
            raw.execute("ROLLBACK")


def _verify(raw: sqlite3.Connection, payloads: bool, signatures: Signatures | None) -> Verification:
    chain = ChainVerifier(payloads=payloads, signatures=signatures)
    try:
        buried = tombstone(raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        buried = None  # one is damaged: the chain itself says which
    if buried is not None and not chain.beginning(buried["envelope"]):
        return chain.result()
    after = 0
    columns = f", {_PAYLOAD}" if payloads else ""
    join = " LEFT JOIN payloads USING (seq)" if payloads else ""
    statement = f"SELECT seq, type, data{columns} FROM records{join} WHERE seq > ? ORDER BY seq LIMIT ?"
    while True:
        rows = raw.execute(statement, (after, PAGE)).fetchall()
        done = 0
        while (done := chain.add_calls(rows, done)) < len(rows):
            if not chain.add_row(rows[done]):
                return chain.result()
            done += 1
        if len(rows) < PAGE:
            break
        after = rows[-1][0]
    for sha256, kind, encoding, data in raw.execute("SELECT sha256, kind, encoding, data FROM snapshots"):
        if (content := _unpacked(encoding, data)) is None or records.digest(content) != sha256:
            chain.fail(f"the {kind} with the hash {sha256} was changed")
            break
    return chain.result()


def verify_lines(lines: Iterable[bytes], signatures: Signatures | None = None) -> Verification:
    """Check an export by itself: `export_lines`, a line each, whatever their order of payloads and snapshots."""
    chain = ChainVerifier(signatures=signatures)
    for line in lines:
        line = line.rstrip(b"\r\n")
        if not line:
            continue
        if line.startswith(b'{"payload":'):
            try:
                payload = orjson.loads(line)["payload"]
                salt, data = bytes.fromhex(payload["salt"]), payload["data"].encode()
                fits = chain.payload(payload["role"], salt, data, payload["seq"])
            except (ValueError, KeyError, TypeError, AttributeError):
                fits = chain.fail("a payload after it cannot be read")
        elif line.startswith(b'{"snapshot":'):
            try:
                kept = orjson.loads(line)["snapshot"]
                fits = kept["sha256"] == records.digest(kept["content"].encode()) or chain.fail(
                    f"the {kept['kind']} with the hash {kept['sha256']} was changed"
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                fits = chain.fail("a snapshot after it cannot be read")
        elif line.startswith(b'{"tombstone":'):
            try:
                fits = chain.beginning(orjson.loads(line)["tombstone"])
            except (ValueError, KeyError, TypeError):
                fits = chain.fail("the tombstone of the beginning cannot be read")
        elif line.startswith(b'{"redacted":'):
            try:
                fits = chain.without_payload(str(orjson.loads(line)["redacted"]["role"]))
            except (ValueError, KeyError, TypeError):
                fits = chain.fail("a payload after it cannot be read")
        else:
            fits = chain.add(line)
        if not fits:
            break
    return chain.result()


class ChainVerifier:
    """Checks records one after another, as they stand in the chain.

    Args:
        payloads: they are given too; one that a record names and that is not given counts as erased.
    """

    def __init__(self, *, payloads: bool = True, signatures: Signatures | None = None) -> None:
        self._counted = payloads
        self._signatures = signatures
        self._writer = ""
        self._first = self._last = 0
        self._prev = FIRST_PREV
        self._records = self._payloads = 0
        self._type = b""
        self._data = b""
        """The record that was added last."""
        self._place = b""
        """What stands in every record of this writer between its type and its `seq`."""
        self._given: list[str] = []
        """The roles of its payloads so far."""
        self._missing: list[tuple[int, str]] = []
        self._left_out: set[tuple[int, str]] = set()
        """Payloads that an export says it left something out of."""
        self._erased: set[tuple[int, str]] = set()
        """For which there is a tombstone, signed or not."""
        self._fault: Fault | None = None

    def beginning(self, tombstone: Mapping[str, Any]) -> bool:
        """The tombstone that accounts for what is missing before the first record; before any record."""
        if self._signatures is not None and not self._signatures.announced(tombstone):
            assert self._signatures.fault is not None
            return self._fail(*self._signatures.fault)
        return True

    def add_calls(self, rows: Sequence[Sequence[Any]], done: int) -> int:
        """How many rows of `verify` are done, of which `done` were: calls that fit, up to the first row that is no call, or
        that `add_row` has to look at.

        What is checked is what `add` and `payload` check, in one go: of a record only what is needed is parsed.
        """
        if not self._records or done >= len(rows):
            return done
        if self._type == b"call" and self._counted:
            self._settle()
        own, prev, writer, counted = self._last, self._prev, self._writer, self._counted
        signatures, sha256, decode = self._signatures, hashlib.sha256, _CALLS.decode
        data, payloads, began = self._data, 0, done
        while done < len(rows):
            row = rows[done]
            if row[1] != "call" or row[0] != own + 1:
                break
            try:
                said = decode(row[2])
                if (
                    said.prev != prev
                    or said.seq != own + 1
                    or said.writer != writer
                    or said.type != "call"
                    or said.version != RECORD_VERSION
                ):
                    break
                if counted:
                    # once for each role, without a loop: this is what takes the time
                    body, given, missing = said.body, 0, []
                    if (content := row[5]) is not None:
                        if row[4]:
                            content = records.stored(row[4], content)
                        if sha256(row[3] + content).hexdigest() != body.command.request.sha256:
                            break
                        given += 1
                    elif body.command.request.kept == "whole":
                        missing.append((own + 1, "request"))
                    if (content := row[8]) is not None:
                        if row[7]:
                            content = records.stored(row[7], content)
                        if body.response is None or sha256(row[6] + content).hexdigest() != body.response.sha256:
                            break
                        given += 1
                    elif body.response is not None and body.response.kept == "whole":
                        missing.append((own + 1, "response"))
                    if (content := row[11]) is not None:
                        if row[10]:
                            content = records.stored(row[10], content)
                        if body.exchange is None or sha256(row[9] + content).hexdigest() != body.exchange.sha256:
                            break
                        given += 1
                    elif body.exchange is not None and body.exchange.kept == "whole":
                        missing.append((own + 1, "exchange"))
                    payloads += given
                    if missing:
                        self._missing += missing
            except (msgspec.DecodeError, zlib.error, TypeError, ValueError):
                break
            data = row[2]
            own, prev, done = own + 1, sha256(data).hexdigest(), done + 1
            if signatures is not None and not signatures.saw(own, prev, b"call", data):
                break
        self._last, self._prev, self._data = own, prev, data
        self._records += done - began
        self._payloads += payloads
        if done > began:
            self._type, self._given = b"", []  # nothing more is to come of it
        return done

    def add_row(self, row: Sequence[Any]) -> bool:
        """The next record with its payloads, as `verify` reads them. False where it does not fit."""
        if self._signatures is not None and self._signatures.fault is not None:
            return self._fail(*self._signatures.fault)
        seq, type, data = row[:3]
        if not isinstance(data, bytes):
            return self._fail(seq, "it is no record")
        if not self.add(data, seq, type):
            return False
        for place, role in _PLACES if self._counted else ():
            salt, encoding, content = row[place : place + 3]
            if content is None:
                continue
            if encoding == records.REDACTED:
                self.without_payload(role)
                continue
            exact = _unpacked(encoding, content)
            if exact is None or not isinstance(salt, bytes):
                return self.fail(f"its {role} is not what the record says")
            if not self.payload(role, salt, exact):
                return False
        return True

    def add(self, data: bytes, seq: int | None = None, type: str | None = None) -> bool:
        """The next record. False where it does not fit (`result` says why).

        Args:
            seq, type: what a store says of it beside the record itself.
        """
        if self._type == b"call" and self._counted:
            self._settle()
        own = self._last + 1
        # As `records.chained` writes it, in its place: nothing but the hash is to be computed.
        kind_end = data.find(b'"', 21)
        at = kind_end + len(self._place) + len(b"%d" % own)
        before = data.find(b',"prev":"', at)
        if (
            self._records
            and data.startswith(b'{"version":1,"type":"')
            and data.startswith(b'%s%d,"at":' % (self._place, own), kind_end)
            and data[at + 6 : before].replace(b".", b"", 1).isdigit()
            and data.startswith(b'%s","body":' % self._prev.encode(), before + 9)
        ):
            self._type = data[21:kind_end]
        elif not self._add_slowly(data, seq):
            return False
        else:
            own = self._last
        if seq is not None and own != seq:
            return self._fail(seq, f"it says that it is record {own}")
        if type is not None and self._type != type.encode():
            return self._fail(own, f"it is listed as {type}, and is {self._type.decode('utf-8', 'replace')}")
        self._last, self._prev = own, hashlib.sha256(data).hexdigest()
        self._records += 1
        self._data = data
        if self._given:
            self._given = []
        signatures = self._signatures
        if signatures is not None and not signatures.saw(own, self._prev, self._type, data):
            assert signatures.fault is not None
            return self._fail(*signatures.fault)
        if self._type == b"tombstone":
            self._buried(data)
        return True

    def _add_slowly(self, data: bytes, seq: int | None) -> bool:
        """The first record, or one that does not stand as expected: why, if it does not fit."""
        expected = self._last + 1
        if (head := _HEAD.match(data)) is not None:
            version, writer, own, prev = int(head[1]), head[3].decode(), int(head[4]), head[5].decode()
            self._type = head[2]
        else:
            try:
                fields = orjson.loads(data)
                version, own, prev, writer = fields["version"], fields["seq"], fields["prev"], fields["writer"]
                self._type = str(fields["type"]).encode()
            except (ValueError, KeyError, TypeError):
                return self._fail(seq or expected, "it is no record")
        if not isinstance(version, int) or version > RECORD_VERSION:
            return self._fail(seq or expected, f"its version {version} is newer than this gateway knows")
        if not isinstance(own, int) or not isinstance(prev, str) or not isinstance(writer, str):
            return self._fail(seq or expected, "it is no record")
        if self._records == 0:
            self._first, self._writer = own, writer
            self._place = b'","writer":"%s","seq":' % writer.encode()
            if own == 1 and prev != FIRST_PREV:
                return self._fail(own, "it is the first and names one before it")
            if self._signatures is not None:
                self._signatures.begins(own, prev)
        else:
            if writer != self._writer:
                return self._fail(own, f"it was written by {writer}, the chain is {self._writer}'s")
            if own != expected:
                return self._fail(expected, f"record {expected} is missing: {own} follows {self._last}")
            if prev != self._prev:
                return self._fail(own, f"it does not follow record {self._last}, which was changed or replaced")
        self._last = own
        return True

    def payload(self, role: str, salt: bytes, data: bytes, seq: int | None = None) -> bool:
        """A payload of the record that was added last. False where it is not what the record says."""
        if seq is not None and seq != self._last:
            return self._fail(seq, f"its {role} stands behind record {self._last}")
        hashed = hashlib.sha256(salt)
        hashed.update(data)
        found = hashed.hexdigest()
        # Where only one place of the record can be the one that names this payload, it need not be parsed.
        key = _KEYS.get(role, b"")
        if not key or self._type != b"call" or self._data.count(key) != 1 or key + found.encode() not in self._data:
            commitment = _commitments(self._data).get(role) if self._type == b"call" else None
            if commitment is None or commitment.get("sha256") != found:
                return self._fail(self._last, f"its {role} is not what the record says")
        self._given.append(role)
        self._payloads += 1
        return True

    def without_payload(self, role: str) -> bool:
        """A payload of the record that was added last was left out of, or changed for, an export: nothing is proven of it."""
        self._left_out.add((self._last, role))
        return True

    def fail(self, reason: str) -> bool:
        """Something beside the chain, behind the record that was added last, is not what it should be. False."""
        return self._fail(self._last, reason)

    def result(self) -> Verification:
        """What was found so far."""
        signatures = self._signatures
        if self._fault is None:
            if self._type == b"call" and self._counted:
                self._settle()
            if signatures is not None and not signatures.end(self._first, self._last):
                assert signatures.fault is not None
                self._fail(*signatures.fault)
        proven = self._erased if signatures is None else signatures.erased
        unproven = [missing for missing in self._missing if missing not in proven]
        return Verification(
            writer=self._writer,
            first_seq=self._first,
            last_seq=self._last,
            head=self._prev,
            records=self._records,
            payloads=self._payloads,
            erased=len(self._missing),
            unproven=len(unproven),
            first_unproven=next((seq for seq, role in unproven if (seq, role) not in self._left_out), None),
            fault=self._fault,
        )

    def _settle(self) -> None:
        """The record that was added last has all its payloads: which are missing?"""
        if self._data.count(b'"kept":"whole"') != len(self._given):
            for role, said in _commitments(self._data).items():
                if said.get("kept") == "whole" and role not in self._given:
                    self._missing.append((self._last, role))
        self._type = b""

    def _buried(self, data: bytes) -> None:
        try:
            body = orjson.loads(data)["body"]
            if body["kind"] == "payload":
                self._erased.add((int(body["seq"]), str(body["role"])))
        except (ValueError, KeyError, TypeError):
            pass  # a tombstone that says nothing accounts for nothing

    def _fail(self, seq: int, reason: str) -> bool:
        self._fault = Fault(seq=seq, reason=reason)
        return False


_KEYS: dict[str, bytes] = {role: b'"%s":{"sha256":"' % role.encode() for role in records.ROLES}
"""How a record begins to say what its payload of a role is."""

_PLACES = tuple((3 + place * 3, role) for place, role in enumerate(records.ROLES))
"""Where a payload's columns stand in a row of `verify`: its salt; encoding and bytes follow."""

_HEAD = re.compile(
    rb'\{"version":([0-9]{1,9}),"type":"([a-z.]+)","writer":"([^"\\]*)","seq":([0-9]{1,18}),"at":[0-9.]+,'
    rb'"prev":"([0-9a-f]{64})","body":'
)
"""A record's beginning as `records.chained` writes it: enough to check the chain without parsing the whole."""


class _Commitment(msgspec.Struct, gc=False):
    sha256: str | None
    kept: str


class _Command(msgspec.Struct, gc=False):
    request: _Commitment


class _Body(msgspec.Struct, gc=False):
    command: _Command
    response: _Commitment | None
    exchange: _Commitment | None


class _CallRecord(msgspec.Struct, gc=False):
    """Of a call's record, what `ChainVerifier.add_calls` looks at."""

    version: int
    type: str
    writer: str
    seq: int
    prev: str
    body: _Body


_CALLS = msgspec.json.Decoder(_CallRecord)


def _unpacked(encoding: Any, content: Any) -> bytes | None:
    """A payload's or snapshot's exact bytes; None where they cannot be had."""
    try:
        return records.stored(encoding, content) if isinstance(content, bytes) else None
    except zlib.error:
        return None


def _commitments(data: bytes) -> dict[str, dict[str, Any]]:
    """What a call's record says of its payloads, by role."""
    try:
        body = orjson.loads(data)["body"]
        found = {"request": body["command"].get("request"), **{role: body.get(role) for role in records.ROLES[1:]}}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {role: commitment for role, commitment in found.items() if isinstance(commitment, dict)}


# --- parts -------------------------------------------------------------------------------------------------------


def _conditions(filter: CallFilter) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    for column, pattern in (("agent", filter.agent), ("tool", filter.tool), ("code", filter.code)):
        if pattern is not None:
            conditions.append(_glob(column, pattern))
            parameters.append(pattern)
    for condition, value in (
        ("session_id = ?", filter.session),
        ("outcome = ?", filter.outcome),
        ("calls.at >= ?", filter.since),
        ("calls.at < ?", filter.until),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    return conditions, parameters


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _glob(column: str, pattern: str) -> str:
    return f"{column} {'GLOB' if _is_glob(pattern) else '='} ?"


def _values(raw: sqlite3.Connection, table: str, column: str, pattern: str) -> list[str]:
    """The different values of an indexed column that meet the pattern, one step in the index for each value there is."""
    if not _is_glob(pattern):
        return [pattern]
    rows = raw.execute(
        f"WITH RECURSIVE found(value) AS (SELECT min({column}) FROM {table} WHERE {column} > ''"
        f" UNION ALL SELECT (SELECT min({column}) FROM {table} WHERE {column} > value) FROM found WHERE value IS NOT NULL)"
        " SELECT value FROM found WHERE value GLOB ?",
        (pattern,),
    )
    return [value for (value,) in rows]


def _spanned(raw: sqlite3.Connection, since: float | None, until: float | None) -> tuple[int, int] | None:
    """Places between which all calls of a span of time lie; calls are in the order of their ends, not of their begins."""
    where = "FROM calls INDEXED BY calls_by_at WHERE at >= ? AND at < ?"
    span = (-EVER if since is None else since, EVER if until is None else until)
    first, last = 0, LAST
    if since is not None:  # two statements: looking for both at once takes longer than one after the other
        first = raw.execute(f"SELECT min(seq) {where}", span).fetchone()[0]
    if until is not None:
        last = raw.execute(f"SELECT max(seq) {where}", span).fetchone()[0]
    return None if first is None or last is None else (first, last)


def _driving(raw: sqlite3.Connection, filter: CallFilter, low: int, high: int) -> tuple[str, str, list[str]] | None:
    """Through which index a list is read: its condition, its name and the values to look up. None: in the order of the chain."""
    candidates: list[tuple[str, str, list[str]]] = []
    for column, pattern in (("agent", filter.agent), ("tool", filter.tool), ("code", filter.code)):
        if pattern is not None and len(values := _values(raw, "calls", column, pattern)) <= VALUES:
            candidates.append((f"{column} = ?", f"calls_by_{column}", values))
    if filter.session is not None:
        candidates.append(("session_id = ?", "calls_by_session", [filter.session]))
    if filter.outcome not in (None, "completed"):
        candidates.append(("outcome = ? AND outcome <> 'completed'", "calls_by_failure", [str(filter.outcome)]))
    fewest, best = ENTRIES, None
    if len(candidates) == 1:
        return candidates[0]
    for condition, index, values in candidates:
        entries = 0
        for value in values:
            entries += raw.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM calls INDEXED BY {index}"
                f" WHERE {condition} AND seq > ? AND seq < ? LIMIT ?)",
                (value, low, high, fewest - entries),
            ).fetchone()[0]
            if entries >= fewest:
                break
        if best is None or entries < fewest:
            fewest, best = max(entries, 1), (condition, index, values)
    return best


def _by_beginning(raw: sqlite3.Connection, table: str, column: str, id: str) -> int | None:
    """The row whose id is this, or the only one whose id begins so."""
    rows = raw.execute(
        f"SELECT {column}, id FROM {table} WHERE id >= ? AND id < ? ORDER BY id LIMIT 2", (id, id + "\U0010ffff")
    ).fetchall()
    if not rows:
        return None
    if len(rows) > 1 and rows[0][1] != id:
        raise Ambiguous(f"several begin with {id}: {rows[0][1]}, {rows[1][1]}, …")
    return int(rows[0][0])


def _call(row: Sequence[Any]) -> CallSummary:
    return CallSummary(
        seq=row[0],
        id=row[1],
        at=row[2],
        agent=row[3],
        session_id=row[4],
        client=row[5],
        method=row[6],
        tool=row[7],
        risk=row[8],
        outcome=row[9],
        code=row[10],
        executed=row[11],
        in_doubt=bool(row[12]),
        elapsed_us=row[13],
        recovered=bool(row[14]),
    )


def _session(row: Sequence[Any]) -> SessionSummary:
    return SessionSummary(
        id=row[0],
        agent=row[1],
        client=row[2],
        first_at=row[3],
        last_at=row[4],
        calls=row[5],
        completed=row[6],
        errors=row[7],
        refused=row[8],
        held=row[9],
        failed=row[10],
        in_doubt=row[11],
    )


def _payloads(columns: Sequence[Any]) -> Iterator[tuple[str, bytes, bytes]]:
    """Role, salt and exact bytes of each payload that is there, from the columns of its row."""
    for place, role in enumerate(records.ROLES):
        if columns and columns[place * 3 + 2] is not None:
            salt, encoding, content = columns[place * 3 : place * 3 + 3]
            if encoding != records.REDACTED:
                yield role, salt, records.stored(encoding, content)


def _redacted(columns: Sequence[Any]) -> Iterator[tuple[str, list[str], bytes]]:
    """Role, erased paths and what is left of each payload of which the export that it came from left something out."""
    for place, role in enumerate(records.ROLES):
        if columns and columns[place * 3 + 1] == records.REDACTED:
            yield role, orjson.loads(columns[place * 3]), columns[place * 3 + 2]


def _record(seq: int, data: bytes, columns: Sequence[Any]) -> Record:
    fields = orjson.loads(data)
    payloads = {role: records.load(content) for role, _, content in _payloads(columns)}
    for role, erased, content in _redacted(columns):
        payloads[role] = records.load(content)
        with_erased(fields, role, erased)
    return Record(
        seq=seq,
        sha256=records.digest(data),
        data=data,
        writer=fields["writer"],
        type=fields["type"],
        at=fields["at"],
        body=fields["body"],
        payloads=payloads,
    )
