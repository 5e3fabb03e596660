"""The configuration's limits as the values that stages take: quotas, interrupts, pools, breakers, approvals."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase

from gateway.adapters.holds import HoldSettings
from gateway.config import Calendar, Configuration, Rolling
from gateway.decide.breaker import Rules
from gateway.decide.hold import Operator
from gateway.decide.interrupt import Kind, Rule
from gateway.decide.quota import Budget, Quota, Window
from gateway.model.call import Call, Principal
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
        quota = Quota(
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
        made.extend(parted(quota))
    return tuple(made)


def parted(quota: Quota) -> Iterator[Quota]:
    """What merely arrives is counted when it arrives; what is taken for as long as a call runs, when it is forwarded."""
    if quota.count == "forwarded":
        yield quota
        return
    if quota.limit is not None:
        yield replace(quota, in_flight=None, wall_seconds=None, budget=None)
    if quota.in_flight is not None or quota.wall_seconds is not None or quota.budget is not None:
        yield replace(quota, count="forwarded", limit=None, window=None)


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


def stop_conditions(configuration: Configuration, principal: Principal) -> list[str]:
    """What will stop an agent, one sentence a line, in the order in which a call meets it."""
    lines: list[str] = []
    for rule in interrupts(configuration):
        within = "" if rule.within_seconds >= WHOLE_SESSION else f" within {rule.within_seconds:g} s"
        what = " then ".join(rule.sequence) if rule.kind == "sequence" else f"{rule.kind} {rule.count}"
        ends = "" if rule.for_seconds is None else f" for {rule.for_seconds:g} s"
        lines.append(f"interrupt {rule.name}: {what}{within}, per {rule.per}: {rule.then}{ends}")
    for quota in quotas(configuration):
        match = quota.match
        if not fnmatchcase(principal.id, match.get("agent", "*")):
            continue
        if "role" in match and not any(fnmatchcase(role, match["role"]) for role in principal.roles):
            continue
        for what in _limits_of(quota):
            counted = " (refused calls count too)" if quota.count == "arrived" else ""
            lines.append(f"quota {quota.name}: {what} per {quota.per}{counted}")
    for risk in ("read", "write", "external"):
        rules = pool(configuration, risk)
        waits = f", {rules.queue} more may wait {rules.queue_seconds:g} s" if rules.queue else ""
        lines.append(f"pool {risk}: {rules.max_concurrency} calls at once{waits}")
    for server in configuration.servers.values():
        own = server.defaults
        lines.append(
            f"server {server.name}: {server.max_concurrency} calls at once, {own.timeout_seconds:g} s each, left alone for "
            f"{own.breaker.cool_down_seconds:g} s after {own.breaker.failures} failures in {own.breaker.window_seconds:g} s"
        )
    held = approvals(configuration)
    lines.append(
        f"approvals: at most {held.max_pending_agent} calls may wait for a person, {held.expires_seconds:g} s each"
    )
    return lines


def _limits_of(quota: Quota) -> Iterator[str]:
    if quota.limit is not None:
        yield f"{quota.limit} calls in {quota.window}"
    if quota.in_flight is not None:
        yield f"{quota.in_flight} calls at once"
    if quota.wall_seconds is not None:
        yield f"{quota.wall_seconds:g} s from the first call"
    if quota.budget is not None:
        yield f"{quota.budget.amount:g} {quota.budget.unit} in {quota.budget.window}"


def _window(window: Rolling | Calendar) -> Window:
    if isinstance(window, Calendar):
        return Window(unit=window.unit, zone=window.zone)
    return Window(seconds=window.seconds)
