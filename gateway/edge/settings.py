"""What the edges need to know of the configuration: one frozen value, made by `wiring`."""

from dataclasses import dataclass

from gateway import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Limits and names of the agents' side. The defaults are CONTRACT 3's."""

    name: str = "gateway"
    """Our `serverInfo.name`."""
    version: str = __version__
    host: str = "127.0.0.1"
    """The listening address; its names are accepted in `Host`."""
    allowed_hosts: tuple[str, ...] = ()
    """Accepted in `Host` besides the listening address: `name` (any port) or `name:port`."""
    allowed_origins: tuple[str, ...] = ()
    """Accepted in `Origin` besides the page's own host: `https://name[:port]`."""
    max_request_bytes: int = 4_194_304
    session_idle_seconds: float = 1800.0
    max_sessions: int = 10_000
    """Sessions of all agents, over HTTP."""
    max_sessions_per_principal: int = 1_000
    max_in_flight: int = 1_024
    """Requests that one connection or session may have open at once."""
    max_subscriptions: int = 256
    """Open `subscriptions/listen` streams of one principal, and resources that one session may subscribe to."""
    page_size: int = 500
    """Items of a list in one answer."""
    list_ttl_ms: int = 10_000
    """How long a client may take a list for fresh (2026-07-28); a change is also told by `list_changed`."""
    body_seconds: float = 30.0
    """How long a client may take to send a request's body."""
    ping_seconds: float = 15.0
    """Between two signs of life on an event stream; and how long a call may be silent before its answer becomes one."""
    watch_seconds: float = 0.05
    """How long a call runs before somebody listens for its client going away."""
    retry_ms: int = 1_000
    """How soon a client whose event stream broke should come back (`retry:`)."""
    ask_seconds: float = 600.0
    """How long a handshake-era client may take to answer what a tool server asks it."""
    parked_seconds: float = 600.0
    """How long a call of 2026-07-28 waits for its client's next round."""
    max_parked: int = 1_024
    max_parked_per_principal: int = 64
