"""The policy's decisions as events of OPA's decision log (openpolicyagent.org/docs/management-decision-logs, `EventV1`).

What reads OPA's own logs reads these: one event for each question that the policy was asked, with the input as it was put
and the result as it came. What recording or export left out is named as OPA's masking names it, by JSON pointers: `erased`
where it is gone, `masked` where another value stands in its place.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from gateway.adapters import records
from gateway.decide.obligations import redact
from gateway.decide.playback import split
from gateway.decide.policy import rfc3339
from gateway.model.recording import Record
from gateway.replay.exporting import Process
from gateway.replay.judging import erased_paths

_DECISION = "gateway/decision"


def decision_paths(policies: Iterable[bytes]) -> dict[str, str]:
    """By the policy's revision: the path of its decision, from the kept policies."""
    found: dict[str, str] = {}
    for content in policies:
        document = orjson.loads(content)
        found[str(document.get("revision", ""))] = str(document.get("decision") or _DECISION)
    return found


def events_of(
    record: Record, process: Process, paths: Mapping[str, str], globs: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The events of one call, in the order in which the policy was asked; none where it was not.

    Args:
        paths: as `decision_paths`.
        globs: what is left out of arguments, and of what an answer sets.
    """
    body = record.body
    command: Mapping[str, Any] = body["command"]
    request: Mapping[str, Any] = record.payloads.get("request") or {}
    decisions: Sequence[Mapping[str, Any]] = request.get("decisions", ())
    gone: Sequence[str] = command["request"]["erased"]
    for number, facts in enumerate(_asked(body["trail"])):
        revision = facts.get("revision") or command["policy_revision"]
        event: dict[str, Any] = {
            "labels": {"app": "mcp-execution-gateway", "id": process.writer, "version": process.version},
            "decision_id": facts["decision_id"],
            "bundles": {"gateway": {"revision": revision}},
            "path": paths.get(revision, _DECISION),
        }
        if command["trace_id"]:
            event["trace_id"] = command["trace_id"]
        lost: list[tuple[str, ...]] = []
        if number < len(decisions):
            decision = decisions[number]
            asked, answer = records.question(decision, request), decision["answer"]
            lost += [("input", *path) for path in erased_paths(decision, gone, number)]
            place = f"decisions.{number}.answer"
            lost += [
                ("result", *split(path.removeprefix(place).removeprefix(".")))
                for path in gone
                if path == place or path.startswith(place + ".")
            ]
            if globs:
                asked, answer, more = _redacted(asked, answer, globs)
                lost += more
            event["input"] = asked
            if answer is not None:
                event["result"] = answer
        else:  # nothing of the question was kept
            lost += [("input",), ("result",)]
        if "error" in facts:
            event["error"] = {"code": "internal_error", "message": facts["error"]}
        masked, erased = _pointers(event, lost)
        if erased:
            event["erased"] = erased
        if masked:
            event["masked"] = masked
        event["requested_by"] = command["principal"]["id"]
        event["timestamp"] = rfc3339(command["time_ns"])
        if "elapsed_us" in facts:
            event["metrics"] = {"timer_rego_query_eval_ns": facts["elapsed_us"] * 1000}
        event["req_id"] = record.seq
        event["custom"] = {"gateway": {"call_id": command["id"], "session_id": command["session_id"]}}
        yield event


def _asked(trail: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The facts of each question, in their order."""
    for step in trail:
        for facts in (step["facts"], step["facts"].get("second")):
            if isinstance(facts, Mapping) and "decision_id" in facts and "revision" in facts:
                yield facts


def _redacted(asked: Any, answer: Any, globs: Sequence[str]) -> tuple[Any, Any, list[tuple[str, ...]]]:
    """Question and answer without what the globs name, and where it was."""
    asked, gone = redact(asked, [*globs, *(f"arguments.{glob.removeprefix('arguments.')}" for glob in globs)])
    lost = [("input", *split(path)) for path in gone]
    if isinstance(answer, dict):
        answer, gone = redact(answer, [*globs, "obligations.*.value"])
        lost += [("result", *split(path)) for path in gone]
    return asked, answer, lost


def _pointers(event: Mapping[str, Any], lost: Sequence[tuple[str, ...]]) -> tuple[list[str], list[str]]:
    """JSON pointers (RFC 6901) of what is masked, and of what is erased."""
    masked: dict[str, None] = {}
    erased: dict[str, None] = {}
    for path in lost:
        value: Any = event
        there: list[str] = []
        for part in path:
            if isinstance(value, str) and there:
                break  # a part of a text that is JSON: the text is what OPA could point at
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, Sequence) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                there = []
                break
            there.append(part)
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in there or path)
        (masked if there else erased)[pointer] = None
    return list(masked), list(erased)
