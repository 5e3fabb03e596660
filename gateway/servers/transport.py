"""What a link needs of a transport, whatever carries its messages: the ports between `link` and its three carriers."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.ports import Attempt
from gateway.servers.exchange import Exchange

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
"""Runs a coroutine function as a task of the link, for as long as the link lives."""


class StartError(Exception):
    """A tool server that could not be started, reached or understood. The text says why.

    Args:
        reason: one line.
        permanent: trying again without a change elsewhere is pointless (there is no such program).
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class NotSent(Exception):
    """A message of which no byte was handed to the transport. The text says why."""


class Receiver(Protocol):
    """The reading side of a link. Both methods are synchronous and never raise."""

    def receive(self, data: bytes, exchange: Exchange | None) -> None:
        """One message of the tool server; `exchange` is the request it came in answer to, where the transport knows."""
        ...

    def oversized(self, head: bytes, tail: bytes) -> None:
        """A message beyond all bounds was thrown away: its first and last bytes."""
        ...

    def missed(self) -> None:
        """Messages outside any request may have been missed: their stream broke, and is there again."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is gone, and with it everything that waits on it."""
        ...


class Transport(Protocol):
    """Carries messages to one tool server and back. Started, used and closed by one link."""

    correlates: bool
    """What a server sends in mid-request comes with the request that it belongs to."""
    stateless: bool
    """There is no connection to lose: each request stands alone."""
    pid: int | None
    """Of the child, where there is one."""

    async def start(self, receiver: Receiver) -> None:
        """
        Raises:
            StartError: no connection, no child.
        """
        ...

    async def send(
        self,
        data: bytes,
        exchange: Exchange | None,
        *,
        headers: bytes = b"",
        repeatable: bool = False,
        attempt: Attempt | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Hand one message over. `attempt.sent` is set before the first byte is.

        Args:
            data: the message, on one line.
            exchange: the request whose message it is; None for notifications and answers.
            headers: lines for the request's head, where messages have one.
            repeatable: it does no harm if it is carried out twice.
            timeout_seconds: for making a connection, where none is open.

        Raises:
            NotSent: nothing was handed over.
        """
        ...

    def drop(self, exchange: Exchange) -> None:
        """Nobody waits for this exchange any more: close what is open for it alone.

        A server without state takes that for a cancellation (2026-07-28 over HTTP); any other has to be told.
        """
        ...

    async def close(self) -> None:
        """Let go of everything, in bounded time. Called in a shielded scope."""
        ...
