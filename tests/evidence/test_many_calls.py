"""Lists of a large store: every filter is read through an index, and finds what looking at every call would find."""

import fnmatch
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import BEGAN, PACE, fill, questions
from gateway.adapters import overview, queries
from gateway.adapters.checkpoints import Signatures
from gateway.adapters.signing import PublicKey, Signer
from gateway.adapters.sqlite import read_only
from gateway.model.recording import CallFilter, CallSummary

CALLS = 20_000

LARGE = ("calls", "records", "payloads", "sessions")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    path, signer = tmp_path_factory.mktemp("many") / "gateway.db", Signer.fresh()
    fill(path, CALLS, signer)
    return path, signer.public


@pytest.fixture
def raw(filled: tuple[Path, PublicKey]) -> Iterator[sqlite3.Connection]:
    with read_only(filled[0]) as raw:
        yield raw


def scans(raw: sqlite3.Connection, statements: list[str]) -> list[str]:
    """Steps of the statements' plans that go through a whole large table or its whole index, without a bound."""
    found = []
    for statement in statements:
        for _, _, _, step in raw.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            words: list[str] = [*step.split(), ""]
            verb, table = words[0], words[1]
            whole = verb == "SCAN" and table in LARGE and " LIMIT " not in statement
            sorted_first = "TEMP B-TREE" in step and " IN (" not in statement
            if whole or sorted_first:
                found.append(f"{step}: {statement}")
    return found


@pytest.mark.rule("evidence.lists-indexed")
@pytest.mark.parametrize("title", questions(CALLS))
def test_what_operators_ask_is_read_through_an_index(raw: sqlite3.Connection, title: str) -> None:
    asked: list[str] = []
    raw.set_trace_callback(asked.append)
    questions(CALLS)[title](raw)
    raw.set_trace_callback(None)
    assert asked
    assert not scans(raw, asked)


def test_a_scan_of_a_large_table_would_be_seen(raw: sqlite3.Connection) -> None:
    assert scans(raw, ["SELECT seq FROM calls WHERE client = 'x' ORDER BY seq"])
    assert scans(raw, ["SELECT seq FROM calls WHERE agent GLOB 'x*' ORDER BY at"])


def _meets(call: CallSummary, filter: CallFilter) -> bool:
    globs = ((call.agent, filter.agent), (call.tool, filter.tool), (call.code, filter.code))
    return (
        all(pattern is None or (value is not None and fnmatch.fnmatchcase(value, pattern)) for value, pattern in globs)
        and filter.session in (None, call.session_id)
        and filter.outcome in (None, call.outcome)
        and (filter.since is None or call.at >= filter.since)
        and (filter.until is None or call.at < filter.until)
    )


@pytest.mark.rule("evidence.lists-exact")
def test_a_list_is_what_looking_at_every_call_would_find(raw: sqlite3.Connection) -> None:
    every = [queries._call(row) for row in raw.execute(f"SELECT {queries._CALL} FROM calls ORDER BY seq DESC")]
    chance = random.Random(7)
    choices: dict[str, list[Any]] = {
        "agent": ["claude", "cl*", "c*", "*", "nobody", "[ab]*"],
        "tool": ["server3/tool_11", "server3/*", "*/tool_1?", "nothing/*"],
        "code": ["policy.*", "server.timeout", "*"],
        "outcome": ["completed", "error", "refused", "failed", "held"],
        "session": [every[50].session_id, "nobody"],
        "since": [BEGAN + share * CALLS * PACE for share in (-1.0, 0.3, 0.99, 2.0)],
        "until": [BEGAN + share * CALLS * PACE for share in (-1.0, 0.01, 0.6, 2.0)],
    }
    some = 0
    for _ in range(100):
        names = chance.sample(sorted(choices), chance.choice((0, 1, 1, 2, 3)))
        filter = CallFilter(**{name: chance.choice(choices[name]) for name in names})
        limit, edge = chance.choice((1, 7, 50)), chance.choice((None, every[0].seq // 2, 30))
        wanted = [call for call in every if _meets(call, filter)]
        below = [call for call in wanted if edge is None or call.seq < edge][:limit]
        assert queries.list_calls(raw, filter, before=edge, limit=limit) == below, (filter, edge, limit)
        above = [call for call in reversed(wanted) if edge is None or call.seq > edge][:limit]
        assert queries.list_calls(raw, filter, after=edge or 0, limit=limit) == above, (filter, edge, limit)
        some += bool(below)
    assert some > 20


def test_calls_that_end_out_of_order_are_in_the_span_in_which_they_began(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    fill(path, 100, Signer.fresh())
    changed = sqlite3.connect(path, isolation_level=None)
    changed.execute("UPDATE calls SET at = ? WHERE seq = 90", (BEGAN + 5 * PACE,))
    changed.execute("UPDATE calls SET at = ? WHERE seq = 3", (BEGAN + 200 * PACE,))
    changed.close()
    with read_only(path) as raw:
        early = queries.list_calls(raw, CallFilter(until=BEGAN + 4 * PACE + 1.0))
        assert 90 in [call.seq for call in early]
        late = queries.list_calls(raw, CallFilter(since=BEGAN + 150 * PACE))
        assert [call.seq for call in late] == [3]


def test_sessions_are_paged_by_agent(raw: sqlite3.Connection) -> None:
    whole = queries.list_sessions(raw, agent="c*", limit=CALLS)
    assert {session.agent for session in whole} <= {"claude", "cursor", "codex", "ci"}
    paged, before = [], None
    while page := queries.list_sessions(raw, agent="c*", before=before, limit=97):
        paged += page
        before = page[-1].id
    assert paged == whole
    assert [session.id for session in whole] == sorted((session.id for session in whole), reverse=True)


def test_the_filled_store_verifies_and_text_is_found_in_it(filled: tuple[Path, PublicKey]) -> None:
    with read_only(filled[0]) as raw:
        found = queries.verify(raw, signatures=Signatures([filled[1]]))
        assert found.fault is None
        assert (found.records, found.unproven) == (CALLS + CALLS // 5000, 0)
        calls, after = overview.search_calls(raw, CallFilter(), "a line of what", before=None, limit=5)
        assert len(calls) == 5
        assert after is not None
