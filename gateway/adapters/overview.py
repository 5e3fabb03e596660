"""What the console asks of the SQL store beyond lists: calls that contain a text, and how calls went over time.

Both look at the newest calls first and at a bounded number of them, so that a store of a million calls costs what one of
ten thousand does; what was not looked at is said.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import orjson

from gateway.adapters import queries, records
from gateway.model.recording import CallFilter, CallSummary

SCAN_CALLS: Final = 3_000
"""Calls that one search looks at; the next page goes on behind them."""

SCAN_BYTES: Final = 67_108_864
"""Payload bytes that one search looks into."""

STATISTIC_CALLS: Final = 25_000
"""Calls that one statistic counts."""

PARTS: Final = 48
"""Into how many equal parts a statistic's span is cut."""

SLACK_SECONDS: Final = 600.0
"""Calls are recorded when they end and counted when they began: how much later than others a call may end."""


T = TypeVar("T")


def by_beginning(
    raw: sqlite3.Connection, find: Callable[[sqlite3.Connection, str], T], id: str
) -> tuple[T | None, str]:
    """What `queries.find_call` or `find_session` finds, or why it is not clear what is meant."""
    try:
        return find(raw, id), ""
    except queries.Ambiguous as ambiguous:
        return None, str(ambiguous)


def search_calls(
    raw: sqlite3.Connection, filter: CallFilter, text: str, *, before: int | None, limit: int
) -> tuple[list[CallSummary], int | None]:
    """Calls that meet the filter and contain the text (in any case) in their names, ids, request or response.

    Returns them newest first, and the `before` with which the search goes on; None where everything was looked at. A page
    may be short, or empty, and still have a next one.
    """
    wanted = text.lower()
    quoted = orjson.dumps(wanted)[1:-1]
    found: list[CallSummary] = []
    seen = looked = 0
    while seen < SCAN_CALLS and looked < SCAN_BYTES:
        page = queries.list_calls(raw, filter, before=before, limit=500)
        for call in page:
            seen, before = seen + 1, call.seq
            names = (call.id, call.tool, call.agent, call.session_id, call.client, call.code or "", call.method)
            if any(wanted in name.lower() for name in names):
                found.append(call)
            else:
                size, hit = _payload_has(raw, call.seq, quoted)
                looked += size
                if hit:
                    found.append(call)
            if len(found) == limit or looked >= SCAN_BYTES:
                return found, before
        if len(page) < 500:
            return found, None
    return found, before


def _payload_has(raw: sqlite3.Connection, seq: int, wanted: bytes) -> tuple[int, bool]:
    row = raw.execute(
        "SELECT request_encoding, request, response_encoding, response FROM payloads WHERE seq = ?", (seq,)
    ).fetchone()
    size = 0
    for encoding, data in () if row is None else ((row[0], row[1]), (row[2], row[3])):
        if data is not None:
            content = records.stored(encoding, data)
            size += len(content)
            # what is ASCII alone need not become text and bytes again
            lowered = content.lower() if content.isascii() else content.decode("utf-8", "replace").lower().encode()
            if wanted in lowered:
                return size, True
    return size, False


def statistics(raw: sqlite3.Connection, *, since: float, until: float) -> dict[str, Any]:
    """How calls went in a span of time, in `PARTS` equal parts.

    Returns `{since, until, part_seconds, whole, parts: [{at, calls, completed, error, refused, held, failed, p50_ms,
    p95_ms}], codes: [{code, count}]}`; `whole` is false where only the newest `STATISTIC_CALLS` were counted.
    """
    part_seconds = (until - since) / PARTS
    rows = raw.execute("SELECT at, outcome, code, elapsed_us FROM calls ORDER BY seq DESC LIMIT ?", (STATISTIC_CALLS,))
    outcomes: list[Counter[str]] = [Counter() for _ in range(PARTS)]
    elapsed: list[list[int]] = [[] for _ in range(PARTS)]
    codes: Counter[str] = Counter()
    counted, whole = 0, False
    for at, outcome, code, elapsed_us in rows:
        counted += 1
        if at < since - SLACK_SECONDS:
            whole = True
            break
        part = int((at - since) // part_seconds)
        if not 0 <= part < PARTS:
            continue
        outcomes[part][outcome] += 1
        if code is not None:
            codes[code] += 1
        if elapsed_us is not None:
            elapsed[part].append(elapsed_us)
    return {
        "since": since,
        "until": until,
        "part_seconds": part_seconds,
        "whole": whole or counted < STATISTIC_CALLS,
        "parts": [
            {
                "at": since + number * part_seconds,
                "calls": outcomes[number].total(),
                **{name: outcomes[number][name] for name in ("completed", "error", "refused", "held", "failed")},
                "p50_ms": _quantile(elapsed[number], 0.5),
                "p95_ms": _quantile(elapsed[number], 0.95),
            }
            for number in range(PARTS)
        ],
        "codes": [{"code": code, "count": count} for code, count in codes.most_common(20)],
    }


def _quantile(values: Sequence[int], share: float) -> float | None:
    """In milliseconds, by the nearest rank; None of nothing."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] / 1000
