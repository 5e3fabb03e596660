"""What happened, at the boundary: best-effort events for logs, metrics, spans and streams. Never evidence (the journal is).

Names are `noun.past_participle`. Every event is a frozen value of plain values, so that it serialises as it is.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.model.call import Call
from gateway.model.value import Value, field
from gateway.model.verdict import Outcome, Step


class Event(Value, frozen=True, kw_only=True):
    """What all events have."""

    name: ClassVar[str]
    at: float
    """Seconds since the epoch."""


class CallStarted(Event, frozen=True, kw_only=True):
    """A call entered the chain."""

    name: ClassVar[str] = "call.started"
    call: Call


class CallForwarded(Event, frozen=True, kw_only=True):
    """All stages let the call through and its begin is durable."""

    name: ClassVar[str] = "call.forwarded"
    call: Call


class CallEnded(Event, frozen=True, kw_only=True):
    """A call has its outcome."""

    name: ClassVar[str] = "call.ended"
    call: Call
    outcome: Outcome
    steps: tuple[Step, ...]
    elapsed_seconds: float
    started_ns: int
    """`time.monotonic_ns` at which the chain began, for spans."""


class ServerChanged(Event, frozen=True, kw_only=True):
    """A link to a tool server changed its state."""

    name: ClassVar[str] = "server.changed"
    server: str
    state: str
    """`connecting`, `available`, `unavailable`, `stopped`."""
    reason: str = ""


class CatalogueChanged(Event, frozen=True, kw_only=True):
    """The catalogue was swapped."""

    name: ClassVar[str] = "catalogue.changed"
    revision: str
    servers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """`tools`, `prompts`, `resources`: what changed."""


class OwnToolsChanged(Event, frozen=True, kw_only=True):
    """One principal is offered other tools of the gateway's own than before."""

    name: ClassVar[str] = "own_tools.changed"
    principal: str


class ConfigurationChanged(Event, frozen=True, kw_only=True):
    """A reload was swapped in, or refused."""

    name: ClassVar[str] = "config.changed"
    accepted: bool
    sha256: str
    message: str = ""


class SessionEnded(Event, frozen=True, kw_only=True):
    """An agent's session is gone: what was kept for it may be closed."""

    name: ClassVar[str] = "session.ended"
    session_id: str
    principal: str
    reason: str = ""


class SubscriptionEnded(Event, frozen=True, kw_only=True):
    """A session no longer wants the updates of a resource (`resources/unsubscribe`, or its stream closed)."""

    name: ClassVar[str] = "subscription.ended"
    session_id: str
    principal: str
    uri: str


class RootsChanged(Event, frozen=True, kw_only=True):
    """A session's client says that its roots changed: what was told to tool servers of them is stale."""

    name: ClassVar[str] = "roots.changed"
    session_id: str
    principal: str


class LogLevelSet(Event, frozen=True, kw_only=True):
    """A session's client said which log messages it wants (`logging/setLevel`)."""

    name: ClassVar[str] = "log_level.set"
    session_id: str
    principal: str
    level: str


class AuthenticationRefused(Event, frozen=True, kw_only=True):
    """A request with no, or a wrong, key."""

    name: ClassVar[str] = "auth.refused"
    reason: str
    remote: str = ""


class StateChanged(Event, frozen=True, kw_only=True):
    """A breaker, pause or quota changed state."""

    name: ClassVar[str] = "state.changed"
    kind: str
    subject: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)
