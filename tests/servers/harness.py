"""Builders for the tests of the tool servers' side: settings, calls, a caller that remembers, and a pool that runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio

from gateway.config import ServerSettings, ToolSettings
from gateway.config.secrets import Secret
from gateway.model.call import Call, Client, Method, Principal, TargetType
from gateway.model.snapshot import Entry, Snapshot
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Attempt, SessionChannel
from gateway.servers.pool import ToolServers
from tests.scripted_server import Era, Scripted

HERE = Path(__file__).parent


WIRES = ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy", "sse-legacy"]
"""Every transport in every era that it speaks."""


@asynccontextmanager
async def scripted(
    wire: str, directory: Path, script: dict[str, Any], *, name: str = "s", **extra: Any
) -> AsyncIterator[tuple[Scripted, ServerSettings]]:
    """A scripted server on one of `WIRES`, and the settings that reach it."""
    carrier, _, era = wire.partition("-")
    eras: dict[str, Era] = {"modern": "modern", "legacy": "legacy", "": "both"}
    server = Scripted(directory, script, name=name, era=eras[era])
    if carrier == "stdio":
        yield server, stdio(name, server.command, server.args, **extra)
        return
    async with server.http() as url:
        if carrier == "sse":
            yield server, http(name, url.removesuffix("/mcp") + "/sse", transport="sse", **extra)
        else:
            yield server, http(name, url, **extra)


def stdio(name: str, command: str, args: list[str], **extra: Any) -> ServerSettings:
    extra.setdefault("isolation", "session")
    extra.setdefault("cwd", HERE)
    return ServerSettings(name=name, transport="stdio", command=command, args=tuple(args), **extra)


def http(name: str, url: str, **extra: Any) -> ServerSettings:
    extra.setdefault("isolation", "principal")
    extra.setdefault("transport", "http")
    return ServerSettings(name=name, cwd=HERE, url=Secret(url), **extra)


@dataclass
class RecordingCaller:
    """The agent's side of a call, which remembers what it is told and answers what it is asked."""

    capabilities: Mapping[str, Any] = field(default_factory=dict)
    wants_progress: bool = False
    log_level: str | None = None
    notified: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    answer: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]] | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notified.append((method, params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for key, request in requests.items():
            self.asked.append(request)
            if self.answer is None:
                found[key] = {"error": {"code": -32601, "message": "this client cannot be asked"}}
            else:
                found[key] = dict(await self.answer(request))
        return found


@dataclass
class RecordingChannel:
    """A session, which remembers what it is told outside any call."""

    notified: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notified.append((method, params))
        self.heard.set()


@dataclass
class Pool:
    """A running `ToolServers` and the sessions that it knows."""

    servers: ToolServers
    channels: dict[str, RecordingChannel]
    changes: list[tuple[str, frozenset[str]]]
    changed: asyncio.Condition

    def channel(self, session: str) -> RecordingChannel:
        return self.channels.setdefault(session, RecordingChannel())

    async def until(self, fits: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
        """Wait for a state that a change of some catalogue brings."""
        async with asyncio.timeout(timeout_seconds), self.changed:
            await self.changed.wait_for(fits)

    async def available(self, *names: str) -> None:
        await self.until(lambda: all(self.servers.catalogues()[name].available for name in names))

    def entry(self, server: str, name: str) -> Entry:
        for entry in self.servers.catalogues()[server].entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    async def call(
        self,
        server: str,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        caller: RecordingCaller | None = None,
        attempt: Attempt | None = None,
        timeout_seconds: float = 20.0,
        **extra: Any,
    ) -> Outcome:
        """Forward one `tools/call` as the engine would."""
        made = self.make(server, name, arguments, timeout_seconds=timeout_seconds, caller=caller, **extra)
        return await self.servers.forward(made, caller or RecordingCaller(), attempt or Attempt())

    def make(
        self,
        server: str,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        method: str = Method.CALL_TOOL,
        entry: Entry | None = None,
        session: str = "session-1",
        principal: str = "local",
        timeout_seconds: float = 20.0,
        caller: RecordingCaller | None = None,
        params: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Call:
        entry = entry or self.entry(server, name)
        target = TargetType.RESOURCE if method.startswith("resources/") else entry.type
        shown = {"uri": name} if target is TargetType.RESOURCE else {"name": f"{server}__{name}"}
        if arguments is not None:
            shown["arguments"] = arguments  # type: ignore[assignment]
        return Call(
            id="call-1",
            method=method,
            type=target,
            target=name,
            arguments=arguments,
            received_arguments=arguments,
            params={**shown, **(params or {})},
            meta=meta or {},
            principal=Principal(id=principal),
            session_id=session,
            client=Client(
                name="tester",
                capabilities=caller.capabilities if caller is not None else {},
                info={"name": "tester", "version": "1"},
            ),
            snapshot=cast(Snapshot, None),
            received_at=0.0,
            time_ns=0,
            deadline=anyio.current_time() + timeout_seconds,
            entry=entry,
            server=server,
            name=name,
            risk=entry.risk,
        )


async def eventually(fits: Callable[[], bool], timeout_seconds: float = 15.0) -> None:
    """Wait for a state of other processes that nothing announces; TimeoutError where it does not come."""
    async with asyncio.timeout(timeout_seconds):
        while not fits():  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.02)


@asynccontextmanager
async def pool(*settings: ServerSettings, **options: Any) -> AsyncIterator[Pool]:
    """A running pool of these servers."""
    channels: dict[str, RecordingChannel] = {}

    async def lookup(session_id: str) -> SessionChannel | None:
        return channels.get(session_id)

    servers = ToolServers(lookup, **options)
    running = Pool(servers, channels, [], asyncio.Condition())
    notifying: set[asyncio.Task[None]] = set()

    async def tell() -> None:
        async with running.changed:
            running.changed.notify_all()

    def changed(server: str, kinds: frozenset[str]) -> None:
        running.changes.append((server, kinds))
        task = asyncio.get_running_loop().create_task(tell())
        notifying.add(task)
        task.add_done_callback(notifying.discard)

    servers.on_change(changed)
    await servers.reconfigure({each.name: each for each in settings})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(servers.run)
        try:
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                await servers.close()
            tasks.cancel_scope.cancel()


def result(outcome: Outcome) -> Any:
    """The result of a completed call, parsed."""
    assert isinstance(outcome, Completed), outcome
    assert outcome.result is not None, outcome
    return json.loads(outcome.result)


def text(outcome: Outcome) -> str:
    """The text of a tool's first block."""
    return str(result(outcome)["content"][0]["text"])


def tool_settings(**extra: Any) -> ToolSettings:
    return ToolSettings(**extra)
