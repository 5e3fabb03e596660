"""From a request to a `Call`, and from its outcome to the answer: the same for HTTP and stdio, era by era at the border.

Inside, a request has one shape, the modern one. What the eras do differently about a tool server that needs something
from the client is translated here:

    legacy client, `input_required` result    the requests are put to the client live, and the call is made again with the
                                              answers and the tool server's `requestState`, byte for byte
    legacy client, a request in mid-call      put to the client live, on the stream of the call that caused it
    modern client, `input_required` result    passed on as it came; its retry is a new call, linked by the state
    modern client, a request in mid-call      the call is parked (`gateway.edge.parking`)
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import orjson

from gateway.control import Gateway
from gateway.edge import wire
from gateway.edge.parsing import Request
from gateway.edge.protocol import (
    ASKING,
    HOP_KEYS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    LOG_MESSAGE,
    METHOD_NOT_FOUND,
    PROGRESS,
    PROGRESS_TOKEN,
)
from gateway.edge.sessions import Session
from gateway.edge.settings import EdgeSettings
from gateway.model.call import Call, Client, Method, Principal
from gateway.model.verdict import Completed, Outcome

MODERN_CALLS: Final = frozenset({Method.CALL_TOOL, Method.GET_PROMPT, Method.READ_RESOURCE, Method.COMPLETE})
LEGACY_CALLS: Final = MODERN_CALLS | {Method.SUBSCRIBE}

ROUNDS: Final = frozenset({Method.CALL_TOOL, Method.GET_PROMPT, Method.READ_RESOURCE})
"""The methods that may answer `input_required`."""

MAX_ROUNDS: Final = 16
"""Of live questions to a handshake-era client within one call."""

MAX_LINKS: Final = 4_096
"""Rounds whose `requestState` is remembered, so that the retry is recorded as the same logical call."""


class Links:
    """Which call a retry continues, by the state that its first round handed out. Bounded; forgetting costs a link only."""

    def __init__(self) -> None:
        self._logical: OrderedDict[bytes, str] = OrderedDict()

    def remember(self, principal: str, state: str, logical_id: str) -> None:
        """The call `logical_id` asked for input and handed out `state`."""
        self._logical[self._key(principal, state)] = logical_id
        while len(self._logical) > MAX_LINKS:
            self._logical.popitem(last=False)

    def find(self, principal: str, state: str) -> str | None:
        """The logical call that a retry with this state belongs to."""
        return self._logical.get(self._key(principal, state))

    @staticmethod
    def _key(principal: str, state: str) -> bytes:
        return hashlib.sha256(f"{principal}\0{state}".encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True, kw_only=True, eq=False)
class Asked:
    """Who asks, in what session and era: what one request is served with."""

    gateway: Gateway
    settings: EdgeSettings
    principal: Principal
    session: Session
    client: Client
    modern: bool
    links: Links


class AgentCaller:
    """The agent's side of one call while it runs. A `Caller` (see `gateway.ports`), the same for every transport.

    Args:
        put: writes one message to the client, on the call's own stream; None where the client takes no stream.
    """

    __slots__ = ("_put", "_session", "_token", "capabilities", "log_level", "modern", "over", "wants_progress")

    def __init__(
        self,
        *,
        session: Session,
        client: Client,
        modern: bool,
        meta: Mapping[str, Any] | None,
        put: Callable[[bytes], None] | None,
    ) -> None:
        self.capabilities = client.capabilities
        self.modern = modern
        token = meta.get(PROGRESS_TOKEN) if meta else None
        self._token = token if isinstance(token, (str, int)) else None
        self.wants_progress = self._token is not None
        level = meta.get(LOG_LEVEL_KEY) if meta and modern else session.log_level
        self.log_level: str | None = level if level in LOG_LEVELS else None
        self._session = session
        self._put = put
        self.over = False
        """The call has its answer: nothing more may be written."""

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Relay a notification of the call, with the client's own progress token."""
        if self._put is None or self.over:
            return
        if method == PROGRESS:
            if self._token is None:
                return
            params = {**params, PROGRESS_TOKEN: self._token}
        elif method == LOG_MESSAGE:
            level = params.get("level")
            if self.modern:
                # 2026-07-28: nothing is logged to a request that did not opt in.
                if self.log_level is None:
                    return
                if level in LOG_LEVELS and LOG_LEVELS.index(level) < LOG_LEVELS.index(self.log_level):
                    return
            elif not self._session.logs(level):
                return
        self._put(wire.notification(method, params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Put the tool server's requests to the client, and return its answers."""
        answers: dict[str, Mapping[str, Any]] = {}
        live: dict[str, Mapping[str, Any]] = {}
        for key, request in requests.items():
            fault = self._cannot(request)
            if fault is None:
                live[key] = request
            else:
                answers[key] = {"error": fault}
        if live:
            answers.update(await self._ask(live))
        return {key: answers[key] for key in requests}

    def _cannot(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Why the client cannot be asked this, as a JSON-RPC error; None where it can."""
        method = request.get("method")
        capability = ASKING.get(method) if isinstance(method, str) else None
        if capability is None:
            return {"code": METHOD_NOT_FOUND, "message": f"Clients are not asked {method!r}"}
        if capability not in self.capabilities:
            return {"code": METHOD_NOT_FOUND, "message": f"The client did not declare the capability {capability!r}"}
        return None

    async def _ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """All at once, with ids of our own; the answers may come in any order."""
        if self.modern:
            fault = {"code": INTERNAL_ERROR, "message": "A client of 2026-07-28 cannot be asked in mid-call"}
            return {key: {"error": fault} for key in requests}
        if self._put is None or self.over:
            fault = {"code": INTERNAL_ERROR, "message": "The client takes no event stream, so it cannot be asked"}
            return {key: {"error": fault} for key in requests}
        asks = {key: self._session.ask() for key in requests}
        try:
            for key, request in requests.items():
                self._put(wire.request(asks[key][0], str(request["method"]), request.get("params")))
            answers: dict[str, Mapping[str, Any]] = {}
            for key, (_, ask) in asks.items():
                await ask.answered.wait()
                answers[key] = ask.answer
            return answers
        finally:
            for identifier, ask in asks.values():
                if not ask.answered.is_set():
                    self._session.forget(identifier)
                    cancelled = {"requestId": identifier, "reason": "The call that asked has ended"}
                    self._put(wire.notification("notifications/cancelled", cancelled))


def is_call(asked: Asked, method: str) -> bool:
    """Whether a method is judged: the five of MCP, and what an advertised extension brings (CONTRACT 4)."""
    if method in (MODERN_CALLS if asked.modern else LEGACY_CALLS):
        return True
    if method in Method.ALL or asked.gateway.snapshot.extensions is None:
        return False
    return asked.gateway.snapshot.extensions(method) is not None


async def perform(asked: Asked, request: Request, caller: AgentCaller) -> wire.Reply:
    """Make the call that a request asks for, and answer it."""
    params = forwarded(request.params)
    if params.get("name") not in asked.gateway.snapshot.catalogue.tools:
        # It may be a server's that is just being started.
        await asked.gateway.settled()
    link = params.get("requestState")
    logical = asked.links.find(asked.principal.id, link) if isinstance(link, str) else None
    try:
        call = _call(asked, request.method, params, logical)
    except ValueError as problem:
        return wire.error(request.id, INVALID_PARAMS, str(problem))
    outcome = await asked.gateway.execute(call, caller)
    if request.method in ROUNDS and (needed := input_required(outcome)) is not None:
        if asked.modern:
            state = needed.get("requestState")
            if isinstance(state, str):
                asked.links.remember(asked.principal.id, state, call.logical_id)
        else:
            return await _live_rounds(asked, request, params, caller, call, needed)
    return _answered(asked, request, call, outcome)


def forwarded(params: dict[str, Any] | None) -> dict[str, Any]:
    """A request's params without what belongs to this connection alone (the envelope, the progress token)."""
    if params is None:
        return {}
    meta = params.get("_meta")
    if isinstance(meta, dict) and not HOP_KEYS.isdisjoint(meta):
        return {**params, "_meta": {key: value for key, value in meta.items() if key not in HOP_KEYS}}
    return params


def input_required(outcome: Outcome) -> dict[str, Any] | None:
    """The result's members, where it says that the tool server needs input."""
    if not isinstance(outcome, Completed) or outcome.result is None or b'"input_required"' not in outcome.result:
        return None
    members = orjson.loads(outcome.result)
    if isinstance(members, dict) and members.get("resultType") == "input_required":
        return members
    return None


def _call(asked: Asked, method: str, params: Mapping[str, Any], logical: str | None) -> Call:
    return asked.gateway.call(
        method=method,
        params=params,
        principal=asked.principal,
        session_id=asked.session.id,
        client=asked.client,
        logical_id=logical,
    )


def _answered(asked: Asked, request: Request, call: Call, outcome: Outcome) -> wire.Reply:
    if request.method == Method.SUBSCRIBE and isinstance(outcome, Completed) and outcome.error is None:
        asked.session.subscribed.add(call.target)
    return wire.answer(request.id, call, outcome, modern=asked.modern, private=asked.gateway.agents is not None)


async def _live_rounds(
    asked: Asked,
    request: Request,
    params: dict[str, Any],
    caller: AgentCaller,
    call: Call,
    needed: dict[str, Any],
) -> wire.Reply:
    """Ask a handshake-era client what a modern tool server needs, and call again, until there is an answer."""
    first = call.logical_id
    for _ in range(MAX_ROUNDS):
        requests = needed.get("inputRequests")
        again = {key: value for key, value in params.items() if key not in ("inputResponses", "requestState")}
        if isinstance(requests, dict) and requests:
            answers = await caller.ask({key: one for key, one in requests.items() if isinstance(one, dict)})
            for key, one in answers.items():
                if "error" in one:
                    text = f"The tool server needs input that this client did not give ({key}: {one['error'].get('message')})"
                    return wire.error(request.id, int(one["error"].get("code", INVALID_REQUEST)), text)
            again["inputResponses"] = {key: one["result"] for key, one in answers.items()}
        else:
            await anyio.sleep(0.05)  # a state alone: the tool server wants to be asked again
        if isinstance(needed.get("requestState"), str):
            again["requestState"] = needed["requestState"]
        call = _call(asked, request.method, again, first)
        outcome = await asked.gateway.execute(call, caller)
        if (further := input_required(outcome)) is None:
            return _answered(asked, request, call, outcome)
        needed = further
    return wire.error(request.id, INTERNAL_ERROR, f"The tool server needed input more than {MAX_ROUNDS} times")
