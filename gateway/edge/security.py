"""Who may speak to the listener at all: `Host` and `Origin`, on every route (DNS rebinding: A5).

A page in a browser can make the browser send requests to the loopback interface, under a name of its choice. Its `Host`
is then not ours (421), or its `Origin` is not (403). Programs send no `Origin`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.edge import wire
from gateway.edge.protocol import INVALID_REQUEST
from gateway.edge.settings import EdgeSettings
from gateway.edge.streams import Send

Receive = Callable[[], Awaitable[dict[str, Any]]]
Scope = dict[str, Any]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_ANYWHERE: Final = ("", "0.0.0.0", "::", "[::]")
_MAX_KNOWN: Final = 256


class HostCheck:
    """Accepts or refuses a request by its `Host` and `Origin` headers."""

    def __init__(self, settings: EdgeSettings) -> None:
        host = settings.host.lower()
        own = () if host in _ANYWHERE else (f"[{host}]" if ":" in host and not host.startswith("[") else host,)
        self._names = {name.lower() for name in (*LOOPBACK, *own, *settings.allowed_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._known: set[bytes] = set()
        """`Host` values that were found good: the check of the usual request is one look-up."""

    def fault(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """The status and the words to refuse with, or None."""
        host: bytes | None = None
        origin: bytes | None = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return 421, "The header Host came more than once"
                host = value
            elif name == b"origin":
                if origin is not None:
                    return 403, "The header Origin came more than once"
                origin = value
        if host is None or (host not in self._known and not self._host(host)):
            shown = "" if host is None else host.decode("latin-1")[:200]
            return 421, f"Host {shown!r} is not served here; [listen] allowed_hosts names further ones"
        if origin is not None and not self._origin(origin, host):
            shown = origin.decode("latin-1")[:200]
            return 403, f"Origin {shown!r} may not call; [listen] allowed_origins names those that may"
        return None

    def _host(self, value: bytes) -> bool:
        text = value.decode("latin-1").strip().lower()
        name, port = _split(text)
        if text not in self._names and (name not in self._names or not (port == "" or port.isdigit())):
            return False
        if len(self._known) < _MAX_KNOWN:
            self._known.add(value)
        return True

    def _origin(self, value: bytes, host: bytes) -> bool:
        """A page of our own (the same name and port as `Host`), or one that the configuration names."""
        text = value.decode("latin-1").strip().lower()
        if text in self._origins:
            return True
        scheme, separator, rest = text.partition("://")
        return bool(separator) and scheme in ("http", "https") and rest == host.decode("latin-1").strip().lower()


def _split(text: str) -> tuple[str, str]:
    """`name`, `port` of `name:port`, `name` or `[v6]:port`."""
    if text.startswith("["):
        name, _, rest = text.partition("]")
        return name + "]", rest.removeprefix(":")
    name, _, port = text.partition(":")
    return name, port


async def refuse(send: Send, status: int, message: str, *, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    """Answer with a JSON-RPC error that belongs to no request."""
    await respond(send, status, wire.error(None, INVALID_REQUEST, message).body, extra=extra)


async def respond(send: Send, status: int, body: bytes, *, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    """One JSON response."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if extra:
        headers += extra
    whole = getattr(send, "whole", None)
    if whole is not None and whole(status, headers, body):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def guarded(app: Asgi, settings: EdgeSettings) -> Asgi:
    """Any ASGI application behind the check (console, health, metrics); WebSockets are refused as well."""
    check = HostCheck(settings)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (fault := check.fault(scope["headers"])) is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refuse(send, *fault)
            return
        await app(scope, receive, send)

    return guard
