"""`subscriptions/listen` (2026-07-28): one long answer that tells what changes, each frame with the subscription's id.

The acknowledgement is the first frame and says what is honoured: lists that exist here, and the resources whose
`resources/subscribe`, which is judged like any call, was answered. There is no replay: a client whose stream broke listens
anew and fetches again.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from gateway.edge import wire
from gateway.edge.calls import AgentCaller, Asked
from gateway.edge.lists import Lists
from gateway.edge.parsing import Request
from gateway.edge.protocol import INVALID_PARAMS, REFUSED, SERVER_KEY, SUBSCRIPTION_KEY
from gateway.edge.sessions import Listener
from gateway.model.call import Method
from gateway.model.verdict import Completed


class Put(Protocol):
    """Writes one message of the stream; the final one ends it."""

    def __call__(self, message: bytes, *, final: bool = False) -> None: ...


_KINDS = {
    "tools": "toolsListChanged",
    "prompts": "promptsListChanged",
    "resources": "resourcesListChanged",
}


@asynccontextmanager
async def listen(
    asked: Asked, lists: Lists, request: Request, put: Put, end: Callable[[], None]
) -> AsyncIterator[wire.Reply | None]:
    """Listen while the context is open; yields the error to answer with, or None where the stream is acknowledged.

    Args:
        put: writes to the stream.
        end: ends the stream's response abruptly (for a session that ends).
    """
    session = asked.session
    wanted = (request.params or {}).get("notifications")
    if not isinstance(wanted, dict):
        yield wire.error(request.id, INVALID_PARAMS, "params.notifications is missing or not an object")
        return
    uris = wanted.get("resourceSubscriptions")
    if uris is not None and not (isinstance(uris, list) and all(isinstance(uri, str) for uri in uris)):
        yield wire.error(request.id, INVALID_PARAMS, "params.notifications.resourceSubscriptions is no list of URIs")
        return
    limit = asked.settings.max_subscriptions
    if len(session.listeners) >= limit or len(uris or ()) > limit:
        yield wire.error(request.id, REFUSED, f"At most {limit} streams, and resources of one stream, are listened to")
        return
    offered = lists.capabilities(await asked.gateway.view(asked.principal))
    kinds = frozenset(kind for kind, member in _KINDS.items() if wanted.get(member) is True and kind in offered)
    before: list[bytes] = []

    def held_back(text: bytes) -> None:
        before.append(text)

    def finish() -> None:
        result: dict[str, Any] = {
            "resultType": "complete",
            "_meta": {SUBSCRIPTION_KEY: request.id, SERVER_KEY: lists.server_info},
        }
        put(wire.result_of(request.id, result).body, final=True)
        end()

    # In place before the first subscription: what changes meanwhile is sent behind the acknowledgement, not lost.
    listener = Listener(request.id, kinds, frozenset(uris or ()), held_back, finish)
    session.listeners.append(listener)
    try:
        honoured = [uri for uri in dict.fromkeys(uris or ()) if await _subscribed(asked, uri)]
        listener.uris = frozenset(honoured)
        acknowledged: dict[str, Any] = {_KINDS[kind]: True for kind in _KINDS if kind in kinds}
        if honoured:
            acknowledged["resourceSubscriptions"] = honoured
        put(listener.frame("notifications/subscriptions/acknowledged", {"notifications": acknowledged}))
        listener.put = put
        for text in before:
            put(text)
        yield None
    finally:
        session.listeners.remove(listener)
        session.unsubscribe(listener.uris)


async def _subscribed(asked: Asked, uri: str) -> bool:
    """Whether the policy and the resource's tool server let the agent have its updates."""
    caller = AgentCaller(session=asked.session, client=asked.client, modern=True, meta=None, put=None)
    call = asked.gateway.call(
        method=Method.SUBSCRIBE,
        params={"uri": uri},
        principal=asked.principal,
        session_id=asked.session.id,
        client=asked.client,
    )
    outcome = await asked.gateway.execute(call, caller)
    return isinstance(outcome, Completed) and outcome.error is None
