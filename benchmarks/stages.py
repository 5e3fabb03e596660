"""What each stage of the chain costs, in microseconds, with ten quotas and five interrupts that all match.

``python -m benchmarks.stages [--calls N] [--json FILE]``

A whole gateway is built, with the shipped policies, around an echo tool server on stdio; the same call is made N times, and each
stage's time is what the trail of the call says (admit) and what a clock around its settle says. Medians over the calls.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio

from gateway import wiring
from gateway.config import load
from gateway.model.call import LOCAL, Call, Client
from gateway.model.verdict import Completed, Outcome, Verdict
from gateway.ports import Settlement, Stage

QUOTAS = "".join(
    f'[[quotas]]\nmatch = {{ agent = "*", tool = "echo/*" }}\nper = "{per}"\nlimit = 100000000\nwindow = "{window}"\n'
    for per in ("agent", "session", "server", "tool", "gateway")
    for window in ("1h", "1d")
)
INTERRUPTS = "".join(
    f'[[interrupts]]\nname = "rule-{number}"\nwhen = {when}\nthen = "deny"\n'
    for number, when in enumerate(
        (
            '{ identical_calls = 100000000, within = "60s" }',
            '{ failures = 1000, within = "60s" }',
            '{ distinct_tools = 1000, within = "60s" }',
            '{ result_bytes = 1000000000000, within = "60s" }',
            '{ sequence = ["echo/*", "mail/send"], within = "60s" }',
        )
    )
)


class Timed:
    """A stage with a clock around it."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.name = stage, stage.name
        self.admits: list[int] = []
        self.settles: list[int] = []

    async def admit(self, call: Call) -> Verdict:
        before = time.perf_counter_ns()
        verdict = await self.stage.admit(call)
        self.admits.append(time.perf_counter_ns() - before)
        return verdict

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        before = time.perf_counter_ns()
        settlement = await self.stage.settle(call, outcome)
        self.settles.append(time.perf_counter_ns() - before)
        return settlement


class Quiet:
    """A client that hears nothing."""

    capabilities: Mapping[str, Any] = {}
    wants_progress = False
    log_level: str | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        pass

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return {}


async def measured(calls: int) -> dict[str, tuple[float, float]]:
    """Medians of admit and settle, in microseconds, by stage."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "servers.toml"
        command = json.dumps(sys.executable)
        config.write_text(
            f'[servers.echo]\ncommand = {command}\nargs = ["-m", "benchmarks.targets", "bare", "--stdio"]\n'
            f'cwd = {json.dumps(str(Path(__file__).parents[1]))}\nrisk = "read"\nisolation = "shared"\n{QUOTAS}{INTERRUPTS}'
        )
        async with wiring.build(load(config), watch=False) as runtime:
            with anyio.fail_after(30):
                while not all(state.state == "available" for state in runtime.servers.states()):  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            timed = tuple(Timed(stage) for stage in runtime.engine.stages)
            runtime.engine.stages = timed
            execute: Callable[[Call, Quiet], Awaitable[Outcome]] = runtime.gateway.execute
            for _ in range(calls):
                call = runtime.gateway.call(
                    method="tools/call",
                    params={"name": "echo__echo", "arguments": {"text": "hello"}},
                    principal=LOCAL,
                    session_id="bench",
                    client=Client(name="bench"),
                )
                outcome = await execute(call, Quiet())
                assert isinstance(outcome, Completed), outcome
    return {
        stage.name: (statistics.median(stage.admits[100:]) / 1000, statistics.median(stage.settles[100:]) / 1000)
        for stage in timed
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    found = anyio.run(measured, options.calls)
    print("stage           admit µs  settle µs")
    for name, (admit, settle) in found.items():
        print(f"{name:14} {admit:9.1f} {settle:10.1f}")
    print(f"{'all':14} {sum(a for a, _ in found.values()):9.1f} {sum(s for _, s in found.values()):10.1f}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
