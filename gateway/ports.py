"""Every port on one page, each contract in words. Stages and the engine know nothing else of the world.

An adapter translates foreign exceptions at its border: a port raises what is named here, and nothing besides.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.decide.hold import Binding, Hold, Operator
from gateway.model.call import Call, Principal
from gateway.model.events import Event
from gateway.model.snapshot import Entry, Snapshot, View
from gateway.model.value import Value
from gateway.model.value import field as value_field
from gateway.model.verdict import Facts, Outcome, Step, Verdict, Write

# --- the chain ---------------------------------------------------------------------------------------------------


class Stage(Protocol):
    """One stage of the chain. One instance serves all calls at once; what belongs to a call is in the call."""

    name: str
    """As in DESIGN's table; goes into trails, refusals and spans."""

    async def admit(self, call: Call) -> Verdict:
        """Let the call through, refuse it, park it, or answer it. An exception is a refusal (`gateway.internal`)."""
        ...

    async def settle(self, call: Call, outcome: Outcome) -> "Settlement | None":
        """Learn what became of a call that this stage let through; called exactly once for each.

        `call` is the call as it was when this stage admitted it (with what the stage itself put in). Stages settle in
        reverse order, in a shielded scope with a bound. None leaves the outcome as it is.
        """
        ...


class Settlement(Value, frozen=True, kw_only=True):
    """What settling adds."""

    outcome: Outcome | None = None
    """Replaces the outcome for the stages before this one, for the record and for the agent."""
    facts: Facts = value_field(default_factory=dict)
    writes: tuple[Write, ...] = ()
    """Committed in the transaction of the outcome."""


# --- towards the tool servers ------------------------------------------------------------------------------------


class Caller(Protocol):
    """The agent's side of one call while it runs: where what the tool server says and asks in mid-call goes.

    Implemented by each edge. Both methods may be called only while the call runs.
    """

    capabilities: Mapping[str, Any]
    """What the agent's client can do, raw (`sampling`, `elicitation`, `roots`, ...)."""
    wants_progress: bool
    """The request carried a progress token."""
    log_level: str | None
    """The lowest level of log messages that the client asked for, or None."""

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Relay a notification that belongs to this call (progress, log message, unknown ones included).

        `params` are raw; the edge puts the client's own progress token in. Never raises; what cannot be delivered is dropped.
        """
        ...

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Put requests of the tool server (`{key: {"method": ..., "params": ...}}`) to this call's own client.

        Answers by the same keys: `{"result": {...}}` or `{"error": {"code", "message", "data"?}}`, raw. A client that cannot
        be asked (it did not declare the capability, or it is gone) is answered for with an error, never with silence.
        """
        ...


@dataclass(slots=True)
class Attempt:
    """One try to execute a call, filled in by the link while it runs, so that a cancelled try still tells its state."""

    sent: bool = False
    """The first byte was handed to the transport: from here on the call may have run."""
    outcome: Outcome | None = None
    """What became of it. After a cancellation: what was heard within the grace period, else None."""
    tries: list[Mapping[str, Any]] = field(default_factory=list)
    """Of each try: when it began, how it ended (connect refused, timeout, ...), for the record."""
    asks: list[Mapping[str, Any]] = field(default_factory=list)
    """Each thing that the tool server asked of the client in mid-call, with when (`at`) and the answer."""
    notifications: list[Mapping[str, Any]] = field(default_factory=list)
    """Notifications relayed within the call, in order, each with when (`at`, seconds since the epoch), for the recording."""


class Forwarder(Protocol):
    """The one way to a tool server. The engine alone holds it."""

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        """Execute the call at its tool server, with its deadline and within the retry budget.

        Guarantees: `attempt.sent` is true before the first byte leaves; nothing that may have run is tried again unless
        `call.entry.idempotent`; a failure before the first byte is `Failed(in_doubt=False)`; a loss or timeout after it is
        `Failed(in_doubt=not idempotent)`. When cancelled, the tool server is told, its true outcome is awaited for at most
        5 s (shielded) and put into `attempt.outcome`, and the cancellation is raised on.
        """
        ...


# --- decisions ---------------------------------------------------------------------------------------------------


class PolicyEngine(Protocol):
    """A Rego engine with the project's policies loaded. `gateway.model.errors` names what it raises."""

    revision: str
    """SHA-256 over modules and data; of a remote engine, its bundle revision."""

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """The document at the decision path for this question, or `UNDEFINED`.

        Raises:
            PolicyTimeout: no answer within the time.
            PolicyUnavailable: the engine cannot be reached.
            PolicyEvaluationError: evaluation failed (builtin errors and conflicts included).
        """
        ...

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        """`data.gateway.visible` for each question: None where it is undefined. Raises as `decide` does."""
        ...


class Undefined:
    """The type of `UNDEFINED`: the policy has no answer."""

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False


UNDEFINED = Undefined()


class Directory(Protocol):
    """Who may see what. Lists and `resolve` both ask here, so they cannot disagree."""

    async def view(self, snapshot: Snapshot, principal: Principal) -> View:
        """The part of the snapshot's catalogue that this principal may see; cached by principal and revision.

        A policy that fails hides everything (and the failure is reported as an event): uncertain is refused.
        """
        ...

    def permits(self, principal: Principal, entry: Entry) -> bool:
        """Whether the principal's configuration lets it use an item that no list names, such as a linked resource."""
        ...


# --- what is written ---------------------------------------------------------------------------------------------


class Begin(Value, frozen=True, kw_only=True):
    """What is made durable before a call is forwarded."""

    call: Call
    steps: Sequence[Step]
    at: float
    writes: tuple[Write, ...] = ()


class End(Value, frozen=True, kw_only=True):
    """What became of a call: written for every call, forwarded or not."""

    call: Call
    steps: Sequence[Step]
    outcome: Outcome
    attempt: Attempt | None
    """None where nothing was forwarded."""
    began: bool
    """A `Begin` was committed for it."""
    at: float
    elapsed_us: int
    writes: tuple[Write, ...] = ()


class Journal(Protocol):
    """The durable record, in the path of every call. Group-committed; hash-chained.

    Raises `JournalUnavailable` where a write is not durable, and nothing else.
    """

    async def begin(self, begin: Begin) -> None:
        """Returns once the begin is committed, with the durability that the call's risk asks for (`durability`)."""
        ...

    async def end(self, end: End) -> None:
        """Records the outcome. For write and external calls returns once it is committed; for reads once it is queued."""
        ...

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        """Records something other than a call (`config.changed`, `operator.acted`, ...); returns once it is committed."""
        ...


FOREVER = 1e15
"""Until when a key in doubt stays: until an operator resolves it."""

UNNAMED = "\0"
"""Begins the keys of the gateway's own making, under which identical calls without a key are one for a while. No agent's key
begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is known of a key whose call has ended."""

    digest: str
    """Of (principal, server, tool, arguments)."""
    outcome: Outcome | None
    """None: it is in the store alone (`Keys.outcome`)."""
    call_id: str
    until: float


class Keys(Protocol):
    """Idempotency keys and what is kept under them, durable."""

    def kept(self, principal: str, key: str) -> Kept | None:
        """What is known of a key, unexpired; from memory."""
        ...

    async def outcome(self, principal: str, key: str) -> Outcome | None:
        """The outcome that is kept under a key; None where there is none any more.

        Raises:
            JournalUnavailable: the store cannot be read.
        """
        ...

    def taken(self, *, principal: str, key: str, digest: str, call_id: str, until: float) -> Write:
        """The write that takes a key, for the begin."""
        ...

    def settled(
        self, *, principal: str, key: str, digest: str, call_id: str, until: float, outcome: Outcome | None
    ) -> Write:
        """The write that keeps an outcome under the key, or frees it (None), for the end."""
        ...


class ApprovalLimits(Protocol):
    """`[approvals]`, as far as the stage needs it."""

    @property
    def expires_seconds(self) -> float: ...

    @property
    def max_pending_agent(self) -> int: ...

    @property
    def max_pending_gateway(self) -> int: ...


class HoldBook(Protocol):
    """All holds, durable. `adapters/holds.py` says what each method guarantees."""

    @property
    def settings(self) -> Callable[[], ApprovalLimits]: ...

    @property
    def operators(self) -> Callable[[], Sequence[Operator]]: ...

    def live(self, lookup: str) -> Hold | None: ...

    @property
    def had(self) -> AbstractSet[str]: ...

    def pending(self, principal: str | None = None) -> int: ...

    def claim(self, hold: Hold, binding: Binding, call_id: str) -> tuple[Hold, Write | None]: ...

    def settle(self, call_id: str, hold_id: str, outcome: Outcome) -> tuple[Write, ...]: ...

    def tell_running(self, hold: Hold, session_id: str) -> None: ...
    async def take_outcome(self, hold: Hold, session_id: str) -> Outcome | None: ...

    async def open(self, hold: Hold) -> Hold: ...

    async def void(self, hold: Hold, found: Binding) -> None: ...


class Clock(Protocol):
    """The time of the world. Only adapters read it."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    def monotonic_ns(self) -> int:
        """For durations."""
        ...


class Events(Protocol):
    """Best effort, never in the way: a slow subscriber loses events (counted), a call never waits for one."""

    def publish(self, event: Event) -> None:
        """Hands the event to every subscriber's bounded queue. Never blocks, never raises."""
        ...

    def subscribe(
        self, receive: Callable[[Event], None], *kinds: type[Event], later: bool = False
    ) -> Callable[[], None]:
        """Calls `receive` for each event of these kinds from now on (all, where none is named); what it raises is logged and
        dropped. `later`: some hundredths of a second after the publisher's step. Returns how to end it."""
        ...


# --- sessions of agents, as the tool servers' side knows them -----------------------------------------------------


class SessionChannel(Protocol):
    """One agent's session as a place where messages outside any call can be put."""

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Deliver a notification to the session's client, if it can take it now; never raises."""
        ...


SessionLookup = Callable[[str], Awaitable[SessionChannel | None]]
