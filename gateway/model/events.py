"""What happened, at the boundary: best-effort events for logs, metrics, spans and streams. Never evidence (the journal is).

Names are `noun.past_participle`. Every event is a frozen dataclass of plain values, so that it serialises as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gateway.model.call import Call
from gateway.model.verdict import Outcome, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have."""

    name: ClassVar[str]
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted(Event):
    """A call entered the chain."""

    name: ClassVar[str] = "call.started"
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForwarded(Event):
    """All stages let the call through and its begin is durable."""

    name: ClassVar[str] = "call.forwarded"
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded(Event):
    """A call has its outcome."""

    name: ClassVar[str] = "call.ended"
    call: Call
    outcome: Outcome
    steps: tuple[Step, ...]
    elapsed_seconds: float
    started_ns: int
    """`time.monotonic_ns` at which the chain began, for spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChanged(Event):
    """A link to a tool server changed its state."""

    name: ClassVar[str] = "server.changed"
    server: str
    state: str
    """`connecting`, `available`, `unavailable`, `stopped`."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueChanged(Event):
    """The catalogue was swapped."""

    name: ClassVar[str] = "catalogue.changed"
    revision: str
    servers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """`tools`, `prompts`, `resources`: what changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationChanged(Event):
    """A reload was swapped in, or refused."""

    name: ClassVar[str] = "config.changed"
    accepted: bool
    sha256: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """An agent's session is gone: what was kept for it may be closed."""

    name: ClassVar[str] = "session.ended"
    session_id: str
    principal: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionEnded(Event):
    """A session no longer wants the updates of a resource (`resources/unsubscribe`, or its stream closed)."""

    name: ClassVar[str] = "subscription.ended"
    session_id: str
    principal: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RootsChanged(Event):
    """A session's client says that its roots changed: what was told to tool servers of them is stale."""

    name: ClassVar[str] = "roots.changed"
    session_id: str
    principal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevelSet(Event):
    """A session's client said which log messages it wants (`logging/setLevel`)."""

    name: ClassVar[str] = "log_level.set"
    session_id: str
    principal: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationRefused(Event):
    """A request with no, or a wrong, key."""

    name: ClassVar[str] = "auth.refused"
    reason: str
    remote: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """A breaker, pause or quota changed state."""

    name: ClassVar[str] = "state.changed"
    kind: str
    subject: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)
