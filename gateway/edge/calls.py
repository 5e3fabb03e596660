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
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import orjson

from gateway.control import Gateway, new_id
from gateway.edge import wire
from gateway.edge.parking import PREFIX, Parked, Parking, Start, StateRefused, digest
from gateway.edge.parsing import Request
from gateway.edge.protocol import (
    ASKING,
    HOP_KEYS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    LEGACY_VERSIONS,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    LOG_MESSAGE,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PROGRESS,
    PROGRESS_TOKEN,
    REFUSED,
    REQUEST_CANCELLED,
    RESOURCE_NOT_FOUND,
    URL_ELICITATION_REQUIRED,
)
from gateway.edge.sessions import Session
from gateway.edge.settings import EdgeSettings
from gateway.model.call import Call, Client, Method, Principal
from gateway.model.value import replace
from gateway.model.verdict import Completed, Outcome, input_required

logger = logging.getLogger("gateway.edge")

MODERN_CALLS: Final = frozenset({Method.CALL_TOOL, Method.GET_PROMPT, Method.READ_RESOURCE, Method.COMPLETE})
LEGACY_CALLS: Final = MODERN_CALLS | {Method.SUBSCRIBE}

ROUNDS: Final = frozenset({Method.CALL_TOOL, Method.GET_PROMPT, Method.READ_RESOURCE})
"""The methods that may answer `input_required`."""

ASKABLE: Final = frozenset(ASKING.values())
"""The capabilities of clients that can be asked something."""

Answer = Callable[[str | int], wire.Reply]
"""What became of a call, as an answer to whichever request now waits for it."""

MAX_ROUNDS: Final = 16
"""Of questions within one call: more are put to no handshake-era client, and are calls of their own to interrupts."""

MAX_LINKS: Final = 4_096
"""Rounds whose `requestState` is remembered, so that the retry is recorded as the same logical call."""


class Links:
    """Which call a retry continues, by the state that its first round handed out. Bounded; forgetting costs a link only."""

    def __init__(self) -> None:
        self._logical: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    def remember(self, principal: str, state: str, logical_id: str, number: int) -> None:
        """The round `number` (0 is the first) of the call `logical_id` asked for input and handed out `state`."""
        self._logical[self._key(principal, state)] = logical_id, number + 1
        while len(self._logical) > MAX_LINKS:
            self._logical.popitem(last=False)

    def follow(self, principal: str, state: str) -> tuple[str | None, int]:
        """The logical call that a retry with this state belongs to, and its number among the rounds.

        A state that is brought again continues nothing: what comes of it is beyond `MAX_ROUNDS`.
        """
        key = self._key(principal, state)
        if (found := self._logical.get(key)) is None:
            return None, 0
        self._logical[key] = found[0], MAX_ROUNDS + 1
        return found

    @staticmethod
    def _key(principal: str, state: str) -> bytes:
        return hashlib.sha256(f"{principal}\0{state}".encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True, kw_only=True, eq=False)
class Asked:
    """Who asks, in what session and era: what one request is served with."""

    parking: Parking
    """Where this edge's calls wait for their clients."""
    start: Start
    """Runs a task that the edge owns."""

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

    __slots__ = (
        "_ask_seconds",
        "_session",
        "_token",
        "began",
        "capabilities",
        "log_level",
        "missing",
        "modern",
        "over",
        "parked",
        "put",
        "wants_progress",
    )

    def __init__(
        self,
        *,
        session: Session,
        client: Client,
        modern: bool,
        meta: Mapping[str, Any] | None,
        put: Callable[[bytes], None] | None,
        ask_seconds: float = 600.0,
    ) -> None:
        self.capabilities = client.capabilities
        self.modern = modern
        self._session = session
        self._ask_seconds = ask_seconds
        self.began: Callable[[str], None] | None = None
        """Told the call's id before it runs."""
        self.over = False
        """The call has its answer: nothing more may be written."""
        self.parked: Parked | None = None
        """Where a modern client's call waits for its next round."""
        self.missing: dict[str, Any] = {}
        """The capabilities that the client was to have for what the tool server asked."""
        self.attach(meta, put)

    def attach(self, meta: Mapping[str, Any] | None, put: Callable[[bytes], None] | None) -> None:
        """Speak on this request's stream from now on: the first's, or a later round's."""
        token = meta.get(PROGRESS_TOKEN) if meta else None
        self._token = token if isinstance(token, (str, int)) else None
        self.wants_progress = self._token is not None
        level = meta.get(LOG_LEVEL_KEY) if meta and self.modern else self._session.log_level
        self.log_level: str | None = level if level in LOG_LEVELS else None
        self.put = put

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Relay a notification of the call, with the client's own progress token."""
        if self.put is None or self.over:
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
        self.put(wire.notification(method, params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Put the tool server's requests to the client, and return its answers."""
        answers: dict[str, Mapping[str, Any]] = {}
        live: dict[str, Mapping[str, Any]] = {}
        for key, request in requests.items():
            fault = self.cannot(request)
            if fault is None:
                live[key] = request
            else:
                answers[key] = {"error": fault}
        if live:
            answers.update(await self._ask(live))
        return {key: answers[key] for key in requests}

    def cannot(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Why the client cannot be asked this, as a JSON-RPC error; None where it can."""
        method = request.get("method")
        capability = ASKING.get(method) if isinstance(method, str) else None
        if capability is None:
            return {"code": METHOD_NOT_FOUND, "message": f"Clients are not asked {method!r}"}
        declared = self.capabilities.get(capability)
        params = request.get("params") or {}
        mode = params.get("mode")
        if declared is None:
            self.missing[capability] = {}
            return {"code": METHOD_NOT_FOUND, "message": f"The client did not declare the capability {capability!r}"}
        if capability == "sampling" and "tools" in params and not (isinstance(declared, dict) and "tools" in declared):
            self.missing[capability] = {"tools": {}}
            return {"code": INVALID_PARAMS, "message": "The client did not declare that it samples with tools"}
        if capability == "elicitation" and mode == "url" and not (isinstance(declared, dict) and "url" in declared):
            self.missing[capability] = {"url": {}}
            return {"code": INVALID_PARAMS, "message": "The client did not declare that it can be sent to a URL"}
        return None

    async def _ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """All at once; the answers may come in any order."""
        if self.modern:
            if self.parked is None:
                fault = {"code": INTERNAL_ERROR, "message": "The client cannot be asked in the middle of this request"}
                return {key: {"error": fault} for key in requests}
            return await self.parked.ask(requests)
        if self.put is None or self.over:
            fault = {"code": INTERNAL_ERROR, "message": "The client takes no event stream, so it cannot be asked"}
            return {key: {"error": fault} for key in requests}
        return await self._ask_live(requests, self.put)

    async def _ask_live(
        self, requests: Mapping[str, Mapping[str, Any]], put: Callable[[bytes], None]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Requests to a handshake-era client, with ids of our own."""
        asks = {key: self._session.ask() for key in requests}
        silent = {"code": INTERNAL_ERROR, "message": f"The client did not answer within {self._ask_seconds:g} s"}
        try:
            for key, request in requests.items():
                put(wire.request(asks[key][0], str(request["method"]), request.get("params")))
            with anyio.move_on_after(self._ask_seconds):
                for _, ask in asks.values():
                    await ask.answered.wait()
            return {key: ask.answer if ask.answered.is_set() else {"error": silent} for key, (_, ask) in asks.items()}
        finally:
            for identifier, ask in asks.values():
                if not ask.answered.is_set():
                    self._session.forget(identifier)
                    cancelled = {"requestId": identifier, "reason": "The call that asked has ended"}
                    put(wire.notification("notifications/cancelled", cancelled))


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
    state = params.get("requestState")
    if asked.modern and request.method in ROUNDS:
        if isinstance(state, str) and state.startswith(PREFIX):
            return await _retried(asked, request, params, state, caller)
        if (state is not None or "inputResponses" in params) and await _asks_live(asked, params):
            if state is not None:
                words = "params.requestState is none that was given out. Make the call anew, without it"
                return wire.error(request.id, INVALID_PARAMS, words)
            params = {key: value for key, value in params.items() if key != "inputResponses"}
        if not ASKABLE.isdisjoint(asked.client.capabilities):
            return await _begun(asked, request, params, caller)
    if request.method == Method.SUBSCRIBE and _too_many_subscriptions(asked, params.get("uri")):
        words = f"At most {asked.settings.max_subscriptions} resources of one session are subscribed to"
        return wire.error(request.id, REFUSED, words)
    return (await _conduct(asked, request.method, params, caller))(request.id)


def _too_many_subscriptions(asked: Asked, uri: Any) -> bool:
    subscribed = asked.session.subscribed
    if isinstance(uri, str) and uri in subscribed:
        return False
    return len(subscribed) >= asked.settings.max_subscriptions


async def _conduct(asked: Asked, method: str, params: dict[str, Any], caller: AgentCaller) -> Answer:
    """Make the call, with its live rounds; what answers a request with its outcome."""
    name = params.get("name")
    if not isinstance(name, str) or name not in asked.gateway.snapshot.catalogue.tools:
        # It may be a server's that is just being started.
        await asked.gateway.settled()
    link = params.get("requestState")
    logical, number = asked.links.follow(asked.principal.id, link) if isinstance(link, str) else (None, 0)
    try:
        call = _call(asked, method, params, logical, continues=0 < number <= MAX_ROUNDS)
    except ValueError as problem:
        return partial(wire.error, code=INVALID_PARAMS, message=str(problem))
    if caller.began is not None:
        caller.began(call.id)
    outcome = await asked.gateway.execute(call, caller, patient=caller.parked is not None)
    if method in ROUNDS and (needed := input_required(outcome)) is not None:
        if not asked.modern:
            return await _live_rounds(asked, method, params, caller, call, needed)
        state = needed.get("requestState")
        if isinstance(state, str):
            asked.links.remember(asked.principal.id, state, call.logical_id, number)
    return _answered(asked, caller, call, outcome)


# --- a modern client's rounds with a tool server of the handshake era ---


async def _asks_live(asked: Asked, params: Mapping[str, Any]) -> bool:
    """Whether the target's tool server is known to be of the handshake era, so that no state can be its own."""
    view = await asked.gateway.view(asked.principal)
    name, uri = params.get("name"), params.get("uri")
    entry = None
    if isinstance(name, str):
        entry = view.tools.get(name) or view.prompts.get(name)
    elif isinstance(uri, str):
        entry = view.resources.get(uri)
    server = asked.gateway.snapshot.catalogue.servers.get(entry.server) if entry is not None else None
    return server is not None and server.protocol_version in LEGACY_VERSIONS


async def _begun(asked: Asked, request: Request, params: dict[str, Any], caller: AgentCaller) -> wire.Reply:
    """The first round of a call whose client can be asked something."""
    parked = asked.parking.begin(asked.principal.id, digest(request.method, params))
    if parked is None:
        # It runs all the same; what is asked in its middle is answered with an error.
        return (await _conduct(asked, request.method, params, caller))(request.id)
    meta = (request.params or {}).get("_meta")
    parked.caller = AgentCaller(session=asked.session, client=asked.client, modern=True, meta=meta, put=caller.put)
    parked.caller.parked, parked.caller.began = parked, caller.began
    asked.start(partial(_run, asked, request.method, params, parked.caller, parked))
    return await _round(asked, request, parked)


async def _retried(
    asked: Asked, request: Request, params: dict[str, Any], state: str, caller: AgentCaller
) -> wire.Reply:
    """A later round: the client brings the state that we gave out, and its answers."""
    responses = params.get("inputResponses", {})
    if not isinstance(responses, dict) or not all(isinstance(one, dict) for one in responses.values()):
        return wire.error(request.id, INVALID_PARAMS, "params.inputResponses is not an object of results")
    try:
        parked = asked.parking.take(state, asked.principal.id, digest(request.method, params))
    except StateRefused as refused:
        return wire.error(request.id, INVALID_PARAMS, str(refused))
    parked.caller.attach((request.params or {}).get("_meta"), caller.put)
    parked.give(responses)
    return await _round(asked, request, parked)


async def _round(asked: Asked, request: Request, parked: Parked) -> wire.Reply:
    """Wait until the call has its answer or needs input; a client that goes away meanwhile cancels it."""
    try:
        await parked.progressed()
    except anyio.get_cancelled_exc_class():
        parked.scope.cancel()
        raise
    if parked.answer is not None:
        return parked.answer(request.id)
    parked.caller.attach(None, None)
    needed = {
        "resultType": "input_required",
        "inputRequests": parked.needs,
        "requestState": asked.parking.park(parked),
    }
    return wire.result_of(request.id, needed)


async def _run(asked: Asked, method: str, params: dict[str, Any], caller: AgentCaller, parked: Parked) -> None:
    """A call that may be parked, from its begin to its answer, in a task of its own."""
    answer: Answer = partial(wire.error, code=REQUEST_CANCELLED, message="The call was cancelled")
    asked.session.enter()
    try:
        with parked.scope:
            answer = await _conduct(asked, method, params, caller)
    except Exception:
        logger.exception("request %s failed", method)
        answer = partial(wire.error, code=INTERNAL_ERROR, message="The gateway failed")
    finally:
        asked.session.leave()
        caller.over = True
        asked.parking.forget(parked)
        parked.finish(answer)


def forwarded(params: dict[str, Any] | None) -> dict[str, Any]:
    """A request's params without what belongs to this connection alone (the envelope, the progress token)."""
    if params is None:
        return {}
    meta = params.get("_meta")
    if isinstance(meta, dict) and not HOP_KEYS.isdisjoint(meta):
        return {**params, "_meta": {key: value for key, value in meta.items() if key not in HOP_KEYS}}
    return params


def _call(
    asked: Asked, method: str, params: Mapping[str, Any], logical: str | None, *, continues: bool = False
) -> Call:
    return asked.gateway.call(
        method=method,
        params=params,
        principal=asked.principal,
        session_id=asked.session.id,
        client=asked.client,
        logical_id=logical,
        continues=continues,
    )


def _answered(asked: Asked, caller: AgentCaller, call: Call, outcome: Outcome) -> Answer:
    if call.method == Method.SUBSCRIBE and isinstance(outcome, Completed) and outcome.error is None:
        asked.session.subscribed.add(call.target)
    private = asked.gateway.agents is not None
    if asked.modern and isinstance(outcome, Completed):
        if outcome.error is not None:
            outcome = _modern_error(asked, caller, call, outcome)
        if caller.missing and _failed(outcome):
            return partial(_lacking, call=call, outcome=outcome, required=caller.missing)
    return partial(wire.answer, call=call, outcome=outcome, modern=asked.modern, private=private)


def _modern_error(asked: Asked, caller: AgentCaller, call: Call, outcome: Completed) -> Completed:
    """A handshake-era server's error, where 2026-07-28 says the same in another way; every other stays as it is.

    -32002, a resource that is not found, is -32602 now. -32042, a page that the user has to visit first, is a need for
    input: the client makes the call again once the user was there.
    """
    fault = orjson.loads(outcome.error or b"{}")
    if not isinstance(fault, dict):
        return outcome
    if fault.get("code") == RESOURCE_NOT_FOUND and call.method == Method.READ_RESOURCE:
        return replace(outcome, error=orjson.dumps({**fault, "code": INVALID_PARAMS}))
    if fault.get("code") == URL_ELICITATION_REQUIRED and call.method in ROUNDS:
        data = fault.get("data")
        listed = data.get("elicitations") if isinstance(data, dict) else None
        pages = [one for one in (listed if isinstance(listed, list) else ()) if isinstance(one, dict)]
        requests = {
            f"url-{number}": {
                "method": "elicitation/create",
                "params": {"mode": "url"} | {key: value for key, value in page.items() if key != "elicitationId"},
            }
            for number, page in enumerate(pages, 1)
        }
        if requests and all(caller.cannot(request) is None for request in requests.values()):
            needed = {"resultType": "input_required", "inputRequests": requests}
            return Completed(result=orjson.dumps(needed), source=outcome.source, received=outcome.error)
    return outcome


def _failed(outcome: Completed) -> bool:
    """Whether the tool server said that it could not do it."""
    if outcome.error is not None:
        return True
    members = orjson.loads(outcome.result or b"{}")
    return isinstance(members, dict) and members.get("isError") is True


def _lacking(request_id: str | int, *, call: Call, outcome: Completed, required: dict[str, Any]) -> wire.Reply:
    """-32021: the tool server asked for what the client did not declare, and failed without it. Its words stay with it."""
    said = orjson.loads(wire.answer(request_id, call, outcome, modern=True).body)
    data = {"requiredCapabilities": required, "cause": said.get("error") or said.get("result")}
    words = f"The client has to declare the capability {' and '.join(repr(name) for name in required)} for this"
    return wire.error(request_id, MISSING_CAPABILITY, words, data)


async def _live_rounds(
    asked: Asked,
    method: str,
    params: dict[str, Any],
    caller: AgentCaller,
    call: Call,
    needed: dict[str, Any],
) -> Answer:
    """Ask a handshake-era client what a modern tool server needs, and call again, until there is an answer."""
    first = call.logical_id
    for _ in range(MAX_ROUNDS):
        requests = needed.get("inputRequests")
        again = {key: value for key, value in params.items() if key not in ("inputResponses", "requestState")}
        if isinstance(requests, dict) and requests:
            answers = await caller.ask({key: _handshake(one) for key, one in requests.items() if isinstance(one, dict)})
            for key, one in answers.items():
                if "error" in one:
                    said = one["error"].get("message")
                    words = f"The tool server needs input that this client did not give ({key}: {said})"
                    code = one["error"].get("code")
                    return partial(wire.error, code=code if isinstance(code, int) else INTERNAL_ERROR, message=words)
            again["inputResponses"] = {key: one["result"] for key, one in answers.items()}
        else:
            await anyio.sleep(0.05)  # a state alone: the tool server wants to be asked again
        if isinstance(needed.get("requestState"), str):
            again["requestState"] = needed["requestState"]
        call = _call(asked, method, again, first, continues=True)
        outcome = await asked.gateway.execute(call, caller)
        if (further := input_required(outcome)) is None:
            return _answered(asked, caller, call, outcome)
        needed = further
    words = f"The tool server needed input more than {MAX_ROUNDS} times"
    return partial(wire.error, code=INTERNAL_ERROR, message=words)


def _handshake(request: dict[str, Any]) -> dict[str, Any]:
    """A modern server's question as the handshake era has it: one that sends the user to a URL has an id there."""
    params = request.get("params")
    if request.get("method") != "elicitation/create" or not isinstance(params, dict) or params.get("mode") != "url":
        return request
    return {**request, "params": {"elicitationId": new_id(), **params}}
