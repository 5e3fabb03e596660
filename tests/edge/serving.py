"""A real small gateway for the edges' tests: directory, engine, resolve and validate are the product's, the tool server is
a script. It is served by uvicorn on a free port, or over a pair of in-memory message streams."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx2
import orjson

from gateway.adapters.system import EventFanout, SystemClock
from gateway.control import AgentKey, Gateway
from gateway.directory import PolicyDirectory
from gateway.edge.http import McpApp, application, mcp_app
from gateway.edge.listener import bound, serve_http
from gateway.edge.protocol import CAPABILITIES_KEY, CLIENT_KEY, VERSION_KEY
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import serve_connection
from gateway.engine import Engine
from gateway.model.call import LOCAL, Call, Principal, TargetType
from gateway.model.events import Event
from gateway.model.snapshot import Entry, ServerCatalogue, Snapshot
from gateway.model.value import replace
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Attempt, Begin, Caller, End
from gateway.stages.resolve import Resolve
from gateway.stages.validate import Validate
from tests import building

Play = Callable[[Call, Caller], Awaitable[Outcome]]


def text_result(text: str, **members: Any) -> Completed:
    """A tool's result with one text block."""
    return Completed(result=orjson.dumps({"content": [{"type": "text", "text": text}], **members}))


async def echo(call: Call, caller: Caller) -> Outcome:
    """Answers with the argument `text`."""
    return text_result(str((call.arguments or {}).get("text", "")))


class Script:
    """A `Forwarder` whose tool server is what the test says, by the target's name at the server."""

    def __init__(self, plays: Mapping[str, Play]) -> None:
        self.plays = dict(plays)
        self.calls: list[Call] = []
        self.cancelled: list[str] = []

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        self.calls.append(call)
        attempt.sent = True
        try:
            return await self.plays.get(call.name, echo)(call, caller)
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(call.name)
            raise


class Keeping:
    """A journal in memory."""

    def __init__(self) -> None:
        self.begins: list[Begin] = []
        self.ends: list[End] = []
        self.ended = anyio.Event()
        """A call has ended."""

    async def begin(self, begin: Begin) -> None:
        self.begins.append(begin)

    async def end(self, end: End) -> None:
        self.ends.append(end)
        self.ended.set()

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        raise AssertionError("calls alone are recorded here")


@dataclass(kw_only=True)
class World:
    """A gateway and what a test looks at."""

    gateway: Gateway
    script: Script
    journal: Keeping
    events: EventFanout
    published: list[Event] = field(default_factory=list)

    def told(self, kind: type[Event]) -> anyio.Event:
        """Is set once an event of this kind is published."""
        told = anyio.Event()
        self.events.subscribe(lambda event: told.set() if isinstance(event, kind) else None)
        return told


def prompt(name: str, server: str = "fixture") -> Entry:
    """A prompt's entry."""
    return building.tool(name, server, type=TargetType.PROMPT, definition={"name": name}, arguments=None)


def resource(uri: str, server: str = "fixture") -> Entry:
    """A resource's entry."""
    return building.tool(
        uri, server, type=TargetType.RESOURCE, definition={"uri": uri, "name": f"name of {uri}"}, arguments=None
    )


def world(
    *entries: Entry,
    plays: Mapping[str, Play] | None = None,
    agents: tuple[AgentKey, ...] | None = None,
    policy: Any = None,
    capabilities: Mapping[str, Any] | None = None,
    **snapshot: Any,
) -> World:
    """A gateway over the entries; a tool named `echo` where there are none."""
    events, clock, journal = EventFanout(), SystemClock(), Keeping()
    script = Script(plays or {})
    directory = PolicyDirectory(events, clock)
    engine = Engine(
        stages=(Resolve(directory, events), Validate()), forwarder=script, journal=journal, clock=clock, events=events
    )
    first: Snapshot = building.snapshot(*entries, policy=policy, **snapshot)
    if capabilities is not None:
        first = with_capabilities(first, capabilities)
    gateway = Gateway(
        snapshot=first, agents=agents, execute=engine.execute, directory=directory, clock=clock, events=events
    )
    made = World(gateway=gateway, script=script, journal=journal, events=events)
    events.subscribe(made.published.append)
    return made


def with_capabilities(snapshot: Snapshot, capabilities: Mapping[str, Any]) -> Snapshot:
    """The snapshot with every server saying that it can this."""
    servers: dict[str, ServerCatalogue] = {
        name: replace(server, capabilities=capabilities) for name, server in snapshot.catalogue.servers.items()
    }
    return replace(snapshot, catalogue=replace(snapshot.catalogue, servers=servers))


def agent(name: str, key: str, **changes: Any) -> AgentKey:
    """An agent with this key."""

    return AgentKey(key_sha256=hashlib.sha256(key.encode()).digest(), principal=Principal(id=name, **changes))


# --- HTTP ---


@dataclass(kw_only=True)
class Served:
    """A listening gateway."""

    url: str
    mcp: McpApp
    client: httpx2.AsyncClient

    async def post(self, body: Any, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """POST to /mcp: `body` as JSON, or as the bytes given."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        base = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        return await self.client.post(self.url, content=content, headers={**base, **(headers or {})})

    async def raw(self, lines: Sequence[str], body: bytes) -> tuple[int, bytes]:
        """A POST with these header lines exactly as they are; the status and the rest of what came back."""
        port = int(self.url.split(":")[2].split("/")[0])
        usual = [f"Host: 127.0.0.1:{port}", "Content-Type: application/json", "Connection: close"]
        head = "\r\n".join(["POST /mcp HTTP/1.1", *usual, f"Content-Length: {len(body)}", *lines, "", ""])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(head.encode("latin-1") + body)
            text = b""
            with anyio.fail_after(5):
                async for chunk in stream:
                    text += chunk
        top, _, rest = text.partition(b"\r\n\r\n")
        return int(top.split()[1]), rest

    async def modern(self, method: str, params: Any = None, **changes: Any) -> httpx2.Response:
        """A request of 2026-07-28 with all that it needs; `headers` and `meta` add to it."""
        body, headers = modern_request(method, params, **changes)
        return await self.post(body, headers)

    async def initialize(
        self, version: str = "2025-11-25", headers: Mapping[str, str] | None = None, **capabilities: Any
    ) -> dict[str, str]:
        """Shake hands; the headers of the session's further requests."""
        answer = await self.post(initialize_request(version, **capabilities), headers)
        assert answer.status_code == 200, answer.text
        session = {
            "mcp-session-id": answer.headers["mcp-session-id"],
            "mcp-protocol-version": version,
            **(headers or {}),
        }
        accepted = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
        assert accepted.status_code == 202
        return session


def initialize_request(version: str = "2025-11-25", identifier: Any = 0, **capabilities: Any) -> dict[str, Any]:
    """An `initialize`."""
    return {
        "jsonrpc": "2.0",
        "id": identifier,
        "method": "initialize",
        "params": {
            "protocolVersion": version,
            "capabilities": capabilities,
            "clientInfo": {"name": "tests", "version": "1"},
        },
    }


def modern_request(
    method: str,
    params: Any = None,
    *,
    identifier: Any = 1,
    headers: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
    capabilities: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers of a request of 2026-07-28."""
    envelope = {
        VERSION_KEY: "2026-07-28",
        CAPABILITIES_KEY: capabilities or {},
        CLIENT_KEY: {"name": "tests", "version": "1"},
        **(meta or {}),
    }
    values = {**(params or {}), "_meta": envelope}
    about = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
    named = values.get("uri") if method == "resources/read" else values.get("name")
    if method in ("tools/call", "prompts/get", "resources/read") and isinstance(named, str):
        about["mcp-name"] = named
    body = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": values}
    return body, {**about, **(headers or {})}


@asynccontextmanager
async def served(made: World, **settings: Any) -> AsyncIterator[Served]:
    """The gateway behind uvicorn on a free port of the loopback interface."""
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    mcp = mcp_app(made.gateway, EdgeSettings(**settings))
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve_http, mcp, application(mcp), listening, stop=stop, drain_seconds=1))
        limits = httpx2.Limits(max_connections=400)
        async with httpx2.AsyncClient(timeout=10, limits=limits, trust_env=False) as client:
            yield Served(url=f"http://127.0.0.1:{port}/mcp", mcp=mcp, client=client)
        stop.set()


def events_of(text: str) -> list[dict[str, Any]]:
    """The messages of an event stream."""
    found = []
    for block in text.split("\n\n"):
        data = "".join(line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: "))
        if data:
            found.append(orjson.loads(data))
    return found


# --- messages ---


class Wire:
    """The client's end of a connection of messages."""

    def __init__(self) -> None:
        self._to_gateway, self._from_client = anyio.create_memory_object_stream[bytes](1_000)
        self._to_client, self._from_gateway = anyio.create_memory_object_stream[bytes](10_000)
        self.blocked = anyio.Event()
        self.blocked.set()

    async def read(self) -> bytes | None:
        try:
            return await self._from_client.receive()
        except anyio.EndOfStream:
            return None

    async def write(self, text: bytes) -> None:
        await self.blocked.wait()
        assert b"\n" not in text
        await self._to_client.send(text)

    async def send(self, body: Any) -> None:
        """Say something to the gateway."""
        await self._to_gateway.send(body if isinstance(body, bytes) else orjson.dumps(body))

    async def receive(self) -> Any:
        """What the gateway says next."""
        with anyio.fail_after(5):
            return orjson.loads(await self._from_gateway.receive())

    async def request(self, method: str, params: Any = None, identifier: Any = 1) -> Any:
        """Ask, and return the answer; what else is said meanwhile is an error."""
        body = {"jsonrpc": "2.0", "id": identifier, "method": method}
        await self.send(body if params is None else {**body, "params": params})
        answer = await self.receive()
        assert answer.get("id") == identifier, answer
        return answer

    def close(self) -> None:
        """End the gateway's input."""
        self._to_gateway.close()

    def silent(self) -> bool:
        """Nothing more was said."""
        return self._from_gateway.statistics().current_buffer_used == 0


@asynccontextmanager
async def connected(
    made: World,
    principal: Principal = LOCAL,
    *,
    session_id: str | None = None,
    opening: bytes | None = None,
    **settings: Any,
) -> AsyncIterator[Wire]:
    """A connection of messages to the gateway, as over stdio."""
    wire = Wire()
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            await serve_connection(
                made.gateway,
                principal,
                wire.read,
                wire.write,
                settings=EdgeSettings(**settings),
                session_id=session_id,
                opening=opening,
            )

        tasks.start_soon(serve)
        yield wire
        wire.close()
