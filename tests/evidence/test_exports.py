"""Exports in the forms that other programs read: OTLP's JSON, OPA's decision log, and with parts left out."""

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.adapters.journal import open_journal
from gateway.cli.frame import Negative, gateway
from gateway.model.call import Client, Principal, Risk
from gateway.model.recording import CallFilter, Record, RecordingSettings
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Held, Refused, Step
from gateway.ports import Attempt
from gateway.replay.exporting import exported
from tests.journal.building import AT, TestClock, a_call, begin, end

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "session.jsonl"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gateway, ["--config", "/nowhere/servers.toml", *arguments])


def asked(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "subject": {"id": "claude"}, "arguments": arguments, "meta": {}, "context": {}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed call with a trace, a try and a notification, a refusal, a tool's error, and a held call."""
    import anyio

    path = tmp_path_factory.mktemp("exports") / "gateway.db"

    def steps(call_id: str, arguments: dict[str, Any], answer: Any, last: str) -> list[Step]:
        facts = {
            "question": asked(arguments), "answer": answer, "revision": "r1", "decision_id": f"{call_id}.1",
            "elapsed_us": 113,
        }  # fmt: skip
        return [
            Step(stage="resolve", verdict="proceed", elapsed_us=10),
            Step(stage="authorize", verdict=last, elapsed_us=200, facts=facts),
        ]

    async def write() -> None:
        settings = RecordingSettings(redact=("pin",))
        async with open_journal(path, clock=TestClock(), settings=settings) as journal:
            policy = {"version": 1, "revision": "r1", "decision": "team/verdict", "modules": {}, "data": {}}
            await journal.keep("policy", json.dumps(policy).encode())
            arguments = {"text": "hello", "pin": "73-19-pin", "email": "ann@example.org"}
            call = a_call(
                Risk.WRITE, arguments, principal=Principal(id="claude"), trace_id=TRACE,
                meta={"traceparent": f"00-{TRACE}-{SPAN}-01"},
                client=Client(name="cc", protocol_version="2025-11-25", transport="stdio"),
            )  # fmt: skip
            attempt = Attempt(sent=True)
            attempt.tries += [
                {"at": AT + 0.001, "ended": "server.unavailable", "message": "refused"},
                {"at": AT + 0.002, "ended": "answered"},
            ]
            attempt.notifications.append(
                {"at": AT + 0.003, "method": "notifications/progress", "params": {"progress": 1}}
            )
            forward = Step(stage="forward", verdict="forwarded", elapsed_us=900)
            judged = steps(call.id, arguments, {"allow": True}, "proceed")
            await journal.begin(begin(call, steps=judged))
            result = b'{"content":[{"type":"text","text":"{\\"email\\":\\"ann@example.org\\"}"}]}'
            await journal.end(
                end(
                    call,
                    Completed(result=result),
                    attempt=attempt,
                    steps=[*judged, forward],
                )
            )
            denied = a_call(arguments={"text": "no"})
            refusal = Refused(
                stage="authorize", code=Code.POLICY_DENIED, message="no", decision_id=f"{denied.id}.1", rule=None
            )
            answer = {"allow": False, "deny": [{"code": "x", "message": "no"}]}
            await journal.end(
                end(denied, refusal, began=False, steps=steps(denied.id, {"text": "no"}, answer, "refuse"))
            )
            failing = a_call()
            await journal.begin(begin(failing))
            await journal.end(end(failing, Completed(result=b'{"content":[],"isError":true}'), steps=[forward]))
            held = a_call(Risk.WRITE)
            await journal.end(end(held, Held(hold_id="h-1", expires_at=AT, message="wait"), began=False))

    anyio.run(write)
    return path


def export(store: Path, *arguments: str) -> bytes:
    done = run("log", "export", "--recording", str(store), *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout_bytes


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


def as_protobuf(value: Any) -> Any:
    """OTLP's JSON as protobuf's own JSON mapping has it: ids are base64 there."""
    match value:
        case dict():
            return {
                key: base64.b64encode(bytes.fromhex(member)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else as_protobuf(member)
                for key, member in value.items()
            }
        case list():
            return [as_protobuf(each) for each in value]
        case _:
            return value


def traces(data: bytes) -> Iterator[list[dict[str, Any]]]:
    """The spans of each line."""
    for line in data.splitlines():
        (resource,) = json.loads(line)["resourceSpans"]
        (scope,) = resource["scopeSpans"]
        yield scope["spans"]


def values(span: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


@pytest.mark.rule("evidence.export-otlp")
@pytest.mark.parametrize("source", ["own", "example"])
def test_every_line_is_a_request_that_protobuf_reads(store: Path, source: str) -> None:
    json_format = pytest.importorskip("google.protobuf.json_format", reason="opentelemetry-proto is not installed")
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    lines = export(store if source == "own" else EXAMPLE, "--format", "otlp").splitlines()
    assert len(lines) == (4 if source == "own" else 12)
    for line in lines:
        request = json_format.ParseDict(as_protobuf(json.loads(line)), service.ExportTraceServiceRequest())
        spans = request.resource_spans[0].scope_spans[0].spans
        (root,) = [span for span in spans if span.kind == 2]
        for span in spans:
            assert len(span.trace_id) == 16
            assert len(span.span_id) == 8
            assert span.trace_id == root.trace_id
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert len({span.span_id for span in spans}) == len(spans)
        known = {span.span_id for span in spans}
        assert all(span is root or span.parent_span_id in known for span in spans)


@pytest.mark.rule("evidence.export-otlp")
def test_a_call_is_one_trace_in_the_agents_own_with_a_span_for_each_stage_and_try(store: Path) -> None:
    (spans,) = [found for found in traces(export(store, "--format", "otlp")) if found[0]["traceId"] == TRACE]
    root, *others = spans
    assert root["parentSpanId"] == SPAN
    assert root["name"] == "tools/call echo"
    assert values(root).items() >= {
        "mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "echo",
        "mcp.protocol.version": "2025-11-25", "network.transport": "pipe", "gateway.outcome": "completed",
        "gateway.agent": "claude",
    }.items()  # fmt: skip
    assert [span["name"] for span in others] == [
        "gateway.stage resolve", "gateway.stage authorize", "tools/call echo", "gateway.try 1", "gateway.try 2",
    ]  # fmt: skip
    forward = others[2]
    assert {span["parentSpanId"] for span in others[:3]} == {root["spanId"]}
    assert {span["parentSpanId"] for span in others[3:]} == {forward["spanId"]}
    assert [event["name"] for event in forward["events"]] == ["gateway.notification"]
    assert others[3]["status"] == {"code": 2, "message": "refused"}
    assert "status" not in others[4]


@pytest.mark.rule("evidence.export-otlp")
def test_what_did_not_succeed_says_so_in_its_span(store: Path) -> None:
    roots = [spans[0] for spans in traces(export(store, "--format", "otlp"))]
    assert [values(root)["gateway.outcome"] for root in roots] == ["completed", "refused", "tool_error", "held"]
    assert [values(root).get("error.type") for root in roots] == [None, "policy.denied", "tool_error", "hold.pending"]
    assert [root.get("status", {}).get("code") for root in roots] == [None, 2, 2, None]


@pytest.mark.rule("evidence.export-otlp")
def test_rebuilt_spans_have_the_ids_of_the_live_ones(store: Path) -> None:
    from gateway.telemetry import call_span_id

    for spans in traces(export(store, "--format", "otlp")):
        call_id = values(spans[0])["gateway.call.id"]
        assert spans[0]["spanId"] == f"{call_span_id(call_id, 'call'):016x}"
        for span in spans:
            if span["kind"] == 3 and "gateway.try" not in span["name"]:
                assert span["spanId"] == f"{call_span_id(call_id, 'forward'):016x}"


# --- OPA's decision log -----------------------------------------------------------------------------------------------


@pytest.mark.rule("evidence.export-opa")
def test_the_decision_log_has_an_event_for_each_question_as_opa_writes_it(store: Path) -> None:
    allowed, denied = json.loads(export(store, "--format", "opa"))
    assert allowed["path"] == "team/verdict"
    assert allowed["bundles"] == {"gateway": {"revision": "r1"}}
    assert allowed["input"]["arguments"] == {"text": "hello", "pin": "***", "email": "ann@example.org"}
    assert allowed["result"] == {"allow": True}
    assert allowed["masked"] == ["/input/arguments/pin"]
    assert allowed["trace_id"] == TRACE
    assert allowed["requested_by"] == "claude"
    assert allowed["metrics"] == {"timer_rego_query_eval_ns": 113_000}
    assert denied["result"]["deny"] == [{"code": "x", "message": "no"}]
    for event in (allowed, denied):
        assert event["decision_id"].endswith(".1")
        assert set(event["labels"]) == {"app", "id", "version"}
        assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
        assert isinstance(event["req_id"], int)


@pytest.mark.rule("evidence.export-opa")
def test_what_is_left_out_of_a_decision_log_is_named_by_pointers(store: Path) -> None:
    whole = export(store, "--format", "opa", "--redact", "email")
    assert b"ann@example.org" not in whole
    assert json.loads(whole)[0]["masked"] == ["/input/arguments/pin", "/input/arguments/email"]


@pytest.mark.rule("evidence.export-opa")
def test_decisions_of_which_no_question_was_kept_are_logged_as_erased(tmp_path: Path) -> None:
    lines = [line for line in EXAMPLE.read_bytes().splitlines(keepends=True) if b'"role":"request"' not in line]
    (tmp_path / "short.jsonl").write_bytes(b"".join(lines))
    events = json.loads(export(tmp_path / "short.jsonl", "--format", "opa"))
    assert len(events) == 12
    assert all(event["erased"] == ["/input", "/result"] and "input" not in event for event in events)


# --- parts left out ---------------------------------------------------------------------------------------------------


@pytest.mark.rule("evidence.export-redact")
@pytest.mark.parametrize("glob", ["email", "**.email", "arguments.email"])
def test_what_an_export_leaves_out_is_in_none_of_its_bytes_and_its_records_still_verify(
    store: Path, tmp_path: Path, glob: str
) -> None:
    globs = [glob] if glob.startswith("**") else [glob, "email"]
    path = tmp_path / "redacted.jsonl"
    path.write_bytes(export(store, *(part for each in globs for part in ("--redact", each))))
    assert b"ann@example.org" not in path.read_bytes()
    assert b"73-19-pin" not in path.read_bytes()
    found = run("log", "verify", str(path), "--json")
    assert isinstance(found.exception, Negative)
    said = json.loads(found.stdout)
    assert said["fault"] is None
    assert said["erased"] == 2  # the request and the response


@pytest.mark.rule("evidence.export-redact")
def test_what_was_left_out_is_shown_as_such_and_neither_played_nor_judged(tmp_path: Path) -> None:
    from gateway.adapters.recordings import read_recording, recorded_calls

    path, copy = tmp_path / "redacted.jsonl", tmp_path / "copy.db"
    path.write_bytes(export(EXAMPLE, "--redact", "**.*timezone"))
    assert b'timezone\\":\\"Asia/Tokyo' in EXAMPLE.read_bytes()
    assert b'timezone\\":\\"Asia/Tokyo' not in path.read_bytes()
    assert run("log", "import", str(path), "--store", str(copy)).exit_code == 0
    assert export(copy) == path.read_bytes()
    with path.open("rb") as lines:
        calls = recorded_calls(read_recording(lines).calls)
    first = calls[0]
    assert first.unknown == ("arguments.timezone",)
    assert first.outcome is None
    assert "erased" in first.unplayable
    for source in (path, copy):
        page = run("calls", "show", first.id, "--recording", str(source)).stdout
        assert "erased: params.arguments.timezone" in page
        table = run(
            "policy", "backtest", "--recording", str(source), "--policies", str(EXAMPLE.parent / "candidate"), "--json"
        )
        assert len(json.loads(table.stdout)["undecidable"]) > 0
    assert json.loads(run("log", "verify", str(copy), "--json").stdout)["fault"] is None


def test_a_glob_that_cannot_be_read_is_wrong_usage(store: Path) -> None:
    assert run("log", "export", "--recording", str(store), "--redact", "a..b").exit_code == 2


def test_an_export_to_a_file_is_its_owners_alone_and_can_be_told_as_json(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"x" * 1_000_000)
    told = run(
        "log", "export", "--recording", str(store), "--format", "otlp", "--agent", "claude", "-o", str(target), "--json"
    )
    assert json.loads(told.stdout) == {
        "file": str(target), "format": "otlp", "lines": 1, "bytes": target.stat().st_size
    }  # fmt: skip
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_record_of_a_killed_call_has_a_span_too() -> None:
    from gateway.replay.exporting import Process
    from gateway.replay.spans import trace_of

    with EXAMPLE.open("rb") as lines:
        entry = next(json.loads(line) for line in lines if b'"type":"call"' in line)
    body = {**entry["body"], "attempt": None, "elapsed_us": None, "recovered": True}
    record = Record(seq=1, sha256="", data=b"", writer="w", type="call", at=entry["at"], body=body)
    found = trace_of(record, Process(seq=0, writer="w", version=""))
    spans = found["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert values(spans[0])["gateway.recovered"] is True
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)


def test_formats_are_a_closed_set(store: Path) -> None:
    from gateway.adapters.sqlite import read_only

    with read_only(store) as raw, pytest.raises(ValueError, match="no format"):
        list(exported(raw, "xml", CallFilter()))
