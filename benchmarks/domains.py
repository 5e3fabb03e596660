"""What reads feel of an external tool that hangs: p95 of a read with and without, in one run.

``python -m benchmarks.domains [--seconds S] [--rounds N] [--json FILE]``

One gateway, two tool servers: an echo whose calls are reads, and one whose tool never answers, with the risk `external`. Reads
are measured alone and beside as many hanging calls as the external pool takes, with more waiting in its queue, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop

from benchmarks import clients
from benchmarks.relay import LIMITS, MOST_CALLS, http_exchanges, load, temporary
from tests.gateway_process import configure, http_server, listening, serve, stdio_server
from tests.scripted_server import Scripted, tool

POOLS = (
    "\n[pools]\nread = { max_concurrency = 64 }\nexternal = { max_concurrency = 4, queue = 16, queue_seconds = 600 }\n"
)
HANGING, READING = 12, 8


@asynccontextmanager
async def hanging(url: str, count: int) -> AsyncIterator[None]:
    """So many calls of the tool that never answers, on their way or in the queue, until the end of the block."""
    async with AsyncExitStack() as stack:
        tasks = []
        for _ in range(count):
            connection = await clients.HttpConnection.open(url)
            stack.callback(connection.close)
            prepared = connection.prepare(
                clients.request("tools/call", {"name": "slow__mail", "arguments": {}}, modern=True)
            )
            tasks.append(asyncio.create_task(connection.send(prepared)))
        await asyncio.sleep(0.5)
        for task in tasks:
            if task.done():
                raise clients.Wrong(f"a call that was to hang was answered: {task.result()}")
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(seconds: float, rounds: int) -> dict[str, float]:
    """p50 and p95 of reads alone and beside hanging calls, in milliseconds, and the ratio."""
    with temporary() as directory, listening("benchmarks.targets", "bare") as echo:
        server = Scripted(directory / "server", {"tools": [tool("mail")], "on": {"tools/call:mail": [{"hang": True}]}})
        servers = http_server("echo", echo, **LIMITS) + stdio_server(
            "slow", server.command, server.args, risk="external", isolation="shared", timeout_seconds=600
        )
        with serve(configure(directory, servers + POOLS)) as gateway:
            alone, beside = [], []
            async with AsyncExitStack() as stack:
                reads = await http_exchanges(stack, gateway.url, READING, "echo__echo", modern=True)
                await load(reads, min(0.5, seconds))
                for _ in range(rounds):
                    alone.append(await load(reads, seconds))
                    async with hanging(gateway.url, HANGING):
                        beside.append(await load(reads, seconds))
    assert sum(sample.calls for sample in beside) < MOST_CALLS * rounds
    p95 = [statistics.median(sample.p95_ms for sample in samples) for samples in (alone, beside)]
    p50 = [statistics.median(sample.p50_ms for sample in samples) for samples in (alone, beside)]
    return {
        "alone_p50_ms": p50[0], "beside_p50_ms": p50[1], "alone_p95_ms": p95[0], "beside_p95_ms": p95[1],
        "p95_ratio": p95[1] / p95[0],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for one measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments, _ = parser.parse_known_args()
    with contextlib.suppress(KeyboardInterrupt):
        figures = uvloop.run(run(arguments.seconds, arguments.rounds))
        print(
            f"reads, {READING} in flight, alone            p50 {figures['alone_p50_ms']:.3f} ms, p95 {figures['alone_p95_ms']:.3f} ms"
        )
        print(
            f"beside {HANGING} external calls that hang       p50 {figures['beside_p50_ms']:.3f} ms, p95 {figures['beside_p95_ms']:.3f} ms"
        )
        print(f"p95 {figures['p95_ratio']:.2f}x")
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
        return 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
