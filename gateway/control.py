"""The control plane: builds the snapshot, swaps it, and is what every edge talks to.

An edge (HTTP, stdio, the owner's socket) turns messages into calls and outcomes into messages; everything in between is
here behind one object, `Gateway`. It holds no protocol knowledge: both eras' edges use the same methods.
"""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from gateway.model.call import LOCAL, Call, Client, Method, Principal, TargetType
from gateway.model.events import SessionEnded
from gateway.model.ids import new_id
from gateway.model.snapshot import Snapshot, View
from gateway.model.value import replace
from gateway.model.verdict import Completed, Held, Outcome
from gateway.ports import UNNAMED, Caller, Clock, Directory, Events, SessionChannel

__all__ = ["AgentKey", "Gateway", "new_id"]

logger = logging.getLogger("gateway.control")

RESERVED = "gateway/"
"""The prefix of `_meta` keys that belong to the gateway: stripped from what tool servers and agents send."""

FROM_AGENTS = ("gateway/idempotency-key", "gateway/session", "gateway/why")
"""The keys under `gateway/` that an agent may send; they are read, and not forwarded."""

PROGRESS_SECONDS = 5.0
"""Between two signs of life to a client whose call waits for approval."""

MAX_COMMENT = 2000
"""Characters of what an approver says."""

Execute = Callable[[Call, Caller], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentKey:
    """One agent's credential and the principal that it proves."""

    key_sha256: bytes
    principal: Principal
    approver: str | None = None
    """The operator as whom this agent's client may be asked to approve."""


class Approvals(Protocol):
    """What waiting in-band needs of the book of holds."""

    @property
    def inline_wait_seconds(self) -> float: ...

    async def wait(self, identifier: str, seconds: float) -> bool:
        """True once the hold changed (or is gone); False where nothing did within `seconds`."""
        ...

    def elicitation(self, identifier: str, operator: str) -> Mapping[str, Any] | None:
        """The params of an `elicitation/create` that asks this operator about a hold; None where it cannot decide now."""
        ...

    async def elicited(self, identifier: str, operator: str, *, approve: bool, comment: str) -> None:
        """What that operator answered; nothing where something else was decided meanwhile."""
        ...

    async def delivered(self, call_id: str) -> None:
        """The call's client has its outcome; nothing where the call used no approval."""
        ...


class Gateway:
    """What the edges see of the gateway.

    Args:
        snapshot: the first one.
        agents: the credentials of `[agents]`; None where the configuration has no `[agents]` (one principal, `local`).
        execute: the engine's entry.
        directory: who may see what.
        clock, events: the ports.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        agents: tuple[AgentKey, ...] | None,
        execute: Execute,
        directory: Directory,
        clock: Clock,
        events: Events,
        approvals: "Approvals | None" = None,
    ) -> None:
        self._approvals = approvals
        self.snapshot = snapshot
        self.agents = agents
        self.events = events
        self.clock = clock
        self._execute = execute
        self._directory = directory
        self._channels: dict[str, SessionChannel] = {}
        self.first_look: Callable[[], Awaitable[None]] | None = None
        """Waits, bounded, until every tool server was tried once; for what depends on all of them being known."""
        self.continue_trace: Callable[[Mapping[str, Any], str], Mapping[str, Any]] | None = None
        """Puts the call's own span into the `_meta` that is judged and forwarded, where traces are exported."""

    # --- who asks ---

    def authenticate(self, key: str | None) -> Principal | None:
        """The principal that a bearer key proves, or None. Constant time in the key.

        Without `[agents]` everybody who reaches the listener is `local` (it listens on the loopback interface only);
        a key that is sent all the same is ignored.
        """
        if self.agents is None:
            return LOCAL
        digest = hashlib.sha256((key or "").encode("utf-8", "surrogatepass")).digest()
        found: Principal | None = None
        for agent in self.agents:
            if hmac.compare_digest(agent.key_sha256, digest):
                found = agent.principal
        return found if key else None

    # --- calls ---

    def call(
        self,
        *,
        method: str,
        params: Mapping[str, Any],
        principal: Principal,
        session_id: str,
        client: Client,
        logical_id: str | None = None,
        continues: bool = False,
        replay_of: str | None = None,
    ) -> Call:
        """Make the `Call` of a request.

        Args:
            method: the request's method.
            params: its params as parsed, `_meta` included; never changed.
            logical_id: the first round's call id, where this is a later round of a call that needed input.
            continues: it is, and the state that the round before gave out was not brought before.

        Raises:
            ValueError: the params lack what the method needs (`name`, `uri`, `ref`), or have it with a wrong type; the text
                says which. The edge answers -32602.
        """
        received = params.get("_meta")
        if received is not None and not isinstance(received, dict):
            raise ValueError("params._meta is not an object")
        meta: Mapping[str, Any] = received or {}
        key, why = meta.get("gateway/idempotency-key"), meta.get("gateway/why")
        if key is not None and (not isinstance(key, str) or not 1 <= len(key) <= 256 or key.startswith(UNNAMED)):
            raise ValueError(
                "params._meta['gateway/idempotency-key'] is not a text of 1 to 256 characters, NUL not first"
            )
        if any(name.startswith(RESERVED) for name in meta):
            meta = {name: value for name, value in meta.items() if not name.startswith(RESERVED)}
        rest = {name: value for name, value in params.items() if name != "_meta"} if received is not None else params
        type_, target, arguments = _target(method, rest)
        now = self.clock.time_ns()
        identifier = new_id()
        if self.continue_trace is not None:
            meta = self.continue_trace(meta, identifier)
        return Call(
            id=identifier,
            method=method,
            type=type_,
            target=target,
            arguments=arguments,
            received_arguments=arguments,
            params=rest,
            meta=meta,
            principal=principal,
            session_id=session_id,
            client=client,
            snapshot=self.snapshot,
            received_at=now / 1e9,
            time_ns=now,
            trace_id=_trace_id(meta),
            idempotency_key=key,
            why=why if isinstance(why, str) else None,
            logical_id=logical_id or identifier,
            continues=continues,
            replay_of=replay_of,
        )

    async def execute(self, call: Call, caller: Caller, *, patient: bool = False) -> Outcome:
        """Run a call through the chain. Returns its outcome; raises nothing but the task's cancellation.

        A call that is held waits here, in-band and bounded, with progress where the client wants it; once something is
        decided it goes through the whole chain again, now, as the same logical call. Where the configuration names the
        client's user as an approver, that user is asked meanwhile.

        Args:
            patient: the client has no request open while it is asked something, so that its user may take their time.
        """
        outcome = await self._execute(call, caller)
        if self._approvals is None:
            return outcome
        asked = call.id
        ends = anyio.current_time() + self._approvals.inline_wait_seconds if isinstance(outcome, Held) else 0.0
        while isinstance(outcome, Held):
            if not await self._decided(self._approvals, call.principal, outcome.hold_id, ends, caller, patient):
                break
            now = self.clock.time_ns()
            call = replace(
                call,
                id=new_id(),
                snapshot=self.snapshot,
                received_at=now / 1e9,
                time_ns=now,
                waited_for=outcome.hold_id,
            )
            outcome = await self._execute(call, caller)
        await self._approvals.delivered(call.id)
        if call.id != asked and not isinstance(outcome, Completed):
            outcome = replace(outcome, call_id=call.id)
        return outcome

    async def _decided(
        self, approvals: "Approvals", principal: Principal, hold_id: str, ends: float, caller: Caller, patient: bool
    ) -> bool:
        """Wait for something to be decided about a hold; False where the in-band time is over."""
        approver = self._approver(principal)
        question = approvals.elicitation(hold_id, approver) if approver and fills_forms(caller.capabilities) else None
        if approver is None or question is None:
            return await self._waited(approvals, hold_id, ends, caller)
        if patient:
            # The client holds the state of this very call: what is decided elsewhere waits until it comes back with it.
            await _elicit(approvals, hold_id, approver, question, caller)
            return await approvals.wait(hold_id, 0.0) or await self._waited(approvals, hold_id, ends, caller)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_elicit, approvals, hold_id, approver, question, caller)
            decided = await self._waited(approvals, hold_id, ends, caller)
            tasks.cancel_scope.cancel()
        return decided

    def _approver(self, principal: Principal) -> str | None:
        """The operator as whom this agent's client may be asked."""
        return next((agent.approver for agent in self.agents or () if agent.principal.id == principal.id), None)

    async def _waited(self, approvals: "Approvals", hold_id: str, ends: float, caller: Caller) -> bool:
        """Wait until something changes about a hold, with a sign of life now and then; False where nothing did in time."""
        beat = 0
        while (left := ends - anyio.current_time()) > 0:
            if await approvals.wait(hold_id, min(left, PROGRESS_SECONDS)):
                return True
            beat += 1
            if caller.wants_progress:
                message = "waiting for a person's approval"
                await caller.notify("notifications/progress", {"progress": beat, "message": message})
        return False

    # --- lists ---

    async def settled(self) -> None:
        """Wait, a few seconds at most and only right after the start, for the first look at every tool server."""
        if self.first_look is not None:
            await self.first_look()

    async def view(self, principal: Principal) -> View:
        """What this principal may see, now."""
        return await self._directory.view(self.snapshot, principal)

    # --- sessions ---

    def open_session(self, session_id: str, channel: SessionChannel) -> None:
        """Make a session reachable for messages outside any call (log messages, resource updates)."""
        self._channels[session_id] = channel

    def end_session(self, session_id: str, principal: str, reason: str) -> None:
        """Forget a session and tell everybody who keeps something for it."""
        if self._channels.pop(session_id, None) is not None:
            self.events.publish(
                SessionEnded(at=self.clock.time_ns() / 1e9, session_id=session_id, principal=principal, reason=reason)
            )

    async def channel(self, session_id: str) -> SessionChannel | None:
        """The channel of a session, or None where it is gone."""
        return self._channels.get(session_id)


async def _elicit(
    approvals: "Approvals", hold_id: str, operator: str, question: Mapping[str, Any], caller: Caller
) -> None:
    """Ask the client's user: to accept is to approve, to decline is to deny, anything else decides nothing."""
    answers = await caller.ask({"approval": {"method": "elicitation/create", "params": question}})
    result = answers.get("approval", {}).get("result")
    if not isinstance(result, Mapping) or (action := result.get("action")) not in ("accept", "decline"):
        return
    content = result.get("content")
    comment = content.get("comment") if isinstance(content, Mapping) else None
    said = comment if isinstance(comment, str) else ""
    await approvals.elicited(hold_id, operator, approve=action == "accept", comment=said[:MAX_COMMENT])


def fills_forms(capabilities: Mapping[str, Any]) -> bool:
    """Whether a client declared that its user can be asked with a form (before 2025-11-25 every elicitation is one)."""
    declared = capabilities.get("elicitation")
    return isinstance(declared, Mapping) and (not declared or "form" in declared)


def _target(method: str, params: Mapping[str, Any]) -> tuple[TargetType, str, Any]:
    """What a request is about, and its arguments."""
    match method:
        case Method.CALL_TOOL | Method.GET_PROMPT:
            name, arguments = params.get("name"), params.get("arguments")
            if not isinstance(name, str):
                raise ValueError("params.name is missing or not a string")
            if arguments is not None and not isinstance(arguments, dict):
                raise ValueError("params.arguments is not an object")
            return (TargetType.TOOL if method == Method.CALL_TOOL else TargetType.PROMPT), name, arguments
        case Method.READ_RESOURCE | Method.SUBSCRIBE:
            uri = params.get("uri")
            if not isinstance(uri, str):
                raise ValueError("params.uri is missing or not a string")
            return TargetType.RESOURCE, uri, None
        case Method.COMPLETE:
            reference, argument = params.get("ref"), params.get("argument")
            if not isinstance(reference, dict):
                raise ValueError("params.ref is missing or not an object")
            if argument is not None and not isinstance(argument, dict):
                raise ValueError("params.argument is not an object")
            match reference:
                case {"type": "ref/prompt", "name": str(name)}:
                    return TargetType.PROMPT, name, argument
                case {"type": "ref/resource", "uri": str(uri)}:
                    return TargetType.RESOURCE, uri, argument
                case _:
                    raise ValueError("params.ref is neither a prompt's name nor a resource's URI")
        case _:
            return TargetType.METHOD, method, None


def _trace_id(meta: Mapping[str, Any]) -> str:
    """The trace id of a W3C `traceparent` in `_meta`, or ""."""
    parent = meta.get("traceparent")
    if isinstance(parent, str):
        parts = parent.split("-")
        if len(parts) >= 4 and len(parts[1]) == 32:
            return parts[1]
    return ""
