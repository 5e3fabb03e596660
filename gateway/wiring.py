"""What is put together, and in which order: the one place that knows every adapter.

`build` makes a whole gateway around a configuration and takes it down again; `serve` puts the HTTP listener in front of
one, `stdio` a client's pipes. The chain's order is the literal tuple in `chain`; engines are chosen by the scheme of their
URL in `POLICIES`.
"""

import contextlib
import gc
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, cast

import anyio
import anyio.abc
import orjson

from gateway import __version__, limits, telemetry
from gateway.acts import Acts
from gateway.adapters import dead_letters, holds, keys, notify, ownership, retention
from gateway.adapters import limits as stored_limits
from gateway.adapters.checkpoints import Checkpoints, EvidenceSettings
from gateway.adapters.holds import HoldBook
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.keys import StoredKeys
from gateway.adapters.limits import load_stops, load_use, stop_row
from gateway.adapters.policy_embedded import embedded_policy
from gateway.adapters.policy_files import load_policies
from gateway.adapters.policy_opa import opa_policy
from gateway.adapters.retention import Retention, RetentionSettings
from gateway.adapters.sealing import open_seal
from gateway.adapters.signing import Signer, open_signer
from gateway.adapters.system import EventFanout, SystemClock, on_signals
from gateway.config import AgentSettings, Configuration, PolicySettings, load
from gateway.console.api import Surroundings
from gateway.console.feed import Feed
from gateway.console.site import Site
from gateway.control import AgentKey, Gateway
from gateway.decide.breaker import Rules as BreakerRules
from gateway.decide.hold import Operator
from gateway.decide.interrupt import Rule
from gateway.decide.obligations import GlobError, Unredactable, redact_arguments
from gateway.decide.pause import Stop, Stops
from gateway.decide.quota import Ledger, Quota
from gateway.directory import PolicyDirectory
from gateway.edge import wire
from gateway.edge.http import application, mcp_app
from gateway.edge.listener import bound, serve_http
from gateway.edge.security import Asgi
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import serve_stdio, stdio_streams, take_stdio
from gateway.engine import Engine
from gateway.joining import attend
from gateway.model.call import Call, Client, HoldReason, Method, Principal, Risk
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.model.events import (
    AuthenticationRefused,
    CallEnded,
    CatalogueChanged,
    Event,
    LogLevelSet,
    RootsChanged,
    ServerChanged,
    SessionEnded,
    StateChanged,
    SubscriptionEnded,
)
from gateway.model.ids import new_id
from gateway.model.recording import RecordingSettings
from gateway.model.snapshot import Snapshot
from gateway.model.value import replace
from gateway.model.verdict import Completed, Failed, Outcome, Refused, Write
from gateway.owner import ActingOperator, CommandRefused, Commands, serving_others
from gateway.ports import PolicyEngine, SessionChannel, Stage
from gateway.servers.pool import ToolServers
from gateway.snapshots import Snapshots
from gateway.stages.authorize import Authorize
from gateway.stages.breaker import CircuitBreaker
from gateway.stages.bulkhead import Bulkhead, PoolRules
from gateway.stages.deduplicate import Deduplicate
from gateway.stages.hold import Holds
from gateway.stages.interrupt import Interrupt
from gateway.stages.own import OwnTools
from gateway.stages.quota import Quotas
from gateway.stages.resolve import Resolve
from gateway.stages.validate import Validate

logger = logging.getLogger("gateway")

DRAIN_SECONDS = 10.0
"""How long calls in flight may take to end when the gateway stops."""

WRITES = {
    **holds.WRITES,
    **keys.WRITES,
    **stored_limits.WRITES,
    **dead_letters.WRITES,
    **notify.WRITES,
    **retention.WRITES,
}


@asynccontextmanager
async def _embedded(settings: PolicySettings) -> AsyncIterator[PolicyEngine]:
    assert settings.path is not None
    yield await anyio.to_thread.run_sync(
        lambda: embedded_policy(settings.path, shown=settings.path.name, decision=settings.decision)  # type: ignore[arg-type,union-attr]
    )


@asynccontextmanager
async def _opa(settings: PolicySettings) -> AsyncIterator[PolicyEngine]:
    assert settings.url is not None
    push = None
    if settings.path is not None:
        # Judged here first, as strictly as for the embedded engine: what OPA then refuses is a difference between the two.
        push, _ = await anyio.to_thread.run_sync(
            partial(load_policies, settings.path, shown=settings.path.name, decision=settings.decision)
        )
    async with opa_policy(
        settings.url.reveal(), decision=settings.decision, push=push, timeout_seconds=settings.timeout_seconds
    ) as engine:
        yield engine


POLICIES: Mapping[str, Callable[[PolicySettings], AbstractAsyncContextManager[PolicyEngine]]] = {
    "embedded": _embedded,
    "opa": _opa,
}


@asynccontextmanager
async def _policies(configuration: Configuration) -> AsyncIterator[tuple[PolicyEngine, PolicyEngine | None]]:
    """The policy that decides, and the one that is judged beside it."""
    settings = configuration.policy
    async with contextlib.AsyncExitStack() as opened:
        live = await opened.enter_async_context(POLICIES[settings.scheme](settings))
        shadow = None
        if settings.shadow is not None:
            shadow = await opened.enter_async_context(POLICIES[settings.shadow.scheme](settings.shadow))
        yield live, shadow


@dataclass(slots=True, kw_only=True)
class Runtime:
    """One running gateway, with all that operators may look at and act on."""

    configuration: Callable[[], Configuration]
    gateway: Gateway
    engine: Engine
    servers: ToolServers
    snapshots: Snapshots
    journal: SqlJournal
    book: HoldBook
    keys: StoredKeys
    letters: dead_letters.Kept
    checkpoints: Checkpoints
    retention: Retention
    stops: Stops
    ledger: Ledger
    quotas: Quotas
    breaker: CircuitBreaker
    bulkhead: Bulkhead
    signer: Signer
    metrics: telemetry.Metrics
    events: EventFanout
    clock: SystemClock
    started_at: float
    put_stop: Callable[[Stop], None]
    """Puts a pause or kill in force now, cancels what it kills, and makes it durable soon after."""
    edge: EdgeSettings = field(default_factory=EdgeSettings)
    unnamed: list[Operator] = field(default_factory=list)
    """Who decides where there are no `[operators]`: `console`, once its one-time link was printed."""
    url: str | None = None
    """Where the console is reached, once it is served; links in notifications begin so."""
    acts: Acts = field(init=False)


def chain(
    *,
    resolve: Resolve,
    interrupt: Interrupt,
    validate: Validate,
    authorize: Authorize,
    deduplicate: Deduplicate,
    hold: Holds,
    quota: Quotas,
    breaker: CircuitBreaker,
    bulkhead: Bulkhead,
) -> tuple[Stage, ...]:
    """The stages in their order (DESIGN). Holds come before quotas: a call that waits for a person occupies nothing."""
    return (resolve, interrupt, validate, authorize, deduplicate, hold, quota, breaker, bulkhead)


@asynccontextmanager
async def build(configuration: Configuration, *, watch: bool = True) -> AsyncIterator[Runtime]:
    """A whole gateway around a configuration, from recovery to a drained end. The caller owns the store.

    Raises:
        PolicyLoadError: the policies cannot be used.
        JournalUnavailable: the store cannot be opened.
        GatewayError: a key file is readable by others, or is none.
    """
    clock, events, metrics = SystemClock(), EventFanout(), telemetry.Metrics()
    store = configuration.store.path if configuration.store.scheme == "sqlite" else None
    seal, signer = open_seal(store), open_signer(store)
    stops, ledger = Stops(), Ledger()
    snapshots: Snapshots
    gateway: Gateway | None = None
    runtime: Runtime
    unnamed: list[Operator] = []

    def current() -> Configuration:
        return snapshots.configuration

    async def channel(session_id: str) -> SessionChannel | None:
        return None if gateway is None else await gateway.channel(session_id)

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(events.deliver)  # the last ones' log lines
        journal = await stack.enter_async_context(
            open_journal(
                store,
                clock=clock,
                durability=configuration.gateway.durability,
                settings=recording(configuration),
                kinds=WRITES,
            )
        )
        servers = ToolServers(channel, idle_seconds=configuration.gateway.session_idle_seconds)
        await servers.reconfigure(configuration.servers)

        cached = _Cached(configuration)

        def swapped(snapshot: Snapshot, agents: tuple[AgentKey, ...] | None) -> None:
            journal.settings = recording(snapshots.configuration)
            cached.take(snapshots.configuration)
            if gateway is not None:
                gateway.snapshot, gateway.agents = snapshot, agents

        snapshots = Snapshots(
            configuration=configuration,
            load=lambda: load(configuration.file),
            open_policy=_policies,
            servers=servers,
            journal=journal,
            clock=clock,
            events=events,
            swapped=swapped,
        )
        await stack.enter_async_context(snapshots.running())
        servers.on_change(lambda server, kinds: snapshots.catalogue_changed(server, sorted(kinds)))
        servers.on_change(_announced(servers, events, clock, metrics))

        book = HoldBook(
            journal=journal,
            seal=seal,
            signer=signer,
            clock=clock,
            events=events,
            settings=lambda: limits.approvals(current()),
            operators=lambda: limits.operators(current()) or unnamed,
            redact=lambda arguments, globs: as_recorded(current(), arguments, globs),
            notifications=lambda hold: outbox.writes(hold),
        )
        outbox = notify.Outbox(
            journal=journal,
            seal=seal,
            clock=clock,
            events=events,
            webhooks=lambda: current().notify,
            hold=book.get,
            base=lambda: runtime.url,
            redact=lambda: current().document.recording.redact,
        )
        stored_keys = StoredKeys(journal, seal, clock)
        now = clock.time_ns() / 1e9
        await book.load()
        await stored_keys.load()
        letters = dead_letters.Kept(journal, journal, seal)
        await letters.load()
        checkpoints = Checkpoints(
            journal=journal,
            signer=signer,
            clock=clock,
            settings=lambda: evidence(current()),
            directory=configuration.directory,
        )
        retaining = Retention(
            journal=journal,
            signer=signer,
            clock=clock,
            settings=lambda: kept_for(current()),
            dropped=book.forget_before,
            beside=book.erasing,
        )
        await load_stops(journal, stops, now, configuration.gateway.session_idle_seconds)
        await load_use(journal, ledger, limits.quotas(configuration), now)

        tasks = await stack.enter_async_context(anyio.create_task_group())

        def put_stop(stop: Stop) -> None:
            stops.put(stop)
            if stop.killed:
                for run in tuple(engine.running()):
                    if stops.stopping(run.call, clock.time_ns() / 1e9) is not None:
                        engine.kill(run.call.id, stop.reason or f"by {stop.by}")
            at = clock.time_ns() / 1e9
            state = "killed" if stop.killed else "paused"
            facts = {"reason": stop.reason, "by": stop.by, "until": stop.until}
            events.publish(
                StateChanged(at=at, kind="stop", subject=f"{stop.subject}:{stop.name}", state=state, facts=facts)
            )
            tasks.start_soon(
                _recorded,
                journal,
                "state.changed",
                _stop_body(stop, state),
                Write(kind="stop.put", data=stop_row(stop)),
            )

        hold_stage = Holds(book, lambda server: limits.server_fingerprint(current(), server), clock)
        own = OwnTools(book.all, book.had, book.keeps_outcome)
        directory = PolicyDirectory(
            events,
            clock,
            keep=lambda kind, content: tasks.start_soon(_kept, journal, kind, content),
            own=own.offered,
        )
        authorize = Authorize(timeout_seconds=lambda: current().policy.timeout_seconds)
        events.subscribe(authorize.recent.hear, CallEnded)
        quota = Quotas(cached.quotas, ledger, clock)
        breaker = CircuitBreaker(cached.breaker, clock, events)
        bulkhead = Bulkhead(cached.pool, cached.server, clock)
        engine = Engine(
            stages=chain(
                resolve=Resolve(directory, events, hold_stage.approval, own.answer),
                interrupt=Interrupt(
                    stops=stops,
                    rules=cached.interrupts,
                    quotas=cached.quotas,
                    ledger=ledger,
                    stop=put_stop,
                    clock=clock,
                    met=hold_stage.met,
                ),
                validate=Validate(),
                authorize=authorize,
                deduplicate=Deduplicate(
                    stored_keys,
                    ttl_seconds=lambda: current().document.idempotency.ttl,
                    suppress_seconds=lambda: current().document.idempotency.suppress_duplicates,
                    clock=clock,
                ),
                hold=hold_stage,
                quota=quota,
                breaker=breaker,
                bulkhead=bulkhead,
            ),
            forwarder=servers,
            journal=letters,
            clock=clock,
            events=events,
        )
        gateway = Gateway(
            snapshot=snapshots.current,
            agents=snapshots.agents,
            execute=engine.execute,
            directory=directory,
            clock=clock,
            events=events,
            approvals=book,
        )
        gateway.first_look = servers.first_look
        runtime = Runtime(
            configuration=current,
            gateway=gateway,
            engine=engine,
            servers=servers,
            snapshots=snapshots,
            journal=journal,
            book=book,
            keys=stored_keys,
            letters=letters,
            checkpoints=checkpoints,
            stops=stops,
            ledger=ledger,
            quotas=quota,
            breaker=breaker,
            bulkhead=bulkhead,
            signer=signer,
            metrics=metrics,
            events=events,
            clock=clock,
            started_at=now,
            put_stop=put_stop,
            retention=retaining,
            edge=edge_settings(configuration),
            unnamed=unnamed,
        )
        refusals = Counter[str]()
        events.subscribe(lambda event: _count_refusal(refusals, event), CallEnded)
        runtime.acts = acts(runtime, refusals)
        events.subscribe(_for_servers(servers), SessionEnded, SubscriptionEnded, RootsChanged, LogLevelSet)

        def session_ended(event: Event) -> None:
            assert isinstance(event, SessionEnded)
            authorize.recent.forget(event.session_id)
            ledger.forget(cached.quotas(), event.session_id)
            stops.forget(event.session_id)

        events.subscribe(session_ended, SessionEnded)
        _observe(runtime, stack)
        tasks.start_soon(_record_events, events, journal)
        tasks.start_soon(servers.run)
        tasks.start_soon(_expire_holds, book)
        tasks.start_soon(outbox.run)
        if watch:
            tasks.start_soon(snapshots.watch)
        tasks.start_soon(checkpoints.run)
        if store is not None:
            tasks.start_soon(retaining.run)
        try:
            yield runtime
        finally:
            with anyio.move_on_after(DRAIN_SECONDS, shield=True):
                await engine.drained()
            with anyio.move_on_after(DRAIN_SECONDS, shield=True):
                await _last_checkpoint(checkpoints)
            with anyio.move_on_after(DRAIN_SECONDS, shield=True):
                await servers.close()
            tasks.cancel_scope.cancel()


def _announced(
    servers: ToolServers, events: EventFanout, clock: SystemClock, metrics: telemetry.Metrics
) -> Callable[[str, object], None]:
    """Publishes each change of a tool server's state, for logs and metrics."""
    known: dict[str, tuple[bool, str]] = {}

    def told(server: str, _kinds: object) -> None:
        if (catalogue := servers.catalogues().get(server)) is None:
            known.pop(server, None)
            metrics.forget_server(server)
            return
        now = (catalogue.available, catalogue.reason)
        if known.get(server) != now:
            known[server] = now
            state = "available" if catalogue.available else "unavailable"
            events.publish(ServerChanged(at=clock.time_ns() / 1e9, server=server, state=state, reason=catalogue.reason))

    return told


def _count_refusal(refusals: Counter[str], event: Event) -> None:
    if isinstance(event, CallEnded) and isinstance(event.outcome, Refused | Failed):
        refusals[str(event.outcome.code)] += 1


def acts(runtime: Runtime, refusals: Counter[str]) -> Acts:
    """The operators' acts on a running gateway, with what they may look at."""

    def gateway() -> Mapping[str, Any]:
        configuration, snapshot = runtime.configuration(), runtime.gateway.snapshot
        return {
            "name": configuration.gateway.name,
            "version": __version__,
            "pid": os.getpid(),
            "started_at": runtime.started_at,
            "configuration": {"file": os.fspath(configuration.file), "sha256": configuration.sha256},
            "policy_revision": snapshot.policy.revision,
            "catalogue": {
                "revision": snapshot.catalogue.revision,
                "tools": len(snapshot.catalogue.tools),
                "removed": [
                    {"server": item.server, "type": str(item.type), "name": item.name, "reason": item.reason}
                    for item in snapshot.catalogue.removed
                ],
            },
        }

    def principals() -> Mapping[str, Principal]:
        return {name: agent.principal for name, agent in runtime.configuration().agents.items()}

    async def redo(letter: dead_letters.DeadLetter) -> Mapping[str, Any]:
        agent = runtime.configuration().agents.get(letter.agent)
        if agent is None:
            raise CommandRefused(f"the agent {letter.agent!r} is not configured any more; drop the dead letter")
        return await called(runtime, agent.principal, letter.method, letter.params or {}, replay_of=letter.call_id)

    return Acts(
        engine=runtime.engine,
        book=runtime.book,
        stops=runtime.stops,
        stop=runtime.put_stop,
        breaker=runtime.breaker,
        journal=runtime.journal,
        clock=runtime.clock,
        reload=runtime.snapshots.reload,
        view=runtime.gateway.view,
        principals=principals,
        resolve_doubt=runtime.keys.forget,
        rotate=lambda: runtime.checkpoints.rotate(runtime.configuration().store.path),
        erase=runtime.retention.erase,
        stop_conditions=lambda principal: limits.stop_conditions(runtime.configuration(), principal),
        letters=runtime.letters,
        redo=redo,
        parts={
            "gateway": gateway,
            "agents": lambda: [
                {
                    "name": agent.name,
                    "roles": list(agent.roles),
                    "servers": None if agent.servers is None else list(agent.servers),
                    "tools": None if agent.tools is None else [str(glob) for glob in agent.tools],
                }
                for agent in runtime.configuration().agents.values()
            ],
            "policy": lambda: {
                "engine": runtime.configuration().policy.scheme,
                "revision": runtime.gateway.snapshot.policy.revision,
                "shadow_revision": None
                if runtime.gateway.snapshot.shadow is None
                else runtime.gateway.snapshot.shadow.revision,
                "configuration_sha256": runtime.gateway.snapshot.configuration_sha256,
                "catalogue_revision": runtime.gateway.snapshot.catalogue.revision,
            },
            "servers": lambda: [asdict(state) for state in runtime.servers.states()],
            "quotas": lambda: [asdict(use) for use in runtime.quotas.use()],
            "breakers": lambda: [{**asdict(state), "state": str(state.state)} for state in runtime.breaker.states()],
            "pools": lambda: [asdict(use) for use in runtime.bulkhead.use()],
            "refusals": lambda: [{"code": code, "count": count} for code, count in refusals.most_common(10)],
        },
    )


class _Cached:
    """The present configuration's limits as values, made once a configuration: stages ask at every call."""

    def __init__(self, configuration: Configuration) -> None:
        self._take(configuration)

    def take(self, configuration: Configuration) -> None:
        """The one that is present now."""
        if configuration is not self._configuration:
            self._take(configuration)

    def _take(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._quotas, self._interrupts = limits.quotas(configuration), limits.interrupts(configuration)
        self._rules: dict[tuple[str, str], BreakerRules] = {}
        self._pools: dict[str, PoolRules] = {}
        self._servers: dict[str, PoolRules] = {}

    def quotas(self) -> tuple[Quota, ...]:
        return self._quotas

    def interrupts(self) -> tuple[Rule, ...]:
        return self._interrupts

    def breaker(self, call: Call) -> BreakerRules:
        key = (call.server, call.name)
        if (found := self._rules.get(key)) is None:
            if len(self._rules) >= 10_000:  # names of resources are not bounded
                self._rules.clear()
            found = self._rules[key] = limits.breaker(self._configuration, call)
        return found

    def pool(self, risk: str) -> PoolRules:
        if (found := self._pools.get(risk)) is None:
            found = self._pools[risk] = limits.pool(self._configuration, risk)
        return found

    def server(self, name: str) -> PoolRules:
        if (found := self._servers.get(name)) is None:
            found = self._servers[name] = limits.server_pool(self._configuration, name)
        return found


async def _last_checkpoint(checkpoints: Checkpoints) -> None:
    try:
        await checkpoints.write()
    except JournalUnavailable as error:
        logger.error("the last checkpoint could not be written: %s", error)


def evidence(configuration: Configuration) -> EvidenceSettings:
    """`[evidence]`."""
    table = configuration.document.evidence
    return EvidenceSettings(checkpoint_seconds=table.checkpoint_seconds, checkpoints_to=tuple(table.checkpoints_to))


def kept_for(configuration: Configuration) -> RetentionSettings:
    """`[recording]`: how long, and how much."""
    table = configuration.document.recording
    return RetentionSettings(retain_seconds=table.retain, max_bytes=table.max_bytes)


def as_recorded(configuration: Configuration, arguments: Any, globs: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """A held call's arguments as records have them, and the paths of what was erased; None where records have none."""
    table = configuration.document.recording
    if arguments is None or not table.arguments:
        return None, () if arguments is None else ("**",)
    try:
        return redact_arguments(arguments, (*table.redact, *globs))
    except (GlobError, Unredactable):
        return None, ("**",)


def recording(configuration: Configuration) -> RecordingSettings:
    """`[recording]`."""
    table = configuration.document.recording
    return RecordingSettings(
        arguments=table.arguments,
        results=table.results,
        redact=tuple(table.redact),
        max_payload_bytes=table.max_payload_bytes,
    )


def edge_settings(configuration: Configuration) -> EdgeSettings:
    """What the edges need to know of the configuration."""
    return EdgeSettings(
        name=configuration.gateway.name,
        host=configuration.listen.host,
        allowed_hosts=tuple(configuration.listen.allowed_hosts),
        allowed_origins=tuple(configuration.listen.allowed_origins),
        max_request_bytes=configuration.document.defaults.max_request_bytes,
        session_idle_seconds=configuration.gateway.session_idle_seconds,
    )


def _for_servers(servers: ToolServers) -> Callable[[Event], None]:
    """What tool servers have to know of agents' sessions."""

    def receive(event: Event) -> None:
        match event:
            case SessionEnded():
                servers.session_ended(event.session_id)
            case SubscriptionEnded():
                servers.unsubscribe(event.session_id, event.uri)
            case RootsChanged():
                servers.roots_changed(event.session_id)
            case LogLevelSet():
                servers.set_log_level(event.session_id, event.level)
            case _:
                pass

    return receive


def _observe(runtime: Runtime, stack: contextlib.AsyncExitStack) -> None:
    """Log lines and metrics; the spans where OpenTelemetry is configured."""
    events, metrics, journal = runtime.events, runtime.metrics, runtime.journal
    events.subscribe(metrics.receive, later=True)
    metrics.watch(
        "gateway_journal_lag_seconds",
        "Age of the oldest record that waits for its commit",
        lambda: journal.status.lag_seconds,
    )
    metrics.watch("gateway_calls_running", "Calls in flight", lambda: float(sum(1 for _ in runtime.engine.running())))
    pools = runtime.bulkhead
    metrics.watch_each(
        "gateway_pool_in_use",
        "Places of a pool that are taken",
        "pool",
        lambda: [(use.pool, float(use.in_use)) for use in pools.use()],
    )
    metrics.watch_each(
        "gateway_pool_waiting",
        "Calls that wait for a place in a pool",
        "pool",
        lambda: [(use.pool, float(use.waiting)) for use in pools.use()],
    )
    metrics.watch("gateway_holds_pending", "Calls that wait for a person", lambda: float(runtime.book.pending()))
    handler = next(
        (handler for handler in logging.getLogger().handlers if isinstance(handler, telemetry.LogHandler)), None
    )
    if handler is not None:
        events.subscribe(telemetry.CallLog(handler).receive, later=True)
    if (tracing := telemetry.tracing_from_environment()) is not None:
        events.subscribe(tracing.receive)
        stack.callback(tracing.close)
        runtime.gateway.continue_trace = tracing.continued


async def _recorded(journal: SqlJournal, type: str, body: Mapping[str, Any], *writes: Write) -> None:
    """Record something that cannot be refused any more; a journal that is down is reported."""
    try:
        await journal.record(type, body, tuple(writes))
    except JournalUnavailable as error:
        logger.error("%s could not be recorded: %s", type, error)


async def _kept(journal: SqlJournal, kind: str, content: bytes) -> None:
    """Store a document that records name by its hash; a journal that is down is reported."""
    try:
        await journal.keep(kind, content)
    except JournalUnavailable as error:
        logger.error("a %s could not be kept: %s", kind, error)


async def _record_events(events: EventFanout, journal: SqlJournal) -> None:
    """The events that are evidence: refused keys (gathered under load), changes of state and catalogue."""
    refused: dict[tuple[str, str], int] = {}
    async with events.stream(AuthenticationRefused, StateChanged, CatalogueChanged) as stream:
        async for event in stream:
            match event:
                case AuthenticationRefused():
                    key = (event.reason, event.remote)
                    refused[key] = refused.get(key, 0) + 1
                case StateChanged(kind="breaker"):
                    await _recorded(
                        journal,
                        "state.changed",
                        {"kind": event.kind, "subject": event.subject, "state": event.state, **event.facts},
                    )
                case CatalogueChanged():
                    await _recorded(
                        journal,
                        "catalogue.changed",
                        {"revision": event.revision, "servers": list(event.servers), "kinds": list(event.kinds)},
                    )
                case _:
                    pass
            if refused and (not stream.waiting or len(refused) >= 100):
                counts = [
                    {"reason": reason, "remote": remote, "count": count} for (reason, remote), count in refused.items()
                ]
                refused.clear()
                await _recorded(journal, "auth.refused", {"refused": counts})


async def _expire_holds(book: HoldBook) -> None:
    """Expire holds on time."""
    while True:
        try:
            seconds = await book.expire()
        except JournalUnavailable as error:
            logger.error("holds cannot be expired: %s", error)
            seconds = 1.0
        await anyio.sleep(min(seconds, 1.0))


def _stop_body(stop: Stop, state: str) -> dict[str, Any]:
    return {
        "kind": "stop",
        "subject": f"{stop.subject}:{stop.name}",
        "state": state,
        "reason": stop.reason,
        "by": stop.by,
        "until": stop.until,
    }


# --- what is served ---


async def serve(
    configuration: Configuration,
    host: str,
    port: int,
    ready: Callable[[int], None] | None = None,
    link: Callable[[str], None] | None = None,
) -> None:
    """Serve agents over Streamable HTTP until SIGINT or SIGTERM, then drain.

    Args:
        ready: told of the port once everything that must be there is there.
        link: shows a person, and nobody else, the one-time link that opens the console where there are no `[operators]`.

    Raises:
        GatewayError: the address cannot be had, or what `build` raises.
    """
    telemetry.configure_logging()
    try:
        listening = bound(host, port)
    except OSError as error:
        raise GatewayError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    stop = anyio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(listening)
        others = _socket_of_others(configuration, "serve", stack)
        runtime = await stack.enter_async_context(build(configuration))
        if others is not None:
            await stack.enter_async_context(serving_others(others, runtime, commands(runtime), configuration.file))
        mcp = mcp_app(runtime.gateway, replace(runtime.edge, host=host))
        site = operators_site(runtime)
        app = application(mcp, {**routes(runtime), **site.routes()})
        async with anyio.create_task_group() as tasks:
            await tasks.start(_until_signalled, stop)
            port = int(listening.getsockname()[1])
            named = f"[{host}]" if ":" in host else host
            logger.info("listening on http://%s:%d/mcp", named, port)
            runtime.url = _console_url(configuration, named, port)
            if link is not None and not configuration.operators:
                link(f"{runtime.url}{site.one_time_link()}")
            tasks.start_soon(_closing, site, stop)
            if ready is not None:
                ready(port)
            settle_memory()
            await serve_http(mcp, app, listening, stop=stop, drain_seconds=DRAIN_SECONDS)
            tasks.cancel_scope.cancel()


def settle_memory() -> None:
    """Take what was made at the start out of the garbage collector's sight, and let it look for cycles less often.

    What calls make is freed when they end; the collector only looks for what refers to itself, and would look through
    modules, schemas and policies each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def operators_site(runtime: Runtime) -> Site:
    """The operator API and the console of a running gateway."""
    feed = Feed()
    runtime.events.subscribe(feed.receive, later=True)
    around = Surroundings(
        acts=lambda: runtime.acts,
        configuration=runtime.configuration,
        feed=feed,
        events=runtime.events,
        clock=runtime.clock,
        max_request_bytes=runtime.edge.max_request_bytes,
    )
    return Site(around, journal=runtime.journal, unnamed=runtime.unnamed)


def _console_url(configuration: Configuration, host: str, port: int) -> str:
    """Where people reach the console: the first of `allowed_origins` (a proxy in front), else the listening address."""
    if configuration.listen.allowed_origins:
        return configuration.listen.allowed_origins[0].rstrip("/")
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"


async def _closing(site: Site, stop: anyio.Event) -> None:
    """End event streams when the gateway stops, so that nobody waits for them."""
    await stop.wait()
    site.close()


def _socket_of_others(
    configuration: Configuration, purpose: str, stack: contextlib.ExitStack | contextlib.AsyncExitStack
) -> ownership.Listener | None:
    """Own the store, and listen for others who want to use it; None for a store in memory, which nobody can share.

    Raises:
        StoreBusy: another process owns it.
    """
    if configuration.store.path is None:
        return None
    stack.enter_context(ownership.own(configuration.store.path, purpose))
    return stack.enter_context(ownership.listening(configuration.store.path))


def commands(runtime: Runtime) -> Commands:
    """What the owner does for commands of other processes: the operators' acts, and calls in an agent's name."""

    def operator_for_key(key: str) -> ActingOperator | None:
        found = runtime.configuration().operator_for_key(key)
        return None if found is None else ActingOperator(name=found.name, role=found.role)

    known = Commands(operator_for_key)

    def add(name: str) -> None:
        async def act(params: Mapping[str, Any], acting: ActingOperator | None) -> Any:
            operator = None
            if acting is not None:
                settings = runtime.configuration().operators[acting.name]
                operator = Operator(id=settings.name, role=settings.role, groups=settings.groups)
            return await runtime.acts.perform(name, operator, params)

        known.add(name, act, role=None)  # the acts check roles themselves, and record what they refuse

    for name in runtime.acts.commands:
        add(name)

    async def call(params: Mapping[str, Any], acting: ActingOperator | None) -> Any:
        return await call_as(runtime, params, acting)

    known.add("call", call, role=None)

    async def resend(params: Mapping[str, Any], acting: ActingOperator | None) -> Any:
        return await resend_as(runtime, params, acting)

    known.add("resend", resend, role=None)
    return known


async def call_as(runtime: Runtime, params: Mapping[str, Any], acting: ActingOperator | None) -> Any:
    """Call a tool through the whole chain in an agent's name, for `gateway call`.

    Acting as an agent takes an operator's key; `local` is who everybody on this machine is anyway, where there are no
    `[agents]`.

    Raises:
        CommandRefused: the agent or tool is unknown, or the operator's role does not reach.
    """
    configuration = runtime.configuration()
    name = params.get("agent") or (None if not configuration.local_only else "local")
    if name is None:
        raise CommandRefused(f"name an agent with --agent: {', '.join(configuration.agents)}")
    if name not in configuration.agents:
        raise CommandRefused(f"there is no agent {name!r}; there are {', '.join(configuration.agents)}")
    if not configuration.local_only and (acting is None or acting.role != "operator"):
        raise CommandRefused("calling as an agent needs an operator's key (GATEWAY_OPERATOR_KEY)")
    principal = configuration.agents[name].principal
    await runtime.gateway.settled()
    wanted = str(params.get("tool") or "")
    view = await runtime.gateway.view(principal)
    exposed = next(
        (key for key, entry in view.tools.items() if wanted in (key, f"{entry.server}/{entry.name}")), wanted
    )
    meta = {"gateway/idempotency-key": params["idempotency_key"]} if params.get("idempotency_key") else {}
    params = {"name": exposed, "arguments": params.get("arguments") or {}, "_meta": meta}
    return await called(runtime, principal, "tools/call", params)


async def resend_as(runtime: Runtime, params: Mapping[str, Any], acting: ActingOperator | None) -> Any:
    """Make one recorded call again, through the whole chain in an agent's name, for `gateway replay resend`.

    What changes something is made again only where `include_writes` says so, and is then held for a person unless `held` is
    false. It is not waited for in-band: the hold's handle is the answer.

    Raises:
        CommandRefused: the agent is unknown, or no operator acts.
    """
    configuration = runtime.configuration()
    name = params.get("agent")
    if name not in configuration.agents:
        raise CommandRefused(f"there is no agent {name!r}; there are {', '.join(configuration.agents)}")
    if acting is None or acting.role != "operator":
        raise CommandRefused("calling as an agent needs an operator's key (GATEWAY_OPERATOR_KEY)")
    principal = configuration.agents[str(name)].principal
    wanted = dict(params.get("params") or {})
    view = await runtime.gateway.view(principal)
    method = str(params.get("method"))
    risk = Risk.READ
    if method == Method.CALL_TOOL:
        if (entry := view.tools.get(str(wanted.get("name")))) is not None:
            risk = entry.risk
    elif method not in (Method.GET_PROMPT, Method.READ_RESOURCE, Method.SUBSCRIBE, Method.COMPLETE):
        risk = Risk.WRITE  # an extension's: who knows what it does
    writes = risk is not Risk.READ
    if writes and params.get("include_writes") is not True:
        return {"skipped": f"it is a {risk} call; --include-writes makes it again"}
    try:
        call = runtime.gateway.call(
            method=method,
            params=wanted,
            principal=principal,
            session_id=str(params.get("session_id") or new_id())[:128],
            client=Client(name="gateway replay resend", version=__version__),
            replay_of=str(params.get("replay_of") or "") or None,
        )
    except ValueError as error:
        raise CommandRefused(str(error)) from error
    if writes and params.get("held") is not False:
        reason = HoldReason(
            code="replay_resend", reason="a recorded call that changes something is made again", source="replay"
        )
        call = replace(call, hold_reasons=(reason,))
    return _said(call, await runtime.engine.execute(call, _Terminal()))


async def called(
    runtime: Runtime, principal: Principal, method: str, params: Mapping[str, Any], *, replay_of: str | None = None
) -> Mapping[str, Any]:
    """Call something through the whole chain, and say what became of it: `result`, `error`, or `refusal` and `message`."""
    call = runtime.gateway.call(
        method=method,
        params=params,
        principal=principal,
        session_id=new_id(),
        client=Client(name="gateway call", version=__version__),
        replay_of=replay_of,
    )
    outcome = await runtime.gateway.execute(call, _Terminal())
    return _said(call, outcome)


def _said(call: Call, outcome: Outcome) -> Mapping[str, Any]:
    """What became of a call, for a command: `result`, `error`, or `refusal` and `message`."""
    if isinstance(outcome, Completed) and outcome.error is not None:
        return {"call_id": call.id, "error": orjson.loads(outcome.error)}
    if isinstance(outcome, Completed):
        assert outcome.result is not None
        return {"call_id": call.id, "result": orjson.loads(outcome.result)}
    return {"call_id": call.id, "refusal": wire.refusal(call, outcome), "message": outcome.message}


class _Terminal:
    """The client behind `gateway call`: it hears nothing and cannot be asked."""

    capabilities: Mapping[str, Any] = {}
    wants_progress = False
    log_level: str | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        pass

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return {key: {"error": {"code": -32601, "message": "a command line cannot be asked"}} for key in requests}


async def _until_signalled(
    stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Ask for a stop at the first signal; the second ends the process at once."""

    def heard(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        logger.info("stopping: calls in flight have %g s to end", DRAIN_SECONDS)
        stop.set()

    with on_signals(heard):
        task_status.started()
        await anyio.sleep_forever()


def routes(runtime: Runtime) -> dict[str, Asgi]:
    """What is served beside `/mcp`."""

    async def healthz(scope: Any, receive: Any, send: Any) -> None:
        await _answer(send, 200, {"status": "ok"})

    async def readyz(scope: Any, receive: Any, send: Any) -> None:
        fault = runtime.journal.status.fault
        await _answer(send, 503 if fault else 200, {"status": "journal unavailable" if fault else "ready"})

    async def metrics(scope: Any, receive: Any, send: Any) -> None:
        runtime.events.deliver()
        await _send(send, 200, b"text/plain; version=0.0.4; charset=utf-8", runtime.metrics.render())

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


async def _answer(send: Any, status: int, body: Mapping[str, Any]) -> None:
    await _send(send, status, b"application/json", orjson.dumps(body))


async def _send(send: Any, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stdio(configuration: Configuration, agent: AgentSettings) -> None:
    """Serve one client on this process's stdin and stdout: as the store's owner, or through it."""
    taken = take_stdio()
    telemetry.configure_logging()
    settle_memory()
    settings = edge_settings(configuration)
    store = configuration.store.path
    if store is None:
        async with build(configuration) as runtime:
            await serve_stdio(runtime.gateway, agent.principal, settings, taken)
        return
    async with stdio_streams(*taken, settings.max_request_bytes) as (read, write):
        await attend(
            store=store,
            configuration=configuration.file,
            key=None if configuration.local_only else os.environ.get("GATEWAY_AGENT_KEY"),
            agent=None if configuration.local_only else agent.name,
            build=lambda: build(load(configuration.file)),
            commands=lambda built: commands(cast(Runtime, built)),
            read=read,
            write=write,
            max_request_bytes=settings.max_request_bytes,
        )
