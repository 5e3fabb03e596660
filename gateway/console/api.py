"""The operator API at `/api/v1` (CONTRACT 8): JSON over one table of operations, from which the OpenAPI document is made.

Theory of operation
-------------------
An operator's key comes first, on every path: without one there is nothing to be seen here, not even which paths exist. An
agent's key is no operator's key. Then a path and its query or body are read strictly (unknown names are errors), and the
act that the operation names is performed by `gateway.acts`, which checks the role and records it. What the act says is the
answer; an act that was not done is an error with a status and a sentence. There are no cookies here, so a page of another
origin has nothing to abuse.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__
from gateway.acts import ActRefused, Acts
from gateway.config import Configuration
from gateway.config.types import parse_duration
from gateway.console.feed import Feed, TooManyReaders
from gateway.console.replies import Replies
from gateway.console.requests import Fault, add_safe_headers, body_of, encoded, of_act, remote
from gateway.decide.hold import Operator
from gateway.decide.pause import Stop
from gateway.edge.parsing import Malformed, parse
from gateway.model.events import AuthenticationRefused
from gateway.model.recording import CallSummary, SessionSummary
from gateway.ports import Clock, Events
from gateway.servers.server import ServerState
from gateway.stages.breaker import BreakerState
from gateway.stages.bulkhead import PoolUse
from gateway.stages.quota import QuotaUse

logger = logging.getLogger("gateway.console")

PREFIX: Final = "/api/v1"

LARGEST: Final = 2**63 - 1

# --- what is asked -------------------------------------------------------------------------------------------------


def _instant(value: Any) -> Any:
    """Seconds since the epoch of a time ago (`2h`), a date and time in ISO 8601, or seconds since the epoch."""
    if not isinstance(value, str):
        return value
    try:
        if re.fullmatch(r"\d{1,9}(\.\d{1,3})?[a-z]{1,2}", value):
            return time.time() - float(parse_duration(value))
        if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value):
            return float(value)
        return datetime.fromisoformat(value).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError("neither a time ago (`2h`) nor a date and time (`2026-11-20T20:00Z`)") from None


class Asked(BaseModel):
    """A query or a body: what is not named in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, Field(min_length=1, max_length=1024)]
Words = Annotated[str, Field(max_length=2000)]
Limit = Annotated[int, Field(ge=1, le=500)]
Place = Annotated[int, Field(ge=0, le=LARGEST)]
Instant = Annotated[
    float,
    BeforeValidator(_instant),
    Field(
        allow_inf_nan=False,
        json_schema_extra={"type": "string", "examples": ["2h", "2026-11-20T20:00Z", "1795205460"]},
    ),
]
Seconds = Annotated[float, Field(gt=0, le=315_360_000, allow_inf_nan=False)]


class Nothing(Asked):
    """No parameters."""


class CallsAsked(Asked):
    """Which calls; `agent`, `tool` and `code` take globs."""

    agent: Name | None = None
    tool: Name | None = Field(None, description="`server/tool`")
    session: Name | None = None
    outcome: Literal["completed", "error", "refused", "held", "failed"] | None = None
    code: Name | None = None
    since: Instant | None = None
    until: Instant | None = None
    text: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="In names, ids, requests or responses; a page may be short and still have a `next`."
    )
    before: Place | None = Field(None, description="The `next` of the page before.")
    limit: Limit = 50


class SessionsAsked(Asked):
    """Which sessions; `agent` takes a glob."""

    agent: Name | None = None
    before: Name | None = Field(None, description="The `next` of the page before.")
    limit: Limit = 50


class SessionAsked(Asked):
    """Which page of a session's calls."""

    after: Place = Field(0, description="The `next` of the page before.")
    limit: Limit = 50


class StatisticsAsked(Asked):
    """The span up to now."""

    seconds: Annotated[float, Field(ge=1, le=31_536_000, allow_inf_nan=False)] = 3600


class HoldsAsked(Asked):
    """Which holds."""

    state: Literal["pending", "approved", "denied", "expired", "claimed", "done", "void", "lapsed", "all"] = "all"
    before: Name | None = Field(None, description="The id of the last hold of the page before.")
    limit: Limit = 50


class ToolsAsked(Asked):
    """As which agent."""

    agent: Name | None = Field(None, description="May be left out where there is one.")


class LettersAsked(Asked):
    """Which dead letters."""

    state: Literal["open", "retried", "dropped", "all"] = "open"


class Approving(Asked):
    """An approval."""

    comment: Words = ""
    arguments: dict[str, JsonValue] | None = Field(
        None, description="Narrowed: to be forwarded in place of the agent's."
    )
    binding: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="`binding` as `GET /holds/{id}` showed it: refused where another approver narrowed since."
    )


class Denying(Asked):
    """A denial."""

    comment: Words = ""
    binding: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Resuming(Asked):
    """What goes on: one of these, or nothing for the whole gateway."""

    agent: Name | None = None
    session: Name | None = None
    server: Name | None = None
    tool: Name | None = Field(None, description="`server/tool`")


class Stopping(Resuming):
    """What is paused or killed: one of these, or nothing for the whole gateway."""

    reason: Words = ""
    for_seconds: Seconds | None = Field(None, description="Absent: until it is resumed.")


class Killing(Asked):
    """Why."""

    reason: Words = ""


class Breaker(Asked):
    """Which breaker."""

    subject: Name = Field(description="`server`, or `server/tool`")


class Retrying(Asked):
    """How sure one is."""

    may_run_twice: bool = Field(False, description="Needed where the call is in doubt: somebody looked.")


# --- what is answered ----------------------------------------------------------------------------------------------


class Error(BaseModel):
    """What went wrong."""

    code: str
    message: str


class Errors(BaseModel):
    """Every answer that is no success."""

    error: Error


class Reason(BaseModel):
    """Why a call is held."""

    code: str
    reason: str
    approvers: list[str]
    expires_seconds: float | None
    distinct: bool
    source: str


class Word(BaseModel):
    """One decision."""

    operator: str
    approve: bool
    at: float
    comment: str
    reasons: list[str]
    channel: str


class HoldSummary(BaseModel):
    """One hold, without its arguments."""

    id: str
    state: str
    agent: str
    tool: str
    risk: str
    reasons: list[Reason]
    opened_at: float
    expires_at: float
    valid_until: float | None
    decisions: list[Word]
    claimed_by: str | None
    narrowed: bool
    session_id: str
    call_id: str


class HoldShown(HoldSummary):
    """One hold with all that a decision is about."""

    arguments: JsonValue = Field(description="As they will be forwarded.")
    received: JsonValue = Field(description="As the agent sent them.")
    redact: list[str] = Field(
        description="Path globs of what the policy wants in no record. It goes when the hold is over."
    )
    question: dict[str, JsonValue]
    binding: str
    policy_revision: str
    definition_sha256: str
    envelopes: list[dict[str, JsonValue]] = Field(description="The signed decisions (DSSE).")


class Running(BaseModel):
    """A call in flight."""

    call_id: str
    agent: str
    tool: str
    risk: str
    stage: str
    age_seconds: float
    session_id: str


class Calls(BaseModel):
    """A page of calls."""

    calls: list[CallSummary]
    next: int | None = Field(description="The `before` of the next page; null at the end.")


class CallShown(BaseModel):
    """One call: in flight, or as recorded."""

    running: Running | None
    seq: int | None
    sha256: str | None
    record: dict[str, JsonValue] | None = Field(description="As in `call.schema.json`.")
    payloads: dict[str, JsonValue]


class Sessions(BaseModel):
    """A page of sessions."""

    sessions: list[SessionSummary]
    next: str | None


class SessionShown(BaseModel):
    """A session with a page of its calls, in order."""

    session: SessionSummary
    calls: list[CallSummary]
    next: int | None


class Agent(BaseModel):
    """An agent of the configuration."""

    name: str
    roles: list[str]
    servers: list[str] | None
    tools: list[str] | None


class Policy(BaseModel):
    """What calls are judged by now."""

    engine: str
    revision: str
    shadow_revision: str | None
    configuration_sha256: str
    catalogue_revision: str


class Letter(BaseModel):
    """A dead letter without its content."""

    call_id: str
    at: float
    agent: str
    session_id: str
    tool: str
    risk: str
    state: str
    code: str
    in_doubt: bool
    message: str
    attempts: list[dict[str, JsonValue]]
    retried_as: str


class LetterShown(Letter):
    """A dead letter with the call as it was forwarded."""

    method: str
    params: dict[str, JsonValue] | None


class Erasing(Asked):
    """Which of a call's payloads; absent: all."""

    roles: list[Literal["request", "response", "exchange"]] | None = None


class Anything(BaseModel):
    """An object."""

    model_config = ConfigDict(extra="allow")


# --- the table -----------------------------------------------------------------------------------------------------

Role = Literal["viewer", "approver", "operator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One line of the API: a method on a path, the act it performs, what goes in and what comes out."""

    method: Literal["GET", "POST"]
    path: str
    act: str
    summary: str
    answer: Any
    """The type of the answer, for the document."""
    role: Role = "viewer"
    """What the operator has to be at least; checked by the act (a viewer's key is needed even to look)."""
    asked: type[Asked] = Nothing
    """The query of a GET, the body of a POST."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that the caller has no say in."""

    @property
    def name(self) -> str:
        return f"{self.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', self.path).strip('_')}"


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(method="GET", path="/status", act="status", summary="What the gateway is doing", answer=Anything),
    Operation(method="GET", path="/agents", act="agents", summary="Who may connect", answer=list[Agent]),
    Operation(method="GET", path="/tools", act="tools", summary="What an agent reaches", answer=list[Anything], asked=ToolsAsked),
    Operation(method="GET", path="/calls", act="calls.list", summary="Recorded calls, newest first", answer=Calls, asked=CallsAsked),
    Operation(method="GET", path="/calls/running", act="calls.running", summary="Calls in flight, oldest first", answer=list[Running]),
    Operation(
        method="GET", path="/calls/statistics", act="calls.statistics", answer=Anything, asked=StatisticsAsked,
        summary="Calls, refusals by code and latency over time",
    ),
    Operation(method="GET", path="/calls/{id}", act="calls.show", summary="One call, with request and response; looking is recorded", answer=CallShown),
    Operation(
        method="POST", path="/calls/{id}/kill", act="calls.kill", role="operator", answer=Anything, asked=Killing,
        summary="Cancel a call in flight",
    ),
    Operation(
        method="POST", path="/calls/{id}/resolve", act="resolve", role="operator", answer=Anything,
        summary="Settle a call that was in doubt: its idempotency key is free",
    ),
    Operation(method="GET", path="/sessions", act="sessions.list", summary="Sessions, newest first", answer=Sessions, asked=SessionsAsked),
    Operation(method="GET", path="/sessions/{id}", act="sessions.show", summary="One session and its calls, in order", answer=SessionShown, asked=SessionAsked),
    Operation(method="GET", path="/holds", act="holds.list", summary="Holds, newest first", answer=list[HoldSummary], asked=HoldsAsked),
    Operation(method="GET", path="/holds/{id}", act="holds.show", summary="One hold, with its arguments; looking is recorded", answer=HoldShown),
    Operation(
        method="POST", path="/holds/{id}/approve", act="holds.approve", role="approver", answer=HoldSummary,
        asked=Approving, fixed={"channel": "api"}, summary="Approve; the call runs when its agent asks again or still waits",
    ),
    Operation(
        method="POST", path="/holds/{id}/deny", act="holds.deny", role="approver", answer=HoldSummary, asked=Denying,
        fixed={"channel": "api"}, summary="Deny",
    ),
    Operation(
        method="POST", path="/calls/{id}/erase", act="calls.erase", role="operator", answer=Anything, asked=Erasing,
        summary="Erase what is kept of a call's contents; a signed tombstone says so",
    ),
    Operation(method="GET", path="/servers", act="servers", summary="Tool servers and their states", answer=list[ServerState]),
    Operation(method="GET", path="/breakers", act="breakers", summary="Circuit breakers that were ever used", answer=list[BreakerState]),
    Operation(
        method="POST", path="/breakers/trip", act="breakers.trip", role="operator", answer=list[BreakerState],
        asked=Breaker, summary="Open a breaker until it is reset",
    ),
    Operation(
        method="POST", path="/breakers/reset", act="breakers.reset", role="operator", answer=list[BreakerState],
        asked=Breaker, summary="Close a breaker",
    ),
    Operation(method="GET", path="/quotas", act="quotas", summary="Quotas with their use", answer=list[QuotaUse]),
    Operation(method="GET", path="/pools", act="pools", summary="Pools with their use", answer=list[PoolUse]),
    Operation(method="GET", path="/dead-letters", act="dead-letters.list", summary="Calls in doubt, or that used up their tries", answer=list[Letter], asked=LettersAsked),
    Operation(method="GET", path="/dead-letters/{call_id}", act="dead-letters.show", summary="One dead letter with its call; looking is recorded", answer=LetterShown),
    Operation(
        method="POST", path="/dead-letters/{call_id}/retry", act="dead-letters.retry", role="operator", answer=Anything,
        asked=Retrying, summary="Make the call again, through the whole chain",
    ),
    Operation(
        method="POST", path="/dead-letters/{call_id}/drop", act="dead-letters.drop", role="operator", answer=Anything,
        summary="Let it rest",
    ),
    Operation(method="GET", path="/stops", act="stops", summary="What is paused or killed", answer=list[Stop]),
    Operation(method="POST", path="/pause", act="pause", role="operator", answer=Stop, asked=Stopping, summary="Refuse new calls"),
    Operation(
        method="POST", path="/kill", act="kill", role="operator", answer=Stop, asked=Stopping,
        summary="Refuse new calls and cancel those in flight",
    ),
    Operation(method="POST", path="/resume", act="resume", role="operator", answer=Stop, asked=Resuming, summary="Lift a pause or kill"),
    Operation(method="GET", path="/policy", act="policy", summary="Which policy and configuration calls are judged by", answer=Policy),
    Operation(method="POST", path="/reload", act="reload", role="operator", answer=Anything, summary="Take over a changed configuration and changed policies"),
)  # fmt: skip
"""Every operation that is one act. Besides them there are `/events`, `/openapi.json` and `/webhooks/{n}`."""


# --- the application -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the API and the console need of the running gateway."""

    acts: Callable[[], Acts]
    configuration: Callable[[], Configuration]
    feed: Feed
    events: Events
    clock: Clock
    max_request_bytes: int


def api(around: Surroundings, replies: Replies) -> ASGIApp:
    """The application of everything below `/api/v1/`."""
    routes = [
        Route(PREFIX + operation.path, _endpoint(operation, around), methods=[operation.method])
        for operation in OPERATIONS
    ]
    written = encoded(document())

    async def events(request: Request) -> Response:
        operator = request.state.operator
        return await event_stream(around, request, lambda: operator_of(around.configuration(), request) == operator)

    async def openapi(request: Request) -> Response:
        return Response(written, media_type="application/json")

    routes.append(Route(f"{PREFIX}/events", events, methods=["GET"]))
    routes.append(Route(f"{PREFIX}/openapi.json", openapi, methods=["GET"]))
    application = Starlette(routes=routes, exception_handlers=FAULTS)
    application.router.redirect_slashes = False
    webhooks = Starlette(
        routes=[Route(f"{PREFIX}/webhooks/{{n}}", replies.endpoint, methods=["POST"])],
        exception_handlers=FAULTS,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        guarded_send = _safe(send)
        if scope["path"].startswith(f"{PREFIX}/webhooks/"):
            await webhooks(scope, receive, guarded_send)
            return
        request = Request(scope)
        operator = operator_of(around.configuration(), request)
        if operator is None:
            around.events.publish(
                AuthenticationRefused(
                    at=around.clock.time_ns() / 1e9, reason="no operator's key", remote=remote(request)
                )
            )
            message = "this needs an operator's key: `Authorization: Bearer KEY`"
            if not around.configuration().operators:
                message += "; the configuration has no [operators]"
            await _answer(Fault(401, "unauthorized", message, {"www-authenticate": "Bearer"}))(
                scope, receive, guarded_send
            )
            return
        scope.setdefault("state", {})["operator"] = operator
        await application(scope, receive, guarded_send)

    return _last_resort(app)


def operator_of(configuration: Configuration, request: Request) -> Operator | None:
    """The operator whose key the request bears; asked anew at every request, so that a reload counts."""
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return None
    found = configuration.operator_for_key(key.strip())
    return None if found is None else Operator(id=found.name, role=found.role, groups=found.groups)


async def event_stream(
    around: Surroundings, request: Request, allowed: Callable[[], bool], after: str | None = None
) -> Response:
    """The feed as an answer.

    Args:
        after: the id behind which to begin, where the request has no `Last-Event-ID`.

    Raises:
        Fault: too many streams are open.
    """
    stream = around.feed.stream(request.headers.get("last-event-id") or after, allowed)
    try:
        first = await anext(stream)
    except TooManyReaders:
        raise Fault(503, "unavailable", "too many event streams are open", {"retry-after": "5"}) from None

    async def parts() -> Any:
        try:
            yield first
            async for part in stream:
                yield part
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(parts(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _endpoint(operation: Operation, around: Surroundings) -> Any:
    async def endpoint(request: Request) -> Response:
        if operation.method == "GET":
            asked = _query(operation.asked, request)
        else:
            if request.url.query:
                raise Fault(400, "invalid", "a POST takes its parameters in the body")
            asked = await _body(operation.asked, request, around.max_request_bytes)
        params = {**asked, **request.path_params, **operation.fixed}
        try:
            done = await around.acts().perform(operation.act, request.state.operator, params)
        except ActRefused as refused:
            raise of_act(refused) from refused
        return Response(encoded(done), media_type="application/json")

    return endpoint


def _query(asked: type[Asked], request: Request) -> dict[str, Any]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Fault(400, "invalid", f"{name} is there twice")
        given[name] = value
    return read_asked(asked, given)


async def _body(asked: type[Asked], request: Request, limit: int) -> dict[str, Any]:
    body = await body_of(request, limit)
    if not body.strip():
        return read_asked(asked, {})
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Fault(415, "unsupported_media_type", "the body has to be application/json")
    try:
        value = parse(body)
    except Malformed as malformed:
        raise Fault(400, "invalid", malformed.message) from None
    if not isinstance(value, dict):
        raise Fault(400, "invalid", "the body has to be a JSON object")
    return read_asked(asked, value)


def read_asked(asked: type[Asked], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, with defaults and without what is absent.

    Raises:
        Fault: it cannot be read; the text names the field.
    """
    try:
        read = asked.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'it'}: {p['msg']}" for p in problems[:5])
        raise Fault(400, "invalid", told) from None
    return {name: value for name in asked.model_fields if (value := getattr(read, name)) is not None}


def _answer(fault: Fault) -> Response:
    body = encoded({"error": {"code": fault.code, "message": fault.message}})
    return Response(body, status_code=fault.status, media_type="application/json", headers=fault.headers)


def _fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    return _answer(error)


def _http_fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, message = {
        404: ("not_found", f"there is nothing at this path; {PREFIX}/openapi.json has what there is"),
        405: ("method_not_allowed", "this path does not take this method"),
    }.get(error.status_code, ("invalid", str(error.detail)))
    return _answer(Fault(error.status_code, code, message, dict(error.headers or {})))


def _internal(_: Request, error: Exception) -> Response:
    return _answer(Fault(500, "internal", "the gateway failed; its log says how"))


FAULTS: Final[Mapping[Any, Any]] = {Fault: _fault, HTTPException: _http_fault, Exception: _internal}
"""What each exception is answered with. The last one is a fault of our own: it is raised on, and logged."""


def _safe(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            add_safe_headers(MutableHeaders(scope=message))
        await send(message)

    return sending


def _last_resort(app: ASGIApp) -> ASGIApp:
    """A fault of our own was answered with 500; here it becomes a line in the log."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception:
            logger.exception("a request to %s failed", scope.get("path"))

    return guarded


# --- the document --------------------------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document, made from `OPERATIONS`."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        described: dict[str, Any] = {
            "operationId": operation.name,
            "summary": operation.summary,
            "description": f"Needs the role {operation.role}.",
            "tags": [operation.path.split("/")[1]],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in re.findall(r"\{(\w+)\}", operation.path)
            ],
            "responses": {
                "200": {
                    "description": "Done",
                    "content": {"application/json": {"schema": _schema(operation.answer, schemas, "serialization")}},
                },
                **_refusals(operation, schemas),
            },
        }
        if operation.method == "GET":
            described["parameters"] += _parameters(operation.asked, schemas)
        elif operation.asked is not Nothing:
            content = {"application/json": {"schema": _schema(operation.asked, schemas, "validation")}}
            described["requestBody"] = {
                "required": any(each.is_required() for each in operation.asked.model_fields.values()),
                "content": content,
            }
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = described
    paths.update(_others(schemas))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MCP execution gateway: operator API",
            "version": __version__,
            "description": "Every request needs an operator's key; every act is recorded.",
        },
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "A key of [operators]"}
            },
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _schema(type_: Any, schemas: dict[str, Any], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    schema = TypeAdapter(type_).json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    schemas.update(schema.pop("$defs", {}))
    if isinstance(type_, type) and hasattr(type_, "__name__") and schema.get("type") == "object":
        schemas[type_.__name__] = schema
        return {"$ref": f"#/components/schemas/{type_.__name__}"}
    return schema


def _parameters(asked: type[Asked], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    schema = TypeAdapter(asked).json_schema(ref_template="#/components/schemas/{model}", mode="validation")
    schemas.update(schema.pop("$defs", {}))
    found = []
    for name, member in schema.get("properties", {}).items():
        plain = dict(member)
        options = [option for option in plain.pop("anyOf", []) if option != {"type": "null"}]
        if options:
            plain = {**options[0], **plain}
        plain.pop("title", None)
        if plain.get("default", ...) is None:
            del plain["default"]
        said = plain.pop("description", None)
        found.append({"name": name, "in": "query", "schema": plain, **({"description": said} if said else {})})
    return found


def _refusals(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    words = {"400": "It cannot be read", "401": "No operator's key", "403": "Not this operator's to do"}
    words["503"] = "It cannot be recorded, or the store cannot be read"
    if "{" in operation.path or operation.method == "POST" or operation.path in ("/tools", "/calls"):
        words["404"] = "There is no such thing"
    if operation.method == "POST":
        words |= {"409": "It cannot be done now", "413": "The body is too long", "415": "The body is not JSON"}
    return _described(words, schemas)


def _described(words: Mapping[str, str], schemas: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(Errors, schemas, "serialization")}}
    return {status: {"description": text, "content": content} for status, text in sorted(words.items())}


def _others(schemas: dict[str, Any]) -> dict[str, Any]:
    """What is no act."""
    refused = {"401": "No operator's key", "503": "Too many streams are open"}
    webhook = {
        "400": "It cannot be read", "401": "The signature, or its time, is not valid", "403": "Replies are refused here",
        "404": "There is no such webhook", "409": "This id was used, or the hold is decided", "413": "Too long",
        "503": "It cannot be recorded",
    }  # fmt: skip
    headers: Sequence[str] = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return {
        f"{PREFIX}/events": {
            "get": {
                "operationId": "get_events",
                "summary": "What happens, as server-sent events",
                "tags": ["events"],
                "parameters": [{"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}],
                "responses": {
                    "200": {
                        "description": "Events with `id`, `event` (the type) and `data` (JSON)",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    **_described(refused, schemas),
                },
            }
        },
        f"{PREFIX}/openapi.json": {
            "get": {
                "operationId": "get_openapi",
                "summary": "This document",
                "tags": ["openapi"],
                "responses": {
                    "200": {
                        "description": "OpenAPI 3.1",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    **_described({"401": "No operator's key"}, schemas),
                },
            }
        },
        f"{PREFIX}/webhooks/{{n}}": {
            "post": {
                "operationId": "post_webhooks_n",
                "summary": "A signed reply to a notification (Standard Webhooks); acts as the webhook's operator",
                "tags": ["webhooks"],
                "security": [],
                "parameters": [
                    {"name": "n", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
                    *(
                        {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
                        for name in headers
                    ),
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                "responses": {
                    "200": {
                        "description": "Decided",
                        "content": {"application/json": {"schema": _schema(HoldSummary, schemas, "serialization")}},
                    },
                    **_described(webhook, schemas),
                },
            }
        },
    }
