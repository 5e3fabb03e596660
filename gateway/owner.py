"""The owner of a store serves the others: agents' programs that joined, and commands that change something.

A connection on the owner's socket begins with one line, the hello, which says what it is for:

    {"gateway": 1, "kind": "agent", "key": ..., "agent": ..., "configuration": ..., "session_id": ..., "opening": ...}
    {"gateway": 1, "kind": "command", "command": ..., "params": {...}, "operator_key": ...}

and is answered by one line, `{"ok": true, ...}` or `{"ok": false, "error": ...}`. After an agent's hello every line is an
MCP message, served by the stdio edge as if the client had started this process itself. A name proves nothing here: the
agent's key does, and the operator's.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import anyio

from gateway.adapters import ownership
from gateway.control import Gateway, new_id
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import Lines, MessageTooLarge, serve_connection
from gateway.model.call import Principal
from gateway.model.errors import GatewayError

logger = logging.getLogger("gateway.owner")

VERSION: Final = 1
"""Of the hello. Another one is refused: both processes have to be of one installation."""

HELLO_SECONDS: Final = 10.0
SESSION_SECONDS: Final = 3.0
"""How long a connection that was lost may take to be noticed, before its session can be taken up again."""

HELLO_BYTES: Final = 16_777_216
"""A hello may carry a command's params, or a client's opening."""

LEAVING: Final = b'{"gateway":"leaving"}'
"""From the owner to who joined: bring what is in flight to its end, and look for another owner."""

ENDED: Final = b'{"gateway":"ended"}'
"""From the owner to who joined: the session is over, do not come back with it."""

LEAVE_SECONDS: Final = 3.0
"""How long an owner that stops waits for calls of those who joined; clients give a process little time to end."""

RANKS: Final = ("viewer", "approver", "operator")


class Built(Protocol):
    """A running gateway, as far as its owner has to know it (`wiring.Runtime`)."""

    @property
    def gateway(self) -> Gateway: ...

    @property
    def edge(self) -> EdgeSettings: ...


class CommandRefused(GatewayError):
    """A command's answer is no; the text is one line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActingOperator:
    """Who gave a command, proven by their key."""

    name: str
    role: str


Act = Callable[[Mapping[str, Any], ActingOperator | None], Awaitable[Any]]
"""(params, the operator) to a JSON value. Raises `CommandRefused`, or another `GatewayError`, whose text is answered."""


class Commands:
    """What commands the owner takes.

    Args:
        operator_for_key: the operator whose key this is, or None; asked at every command, so that a reload counts.
    """

    def __init__(self, operator_for_key: Callable[[str], ActingOperator | None]) -> None:
        self._operator_for_key = operator_for_key
        self._commands: dict[str, tuple[Act, str | None]] = {}

    def add(self, name: str, act: Act, *, role: str | None = "operator") -> None:
        """Take a command.

        Args:
            role: the least role that may give it; None: no key is needed, since it only looks at what the store's files
                tell the same user anyway.
        """
        assert role is None or role in RANKS
        self._commands[name] = act, role

    async def answer(self, name: Any, params: Any, key: Any) -> Any:
        """The command's answer.

        Raises:
            GatewayError: it is refused, or failed.
        """
        found = self._commands.get(name) if isinstance(name, str) else None
        if found is None:
            raise CommandRefused(f"the running gateway knows no command {name!r}")
        act, role = found
        operator = self._operator_for_key(key) if isinstance(key, str) and key else None
        if role is not None:
            if operator is None:
                raise CommandRefused("this needs an operator's key" if not key else "no operator has this key")
            if RANKS.index(operator.role) < RANKS.index(role):
                raise CommandRefused(f"{operator.name} is {operator.role}; this needs {role}")
        return await act(params if isinstance(params, Mapping) else {}, operator)


@contextlib.asynccontextmanager
async def serving_others(
    listener: ownership.Listener, built: Built, commands: Commands, configuration: Path
) -> AsyncIterator[None]:
    """Serve whoever connects to the listener while the context is open; at its end their connections are closed.

    Args:
        listener: of `ownership.listening`.
        configuration: the file that this gateway was made from; an agent that was told to use another one is refused.
    """
    service = _Service(built, commands, configuration)
    async with anyio.create_task_group() as tasks:
        accepting = anyio.CancelScope()
        tasks.start_soon(service.accept, listener, accepting)
        try:
            yield
        finally:
            accepting.cancel()
            with anyio.move_on_after(LEAVE_SECONDS, shield=True):
                await service.leave()
            tasks.cancel_scope.cancel()


class _Service:
    def __init__(self, built: Built, commands: Commands, configuration: Path) -> None:
        self._built, self._commands, self._configuration = built, commands, configuration.resolve()
        self._agents: set[asyncio.StreamWriter] = set()
        """The connections of agents' programs that joined."""
        self._left = anyio.Event()

    async def accept(self, listener: ownership.Listener, scope: anyio.CancelScope) -> None:
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            with scope:
                while True:
                    try:
                        connection, _ = await loop.sock_accept(listener.sock)
                    except OSError as error:
                        logger.error("a connection could not be taken: %s", error)
                        await anyio.sleep(0.1)
                        continue
                    tasks.start_soon(self._serve, listener, connection)

    async def leave(self) -> None:
        """Tell those who joined that this process ends; returns when they have left."""
        for writer in self._agents:
            writer.write(LEAVING + b"\n")
        while self._agents:
            self._left = anyio.Event()
            await self._left.wait()

    async def _serve(self, listener: ownership.Listener, connection: socket.socket) -> None:
        """One connection, from its hello to its end."""
        try:
            reader, writer = await listener.admit(connection)
        except (ownership.ForeignPeer, OSError) as error:
            logger.warning("a connection to the owner's socket was refused: %s", error)
            connection.close()
            return
        try:
            await self._talk(reader, writer)
        except (OSError, EOFError) as error:
            logger.info("a joined connection ended: %s", error)
        except Exception:
            logger.exception("a joined connection failed")
        finally:
            self._agents.discard(writer)
            self._left.set()
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def receive() -> bytes:
            return await reader.read(262_144)

        async def write(text: bytes) -> None:
            if writer.is_closing():
                raise BrokenPipeError("the other process is gone")
            writer.write(text + b"\n")
            await writer.drain()

        lines = Lines(receive, HELLO_BYTES)
        hello: Any = None
        with contextlib.suppress(MessageTooLarge, ValueError), anyio.move_on_after(HELLO_SECONDS):
            text = await lines.read()
            if text is None:
                return
            hello = json.loads(text)
        match hello:
            case {"gateway": int(version)} if version != VERSION:
                await write(_no("the store's owner is another version of the gateway; stop it, or use the same one"))
            case {"gateway": int(), "kind": "command"}:
                await self._command(hello, lines, write)
            case {"gateway": int(), "kind": "agent"}:
                await self._agent(hello, lines, write, writer)
            case _:
                await write(_no("this is no hello"))

    async def _command(self, hello: Mapping[str, Any], lines: Lines, write: Callable[[bytes], Awaitable[None]]) -> None:
        """One command; who gave it may go away, which cancels it."""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while await lines.read() is not None:
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                result = await self._commands.answer(
                    hello.get("command"), hello.get("params"), hello.get("operator_key")
                )
                answer = json.dumps({"ok": True, "result": result}, default=str).encode()
            except GatewayError as error:
                answer = _no(str(error))
            except Exception:
                logger.exception("command %r failed", hello.get("command"))
                answer = _no("the gateway failed; its log says why")
            await write(answer)
            tasks.cancel_scope.cancel()

    async def _agent(
        self,
        hello: Mapping[str, Any],
        lines: Lines,
        write: Callable[[bytes], Awaitable[None]],
        writer: asyncio.StreamWriter,
    ) -> None:
        """An agent's program that joined: MCP from here on."""
        refusal, principal = await self._principal(hello)
        if principal is None:
            await write(_no(refusal))
            return
        self._agents.add(writer)
        await write(b'{"ok":true}')
        opening = hello.get("opening")
        lines.limit = self._built.edge.max_request_bytes
        await serve_connection(
            self._built.gateway,
            principal,
            lines.read,
            write,
            settings=self._built.edge,
            session_id=str(hello["session_id"]) if hello.get("session_id") else new_id(),
            opening=opening.encode() if isinstance(opening, str) else None,
            announced=True,
        )
        await write(ENDED)

    async def _principal(self, hello: Mapping[str, Any]) -> tuple[str, Principal | None]:
        """Whom the hello proves, or why it proves nobody."""
        named = hello.get("configuration")
        if named != str(self._configuration):
            return (
                f"the store's owner uses {self._configuration}, not {named}; give each configuration its own store",
                None,
            )
        key, agent, session_id = hello.get("key"), hello.get("agent"), hello.get("session_id")
        principal = self._built.gateway.authenticate(key if isinstance(key, str) else None)
        if principal is None or (agent is not None and agent != principal.id):
            return "the agent's key is not valid", None
        if session_id is not None:
            if not isinstance(session_id, str) or not 8 <= len(session_id) <= 64:
                return "the session's id is not valid", None
            with anyio.move_on_after(SESSION_SECONDS):
                while await self._built.gateway.channel(session_id) is not None:  # noqa: ASYNC110 - nothing tells
                    await anyio.sleep(0.05)
            if await self._built.gateway.channel(session_id) is not None:
                return "the session is served to another process", None
        return "", principal


def _no(text: str) -> bytes:
    return json.dumps({"ok": False, "error": text}).encode()


# --- the other end of a command ---


async def ask_owner(
    store: Path, command: str, params: Mapping[str, Any] | None = None, operator_key: str | None = None
) -> Any:
    """Have the store's owner do something, and return its answer.

    Raises:
        NoOwner: no gateway runs on this store.
        CommandRefused: its answer is no; the text says why.
    """
    joined = await ownership.join(store)
    if joined is None:
        raise NoOwner(f"no gateway runs on the store {store}; start one with `gateway serve` or `gateway stdio`")
    reader, writer = joined
    try:
        hello = {
            "gateway": VERSION,
            "kind": "command",
            "command": command,
            "params": dict(params or {}),
            "operator_key": operator_key,
        }
        writer.write(json.dumps(hello).encode() + b"\n")
        await writer.drain()
        text = await reader.read(-1)
        answer = json.loads(text)
    except (OSError, ValueError) as error:
        raise CommandRefused("the gateway ended before it answered; what became of the command is unknown") from error
    finally:
        writer.close()
    if answer.get("ok") is not True:
        raise CommandRefused(str(answer.get("error")))
    return answer.get("result")


class NoOwner(GatewayError):
    """Nobody owns the store: no gateway is running on it."""
