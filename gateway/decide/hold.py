"""Approval holds, as pure functions: the digests, the states, who may decide, and whether an approval still fits.

| state    | event                          | next     |
|----------|--------------------------------|----------|
| pending  | every reason has its approvers | approved |
| pending  | somebody who may, denies       | denied   |
| pending  | `expires_at` passes            | expired  |
| approved | a call with this binding claims it (once) | claimed |
| approved | a call with another binding meets it      | void     |
| approved | `valid_until` passes           | lapsed   |
| claimed  | the call ends                  | done     |
| claimed  | the call turns out not to run (refused later in the chain, not in doubt) | approved |
| denied   | `expires_at` passes            | expired  |

All other pairs change nothing: of two decisions that race the first wins, and an approval is used once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import rfc8785

from gateway.model.call import Call, HoldReason, Method, TargetType

MAX_EXACT = 2**53 - 1


class HoldState(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CLAIMED = "claimed"
    DONE = "done"
    VOID = "void"
    LAPSED = "lapsed"


LIVE = frozenset({HoldState.PENDING, HoldState.APPROVED, HoldState.DENIED, HoldState.CLAIMED, HoldState.DONE})
"""States in which the next identical call still meets the hold."""


def canonical(value: Any) -> bytes:
    """RFC 8785, with integers beyond 2^53 as exact decimals.

    RFC 8785 serialises numbers as IEEE doubles and so cannot tell 2^53 from 2^53+1. What cannot be told apart must not be
    approved together: here such an integer is written with all its digits.
    """
    return b"".join(_canonical(value))


def _canonical(value: Any) -> Iterable[bytes]:
    """Iterative, so that depth costs no stack."""
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, _Text):
            yield part.text
        elif isinstance(part, int) and not isinstance(part, bool) and not -MAX_EXACT <= part <= MAX_EXACT:
            yield str(part).encode()
        elif isinstance(part, Mapping):
            yield b"{"
            todo: list[Any] = []
            for number, key in enumerate(sorted(part, key=lambda key: key.encode("utf-16-be", "surrogatepass"))):
                todo += [_Text((b"," if number else b"") + rfc8785.dumps(key) + b":"), part[key]]
            stack.append(_Text(b"}"))
            stack.extend(reversed(todo))
        elif isinstance(part, list | tuple):
            yield b"["
            todo = []
            for number, item in enumerate(part):
                todo += [_Text(b","), item] if number else [item]
            stack.append(_Text(b"]"))
            stack.extend(reversed(todo))
        else:
            yield rfc8785.dumps(part)


@dataclass(frozen=True, slots=True)
class _Text:
    text: bytes


ALL = ("**",)
"""The path globs of everything."""


def lookup_digest(*, principal: str, server: str, tool: str, arguments: Any) -> str:
    """SHA-256, hex, by which the next identical call finds its hold: over the arguments as received."""
    return hashlib.sha256(
        canonical({"arguments": arguments, "principal": principal, "server": server, "tool": tool, "v": 1})
    ).hexdigest()


def lookup_of(call: Call) -> str:
    """The lookup digest of a call that `resolve` has completed.

    What is no tool has its method in the name, so that a word on reading a resource is none on subscribing to it.
    """
    name = call.name if call.type is TargetType.TOOL else f"{call.method} {call.name}"
    return lookup_digest(principal=call.principal.id, server=call.server, tool=name, arguments=call.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What an approval is given for. One byte of difference is another call."""

    lookup: str
    arguments: Any
    """As they will be forwarded."""
    definition_sha256: str
    server_sha256: str
    """Of the tool server's command or URL."""
    policy_revision: str
    reasons: tuple[str, ...]
    """The codes of the hold's reasons, sorted."""
    was: str = ""
    """The digest, once arguments were erased from it: nothing is bound to it any more."""

    def digest(self) -> str:
        """SHA-256, hex."""
        if self.was:
            return self.was
        return hashlib.sha256(
            canonical(
                {
                    "arguments": self.arguments,
                    "definition": self.definition_sha256,
                    "lookup": self.lookup,
                    "policy": self.policy_revision,
                    "reasons": list(self.reasons),
                    "server": self.server_sha256,
                    "v": 1,
                }
            )
        ).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who decides."""

    id: str
    role: str
    """`viewer`, `approver` or `operator`; a viewer decides nothing."""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One operator's word on a hold."""

    operator: str
    approve: bool
    at: float
    comment: str = ""
    reasons: tuple[str, ...] = ()
    """The codes of the reasons that it settles."""
    channel: str = "cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One hold. `binding` is of what the operators were shown."""

    id: str
    binding: Binding
    principal: str
    session_id: str
    client: str
    server: str
    tool: str
    risk: str
    call_id: str
    opened_at: float
    expires_at: float
    reasons: tuple[HoldReason, ...]
    question: Mapping[str, Any] = field(default_factory=dict)
    """The policy question, as it was asked."""
    received: Any = None
    """The arguments as the agent sent them."""
    state: HoldState = HoldState.PENDING
    decisions: tuple[Decision, ...] = ()
    decided_at: float | None = None
    valid_until: float | None = None
    claimed_by: str | None = None
    """The call that used the approval."""
    narrowed: bool = False
    """An operator changed the arguments; `binding.arguments` are the narrowed ones."""
    redact: tuple[str, ...] = ()
    """Of the arguments, what the policy wants in no record."""

    @property
    def lookup(self) -> str:
        return self.binding.lookup


def may_decide(operator: Operator, reason: HoldReason) -> bool:
    """Whether an operator is one of a reason's approvers. Without approvers, anybody who may approve at all."""
    if operator.role not in ("approver", "operator"):
        return False
    if not reason.approvers:
        return True
    return any(
        approver.removeprefix("group:") in operator.groups if approver.startswith("group:") else approver == operator.id
        for approver in reason.approvers
    )


def undecidable(reasons: Sequence[HoldReason], operators: Sequence[Operator]) -> HoldReason | None:
    """A reason that no configured set of operators can settle, or None where all can be.

    `distinct` reasons need a person each: a matching of reasons to different operators has to exist.
    """
    for reason in reasons:
        if not any(may_decide(operator, reason) for operator in operators):
            return reason
    distinct = [reason for reason in reasons if reason.distinct]
    taken: dict[str, HoldReason] = {}

    def place(reason: HoldReason, tried: set[str]) -> bool:
        for operator in operators:
            if operator.id in tried or not may_decide(operator, reason):
                continue
            tried.add(operator.id)
            if operator.id not in taken or place(taken[operator.id], tried):
                taken[operator.id] = reason
                return True
        return False

    return next((reason for reason in distinct if not place(reason, set())), None)


MAX_SHOWN = 4000
"""Characters of a call's arguments in a question to a client's user."""


def elicitation(hold: Hold) -> dict[str, Any]:
    """The params of the `elicitation/create` that puts a hold to a client's user: a form with a comment."""
    why = "; ".join(reason.reason or reason.code for reason in open_reasons(hold))
    text = json.dumps(hold.binding.arguments, ensure_ascii=False, indent=1)
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}\n… ({len(text)} characters in all)"
    return {
        "message": (
            f"Approve this call? {hold.principal} asks for {hold.server}/{hold.tool} ({why}). To accept is to approve it, "
            f"once; to decline is to deny it.\n{shown}"
        ),
        "requestedSchema": {
            "type": "object",
            "properties": {"comment": {"type": "string", "title": "Comment", "description": "Recorded; optional."}},
        },
    }


def open_reasons(hold: Hold) -> tuple[HoldReason, ...]:
    """The reasons that nobody has settled yet."""
    settled = {code for decision in hold.decisions if decision.approve for code in decision.reasons}
    return tuple(reason for reason in hold.reasons if reason.code not in settled)


def expire(hold: Hold, now: float) -> Hold:
    """The hold as time has left it."""
    match hold.state:
        case HoldState.PENDING | HoldState.DENIED if now >= hold.expires_at:
            return replace(hold, state=HoldState.EXPIRED)
        case HoldState.APPROVED if hold.valid_until is not None and now >= hold.valid_until:
            return replace(hold, state=HoldState.LAPSED)
        case _:
            return hold


def forget(hold: Hold, redacted: Callable[[Any], Any]) -> Hold:
    """A hold that is over, with its arguments as records have them: what redaction erases goes with its purpose."""
    if hold.binding.was:
        return hold
    if hold.redact == ALL:
        return erase(hold, over=True)
    binding = replace(hold.binding, arguments=redacted(hold.binding.arguments), was=hold.binding.digest())
    return replace(hold, binding=binding, received=redacted(hold.received))


def erase(hold: Hold, *, over: bool) -> Hold:
    """A hold without anything of its arguments; where it is not over, one that will lose them all with its end."""
    if not over:
        return replace(hold, redact=ALL)
    binding = replace(hold.binding, arguments=None, was=hold.binding.digest())
    return replace(hold, binding=binding, received=None, question={}, redact=ALL)


class DecisionRefused(ValueError):
    """A decision that cannot be taken; the text says why."""


class NotAnApprover(DecisionRefused):
    """This operator may not decide on this hold."""


def decide(
    hold: Hold,
    operator: Operator,
    *,
    approve: bool,
    now: float,
    valid_seconds: float,
    comment: str = "",
    channel: str = "cli",
    arguments: Any = None,
    narrow: bool = False,
    seen: str | None = None,
) -> Hold:
    """Take an operator's decision.

    Args:
        valid_seconds: from the decision to its use.
        arguments: with `narrow`, the arguments to be forwarded in place of the agent's.
        seen: the binding's digest as the operator saw it, where that is known: another approver may have narrowed since.

    Raises:
        DecisionRefused: the hold is decided or over, this operator may not decide it, or it has no arguments to narrow.
    """
    hold = expire(hold, now)
    if hold.state is not HoldState.PENDING:
        raise DecisionRefused(f"hold {hold.id} is {hold.state}; nothing was changed")
    if operator.id == hold.principal:
        raise NotAnApprover("an agent never decides on its own call")
    if seen is not None and seen != hold.binding.digest():
        raise DecisionRefused(f"hold {hold.id} was changed since you looked; look again")
    used = {decision.operator for decision in hold.decisions}
    settles: list[str] = []
    for reason in open_reasons(hold):
        if not may_decide(operator, reason):
            continue
        if approve and reason.distinct and (operator.id in used or any(_distinct(hold, code) for code in settles)):
            continue
        settles.append(reason.code)
    if not settles:
        wanted = (
            ", ".join(sorted({name for reason in open_reasons(hold) for name in reason.approvers})) or "an approver"
        )
        raise NotAnApprover(f"{operator.id} may not decide on hold {hold.id}; it needs {wanted}")
    decision = Decision(
        operator=operator.id, approve=approve, at=now, comment=comment, reasons=tuple(settles), channel=channel
    )
    hold = replace(hold, decisions=(*hold.decisions, decision))
    if not approve:
        return replace(hold, state=HoldState.DENIED, decided_at=now)
    if narrow:
        if hold.question.get("action", Method.CALL_TOOL) not in (Method.CALL_TOOL, Method.GET_PROMPT):
            raise DecisionRefused(f"hold {hold.id} is for {hold.question['action']}, whose arguments cannot be changed")
        hold = replace(hold, binding=replace(hold.binding, arguments=arguments), narrowed=True)
    if open_reasons(hold):
        return hold
    return replace(hold, state=HoldState.APPROVED, decided_at=now, valid_until=now + valid_seconds)


def _distinct(hold: Hold, code: str) -> bool:
    return any(reason.distinct for reason in hold.reasons if reason.code == code)


def claim(hold: Hold, binding: Binding, call_id: str, now: float) -> Hold:
    """Use an approval for the call that has this binding: `claimed`, or `void` where the binding is another one.

    A reason of the call that the approval does not list is another binding too; the stage opens a new hold for it.
    """
    hold = expire(hold, now)
    if hold.state is not HoldState.APPROVED:
        return hold
    if hold.binding.digest() != binding.digest():
        return replace(hold, state=HoldState.VOID)
    return replace(hold, state=HoldState.CLAIMED, claimed_by=call_id)


def release(hold: Hold) -> Hold:
    """The claiming call did not run: the approval is as it was."""
    return replace(hold, state=HoldState.APPROVED, claimed_by=None) if hold.state is HoldState.CLAIMED else hold


def finish(hold: Hold) -> Hold:
    """The claiming call ended."""
    return replace(hold, state=HoldState.DONE) if hold.state is HoldState.CLAIMED else hold


def expiry(reasons: Sequence[HoldReason], default_seconds: float, now: float) -> float:
    """When nobody may decide any more: the shortest time that a reason asks for."""
    asked = [
        reason.expires_seconds
        for reason in reasons
        if reason.expires_seconds is not None and reason.expires_seconds > 0
    ]
    return now + min(asked or [default_seconds])
