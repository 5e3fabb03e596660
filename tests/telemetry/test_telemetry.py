"""Log lines, metrics and spans, made from events as the engine publishes them."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.secrets import SecretRegistry
from gateway.model.call import TargetType
from gateway.model.events import AuthenticationRefused, CallEnded, CallStarted, ConfigurationChanged, ServerChanged
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Step
from gateway.telemetry import (
    CallLog,
    LineWriter,
    LogHandler,
    Metrics,
    Tracing,
    canonical_line,
    outcome_code,
    outcome_word,
    parse_traceparent,
    tracing_from_environment,
)
from tests import building

STEPS = (
    Step(stage="resolve", verdict="proceed", elapsed_us=10),
    Step(stage="authorize", verdict="proceed", elapsed_us=100),
    Step(stage="forward", verdict="forwarded", elapsed_us=2000),
)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ended(outcome: Outcome | None = None, steps: tuple[Step, ...] = STEPS, **changes: Any) -> CallEnded:
    call = building.call(building.tool(), {"text": "SECRET-ARGUMENT"}, **changes)
    result = Completed(result=b'{"content":[{"type":"text","text":"SECRET-RESULT"}]}')
    return CallEnded(at=1.0, call=call, outcome=outcome or result, steps=steps, elapsed_seconds=0.0025, started_ns=1)


@pytest.mark.parametrize(
    ("outcome", "word", "code"),
    [
        (Completed(result=b'{"content":[]}'), "completed", ""),
        (Completed(result=b'{"content":[],"isError":true}'), "tool_error", ""),
        (Completed(result=b'{"content":[{"text":"\\"isError\\": true"}],"isError":false}'), "completed", ""),
        (Completed(error=b'{"code":-32000,"message":"x"}'), "server_error", ""),
        (Refused(stage="authorize", code=Code.POLICY_DENIED, message="no"), "refused", "policy.denied"),
        (Held(hold_id="h", expires_at=1.0, message="m"), "held", "hold.pending"),
        (Failed(code=Code.SERVER_LOST, message="m", in_doubt=True), "in_doubt", "server.lost"),
        (Failed(code=Code.SERVER_UNAVAILABLE, message="m", in_doubt=False), "failed", "server.unavailable"),
    ],
)
def test_every_outcome_has_its_word_and_code(outcome: Outcome, word: str, code: str) -> None:
    assert (outcome_word(outcome), outcome_code(outcome)) == (word, code)


# --- log lines ---


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, LogHandler, io.StringIO]]:
    stream = io.StringIO()
    registry = SecretRegistry()
    registry.add('hush"\\hush')
    handler = LogHandler(stream, as_json=True, registry=registry)
    log = logging.Logger("test", level=logging.INFO)
    log.addHandler(handler)
    yield log, handler, stream
    handler.close()


@pytest.mark.rule("telemetry.one-line-a-call")
def test_a_call_is_one_json_line_without_arguments_and_results(
    lines: tuple[logging.Logger, LogHandler, io.StringIO],
) -> None:
    _, handler, stream = lines
    CallLog(handler).receive(ended())
    handler.close()
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert said["message"] == "call"
    assert said["call_id"] == "call-1"
    assert (said["agent"], said["server"], said["tool"], said["outcome"]) == ("local", "fixture", "echo", "completed")
    assert said["elapsed_ms"] == 2.5
    assert said["stages_us"] == {"resolve": 10, "authorize": 100, "forward": 2000}
    assert "SECRET" not in line


def test_a_refusal_s_line_says_where_and_why() -> None:
    refused = Refused(stage="authorize", code=Code.POLICY_DENIED, message="no", decision_id="d1")
    line = canonical_line(ended(refused, STEPS[:2]))
    assert (line["outcome"], line["code"], line["stage"], line["decision_id"], line["executed"]) == (
        "refused", "policy.denied", "authorize", "d1", "no",
    )  # fmt: skip


@pytest.mark.rule("telemetry.redacted")
def test_known_secrets_are_erased_wherever_they_stand_in_a_line(
    lines: tuple[logging.Logger, LogHandler, io.StringIO],
) -> None:
    log, handler, stream = lines
    secret = 'hush"' + "\\hush"
    log.info("message %s", secret, extra={"fields": {"a": [f"x {secret}"], secret: 1}})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("failed")
    handler.close()
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(said) == 2
    assert json.dumps(secret)[1:-1] not in stream.getvalue()
    assert said[0]["message"] == "message ***"
    assert "ValueError: ***" in said[1]["exception"]


def test_line_breaks_in_what_others_wrote_make_no_second_line(
    lines: tuple[logging.Logger, LogHandler, io.StringIO],
) -> None:
    log, handler, stream = lines
    log.info('a\n{"level":"forged"}')
    handler.close()
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.rule("telemetry.never-blocks")
def test_a_reader_of_stderr_that_stops_reading_loses_lines_and_blocks_nobody() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        writer = LineWriter(stream, size=100)
        for _ in range(2000):
            writer.put(lambda: "x" * 1000)
        assert writer.dropped > 0
        finish = threading.Thread(target=writer.close, args=(10,))
        finish.start()
        text = ""
        while "were lost" not in text:
            text += reader.readline()
        finish.join(10)
    assert f"{writer.dropped} log lines were lost" in text


# --- metrics ---


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.rule("telemetry.metrics")
def test_calls_are_counted_by_server_tool_outcome_and_code() -> None:
    metrics = Metrics()
    metrics.receive(CallStarted(at=1.0, call=building.call(building.tool())))
    metrics.receive(CallStarted(at=1.0, call=building.call(building.tool())))
    metrics.receive(ended())
    found = samples(metrics)
    labels = (("code", ""), ("outcome", "completed"), ("server", "fixture"), ("tool", "echo"))
    assert found["gateway_calls_total", labels] == 1
    assert found["gateway_calls_in_flight", ()] == 1
    assert found["gateway_call_seconds_count", (("outcome", "completed"), ("server", "fixture"))] == 1
    assert found["gateway_stage_seconds_count", (("stage", "authorize"),)] == 1


def test_links_reloads_and_refused_keys_are_counted_and_gauges_asked_when_scraped() -> None:
    metrics = Metrics()
    lag = [0.5]
    metrics.watch("gateway_journal_lag_seconds", "How old the oldest unwritten entry is.", lambda: lag[0])
    metrics.receive(ServerChanged(at=1, server="git", state="available"))
    metrics.receive(ServerChanged(at=1, server="docs", state="unavailable", reason="x"))
    metrics.receive(ConfigurationChanged(at=1, accepted=False, sha256="0"))
    metrics.receive(AuthenticationRefused(at=1, reason="wrong"))
    lag[0] = 1.5
    found = samples(metrics)
    assert found["gateway_server_available", (("server", "git"),)] == 1
    assert found["gateway_server_available", (("server", "docs"),)] == 0
    assert found["gateway_config_changes_total", (("accepted", "false"),)] == 1
    assert found["gateway_auth_refused_total", (("reason", "wrong"),)] == 1
    assert found["gateway_journal_lag_seconds", ()] == 1.5


def test_names_that_an_agent_makes_up_make_no_new_series() -> None:
    metrics = Metrics()
    refused = Refused(stage="resolve", code=Code.REQUEST_INVALID, message="unknown")
    for number in range(50):
        call = building.call(None, target=f"made-up-{number}", name=f"made-up-{number}")
        metrics.receive(CallEnded(at=1, call=call, outcome=refused, steps=(), elapsed_seconds=0, started_ns=1))
        uri = building.call(building.tool(), type=TargetType.RESOURCE, name=f"file:///{number}")
        metrics.receive(
            CallEnded(at=1, call=uri, outcome=Completed(result=b"{}"), steps=(), elapsed_seconds=0, started_ns=1)
        )
    assert len([key for key in samples(metrics) if key[0] == "gateway_calls_total"]) == 2


# --- traces ---


def traced(event: CallEnded, meta: dict[str, Any]) -> tuple[dict[str, Any], list[ReadableSpan]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    forwarded = dict(tracing.continued(meta, event.call.id))
    tracing.receive(event)
    return forwarded, list(exporter.get_finished_spans())


@pytest.mark.rule("telemetry.traces")
def test_the_agent_s_trace_goes_on_through_the_gateway_to_the_tool_server() -> None:
    meta = {"traceparent": PARENT, "tracestate": "a=b", "baggage": "c=d", "other": 1}
    forwarded, spans = traced(ended(), meta)
    by_name = {span.name: span for span in spans}
    server = next(span for span in spans if span.kind is SpanKind.SERVER)
    client = next(span for span in spans if span.kind is SpanKind.CLIENT)
    assert server.name == "tools/call echo"
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {"0af7651916cd43dd8448eb211c80319c"}
    assert client.parent is not None
    assert server.context is not None
    assert client.context is not None
    assert client.parent.span_id == server.context.span_id
    assert forwarded["traceparent"] == f"00-{client.context.trace_id:032x}-{client.context.span_id:016x}-01"
    assert (forwarded["tracestate"], forwarded["baggage"], forwarded["other"]) == ("a=b", "c=d", 1)
    assert {"gateway.stage resolve", "gateway.stage authorize"} <= set(by_name)
    assert dict(server.attributes or {}) | {} == {
        "mcp.method.name": "tools/call",
        "mcp.session.id": "session-1",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "gateway.call.id": "call-1",
        "gateway.agent": "local",
        "gateway.outcome": "completed",
        "gateway.server": "fixture",
    }
    assert server.end_time is not None
    assert server.start_time is not None
    assert server.end_time - server.start_time == 2_500_000


def test_without_an_agent_s_trace_the_gateway_begins_one_and_drops_what_cannot_belong_to_it() -> None:
    for meta in ({}, {"traceparent": "garbage", "tracestate": "a=b"}, {"traceparent": 7}):
        forwarded, spans = traced(ended(), meta)
        server = next(span for span in spans if span.kind is SpanKind.SERVER)
        client = next(span for span in spans if span.kind is SpanKind.CLIENT)
        assert server.parent is None
        assert client.context is not None
        assert parse_traceparent(forwarded["traceparent"]) == (client.context.trace_id, client.context.span_id, 1)
        assert "tracestate" not in forwarded


def test_failures_are_marked_with_the_code_and_tool_errors_as_the_conventions_say() -> None:
    refused = Refused(stage="authorize", code=Code.POLICY_DENIED, message="no")
    for outcome, error in ((refused, "policy.denied"), (Completed(result=b'{"isError":true}'), "tool_error")):
        _, spans = traced(ended(outcome, STEPS[:2]), {})
        server = next(span for span in spans if span.kind is SpanKind.SERVER)
        assert server.status.status_code is StatusCode.ERROR
        assert (server.attributes or {})["error.type"] == error
        assert not any(span.kind is SpanKind.CLIENT for span in spans)


@pytest.mark.parametrize(
    "value",
    [None, 1, "", "00-0-0-0", PARENT.upper(), "ff" + PARENT[2:], PARENT + "-x", "00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01"],
)  # fmt: skip
def test_what_is_no_traceparent(value: object) -> None:
    assert parse_traceparent(value) is None


def test_traces_are_on_only_where_the_environment_asks_for_them() -> None:
    assert tracing_from_environment({}) is None
    assert tracing_from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}) is None
    assert tracing_from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"}) is None
