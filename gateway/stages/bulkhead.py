"""Stage 9: a free place in the pool of this risk class and of this tool server.

Read, write and external tools do not share fate: each class has its own pool, and each server its own bound, so that a
server that hangs fills its own places and nobody else's. A full pool refuses at once, or lets a declared number of calls
wait for a declared time. While others wait, one agent takes at most half of a pool. Calls that `serialize_by` names as
one run one after another, across agents.

Places are taken in the order serial lock, server, risk class: a call that waits for a slow server holds no place of the
class that others share.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio

from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Outcome, Proceed, Refuse, Verdict
from gateway.ports import Clock, Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules:
    """`[pools]`, or a server's `max_concurrency`."""

    max_concurrency: int
    queue: int = 0
    queue_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """One pool, as operators see it."""

    pool: str
    in_use: int
    max_concurrency: int
    waiting: int


@dataclass(slots=True)
class _Waiter:
    agent: str
    admitted: anyio.Event = field(default_factory=anyio.Event)
    has_place: bool = False


@dataclass(slots=True)
class _Pool:
    """Places, who holds them, and who waits. No method awaits, so each is one atomic step."""

    name: str
    rules: PoolRules
    holders: dict[str, int] = field(default_factory=dict)
    in_use: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)

    def take(self, agent: str) -> bool:
        """A place now, if there is one and it is this agent's turn."""
        if self.in_use >= self.rules.max_concurrency or (self.waiting and not self._fair(agent)):
            return False
        self._occupy(agent)
        return True

    def give_back(self, agent: str) -> None:
        self.in_use -= 1
        left = self.holders[agent] - 1
        if left:
            self.holders[agent] = left
        else:
            del self.holders[agent]
        if self.waiting:
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self.waiting and self.in_use < self.rules.max_concurrency:
            next_one = next((waiter for waiter in self.waiting if self._fair(waiter.agent)), self.waiting[0])
            self.waiting.remove(next_one)
            next_one.has_place = True
            self._occupy(next_one.agent)
            next_one.admitted.set()

    def _fair(self, agent: str) -> bool:
        """False where another agent waits and this one has its half."""
        if not any(waiter.agent != agent for waiter in self.waiting):
            return True
        return self.holders.get(agent, 0) < max(1, self.rules.max_concurrency // 2)

    def _occupy(self, agent: str) -> None:
        self.in_use += 1
        self.holders[agent] = self.holders.get(agent, 0) + 1


class Bulkhead:
    """Gives places, in order, and takes them back.

    Args:
        pool: the rules of a risk class.
        server: the bound of a tool server.
    """

    name = "bulkhead"

    def __init__(self, pool: Callable[[str], PoolRules], server: Callable[[str], PoolRules], clock: Clock) -> None:
        self._pool_rules, self._server_rules, self._clock = pool, server, clock
        self._pools: dict[str, _Pool] = {}
        self._held: dict[str, list[_Pool]] = {}

    async def admit(self, call: Call) -> Verdict:
        held: list[_Pool] = []
        before: int | None = None
        agent = call.principal.id
        try:
            for pool in self._wanted(call):
                if not pool.take(agent):
                    before = before or self._clock.monotonic_ns()
                    if not await self._wait(pool, call):
                        self._release(held, call)
                        return _full(pool)
                held.append(pool)
        except BaseException:
            self._release(held, call)
            raise
        self._held[call.id] = held
        if before is not None:
            return Proceed(facts={"waited_us": (self._clock.monotonic_ns() - before) // 1000})
        return PROCEED

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        self._release(self._held.pop(call.id, []), call)
        return None

    def use(self) -> Iterator[PoolUse]:
        """Every pool, with its use."""
        for pool in sorted(self._pools.values(), key=lambda pool: pool.name):
            yield PoolUse(
                pool=pool.name,
                in_use=pool.in_use,
                max_concurrency=pool.rules.max_concurrency,
                waiting=len(pool.waiting),
            )

    def _wanted(self, call: Call) -> list[_Pool]:
        """The pools that a call needs a place in, in the order in which they are asked."""
        risk = call.risk._value_
        wanted = [
            self._pool("server:", call.server, self._server_rules(call.server)),
            self._pool("risk:", risk, self._pool_rules(risk)),
        ]
        if (value := serial_value(call)) is not None:
            # As many as come may wait for their turn; the call's own deadline bounds it.
            one = PoolRules(max_concurrency=1, queue=1_000_000, queue_seconds=3600.0)
            wanted.insert(0, self._pool("serial:", f"{call.server}:{value}", one))
        return wanted

    def _pool(self, kind: str, subject: str, rules: PoolRules) -> _Pool:
        name = kind + subject
        if (pool := self._pools.get(name)) is None:
            pool = self._pools[name] = _Pool(name, rules)
        pool.rules = rules  # a reload's bounds apply from the next call on
        return pool

    async def _wait(self, pool: _Pool, call: Call) -> bool:
        """Wait in the pool's queue; whether a place was given."""
        if len(pool.waiting) >= pool.rules.queue:
            return False
        waiter = _Waiter(call.principal.id)
        pool.waiting.append(waiter)
        seconds = pool.rules.queue_seconds
        if call.deadline is not None:
            seconds = min(seconds, max(0.0, call.deadline - anyio.current_time()))
        try:
            with anyio.move_on_after(seconds):
                await waiter.admitted.wait()
        except BaseException:
            if waiter.has_place:
                pool.give_back(waiter.agent)
            else:
                pool.waiting.remove(waiter)
            raise
        if not waiter.has_place:
            pool.waiting.remove(waiter)
        return waiter.has_place

    def _release(self, held: list[_Pool], call: Call) -> None:
        for pool in reversed(held):
            pool.give_back(call.principal.id)
            if pool.name.startswith("serial:") and not pool.in_use and not pool.waiting:
                del self._pools[pool.name]


def serial_value(call: Call) -> str | None:
    """What `serialize_by` points at in the arguments, as a key; None where the tool has none.

    A call whose arguments lack the value is serialised with the others that lack it.
    """
    if call.entry is None or call.entry.serialize_by is None:
        return None
    value = call.arguments
    for part in call.entry.serialize_by.split(".")[1:]:
        value = value.get(part) if isinstance(value, dict) else None
    return repr(value)


def _full(pool: _Pool) -> Refuse:
    kind, _, name = pool.name.partition(":")
    what = {"risk": f"calls of risk {name!r}", "server": f"calls to {name}"}.get(kind, "calls with the same value")
    return Refuse(
        code=Code.POOL_FULL,
        message=f"All {pool.rules.max_concurrency} places for {what} are taken. Nothing was run. Try again in a moment.",
        retry_after_seconds=1.0,
        rule=pool.name,
    )
