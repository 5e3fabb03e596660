"""Hearing of changes from a modern server: `subscriptions/listen`, kept up for as long as anybody is interested (2026-07-28).

One stream a connection carries everything that is of interest now: changed lists, where the gateway hears of them on this
connection, and the resources that sessions subscribed to. When the interests change, a new stream is acknowledged before its
predecessor is given up, so that nothing is missed in between; what may have been missed after an end that was not ours is
looked up.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from gateway.model.refusal import Code
from gateway.servers import wire
from gateway.servers.endings import error_code
from gateway.servers.exchange import Answered, Ending, Exchange, Unanswered
from gateway.servers.wire import Envelope

if TYPE_CHECKING:
    from gateway.servers.link import Link

ACKNOWLEDGE_SECONDS: Final = 10.0
RELISTEN_SECONDS: Final = 1.0
MAX_RELISTEN_SECONDS: Final = 60.0

_NOT_SUBSCRIBABLE: Final = b'{"code":-32602,"message":"The tool server grants no subscription to this resource"}'


class Listening:
    """The listening of one link. Runs as a task of the link once something is of interest."""

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._again = asyncio.Event()
        self._waiting: anyio.CancelScope | None = None
        self._runs = False
        self._subscribing: list[tuple[str, asyncio.Future[Ending]]] = []
        """Who waits for the acknowledgement of which URI."""

    async def subscribe(self, session_id: str, uri: str, deadline: float) -> Ending:
        """`resources/subscribe` at a modern server: the connection's listening is renewed with one more URI."""
        self._link.subscriptions.setdefault(uri, set()).add(session_id)
        self._link.sessions.add(session_id)
        acknowledged: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._subscribing.append((uri, acknowledged))
        self.start()
        ending: Ending = Unanswered(Code.SERVER_TIMEOUT, "it did not acknowledge the subscription in time", "no")
        try:
            async with asyncio.timeout_at(deadline):
                ending = await acknowledged
        except TimeoutError:
            pass
        finally:
            self._subscribing = [each for each in self._subscribing if each[1] is not acknowledged]
            if not isinstance(ending, Answered) or ending.result is None:
                self._link.unsubscribe(session_id, uri)
        return ending

    def start(self) -> None:
        """Listen to what is of interest now: begin, or begin again with other interests."""
        self._again.set()
        if self._waiting is not None:
            self._waiting.cancel()
        if not self._runs:
            self._runs = True
            self._link.spawn(self._run)

    def _interests(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        if self._link.listens:
            for kind in ("tools", "prompts", "resources"):
                about = self._link.server_capabilities.get(kind)
                if isinstance(about, Mapping) and about.get("listChanged"):
                    wanted[f"{kind}ListChanged"] = True
        if self._link.subscriptions:
            wanted["resourceSubscriptions"] = sorted(self._link.subscriptions)
        return wanted

    async def _run(self) -> None:
        """Again whenever it ends or the interests change."""
        pause = RELISTEN_SECONDS
        current: Exchange | None = None
        missed = False
        while True:
            self._again.clear()
            wanted = self._interests()
            if not wanted:
                self._stop(current)
                current = None
                await self._again.wait()
                continue
            began = asyncio.get_running_loop().time()
            params = {"notifications": wanted, "_meta": self._link.own_envelope()}
            former, current = current, await self._link.begin("subscriptions/listen", params)
            acknowledged: Envelope | None = None
            with anyio.move_on_after(ACKNOWLEDGE_SECONDS):
                acknowledged = await current.next()
            self._stop(former)
            self._subscribed(wanted, acknowledged, current.ending)
            if acknowledged is not None:
                if missed:
                    self._link.changed("")
                with anyio.CancelScope() as self._waiting:
                    if not self._again.is_set():
                        await self._link.drain(current)
                self._waiting = None
                if current.ending is None:
                    missed = False
                    continue
            missed = True
            unknown = error_code(current.ending) == wire.METHOD_NOT_FOUND
            self._stop(current)
            current = None
            if unknown:
                self._runs = False
                return
            if asyncio.get_running_loop().time() - began > MAX_RELISTEN_SECONDS:
                pause = RELISTEN_SECONDS
            with anyio.move_on_after(pause):
                await self._again.wait()
            pause = min(pause * 2, MAX_RELISTEN_SECONDS)

    def _subscribed(self, wanted: Mapping[str, Any], acknowledged: Envelope | None, ending: Ending | None) -> None:
        """Tell those who wait for a subscription what became of it."""
        if acknowledged is None and not (isinstance(ending, Answered) and ending.error is not None):
            return  # lost, or too slow: it is tried again
        granted: Any = ()
        if acknowledged is not None:
            honoured = wire.notified(acknowledged)[1].get("notifications")
            granted = honoured.get("resourceSubscriptions") if isinstance(honoured, dict) else ()
        for uri, waiting in self._subscribing:
            if uri not in wanted.get("resourceSubscriptions", ()) or waiting.done():
                continue
            if isinstance(granted, list) and uri in granted:
                waiting.set_result(Answered(result=b"{}"))
            elif acknowledged is None:
                assert ending is not None
                waiting.set_result(ending)
            else:
                waiting.set_result(Answered(error=_NOT_SUBSCRIBABLE))

    def _stop(self, exchange: Exchange | None) -> None:
        if exchange is None:
            return
        running = exchange.ending is None
        self._link.done(exchange)
        if running and not self._link.transport.stateless:
            self._link.spawn(partial(self._link.tell_cancelled, exchange.identifier, "listening begins anew"))
