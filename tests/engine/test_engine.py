"""The chain driver: every verdict at every position, and each of the engine's rules."""

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.adapters.system import EventFanout, SystemClock
from gateway.engine import Engine
from gateway.model.call import Call, Obligation, Risk
from gateway.model.errors import JournalUnavailable
from gateway.model.events import CallEnded, Event
from gateway.model.refusal import Code
from gateway.model.verdict import (
    PROCEED,
    Answer,
    Completed,
    Failed,
    Held,
    Outcome,
    Park,
    Proceed,
    Refuse,
    Refused,
    Verdict,
    Write,
)
from gateway.ports import Attempt, Begin, Caller, End, Settlement
from tests.building import call, tool

pytestmark = pytest.mark.anyio

DONE = Completed(result=b'{"content":[]}')


class Script:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []


class Scripted:
    """A stage that says what it is told to."""

    def __init__(self, name: str, script: Script, verdict: Verdict | Exception = PROCEED, settle: Any = None) -> None:
        self.name, self.script, self.verdict, self.settlement = name, script, verdict, settle

    async def admit(self, call: Call) -> Verdict:
        self.script.lines.append(f"admit {self.name}")
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        self.script.lines.append(f"settle {self.name}")
        await anyio.lowlevel.checkpoint()
        if isinstance(self.settlement, Exception):
            raise self.settlement
        return self.settlement  # type: ignore[no-any-return]


class Keeping:
    """A journal that keeps what it is given, and fails where it is told to."""

    def __init__(self, script: Script, fails: str = "") -> None:
        self.script, self.fails = script, fails
        self.begins: list[Begin] = []
        self.ends: list[End] = []

    async def begin(self, begin: Begin) -> None:
        self.script.lines.append("begin")
        if self.fails == "begin":
            raise JournalUnavailable("no space")
        self.begins.append(begin)

    async def end(self, end: End) -> None:
        self.script.lines.append("end")
        if self.fails == "end":
            raise JournalUnavailable("no space")
        self.ends.append(end)

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        raise AssertionError("the engine records calls alone")


class Server:
    """A forwarder with one answer, or one that waits."""

    def __init__(self, script: Script, outcome: Outcome | Exception | None = DONE) -> None:
        self.script, self.outcome = script, outcome
        self.reached = anyio.Event()

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        self.script.lines.append("forward")
        attempt.sent = True
        self.reached.set()
        if self.outcome is None:
            await anyio.sleep_forever()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome


class NoCaller:
    """A client that can nothing."""

    capabilities: Mapping[str, Any] = {}
    wants_progress = False
    log_level: str | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        raise AssertionError("nothing to notify")

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        raise AssertionError("nothing to ask")


def engine(script: Script, stages: list[Scripted], journal: Keeping, server: Server) -> tuple[Engine, list[Event]]:
    events = EventFanout()
    seen: list[Event] = []
    events.subscribe(seen.append)
    return Engine(stages=stages, forwarder=server, journal=journal, clock=SystemClock(), events=events), seen


VERDICTS: list[tuple[Verdict | Exception, type[Any], Code | None]] = [
    (Refuse(code=Code.POLICY_DENIED, message="no"), Refused, Code.POLICY_DENIED),
    (Park(hold_id="h", expires_at=1.0, message="wait"), Held, None),
    (Answer(outcome=DONE), Completed, None),
    (RuntimeError("a fault in the stage"), Refused, Code.GATEWAY_INTERNAL),
]


@pytest.mark.rule("engine.settle-in-reverse", "engine.crash-never-forwards", "engine.denied-touches-nothing")
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("verdict", "kind", "code"), VERDICTS)
async def test_a_verdict_other_than_proceed_stops_the_call_there_and_settles_what_was_admitted(
    position: int, verdict: Verdict | Exception, kind: type[Any], code: Code | None
) -> None:
    script = Script()
    stages = [Scripted(str(n), script, verdict if n == position else PROCEED) for n in range(3)]
    journal = Keeping(script)
    chain, seen = engine(script, stages, journal, Server(script))
    outcome = await chain.execute(call(tool()), NoCaller())
    assert isinstance(outcome, kind)
    if code is not None:
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.stage, outcome.executed) == (code, str(position), "no")
    admitted = [f"admit {n}" for n in range(position + 1)]
    settled = [f"settle {n}" for n in reversed(range(position))]
    assert script.lines == [*admitted, *settled, "end"]
    assert journal.ends[0].began is False
    assert journal.ends[0].attempt is None
    assert [event.name for event in seen] == ["call.started", "call.ended"]


@pytest.mark.rule("engine.journal-first", "engine.settle-in-reverse")
async def test_an_allowed_call_is_journaled_then_forwarded_then_settled_in_reverse_then_recorded() -> None:
    script = Script()
    write = Write(kind="quota.reserved", data={"units": 1})
    stages = [Scripted("0", script), Scripted("1", script, Proceed(writes=(write,), facts={"a": 1}))]
    journal = Keeping(script)
    chain, seen = engine(script, stages, journal, Server(script))
    assert await chain.execute(call(tool()), NoCaller()) is DONE
    assert script.lines == ["admit 0", "admit 1", "begin", "forward", "settle 1", "settle 0", "end"]
    assert journal.begins[0].writes == (write,)
    assert journal.ends[0].began
    assert [step.stage for step in journal.ends[0].steps] == ["0", "1", "journal", "forward"]
    assert seen[-1].name == "call.ended"


@pytest.mark.rule("engine.journal-first")
async def test_nothing_is_forwarded_when_the_begin_cannot_be_written() -> None:
    script = Script()
    chain, _ = engine(script, [Scripted("0", script)], Keeping(script, fails="begin"), Server(script))
    outcome = await chain.execute(call(tool()), NoCaller())
    assert isinstance(outcome, Refused)
    assert outcome.code is Code.JOURNAL_UNAVAILABLE
    assert script.lines == ["admit 0", "begin", "settle 0", "end"]


@pytest.mark.rule("engine.journal-first")
async def test_a_stage_whose_state_cannot_be_recorded_lets_nothing_through_and_says_why() -> None:
    script = Script()
    failing = Scripted("1", script, JournalUnavailable("the disk is full"))
    journal = Keeping(script)
    chain, _ = engine(script, [Scripted("0", script), failing], journal, Server(script))
    outcome = await chain.execute(call(tool()), NoCaller())
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.stage, outcome.executed) == (Code.JOURNAL_UNAVAILABLE, "1", "no")
    assert script.lines == ["admit 0", "admit 1", "settle 0", "end"]
    assert [step.verdict for step in journal.ends[0].steps] == ["proceed", "refuse"]


async def test_an_outcome_that_cannot_be_recorded_is_still_the_truth_for_the_agent() -> None:
    script = Script()
    chain, _ = engine(script, [Scripted("0", script)], Keeping(script, fails="end"), Server(script))
    assert await chain.execute(call(tool()), NoCaller()) is DONE


@pytest.mark.rule("engine.settle-in-reverse")
async def test_every_admitted_stage_settles_once_even_if_another_settle_raises() -> None:
    script = Script()
    stages = [Scripted("0", script), Scripted("1", script, settle=RuntimeError("a fault")), Scripted("2", script)]
    chain, _ = engine(script, stages, Keeping(script), Server(script))
    assert await chain.execute(call(tool()), NoCaller()) is DONE
    assert script.lines[4:] == ["forward", "settle 2", "settle 1", "settle 0", "end"]


@pytest.mark.rule("engine.obligations-never-leak")
async def test_a_settle_that_crashes_withholds_the_result_of_a_call_with_obligations() -> None:
    script = Script()
    obliged = call(tool(), obligations=(Obligation(id="redact_result", paths=("**.iban",)),))
    chain, _ = engine(script, [Scripted("0", script, settle=RuntimeError("a fault"))], Keeping(script), Server(script))
    outcome = await chain.execute(obliged, NoCaller())
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.executed) == (Code.RESULT_UNREDACTABLE, "yes")


async def test_a_settlement_replaces_the_outcome_for_the_stages_before_it_and_for_the_agent() -> None:
    script = Script()
    other = Completed(result=b'{"content":[],"redacted":true}')
    journal = Keeping(script)
    settled = Settlement(outcome=other, facts={"erased": 1}, writes=(Write(kind="kept", data={}),))
    chain, _ = engine(script, [Scripted("0", script), Scripted("1", script, settle=settled)], journal, Server(script))
    assert await chain.execute(call(tool()), NoCaller()) is other
    assert journal.ends[0].outcome is other
    assert [write.kind for write in journal.ends[0].writes] == ["kept"]


@pytest.mark.rule("engine.in-doubt")
@pytest.mark.parametrize(("risk", "in_doubt"), [(Risk.READ, False), (Risk.WRITE, True), (Risk.EXTERNAL, True)])
async def test_a_call_that_is_cancelled_after_its_first_byte_is_in_doubt_unless_idempotent(
    risk: Risk, in_doubt: bool
) -> None:
    script = Script()
    server, journal = Server(script, None), Keeping(script)
    chain, _ = engine(script, [Scripted("0", script)], journal, server)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(chain.execute, call(tool(risk=risk)), NoCaller())
        await server.reached.wait()
        tasks.cancel_scope.cancel()
    assert script.lines == ["admit 0", "begin", "forward", "settle 0", "end"]
    outcome = journal.ends[0].outcome
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.in_doubt) == (Code.CANCELLED, in_doubt)
    assert not list(chain.running())


@pytest.mark.rule("engine.cancelled-hears-the-truth")
async def test_a_cancelled_call_whose_true_outcome_was_heard_is_recorded_with_it() -> None:
    script = Script()
    reached = anyio.Event()

    class Listening(Server):
        async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
            attempt.sent = True
            reached.set()
            try:
                await anyio.sleep_forever()
            finally:
                attempt.outcome = DONE
            raise AssertionError

    journal = Keeping(script)
    chain, _ = engine(script, [Scripted("0", script)], journal, Listening(script))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(chain.execute, call(tool(risk=Risk.WRITE)), NoCaller())
        await reached.wait()
        tasks.cancel_scope.cancel()
    assert journal.ends[0].outcome is DONE


@pytest.mark.rule("engine.kill")
async def test_a_killed_call_ends_with_the_reason_while_its_task_goes_on() -> None:
    script = Script()
    server, journal = Server(script, None), Keeping(script)
    chain, _ = engine(script, [Scripted("0", script)], journal, server)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await chain.execute(call(tool(risk=Risk.WRITE)), NoCaller()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await server.reached.wait()
        assert [running.stage for running in chain.running()] == ["forward"]
        assert chain.kill("call-1", "a person said so")
    assert not chain.kill("call-1", "again")
    (outcome,) = outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.in_doubt) == (Code.KILLED, True)
    assert script.lines[-2:] == ["settle 0", "end"]
    await chain.drained()


@pytest.mark.rule("engine.crash-never-forwards")
async def test_a_forwarder_that_crashes_after_sending_leaves_a_write_in_doubt() -> None:
    script = Script()
    chain, seen = engine(script, [Scripted("0", script)], Keeping(script), Server(script, RuntimeError("a fault")))
    outcome = await chain.execute(call(tool(risk=Risk.WRITE)), NoCaller())
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.in_doubt) == (Code.GATEWAY_INTERNAL, True)
    assert isinstance(seen[-1], CallEnded)
