"""One agent's program on stdio, whoever owns the store: this process, or another that it joins.

    client ── stdin/stdout ── this process ─┬─ owns the store: the gateway is built here
                                            └─ joined: every message goes over the owner's socket, and back

When the owner goes, all who had joined race for the lock. The winner recovers the store, builds the gateway and serves its
own client and the others; those come to it by themselves. No client notices: its connection is to its own process. What a
joiner has to remember for that is in `Conversation`: the client's opening, its log level, its subscriptions, and what is in
flight. Requests that have no effect are put again; calls are answered with what is true: it is unknown whether they ran.
"""

import asyncio
import contextlib
import json
import logging
import random
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import orjson

from gateway.adapters import ownership
from gateway.adapters.system import on_signals
from gateway.control import new_id
from gateway.edge import wire
from gateway.edge.protocol import INVALID_REQUEST, REFUSAL_KEY, REFUSED, SUBSCRIPTION_KEY, VERSION_KEY
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import ANNOUNCEMENT, Lines, MessageTooLarge, Read, Write, serve_connection
from gateway.model.call import Method
from gateway.model.errors import GatewayError, StoreBusy
from gateway.model.refusal import Code
from gateway.owner import ENDED, LEAVING, VERSION, Built, Commands, serving_others

logger = logging.getLogger("gateway.owner")

FIND_SECONDS: Final = 60.0
"""How long an owner is looked for, and waited for while it recovers."""

RETRY_SECONDS: Final = 0.03
"""Between two tries for the lock, on average."""

FLUSH_SECONDS: Final = 2.0
"""How long answers are still awaited from the owner after the client has closed its end."""

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"

RESULT_BYTES: Final = 1 << 30
"""A message of the owner: it has kept its own limits."""

_HEAD = re.compile(rb'\{"jsonrpc":"2\.0","id":(-?[0-9]+|"(?:[^"\\]|\\.)*"|null),"(result|error|method)"')
_NOTIFICATION = b'{"jsonrpc":"2.0","method":'

_PUT_AGAIN = frozenset(
    {
        "initialize", "ping", "server/discover", "tools/list", "prompts/list", "resources/list",
        "resources/templates/list", "logging/setLevel", "resources/subscribe", "resources/unsubscribe",
        "subscriptions/listen",
    }
)  # fmt: skip
"""Requests that may be put to the next owner as if nothing had been: they have no effect but on the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request of the client that has no answer yet."""

    method: str
    text: bytes
    modern: bool
    params: Any
    in_batch: bool


class Conversation:
    """What of a client's conversation has to be known to take it up with another owner."""

    def __init__(self) -> None:
        self.opening: bytes | None = None
        """The client's `initialize`, once it was answered with a result."""
        self.in_flight: dict[str | int, Sent] = {}
        self._level: dict[str, Any] | None = None
        self._subscribed: dict[str, dict[str, Any]] = {}
        self._acknowledged: set[str | int] = set()
        """`subscriptions/listen` requests whose acknowledgement the client has."""
        self._calls: dict[str | int, str] = {}
        """The ids of the calls that were made of requests in flight."""
        self._asked: set[str | int] = set()
        """Requests to the client that it has not answered."""
        self._swallow: set[str | int] = set()
        """Requests of our own: their answers are not for the client."""
        self._acknowledged_again: set[str | int] = set()

    @property
    def calls_in_flight(self) -> int:
        """Requests that cannot be put again."""
        return sum(1 for sent in self.in_flight.values() if sent.method not in _PUT_AGAIN)

    # --- what passes ---

    def sent(self, text: bytes) -> None:
        """The client sent a message."""
        try:
            value = orjson.loads(text)
        except ValueError:
            return  # the owner will say so
        if isinstance(value, list):
            for each in value:
                self._sent(each, text, in_batch=True)
        else:
            self._sent(value, text, in_batch=False)

    def _sent(self, value: Any, text: bytes, *, in_batch: bool) -> None:
        match value:
            case {"method": str(method), "id": str() | int() as identifier}:
                if isinstance(identifier, bool) or identifier in self.in_flight:
                    return
                params = value.get("params")
                meta = params.get("_meta") if isinstance(params, dict) else None
                self.in_flight[identifier] = Sent(
                    method=method,
                    text=text,
                    modern=isinstance(meta, dict) and VERSION_KEY in meta,
                    params=params if method in _PUT_AGAIN else None,
                    in_batch=in_batch,
                )
            case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as identifier}}:
                self.in_flight.pop(identifier, None)
                self._calls.pop(identifier, None)
            case {"id": str() | int() as identifier} if "method" not in value:
                self._asked.discard(identifier)

    def received(self, text: bytes) -> bool:
        """The owner sent a message; False where it is not for the client."""
        if text.startswith(ANNOUNCEMENT):
            announced = orjson.loads(text)
            if announced["id"] in self.in_flight:
                self._calls[announced["id"]] = announced["call_id"]
            return False
        if (head := _HEAD.match(text)) is not None:
            identifier, kind = orjson.loads(head[1]), head[2]
            return self._received(identifier, kind.decode(), text)
        if text.startswith(_NOTIFICATION):
            return ACKNOWLEDGED.encode() not in text[:100] or self._acknowledge(text)
        try:
            value = orjson.loads(text)
        except ValueError:
            return True
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict) and "id" in each:
                self._received(each["id"], next((key for key in ("method", "error") if key in each), "result"), text)
        return True

    def _received(self, identifier: Any, kind: str, text: bytes) -> bool:
        if not isinstance(identifier, (str, int)):
            return True
        if kind == "method":
            self._asked.add(identifier)
            return True
        if identifier in self._swallow:
            self._swallow.discard(identifier)
            return False
        sent = self.in_flight.pop(identifier, None)
        self._calls.pop(identifier, None)
        if sent is None or kind != "result":
            return True
        params = sent.params if isinstance(sent.params, dict) else {}
        match sent.method:
            case "initialize":
                self.opening = sent.text
                self._level = None
                self._subscribed.clear()
            case "logging/setLevel":
                self._level = params
            case "resources/subscribe":
                self._subscribed[str(params.get("uri"))] = params
            case "resources/unsubscribe":
                self._subscribed.pop(str(params.get("uri")), None)
            case "subscriptions/listen":
                self._acknowledged.discard(identifier)
        return True

    def _acknowledge(self, text: bytes) -> bool:
        """An acknowledgement reaches the client once, however often its subscription was put."""
        try:
            identifier = orjson.loads(text)["params"]["_meta"][SUBSCRIPTION_KEY]
        except (ValueError, KeyError, TypeError):
            return True
        if identifier in self._acknowledged_again:
            self._acknowledged_again.discard(identifier)
            return False
        self._acknowledged.add(identifier)
        return True

    # --- the owner is gone ---

    def lost(self) -> tuple[list[bytes], list[bytes]]:
        """What to tell the client, and what to put to the next owner before anything else."""
        to_client: list[bytes] = []
        to_owner: list[bytes] = []
        for identifier in self._asked:
            params = {"requestId": identifier, "reason": "the gateway process that asked has ended"}
            to_client.append(wire.notification("notifications/cancelled", params))
        self._asked.clear()
        self._swallow.clear()
        if self._level is not None:
            to_owner.append(self._own("logging/setLevel", self._level))
        for params in self._subscribed.values():
            to_owner.append(self._own("resources/subscribe", params))
        for identifier, sent in list(self.in_flight.items()):
            if sent.method in _PUT_AGAIN and not sent.in_batch:
                to_owner.append(sent.text)
                if identifier in self._acknowledged:
                    self._acknowledged_again.add(identifier)
            else:
                del self.in_flight[identifier]
                to_client.append(_in_doubt(identifier, sent, self._calls.pop(identifier, "")))
        return to_client, to_owner

    @property
    def awaits_own_answers(self) -> bool:
        """Whether messages of the owner still have to be looked at in this process."""
        return bool(self._swallow or self._acknowledged_again)

    def _own(self, method: str, params: dict[str, Any]) -> bytes:
        identifier = f"gateway-joiner-{secrets.token_hex(8)}"
        self._swallow.add(identifier)
        return wire.request(identifier, method, params)


def _in_doubt(identifier: str | int, sent: Sent, call_id: str) -> bytes:
    """The answer to a call that was on its way through an owner that is gone."""
    body = {
        "code": Code.SERVER_LOST.value,
        "stage": "forward",
        "reason": "The gateway process that executed this call has ended before its outcome was known.",
        "call_id": call_id,
        "executed": "unknown",
    }
    words = wire.for_the_model(body)
    if sent.method != Method.CALL_TOOL:
        return wire.error(identifier, REFUSED, words, body).body
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": words}],
        "isError": True,
        "_meta": {REFUSAL_KEY: body},
    }
    if sent.modern:
        result["resultType"] = "complete"
    return wire.result_of(identifier, result).body


# --- the client's end --------------------------------------------------------------------------------------------


class ClientEnd:
    """The client's messages, read by one task as long as this process lives, whoever serves them."""

    def __init__(self, read: Read, write: Write) -> None:
        self._read, self.write = read, write
        self._put, self._get = anyio.create_memory_object_stream[bytes | MessageTooLarge | None](16)
        self.prelude: list[bytes] = []
        """Read before anything of the client's."""

    async def pump(self, stop: anyio.Event) -> None:
        """Reads until the client closes its end, or `stop` is set."""
        with self._put:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_end_with, stop, tasks.cancel_scope)
                with contextlib.suppress(OSError):
                    await self._pump()
                tasks.cancel_scope.cancel()

    async def _pump(self) -> None:
        while True:
            try:
                text = await self._read()
            except MessageTooLarge as error:
                await self._put.send(error)
                continue
            if text is None:
                return
            await self._put.send(text)

    async def read(self) -> bytes | None:
        """The next message; None at the end. Raises `MessageTooLarge`."""
        if self.prelude:
            return self.prelude.pop(0)
        try:
            text = await self._get.receive()
        except anyio.EndOfStream:
            return None
        if isinstance(text, MessageTooLarge):
            raise text
        return text

    def close(self) -> None:
        """Nothing is read any more."""
        self._put.close()
        self._get.close()


async def _end_with(stop: anyio.Event, scope: anyio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


# --- owner or joiner ---------------------------------------------------------------------------------------------


class OwnerRefused(GatewayError):
    """The store's owner does not take this agent's program."""


async def attend(
    *,
    store: Path,
    configuration: Path,
    key: str | None,
    agent: str | None,
    build: Callable[[], AbstractAsyncContextManager[Built]],
    commands: Callable[[Built], Commands],
    read: Read,
    write: Write,
    max_request_bytes: int = EdgeSettings().max_request_bytes,
) -> None:
    """Serve one client until it closes its end: as the store's owner, or through it, and from the one to the other.

    SIGTERM and SIGINT end it as the client's closing does: calls come to their end, the store is closed in good order.

    Args:
        configuration: the configuration's file; every process on a store has to use the same one.
        key: the agent's key, which a joiner forwards; None where no keys are configured.
        agent: the agent's name, where one was given; its key has to prove it.
        build: makes the gateway, where this process becomes the owner; reads the configuration anew.
        commands: what the owner then does for commands.
        read, write: the client's messages (see `gateway.edge.stdio`).

    Raises:
        OwnerRefused: the owner does not take this agent, or another configuration owns the store.
        StoreBusy: the store is owned, and its owner serves nobody.
        GatewayError: what `build` raises.
    """
    client = ClientEnd(read, write)
    stop = anyio.Event()
    pumping = asyncio.create_task(client.pump(stop), name="client")
    attendance = _Attendance(
        store=store,
        configuration=configuration,
        key=key,
        agent=agent,
        build=build,
        commands=commands,
        client=client,
        talk=Conversation(),
        max_request_bytes=max_request_bytes,
    )
    try:
        with on_signals(lambda _: stop.set()):
            await attendance.serve()
    except BaseExceptionGroup as group:
        raise _alone(group) from group
    finally:
        pumping.cancel()
        client.close()
        await asyncio.wait([pumping])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attendance:
    """One client served by this process, as `attend` is told to."""

    store: Path
    configuration: Path
    key: str | None
    agent: str | None
    build: Callable[[], AbstractAsyncContextManager[Built]]
    commands: Callable[[Built], Commands]
    client: ClientEnd
    talk: Conversation
    max_request_bytes: int
    session_id: str = field(default_factory=new_id)

    async def serve(self) -> None:
        """As the owner or through one, whoever it is at the time, until the client closes its end."""
        until = anyio.current_time() + FIND_SECONDS
        while True:
            with _owned(self.store) as owned:
                if owned:
                    await self._own()
                    return
            streams = await ownership.join(self.store)
            if streams is None:
                if anyio.current_time() > until:
                    raise StoreBusy(
                        f"the store {self.store} is in use by {ownership.owner(self.store)}, which serves nobody"
                    )
                await anyio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
                continue
            reader, writer = streams
            try:
                joined = _Joined(reader, writer, self.client, self.talk, self.max_request_bytes)
                if not await joined.begin(self._hello()):
                    if anyio.current_time() > until:
                        raise StoreBusy(
                            f"{ownership.owner(self.store)} uses the store {self.store}, and does not answer"
                        )
                    await anyio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
                    continue
                if await joined.relay():
                    return
            finally:
                writer.close()
            logger.info("the store's owner has gone; looking for the next one")
            until = anyio.current_time() + FIND_SECONDS
            if not await self._told_what_is_lost():
                return

    async def _own(self) -> None:
        """Be the owner until this process's own client closes its end."""
        with ownership.listening(self.store) as listener:
            async with self.build() as built:
                principal = built.gateway.authenticate(self.key)
                if principal is None or (self.agent is not None and self.agent != principal.id):
                    raise OwnerRefused("the agent's key is not valid")
                async with serving_others(listener, built, self.commands(built), self.configuration):
                    await serve_connection(
                        built.gateway,
                        principal,
                        self.client.read,
                        self._write,
                        settings=built.edge,
                        session_id=self.session_id,
                        opening=self.talk.opening,
                    )

    async def _write(self, text: bytes) -> None:
        """To the client, of this process as the owner; but for what only takes up the conversation."""
        if not self.talk.awaits_own_answers or self.talk.received(text):
            await self.client.write(text)

    def _hello(self) -> dict[str, Any]:
        """What a joiner says of itself (`gateway.owner`)."""
        opening = self.talk.opening
        return {
            "gateway": VERSION,
            "kind": "agent",
            "key": self.key,
            "agent": self.agent,
            "configuration": str(self.configuration.resolve()),
            "session_id": self.session_id,
            "opening": opening.decode() if opening is not None else None,
        }

    async def _told_what_is_lost(self) -> bool:
        """Answer what is in doubt, and prepare what the next owner hears first. False where the client is gone as well."""
        to_client, self.client.prelude = self.talk.lost()
        try:
            for text in to_client:
                await self.client.write(text)
        except OSError:
            return False
        return True


def _alone(group: BaseExceptionGroup[Any]) -> BaseException:
    """The one exception of a group, which task groups wrap; the group itself where there are several."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found


@contextlib.contextmanager
def _owned(store: Path) -> Iterator[bool]:
    """Whether the store could be made this process's own; it is while the context is open."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ownership.own(store, "stdio"))
        except StoreBusy:
            yield False
        else:
            yield True


class _Joined:
    """A connection to the owner."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: ClientEnd,
        talk: Conversation,
        max_request_bytes: int,
    ) -> None:
        self._writer, self._client, self._talk = writer, client, talk
        self._max_request_bytes = max_request_bytes

        async def receive() -> bytes:
            try:
                return await reader.read(262_144)
            except OSError:
                return b""

        self._lines = Lines(receive, RESULT_BYTES)
        self._scope = anyio.CancelScope()
        self._sending = anyio.CancelScope()
        self._sent_all = anyio.Event()
        """Nothing more goes to this owner."""
        self._ended = False
        """The client's end is closed, or the owner ended the session: there is nothing to take up."""

    async def begin(self, hello: dict[str, Any]) -> bool:
        """Say who is there; False where the owner goes before it answers.

        Raises:
            OwnerRefused: it says no.
        """
        text: bytes | None = None
        with anyio.move_on_after(FIND_SECONDS), contextlib.suppress(OSError):
            self._writer.write(json.dumps(hello).encode() + b"\n")
            await self._writer.drain()
            text = await self._lines.read()
        if not text:
            return False
        answer = orjson.loads(text)
        if answer.get("ok") is not True:
            raise OwnerRefused(str(answer.get("error")))
        return True

    async def relay(self) -> bool:
        """Carry messages both ways. True when the conversation is over, False when the owner is gone."""
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            self._sending, self._sent_all = anyio.CancelScope(), anyio.Event()
            tasks.start_soon(self._to_owner)
            await self._from_owner()
            self._scope.cancel()
        return self._ended

    async def _to_owner(self) -> None:
        """The client's messages. Those of the prelude are known to the conversation already."""
        with self._sending, contextlib.suppress(OSError):  # what a broken owner sent before is still to be read
            while True:
                again = bool(self._client.prelude)
                try:
                    text = await self._client.read()
                except MessageTooLarge:
                    words = f"The message is larger than {self._max_request_bytes} bytes (max_request_bytes)"
                    await self._client.write(wire.error(None, INVALID_REQUEST, words).body)
                    continue
                if text is None:
                    self._ended = True
                    self._writer.write_eof()
                    await anyio.sleep(FLUSH_SECONDS)
                    self._scope.cancel()
                    return
                if not text.strip():
                    continue
                if not again:
                    self._talk.sent(text)
                self._writer.write(text + b"\n")
                await self._writer.drain()
        self._sent_all.set()

    async def _from_owner(self) -> None:
        """The owner's messages, up to its end; of one that stops, up to the last answer of a call."""
        leaving = False
        while not (leaving and not self._talk.calls_in_flight):
            text = await self._lines.read()
            if text is None:
                return
            if text == LEAVING:
                leaving = True
                self._sending.cancel()
                # A call may have been read and not be known yet: it still goes to this owner, which waits for us.
                await self._sent_all.wait()
                continue
            if text == ENDED:
                self._ended = True
                return
            if self._talk.received(text):
                try:
                    await self._client.write(text)
                except OSError as error:
                    logger.info("the client's end is closed: %s", error)
                    self._ended = True
                    return
