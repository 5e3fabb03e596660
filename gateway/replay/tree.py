"""A session as a tree: its calls in the order in which they came, and under each what belongs to it.

Under a call stand the later rounds of the same logical call (after a person had decided, or with the input that it needed),
calls that were made on its behalf (their `traceparent` names its forward), its tries at the tool server, what the tool server
asked of the client, and what it told it. Times are seconds since the session began.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.model.recording import Record
from gateway.telemetry import call_span_id, parse_traceparent

Kind = Literal["call", "round", "nested", "try", "ask", "notification"]


@dataclass(slots=True, kw_only=True)
class Node:
    """One line of the tree."""

    kind: Kind
    at: float
    """Seconds since the session began."""
    what: str
    """The tool, or the method; of a try how it ended."""
    elapsed_ms: float | None = None
    outcome: str = ""
    """`completed`, `error`, `refused`, `held`, `failed`; of an ask `answered`, `error` or `unanswered`."""
    code: str | None = None
    in_doubt: bool = False
    id: str = ""
    """Of the call."""
    count: int = 1
    """How many of the same followed one another (notifications)."""
    children: list["Node"] = field(default_factory=list)


def tree(records: Iterable[Record]) -> list[Node]:
    """The calls of one session that no other call of it led to, each with what stands under it."""
    records = list(records)
    start = min((record.body["command"]["received_at"] for record in records), default=0.0)
    found: list[tuple[Record, Node]] = [(record, _call(record, start)) for record in records]
    found.sort(key=lambda each: (each[1].at, each[0].seq))
    first: dict[str, Node] = {}
    """By logical id: the call that the agent began."""
    forwards: dict[int, Node] = {}
    """By the id of its forward's span: the calls so far, since nothing is led to by what comes later."""
    top: list[Node] = []
    for record, node in found:
        command: Mapping[str, Any] = record.body["command"]
        logical = first.get(command["logical_id"])
        parent = _parent(record, forwards)
        if logical is not None:
            node.kind = "round"
            logical.children.append(node)
        elif parent is not None:
            node.kind = "nested"
            parent.children.append(node)
            first[command["logical_id"]] = node
        else:
            top.append(node)
            first[command["logical_id"]] = node
        forwards[call_span_id(command["id"], "forward")] = node
    for _, node in found:
        node.children.sort(key=lambda child: child.at)
    return top


def _call(record: Record, start: float) -> Node:
    body = record.body
    command, outcome = body["command"], body["outcome"]
    kind = outcome["kind"]
    node = Node(
        kind="call",
        at=round(command["received_at"] - start, 6),
        elapsed_ms=None if body["elapsed_us"] is None else body["elapsed_us"] / 1000,
        what=f"{command['server']}/{command['name']}" if command["server"] else command["target"],
        outcome="error" if kind == "completed" and outcome["is_error"] else kind,
        code="hold.pending" if kind == "held" else outcome.get("code"),
        in_doubt=bool(outcome.get("in_doubt", False)),
        id=command["id"],
    )
    tries: Sequence[Mapping[str, Any]] = (body["attempt"] or {}).get("tries", ())
    if len(tries) > 1 or any(one.get("ended") != "answered" for one in tries):
        node.children.extend(_try(one, node.at, start) for one in tries)
    exchange = record.payloads.get("exchange") or {}
    for one in exchange.get("asks", ()):
        answer = one.get("answer")
        said = "unanswered" if answer is None else "error" if "error" in answer else "answered"
        node.children.append(Node(kind="ask", at=_at(one, node.at, start), what=str(one["method"]), outcome=said))
    told: list[Node] = []
    for one in exchange.get("notifications", ()):
        if told and told[-1].what == one["method"]:
            told[-1].count += 1
        else:
            told.append(Node(kind="notification", at=_at(one, node.at, start), what=str(one["method"])))
    node.children.extend(told)
    return node


def _try(one: Mapping[str, Any], begun: float, start: float) -> Node:
    ended = str(one.get("ended", "no answer"))
    node = Node(kind="try", at=_at(one, begun, start), what=ended if ended == "answered" else "")
    if ended != "answered":
        node.code, node.what = ended, str(one.get("message", ""))
    return node


def _at(one: Mapping[str, Any], begun: float, start: float) -> float:
    return round(one["at"] - start, 6) if "at" in one else begun


def _parent(record: Record, forwards: Mapping[int, Node]) -> Node | None:
    """The call whose forward this one's `traceparent` names."""
    meta = (record.payloads.get("request") or {}).get("meta") or {}
    found = parse_traceparent(meta.get("traceparent"))
    return None if found is None else forwards.get(found[1])


def drawn(nodes: Sequence[Node], before: str = "") -> Iterable[str]:
    """The lines of a tree, without colours and not yet safe for a terminal."""
    for place, node in enumerate(nodes):
        last = place == len(nodes) - 1
        yield f"{before}{'└─' if last else '├─'} {node.at:+9.3f} s  {_text(node)}"
        yield from drawn(node.children, before + ("   " if last else "│  "))


def _text(node: Node) -> str:
    match node.kind:
        case "try":
            return f"try: {node.what}" if node.code is None else f"try: {node.code}: {node.what}"
        case "ask":
            return f"asked the client: {node.what}, {node.outcome}"
        case "notification":
            return f"told the client: {node.what}" + (f" ({node.count} times)" if node.count > 1 else "")
        case _:
            elapsed = "" if node.elapsed_ms is None else f"{node.elapsed_ms:.1f}"
            how = {"round": "again: ", "nested": "on its behalf: "}.get(node.kind, "")
            code = f" {node.code}" if node.code else ""
            doubt = " (in doubt)" if node.in_doubt else ""
            return f"{elapsed:>8} ms  {how}{node.what}  {node.outcome}{doubt}{code}  {node.id}"
