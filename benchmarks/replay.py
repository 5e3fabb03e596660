"""How fast recorded questions are judged again: `python -m benchmarks.replay [--calls 20000]`.

A store with that many recorded calls is made by the journal itself; then `policy backtest` runs on it with one process and
with one a core. What is measured is the whole of it: reading the store, the old policy's answer and the candidate's.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import anyio

from gateway.adapters import queries
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


def measure(store: Path, jobs: int) -> float:
    """Calls judged a second."""
    with read_only(store) as raw:
        began = time.perf_counter()
        items = (Item(*pair) for pair in queries.read_requests(raw, CallFilter()))
        tally = backtest(
            items, read_policies(POLICIES), "gateway/decision", queries.read_snapshots(raw, "policy"), jobs=jobs
        )
        elapsed = time.perf_counter() - began
    assert tally.reproduced == tally.calls
    assert not tally.changed
    return tally.calls / elapsed


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=20_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "gateway.db"
        anyio.run(record, store, wanted.calls)
        size = store.stat().st_size / wanted.calls
        print(f"{wanted.calls} calls, {size:.0f} bytes of store a call")
        for jobs in dict.fromkeys((1, os.cpu_count() or 1)):
            print(f"backtest, {jobs} process{'es' if jobs > 1 else ''}: {measure(store, jobs):,.0f} calls a second")


if __name__ == "__main__":
    main()
