"""Recorded sessions as they are read back: from the lines of an export, whether a file's or the store's own.

What a record says of its payloads is checked against them: a recording that was changed is not played.
"""

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import orjson

from gateway.adapters import records
from gateway.decide.playback import RecordedCall, Said
from gateway.model.errors import GatewayError
from gateway.model.recording import RECORD_VERSION, CallFilter
from gateway.model.refusal import Code
from gateway.model.value import replace
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused

MAX_LINE_BYTES = 64 * 1024 * 1024


class RecordingError(GatewayError):
    """A recording that cannot be used; the text names the line."""


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One `call` record with its payloads, as bytes."""

    seq: int
    at: float
    body: Mapping[str, Any]
    payloads: dict[str, bytes] = field(default_factory=dict)
    """By role, exact."""

    @property
    def command(self) -> Mapping[str, Any]:
        """What was asked."""
        command: Mapping[str, Any] = self.body["command"]
        return command

    def request(self) -> dict[str, Any] | None:
        """The request's payload, parsed; None where it is not there."""
        found = self.payloads.get("request")
        return None if found is None else records.load(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The calls and snapshots of an export."""

    calls: Sequence[CallRecord]
    """In the order of the chain."""
    snapshots: Mapping[str, tuple[str, bytes]]
    """SHA-256 to kind and content."""

    def sessions(self) -> dict[str, list[CallRecord]]:
        """The calls of each session, in the order of the chain."""
        found: dict[str, list[CallRecord]] = {}
        for call in self.calls:
            found.setdefault(call.command["session_id"], []).append(call)
        return found

    def gateway_name(self, configuration_sha256: str) -> str:
        """What the gateway called itself, by the kept configuration; `gateway` where none is kept."""
        kind, content = self.snapshots.get(configuration_sha256, ("", b""))
        if kind == "configuration":
            try:
                return str(tomllib.loads(content.decode()).get("gateway", {}).get("name", "gateway"))
            except (ValueError, AttributeError):
                pass
        return "gateway"


def read_recording(lines: Iterable[bytes], *, session: str | None = None) -> Recording:
    """Read the lines of an export (`queries.export_lines`, `gateway log export`).

    Args:
        session: only the calls of this session (its id, or the beginning of it).

    Raises:
        RecordingError: a line cannot be read, is of a newer version, or is not what its record says.
    """
    calls: list[CallRecord] = []
    snapshots: dict[str, tuple[str, bytes]] = {}
    current: CallRecord | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = records.load(line)
            if "snapshot" in entry:
                kept = entry["snapshot"]
                content = kept["content"].encode()
                if records.digest(content) != kept["sha256"]:
                    raise RecordingError(f"line {number}: the {kept['kind']} is not the one whose hash it has")
                snapshots[kept["sha256"]] = kept["kind"], content
            elif "payload" in entry:
                if current is not None and entry["payload"]["seq"] == current.seq:
                    _add_payload(current, entry["payload"], number)
            elif "redacted" in entry:
                left = entry["redacted"]
                if current is not None and left["seq"] == current.seq:
                    with_erased({"body": current.body}, left["role"], left["erased"])
                    current.payloads[left["role"]] = left["data"].encode()
            elif "type" in entry:
                if entry["version"] > RECORD_VERSION:
                    raise RecordingError(f"line {number}: version {entry['version']} is newer than this gateway knows")
                current = None
                if entry["type"] == "call":
                    found = CallRecord(seq=entry["seq"], at=entry["at"], body=entry["body"])
                    if session is None or found.command["session_id"].startswith(session):
                        current = found
                        calls.append(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordingError(f"line {number}: it is no line of a recording ({type(error).__name__})") from None
    return Recording(calls=calls, snapshots=snapshots)


def _add_payload(call: CallRecord, payload: Mapping[str, Any], number: int) -> None:
    role, data = payload["role"], payload["data"].encode()
    said = commitment(call.body, role)
    salted = hashlib.sha256(bytes.fromhex(payload["salt"]) + data).hexdigest()
    if said is None or said["sha256"] != salted:
        raise RecordingError(f"line {number}: the {role} of record {call.seq} is not what the record says")
    call.payloads[role] = data


def commitment(body: Mapping[str, Any], role: str) -> Mapping[str, Any] | None:
    """What a call's record says of a payload: `{sha256, size, kept, erased}`."""
    found: Mapping[str, Any] | None = body["command"]["request"] if role == "request" else body.get(role)
    return found


def with_erased(entry: Mapping[str, Any], role: str, erased: Sequence[str]) -> Mapping[str, Any]:
    """A call's parsed record, changed so that it says of a payload what an export left out of it besides."""
    said = commitment(entry["body"], role)
    if isinstance(said, dict):
        said["erased"] = [*said["erased"], *map(str, erased)]
    return entry


# --- as a tape -------------------------------------------------------------------------------------------------------


def recorded_calls(found: Iterable[CallRecord]) -> list[RecordedCall]:
    """The agent's requests of one session, in the order in which they were received.

    A call that waited in-band for a person's approval was judged several times and is one request: it ends as the last did,
    and began as the first. Rounds of a call that needed input are requests of their own, as they were on the wire.
    """
    ordered = sorted(found, key=lambda each: (each.command["received_at"], each.seq))
    parked: dict[str, RecordedCall] = {}
    """By hold: the requests that may still be waiting for it."""
    requests: dict[str, RecordedCall] = {}
    for each in ordered:
        call = _recorded(each)
        waited = each.command.get("waited_for")
        before = parked.pop(waited, None) if waited is not None else None
        if before is not None:
            del requests[before.id]
            told = _told(before)
            call = replace(call, received_at=before.received_at, outcome=_as(call.outcome, told))
        if isinstance(call.outcome, Held):
            parked[call.outcome.hold_id] = call
        requests[call.id] = call
    in_order = sorted(requests.values(), key=lambda call: (call.received_at, call.seq))
    return [replace(call, number=number) for number, call in enumerate(in_order, start=1)]


def _told(call: RecordedCall) -> str:
    """The call id that the agent was told."""
    outcome = call.outcome
    return (outcome.call_id if isinstance(outcome, Refused | Held | Failed) else None) or call.id


def _as(outcome: Outcome | None, call_id: str) -> Outcome | None:
    return replace(outcome, call_id=call_id) if isinstance(outcome, Refused | Held | Failed) else outcome


def _recorded(each: CallRecord) -> RecordedCall:
    body, command = each.body, each.command
    request = each.request()
    unknown: list[str] = []
    params: Mapping[str, Any] = {}
    said = commitment(body, "request") or {}
    if request is None:
        unknown.append("")
    else:
        params = request["params"]
        unknown.extend(
            path.removeprefix("params").removeprefix(".")
            for path in said.get("erased", ())
            if path == "params" or path.startswith("params.")
        )
    outcome, why = _outcome(each)
    elapsed = body["elapsed_us"]
    received = command["received_at"]
    return RecordedCall(
        id=command["id"],
        number=0,
        method=command["method"],
        target=command["target"],
        params=params,
        unknown=tuple(unknown),
        tool=f"{command['server']}/{command['name']}" if command["server"] else command["target"],
        server=command["server"],
        risk=command["risk"],
        received_at=received,
        ended_at=each.at if elapsed is None else received + elapsed / 1e6,
        outcome=outcome,
        unplayable=why,
        said=() if outcome is None else _said(each),
        view_sha256=command.get("view_sha256") or "",
        seq=each.seq,
    )


def _outcome(each: CallRecord) -> tuple[Outcome | None, str]:
    """The outcome as the agent got it, or why that cannot be said."""
    body = each.body
    found = body["outcome"]
    call_id = each.command["id"]
    match found["kind"]:
        case "completed":
            return _answer(each)
        case "refused":
            return Refused(
                stage=found["stage"],
                code=Code(found["code"]),
                message=found["message"],
                executed=body["executed"],
                retry_after_seconds=found["retry_after_seconds"],
                policy=tuple(found["policy"]),
                rule=found["rule"],
                decision_id=found["decision_id"],
                data=found.get("error"),
                call_id=call_id,
            ), ""
        case "held":
            return Held(
                hold_id=found["hold_id"],
                expires_at=found["expires_at"],
                message=found["message"],
                running=found.get("running", False),
                decision_id=found["decision_id"],
                call_id=call_id,
            ), ""
        case _:
            if body["recovered"]:
                return None, "the gateway was stopped while it was on its way, so the agent had no answer"
            return Failed(
                code=Code(found["code"]),
                message=found["message"],
                in_doubt=found["in_doubt"],
                sent=body["executed"] == "unknown",
                retry_after_seconds=found["retry_after_seconds"],
                call_id=call_id,
            ), ""


def _answer(each: CallRecord) -> tuple[Outcome | None, str]:
    for role, what in (("response", "its result"), ("exchange", "what the tool server said in mid-call")):
        said = commitment(each.body, role)
        if said is None:
            continue
        if role == "exchange" and _kept_from_agent(each):
            continue
        match said["kept"]:
            case "hash":
                return None, f"{what} was larger than max_payload_bytes, and only its hash was recorded"
            case "none":
                return None, f"{what} was not recorded"
            case _:
                pass
        if said["erased"]:
            return None, f"parts of it were erased before it was recorded ({', '.join(said['erased'][:5])})"
        if role not in each.payloads:
            return None, f"{what} was erased from the recording"
    data = each.payloads.get("response", b"")
    for member in (b"result", b"error"):
        head = b'{"' + member + b'":'
        if data.startswith(head):
            raw = data[len(head) : -1]
            return (Completed(result=raw) if member == b"result" else Completed(error=raw)), ""
    return None, "its result was not recorded"


def _kept_from_agent(each: CallRecord) -> bool:
    """The policy wanted the result redacted: what the tool server said in mid-call was not relayed."""
    return any(obligation["id"] == "redact_result" for obligation in each.command["obligations"])


def _said(each: CallRecord) -> tuple[Said, ...]:
    data = each.payloads.get("exchange")
    if data is None:
        return ()
    exchange = records.load(data)
    start = each.command["received_at"]
    found: list[Said] = []
    if not _kept_from_agent(each):
        found.extend(
            Said(at=one.get("at", start), method=one["method"], params=one["params"] or {})
            for one in exchange["notifications"]
        )
    found.extend(
        Said(at=one.get("at", start), method=one["method"], params=one["params"] or {}, answer=one["answer"])
        for one in exchange["asks"]
        if one["answer"] is not None
    )
    return tuple(sorted(found, key=lambda each: each.at))


def views(recording: Recording) -> dict[str, tuple[Mapping[str, Any], bytes]]:
    """Each kept view (parsed) by its hash, with the document of its catalogue; views whose catalogue is gone are left out."""
    found: dict[str, tuple[Mapping[str, Any], bytes]] = {}
    for sha256, (kind, content) in recording.snapshots.items():
        if kind != "view":
            continue
        view = orjson.loads(content)
        catalogue = recording.snapshots.get(view["catalogue_sha256"])
        if catalogue is not None:
            found[sha256] = view, catalogue[1]
    return found


# --- without reading everything ---------------------------------------------------------------------------------------


def snapshots_of(lines: Iterable[bytes], kind: str) -> list[bytes]:
    """The contents of an export's snapshots of a kind.

    Raises:
        RecordingError: a line cannot be read.
    """
    found: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith(b'{"snapshot":'):
            try:
                kept = orjson.loads(line)["snapshot"]
                if kept["kind"] == kind:
                    found.append(kept["content"].encode())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordingError(f"line {number}: it is no line of a recording ({type(error).__name__})") from None
    return found


def requests_of(lines: Iterable[bytes], filter: CallFilter) -> Iterator[tuple[bytes, bytes | None]]:
    """The calls of an export that meet the filter, in its order: each record's line, and its request's exact bytes.

    Raises:
        RecordingError: a line cannot be read, or a request is not what its record says.
    """
    record: CallRecord | None = None
    line_of = b""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip(b"\r\n")
        try:
            if line.startswith(b'{"payload":'):
                payload = orjson.loads(line)["payload"]
                if record is not None and payload["seq"] == record.seq and payload["role"] == "request":
                    _add_payload(record, payload, number)
            elif line.startswith(b'{"redacted":'):
                left = orjson.loads(line)["redacted"]
                if record is not None and left["seq"] == record.seq and left["role"] == "request":
                    line_of = records.dump(with_erased(orjson.loads(line_of), "request", left["erased"]))
                    record.payloads["request"] = left["data"].encode()
            elif line and not line.startswith(b'{"snapshot":'):
                if record is not None:
                    yield line_of, record.payloads.get("request")
                    record = None
                entry = orjson.loads(line)
                if entry.get("type") == "call":
                    if entry["version"] > RECORD_VERSION:
                        raise RecordingError(
                            f"line {number}: version {entry['version']} is newer than this gateway knows"
                        )
                    found = CallRecord(seq=entry["seq"], at=entry["at"], body=entry["body"])
                    if chosen(found.command, filter):
                        record, line_of = found, line
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordingError(f"line {number}: it is no line of a recording ({type(error).__name__})") from None
    if record is not None:
        yield line_of, record.payloads.get("request")


def chosen(command: Mapping[str, Any], filter: CallFilter) -> bool:
    """Whether a call is one of those chosen by agent, tool, session and time."""
    tool = f"{command['server']}/{command['name']}" if command["server"] else command["target"]
    at = command["received_at"]
    return (
        (filter.agent is None or fnmatchcase(command["principal"]["id"], filter.agent))
        and (filter.tool is None or fnmatchcase(tool, filter.tool))
        and (filter.session is None or command["session_id"].startswith(filter.session))
        and (filter.since is None or at >= filter.since)
        and (filter.until is None or at < filter.until)
    )
