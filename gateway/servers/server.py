"""One configured tool server: its links, its catalogue, and how a call gets through to it.

**Links.** One for each session or principal, or one for all (`isolation`), made when the first call needs it; and the gateway's
own (`control`), over which lists are read. A server without connections (2026-07-28 over HTTP) and a shared one have only
that one. A modern child that did nothing yet but list its tools becomes the first session's own, so that one client means
one child. Each link is opened and closed by a task of its own; those who need it wait for it.

**Health.** The catalogue is read at start and whenever the server says, or a broken connection suggests, that it changed.
While that fails the last entries stay known, marked unavailable, and it is tried again with growing pauses. Calls do not
wait for that: each opens what it needs, within its own deadline.

**Retries.** A request of which nothing was sent is tried again, and one that is idempotent also when its answer was lost;
never another. Attempts, pauses and the server's retry budget bound it.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, assert_never

import anyio
import anyio.abc
import orjson

from gateway.config import RetrySettings, ServerSettings
from gateway.decide.retry import RetryBudget, backoff_seconds
from gateway.decide.uris import denied
from gateway.model.call import Call, Method, TargetType
from gateway.model.refusal import Code
from gateway.model.snapshot import ServerCatalogue
from gateway.model.verdict import Outcome, Refused
from gateway.ports import Attempt, Caller
from gateway.servers import wire
from gateway.servers.catalogue import Builder, Listing, changed_kinds, fetch, joined, prototype
from gateway.servers.endings import outcome
from gateway.servers.exchange import Answered, Ending, Unanswered
from gateway.servers.http1 import HttpClient
from gateway.servers.link import (
    ASKS,
    CLOSE_SECONDS,
    IDENTITY,
    LOG_LEVELS,
    Era,
    Link,
    LinkKey,
    Outside,
    RequestFailed,
    permitted_capabilities,
)
from gateway.servers.stdio import Stdio, Watchdog
from gateway.servers.streamable import MESSAGE_OVERHEAD, OldSse, StreamableHttp
from gateway.servers.transport import Spawn, StartError, Transport

logger = logging.getLogger("gateway.servers")

CONTROL: Final = LinkKey(isolation="shared", control=True)

FIRST_LOOK_SECONDS: Final = 10.0
"""How long who asks for a list right after the start waits for a server that was not reached yet."""

FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 60.0
CONTROL_IDLE_SECONDS: Final = 300.0
FAIL_FAST_SECONDS: Final = 5.0
"""A child that just failed to start is not started again for every call that comes."""

SHORT_LIFE_SECONDS: Final = 10.0
REFRESH_GAP_SECONDS: Final = 0.25
"""Between two readings of the lists: a storm of `list_changed` costs no more than this."""

DRAIN_SECONDS: Final = 30.0
RETIRE_SECONDS: Final = 10.0
RENEWALS: Final = 3

CONTROL_CAPABILITIES: Final[Mapping[str, Any]] = {
    "roots": {"listChanged": True},
    "sampling": {},
    "elicitation": {"form": {}, "url": {}},
}
"""What the gateway's own link declares, so that a server that lists by capability lists everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """One connection or child, for status."""

    isolation: str
    owner: str
    """The session's or principal's id; "" where it is everybody's."""
    control: bool
    pid: int | None
    era: str
    in_flight: int
    open_seconds: float | None
    """None while it is being opened."""
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """One tool server, for status."""

    name: str
    state: str
    """`connecting`, `available`, `unavailable`, `stopped`."""
    reason: str
    transport: str
    isolation: str
    era: str
    protocol_version: str
    links: tuple[LinkState, ...]
    restarts: int
    """How often a connection ended by itself."""
    retries_left: float
    """Of the retry budget."""


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What all tool servers of the process share."""

    client: HttpClient
    watchdog: Watchdog
    outside: Outside
    changed: Callable[[str, frozenset[str]], None]
    """Told of every catalogue that is not what it was: server, kinds of lists (empty: its state alone)."""
    idle_seconds: float
    max_links: int
    era: Era | None
    """Forced, for tests."""
    log_levels: dict[str, str] = field(default_factory=dict)
    """Session to the level it asked for."""


class NoRoom(Exception):
    """The server has as many links as it may."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A link, and the promise of it while it is being opened."""

    key: LinkKey
    capabilities: Mapping[str, Any]
    client: Mapping[str, Any]
    opened: "asyncio.Future[Link]"
    link: Link | None = None
    over: bool = False


class ToolServer:
    """One tool server. `run` owns everything; the rest may be used while it runs."""

    def __init__(self, settings: ServerSettings, around: Surroundings) -> None:
        self.settings = settings
        self.state = "connecting"
        self.restarts = 0
        self.looked = asyncio.Event()
        """Set once its catalogue was read, or could not be, for the first time."""
        self._look_until: float | None = None
        self._around = around
        self._builder = Builder()
        self._listing = Listing()
        self._catalogue = ServerCatalogue(
            server=settings.name,
            available=False,
            reason="not reached yet",
            prototype=prototype(settings),
            offers=settings,
        )
        self._era: Era | None = around.era
        self._slots: dict[LinkKey, _Slot] = {}
        self._leaving: set[Link] = set()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._dirty = asyncio.Event()
        self._announcers: set[Link] = set()
        """Links that said that lists have changed, since they were read last."""
        self._heard: dict[Link, Listing] = {}
        """What those list that ever said so, where it may differ from what the gateway's own link is told."""
        self._failed_at = float("-inf")
        self._failure = ""
        self._orphaned: dict[LinkKey, dict[str, set[str]]] = {}
        self._budget = RetryBudget(percent=settings.defaults.retries.budget_percent)
        self._chance = random.Random()

    @property
    def catalogue(self) -> ServerCatalogue:
        return self._catalogue

    # --- lifetime ---

    async def run(self) -> None:
        """Until `stop`, or until it is cancelled; all links are closed when it returns."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._look_until = asyncio.get_running_loop().time() + FIRST_LOOK_SECONDS
            try:
                if self.settings.disabled_reason is not None:
                    self._set_unavailable(self.settings.disabled_reason)
                    self.looked.set()
                else:
                    tasks.start_soon(self._supervise)
                    tasks.start_soon(self._close_idle)
                await self._stopping.wait()
                await self._drain()
            finally:
                tasks.cancel_scope.cancel()
                self._tasks = None
        self.state = "stopped"

    async def first_look(self) -> None:
        """Return once the server was tried for the first time, at the latest `FIRST_LOOK_SECONDS` after its start."""
        if not self.looked.is_set():
            now = asyncio.get_running_loop().time()
            until = now + FIRST_LOOK_SECONDS if self._look_until is None else self._look_until
            with anyio.move_on_after(max(0.0, until - now)):
                await self.looked.wait()

    def stop(self) -> None:
        """No new calls; those in flight have `DRAIN_SECONDS` to end."""
        self._stopping.set()

    async def _drain(self) -> None:
        with anyio.move_on_after(DRAIN_SECONDS):
            for link in self._links():
                await link.quiet.wait()

    def retune(self, settings: ServerSettings) -> None:
        """Other settings for the same link: nothing is reconnected."""
        self.settings = settings
        for link in self._links():
            link.settings = settings
        self._budget.percent = settings.defaults.retries.budget_percent
        self._rebuild(available=self._catalogue.available, reason=self._catalogue.reason)

    async def _supervise(self) -> None:
        """Keep the catalogue as the server has it."""
        failures = 0
        while True:
            self._dirty.clear()
            began = asyncio.get_running_loop().time()
            try:
                link = await self._lister()
                self._listing = await self._joined(link, await fetch(link))
            except (StartError, RequestFailed, NoRoom, wire.Garbage) as error:
                failures += 1
                self._set_unavailable(str(error))
                self._doubt_era()
                self.looked.set()
            else:
                self._rebuild(available=True, reason="")
                self.looked.set()
                await self._dirty.wait()
                lived = asyncio.get_running_loop().time() - began
                broke = link.broke and lived < SHORT_LIFE_SECONDS
                failures = failures + 1 if broke else 0
                if not broke:
                    await asyncio.sleep(REFRESH_GAP_SECONDS)
                    continue
            pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10))
            with anyio.move_on_after(self._chance.uniform(pause / 2, pause)):
                await self._dirty.wait()

    def _doubt_era(self) -> None:
        """A server without connections that cannot be asked may have become one with them: find out again."""
        slot = self._slots.get(CONTROL)
        if slot is not None and slot.link is not None and slot.link.open and slot.link.transport.stateless:
            del self._slots[CONTROL]
            self._era = self._around.era
            self._retire(slot.link, "it could not be asked")

    async def _lister(self) -> Link:
        """The link over which lists are read: the gateway's own, or one that serves as well."""
        if CONTROL not in self._slots:
            for link in self._links():
                if link.open and link.era == "modern":
                    return link
        capabilities = permitted_capabilities(CONTROL_CAPABILITIES, self.settings)
        return await self._opened(self._slot(CONTROL, capabilities, IDENTITY))

    async def _joined(self, lister: Link, listing: Listing) -> Listing:
        """The listing, with what the server offers those sessions alone that were told of a change.

        Read from all of them together: a session whose client can do less must not take tools from the others.
        """
        announcers, self._announcers = self._announcers, set()
        for link in announcers:
            if link is not lister and link.open:
                try:
                    self._heard[link] = await fetch(link)
                except (RequestFailed, wire.Garbage) as error:
                    logger.info("%s: a session's own lists could not be read: %s", self.settings.name, error)
        self._heard = {link: heard for link, heard in self._heard.items() if link.open and link is not lister}
        return joined(listing, self._heard.values())

    async def _close_idle(self) -> None:
        longest = self._around.idle_seconds
        while True:
            await asyncio.sleep(max(0.05, min(longest, CONTROL_IDLE_SECONDS) / 4))
            now = asyncio.get_running_loop().time()
            for slot in list(self._slots.values()):
                link = slot.link
                if link is None or not link.open or not link.idle or self._stays(slot):
                    continue
                # The gateway's own holds no state that anybody counts on.
                if now - link.used_at >= (min(longest, CONTROL_IDLE_SECONDS) if slot.key.control else longest):
                    self._slots.pop(slot.key, None)
                    link.stop("it was idle")

    def _stays(self, slot: _Slot) -> bool:
        """Links that are not closed for being idle: what everybody shares, and what costs nothing."""
        return slot.key.control and (self.settings.transport != "stdio" or self.settings.isolation == "shared")

    # --- links ---

    def _links(self) -> list[Link]:
        return [slot.link for slot in self._slots.values() if slot.link is not None]

    def _key(self, call: Call) -> LinkKey:
        """Which link a call belongs on."""
        if self.settings.transport == "http" and self._era == "modern":
            return CONTROL
        isolation = self.settings.isolation
        if isolation == "shared":
            return CONTROL
        owner = call.session_id if isolation == "session" else call.principal.id
        if self._era == "modern":
            return LinkKey(isolation=isolation, owner=owner)
        # Of 2026-07-28 a client may say with each request what it can, but a legacy server is told once, at the start.
        told = permitted_capabilities(call.client.capabilities, self.settings)
        digest = orjson.dumps(told, option=orjson.OPT_SORT_KEYS, default=wire.plain).decode()
        return LinkKey(isolation=isolation, owner=owner, capabilities=digest)

    async def _link(self, call: Call, deadline: float, *, first: bool) -> Link:
        """The open link of a call.

        Raises:
            StartError: it cannot be opened.
            NoRoom: there may be no more of them.
            TimeoutError: not before the deadline.
        """
        loop = asyncio.get_running_loop()
        if first and self.settings.transport == "stdio" and loop.time() - self._failed_at < FAIL_FAST_SECONDS:
            raise StartError(self._failure, permanent=True)
        if self._era is None:
            # What there is to keep apart is known once the era is.
            capabilities = permitted_capabilities(CONTROL_CAPABILITIES, self.settings)
            async with asyncio.timeout_at(deadline):
                self._era = (await self._opened(self._slot(CONTROL, capabilities, IDENTITY))).era
        key = self._key(call)
        slot = self._slots.get(key)
        if slot is not None and slot.link is not None and slot.link.open:
            return slot.link
        if slot is None and (adopted := self._adopt(key)) is not None:
            return adopted
        if key == CONTROL:
            capabilities, client = permitted_capabilities(CONTROL_CAPABILITIES, self.settings), IDENTITY
        else:
            capabilities = permitted_capabilities(call.client.capabilities, self.settings)
            client = call.client.info or IDENTITY
        async with asyncio.timeout_at(deadline):
            return await self._opened(self._slot(key, capabilities, client))

    def _adopt(self, key: LinkKey) -> Link | None:
        """The gateway's own child as a session's, where it holds no state and was told of no client yet."""
        slot = self._slots.get(CONTROL)
        if key == CONTROL or slot is None or slot.link is None or self.settings.transport != "stdio":
            return None
        link = slot.link
        if not link.open or link.era != "modern" or link.carried:
            return None
        del self._slots[CONTROL]
        slot.key = link.key = key
        self._slots[key] = slot
        return link

    def _slot(self, key: LinkKey, capabilities: Mapping[str, Any], client: Mapping[str, Any]) -> _Slot:
        """The slot of this key; where there is none, or its link is over, a new one that is being opened."""
        slot = self._slots.get(key)
        if slot is not None and not slot.over and (slot.link is None or slot.link.ended is None):
            return slot
        if self._tasks is None or self._stopping.is_set():
            raise StartError("it is being stopped", permanent=True)
        if len(self._slots) + len(self._leaving) >= self._around.max_links and not key.control:
            raise NoRoom
        slot = _Slot(key, capabilities, client, asyncio.get_running_loop().create_future())
        self._slots[key] = slot
        self._tasks.start_soon(self._own, slot)
        return slot

    async def _opened(self, slot: _Slot) -> Link:
        return await asyncio.shield(slot.opened)

    async def _own(self, slot: _Slot) -> None:
        """Opens, serves and closes the link of one slot."""
        # A child that dies of a request it does not know is started once more and greeted the old way.
        eras: list[Era | None] = [self._era]
        if self._era is None and self.settings.transport == "stdio":
            eras.append("legacy")
        failure: BaseException = StartError("it is being stopped")
        try:
            for era in eras:
                link = slot.link = self._make_link(slot, era)
                opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                opened.add_done_callback(partial(self._announce, slot, link))
                await link.run(opened)
                if slot.opened.done():
                    break
                failure = opened.exception() or failure
                if isinstance(failure, StartError) and failure.permanent:
                    break
            if not slot.opened.done():
                self._era = self._around.era  # it may speak another one now
                self._failed_at = asyncio.get_running_loop().time()
                self._failure = str(failure)
        finally:
            slot.over = True
            if not slot.opened.done():
                slot.opened.set_exception(failure)
                slot.opened.exception()
            if self._slots.get(slot.key) is slot:
                del self._slots[slot.key]
            if slot.link is not None:
                self._leaving.discard(slot.link)
                self._ended(slot, slot.link)

    def _announce(self, slot: _Slot, link: Link, opened: "asyncio.Future[None]") -> None:
        if opened.cancelled() or opened.exception() is not None or slot.opened.done():
            return
        if self._around.era is None:
            self._era = link.era
        self._failed_at = float("-inf")
        slot.opened.set_result(link)
        if self._tasks is not None and (orphaned := self._orphaned.pop(slot.key, None)):
            self._tasks.start_soon(link.resubscribe, orphaned)
        if not self._catalogue.available:
            self._dirty.set()

    def _ended(self, slot: _Slot, link: Link) -> None:
        """What follows when a link is over."""
        if not link.broke or link.opened_at is None:
            return
        self.restarts += 1
        logger.warning("%s: connection lost: %s", self.settings.name, link.ended)
        if link.subscriptions:
            self._orphaned[slot.key] = link.subscriptions
            with contextlib.suppress(StartError, NoRoom):
                self._slot(slot.key, slot.capabilities, slot.client)
        if slot.key.control:
            self._dirty.set()

    def _make_link(self, slot: _Slot, era: Era | None) -> Link:
        key = slot.key
        level = self._level(key)
        link: Link

        def changed(kind: str) -> None:
            self._announcers.add(link)
            self._dirty.set()

        link = Link(
            settings=self.settings,
            key=key,
            make_transport=self._transport,
            capabilities=slot.capabilities,
            client=slot.client,
            known_era=era,
            outside=self._around.outside,
            changed=changed,
            log_level=level,
        )
        return link

    def _transport(self, spawn: Spawn) -> Transport:
        settings = self.settings
        sizes = [settings.defaults.max_result_bytes, *(tool.max_result_bytes for tool in settings.tools.values())]
        largest = max(sizes) + MESSAGE_OVERHEAD
        match settings.transport:
            case "stdio":
                return Stdio(settings, self._around.watchdog, largest)
            case "http":
                return StreamableHttp(settings, self._around.client, largest, spawn)
            case "sse":
                return OldSse(settings, self._around.client, largest, spawn)
            case _:
                assert_never(settings.transport)

    # --- calls ---

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        """As `ports.Forwarder` has it."""
        entry = call.entry
        assert entry is not None
        if (refused := self._not_offered(call)) is not None:
            return refused
        loop = asyncio.get_running_loop()
        deadline = call.deadline if call.deadline is not None else loop.time() + entry.timeout_seconds
        settings = self.settings
        retries = settings.tool(call.name).retries if call.type is TargetType.TOOL else settings.defaults.retries
        self._budget.earn()
        renewals = 0
        for number in itertools.count(1):
            record: dict[str, Any] = {"at": time.time()}
            attempt.tries.append(record)
            try:
                ending = await self._try(call, caller, attempt, deadline, first=number == 1)
            except asyncio.CancelledError:
                record["ended"] = "cancelled"
                raise
            if isinstance(ending, Answered):
                record["ended"] = "answered"
                break
            record["ended"], record["message"] = ending.code.value, ending.reason
            if ending.forgotten and renewals < RENEWALS:
                renewals += 1  # not carried out, and not for want of health: the same again, in a new session
                continue
            if not self._may_retry(ending, number - renewals, retries, idempotent=entry.idempotent):
                break
            pause = backoff_seconds(number - renewals + 1, retries.backoff_seconds, self._chance)
            if loop.time() + pause >= deadline or not self._budget.spend():
                break
            await asyncio.sleep(pause)
        if isinstance(ending, Unanswered) and ending.error is not None:
            ending = Answered(error=ending.error)
        if isinstance(ending, Answered) and ending.result is not None and b"input_required" in ending.result:
            return self._needs_input(ending, call, attempt)
        return outcome(ending, call)

    def _may_retry(self, ending: Unanswered, tries: int, retries: RetrySettings, *, idempotent: bool) -> bool:
        """Whether an ending allows another try at all; the budget is asked afterwards."""
        if tries >= retries.attempts or ending.permanent:
            return False
        match ending.code:
            case Code.SERVER_UNAVAILABLE:
                return ending.ran == "no" and ending.status in (None, 429, 503)
            case Code.SERVER_LOST:
                return idempotent
            case _:
                return False

    async def _try(self, call: Call, caller: Caller, attempt: Attempt, deadline: float, *, first: bool) -> Ending:
        """One try."""
        if self.settings.disabled_reason is not None:
            return _unavailable(self.settings.disabled_reason, permanent=True)
        try:
            slot = self._slots.get(self._key(call)) if self._era is not None else None
            if slot is not None and slot.link is not None and slot.link.open:
                link = slot.link
            else:
                link = await self._link(call, deadline, first=first)
        except StartError as error:
            self._dirty.set()
            return _unavailable(str(error), permanent=error.permanent)
        except NoRoom:
            reason = f"it has {self._around.max_links} connections or children, which is all it may have"
            return Unanswered(Code.SERVER_CAPACITY, reason, "no")
        except TimeoutError:
            return _unavailable("it was not ready in time", permanent=True)
        ending = await link.forward(call, caller, attempt, deadline)
        if isinstance(ending, Unanswered):
            if ending.forgotten:
                self._renew(link, ending)
            elif ending.status in (400, 404, 405):
                self._dirty.set()
            elif ending.code is Code.SERVER_UNAVAILABLE and ending.status is None:
                if not link.transport.stateless:
                    link.lost(ending.reason)
                self._dirty.set()
        return ending

    def _renew(self, link: Link, ending: Unanswered) -> None:
        """The server forgot the session, or speaks another version now."""
        if ending.status == 400 or link.transport.stateless:
            self._era = self._around.era
        if ending.status is not None:
            if self._slots.get(link.key) is not None and self._slots[link.key].link is link:
                del self._slots[link.key]
            self._retire(link, ending.reason)

    def _not_offered(self, call: Call) -> Refused | None:
        """A URI that a template or a link leads to may be denied all the same."""
        if call.method not in (Method.READ_RESOURCE, Method.SUBSCRIBE):
            return None
        if not denied(self.settings, call.name):
            return None
        message = f"Resource not found: {call.target}"
        error = {"code": -32602, "message": message, "data": {"uri": call.target}}
        return Refused(stage="forward", code=Code.REQUEST_INVALID, message=message, data=error)

    def _needs_input(self, ending: Answered, call: Call, attempt: Attempt) -> Outcome:
        """A modern server's question is an ask like any other: recorded, and only what `asks` permits."""
        assert ending.result is not None
        try:
            members = wire.members(ending.result)
            if wire.parse(members.get("resultType", b'""')) != "input_required":
                return outcome(ending, call)
            requests = wire.parse(members.get("inputRequests", b"{}"))
        except wire.Garbage:
            return outcome(ending, call)
        for key, request in requests.items() if isinstance(requests, dict) else ():
            method = str(request.get("method")) if isinstance(request, dict) else ""
            params = request.get("params") if isinstance(request, dict) else None
            attempt.asks.append({"method": method, "params": params, "key": key, "answer": None})
            ask = ASKS.get(method)
            if ask is not None and ask not in self.settings.asks:
                reason = f"it asks for {method}, which the configuration does not permit it"
                return outcome(Unanswered(Code.RESULT_INVALID, reason, "yes"), call)
        return outcome(ending, call)

    # --- sessions ---

    def session_ended(self, session_id: str) -> None:
        """Close what was this session's alone, and forget it elsewhere."""
        for slot in list(self._slots.values()):
            link = slot.link
            if slot.key.isolation == "session" and slot.key.owner == session_id:
                del self._slots[slot.key]
                self._orphaned.pop(slot.key, None)
                if link is not None:
                    self._retire(link, "its session ended")
                continue
            if link is not None:
                link.sessions.discard(session_id)
                link.unsubscribe(session_id)

    def _retire(self, link: Link, reason: str) -> None:
        """End a link that nobody new may use, once its calls are done."""
        if link.quiet.is_set() or self._tasks is None:
            link.stop(reason)
            return
        self._leaving.add(link)

        async def wait() -> None:
            with anyio.move_on_after(RETIRE_SECONDS):
                await link.quiet.wait()
            link.stop(reason)

        self._tasks.start_soon(wait)

    def unsubscribe(self, session_id: str, uri: str) -> None:
        for link in self._links():
            link.unsubscribe(session_id, uri)
        for subscriptions in self._orphaned.values():
            subscriptions.get(uri, set()).discard(session_id)

    def roots_changed(self, session_id: str) -> None:
        """Tell the legacy server that has this session's client to itself."""
        for link in self._links():
            if (
                self._tasks is not None
                and link.open
                and link.key.isolation == "session"
                and link.key.owner == session_id
            ):
                self._tasks.start_soon(link.roots_changed)

    def log_level_changed(self, session_id: str) -> None:
        """Tell the legacy server behind this session's link."""
        for link in self._links():
            if self._tasks is None or link.era != "legacy" or not link.open:
                continue
            mine = link.key.owner == session_id if link.key.isolation == "session" else session_id in link.sessions
            if (mine or link.key.control) and (level := self._level(link.key, link)) is not None:
                self._tasks.start_soon(link.set_log_level, level)

    def _level(self, key: LinkKey, link: Link | None = None) -> str | None:
        """The lowest level that anybody behind a link asked for."""
        levels = self._around.log_levels
        match key.isolation:
            case "session":
                return levels.get(key.owner)
            case "principal":
                asked = [levels[each] for each in (link.sessions if link is not None else ()) if each in levels]
            case "shared":
                asked = list(levels.values()) if self.settings.isolation == "shared" else []
            case _:
                assert_never(key.isolation)
        return min(asked, key=LOG_LEVELS.index, default=None)

    # --- the catalogue ---

    def _set_unavailable(self, reason: str) -> None:
        if self.state != "unavailable" or self._catalogue.reason != reason:
            logger.warning("%s: unavailable: %s", self.settings.name, reason)
        self._rebuild(available=False, reason=reason)

    def _rebuild(self, *, available: bool, reason: str) -> None:
        before, state = self._catalogue, self.state
        self.state = "available" if available else "unavailable"
        self._catalogue = self._builder.build(self.settings, self._listing, available=available, reason=reason)
        kinds = changed_kinds(before, self._catalogue)
        if (
            kinds
            or self.state != state
            or reason != before.reason
            or before.instructions != self._catalogue.instructions
        ):
            if available and state != "available":
                logger.info("%s: available, %d entries", self.settings.name, len(self._catalogue.entries))
            self._around.changed(self.settings.name, kinds)

    def describe(self) -> ServerState:
        now = asyncio.get_running_loop().time()
        links = tuple(
            LinkState(
                isolation=link.key.isolation,
                owner=link.key.owner,
                control=link.key.control,
                pid=link.transport.pid,
                era=link.era or "",
                in_flight=len(link.calls),
                open_seconds=None if link.opened_at is None else now - link.opened_at,
                idle_seconds=0.0 if link.calls else now - link.used_at,
            )
            for link in self._links()
        )
        return ServerState(
            name=self.settings.name,
            state=self.state,
            reason=self._catalogue.reason,
            transport=self.settings.transport,
            isolation=self.settings.isolation,
            era=self._era or "",
            protocol_version=self._listing.protocol_version,
            links=links,
            restarts=self.restarts,
            retries_left=self._budget.saved,
        )


def _unavailable(reason: str, *, permanent: bool) -> Unanswered:
    return Unanswered(Code.SERVER_UNAVAILABLE, reason, "no", permanent=permanent)


assert DRAIN_SECONDS > CLOSE_SECONDS
