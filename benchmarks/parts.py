"""Where a call's time goes: what a read costs with everything on, and how much less without one part.

``python -m benchmarks.parts [--in-flight N] [--calls N] [--rounds N]``

In this process, from the ASGI application to a bare tool server over HTTP and back; the listener's own cost is left out. Each
variant is a gateway of its own, measured several times in turn with the others, and the best of each counts: what disturbs
only adds. The parts do not add up to the whole, since what runs between them is warmer without them.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import uvloop

from benchmarks import clients
from benchmarks.relay import HEAD, LIMITS, POLICY, TEXT, TOOLS, temporary
from gateway import wiring
from gateway.config import load
from gateway.edge.http import application, mcp_app
from gateway.model.verdict import Completed
from tests.gateway_process import configure, http_server, listening
from tests.running import until

RESULT: Final = Completed(result=b'{"content":[{"type":"text","text":"hello"}],"resultType":"complete"}')


class NoJournal:
    async def begin(self, begin: Any) -> None:
        pass

    async def end(self, end: Any) -> None:
        pass

    async def record(self, type: str, body: Any) -> None:
        pass


class NoServer:
    async def forward(self, call: Any, caller: Any, attempt: Any) -> Completed:
        return RESULT


def whole(runtime: wiring.Runtime) -> None:
    """Nothing is left out."""


def no_journal(runtime: wiring.Runtime) -> None:
    runtime.engine._journal = NoJournal()


def no_store(runtime: wiring.Runtime) -> None:
    """Encoded and spooled, but not committed."""
    runtime.journal._transact = lambda batch: None  # type: ignore[method-assign]


def no_policy(runtime: wiring.Runtime) -> None:
    runtime.engine.stages = tuple(stage for stage in runtime.engine.stages if stage.name != "authorize")


def no_stages(runtime: wiring.Runtime) -> None:
    """But for `resolve`, without which there is no call."""
    runtime.engine.stages = tuple(stage for stage in runtime.engine.stages if stage.name == "resolve")


def no_events(runtime: wiring.Runtime) -> None:
    runtime.events.publish = lambda event: None  # type: ignore[method-assign]


def no_server(runtime: wiring.Runtime) -> None:
    runtime.engine._forwarder = NoServer()


def edge_alone(runtime: wiring.Runtime) -> None:
    async def answer(call: Any, caller: Any) -> Completed:
        return RESULT

    runtime.gateway._execute = answer


VARIANTS: Final[dict[str, Callable[[wiring.Runtime], None]]] = {
    "everything": whole,
    "without the journal": no_journal,
    "without its commits": no_store,
    "without the stages": no_stages,
    "without the policy": no_policy,
    "without events": no_events,
    "without a tool server": no_server,
    "the edge alone": edge_alone,
}


@dataclass(slots=True)
class Cost:
    """Microseconds a call, the best of all rounds."""

    wall: float = float("inf")
    process: float = float("inf")
    """Processor time of all threads."""
    loop: float = float("inf")
    """Of the event loop's thread."""


class Subject:
    """One gateway, and the request that it is given again and again."""

    def __init__(self, runtime: wiring.Runtime, app: Any) -> None:
        self._app = app
        self._body = orjson.dumps(clients.call("echo", TEXT, modern=True))
        self._answers: list[bytes] = []
        headers = {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": clients.MODERN,
            "mcp-method": "tools/call",
            "mcp-name": "echo",
            "content-length": str(len(self._body)),
        }
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "extensions": {"gateway.answer": self._answer},
        }

    def _answer(self, status: int, headers: Any, body: bytes) -> bool:
        self._answers.append(body)
        return True

    async def _call(self) -> None:
        parts = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError(message)

        await self._app(self._scope, receive, send)
        await asyncio.sleep(0)

    async def measure(self, calls: int, in_flight: int, cost: Cost) -> None:
        async def worker() -> None:
            for _ in range(calls // in_flight):
                await self._call()

        self._answers.clear()
        clocks = (time.perf_counter, time.process_time, time.thread_time)
        before = [clock() for clock in clocks]
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(worker())
        count = len(self._answers)
        used = [(clock() - began) * 1e6 / count for clock, began in zip(clocks, before, strict=True)]
        cost.wall, cost.process, cost.loop = map(min, (cost.wall, cost.process, cost.loop), used)
        clients.checked(self._answers[-1])


@contextmanager
def configured(url: str) -> Iterator[Any]:
    with temporary() as directory:
        yield load(configure(directory, http_server("echo", url, **LIMITS) + TOOLS, policies=POLICY, head=HEAD))


async def run(calls: int, in_flight: int, rounds: int) -> dict[str, Cost]:
    """What each variant costs."""
    costs = {name: Cost() for name in VARIANTS}
    with listening("benchmarks.targets", "bare") as url:
        async with AsyncExitStack() as stack:
            subjects: dict[str, Subject] = {}
            for name, leave_out in VARIANTS.items():
                configuration = stack.enter_context(configured(url))
                runtime = await stack.enter_async_context(wiring.build(configuration, watch=False))
                await until(lambda runtime=runtime: all(each.state == "available" for each in runtime.servers.states()))
                leave_out(runtime)
                mcp = mcp_app(runtime.gateway, runtime.edge)
                await stack.enter_async_context(mcp.running())
                subjects[name] = Subject(runtime, application(mcp))
                await subjects[name].measure(4 * in_flight, in_flight, Cost())
            wiring.settle_memory()
            for _ in range(rounds):
                for name, subject in subjects.items():
                    await subject.measure(calls, in_flight, costs[name])
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--calls", type=int, default=480, help="of one variant in one round")
    parser.add_argument("--rounds", type=int, default=12)
    options, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    costs = uvloop.run(run(options.calls, options.in_flight, options.rounds))
    everything = costs["everything"]
    print(f"{options.in_flight} in flight, µs a call{'':<11} {'wall':>6} {'process':>8} {'loop':>6} {'less':>6}")
    for name, cost in costs.items():
        less = "" if cost is everything else f"{everything.process - cost.process:6.0f}"
        print(f"{name:<35} {cost.wall:6.0f} {cost.process:8.0f} {cost.loop:6.0f} {less:>6}")


if __name__ == "__main__":
    main()
