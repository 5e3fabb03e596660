"""How a large store is read, and how fast it is verified: `python -m benchmarks.evidence [--calls 1000000] [--store FILE]`.

The store is filled with records in the adapter's own encoding, of which templates are made by the adapter itself and then
differ in ids, times and outcomes: a chain with checkpoints, as a gateway would have left it, in a minute for a million calls.
`--store` keeps it, and measures it again where it is there. Figures are processor time, the best of three, with the file in the
operating system's cache; `log verify` is measured by the clock as well.
"""

import argparse
import itertools
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway.adapters import overview, queries, records
from gateway.adapters.checkpoints import Signatures, payload_digest
from gateway.adapters.journal import insert_calls
from gateway.adapters.signing import CHECKPOINT_TYPE, Signer, load_public, statement
from gateway.adapters.sqlite import migrate, read_only, transaction
from gateway.model.call import Client, Principal, Risk
from gateway.model.ids import new_id
from gateway.model.recording import FIRST_PREV, CallFilter, RecordingSettings
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Refused, Step
from gateway.ports import Attempt, End

BEGAN = 1_790_000_000.0
"""When the first call came in; one follows the other after `PACE` seconds."""

PACE = 0.4
SESSION_CALLS = 20
BATCH = 5_000
"""Calls of a transaction, and between two checkpoints."""

AGENTS = ("claude", "cursor", "codex", "ci", "local")
TOOLS = tuple((f"server{number % 8}", f"tool_{number}") for number in range(60))
ANSWER = b'{"content":[{"type":"text","text":"' + b"a line of what a tool answers, as tools do. " * 12 + b'"}]}'


def _outcome(number: int) -> Outcome:
    """Mostly completed, some of everything else, and one code that is rare."""
    if number == 77:
        return Failed(code=Code.SERVER_TIMEOUT, message="No answer within 60 s.", in_doubt=True)
    if number % 25 == 3:
        return Refused(stage="authorize", code=Code.POLICY_DENIED, message="The path is outside the root.")
    if number % 40 == 7:
        return Completed(result=b'{"content":[{"type":"text","text":"no such file"}],"isError":true}')
    return Completed(result=ANSWER)


def templates() -> list[records.EncodedCall]:
    """Some hundred calls as the journal would store them, of every agent, tool and outcome; `needle` in one result."""
    from tests import building

    made: list[records.EncodedCall] = []
    for number in range(300):
        server, name = TOOLS[number % len(TOOLS)]
        arguments = {"path": f"/srv/project/src/module_{number}.py", "head": number, "reason": "to see what is there"}
        call = building.call(
            building.tool(risk=(Risk.READ, Risk.WRITE, Risk.EXTERNAL)[number % 3]),
            arguments,
            id=new_id(),
            params={"name": f"{server}__{name}", "arguments": arguments},
            principal=Principal(id=AGENTS[number % len(AGENTS)], roles=("reader",)),
            client=Client(name="benchmark", version="1"),
            server=server,
            name=name,
        )
        facts = {
            "question": {"subject": {"id": call.principal.id}, "arguments": arguments, "context": {"recent": []}},
            "answer": {"allow": True},
            "revision": "a" * 64,
            "decision_id": f"{call.id}.1",
        }
        steps = [
            Step(stage="resolve", verdict="proceed", elapsed_us=12),
            Step(stage="validate", verdict="proceed", elapsed_us=21),
            Step(stage="authorize", verdict="proceed", elapsed_us=180, facts=facts),
        ]
        outcome = _outcome(number)
        forwarded = not isinstance(outcome, Refused)
        attempt = Attempt(sent=True, tries=[{"ended": "answered"}]) if forwarded else None
        end = End(
            call=call,
            steps=steps,
            outcome=outcome,
            attempt=attempt,
            began=forwarded,
            at=BEGAN,
            elapsed_us=1500 + number,
        )
        made.append(records.encode_end(end, RecordingSettings()))
    return made


def fill(path: Path, calls: int, signer: Signer, *, every: int = BATCH) -> None:
    """A new store of so many calls, with a checkpoint after so many of them."""
    made, chance = templates(), random.Random(1)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=OFF")
    raw.execute("PRAGMA cache_size=-65536")
    writer = migrate(raw)
    seq, prev, previous = 0, FIRST_PREV, ""
    numbers: Iterator[int] = iter(range(calls))
    while batch := list(itertools.islice(numbers, every)):
        lines: list[tuple[Any, ...]] = []
        payloads: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []

        def chained(type: str, at: float, body: bytes, lines: list[tuple[Any, ...]] = lines) -> None:
            nonlocal seq, prev
            seq += 1
            line = records.chained(type=type, writer=writer, seq=seq, at=at, prev=prev, body=body)
            prev = records.digest(line)
            lines.append((seq, type, at, line))

        at = BEGAN
        for number in batch:
            made_of = 77 if number == calls // 3 else (number * 7919) % 300
            template = made[78 if made_of == 77 and number != calls // 3 else made_of]
            at, call_id = BEGAN + number * PACE, new_id()
            body = template.body.replace(template.summary[0].encode(), call_id.encode())
            chained("call", at + 0.002, body)
            payloads.append((seq, *template.columns))
            session = f"session-{number // SESSION_CALLS:08d}"
            rows.append(
                (
                    seq,
                    call_id,
                    at,
                    template.summary[2],
                    session,
                    *template.summary[4:12],
                    chance.randrange(300, 90_000),
                    0,
                )
            )
        said = {"v": 1, "writer": writer, "seq": seq, "sha256": prev, "at": at, "previous": previous}
        envelope = signer.envelope(statement(said), CHECKPOINT_TYPE)
        previous = payload_digest(envelope)
        chained("checkpoint", at, records.dump({"seq": seq, "sha256": prev, "envelope": envelope}))
        with transaction(raw):
            raw.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", lines)
            raw.executemany(f"INSERT INTO payloads VALUES ({', '.join('?' * 10)})", payloads)
            insert_calls(raw, rows)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()


Question = Callable[[sqlite3.Connection], object]


def questions(calls: int) -> dict[str, Question]:
    """What an operator asks of a store by commands and in the console."""
    middle = BEGAN + calls * PACE / 2

    def filtered(**chosen: Any) -> Question:
        return lambda raw: queries.list_calls(raw, CallFilter(**chosen))

    def paged(raw: sqlite3.Connection) -> object:
        return queries.list_calls(raw, CallFilter(), before=queries.head(raw) // 2)

    def shown(raw: sqlite3.Connection) -> object:
        call = queries.list_calls(raw, CallFilter(), before=queries.head(raw) // 2, limit=1)[0]
        found = queries.find_call(raw, call.id[:20])
        assert found is not None
        return queries.record(raw, found.seq)

    def searched(text: str) -> Question:
        return lambda raw: overview.search_calls(raw, CallFilter(), text, before=None, limit=50)

    return {
        "calls list": filtered(),
        "calls list, a page in the middle": paged,
        "calls list --agent claude": filtered(agent="claude"),
        "calls list --agent cl*": filtered(agent="cl*"),
        "calls list --agent nobody*": filtered(agent="nobody*"),
        "calls list --tool server3/tool_11": filtered(tool="server3/tool_11"),
        "calls list --tool server3/*": filtered(tool="server3/*"),
        "calls list --tool nothing/*": filtered(tool="nothing/*"),
        "calls list --code server.timeout (one)": filtered(code="server.timeout"),
        "calls list --code policy.*": filtered(code="policy.*"),
        "calls list --code nothing.*": filtered(code="nothing.*"),
        "calls list --outcome completed": filtered(outcome="completed"),
        "calls list --outcome failed (one)": filtered(outcome="failed"),
        "calls list --outcome held (none)": filtered(outcome="held"),
        "calls list --since the last hour": filtered(since=BEGAN + calls * PACE - 3600),
        "calls list --since after all": filtered(since=BEGAN + calls * PACE + 86_400),
        "calls list --until the middle": filtered(until=middle),
        "calls list --until before all": filtered(until=BEGAN - 1),
        "calls list --agent claude --outcome failed": filtered(agent="claude", outcome="failed"),
        "calls list --agent claude --tool server1/tool_1 (none)": filtered(agent="claude", tool="server1/tool_1"),
        "calls list --session": filtered(session=f"session-{calls // SESSION_CALLS // 2:08d}"),
        "calls show": shown,
        "sessions list": lambda raw: queries.list_sessions(raw),
        "sessions list, a page in the middle": lambda raw: queries.list_sessions(
            raw, before=f"session-{calls // SESSION_CALLS // 2:08d}"
        ),
        "sessions list --agent ci": lambda raw: queries.list_sessions(raw, agent="ci"),
        "sessions list --agent nobody": lambda raw: queries.list_sessions(raw, agent="nobody"),
        "sessions list --agent no*": lambda raw: queries.list_sessions(raw, agent="no*"),
        "sessions show": lambda raw: queries.find_session(raw, "session-00000012"),
        "console: text that is often there": searched("a line of what"),
        "console: text that is nowhere (one page of the search)": searched("zzzz not there"),
        "console: statistics of an hour": lambda raw: overview.statistics(
            raw, since=BEGAN + calls * PACE - 3600, until=BEGAN + calls * PACE
        ),
        "console: statistics of a month": lambda raw: overview.statistics(
            raw, since=BEGAN + calls * PACE - 30 * 86_400, until=BEGAN + calls * PACE
        ),
    }


def best(measured: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of processor time of the best of some runs."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        measured()
        found.append(time.process_time() - began)
    return min(found)


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--store", type=Path, help="Keep the store here, or measure the one that is there.")
    wanted, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        path = wanted.store or Path(directory) / "gateway.db"
        public = path.with_name(path.name + ".pub")
        if not path.exists():
            signer, began = Signer.fresh(), time.perf_counter()
            fill(path, wanted.calls, signer)
            public.write_text(signer.public.pem)
            print(f"filled in {time.perf_counter() - began:.0f} s")
        with read_only(path) as raw:
            calls = int(raw.execute("SELECT count(*) FROM calls").fetchone()[0])
            print(f"{calls:,} calls, {path.stat().st_size / calls:,.0f} bytes of store a call")
            for title, question in questions(calls).items():
                took = best(lambda question=question: question(raw))  # type: ignore[misc]
                print(f"{title:<60} {took * 1000:>9.2f} ms{'  SLOW' if took > 0.05 else ''}")
            for title, payloads in (("chain, payloads, signatures", True), ("chain and signatures", False)):
                signatures = Signatures([load_public(public.read_bytes())])
                before, began = processor_seconds(), time.perf_counter()
                found = queries.verify(raw, payloads=payloads, signatures=signatures)
                took, used = time.perf_counter() - began, processor_seconds() - before
                assert found.fault is None, found.fault
                print(
                    f"verify, {title}: {found.records / took:,.0f} records a second,"
                    f" {found.records / used:,.0f} a second of processor time"
                )


if __name__ == "__main__":
    main()
