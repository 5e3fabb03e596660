"""Why a call ended as it did, and how a session went: on one page each."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from gateway.adapters.journal import open_journal
from gateway.cli.frame import gateway
from gateway.model.call import Call, Risk
from gateway.model.refusal import CODES, REMEDIES, Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Step
from gateway.ports import Attempt
from gateway.telemetry import call_span_id
from tests.journal.building import AT, TestClock, a_call, begin, end

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FORWARD = Step(stage="forward", verdict="forwarded", elapsed_us=900)


class Told:
    """A session: a call with tries, a question and notifications; one that it led to; one held, then made again."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gateway.db"
        self.outer = a_call(Risk.READ, received_at=AT)
        self.inner = a_call(
            received_at=AT + 0.2,
            meta={"traceparent": f"00-{TRACE}-{call_span_id(self.outer.id, 'forward'):016x}-01"},
        )
        self.held = a_call(Risk.WRITE, received_at=AT + 1)
        self.again = a_call(
            Risk.WRITE, received_at=AT + 3, logical_id=self.held.id, waited_for="h-1", meta=self.held.meta
        )
        self.denied = a_call(received_at=AT + 4)
        self.beside = a_call(Risk.WRITE, received_at=AT + 5, session_id="session-2")
        """Asked while the same, approved, ran."""
        anyio.run(self._write)

    async def _write(self) -> None:
        attempt = Attempt(sent=True)
        attempt.tries += [
            {"at": AT + 0.01, "ended": "server.unavailable", "message": "refused"},
            {"at": AT + 0.02, "ended": "answered"},
        ]
        told = {"method": "notifications/progress", "params": {}}
        attempt.notifications += [{"at": AT + 0.1 + number / 100, **told} for number in range(3)]
        attempt.asks.append({"at": AT + 0.3, "method": "elicitation/create", "params": {}, "answer": {"result": {}}})
        facts: dict[str, Any] = {
            "question": {"arguments": {"text": "hello"}, "context": {}},
            "answer": {"allow": False, "deny": [{"code": "outside", "message": "outside of the root"}]},
            "revision": "r1", "decision_id": f"{self.denied.id}.1", "elapsed_us": 113,
        }  # fmt: skip
        judged = [Step(stage="authorize", verdict="refuse", elapsed_us=200, facts=facts)]
        refused = Refused(
            stage="authorize", code=Code.POLICY_DENIED, message="The policy denies it.",
            policy=({"code": "outside", "message": "outside of the root"},), decision_id=f"{self.denied.id}.1",
        )  # fmt: skip
        done = Completed(result=b'{"content":[]}')
        held = Held(hold_id="h-1", expires_at=AT + 60, message="wait")
        outcomes: list[tuple[Call, Outcome, dict[str, Any]]] = [
            (self.inner, done, {"steps": [FORWARD], "elapsed_us": 50_000}),
            (self.outer, done, {"steps": [FORWARD], "attempt": attempt, "elapsed_us": 500_000}),
            (self.held, held, {"began": False}),
            (self.again, done, {"steps": [FORWARD]}),
            (self.denied, refused, {"began": False, "steps": judged}),
            (self.beside, Held(hold_id="h-1", expires_at=AT, message="It runs", running=True), {"began": False}),
        ]
        async with open_journal(self.path, clock=TestClock()) as journal:
            for call, outcome, more in outcomes:
                if more.get("began", True):
                    await journal.begin(begin(call))
                await journal.end(end(call, outcome, **more))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(gateway, [*arguments, "--recording", str(self.path)])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("told"))


@pytest.mark.rule("evidence.session-tree")
def test_a_session_is_drawn_as_a_tree_with_timings(told: Told) -> None:
    done = told.run("sessions", "show", "session-1")
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.stdout.splitlines()[2:]]
    assert lines == [
        f"├─    +0.000 s     500.0 ms  fixture/echo  completed  {told.outer.id}",
        "│  ├─    +0.010 s  try: server.unavailable: refused",
        "│  ├─    +0.020 s  try: answered",
        "│  ├─    +0.100 s  told the client: notifications/progress (3 times)",
        f"│  ├─    +0.200 s      50.0 ms  on its behalf: fixture/echo  completed  {told.inner.id}",
        "│  └─    +0.300 s  asked the client: elicitation/create, answered",
        f"├─    +1.000 s       1.2 ms  fixture/echo  held hold.pending  {told.held.id}",
        f"│  └─    +3.000 s       1.2 ms  again: fixture/echo  completed  {told.again.id}",
        f"└─    +4.000 s       1.2 ms  fixture/echo  refused policy.denied  {told.denied.id}",
    ]


@pytest.mark.rule("evidence.session-tree")
def test_the_tree_is_there_as_json_and_every_call_stands_in_it_once(told: Told) -> None:
    said = json.loads(told.run("sessions", "show", "session-1", "--json").stdout)

    def ids(nodes: list[dict[str, Any]]) -> list[str]:
        return [found for node in nodes for found in (*filter(None, [node["id"]]), *ids(node["children"]))]

    assert sorted(ids(said["tree"])) == sorted(call["id"] for call in said["calls"])
    outer, held, denied = said["tree"]
    assert [child["kind"] for child in outer["children"]] == ["try", "try", "notification", "nested", "ask"]
    assert [child["kind"] for child in held["children"]] == ["round"]
    assert denied["code"] == "policy.denied"


@pytest.mark.rule("evidence.call-explained")
def test_the_page_of_a_call_names_stage_code_rule_decision_and_what_to_do(told: Told) -> None:
    page = told.run("calls", "show", told.denied.id).stdout
    for part in (
        "REFUSED by authorize: policy.denied",
        CODES[Code.POLICY_DENIED],
        "The policy denies it.",
        "rule outside: outside of the root",
        "It did not run at the tool server.",
        f"policy decision {told.denied.id}.1",
        f"What to do: {REMEDIES[Code.POLICY_DENIED]}",
    ):
        assert part in page
    held = told.run("calls", "show", told.held.id).stdout
    assert "HELD: waits for a person (hold h-1" in held
    assert "What to do: Decide" in held
    beside = told.run("calls", "show", told.beside.id).stdout
    assert "HELD: what was approved ran already, for another call of the same (hold h-1)" in beside
    assert "What to do" not in beside


@pytest.mark.rule("evidence.call-explained")
def test_there_is_something_to_do_about_every_code() -> None:
    assert set(REMEDIES) == set(CODES) == set(Code)


def test_a_forged_parent_does_not_lose_a_call(tmp_path: Path) -> None:
    from gateway.adapters import queries
    from gateway.adapters.sqlite import read_only
    from gateway.model.recording import CallFilter
    from gateway.replay.tree import tree

    one, other = a_call(received_at=AT), a_call(received_at=AT + 1)
    made: list[Call] = []
    for call, named in ((one, other), (other, one)):
        parent = f"00-{TRACE}-{call_span_id(named.id, 'forward'):016x}-01"
        made.append(a_call(id=call.id, logical_id=call.id, received_at=call.received_at, meta={"traceparent": parent}))

    async def write() -> None:
        async with open_journal(tmp_path / "gateway.db", clock=TestClock()) as journal:
            for call in made:
                await journal.end(end(call, Failed(code=Code.SERVER_LOST, message="x", in_doubt=True), began=False))

    anyio.run(write)
    with read_only(tmp_path / "gateway.db") as raw:
        (top,) = tree(queries.read_records(raw, filter=CallFilter()))
    assert top.id == one.id
    assert [child.id for child in top.children] == [other.id]
