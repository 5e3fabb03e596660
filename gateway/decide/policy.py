"""The policy question and the meaning of the policy's answer (CONTRACT 4). Pure.

Theory of operation
-------------------
`question` turns a call into the document that Rego sees as `input`; its form is AuthZEN's (subject, action, resource,
context), and time is in it, so that the same question can be put again later and get the same answer. `interpret` turns
whatever the engine answered into one of three decisions. The gateway takes precedence itself and leaves nothing of it to
the policy: any `deny` denies; without `allow` it is denied; else any `hold` holds; else it is allowed.

An answer is read strictly. A field that is not of the agreed form may be a typing mistake for one that would have denied,
so nothing is skipped and nothing is converted: `allow: 1` and `approver: [...]` are malformed, and malformed is denied.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.decide.obligations import GlobError, PathError, compile_glob, concrete_path
from gateway.model.call import Call, HoldReason, Obligation, Principal, TargetType
from gateway.model.refusal import Code
from gateway.model.snapshot import Entry

QUESTION_VERSION = 1

RECENT_CALLS = 20
"""How many calls of the session `context.recent` holds at most."""


# --- the question ---------------------------------------------------------------------------------------------------


def question(call: Call, recent: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What the policy is asked about a call that `resolve` has completed.

    `arguments` are those that will be forwarded (`{}` where the request has none; of a method that the gateway does not
    know itself, all of its params). The document shares its parts with the call: it is not to be changed.

    Args:
        call: the call, with `server`, `name`, `risk` and `entry` set.
        recent: the session's last calls, oldest first, each `{tool, outcome, code, time}`.
    """
    entry = call.entry
    arguments = call.sent
    client = call.client
    return {
        "version": QUESTION_VERSION,
        "subject": _subject(call.principal),
        "action": {"name": call.method},
        "resource": {
            "type": call.type._value_,
            "id": f"{call.server}/{call.name}",
            "server": call.server,
            "name": call.name,
            "risk": call.risk._value_,  # `value` is a function in Python
            "annotations": entry.annotations if entry is not None else {},
            "definition_sha256": entry.definition_sha256 if entry is not None else "",
        },
        "arguments": arguments if arguments is not None else {},
        "meta": call.meta,
        "context": {
            "time": rfc3339(call.time_ns),
            "time_ns": call.time_ns,
            "session_id": call.session_id,
            "call_id": call.id,
            "trace_id": call.trace_id,
            "client": {
                "name": client.name,
                "version": client.version,
                "protocol_version": client.protocol_version,
                "transport": client.transport,
            },
            "approval": call.approval,
            "recent": list(recent),
        },
    }


_LISTS = {TargetType.TOOL: "tools/list", TargetType.PROMPT: "prompts/list", TargetType.RESOURCE: "resources/list"}


def visibility_question(principal: Principal, entry: Entry) -> dict[str, Any]:
    """What the policy is asked about an item of a list: as `question`, without anything that a single call has.

    There are no arguments and no time, session or client: the answer is kept for the principal, so it must not depend on
    them. A rule that needs them is undefined here, and so hides nothing; the call itself is judged all the same.
    """
    return {
        "version": QUESTION_VERSION,
        "subject": _subject(principal),
        "action": {"name": "resources/templates/list" if entry.is_template else _LISTS.get(entry.type, "list")},
        "resource": {
            "type": entry.type.value,
            "id": f"{entry.server}/{entry.name}",
            "server": entry.server,
            "name": entry.name,
            "risk": entry.risk.value,
            "annotations": entry.annotations,
            "definition_sha256": entry.definition_sha256,
        },
        "arguments": {},
        "meta": {},
        "context": {"approval": None, "recent": []},
    }


def _subject(principal: Principal) -> dict[str, Any]:
    return {"type": "agent", "id": principal.id, "roles": list(principal.roles), "claims": principal.claims}


@lru_cache(maxsize=256)
def rfc3339(time_ns: int) -> str:
    """An instant as RFC 3339 text in UTC, with as many digits of a second as it has, as Go writes it."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    if not nanoseconds:
        return _second(seconds) + "Z"
    fraction = f"{nanoseconds:09d}".rstrip("0")
    return f"{_second(seconds)}.{fraction}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    moment = time.gmtime(seconds)
    return f"{moment[0]:04d}-{moment[1]:02d}-{moment[2]:02d}T{moment[3]:02d}:{moment[4]:02d}:{moment[5]:02d}"


# --- the answer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The policy lets the call through, with these duties."""

    obligations: tuple[Obligation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsApproval:
    """The policy lets the call through once a person has approved each reason. It never grants by itself."""

    reasons: tuple[HoldReason, ...]
    obligations: tuple[Obligation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The policy does not let the call through, or its answer cannot be used."""

    code: Code
    message: str
    """One sentence for the model that reads it."""
    policy: tuple[Mapping[str, str], ...] = ()
    """`{code, message}` of each rule that denied."""
    obligations: tuple[Obligation, ...] = ()
    """What the answer demanded all the same: `redact_arguments` holds for the record of a denied call too."""


PolicyDecision = Allowed | NeedsApproval | Denied

ALLOWED = Allowed()


class _Malformed(Exception):
    """Where an answer is not of the agreed form, and how."""

    def __init__(self, message: str, code: Code = Code.POLICY_MALFORMED) -> None:
        super().__init__(message)
        self.code = code


def interpret(document: Any) -> PolicyDecision:
    """The decision that an answer of the policy stands for. Total: every JSON value has one, and never raises.

    Accepted are the full form (`allow`, `deny`, `hold`, `obligations`), a bare boolean, and `{"allow": bool}` or
    `{"allowed": bool}` with an optional `reason`.
    """
    if document is True:
        return ALLOWED
    if document is False:
        return _NOT_ALLOWED
    try:
        return _interpret_object(document)
    except _Malformed as error:
        return Denied(code=error.code, message=f"The policy's answer cannot be used: {error}.")


_FIELDS = frozenset({"allow", "allowed", "reason", "deny", "hold", "obligations"})


def _interpret_object(document: Any) -> PolicyDecision:
    if type(document) is not dict:
        raise _Malformed(f"it is {_kind(document)}, neither an object nor a boolean")
    if not document.keys() <= _FIELDS:
        _refuse_unknown(document, _FIELDS, "it")
    allow = document.get("allow", False)
    if "allowed" in document:
        if "allow" in document:
            raise _Malformed("it has both `allow` and `allowed`")
        allow = document["allowed"]
        if allow is not True and allow is not False:
            raise _Malformed(f"`allowed` is {_kind(allow)}, not a boolean")
    elif allow is not True and allow is not False:
        raise _Malformed(f"`allow` is {_kind(allow)}, not a boolean")
    reason = document.get("reason")
    if reason is not None and type(reason) is not str:
        raise _Malformed(f"`reason` is {_kind(reason)}, not a string")
    denials = _entries(document, "deny", _denial)
    holds = _entries(document, "hold", _hold_reason)
    obligations = _entries(document, "obligations", _obligation)
    if len(obligations) > 1:
        _refuse_overlap(obligations)
    if denials:
        texts = "; ".join(denial["message"] for denial in denials)
        message = f"The policy denies this call: {texts}"
        return Denied(code=Code.POLICY_DENIED, message=message, policy=denials, obligations=obligations)
    if not allow:
        message = f"The policy does not allow this call: {reason}" if reason else _NOT_ALLOWED.message
        return Denied(code=Code.POLICY_DENIED, message=message, obligations=obligations)
    if holds:
        return NeedsApproval(reasons=holds, obligations=obligations)
    return Allowed(obligations=obligations) if obligations else ALLOWED


_NOT_ALLOWED = Denied(code=Code.POLICY_DENIED, message="No rule of the policy allows this call.")


def _entries(document: Mapping[str, Any], field: str, read: "Callable[[Any, str], Any]") -> tuple[Any, ...]:
    """The entries of one list of the answer, each read by `read`; () where the field is absent."""
    entries = document.get(field, ())
    if not entries and (entries == () or type(entries) is list):
        return ()
    if type(entries) is not list:
        raise _Malformed(f"`{field}` is {_kind(entries)}, not an array")
    return tuple(read(entry, f"{field}[{index}]") for index, entry in enumerate(entries))


_DENIAL = frozenset({"code", "message"})
_HOLD = frozenset({"code", "reason", "approvers", "expires_seconds", "distinct"})


def _denial(entry: Any, place: str) -> Mapping[str, str]:
    _object(entry, place, '{"code": ..., "message": ...}')
    _refuse_unknown(entry, _DENIAL, place)
    return {"code": _text(entry, "code", place), "message": _text(entry, "message", place)}


def _hold_reason(entry: Any, place: str) -> HoldReason:
    _object(entry, place, '{"code": ..., "reason": ...}')
    _refuse_unknown(entry, _HOLD, place)
    approvers = entry.get("approvers", [])
    if type(approvers) is not list or not all(type(approver) is str and approver for approver in approvers):
        raise _Malformed(f"`{place}.approvers` is not an array of names")
    if not approvers and "approvers" in entry:
        raise _Malformed(f"`{place}.approvers` is empty, so nobody could approve; leave it out where any operator may")
    expires = entry.get("expires_seconds")
    if "expires_seconds" in entry and not (type(expires) in (int, float) and 0 < expires <= 10**9):
        raise _Malformed(f"`{place}.expires_seconds` is not a positive number of seconds")
    distinct = entry.get("distinct", False)
    if type(distinct) is not bool:
        raise _Malformed(f"`{place}.distinct` is {_kind(distinct)}, not a boolean")
    return HoldReason(
        code=_text(entry, "code", place),
        reason=_text(entry, "reason", place),
        approvers=tuple(approvers),
        expires_seconds=float(expires) if expires is not None else None,
        distinct=distinct,
    )


def _obligation(entry: Any, place: str) -> Obligation:
    _object(entry, place, '{"id": ..., ...}')
    identifier = _text(entry, "id", place)
    match identifier:
        case "redact_result" | "redact_arguments":
            _refuse_unknown(entry, frozenset({"id", "paths"}), place)
            paths = entry.get("paths")
            if type(paths) is not list or not paths:
                raise _Malformed(f"`{place}.paths` is not a non-empty array of path globs")
            for path in paths:
                if type(path) is not str:
                    raise _Malformed(f"`{place}.paths` holds {_kind(path)}, not only strings")
                try:
                    compile_glob(path)
                except GlobError as error:
                    raise _Malformed(f"`{place}.paths`: {error}") from None
            return Obligation(id=identifier, paths=tuple(paths))
        case "set_argument":
            _refuse_unknown(entry, frozenset({"id", "path", "value"}), place)
            path = _text(entry, "path", place)
            if "value" not in entry:
                raise _Malformed(f"`{place}` has no `value`")
            try:
                concrete_path(path)
            except PathError as error:
                raise _Malformed(f"`{place}.path`: {error}") from None
            return Obligation(id=identifier, path=path, value=entry["value"])
        case "limit_result":
            _refuse_unknown(entry, frozenset({"id", "max_bytes"}), place)
            limit = entry.get("max_bytes")
            if type(limit) is not int or limit < 0:
                raise _Malformed(f"`{place}.max_bytes` is not a whole number of bytes")
            return Obligation(id=identifier, max_bytes=limit)
        case _:
            raise _Malformed(
                f"`{place}.id` is {identifier!r}, an obligation that the gateway does not know; it knows "
                "redact_result, redact_arguments, set_argument and limit_result",
                Code.POLICY_UNKNOWN_OBLIGATION,
            )


def _refuse_overlap(obligations: Sequence[Obligation]) -> None:
    """Two values for one argument, or for a part of one: which would win is nobody's intention."""
    paths = [concrete_path(obligation.path) for obligation in obligations if obligation.id == "set_argument"]
    for index, first in enumerate(paths):
        for second in paths[index + 1 :]:
            shorter = min(len(first), len(second))
            if first[:shorter] == second[:shorter]:
                raise _Malformed(f"`obligations` sets the argument {'.'.join(first[:shorter])!r} twice")


def _object(entry: Any, place: str, form: str) -> None:
    if type(entry) is not dict:
        raise _Malformed(f"`{place}` is {_kind(entry)}, not an object {form}")


def _text(entry: Mapping[str, Any], field: str, place: str) -> str:
    value = entry.get(field)
    if type(value) is not str:
        raise _Malformed(
            f"`{place}` has no `{field}`"
            if field not in entry
            else f"`{place}.{field}` is {_kind(value)}, not a string"
        )
    if not value:
        raise _Malformed(f"`{place}.{field}` is empty")
    return value


def _refuse_unknown(entry: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    for field in entry:
        if field not in known:
            raise _Malformed(
                f"{place if place == 'it' else f'`{place}`'} has the field {field!r}, which is not one of {', '.join(sorted(known))}"
            )


def _kind(value: Any) -> str:
    """A JSON value's type with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "no JSON value"
