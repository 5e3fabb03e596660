"""Signed replies to notifications: `POST /api/v1/webhooks/{n}`, which acts as the webhook's configured operator.

The body is `{"type": "hold.decision", "hold": ID, "decision": "approve"|"deny", "comment": …, "arguments": …}`, signed as
Standard Webhooks signs. A link never decides: there is nothing here for GET. The id of a reply is used up, durably, before
it decides anything, so that one that was heard by others cannot be said again.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gateway.acts import ActRefused, Acts
from gateway.adapters.notify import InvalidSignature, reply_taken, target_of, verified
from gateway.config import Configuration
from gateway.console.requests import Fault, body_of, encoded, of_act, remote
from gateway.decide.hold import Operator
from gateway.edge.parsing import Malformed, parse
from gateway.model.errors import JournalUnavailable, WriteConflict
from gateway.model.events import AuthenticationRefused
from gateway.model.verdict import Write
from gateway.ports import Clock, Events

MAX_BYTES = 1_048_576


class Records(Protocol):
    """What replies need of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...


class Reply(BaseModel):
    """What a reply says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["hold.decision"]
    hold: str = Field(min_length=1, max_length=128)
    decision: Literal["approve", "deny"]
    comment: str = Field("", max_length=2000)
    arguments: dict[str, JsonValue] | None = None


class Replies:
    """Takes replies of the webhooks that are configured now."""

    def __init__(
        self,
        *,
        acts: Callable[[], Acts],
        configuration: Callable[[], Configuration],
        journal: Records,
        events: Events,
        clock: Clock,
    ) -> None:
        self._acts, self._configuration, self._journal = acts, configuration, journal
        self._events, self._clock = events, clock

    async def endpoint(self, request: Request) -> Response:
        """One reply.

        Raises:
            Fault: it is refused.
        """
        configuration = self._configuration()
        number = request.path_params["n"]
        webhook = next((each for each in configuration.notify if str(each.number) == number), None)
        if webhook is None:
            raise Fault(404, "not_found", "there is no such webhook")
        operator = configuration.operators.get(webhook.operator) if webhook.operator is not None else None
        if operator is None:
            raise Fault(403, "forbidden", f"[[approvals.notify]] {number} names no operator: replies are refused")
        body = await body_of(request, MAX_BYTES)
        now = self._clock.time_ns() / 1e9
        try:
            identifier = verified(webhook.secret.reveal(), request.headers, body, now)
        except InvalidSignature as error:
            refused = AuthenticationRefused(at=now, reason=f"webhook {number}: {error}", remote=remote(request))
            self._events.publish(refused)
            raise Fault(401, "unauthorized", str(error)) from error
        reply = _read(body)
        said = {"webhook": webhook.number, "id": identifier, "hold": reply.hold, "decision": reply.decision}
        acted = {"operator": operator.name, "act": "webhook.reply", "params": said, "done": True, "why": ""}
        try:
            await self._journal.record("operator.acted", acted, (reply_taken(target_of(webhook), identifier, now),))
        except WriteConflict:
            raise Fault(409, "conflict", "this webhook-id was used already; nothing was decided") from None
        except JournalUnavailable as error:
            raise Fault(503, "unavailable", f"the reply cannot be recorded: {error}") from error
        params: dict[str, Any] = {"id": reply.hold, "comment": reply.comment, "channel": f"webhook:{webhook.number}"}
        if reply.arguments is not None:
            params["arguments"] = reply.arguments
        try:
            done = await self._acts().perform(
                "holds.approve" if reply.decision == "approve" else "holds.deny",
                Operator(id=operator.name, role=operator.role, groups=operator.groups),
                params,
            )
        except ActRefused as refused_act:
            raise of_act(refused_act) from refused_act
        return Response(encoded(done), media_type="application/json")


def _read(body: bytes) -> Reply:
    try:
        reply = Reply.model_validate(parse(body))
    except Malformed as malformed:
        raise Fault(400, "invalid", malformed.message) from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Fault(400, "invalid", f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}") from None
    if reply.decision == "deny" and reply.arguments is not None:
        raise Fault(400, "invalid", "a denial has no arguments")
    return reply
