"""Spans rebuilt from records, in OTLP's JSON (opentelemetry-proto, `ExportTraceServiceRequest`).

Names, attributes and ids are those that a running gateway gives its spans (`gateway.telemetry`): the trace is the agent's own
where it sent one, and span ids follow from the call's id, so that a record exported twice, or besides live spans, gives the
same spans again.

    tools/call NAME                    SERVER    the call, from its arrival to its outcome
      gateway.stage resolve …          INTERNAL  each stage that it went through
      tools/call NAME                  CLIENT    the forward; its id is the one that the tool server got in `traceparent`
        gateway.try 1 …                CLIENT    each try at the tool server
        events: what the tool server asked and told within the call

Arguments and results are in no span. Ids are hex, and 64-bit integers are strings, as OTLP's JSON has them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.model.recording import Record
from gateway.replay.exporting import Process
from gateway.telemetry import call_span_id, call_trace_id, parse_traceparent

_INTERNAL: Final = 1
_SERVER: Final = 2
_CLIENT: Final = 3
"""Kinds of spans, by number."""

_ERROR: Final = 2
"""The status code; an unset one is left out."""


def trace_of(record: Record, process: Process) -> dict[str, Any]:
    """The spans of one call, as an `ExportTraceServiceRequest`."""
    resource = {"service.name": "mcp-execution-gateway", "service.instance.id": record.writer}
    if process.version:
        resource["service.version"] = process.version
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": {"name": "gateway"}, "spans": list(_spans(record))}],
            }
        ]
    }


def _spans(record: Record) -> Iterator[dict[str, Any]]:
    body = record.body
    command: Mapping[str, Any] = body["command"]
    call_id, start = command["id"], command["time_ns"]
    end = start + (body["elapsed_us"] or 0) * 1000
    trace = f"{int(command['trace_id'], 16) if _is_hex(command['trace_id']) else call_trace_id(call_id):032x}"
    root = f"{call_span_id(call_id, 'call'):016x}"
    parent, flags = _parent(record)
    named = command["type"] in ("tool", "prompt") and command["server"]
    name = f"{command['method']} {command['name'] or command['target']}" if named else command["method"]
    word, code, failed = _outcome(record)
    attributes = _call_attributes(command, body, word, code)
    status = {"status": {"code": _ERROR, "message": code or word}} if failed else {}
    common = {"traceId": trace, "flags": flags}
    span: dict[str, Any] = {
        **common,
        "spanId": root,
        "name": name,
        "kind": _SERVER,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(attributes),
        **status,
    }
    if parent:
        span["parentSpanId"] = parent
    if command["logical_id"] != call_id:
        span["links"] = [_link(command["logical_id"], command["trace_id"], "gateway.round")]
    yield span
    at = start
    for number, step in enumerate(body["trail"]):
        until = min(at + step["elapsed_us"] * 1000, max(end, at))
        forwarded = step["stage"] == "forward"
        own = f"{call_span_id(call_id, 'forward' if forwarded else str(number)):016x}"
        facts = {"gateway.stage": step["stage"], "gateway.verdict": step["verdict"]}
        if (decision := step["facts"].get("decision_id")) is not None:
            facts |= {"gateway.decision_id": decision, "gateway.policy_revision": step["facts"].get("revision", "")}
        stage: dict[str, Any] = {
            **common,
            "spanId": own,
            "parentSpanId": root,
            "name": name if forwarded else f"gateway.stage {step['stage']}",
            "kind": _CLIENT if forwarded else _INTERNAL,
            "startTimeUnixNano": str(at),
            "endTimeUnixNano": str(until),
            "attributes": _attributes(attributes if forwarded else facts),
        }
        if (forwarded and failed) or step["verdict"] in ("crashed", "refuse"):
            stage["status"] = {"code": _ERROR, "message": code or word}
        if forwarded and (events := list(_events(record))):
            stage["events"] = events
        yield stage
        if forwarded:
            yield from _tries(body, own, common, call_id, until)
        at = until


def _tries(
    body: Mapping[str, Any], parent: str, common: Mapping[str, Any], call_id: str, end: int
) -> Iterator[dict[str, Any]]:
    """A span for each try at the tool server; one ends where the next begins."""
    tries: Sequence[Mapping[str, Any]] = (body["attempt"] or {}).get("tries", ())
    starts = [_nanoseconds(one["at"]) for one in tries if "at" in one]
    if len(starts) != len(tries):
        return
    for number, (one, start) in enumerate(zip(tries, starts, strict=True), start=1):
        until = starts[number] if number < len(starts) else end
        ended = one.get("ended", "")
        span: dict[str, Any] = {
            **common,
            "spanId": f"{call_span_id(call_id, f'try {number}'):016x}",
            "parentSpanId": parent,
            "name": f"gateway.try {number}",
            "kind": _CLIENT,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(max(start, until)),
            "attributes": _attributes({"gateway.try.number": number, "gateway.try.ended": ended}),
        }
        if ended != "answered":
            span["status"] = {"code": _ERROR, "message": str(one.get("message", ended))}
        yield span


def _events(record: Record) -> Iterator[dict[str, Any]]:
    """What the tool server asked of the client and told it within the call: methods and times, no content."""
    exchange = record.payloads.get("exchange") or {}
    start = record.body["command"]["time_ns"]
    found = [("gateway.ask", one) for one in exchange.get("asks", ())]
    found += [("gateway.notification", one) for one in exchange.get("notifications", ())]
    for name, one in sorted(found, key=lambda each: each[1].get("at", 0.0)):
        at = _nanoseconds(one["at"]) if "at" in one else start
        yield {
            "timeUnixNano": str(at),
            "name": name,
            "attributes": _attributes({"mcp.method.name": one.get("method", "")}),
        }


def _parent(record: Record) -> tuple[str, int]:
    """The span of the agent's that the call belongs to, and the trace's flags; "" where it sent none.

    Where the gateway itself had spans, `_meta` names its own forward's, and the agent's is not recorded.
    """
    command = record.body["command"]
    found = parse_traceparent(((record.payloads.get("request") or {}).get("meta") or {}).get("traceparent"))
    if found is None:
        return "", 1
    own = {call_span_id(command[name], "forward") for name in ("id", "logical_id")}
    return "" if found[1] in own else f"{found[1]:016x}", found[2] & 1


def _outcome(record: Record) -> tuple[str, str, bool]:
    """The word for it as live spans have it, the gateway's code, and whether the span is an error."""
    outcome = record.body["outcome"]
    match outcome["kind"]:
        case "completed":
            if not outcome["is_error"]:
                return "completed", "", False
            response = record.payloads.get("response") or {}
            return ("server_error" if "error" in response else "tool_error"), "", True
        case "refused":
            return "refused", outcome["code"], True
        case "held":
            return "held", "hold.pending", False
        case _:
            return ("in_doubt" if outcome["in_doubt"] else "failed"), outcome["code"], True


def _call_attributes(command: Mapping[str, Any], body: Mapping[str, Any], word: str, code: str) -> dict[str, Any]:
    client = command["client"]
    found: dict[str, Any] = {
        "mcp.method.name": command["method"],
        "mcp.session.id": command["session_id"],
        "gateway.call.id": command["id"],
        "gateway.agent": command["principal"]["id"],
        "gateway.outcome": word,
        "gateway.executed": body["executed"],
        "gateway.risk": command["risk"],
        "gateway.policy_revision": command["policy_revision"],
    }
    if client["protocol_version"]:
        found["mcp.protocol.version"] = client["protocol_version"]
    if client["transport"]:
        found["network.transport"] = "pipe" if client["transport"] == "stdio" else "tcp"
    if command["server"]:
        found["gateway.server"] = command["server"]
    target = command["name"] or command["target"]
    match command["type"]:
        case "tool":
            found |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": target}
        case "prompt":
            found["gen_ai.prompt.name"] = target
        case "resource":
            found["mcp.resource.uri"] = target
        case _:
            pass
    outcome = body["outcome"]
    for name, key in (("gateway.decision_id", "decision_id"), ("gateway.rule", "rule"), ("gateway.hold.id", "hold_id")):
        if outcome.get(key):
            found[name] = outcome[key]
    if command["replay_of"]:
        found["gateway.replay_of"] = command["replay_of"]
    if body["recovered"]:
        found["gateway.recovered"] = True
    if word != "completed":
        found["error.type"] = code or word
    return found


def _link(call_id: str, trace_id: str, what: str) -> dict[str, Any]:
    trace = int(trace_id, 16) if _is_hex(trace_id) else call_trace_id(call_id)
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{call_span_id(call_id, 'call'):016x}",
        "attributes": _attributes({"gateway.link": what}),
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": str(value)}


def _is_hex(text: str) -> bool:
    return len(text) == 32 and all(character in "0123456789abcdef" for character in text) and bool(text.strip("0"))


def _nanoseconds(at: float) -> int:
    return round(at * 1e6) * 1000
