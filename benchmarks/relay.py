"""What a ``tools/call`` costs through the gateway, against the same call made directly.

``python -m benchmarks.relay [--seconds S] [--rounds N] [--only NAME ...] [--json FILE]``

The gateway runs as a user has it: policy, validation and journal on. Each point is measured directly and through the gateway
in turn, several rounds, and the medians over the rounds are compared: on a machine that others use, too, only the ratios say
anything. The client is a raw one (`benchmarks.clients`), so that it is not the bottleneck; beside it
stand clients that use an HTTP library (aiohttp; httpx2, as the MCP SDK's own client does).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx2
import orjson
import uvloop

from benchmarks import clients
from tests.gateway_process import PROGRAM, configure, http_server, listening, serve, stdio_server

ROOT: Final = Path(__file__).parents[1]
IN_FLIGHT: Final = (1, 16, 64)
TEXT: Final = "the quick brown fox jumps over the lazy dog"
MOST_CALLS: Final = 20_000
"""of one point, however fast the machine is"""

POLICY: Final = {
    "gateway.rego": """package gateway

import rego.v1

default allow := false

allow if {
\t"local" in input.subject.roles
\tinput.resource.risk in {"read", "write"}
}

deny contains {"code": "secret", "message": "the text looks like a secret"} if {
\tstartswith(object.get(input.arguments, "text", ""), "sk-")
}

decision := {"allow": allow, "deny": deny, "hold": set(), "obligations": set()}
"""
}
"""As small as a real one: it looks at the principal, the risk and an argument."""

Exchange = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One point, measured once."""

    p50_ms: float
    p95_ms: float
    calls_per_second: float
    calls: int = 0


@dataclass(slots=True)
class Point:
    """One point: both sides over all rounds."""

    name: str
    in_flight: int
    direct: list[Sample] = field(default_factory=list)
    gateway: list[Sample] = field(default_factory=list)
    rss_mib: float = 0.0
    cpu_ms: float = 0.0
    """of the gateway's process, a call: says most on a machine that others use, too"""

    @staticmethod
    def median(samples: list[Sample]) -> Sample:
        fields = ("p50_ms", "p95_ms", "calls_per_second")
        return Sample(*(statistics.median(getattr(sample, name) for sample in samples) for name in fields))

    @property
    def p50_ratio(self) -> float:
        return self.median(self.gateway).p50_ms / self.median(self.direct).p50_ms

    @property
    def throughput(self) -> float:
        return self.median(self.gateway).calls_per_second / self.median(self.direct).calls_per_second

    def __str__(self) -> str:
        direct, gateway = self.median(self.direct), self.median(self.gateway)
        return (
            f"{self.name:<28} {self.in_flight:>3} "
            f"{direct.p50_ms:>8.3f} {direct.p95_ms:>8.3f} {direct.calls_per_second:>8.0f} "
            f"{gateway.p50_ms:>8.3f} {gateway.p95_ms:>8.3f} {gateway.calls_per_second:>8.0f} "
            f"{self.p50_ratio:>7.2f}x {self.throughput:>6.0%} {self.cpu_ms:>7.3f} {self.rss_mib:>6.0f}"
        )


HEADER: Final = (
    f"{'':<28} {'in':>3} {'direct':>26} {'through the gateway':>26}\n"
    f"{'':<28} {'flt':>3} {'p50 ms':>8} {'p95 ms':>8} {'calls/s':>8} {'p50 ms':>8} {'p95 ms':>8} {'calls/s':>8} "
    f"{'p50':>8} {'calls':>6} {'cpu ms':>7} {'MiB':>6}"
)


async def load(exchanges: list[Exchange], seconds: float) -> Sample:
    """As many calls as there is time for, one after the other on each of `exchanges`."""
    latencies: list[float] = []
    clock = time.perf_counter
    began = clock()
    until = began + seconds
    share = MOST_CALLS // len(exchanges)

    async def worker(exchange: Exchange) -> None:
        for _ in range(share):
            start = clock()
            if start > until:
                return
            await exchange()
            latencies.append(clock() - start)

    async with asyncio.timeout(seconds * 4 + 20), asyncio.TaskGroup() as group:
        for exchange in exchanges:
            group.create_task(worker(exchange))
    elapsed = clock() - began
    latencies.sort()
    count = len(latencies)
    return Sample(latencies[count // 2] * 1000, latencies[int(count * 0.95)] * 1000, count / elapsed, count)


# ------------------------------------------------------------------------------------------------ the two sides


async def http_exchanges(stack: AsyncExitStack, url: str, count: int, tool: str, *, modern: bool) -> list[Exchange]:
    """`count` kept-alive connections, each with its call prepared."""
    exchanges: list[Exchange] = []
    for _ in range(count):
        connection = await clients.HttpConnection.open(url, modern=modern)
        stack.callback(connection.close)
        prepared = connection.prepare(clients.call(tool, TEXT, modern=modern))
        exchanges.append(_bound(connection.exchange, prepared))
    return exchanges


async def library_exchanges(stack: AsyncExitStack, url: str, count: int, tool: str, *, modern: bool) -> list[Exchange]:
    """The same calls as a client makes them that uses an HTTP library (aiohttp), which serialises and parses each."""
    assert modern
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=count, force_close=False))
    )
    message, headers = clients.call(tool, TEXT, modern=True), _headers(tool)

    async def exchange() -> None:
        async with session.post(url, data=orjson.dumps(message), headers=headers) as answer:
            body = await answer.read()
        clients.checked(body)
        orjson.loads(body)

    return [exchange] * count


async def sdk_library_exchanges(
    stack: AsyncExitStack, url: str, count: int, tool: str, *, modern: bool
) -> list[Exchange]:
    """The same calls with the HTTP library on which the MCP SDK's own client stands (httpx2)."""
    assert modern
    limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count)
    client = await stack.enter_async_context(httpx2.AsyncClient(limits=limits, timeout=30, trust_env=False))
    message, headers = clients.call(tool, TEXT, modern=True), _headers(tool)

    async def exchange() -> None:
        answer = await client.post(url, content=orjson.dumps(message), headers=headers)
        clients.checked(answer.content)
        orjson.loads(answer.content)

    return [exchange] * count


def _headers(tool: str) -> dict[str, str]:
    return {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": clients.MODERN,
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }


def _bound(exchange: Callable[[bytes], Awaitable[None]], prepared: bytes) -> Exchange:
    return lambda: exchange(prepared)


async def stdio_exchanges(peer: clients.StdioPeer, count: int, tool: str) -> list[Exchange]:
    """`count` calls in flight on one child."""
    prepared = peer.prepare(clients.call(tool, TEXT, modern=peer.modern))
    return [_bound(peer.exchange, prepared)] * count


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    answer = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(answer.stdout or 0) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time that a process used so far, all its threads; 0 where the system does not say it finely enough."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def compare(
    name: str,
    in_flight: tuple[int, ...],
    direct: Callable[[AsyncExitStack, int], Awaitable[list[Exchange]]],
    gateway: Callable[[AsyncExitStack, int], Awaitable[list[Exchange]]],
    pid: Callable[[], int],
    options: Options,
) -> list[Point]:
    """Measures both sides in turn and prints each point as it is done."""
    points = []
    for count in in_flight:
        point = Point(name, count)
        async with AsyncExitStack() as stack:
            sides = [(await direct(stack, count), point.direct), (await gateway(stack, count), point.gateway)]
            for exchanges, _ in sides:
                await load(exchanges, min(0.3, options.seconds))
            used = cpu_seconds(pid())
            for _ in range(options.rounds):
                for exchanges, samples in sides:
                    samples.append(await load(exchanges, options.seconds))
        point.cpu_ms = (cpu_seconds(pid()) - used) * 1000 / sum(sample.calls for sample in point.gateway)
        point.rss_mib = rss_mib(pid())
        print(point, flush=True)
        points.append(point)
    return points


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    rounds: int
    only: tuple[str, ...]

    def wants(self, name: str) -> bool:
        return not self.only or any(part in name for part in self.only)


# ------------------------------------------------------------------------------------------------ what is measured

TOOLS: Final = '[servers.echo.tools.write]\nrisk = "write"\n'
HEAD: Final = 'tool_names = "{tool}"'
# What is measured is the relay, not the queue in front of a server that takes 16 calls at a time.
LIMITS: Final = {"max_concurrency": 128}


@contextmanager
def temporary() -> Iterator[Path]:
    # Beside the repository rather than in /tmp, which is memory on many machines: the journal's fsync must be a real one.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as directory:
        yield Path(directory)


async def over_http(
    name: str,
    target: str,
    options: Options,
    *,
    tool: str = "echo",
    era: str = "modern",
    exchanges: Callable[..., Awaitable[list[Exchange]]] = http_exchanges,
) -> list[Point]:
    """HTTP in, HTTP out."""
    in_flight = IN_FLIGHT if era == "modern" and tool == "echo" else (1, 16)
    modern = era == "modern"
    with temporary() as directory, listening("benchmarks.targets", target) as url:
        config = configure(directory, http_server("echo", url, **LIMITS) + TOOLS, policies=POLICY, head=HEAD)
        with serve(config) as gateway:
            return await compare(
                name,
                in_flight,
                lambda stack, count: exchanges(stack, url, count, tool, modern=modern),
                lambda stack, count: exchanges(stack, gateway.url, count, tool, modern=modern),
                lambda: gateway.pid,
                options,
            )


def target_command(target: str) -> tuple[str, list[str]]:
    # By path: a child of the gateway has neither our working directory nor our environment.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.targets import main; main()"
    return sys.executable, ["-c", code, target, "--stdio"]


async def http_to_stdio(name: str, target: str, options: Options) -> list[Point]:
    """HTTP in, stdio out; the direct side is the child itself."""
    command, args = target_command(target)
    with temporary() as directory:
        config = configure(directory, stdio_server("echo", command, args, **LIMITS) + TOOLS, policies=POLICY, head=HEAD)
        with serve(config) as gateway:
            peer = await clients.StdioPeer.open([command, *args])
            try:
                return await compare(
                    name,
                    IN_FLIGHT,
                    lambda _, count: stdio_exchanges(peer, count, "echo"),
                    lambda stack, count: http_exchanges(stack, gateway.url, count, "echo", modern=True),
                    lambda: gateway.pid,
                    options,
                )
            finally:
                await peer.close()


async def stdio_to_stdio(name: str, target: str, options: Options) -> list[Point]:
    """stdio in, stdio out, as a desktop client has it."""
    command, args = target_command(target)
    with temporary() as directory:
        config = configure(directory, stdio_server("echo", command, args, **LIMITS) + TOOLS, policies=POLICY, head=HEAD)
        peer = await clients.StdioPeer.open([command, *args])
        with (directory / "gateway.log").open("wb") as log:
            through = await clients.StdioPeer.open([*PROGRAM, "stdio", "--config", str(config)], log=log)
        try:
            return await compare(
                name,
                IN_FLIGHT,
                lambda _, count: stdio_exchanges(peer, count, "echo"),
                lambda _, count: stdio_exchanges(through, count, "echo"),
                lambda: through.pid,
                options,
            )
        finally:
            await through.close()
            await peer.close()


async def across_eras(name: str, client: str, options: Options) -> list[Point]:
    """A client of one era and a server of the other, against the same client and a server of its own, both through a gateway."""
    modern = client == "modern"
    other = "legacy" if modern else "modern"
    with (
        temporary() as directory,
        listening("benchmarks.targets", "bare", "--era", client) as same,
        listening("benchmarks.targets", "bare", "--era", other) as cross,
    ):
        config = configure(
            directory, http_server("same", same, **LIMITS) + http_server("cross", cross, **LIMITS), policies=POLICY
        )
        with serve(config) as gateway:
            return await compare(
                name,
                (1, 16),
                lambda stack, count: http_exchanges(stack, gateway.url, count, "same__echo", modern=modern),
                lambda stack, count: http_exchanges(stack, gateway.url, count, "cross__echo", modern=modern),
                lambda: gateway.pid,
                options,
            )


def fsync_ms(directory: Path, count: int = 200) -> float:
    """The machine's median time for a 4 KiB append and fsync, where the journals of this benchmark lie."""
    path = directory / "fsync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


async def run(options: Options) -> dict[str, Any]:
    load_average = os.getloadavg()
    print(
        f"load {load_average[0]:.1f} on {os.cpu_count()} cores, {options.rounds} rounds of {options.seconds} s a point"
    )
    with temporary() as directory:
        fsync = fsync_ms(directory)
    print(f"4 KiB append and fsync here: {fsync:.3f} ms\n")
    print(HEADER, flush=True)
    measurements: list[tuple[str, Callable[[str], Awaitable[list[Point]]]]] = [
        ("HTTP→HTTP, bare", lambda name: over_http(name, "bare", options)),
        (
            "HTTP→HTTP, bare, aiohttp",
            lambda name: over_http(name, "bare", options, exchanges=library_exchanges),
        ),
        (
            "HTTP→HTTP, bare, httpx2",
            lambda name: over_http(name, "bare", options, exchanges=sdk_library_exchanges),
        ),
        ("HTTP→HTTP, SDK", lambda name: over_http(name, "sdk", options)),
        ("HTTP→stdio, bare", lambda name: http_to_stdio(name, "bare", options)),
        ("stdio→stdio, bare", lambda name: stdio_to_stdio(name, "bare", options)),
        ("HTTP→HTTP, bare, write", lambda name: over_http(name, "bare", options, tool="write")),
        ("HTTP→HTTP, bare, session", lambda name: over_http(name, "bare", options, era="legacy")),
        # Here the left side is a same-era call through the gateway, so that the ratio is the translation's own cost.
        ("2026 client, 2025 server", lambda name: across_eras(name, "modern", options)),
        ("2025 client, 2026 server", lambda name: across_eras(name, "legacy", options)),
    ]
    points: list[Point] = []
    failed: dict[str, str] = {}
    for name, measure in measurements:
        if not options.wants(name):
            continue
        try:
            points += await measure(name)
        except (AssertionError, clients.Wrong, ConnectionError, TimeoutError, ExceptionGroup) as problem:
            failed[name] = f"{type(problem).__name__}: {problem}"
            print(f"{name:<28} could not be measured: {failed[name][:2000]}", flush=True)
    return {
        "load": load_average,
        "cores": os.cpu_count(),
        "fsync_ms": fsync,
        "points": [
            {"name": p.name, "in_flight": p.in_flight, "p50_ratio": p.p50_ratio, "throughput": p.throughput}
            | {"direct": asdict(p.median(p.direct)), "gateway": asdict(p.median(p.gateway)), "rss_mib": p.rss_mib}
            | {"cpu_ms": p.cpu_ms}
            for p in points
        ],
        "failed": failed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for one measurement of one side (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=(), help="parts of names")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    with contextlib.suppress(KeyboardInterrupt):
        figures = uvloop.run(run(Options(arguments.seconds, arguments.rounds, tuple(arguments.only))))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
        return 1 if figures["failed"] else 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
