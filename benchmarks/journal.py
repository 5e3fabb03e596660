"""The journal's cost: `python -m benchmarks.journal [--calls N]`.

One call is a begin, which is waited for, and an end. Beside each figure stands what the machine asks for the least that
could be done: one transaction with one small row in the same thread, and one `fdatasync`. Quote ratios, not figures.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.adapters import queries
from gateway.adapters.journal import open_journal
from gateway.adapters.sqlite import read_only
from gateway.adapters.system import SystemClock
from gateway.control import new_id
from gateway.model.call import Call, Client, Principal, Risk, TargetType
from gateway.model.snapshot import EMPTY_CATALOGUE, Entry, Snapshot
from gateway.model.verdict import Completed, Step
from gateway.ports import Attempt, Begin, End

RESULT = Completed(result=json.dumps({"content": [{"type": "text", "text": "commit " + "0" * 200}]}).encode())
QUESTION = {"version": 1, "subject": {"id": "claude"}, "action": {"name": "tools/call"}, "context": {"recent": []}}


class Policy:
    """A revision is all that a record needs of it."""

    revision = "0" * 64


SNAPSHOT = Snapshot(
    number=1, configuration_sha256="0" * 64, catalogue=EMPTY_CATALOGUE, policy=Policy()  # type: ignore[arg-type]
)  # fmt: skip
ENTRY = Entry(
    type=TargetType.TOOL, server="git", name="git_log", exposed="git__git_log", definition={}, definition_sha256="0" * 64
)  # fmt: skip


def a_call(risk: Risk) -> Call:
    """A call as `resolve` leaves it."""
    arguments = {"repo_path": "/srv/repository", "max_count": 10}
    now = time.time_ns()
    return Call(
        id=new_id(),
        method="tools/call",
        type=TargetType.TOOL,
        target="git__git_log",
        arguments=arguments,
        received_arguments=arguments,
        params={"name": "git__git_log", "arguments": arguments},
        meta={},
        principal=Principal(id="claude", roles=("reader",)),
        session_id="session",
        client=Client(name="bench"),
        snapshot=SNAPSHOT,
        received_at=now / 1e9,
        time_ns=now,
        entry=ENTRY,
        server="git",
        name="git_log",
        risk=risk,
    )


def steps(call: Call) -> list[Step]:
    """A trail with a policy decision."""
    facts = {
        "question": {**QUESTION, "arguments": call.arguments, "meta": call.meta},
        "answer": {"allow": True},
        "revision": Policy.revision,
    }
    return [
        Step(stage="resolve", verdict="proceed", elapsed_us=5),
        Step(stage="authorize", verdict="proceed", elapsed_us=60, facts=facts),
    ]


async def measure(directory: Path, durability: Any, in_flight: int, calls: int) -> dict[str, float]:
    """Calls in `in_flight` rows, one after another in each."""
    waits: list[float] = []
    risk = Risk.READ if durability == "process" else Risk.WRITE
    async with open_journal(directory / "bench.db", clock=SystemClock(), durability=durability) as journal:

        async def row() -> None:
            for _ in range(calls // in_flight):
                call = a_call(risk)
                trail = steps(call)
                before = time.perf_counter()
                await journal.begin(Begin(call=call, steps=trail, at=call.received_at))
                waits.append(time.perf_counter() - before)
                await asyncio.sleep(0)  # the tool server
                attempt = Attempt(sent=True)
                await journal.end(
                    End(
                        call=call,
                        steps=trail,
                        outcome=RESULT,
                        attempt=attempt,
                        began=True,
                        at=call.received_at,
                        elapsed_us=1000,
                    )
                )

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[row() for _ in range(in_flight)])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    waits.sort()
    return {
        "begin_p50_us": waits[len(waits) // 2] * 1e6,
        "begin_p95_us": waits[int(len(waits) * 0.95)] * 1e6,
        "events_per_second": 2 * len(waits) / wall,
        "cpu_us_per_call": cpu / len(waits) * 1e6,
    }


def transaction_us(directory: Path, synchronous: str) -> float:
    """The least: one row of 1 KiB in one transaction, nothing else."""
    raw = sqlite3.connect(directory / "least.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute(f"PRAGMA synchronous={synchronous}")
    raw.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, data BLOB)")

    def one() -> None:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT INTO t (data) VALUES (?)", (b"x" * 1024,))
        raw.execute("COMMIT")

    found = median_us(one)
    raw.close()
    return found


def fdatasync_us(directory: Path) -> float:
    """What the disk asks."""
    with (directory / "sync").open("wb") as file:

        def one() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())

        return median_us(one, 200)


def median_us(function: Callable[[], object], count: int = 1000) -> float:
    found = []
    for _ in range(count):
        before = time.perf_counter()
        function()
        found.append(time.perf_counter() - before)
    return statistics.median(found) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=6400)
    parser.add_argument("--json", action="store_true")
    options, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        directory = Path(name)
        found["fdatasync_us"] = fdatasync_us(directory)
        for durability, synchronous in (("process", "NORMAL"), ("power", "FULL")):
            least = transaction_us(directory, synchronous)
            found[durability] = {"one_transaction_us": least}
            for in_flight in (1, 16, 64):
                store = directory / f"{durability}-{in_flight}"
                store.mkdir()
                calls = options.calls if in_flight > 1 else options.calls // 4
                figures = asyncio.run(measure(store, durability, in_flight, calls))
                figures["begin_p50_in_transactions"] = figures["begin_p50_us"] / least
                found[durability][str(in_flight)] = figures
        last = directory / "process-64" / "bench.db"
        with read_only(last) as raw:
            before = time.perf_counter()
            verification = queries.verify(raw)
            found["verified_records_per_second"] = verification.records / (time.perf_counter() - before)
            before = time.perf_counter()
            queries.verify(raw, payloads=False)
            found["verified_records_per_second_chain_alone"] = verification.records / (time.perf_counter() - before)
        found["bytes_per_call"] = last.stat().st_size / (options.calls // 64 * 64)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"fdatasync                      {found['fdatasync_us']:9.0f} us")
    for durability in ("process", "power"):
        print(f"{durability}: one transaction alone {found[durability]['one_transaction_us']:9.0f} us")
        for label, figures in list(found[durability].items())[1:]:
            print(
                f"  {label:>2} in flight: begin p50 {figures['begin_p50_us']:7.0f} us"
                f" ({figures['begin_p50_in_transactions']:.1f} transactions), p95 {figures['begin_p95_us']:7.0f} us,"
                f" {figures['events_per_second']:7.0f} events/s, {figures['cpu_us_per_call']:5.0f} us CPU a call"
            )
    print(f"verified: {found['verified_records_per_second']:.0f} records/s with payloads,", end=" ")
    print(f"{found['verified_records_per_second_chain_alone']:.0f} the chain alone")
    print(f"store: {found['bytes_per_call']:.0f} bytes a call")


if __name__ == "__main__":
    main()
