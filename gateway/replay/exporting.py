"""What was recorded in the forms that other programs read: JSON Lines, OpenTelemetry, OPA's decision log."""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.adapters import queries, records
from gateway.decide.obligations import redact
from gateway.model.recording import CallFilter, Record

Format = Literal["jsonl", "otlp", "opa"]

_DOCUMENTS = (
    "structuredContent",
    "content.*.text",
    "content.*.resource.text",
    "contents.*.text",
    "messages.*.content.text",
)
"""Where a result holds documents of its own, from whose roots globs are meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a gateway, as its start was recorded."""

    seq: int
    """Of that record; 0 where it is not known."""
    writer: str
    version: str


def exported(
    raw: sqlite3.Connection, format: str, filter: CallFilter | None = None, globs: Sequence[str] = ()
) -> Iterator[bytes]:
    """The store's lines in one of the formats, without their ends.

    Args:
        format: `jsonl`: records with payloads and snapshots (`queries.export_lines`). `otlp`: a line is an
            `ExportTraceServiceRequest` in OTLP's JSON, with the spans of one call, as the collector's otlpjsonfile receiver
            takes them. `opa`: one JSON array of decision log events, an event a line.
        filter: only calls that meet it.
        globs: what is left out of arguments and results.

    Raises:
        GlobError: a glob cannot be read.
    """
    match format:
        case "jsonl":
            yield from redacted_lines(queries.export_lines(raw, filter), globs)
        case "otlp":
            from gateway.replay import spans

            for record, process in _calls(raw, filter):
                yield orjson.dumps(spans.trace_of(record, process))
        case "opa":
            from gateway.replay import decision_log

            paths = decision_log.decision_paths(queries.read_snapshots(raw, "policy"))
            yield b"["
            separator = b""
            for record, process in _calls(raw, filter):
                for event in decision_log.events_of(record, process, paths, globs):
                    if separator:
                        yield separator
                    separator = records.dump(event) + b","
            if separator:
                yield separator[:-1]
            yield b"]"
        case _:
            raise ValueError(f"{format!r} is no format of an export")


def _calls(raw: sqlite3.Connection, filter: CallFilter | None) -> Iterator[tuple[Record, Process]]:
    """The calls that meet the filter, each with the process that recorded it."""
    starts = [
        Process(seq=each.seq, writer=each.writer, version=str(each.body.get("gateway", "")))
        for each in queries.read_records(raw, types=["process.started"])
    ]
    for record in queries.read_records(raw, filter=filter or CallFilter()):
        place = bisect_right(starts, record.seq, key=lambda start: start.seq)
        yield record, starts[place - 1] if place else Process(seq=0, writer=record.writer, version="")


# --- parts left out -------------------------------------------------------------------------------------------------


def redacted_lines(lines: Iterable[bytes], globs: Sequence[str]) -> Iterator[bytes]:
    """Lines of an export, without what the globs name in arguments and results.

    A payload of which something is left out becomes `{"redacted": {seq, role, data, erased}}`: it can no longer be compared
    with the hash in its record, so it has no salt, by which what is left out could be guessed. The records themselves stay
    as they are, and verify.
    """
    for line in lines:
        if not globs or not line.startswith(b'{"payload":'):
            yield line
            continue
        payload = orjson.loads(line)["payload"]
        value, erased = redacted(payload["role"], records.load(payload["data"].encode()), globs)
        if not erased:
            yield line
            continue
        kept = {"seq": payload["seq"], "role": payload["role"], "data": records.dump(value).decode(), "erased": erased}
        yield records.dump({"redacted": kept})


def redacted(role: str, value: Any, globs: Sequence[str]) -> tuple[Any, list[str]]:
    """A payload's content without what the globs name, and the paths of what is gone.

    A glob is meant from the root of the arguments, or of a result's document; one that begins with `**` anywhere.
    """
    everywhere: list[str] = []
    for glob in globs:
        anchored = not glob.startswith("**")
        everywhere.append(glob)
        match role:
            case "request":
                plain = glob.removeprefix("arguments.")
                roots = ("params.arguments", "forwarded", "decisions.*.question.arguments")
                everywhere.extend(f"{root}.{plain}" for root in roots)
            case "response" if anchored:
                plain = glob.removeprefix("result.")
                everywhere.extend((f"result.{plain}", *(f"result.{document}.{plain}" for document in _DOCUMENTS)))
            case "exchange" if anchored:
                # what a tool server asks or tells may repeat anything, at any depth
                everywhere.append(f"**.{glob.removeprefix('arguments.').removeprefix('result.')}")
            case _:
                pass
    if role == "request":
        # an argument that the policy set would come back this way
        everywhere.append("decisions.*.answer.obligations.*.value")
    value, erased = redact(value, everywhere)
    return value, list(erased)
