"""One request on its way to a tool server, and how it ended.

A link fills an exchange from its reading side (synchronous: `post`, `finish`); the task that made the request empties it
(`next`, until None). What arrived before the answer is handled before the answer, in order.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Literal

from gateway.model.refusal import Code
from gateway.servers.wire import Envelope, Unset

MAX_WAITING = 1000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Messages of one exchange that wait to be handled; a server that floods loses the rest (counted)."""

Ran = Literal["no", "unknown", "yes"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The tool server answered: with a result or an error of its own, as JSON text."""

    result: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """There is no answer to relay."""

    code: Code
    reason: str
    ran: Ran
    """Whether the request may have been carried out."""
    retry_after_seconds: float | None = None
    status: int | None = None
    """The HTTP status that said so, where one did."""
    error: bytes | None = None
    """The JSON-RPC error that said so, where one did: relayed if renewing does not help."""
    permanent: bool = False
    """Trying again now is pointless."""
    forgotten: bool = False
    """The server knows nothing of the session or era that the request was sent in: not carried out, renew and repeat."""


Ending = Answered | Unanswered


class Deadlines:
    """When the exchanges of one link have to have ended: one timer for all of them, which a call need not touch as a rule."""

    __slots__ = ("_due", "_timer")

    def __init__(self) -> None:
        self._due: dict[Exchange, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, exchange: "Exchange", when: float) -> None:
        """Expire the exchange at this instant of the loop's clock."""
        self._due[exchange] = when
        if self._timer is None or when < self._timer.when():
            self._arm(when)

    def clear(self, exchange: "Exchange") -> None:
        """Let it be."""
        self._due.pop(exchange, None)

    def of(self, exchange: "Exchange") -> float | None:
        """When it expires."""
        return self._due.get(exchange)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time() + 0.001
        for exchange in [exchange for exchange, due in self._due.items() if due <= now]:
            del self._due[exchange]
            exchange.expire()
        if self._due:
            self._arm(min(self._due.values()))


class Exchange:
    """One request in flight.

    Args:
        identifier: the JSON-RPC id that the link gave it.
        max_result_bytes: a larger result is not taken.
        deadlines: the link's.
    """

    __slots__ = (
        "_deadlines",
        "_loop",
        "_messages",
        "_pauses",
        "_remaining",
        "_waiter",
        "_waiting_bytes",
        "dropped",
        "ending",
        "identifier",
        "max_result_bytes",
    )

    def __init__(self, identifier: int, max_result_bytes: int, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.identifier = identifier
        self.max_result_bytes = max_result_bytes
        self.ending: Ending | None = None
        self.dropped = 0
        self._messages: deque[Envelope] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_bytes = 0
        self._pauses = 0
        self._remaining: float | None = None
        self._loop = asyncio.get_running_loop()

    # --- the link's side ---

    def post(self, message: Envelope) -> None:
        """A notification or request of the server that belongs to this exchange."""
        if self.ending is not None:
            return
        size = 0 if isinstance(message.params, Unset) else len(memoryview(message.params))
        if len(self._messages) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting_bytes += size
        self._messages.append(message)
        self._wake()

    def finish(self, ending: Ending) -> None:
        """The first ending counts."""
        if self.ending is None:
            self.ending = ending
            self._deadlines.clear(self)
            self._wake()

    # --- the requester's side ---

    def expire_at(self, when: float | None) -> None:
        """End as timed out at this instant of the loop's clock; None: never."""
        if when is None or self.ending is not None:
            self._deadlines.clear(self)
        else:
            self._deadlines.set(self, when)

    def expire(self) -> None:
        """Its time is over."""
        self.finish(Unanswered(Code.SERVER_TIMEOUT, "it did not answer in time", "unknown"))

    def pause(self) -> None:
        """Let its time stand still, while a person is asked; each needs its `resume`."""
        self._pauses += 1
        if (due := self._deadlines.of(self)) is not None:
            self._remaining = due - self._loop.time()
            self._deadlines.clear(self)

    def resume(self) -> None:
        """Let its time run again, where nothing else pauses it."""
        self._pauses -= 1
        if self._pauses == 0 and self._remaining is not None:
            self.expire_at(self._loop.time() + max(0.0, self._remaining))
            self._remaining = None

    async def next(self) -> Envelope | None:
        """The next message to handle, or None once there is an ending and nothing before it is left."""
        while True:
            if self._messages:
                message = self._messages.popleft()
                if not isinstance(message.params, Unset):
                    self._waiting_bytes -= len(memoryview(message.params))
                return message
            if self.ending is not None:
                return None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
