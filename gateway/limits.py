"""The configuration's limits as the values that stages take: quotas, interrupts, pools, breakers, approvals."""

import hashlib

from gateway.adapters.holds import HoldSettings
from gateway.config import Calendar, Configuration, Rolling
from gateway.decide.breaker import Rules
from gateway.decide.hold import Operator
from gateway.decide.interrupt import Kind, Rule
from gateway.decide.quota import Budget, Quota, Window
from gateway.model.call import Call
from gateway.stages.bulkhead import PoolRules

POOLS = {
    "read": PoolRules(max_concurrency=64, queue=256, queue_seconds=10.0),
    "write": PoolRules(max_concurrency=8, queue=16, queue_seconds=5.0),
    "external": PoolRules(max_concurrency=4, queue=8, queue_seconds=5.0),
}
"""Where `[pools]` says nothing."""

WHOLE_SESSION = 1e12
"""`within` absent: as long as the subject is known."""


def quotas(configuration: Configuration) -> tuple[Quota, ...]:
    """`[[quotas]]`. A quota's name is its place and what it limits, so that a refusal names it readably."""
    made: list[Quota] = []
    for number, table in enumerate(configuration.document.quotas, 1):
        match = table.match.model_dump(exclude_none=True)
        match = {key: str(glob) for key, glob in match.items()}
        what = " ".join(f"{key} {glob}" for key, glob in match.items()) or "all calls"
        budget = None
        if table.budget is not None:
            budget = Budget(
                unit=table.budget.unit,
                amount=table.budget.amount,
                window=_window(table.budget.window),
                cost=table.budget.cost,
                reserve=table.budget.reserve or 0.0,
            )
        made.append(
            Quota(
                name=f"#{number} {what}",
                match=match,
                per=table.per,
                limit=table.limit,
                window=None if table.window is None else _window(table.window),
                count=table.count,
                in_flight=table.in_flight,
                wall_seconds=table.wall_seconds,
                budget=budget,
            )
        )
    return tuple(made)


def interrupts(configuration: Configuration) -> tuple[Rule, ...]:
    """`[[interrupts]]`."""
    made: list[Rule] = []
    for table in configuration.document.interrupts:
        watched = table.when.model_dump(exclude_none=True, exclude={"within"})
        ((kind, value),) = watched.items()
        known: Kind = kind  # type: ignore[assignment]
        made.append(
            Rule(
                name=table.name,
                kind=known,
                count=value if isinstance(value, int) and not isinstance(value, bool) else 1,
                within_seconds=table.when.within if table.when.within is not None else WHOLE_SESSION,
                sequence=tuple(str(glob) for glob in value) if kind == "sequence" else (),
                per=table.per,
                then=table.then,
                for_seconds=table.for_,
                reason=table.reason,
            )
        )
    return tuple(made)


def pool(configuration: Configuration, risk: str) -> PoolRules:
    """`[pools]`."""
    table = getattr(configuration.document.pools, risk, None)
    if table is None:
        return POOLS[risk]
    return PoolRules(max_concurrency=table.max_concurrency, queue=table.queue, queue_seconds=table.queue_seconds)


def server_pool(configuration: Configuration, server: str) -> PoolRules:
    """A tool server's `max_concurrency`; a burst waits its turn, within a bound."""
    settings = configuration.servers.get(server)
    most = settings.max_concurrency if settings is not None else 16
    return PoolRules(max_concurrency=most, queue=16 * most, queue_seconds=30.0)


def breaker(configuration: Configuration, call: Call) -> Rules:
    """A tool's `breaker`."""
    settings = configuration.servers.get(call.server)
    if settings is None:
        return Rules()
    own = settings.tool(call.name).breaker
    return Rules(failures=own.failures, window_seconds=own.window_seconds, cool_down_seconds=own.cool_down_seconds)


def approvals(configuration: Configuration) -> HoldSettings:
    """`[approvals]`."""
    table = configuration.document.approvals
    return HoldSettings(
        inline_wait_seconds=table.inline_wait_seconds,
        expires_seconds=table.expires_seconds,
        approval_valid_seconds=table.approval_valid_seconds,
        on_expiry=table.on_expiry,
        max_pending_agent=table.max_pending.agent,
        max_pending_gateway=table.max_pending.gateway,
    )


def operators(configuration: Configuration) -> tuple[Operator, ...]:
    """`[operators]`."""
    return tuple(
        Operator(id=operator.name, role=operator.role, groups=operator.groups)
        for operator in configuration.operators.values()
    )


def server_fingerprint(configuration: Configuration, server: str) -> str:
    """SHA-256 of how a tool server is reached: its command and arguments, or its URL. Part of what an approval binds."""
    settings = configuration.servers.get(server)
    if settings is None:
        return ""
    parts = [settings.transport, settings.command or "", *settings.args]
    if settings.url is not None:
        parts.append(settings.url.reveal())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _window(window: Rolling | Calendar) -> Window:
    if isinstance(window, Calendar):
        return Window(unit=window.unit, zone=window.zone)
    return Window(seconds=window.seconds)
