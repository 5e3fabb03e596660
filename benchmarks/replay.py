"""How fast recorded questions are judged again: `python -m benchmarks.replay [--calls 20000]`.

A store with that many recorded calls is made by the journal itself; then `policy backtest` runs on it with one process and
with one a core. What is measured is the whole of it: reading the store, the old policy's answer and the candidate's. Then: what a
record costs to encode, and what looking through it for the configuration's secrets adds.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import anyio

from gateway.adapters import queries, records
from gateway.adapters.journal import open_journal
from gateway.adapters.policy_embedded import embedded_policy
from gateway.adapters.policy_files import read_policies
from gateway.adapters.sqlite import read_only
from gateway.adapters.system import SystemClock
from gateway.decide.policy import Denied, interpret, question
from gateway.model.call import Principal, Risk
from gateway.model.ids import new_id
from gateway.model.recording import CallFilter, RecordingSettings
from gateway.model.value import replace
from gateway.model.verdict import Completed, Refused, Step
from gateway.ports import End
from gateway.replay.backtest import backtest
from gateway.replay.judging import Item

PRINCIPALS = (
    Principal(id="local", roles=("local",)),
    Principal(id="claude", roles=("reader",)),
    Principal(id="ci", roles=("writer",)),
)

STEPS = [
    Step(stage=stage, verdict="proceed", elapsed_us=40)
    for stage in (
        "resolve",
        "interrupt",
        "validate",
        "authorize",
        "deduplicate",
        "hold",
        "quota",
        "breaker",
        "bulkhead",
    )
]

POLICIES = Path(__file__).parent.parent / "policies"


async def record(store: Path, calls: int) -> None:
    """A store of so many calls of three agents, judged by the shipped policies."""
    from tests import building

    policy = embedded_policy(POLICIES)
    clock = SystemClock()
    async with open_journal(
        store, clock=clock, durability="process", settings=RecordingSettings(), kinds={}
    ) as journal:
        await journal.keep("policy", policy.document())
        for number in range(calls):
            arguments = {"repo_path": "/srv/repo", "max_count": number % 50, "message": "a commit message " * 4}
            call = building.call(
                building.tool(risk=(Risk.READ, Risk.WRITE, Risk.EXTERNAL)[number % 3]),
                arguments,
                id=new_id(),
                params={"name": "git__git_log", "arguments": arguments},
                principal=PRINCIPALS[number % 3],
                snapshot=replace(building.snapshot(), policy=policy),
            )
            asked = question(call, [{"tool": "git/git_log", "outcome": "completed", "code": None, "time": "x"}] * 20)
            answer = await policy.decide(asked, timeout_seconds=1)
            decision = interpret(answer)
            facts = {"question": asked, "answer": answer, "revision": policy.revision, "decision_id": f"{call.id}.1"}
            denied = isinstance(decision, Denied)
            step = Step(stage="authorize", verdict="refuse" if denied else "proceed", elapsed_us=40, facts=facts)
            outcome = (
                Refused(stage="authorize", code=decision.code, message=decision.message, policy=decision.policy)
                if isinstance(decision, Denied)
                else Completed(result=b'{"content":[{"type":"text","text":"done"}]}')
            )
            now = clock.time_ns() / 1e9
            await journal.end(
                End(call=call, steps=[step], outcome=outcome, attempt=None, began=False, at=now, elapsed_us=900)
            )


def measure(store: Path, jobs: int) -> tuple[float, float]:
    """Calls judged a second: by the clock, and by the processor time of this process (all of it, with one)."""
    with read_only(store) as raw:
        began, used = time.perf_counter(), time.process_time()
        items = (Item(*pair) for pair in queries.read_requests(raw, CallFilter()))
        tally = backtest(
            items, read_policies(POLICIES), "gateway/decision", queries.read_snapshots(raw, "policy"), jobs=jobs
        )
        elapsed, used = time.perf_counter() - began, time.process_time() - used
    assert tally.reproduced == tally.calls
    assert not tally.changed
    return tally.calls / elapsed, tally.calls / used


def encoding(count: int, calls: int = 3000) -> float:
    """Microseconds for one call's record, looked through for so many secrets; the best of five."""
    from gateway.config import secrets
    from gateway.config.secrets import SecretRegistry
    from tests import building

    registry = SecretRegistry()
    for number in range(count):
        registry.add(f"secret-{number:02}-{'0123456789abcdef' * 2}")
    arguments = {"repo_path": "/srv/repo", "max_count": 10}
    call = building.call(building.tool(), arguments, params={"name": "git__git_log", "arguments": arguments})
    outcome = Completed(result=b'{"content":[{"type":"text","text":"%s"}]}' % (b"commit 0123 " * 40))
    finished = End(call=call, steps=STEPS, outcome=outcome, attempt=None, began=False, at=1.0, elapsed_us=900)
    found: list[float] = []
    before = secrets.REGISTRY
    vars(records)["REGISTRY"] = registry
    try:
        for _ in range(5):
            began = time.process_time()
            for _ in range(calls):
                records.encode_end(finished, RecordingSettings())
            found.append((time.process_time() - began) / calls * 1e6)
    finally:
        vars(records)["REGISTRY"] = before
    return min(found)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=20_000)
    wanted, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "gateway.db"
        anyio.run(record, store, wanted.calls)
        size = store.stat().st_size / wanted.calls
        print(f"{wanted.calls} calls, {size:.0f} bytes of store a call")
        for jobs in dict.fromkeys((1, os.cpu_count() or 1)):
            by_clock, by_processor = measure(store, jobs)
            of = f", {by_processor:,.0f} a second of processor time" if jobs == 1 else ""
            print(f"backtest, {jobs} process{'es' if jobs > 1 else ''}: {by_clock:,.0f} calls a second{of}")
        for count in (0, 1, 5, 20):
            print(f"encoding a call's record with {count:>2} secrets known: {encoding(count):.1f} µs of processor time")


if __name__ == "__main__":
    main()
