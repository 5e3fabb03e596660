"""Records as bytes: what is written of a call, what is erased before, and how one record is chained to the next.

Everything here is a function of its arguments; the journal decides when to write. The form is described in
`gateway.model.recording`, the schemas are in `gateway/schemas/`.
"""

import functools
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeGuard, assert_never

import msgspec
import orjson

from gateway.config.secrets import REGISTRY, SecretRegistry
from gateway.decide.obligations import GlobError, Unredactable, redact
from gateway.decide.playback import join, split
from gateway.model.call import Call, HoldReason, Obligation, TargetType
from gateway.model.ids import random16
from gateway.model.recording import RECORD_VERSION, RecordingSettings
from gateway.model.refusal import Code
from gateway.model.value import Value, replace
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Step, executed
from gateway.ports import Attempt, End

Kept = Literal["whole", "hash", "none"]
"""Of a payload: its bytes, its hash and size alone (too large), or its size alone (not recorded by configuration)."""

Role = Literal["request", "response", "exchange"]

ROLES: Final[tuple[Role, ...]] = ("request", "response", "exchange")

COMPRESS_BYTES: Final = 16_384
"""Payloads from this size on are stored compressed."""

REDACTED: Final = "redacted"
"""In place of an encoding, in a store made of an export: what the export left of a payload. Its salt is the list of the paths
that were left out, as JSON; it is no evidence."""

_BIG_INTEGER = re.compile(rb"-[0-9]{19}|[0-9]{20}")
_IS_ERROR = re.compile(rb'"isError"\s*:\s*true')


class Payload(Value, frozen=True, kw_only=True):
    """What lies beside a record, and what the record says of it."""

    role: Role
    salt: bytes
    data: bytes | None
    """The exact bytes that were hashed; None where only the hash is kept."""
    commitment: bytes
    """JSON of the record's own field: `{sha256, size, kept, erased}`."""

    def columns(self) -> tuple[bytes, str, bytes | None]:
        """Salt, encoding and stored bytes."""
        return (self.salt, *packed(self.data))


class EncodedCommand(Value, frozen=True, kw_only=True):
    """The part of a call's record that is known when the call begins."""

    command: bytes
    """JSON of `body.command`."""
    request: Payload
    trail: bytes
    """JSON of the steps until then."""
    steps: int
    """How many they are."""


class EncodedCall(Value, frozen=True, kw_only=True):
    """A whole call record, but for its place in the chain."""

    body: bytes
    payloads: tuple[Payload, ...] = ()
    """At most one of each role."""
    columns: tuple[Any, ...]
    """The row of `payloads`, but for `seq`: salt, encoding and bytes of each of `ROLES`; nulls where nothing is kept."""
    summary: tuple[Any, ...]
    """The row of `calls`, but for `seq`."""

    @property
    def stored_bytes(self) -> int:
        """About how much is to be stored."""
        return len(self.body) + sum(len(data) for data in self.columns[2::3] if data is not None)


class CallFacts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a record says of a call as it begins, taken out of the call: cheap to make, and to write as MessagePack."""

    id: str
    logical_id: str
    replay_of: str | None
    waited_for: str | None
    session_id: str
    trace_id: str
    about: tuple[Any, ...]
    """What most calls have in common, see `_about`."""
    judged: tuple[Any, ...]
    """What it was judged by, see `_judged`."""
    why: str | None
    idempotency_key: str | None
    received_at: float
    time_ns: int
    params: Any
    meta: Any
    received: Any
    """Its arguments, as received."""
    forwarded: Any
    """Its arguments, as forwarded; None where they are the same."""
    changed: bool
    obligations: Sequence[Obligation] = ()
    hold_reasons: Sequence[HoldReason] = ()


def facts_of(call: Call) -> CallFacts:
    """What the record of a call says of its begin."""
    entry, client, principal, snapshot = call.entry, call.client, call.principal, call.snapshot
    changed = not _same(call.arguments, call.received_arguments)
    return CallFacts(
        id=call.id,
        logical_id=call.logical_id,
        replay_of=call.replay_of,
        waited_for=call.waited_for,
        session_id=call.session_id,
        trace_id=call.trace_id,
        about=(
            call.method,
            call.type,
            call.target,
            call.server,
            call.name,
            call.risk,
            entry is not None and entry.idempotent,
            principal.id,
            principal.roles,
            client.name,
            client.version,
            client.protocol_version,
            client.transport,
        ),
        judged=(
            snapshot.configuration_sha256,
            snapshot.catalogue.revision,
            call.view_sha256 or None,
            snapshot.policy.revision,
            entry.definition_sha256 if entry is not None else None,
        ),
        why=call.why,
        idempotency_key=call.idempotency_key,
        received_at=call.received_at,
        time_ns=call.time_ns,
        params=call.params,
        meta=call.meta,
        received=call.received_arguments,
        forwarded=call.arguments if changed else None,
        changed=changed,
        obligations=call.obligations,
        hold_reasons=call.hold_reasons,
    )


def recalled(facts: CallFacts) -> CallFacts:
    """Facts that were read back, as they were: what were tuples are so again."""
    return msgspec.structs.replace(
        facts, about=tuple(tuple(part) if isinstance(part, list) else part for part in facts.about)
    )


def may_wait(facts: CallFacts, settings: RecordingSettings) -> bool:
    """Whether the call may be written as it is, to be encoded later: nothing of it has to be erased, or be left out."""
    return settings.arguments and not (settings.redact or facts.obligations or facts.hold_reasons)


def may_hold_secrets(data: bytes) -> bool:
    """Whether a value of the configuration's references may stand in these bytes, in which texts are plain UTF-8."""
    return REGISTRY.may_be_in_raw(data)


def encode_command(facts: CallFacts, steps: Sequence[Step], settings: RecordingSettings) -> EncodedCommand:
    """The command as received and as forwarded, redacted, with the policy's questions and answers so far."""
    request = _request(facts, steps, settings)
    encoded = b'%s,%s,%s,%s,"obligations":%s,"hold_reasons":%s}' % (
        dump(
            {
                "id": facts.id,
                "logical_id": facts.logical_id,
                "replay_of": facts.replay_of,
                "waited_for": facts.waited_for,
                "session_id": facts.session_id,
                "trace_id": facts.trace_id,
            }
        )[:-1],
        _about(facts.about),
        dump(
            {
                "why": facts.why,
                "idempotency_key": facts.idempotency_key,
                "received_at": facts.received_at,
                "time_ns": facts.time_ns,
            }
        )[1:-1],
        _judged(facts.judged),
        _obligations(facts.obligations),
        _hold_reasons(facts.hold_reasons),
    )
    encoded = without_secrets(encoded)[0]
    return EncodedCommand(
        command=encoded[:-1] + b',"request":' + request.commitment + b"}",
        request=request,
        trail=encode_trail(steps),
        steps=len(steps),
    )


@functools.lru_cache(1024)
def _about(values: tuple[Any, ...]) -> bytes:
    method, type, target, server, name, risk, idempotent, principal, roles, client, version, protocol, transport = (
        values
    )
    return dump(
        {
            "method": method,
            "type": type,
            "target": target,
            "server": server,
            "name": name,
            "risk": risk,
            "idempotent": idempotent,
            "principal": {"id": principal, "roles": roles},
            "client": {"name": client, "version": version, "protocol_version": protocol, "transport": transport},
        }
    )[1:-1]


@functools.lru_cache(256)
def _judged(values: tuple[Any, ...]) -> bytes:
    names = ("configuration_sha256", "catalogue_revision", "view_sha256", "policy_revision", "definition_sha256")
    return dump(dict(zip(names, values, strict=True)))[1:-1]


def _obligations(obligations: Sequence[Obligation]) -> bytes:
    if not obligations:
        return b"[]"
    return dump(
        [
            {"id": obligation.id, "paths": obligation.paths, "path": obligation.path, "max_bytes": obligation.max_bytes}
            for obligation in obligations
        ]
    )


def _hold_reasons(reasons: Sequence[HoldReason]) -> bytes:
    if not reasons:
        return b"[]"
    return dump(
        [
            {
                "code": reason.code,
                "reason": reason.reason,
                "approvers": reason.approvers,
                "distinct": reason.distinct,
                "source": reason.source,
            }
            for reason in reasons
        ]
    )


def encode_trail(steps: Sequence[Step]) -> bytes:
    """The trail without what belongs to the request's payload."""
    kept = [replace(step, facts=_chain_facts(step.facts)) if "question" in step.facts else step for step in steps]
    try:
        encoded = _encode_steps(kept)
    except (TypeError, ValueError, OverflowError, RecursionError):  # what JSON does not have
        encoded = dump(
            [
                {
                    "stage": step.stage,
                    "verdict": step.verdict,
                    "elapsed_us": step.elapsed_us,
                    "facts": step.facts,
                }
                for step in kept
            ]
        )
    return without_secrets(encoded)[0]


def encode_body(body: Any) -> bytes:
    """What a record says, as JSON, without the values of the configuration's references."""
    return without_secrets(dump(body))[0]


def without_secrets(data: bytes) -> tuple[bytes, Sequence[str]]:
    """JSON text without the values of the configuration's references, and the paths of the texts that held one.

    Without a match the bytes are as before. They are looked through, and parsed only where a value may stand in them.

    Raises:
        ValueError, RecursionError: it may hold one, and cannot be parsed.
    """
    if not REGISTRY.may_be_in(data):
        return data, ()
    erased: list[str] = []
    value = _without_secrets(load(data), (), erased)
    return (dump(value), erased) if erased else (data, ())


def _without_secrets(value: Any, path: tuple[str, ...], erased: list[str]) -> Any:
    match value:
        case str():
            if (text := REGISTRY.redact(value)) != value:
                erased.append(join(path))
            return text
        case dict():
            found = {}
            for key, member in value.items():
                shown = _without_secrets(key, path, erased)
                found[shown] = _without_secrets(member, (*path, shown), erased)
            return found
        case list():
            return [_without_secrets(member, (*path, str(at)), erased) for at, member in enumerate(value)]
        case _:
            return value


def _longer(begun: EncodedCommand, steps: Sequence[Step]) -> bytes:
    """The trail, of which the beginning is encoded already."""
    more = encode_trail(steps[begun.steps :])
    if begun.steps == 0:
        return more
    return begun.trail if more == b"[]" else b"%s,%s" % (begun.trail[:-1], more[1:])


def _columns(payloads: Sequence[Payload]) -> tuple[Any, ...]:
    columns: list[Any] = [None] * 9
    for payload in payloads:
        if payload.salt:
            place = ROLES.index(payload.role) * 3
            columns[place : place + 3] = payload.columns()
    return tuple(columns)


def _chain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a decision without question and answer: those repeat what the agent sent and can be erased with it."""
    kept = {key: fact for key, fact in facts.items() if key not in ("question", "answer")}
    for member in ("second", "shadow"):
        if _is_mapping(inner := kept.get(member)):
            kept[member] = _chain_facts(inner)
    return kept


def encode_end(end: End, settings: RecordingSettings, begun: EncodedCommand | None = None) -> EncodedCall:
    """The record of a call that has its outcome.

    Args:
        begun: what was encoded at its begin, so that the request is written as it was judged and hashed once.
    """
    command = begun or encode_command(facts_of(end.call), end.steps, settings)
    payloads = [command.request]
    response = _response(end.call, end.outcome, settings)
    if response is not None:
        payloads.append(response)
    exchange = _exchange(end.call, end.attempt, settings)
    if exchange is not None:
        payloads.append(exchange)
    ran = executed(end.outcome)
    word, code, outcome = _outcome(end.outcome)
    body = _body(
        command.command,
        _longer(command, end.steps),
        response,
        exchange,
        {
            "attempt": _attempt(end.attempt),
            "outcome": outcome,
            "executed": ran,
            "elapsed_us": end.elapsed_us,
            "recovered": False,
            "writes": [write.kind for write in end.writes],
        },
    )
    if not command.request.commitment.endswith(b'"erased":[]}'):
        body = _without_erased(body, end.call, settings)
    call = end.call
    summary = (
        call.id,
        call.received_at,
        call.principal.id,
        call.session_id,
        REGISTRY.redact(call.client.name),
        call.method,
        REGISTRY.redact(_tool(call.server, call.name, call.target)),
        call.risk,
        word,
        code,
        ran,
        isinstance(end.outcome, Failed) and end.outcome.in_doubt,
        end.elapsed_us,
        False,
    )
    return EncodedCall(body=body, payloads=tuple(payloads), columns=_columns(payloads), summary=summary)


def encode_recovered(command: bytes, trail: bytes, request: Payload, *, idempotent: bool) -> EncodedCall:
    """The record of a call that a killed process left between begin and end: what is known, and that the rest is not.

    An idempotent call is not in doubt, since it may be repeated; whether it ran is unknown all the same.
    """
    outcome = Failed(
        code=Code.SERVER_LOST,
        message="The gateway was stopped while the call was on its way.",
        in_doubt=not idempotent,
    )
    word, code, fields = _outcome(outcome)
    body = _body(
        command,
        trail,
        None,
        None,
        {
            "attempt": None,
            "outcome": fields,
            "executed": "unknown",
            "elapsed_us": None,
            "recovered": True,
            "writes": [],
        },
    )
    fields = orjson.loads(command)
    summary = (
        fields["id"],
        fields["received_at"],
        fields["principal"]["id"],
        fields["session_id"],
        fields["client"]["name"],
        fields["method"],
        _tool(fields["server"], fields["name"], fields["target"]),
        fields["risk"],
        word,
        code,
        "unknown",
        outcome.in_doubt,
        None,
        True,
    )
    return EncodedCall(body=body, payloads=(request,), columns=_columns((request,)), summary=summary)


def chained(*, type: str, writer: str, seq: int, at: float, prev: str, body: bytes) -> bytes:
    """The bytes of a record. Their SHA-256 is the next record's `prev`."""
    return b'{"version":%d,"type":"%s","writer":"%s","seq":%d,"at":%.6f,"prev":"%s","body":%s}' % (
        RECORD_VERSION,
        type.encode(),
        writer.encode(),
        seq,
        at,
        prev.encode(),
        body,
    )


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return _hashed(data, hashlib.sha256())


def _hashed(data: bytes, sha256: "hashlib._Hash") -> str:
    """The digest in hex, in pieces where there are few: from 2048 bytes on, `update` lets other threads run, and to come back
    costs more than the hash."""
    if len(data) > 16_384:
        sha256.update(data)
    else:
        for start in range(0, len(data), 2047):
            sha256.update(data[start : start + 2047])
    return sha256.hexdigest()


def payload(role: Role, data: bytes, erased: Sequence[str], settings: RecordingSettings) -> Payload:
    """A payload with its salted hash; beyond `max_payload_bytes` the bytes are not kept. Known secrets are erased."""
    try:
        data, secrets = without_secrets(data)
    except (ValueError, RecursionError):
        return _unkept(role, len(data), [*erased, ""])
    if secrets:
        erased = [*map(REGISTRY.redact, erased), *secrets]
    salt = random16()
    kept: Kept = "whole" if len(data) <= settings.max_payload_bytes else "hash"
    commitment = b'{"sha256":"%s","size":%d,"kept":"%s","erased":%s}' % (
        _hashed(data, hashlib.sha256(salt)).encode(),
        len(data),
        kept.encode(),
        dump(erased) if erased else b"[]",
    )
    return Payload(role=role, salt=salt, data=data if kept == "whole" else None, commitment=commitment)


def packed(data: bytes | None) -> tuple[str, bytes | None]:
    """Encoding and bytes to store; `stored` is the way back."""
    if data is not None and len(data) >= COMPRESS_BYTES:
        return "zlib", zlib.compress(data, 1)
    return "", data


def stored(encoding: str, data: bytes) -> bytes:
    """A payload's or snapshot's exact bytes, from how they are stored."""
    return zlib.decompress(data) if encoding == "zlib" else data


def question(decision: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """A policy question as it was put, from a decision of a request payload and the payload it is in."""
    rebuilt = dict(decision["question"])
    match decision.get("arguments"):
        case "received":
            rebuilt["arguments"] = request["params"].get("arguments") or {}
        case "forwarded":
            rebuilt["arguments"] = request["forwarded"] or {}
    if decision.get("meta"):
        rebuilt["meta"] = request["meta"]
    return rebuilt


def dump(value: Any) -> bytes:
    """JSON, compact. Beyond 64 bits integers stay exact; what is no JSON value becomes its text."""
    try:
        return orjson.dumps(value, default=plain)
    except TypeError:
        pass  # keys that are no strings, or integers that are too big
    try:
        return orjson.dumps(value, default=plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(_exact(value), ensure_ascii=True, separators=(",", ":"), default=plain).encode()


# --- parts -------------------------------------------------------------------------------------------------------


def _request(facts: CallFacts, steps: Sequence[Step], settings: RecordingSettings) -> Payload:
    """`{params, meta, forwarded, decisions}`: as received, the arguments as forwarded where they differ, and what was asked
    of the policy and answered by it."""
    changed, raw_received = facts.changed, facts.received
    raw_forwarded = facts.forwarded if changed else raw_received
    clean = _Cleaner(settings.redact + _paths(facts.obligations, "redact_arguments"), "arguments")
    left_out = () if settings.arguments else _asked_for(facts)
    params = {key: value for key, value in facts.params.items() if key != "arguments" and key not in left_out}
    try:
        received = clean(raw_received, "params.arguments") if settings.arguments else None
        forwarded = clean(raw_forwarded, "forwarded") if changed and settings.arguments else None
        meta = clean(facts.meta, "meta")
        params = clean(params, "params")
        decisions: list[dict[str, Any]] = []
        for step, said in _judgements(steps):
            place = f"decisions.{len(decisions)}"
            question = dict(said["question"])
            decision: dict[str, Any] = {"stage": step.stage}
            if "arguments" in question:
                arguments = question.pop("arguments")
                if not settings.arguments:
                    clean.erased.append(f"{place}.question.arguments")
                elif _equal(arguments, raw_received) or _equal(arguments, received):
                    decision["arguments"] = "received"
                elif changed and (_equal(arguments, raw_forwarded) or _equal(arguments, forwarded)):
                    decision["arguments"] = "forwarded"
                else:
                    question["arguments"] = clean(arguments, f"{place}.question.arguments")
            if _equal(question.get("meta"), facts.meta):
                del question["meta"]
                decision["meta"] = True
            decision["question"] = clean(question, f"{place}.question")
            decision["answer"] = clean.answer(said.get("answer"), f"{place}.answer")
            shadow = said.get("shadow")
            if _is_mapping(shadow) and "answer" in shadow:
                decision["shadow"] = clean.answer(shadow["answer"], f"{place}.shadow")
            decisions.append(decision)
    except (Unredactable, GlobError):
        return _unkept("request", len(dump(facts.params)), ["params", "meta", "forwarded", "decisions"])
    if "arguments" in facts.params:
        if settings.arguments:
            params = {**params, "arguments": received}
        else:
            clean.erased.append("params.arguments")
    clean.erased.extend(f"params.{key}" for key in left_out)
    if changed and not settings.arguments:
        clean.erased.append("forwarded")
    content = {"params": params, "meta": meta, "forwarded": forwarded, "decisions": decisions}
    return payload("request", dump(content), clean.erased, settings)


def _asked_for(facts: CallFacts) -> tuple[str, ...]:
    """The members of the params that are arguments by another name, or hold what a person filled in."""
    of_its_own = facts.about[1] == TargetType.METHOD
    return tuple(key for key in facts.params if of_its_own or key in ("argument", "context", "inputResponses"))


def _judgements(steps: Sequence[Step]) -> list[tuple[Step, Mapping[str, Any]]]:
    """What was asked of the policy, with the answers: the facts of each step that hold a question."""
    found: list[tuple[Step, Mapping[str, Any]]] = []
    for step in steps:
        if facts := step.facts:
            if _is_mapping(facts.get("question")):
                found.append((step, facts))
            second = facts.get("second")
            if _is_mapping(second) and _is_mapping(second.get("question")):
                found.append((step, second))
    return found


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Asked often, and of plain dictionaries or nothing."""
    return type(value) is dict or (value is not None and isinstance(value, Mapping))


class _Cleaner:
    """Erases by path globs, and remembers what and where."""

    __slots__ = ("erased", "globs")

    def __init__(self, globs: Sequence[str], root: str) -> None:
        self.globs = tuple(dict.fromkeys((*globs, *(glob.removeprefix(f"{root}.") for glob in globs))))
        self.erased: list[str] = []

    def __call__(self, value: Any, place: str) -> Any:
        """The value without what the globs name."""
        if not self.globs or not value:
            return value
        value, gone = redact(value, self.globs)
        self.erased.extend(f"{place}.{path}" for path in gone)
        return value

    def answer(self, answer: Any, place: str) -> Any:
        """A policy's answer; the values of arguments that it sets go wherever arguments are redacted at all."""
        answer = self(answer, place)
        if not self.globs or not _is_mapping(answer) or not isinstance(answer.get("obligations"), list):
            return answer
        obligations = list(answer["obligations"])
        for index, obligation in enumerate(obligations):
            if isinstance(obligation, Mapping) and obligation.get("id") == "set_argument" and "value" in obligation:
                obligations[index] = {**obligation, "value": None}
                self.erased.append(f"{place}.obligations.{index}.value")
        return {**answer, "obligations": obligations}


_DOCUMENTS = (
    "structuredContent",
    "content.*.text",
    "content.*.resource.text",
    "contents.*.text",
    "messages.*.content.text",
)
"""Where a result holds documents of its own, from whose roots globs are meant (`redact_result`)."""


def _without_erased(body: bytes, call: Call, settings: RecordingSettings) -> bytes:
    """A call's record of which arguments were erased, without their values in what stages and policies said of them.

    A schema's message quotes the value that does not fit, and a policy's may. As in every text, short values are not looked
    for (`SecretRegistry.SHORTEST`).
    """
    erased = SecretRegistry()
    globs = _Cleaner(settings.redact + _paths(call.obligations, "redact_arguments"), "arguments").globs
    for arguments in (call.received_arguments, call.arguments):
        if not arguments or not globs:
            continue
        try:
            _, gone = redact(arguments, globs)
        except (Unredactable, GlobError):
            continue
        for path in gone:
            for value in _texts(_at(arguments, split(path))):
                erased.add(value)
    if not erased.may_be_in(body):
        return body
    record = load(body)
    for step in record["trail"]:
        step["facts"] = erased.redact_value(step["facts"])
    for reason in record["command"]["hold_reasons"]:
        reason["reason"] = erased.redact_value(reason["reason"])
    for member in ("message", "policy", "error"):
        if member in record["outcome"]:
            record["outcome"][member] = erased.redact_value(record["outcome"][member])
    if record["attempt"] is not None:
        record["attempt"]["tries"] = erased.redact_value(record["attempt"]["tries"])
    return dump(record)


def _at(value: Any, path: Sequence[str]) -> Any:
    """What stands at a path, also within a text that is JSON; None where nothing does."""
    for part in path:
        if isinstance(value, str):
            try:
                value = load(value.encode())
            except ValueError:
                return None
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _texts(value: Any) -> Iterator[str]:
    """Every text and number within a value, as text."""
    match value:
        case bool() | None:
            return
        case str():
            yield value
        case int() | float():
            yield str(value)
        case Mapping():
            for member in value.values():
                yield from _texts(member)
        case list() | tuple():
            for member in value:
                yield from _texts(member)
        case _:
            return


def _response(call: Call, outcome: Outcome, settings: RecordingSettings) -> Payload | None:
    """`{result}` or `{error}` as relayed, byte for byte unless something in it was erased."""
    if not isinstance(outcome, Completed):
        return None
    member = "result" if outcome.result is not None else "error"
    raw = outcome.result if outcome.result is not None else outcome.error
    if raw is None:
        return None
    if not settings.results:
        return _unkept("response", len(raw), [member])
    erased: list[str] = []
    if settings.redact:
        globs = list(settings.redact)
        for glob in settings.redact:
            glob = glob.removeprefix("result.")
            globs.extend([glob, *(f"{document}.{glob}" for document in _DOCUMENTS if not glob.startswith("**"))])
        try:
            value, gone = redact(load(raw), globs)
        except (ValueError, RecursionError):
            return _unkept("response", len(raw), [member])
        if gone:
            raw = dump(value)
            erased.extend(f"{member}.{path}" for path in gone)
    return payload("response", b'{"%s":%s}' % (member.encode(), raw), erased, settings)


def _exchange(call: Call, attempt: Attempt | None, settings: RecordingSettings) -> Payload | None:
    """`{asks, notifications}`: what the tool server asked of the client and told it within the call, in order."""
    if attempt is None or not (attempt.asks or attempt.notifications):
        return None
    content: Any = {"asks": attempt.asks, "notifications": attempt.notifications}
    data = dump(content)
    if not settings.results:
        return _unkept("exchange", len(data), ["asks", "notifications"])
    # what a server asks or tells may repeat what it was sent, at any depth
    paths = settings.redact + _paths(call.obligations, "redact_arguments") + _paths(call.obligations, "redact_result")
    clean = _Cleaner([path if path.startswith("**") else f"**.{path}" for path in paths], "result")
    if paths:
        try:
            content = clean(load(data), "")
        except (ValueError, RecursionError):
            return _unkept("exchange", len(data), ["asks", "notifications"])
        if clean.erased:
            data = dump(content)
    return payload("exchange", data, [path.lstrip(".") for path in clean.erased], settings)


def _unkept(role: Role, size: int, erased: Sequence[str]) -> Payload:
    """A payload of which nothing is kept: not even a hash, by which a short one could be guessed."""
    commitment = dump({"sha256": None, "size": size, "kept": "none", "erased": erased})
    return Payload(role=role, salt=b"", data=None, commitment=commitment)


def _tool(server: str, name: str, target: str) -> str:
    return f"{server}/{name}" if server else target


def _outcome(outcome: Outcome) -> tuple[str, str | None, dict[str, Any]]:
    """The word for lists, the code, and the record's field."""
    match outcome:
        case Completed():
            error = outcome.result is None or _is_error(outcome.result)
            return (
                "error" if error else "completed",
                None,
                {
                    "kind": "completed",
                    "source": outcome.source,
                    "is_error": error,
                    "changed": outcome.received is not None,
                },
            )
        case Refused():
            return (
                "refused",
                outcome.code,
                {
                    "kind": "refused",
                    "stage": outcome.stage,
                    "code": outcome.code,
                    "message": outcome.message,
                    "retry_after_seconds": outcome.retry_after_seconds,
                    "policy": outcome.policy,
                    "rule": outcome.rule,
                    "decision_id": outcome.decision_id,
                    "error": outcome.data,
                },
            )
        case Held():
            return (
                "held",
                "hold.pending",
                {
                    "kind": "held",
                    "hold_id": outcome.hold_id,
                    "expires_at": outcome.expires_at,
                    "message": outcome.message,
                    "running": outcome.running,
                    "decision_id": outcome.decision_id,
                },
            )
        case Failed():
            return (
                "failed",
                outcome.code,
                {
                    "kind": "failed",
                    "code": outcome.code,
                    "message": outcome.message,
                    "in_doubt": outcome.in_doubt,
                    "retry_after_seconds": outcome.retry_after_seconds,
                },
            )
        case _:
            assert_never(outcome)


def _attempt(attempt: Attempt | None) -> dict[str, Any] | None:
    if attempt is None:
        return None
    return {
        "sent": attempt.sent,
        "tries": attempt.tries,
        "asks": len(attempt.asks),
        "notifications": len(attempt.notifications),
    }


def _is_error(result: bytes) -> bool:
    """`isError` of a tool's result; parsed only where the bytes make it likely."""
    if _IS_ERROR.search(result) is None:
        return False
    try:
        value = orjson.loads(result)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("isError") is True


def _paths(obligations: Sequence[Obligation], obligation: str) -> tuple[str, ...]:
    if not obligations:
        return ()
    return tuple(path for each in obligations if each.id == obligation for path in each.paths)


def _equal(left: Any, right: Any) -> bool:
    """Whether a question's member is what the request has; a request without arguments is asked about with `{}`."""
    return left is right or _same(left, right) or (left == {} and right is None)


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON: to Python 1, 1.0 and True are the same."""
    return left is right or (type(left) is type(right) and dump(left) == dump(right))


def _body(
    command: bytes, trail: bytes, response: Payload | None, exchange: Payload | None, rest: Mapping[str, Any]
) -> bytes:
    """The body of a call's record, of parts that are JSON already and the rest."""
    return b'{"command":%s,"trail":%s,"response":%s,"exchange":%s,%s' % (
        command,
        trail,
        b"null" if response is None else response.commitment,
        b"null" if exchange is None else exchange.commitment,
        encode_body(rest)[1:],
    )


def load(data: bytes) -> Any:
    """Parsed JSON; integers of any size stay exact."""
    return json.loads(data) if _BIG_INTEGER.search(data) else orjson.loads(data)


def plain(value: Any) -> Any:
    """What serialisers cannot write by themselves, in what they can."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


_encode_steps = msgspec.json.Encoder(enc_hook=plain).encode


def _exact(value: Any) -> Any:
    """A value with string keys, for the standard library's json."""
    if isinstance(value, Mapping):
        return {str(key): _exact(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(member) for member in value]
    return value
