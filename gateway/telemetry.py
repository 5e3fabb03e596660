"""What the gateway tells those who run it: one log line a call, Prometheus metrics, OpenTelemetry spans.

All three subscribe to events (`gateway.model.events`) and are best effort: they run in the publisher's task, so they only
count, append and hand over. Writing to stderr is a thread's work behind a bounded queue, because a reader of stderr that
stops reading must not stop calls. Evidence is the journal's business, never theirs.

No line carries arguments or results, and every known secret is erased from every text (`gateway.config.REGISTRY`).

**Spans** are made when a call has ended, from its trail. What goes into `_meta` towards the tool server has to be known long
before, so span ids are derived from the call's id: `Tracing.continued` puts the id that the forward's span will have into
`traceparent`, and the span that is made later has that id. Names and attributes are those of the MCP semantic conventions
(open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md).
"""

import hashlib
import logging
import os
import re
import sys
import threading
import traceback
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TextIO, assert_never

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily

from gateway.config.secrets import REGISTRY, SecretRegistry
from gateway.model.call import Call, TargetType
from gateway.model.events import (
    AuthenticationRefused,
    CallEnded,
    CallStarted,
    ConfigurationChanged,
    Event,
    ServerChanged,
    StateChanged,
)
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Step, executed

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext

logger = logging.getLogger("gateway.telemetry")

# --- what became of a call, in a few words ------------------------------------------------------------------------


def outcome_word(outcome: Outcome) -> str:
    """`completed`, `tool_error` (the tool's own `isError`), `server_error`, `refused`, `held`, `failed`, `in_doubt`."""
    match outcome:
        case Completed():
            if outcome.error is not None:
                return "server_error"
            return "tool_error" if _is_tool_error(outcome.result) else "completed"
        case Refused():
            return "refused"
        case Held():
            return "held"
        case Failed():
            return "in_doubt" if outcome.in_doubt else "failed"
        case _:
            assert_never(outcome)


def outcome_code(outcome: Outcome) -> str:
    """The refusal's code, `""` where the tool server answered."""
    match outcome:
        case Completed():
            return ""
        case Refused() | Failed():
            return str(outcome.code)
        case Held():
            return "hold.pending"
        case _:
            assert_never(outcome)


def _is_tool_error(result: bytes | None) -> bool:
    # Only a result that mentions it is parsed: most are not errors, and some are megabytes.
    if result is None or b'"isError"' not in result:
        return False
    try:
        parsed = orjson.loads(result)
    except orjson.JSONDecodeError:
        return False
    return isinstance(parsed, dict) and parsed.get("isError") is True


def tool_label(call: Call) -> str:
    """The tool's or prompt's own name for metrics; `""` for what has no bounded set of names (URIs, unknown tools)."""
    return call.name if call.entry is not None and call.type in (TargetType.TOOL, TargetType.PROMPT) else ""


def canonical_line(event: CallEnded) -> dict[str, Any]:
    """Everything that one line says of a call; no arguments, no results."""
    call, outcome = event.call, event.outcome
    line: dict[str, Any] = {
        "call_id": call.id,
        "session_id": call.session_id,
        "agent": call.principal.id,
        "client": call.client.name,
        "transport": call.client.transport,
        "protocol": call.client.protocol_version,
        "method": call.method,
        "server": call.server,
        "tool" if call.type is TargetType.TOOL else "target": call.name or call.target,
        "risk": str(call.risk),
        "outcome": outcome_word(outcome),
        "executed": executed(outcome),
        "elapsed_ms": round(event.elapsed_seconds * 1000, 3),
        "stages_us": {step.stage: step.elapsed_us for step in event.steps},
    }
    if code := outcome_code(outcome):
        line["code"] = code
    if isinstance(outcome, Refused):
        line["stage"] = outcome.stage
        if outcome.rule is not None:
            line["rule"] = outcome.rule
        if outcome.decision_id is not None:
            line["decision_id"] = outcome.decision_id
    if isinstance(outcome, Held):
        line["hold_id"] = outcome.hold_id
    if call.trace_id:
        line["trace_id"] = call.trace_id
    return line


# --- log lines ----------------------------------------------------------------------------------------------------


class LineWriter:
    """Writes lines from a thread of its own. `put` never blocks: a full queue loses the line, counted in `dropped`."""

    GATHER_SECONDS = 0.02
    """Lines of this time are written together: waking the thread for each would cost a call more than the line."""

    def __init__(self, stream: TextIO, size: int = 10_000) -> None:
        self._stream, self._size = stream, size
        self._queue: deque[Callable[[], str]] = deque()
        self._some = threading.Event()
        self._closing = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="gateway-log", daemon=True)
        self._thread.start()

    def put(self, line: Callable[[], str]) -> None:
        """Hand over a line; it is made into text by the thread."""
        if len(self._queue) >= self._size:
            self.dropped += 1
            return
        self._queue.append(line)
        if not self._some.is_set():
            self._some.set()

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, for at most so long."""
        self._closing.set()
        self._some.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        reported = 0
        while True:
            self._some.wait()
            done = self._closing.wait(self.GATHER_SECONDS)
            self._some.clear()
            lines = [self._queue.popleft() for _ in range(len(self._queue))]
            text = "".join(line() + "\n" for line in lines)
            if (lost := self.dropped - reported) > 0:
                reported += lost
                text += f'{{"level":"warning","logger":"gateway.telemetry","message":"{lost} log lines were lost"}}\n'
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                return  # stderr is gone: there is nobody left to tell
            if done and not self._queue:
                return


class LogHandler(logging.Handler):
    """Structured lines on a stream: JSON, or text for a person at a terminal. Secrets are erased."""

    def __init__(self, stream: TextIO, *, as_json: bool, registry: SecretRegistry = REGISTRY) -> None:
        super().__init__()
        self.writer = LineWriter(stream)
        self._as_json, self._registry = as_json, registry

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        fields: dict[str, Any] = {}
        extra = getattr(record, "fields", None)
        if isinstance(extra, dict):
            fields.update(extra)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        at, level, name = record.created, record.levelname.lower(), record.name
        self.writer.put(lambda: self.line(at, level, name, message, fields))

    def line(self, at: float, level: str, name: str, message: str, extra: Mapping[str, Any]) -> str:
        """One line of text, without its end."""
        clock = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        shown: dict[str, Any] = {"time": f"{clock[:23]}Z", "level": level, "logger": name, "message": message, **extra}
        text = orjson.dumps(shown, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8", "replace")
        if self._registry.in_json(text):
            redacted = self._registry.redact_value(shown)
            assert isinstance(redacted, dict)
            shown = redacted
            text = orjson.dumps(shown, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8", "replace")
        if self._as_json:
            return text
        rest = " ".join(
            f"{key}={value}"
            for key, value in shown.items()
            if key not in {"time", "level", "logger", "message", "exception", "stages_us"} and value not in ("", None)
        )
        trace = f"\n{shown['exception']}" if "exception" in shown else ""
        return f"{clock[11:23]} {level.upper():7} {shown['message']}{'  ' + rest if rest else ''}{trace}"

    def close(self) -> None:
        self.writer.close()
        super().close()


def configure_logging(
    stream: TextIO | None = None, *, level: str | None = None, as_json: bool | None = None
) -> LogHandler:
    """Send all log records to stderr, structured. Call once, at the start of a process.

    Args:
        stream: absent: stderr. Never stdout, which is MCP's on stdio.
        level: absent: `$GATEWAY_LOG_LEVEL`, else `info`.
        as_json: absent: `$GATEWAY_LOG_FORMAT` (`json` or `text`), else JSON unless the stream is a terminal.
    """
    target = stream if stream is not None else sys.stderr
    if as_json is None:
        named = os.environ.get("GATEWAY_LOG_FORMAT", "")
        as_json = named == "json" or (named != "text" and not target.isatty())
    handler = LogHandler(target, as_json=as_json)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    wanted = (level or os.environ.get("GATEWAY_LOG_LEVEL") or "info").upper()
    root.setLevel(wanted if wanted in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"} else "INFO")
    for noisy in ("httpx2", "httpcore2", "uvicorn.access", "asyncio", "opentelemetry"):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))
    return handler


class CallLog:
    """One canonical line for each call, and a line for what changes around calls.

    Args:
        handler: where calls' lines go, past the logging machinery, which costs more than the line.
    """

    def __init__(self, handler: LogHandler) -> None:
        self._handler = handler
        self._log = logging.getLogger("gateway.events")

    def receive(self, event: Event) -> None:
        """To be subscribed to events."""
        match event:
            case CallEnded():
                self._handler.writer.put(
                    lambda: self._handler.line(event.at, "info", "gateway.calls", "call", canonical_line(event))
                )
            case ServerChanged():
                level = logging.WARNING if event.state == "unavailable" else logging.INFO
                self._log.log(level, "server.changed", extra={"fields": _fields(event, "server", "state", "reason")})
            case ConfigurationChanged():
                level = logging.INFO if event.accepted else logging.ERROR
                self._log.log(
                    level, "config.changed", extra={"fields": _fields(event, "accepted", "sha256", "message")}
                )
            case AuthenticationRefused():
                self._log.warning("auth.refused", extra={"fields": _fields(event, "reason", "remote")})
            case StateChanged():
                self._log.warning(
                    "state.changed", extra={"fields": _fields(event, "kind", "subject", "state", "facts")}
                )
            case _:
                pass


def _fields(event: Event, *names: str) -> dict[str, Any]:
    return {("detail" if name == "message" else name): getattr(event, name) for name in names}


# --- metrics ------------------------------------------------------------------------------------------------------

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _Durations:
    """A histogram that costs a call half a microsecond: the client library's own costs several, and a call has a dozen.

    Registered as a collector; the samples are made when they are scraped.
    """

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._documentation, self._labels, self._bounds = name, documentation, labels, bounds
        self._of: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        found = self._of.get(labels)
        if found is None:
            found = self._of[labels] = ([0] * (len(self._bounds) + 1), [0.0])
        found[0][bisect_left(self._bounds, seconds)] += 1
        found[1][0] += seconds

    def observe_each(self, steps: Sequence[Step]) -> None:
        """The steps of one call, each by its stage: a function call a step would cost more than what it does."""
        known, bounds = self._of, self._bounds
        for step in steps:
            seconds = step.elapsed_us / 1e6
            if (found := known.get((step.stage,))) is None:
                self.observe((step.stage,), seconds)
            else:
                found[0][bisect_left(bounds, seconds)] += 1
                found[1][0] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, (counts, total) in sorted(self._of.items()):
            running = list(accumulate(counts))
            names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
            family.add_metric(labels, list(zip(names, map(float, running), strict=True)), total[0])
        yield family


class _Watched:
    """A gauge that is read from where its value lies."""

    def __init__(
        self, name: str, documentation: str, label: str, values: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        self._name, self._documentation, self._label, self._values = name, documentation, label, values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=(self._label,))
        for label, value in self._values():
            family.add_metric((label,), value)
        yield family


class Metrics:
    """Prometheus metrics in a registry of their own; `render()` is what `/metrics` answers."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "gateway_calls", "Calls that ended.", ["server", "tool", "outcome", "code"], registry=self.registry
        )
        self._seconds = _Durations(
            "gateway_call_seconds", "From a call's arrival to its outcome.", ("server", "outcome"), _SECONDS
        )
        self._stages = _Durations(
            "gateway_stage_seconds",
            "Time in one stage; `forward` is the tool server's time.",
            ("stage",),
            (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, *_SECONDS),
        )
        for durations in (self._seconds, self._stages):
            self.registry.register(durations)
        self._in_flight = 0
        self.watch("gateway_calls_in_flight", "Calls on their way.", lambda: self._in_flight)
        self._servers = Gauge(
            "gateway_server_available", "1 while a tool server can be called.", ["server"], registry=self.registry
        )
        self._changes = Counter(
            "gateway_server_changes", "Changes of a link's state.", ["server", "state"], registry=self.registry
        )
        self._refused = Counter(
            "gateway_auth_refused", "Requests without a valid key.", ["reason"], registry=self.registry
        )
        self._reloads = Counter(
            "gateway_config_changes", "Changes of the configuration.", ["accepted"], registry=self.registry
        )
        self._states = Counter(
            "gateway_state_changes",
            "Changes of breakers, pauses and quotas.",
            ["kind", "state"],
            registry=self.registry,
        )
        # Finding a child by its labels costs more than counting; the label sets are few.
        self._call_children: dict[tuple[str, str, str, str], Counter] = {}

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A gauge that asks `value` whenever it is scraped (`gateway_journal_lag_seconds`, queue depths)."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def watch_each(
        self, name: str, documentation: str, label: str, values: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """A gauge with a label, whose values are asked for whenever it is scraped."""
        self.registry.register(_Watched(name, documentation, label, values))

    def receive(self, event: Event) -> None:
        """To be subscribed to events."""
        match event:
            case CallStarted():
                self._in_flight += 1
            case CallEnded():
                self._in_flight -= 1
                self._ended(event)
            case ServerChanged():
                self._servers.labels(event.server).set(1 if event.state == "available" else 0)
                self._changes.labels(event.server, event.state).inc()
            case AuthenticationRefused():
                self._refused.labels(event.reason).inc()
            case ConfigurationChanged():
                self._reloads.labels("true" if event.accepted else "false").inc()
            case StateChanged():
                self._states.labels(event.kind, event.state).inc()
            case _:
                pass

    def _ended(self, event: CallEnded) -> None:
        word = outcome_word(event.outcome)
        key = (event.call.server, tool_label(event.call), word, outcome_code(event.outcome))
        child = self._call_children.get(key)
        if child is None:
            child = self._call_children[key] = self._calls.labels(*key)
        child.inc()
        self._seconds.observe((key[0], word), event.elapsed_seconds)
        self._stages.observe_each(event.steps)

    def forget_server(self, server: str) -> None:
        """A removed server is neither up nor down."""
        try:
            self._servers.remove(server)
        except KeyError:
            return

    def render(self) -> bytes:
        """The text that Prometheus scrapes, of type `content_type`."""
        return generate_latest(self.registry)


# --- traces -------------------------------------------------------------------------------------------------------

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parse_traceparent(value: object) -> tuple[int, int, int] | None:
    """(trace id, span id, flags) of a W3C `traceparent`, or None where it is none."""
    if not isinstance(value, str) or not (match := _TRACEPARENT.fullmatch(value)):
        return None
    version, trace, span, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace, 16) or not int(span, 16):
        return None
    return int(trace, 16), int(span, 16), int(flags, 16)


def call_span_id(call_id: str, part: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{call_id}:{part}".encode()).digest()[:8], "big") or 1


def call_trace_id(call_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{call_id}:trace".encode()).digest()[:16], "big") or 1


class Tracing:
    """Spans of calls and their stages, with the agent's trace continued through the gateway.

    Args:
        provider: an SDK provider. Its id generator is replaced by one that gives the ids announced in `_meta`.
    """

    MOST_OPEN = 100_000

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        ids = self

        class CallIds(RandomIdGenerator):
            def generate_span_id(self) -> int:
                return ids._next_span or super().generate_span_id()

            def generate_trace_id(self) -> int:
                return ids._next_trace or super().generate_trace_id()

        self._next_span = self._next_trace = 0
        provider.id_generator = CallIds()
        self._provider = provider
        self._tracer = provider.get_tracer("gateway")
        self._parents: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def continued(self, meta: Mapping[str, Any], call_id: str) -> Mapping[str, Any]:
        """The `_meta` of a call with `traceparent` naming the span that its forward will have.

        To be applied before the call is judged, so that what is judged is what is forwarded. `tracestate` and `baggage`
        stay as they are; a `tracestate` without a valid `traceparent` goes (W3C Trace Context 3.3.1).
        """
        parent = parse_traceparent(meta.get("traceparent"))
        rest = dict(meta)
        if parent is None:
            rest.pop("tracestate", None)
            trace, flags = call_trace_id(call_id), 1
        else:
            trace, flags = parent[0], parent[2]
            self._parents[call_id] = parent
            if len(self._parents) > self.MOST_OPEN:
                self._parents.popitem(last=False)
        rest["traceparent"] = f"00-{trace:032x}-{call_span_id(call_id, 'forward'):016x}-{flags & 1:02x}"
        return rest

    def receive(self, event: Event) -> None:
        """To be subscribed to events."""
        if isinstance(event, CallEnded):
            self._ended(event)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()

    def _ended(self, event: CallEnded) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        call, outcome = event.call, event.outcome
        parent = self._parents.pop(call.id, None)
        context = trace.set_span_in_context(trace.NonRecordingSpan(_context(*parent))) if parent else None
        end = call.time_ns + int(event.elapsed_seconds * 1e9)
        name = f"{call.method} {call.name or call.target}" if tool_label(call) else call.method
        word, code = outcome_word(outcome), outcome_code(outcome)
        attributes = self._attributes(call, word, code)
        self._next_trace, self._next_span = call_trace_id(call.id), call_span_id(call.id, "call")
        try:
            span = self._tracer.start_span(
                name, context=context, kind=SpanKind.SERVER, attributes=attributes, start_time=call.time_ns
            )
            failed = word in {"failed", "in_doubt", "server_error", "tool_error", "refused"}
            if failed:
                span.set_status(Status(StatusCode.ERROR, code or word))
            inside = trace.set_span_in_context(span)
            at = call.time_ns
            for number, step in enumerate(event.steps):
                until = min(at + step.elapsed_us * 1000, end)
                forwarded = step.stage == "forward"
                self._next_span = call_span_id(call.id, "forward" if forwarded else f"{number}")
                child = self._tracer.start_span(
                    name if forwarded else f"gateway.stage {step.stage}",
                    context=inside,
                    kind=SpanKind.CLIENT if forwarded else SpanKind.INTERNAL,
                    attributes=attributes
                    if forwarded
                    else {"gateway.stage": step.stage, "gateway.verdict": step.verdict},
                    start_time=at,
                )
                if (forwarded and failed) or step.verdict == "crashed":
                    child.set_status(Status(StatusCode.ERROR, code or word))
                child.end(until)
                at = until
            span.end(end)
        finally:
            self._next_trace = self._next_span = 0

    @staticmethod
    def _attributes(call: Call, word: str, code: str) -> dict[str, str]:
        found = {
            "mcp.method.name": call.method,
            "mcp.session.id": call.session_id,
            "gateway.call.id": call.id,
            "gateway.agent": call.principal.id,
            "gateway.outcome": word,
        }
        if call.client.protocol_version:
            found["mcp.protocol.version"] = call.client.protocol_version
        if call.client.transport:
            found["network.transport"] = "pipe" if call.client.transport == "stdio" else "tcp"
        if call.server:
            found["gateway.server"] = call.server
        match call.type:
            case TargetType.TOOL:
                found["gen_ai.operation.name"] = "execute_tool"
                found["gen_ai.tool.name"] = call.name or call.target
            case TargetType.PROMPT:
                found["gen_ai.prompt.name"] = call.name or call.target
            case TargetType.RESOURCE:
                found["mcp.resource.uri"] = call.name or call.target
            case TargetType.METHOD:
                pass
            case _:
                assert_never(call.type)
        if word != "completed":
            found["error.type"] = code or word
        return found


def _context(trace_id: int, span_id: int, flags: int) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(trace_id=trace_id, span_id=span_id, is_remote=True, trace_flags=TraceFlags(flags))


def tracing_from_environment(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Tracing as OpenTelemetry's own variables ask for it, or None where they ask for none.

    `$OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns it on; the exporter is the extra `otel` of the package.
    """
    wanted = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not wanted or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("traces are asked for, but the exporter is missing: pip install 'mcp-execution-gateway[otel]'")
        return None
    name = environment.get("OTEL_SERVICE_NAME", "mcp-execution-gateway")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
