"""All tool servers of the process: the forwarder that the engine holds, and the source of the catalogue."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc

from gateway.config import ServerSettings
from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.snapshot import ServerCatalogue
from gateway.model.verdict import Failed, Outcome
from gateway.ports import Attempt, Caller, SessionLookup
from gateway.servers.http1 import HttpClient
from gateway.servers.link import LOG_LEVELS, Era, Link
from gateway.servers.server import ServerState, Surroundings, ToolServer
from gateway.servers.stdio import Watchdog
from gateway.servers.wire import SUBSCRIPTION_KEY

logger = logging.getLogger("gateway.servers")

IDLE_SECONDS = 1800.0
"""As long as an agent's session may be idle: many children hold state that their session counts on."""

MAX_LINKS = 64
"""Children or connections of one tool server."""

Changed = Callable[[str, frozenset[str]], None]


class ToolServers:
    """Every configured tool server; implements `ports.Forwarder`.

    `run` owns all of them: start it in a task group, end it with `close` or by cancelling it. Everything else may be
    called from any task of the same loop while it runs; `reconfigure` and `on_change` also before.

    Args:
        lookup: finds the session that a message outside any call belongs to.
        idle_seconds: after so long without a call a link that is not shared is closed.
        max_links: children or connections that one tool server may have at a time.
        ssl_context: for `https`; absent: the system's certificates.
        era: what every server is taken to speak, without finding out; for tests.
    """

    def __init__(
        self,
        lookup: SessionLookup,
        *,
        idle_seconds: float = IDLE_SECONDS,
        max_links: int = MAX_LINKS,
        ssl_context: ssl.SSLContext | None = None,
        era: Era | None = None,
    ) -> None:
        self._lookup = lookup
        self._callbacks: list[Changed] = []
        self._around = Surroundings(
            client=HttpClient(ssl_context),
            watchdog=Watchdog(),
            outside=self._deliver,
            changed=self._changed,
            idle_seconds=idle_seconds,
            max_links=max_links,
            era=era,
        )
        self._servers: dict[str, ToolServer] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._closing = asyncio.Event()
        self._closed = asyncio.Event()
        self._finished = False

    # --- lifetime ---

    async def run(self) -> None:
        """Keep the configured servers connected until `close`, or until cancelled. All children are gone when it returns."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    for server in self._servers.values():
                        tasks.start_soon(self._keep, server)
                    await self._closing.wait()
                finally:
                    self._tasks = None
                    tasks.cancel_scope.cancel()
        finally:
            self._finished = True
            self._around.client.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._around.watchdog.close)
            self._closed.set()

    async def close(self) -> None:
        """End every connection and child. Calls still in flight are lost: drain them before."""
        self._closing.set()
        if self._tasks is not None or not self._finished:
            await self._closed.wait()

    async def _keep(self, server: ToolServer) -> None:
        """One server's failure is its own."""
        while True:
            try:
                await server.run()
                return
            except Exception:
                logger.exception("%s: its owner failed and is started again", server.settings.name)
                await asyncio.sleep(1.0)

    # --- configuration ---

    async def reconfigure(self, settings: Mapping[str, ServerSettings]) -> None:
        """Take over another set of servers. Those that are reached in the same way keep their connections; removed and
        changed ones drain. Returns at once."""
        for name in [name for name in self._servers if name not in settings]:
            self._servers.pop(name).stop()
            self._changed(name, frozenset({"tools", "prompts", "resources"}))
        for name, wanted in settings.items():
            server = self._servers.get(name)
            if server is not None and server.settings.same_link(wanted):
                if server.settings != wanted:
                    server.retune(wanted)
                continue
            if server is not None:
                server.stop()
            self._servers[name] = fresh = ToolServer(wanted, self._around)
            if self._tasks is not None:
                self._tasks.start_soon(self._keep, fresh)

    def catalogues(self) -> Mapping[str, ServerCatalogue]:
        """What each server offers, by name; entries last known where it cannot be reached."""
        return {name: server.catalogue for name, server in self._servers.items()}

    async def first_look(self) -> None:
        """Wait until every server was tried for the first time, but for none of them longer than a few seconds.

        A client that comes right after the start must not take a list without its servers for the whole list: many never
        ask again, and one of 2026-07-28 may keep it for as long as it says.
        """
        for server in tuple(self._servers.values()):
            await server.first_look()

    def on_change(self, callback: Changed) -> None:
        """Call back with (server, kinds) when a catalogue changes. `kinds` is empty where only its state or reason did."""
        self._callbacks.append(callback)

    def _changed(self, server: str, kinds: frozenset[str]) -> None:
        for callback in self._callbacks:
            try:
                callback(server, kinds)
            except Exception:
                logger.exception("%s: a change of its catalogue was not taken up", server)

    # --- calls ---

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        """As `ports.Forwarder` has it."""
        server = self._servers.get(call.server)
        if server is None:
            message = f"The tool server {call.server!r} is not configured any more."
            return Failed(code=Code.SERVER_UNAVAILABLE, message=message, in_doubt=False)
        return await server.forward(call, caller, attempt)

    # --- sessions ---

    def session_ended(self, session_id: str) -> None:
        """Close what was kept for a session of an agent: children, connections, subscriptions."""
        self._around.log_levels.pop(session_id, None)
        for server in self._servers.values():
            server.session_ended(session_id)

    def set_log_level(self, session_id: str, level: str) -> None:
        """What `logging/setLevel` of a session asked for; an unknown level is ignored. Legacy servers are told."""
        if level not in LOG_LEVELS:
            return
        self._around.log_levels[session_id] = level
        for server in self._servers.values():
            server.log_level_changed(session_id)

    def roots_changed(self, session_id: str) -> None:
        """The session's client said `notifications/roots/list_changed`: tell legacy servers that know its roots."""
        for server in self._servers.values():
            server.roots_changed(session_id)

    def unsubscribe(self, session_id: str, uri: str) -> None:
        """The session does not want to hear of changes of this resource any more."""
        for server in self._servers.values():
            server.unsubscribe(session_id, uri)

    async def _deliver(self, link: Link, method: str, params: Mapping[str, Any]) -> None:
        """A message outside any call, to the sessions that it belongs to."""
        audience = link.audience(method, params)
        if not audience:
            logger.debug("%s: nobody to give %s to", link.settings.name, method)
            return
        meta = params.get("_meta")
        if isinstance(meta, dict) and SUBSCRIPTION_KEY in meta:
            # It names a request of this hop; what it is towards the agent, the edge knows.
            rest = {name: value for name, value in meta.items() if name != SUBSCRIPTION_KEY}
            params = {name: value for name, value in params.items() if name != "_meta"} | (
                {"_meta": rest} if rest else {}
            )
        for session_id in sorted(audience):
            if (channel := await self._lookup(session_id)) is not None:
                await channel.notify(method, params)

    # --- status ---

    def states(self) -> tuple[ServerState, ...]:
        """Every server's state, in the order of the configuration."""
        return tuple(server.describe() for server in self._servers.values())
