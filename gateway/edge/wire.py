"""The one module that makes wire answers.

    Completed, a result      relayed as the bytes received, spliced into the response
    Completed, an error      the tool server's own, untouched
    Refused with `data`      the JSON-RPC error that the contract demands (an unknown or hidden target: -32602)
    Refused, Held, Failed    of `tools/call`: a tool error in words for the model, with `_meta["gateway/refusal"]`
                             of any other method: a JSON-RPC error of our own code, with the same object as data

What the eras differ in is added here and nowhere else: `resultType` on 2026-07-28, and `ttlMs` and `cacheScope` on what
may be cached.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, assert_never

import orjson

from gateway.edge.protocol import INTERNAL_ERROR, REFUSAL_KEY, REFUSED, RESOURCE_UPDATED
from gateway.model.call import Call, Method
from gateway.model.refusal import CODES, Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, executed

NEXT_STEPS: Final[dict[Code, str]] = {
    Code.REQUEST_INVALID: "Send the request in the form that the protocol and the tool's schema describe.",
    Code.REQUEST_TOO_LARGE: "Send less in one call: split the work, or pass a reference in place of the content.",
    Code.SCHEMA_INVALID: "Mend the arguments named above and call the tool again.",
    Code.POLICY_DENIED: "Calling again with the same arguments gives the same answer; choose another way, or ask the "
    "user to have the policy changed.",
    Code.POLICY_UNDEFINED: "The policy has to be mended by its author; calling again does not help.",
    Code.POLICY_ERROR: "The policy has to be mended by its author; calling again does not help.",
    Code.POLICY_TIMEOUT: "The same call may be tried once more later.",
    Code.POLICY_MALFORMED: "The policy has to be mended by its author; calling again does not help.",
    Code.POLICY_UNKNOWN_OBLIGATION: "The policy has to be mended by its author; calling again does not help.",
    Code.POLICY_UNSTABLE: "The policy has to be mended by its author, or other arguments be chosen.",
    Code.POLICY_UNAVAILABLE: "The same call may be tried again later.",
    Code.QUOTA_EXHAUSTED: "Wait before you call this tool again, or go on without it.",
    Code.BREAKER_OPEN: "Wait before you call this tool again, or use another one.",
    Code.POOL_FULL: "Try the same call again shortly.",
    Code.INTERRUPT_DENIED: "Do not repeat the call; try another way, or ask the user.",
    Code.GATEWAY_PAUSED: "An operator has to resume it. Stop calling tools and tell the user.",
    Code.KILLED: "Stop calling tools in this session and tell the user.",
    Code.HOLD_PENDING: "Nothing has run yet. To pick the decision up, call the same tool with the same arguments again.",
    Code.HOLD_DENIED: "Do not call it again with these arguments; tell the user that it was denied.",
    Code.HOLD_EXPIRED: "Call it again if it is still needed: that asks anew.",
    Code.HOLD_MISMATCH: "The approval is void. Call it again if it is still needed: that asks anew.",
    Code.HOLD_LIMIT: "Wait until calls that are held already have been decided.",
    Code.IDEMPOTENCY_CONFLICT: "Use a new idempotency key for a new call.",
    Code.SERVER_UNAVAILABLE: "Try again later, or use another tool.",
    Code.SERVER_TIMEOUT: "Check whether it took effect before you call it again.",
    Code.SERVER_LOST: "Check whether it took effect before you call it again.",
    Code.SERVER_CAPACITY: "Try the same call again shortly.",
    Code.RESULT_INVALID: "The tool ran; its result cannot be used. Tell the user.",
    Code.RESULT_TOO_LARGE: "The tool ran; ask it for less at once.",
    Code.RESULT_UNREDACTABLE: "The tool ran; its result is withheld. Tell the user.",
    Code.REPLAY_MISSING: "A recording is being served: only what was called then can be called now.",
    Code.JOURNAL_UNAVAILABLE: "Try again later.",
    Code.CANCELLED: "Call it again if it is still needed.",
    Code.GATEWAY_INTERNAL: "Try again later, and tell the user if it persists.",
}
"""What the model can do about each code, in one sentence."""

_RESULT_TYPE_FIRST: Final = b'{"resultType":'
_COMPLETE_LAST: Final = b'"resultType":"complete"}'
_CACHEABLE: Final = frozenset({Method.READ_RESOURCE})


class Reply(NamedTuple):
    """A JSON-RPC response as bytes, and the code of its error (0: a result), from which HTTP makes its status."""

    body: bytes
    code: int = 0


# --- messages ---


def result(request_id: str | int, value: bytes) -> Reply:
    """A response with `value`, the JSON text of the result. Line breaks between its tokens become spaces."""
    if b"\n" in value or b"\r" in value:  # only ever white space in JSON; a message is one line on stdio and in SSE
        value = value.replace(b"\r", b" ").replace(b"\n", b" ")
    return Reply(b'{"jsonrpc":"2.0","id":' + orjson.dumps(request_id) + b',"result":' + value + b"}")


def result_of(request_id: str | int, value: Mapping[str, Any]) -> Reply:
    """A response with a result of our own."""
    return Reply(orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": value}))


def error(request_id: str | int | None, code: int, message: str, data: Any = None) -> Reply:
    """An error response. A null id says that the request's own could not be read."""
    fault: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        fault["data"] = data
    return Reply(orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": fault}), code)


def notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    """A notification to the client."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return orjson.dumps(message)


def request(request_id: str | int, method: str, params: Any) -> bytes:
    """A request of ours to the client."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        message["params"] = params
    return orjson.dumps(message)


def resource_updated(uri: str) -> bytes:
    """`notifications/resources/updated`."""
    return notification(RESOURCE_UPDATED, {"uri": uri})


# --- outcomes ---


def answer(request_id: str | int, call: Call, outcome: Outcome, *, modern: bool, private: bool = True) -> Reply:
    """The response that tells an agent what became of its call.

    Args:
        modern: the request came in the era of 2026-07-28.
        private: several principals are served, so a shared cache must not keep what one of them may see.
    """
    match outcome:
        case Completed():
            if outcome.error is not None:
                return _own_error(request_id, outcome.error)
            if outcome.result is None:
                return error(request_id, INTERNAL_ERROR, "The call completed without a result")
            value = outcome.result
            if modern:
                value = with_result_type(value)
                if call.method in _CACHEABLE:
                    value = with_cache_hints(value, private=private)
            return result(request_id, value)
        case Refused():
            if outcome.data is not None:
                data = outcome.data
                return error(request_id, int(data["code"]), str(data["message"]), data.get("data"))
            return _refusal(request_id, call, refusal(call, outcome), outcome.message, modern=modern)
        case Held() | Failed():
            return _refusal(request_id, call, refusal(call, outcome), outcome.message, modern=modern)
        case _:
            assert_never(outcome)


def refusal(call: Call, outcome: Refused | Held | Failed) -> dict[str, Any]:
    """The `gateway/refusal` object (CONTRACT 5; `gateway/schemas/refusal.schema.json`)."""
    match outcome:
        case Refused():
            body: dict[str, Any] = {
                "code": outcome.code.value,
                "stage": outcome.stage,
                "reason": outcome.message,
                "call_id": outcome.call_id or call.id,
                "executed": outcome.executed,
            }
            if outcome.decision_id is not None:
                body["decision_id"] = outcome.decision_id
            if outcome.policy:
                body["policy"] = [dict(entry) for entry in outcome.policy]
            if outcome.rule is not None:
                body["rule"] = outcome.rule
            if outcome.retry_after_seconds is not None:
                body["retry_after_seconds"] = outcome.retry_after_seconds
            return body
        case Held():
            body = {
                "code": Code.HOLD_PENDING.value,
                "stage": "hold",
                "reason": outcome.message,
                "call_id": outcome.call_id or call.id,
                "executed": "unknown" if outcome.running else "no",
                "hold": {"id": outcome.hold_id, "expires_at": instant(outcome.expires_at)},
            }
            if outcome.decision_id is not None:
                body["decision_id"] = outcome.decision_id
            return body
        case Failed():
            body = {
                "code": outcome.code.value,
                "stage": "forward",
                "reason": outcome.message,
                "call_id": outcome.call_id or call.id,
                "executed": executed(outcome),
            }
            if outcome.retry_after_seconds is not None:
                body["retry_after_seconds"] = outcome.retry_after_seconds
            return body
        case _:
            assert_never(outcome)


def instant(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _refusal(request_id: str | int, call: Call, body: dict[str, Any], message: str, *, modern: bool) -> Reply:
    """A tool error for `tools/call`, a JSON-RPC error for every other method."""
    if call.method != Method.CALL_TOOL:
        return error(request_id, REFUSED, message, body)
    value: dict[str, Any] = {
        "content": [{"type": "text", "text": for_the_model(body)}],
        "isError": True,
        "_meta": {REFUSAL_KEY: body},
    }
    if modern:
        value["resultType"] = "complete"
    return result_of(request_id, value)


def for_the_model(body: Mapping[str, Any]) -> str:
    """What happened and what can be done, in words for the model that made the call."""
    code = Code(body["code"])
    text = str(body["reason"]).strip()
    if not text.endswith((".", "!", "?")):
        text += "."
    lines = [f"{text} [{code.value}]"]
    if code is Code.HOLD_PENDING and body["executed"] != "no":
        lines.append("To learn its outcome, call the same tool with the same arguments again.")
        return "\n".join(lines)
    match body["executed"]:
        case "no":
            pass
        case "yes":
            lines.append("The tool itself did run.")
        case _:
            lines.append("It is not known whether the tool ran.")
    if "hold" in body:
        lines.append(f"A person has to approve it: hold {body['hold']['id']}, until {body['hold']['expires_at']}.")
    if "retry_after_seconds" in body:
        lines.append(f"Not before {body['retry_after_seconds']:g} seconds from now.")
    lines.append(NEXT_STEPS[code])
    return "\n".join(lines)


def _own_error(request_id: str | int, fault: bytes) -> Reply:
    """The tool server's own error, as it came."""
    if b"\n" in fault or b"\r" in fault:
        fault = fault.replace(b"\r", b" ").replace(b"\n", b" ")
    try:
        code = orjson.loads(fault).get("code")
    except (orjson.JSONDecodeError, AttributeError):
        return error(request_id, INTERNAL_ERROR, "The tool server answered with an error that is not one")
    body = b'{"jsonrpc":"2.0","id":' + orjson.dumps(request_id) + b',"error":' + fault + b"}"
    return Reply(body, code if isinstance(code, int) and code else INTERNAL_ERROR)


# --- what 2026-07-28 adds ---


def with_result_type(value: bytes) -> bytes:
    """The result with its required `resultType`: as it is where it has one, else as `complete`, spliced in.

    The two usual places of the member are seen without parsing. The bytes `"resultType"` with both quotes bare cannot
    stand inside a JSON string, so where they occur nowhere, the member is absent.
    """
    if value.endswith(_COMPLETE_LAST) or value.startswith(_RESULT_TYPE_FIRST):
        return value
    if b'"resultType"' in value:
        members = orjson.loads(value)
        if isinstance(members, dict) and isinstance(members.get("resultType"), str):
            return value
    return _spliced(value, b'"resultType":"complete"')


def with_cache_hints(value: bytes, *, private: bool) -> bytes:
    """A cacheable result with `ttlMs` and `cacheScope`; never `public` where several principals are served.

    A tool server's `public` says that its content is the same for everyone. That everyone may see it is not for the tool
    server to say: a shared cache between two agents would show one of them what the policy denies it.
    """
    members = orjson.loads(value)
    if not isinstance(members, dict) or members.get("resultType", "complete") != "complete":
        return value
    if private and members.get("cacheScope") == "public":
        return orjson.dumps({**members, "cacheScope": "private"} | ({} if "ttlMs" in members else {"ttlMs": 0}))
    added = b""
    if "cacheScope" not in members:
        added = b'"cacheScope":"private"'
    if "ttlMs" not in members:
        added = b'"ttlMs":0' + (b"," + added if added else b"")
    return _spliced(value, added) if added else value


def _spliced(value: bytes, members: bytes) -> bytes:
    """`members` put first into the object `value`."""
    start = value.index(b"{") + 1
    rest = value[start:]
    return value[:start] + members + (b"" if rest.lstrip()[:1] == b"}" else b",") + rest


# --- the published schema ---


def refusal_schema() -> dict[str, Any]:
    """The JSON Schema of `gateway/refusal`, made from the closed set of codes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "refusal.schema.json",
        "title": "gateway/refusal",
        "description": "Why a call did not end with an answer of its tool server: `_meta` of a tool error, `data` of an error.",
        "type": "object",
        "required": ["code", "stage", "reason", "call_id", "executed"],
        "additionalProperties": False,
        "properties": {
            "code": {"oneOf": [{"const": code.value, "description": text} for code, text in CODES.items()]},
            "stage": {"type": "string", "description": "The stage that ended the call; `forward` on its way."},
            "reason": {"type": "string", "description": "What happened, in words for the model."},
            "call_id": {"type": "string", "description": "As in `gateway calls show ID`."},
            "executed": {"enum": ["no", "yes", "unknown"], "description": "Whether it ran at its tool server."},
            "decision_id": {"type": "string"},
            "policy": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                },
                "description": "Each policy rule that denied.",
            },
            "rule": {"type": "string", "description": "The quota, interrupt or breaker that refused, by name."},
            "retry_after_seconds": {"type": "number", "minimum": 0},
            "hold": {
                "type": "object",
                "required": ["id", "expires_at"],
                "additionalProperties": False,
                "properties": {"id": {"type": "string"}, "expires_at": {"type": "string", "format": "date-time"}},
            },
        },
    }


def schema_text() -> str:
    """The text of `gateway/schemas/refusal.schema.json`."""
    return orjson.dumps(refusal_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


if __name__ == "__main__":  # python -m gateway.edge.wire > gateway/schemas/refusal.schema.json
    sys.stdout.write(schema_text())
