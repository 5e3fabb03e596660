"""Holds and interrupts together: what an interrupt asks a person about, and that waiting for one is no pattern of calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway import wiring
from gateway.decide.hold import HoldState, Operator
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused
from gateway.stages.authorize import Authorize
from tests.running import ALLOW, OPERATORS, execute, running, server_table, text_of, until
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
HELD = {"held": True}
FIRST = '[[interrupts]]\nname = "new-tool"\nwhen = { first_seen_tool = true }\nthen = "hold"\n'
PAYS = {"tools/call:pay": [{"effect": "paid"}, {"text": "paid"}]}


def scripted(directory: Path, on: Mapping[str, Any] = PAYS) -> Scripted:
    return Scripted(directory / "server", {"tools": [tool("pay"), tool("look")], "on": dict(on)})


def text(server: Scripted, interrupts: str, approvals: str = "inline_wait_seconds = 0") -> str:
    return f"{server_table(server)}\n{interrupts}\n{OPERATORS}\n[approvals]\n{approvals}\n"


def refused(outcome: Outcome, code: Code) -> Refused:
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is code
    return outcome


async def held(runtime: wiring.Runtime, arguments: Mapping[str, Any] | None = None, name: str = "s__pay") -> Held:
    outcome = await execute(runtime, name, arguments)
    assert isinstance(outcome, Held), outcome
    return outcome


async def decide(runtime: wiring.Runtime, hold_id: str, word: str = "approve") -> None:
    await runtime.acts.perform(f"holds.{word}", ANN, {"id": hold_id})


@pytest.mark.rule("hold.of-an-interrupt")
async def test_what_an_interrupt_holds_stays_held_however_often_it_is_asked_for(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, text(server, FIRST)) as runtime:
        waiting = await held(runtime)
        for _ in range(3):
            assert (await held(runtime)).hold_id == waiting.hold_id
        assert (await held(runtime, {"n": 1})).hold_id != waiting.hold_id
        assert server.effects() == []
        await decide(runtime, waiting.hold_id)
        assert text_of(await execute(runtime, "s__pay")) == "paid"
        assert [hold.state for hold in runtime.book.all() if hold.id == waiting.hold_id] == [HoldState.DONE]
        # Used once with a person's consent, the tool is not new any more.
        assert text_of(await execute(runtime, "s__pay", {"n": 2})) == "paid"


@pytest.mark.rule("hold.of-an-interrupt", "hold.denied")
async def test_what_an_operator_denied_does_not_run_because_the_interrupt_has_passed(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    rule = '[[interrupts]]\nname = "mail"\nwhen = { sequence = ["s/look", "s/pay"], within = "1s" }\nthen = "hold"\n'
    async with running(tmp_path, text(server, rule)) as runtime:
        assert isinstance(await execute(runtime, "s__look"), Completed)
        await decide(runtime, (await held(runtime)).hold_id, "deny")
        await anyio.sleep(1.1)
        refused(await execute(runtime, "s__pay"), Code.HOLD_DENIED)
        assert server.effects() == []


@pytest.mark.rule("hold.of-an-interrupt", "hold.expires")
async def test_what_nobody_decides_in_time_does_not_run(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    approvals = "inline_wait_seconds = 20\nexpires_seconds = 0.4"
    async with running(tmp_path, text(server, FIRST, approvals)) as runtime:
        refused(await execute(runtime, "s__pay"), Code.HOLD_EXPIRED)
        refused(await execute(runtime, "s__pay"), Code.HOLD_EXPIRED)
        assert server.effects() == []


@pytest.mark.rule("hold.of-an-interrupt")
async def test_an_interrupt_that_is_configured_no_more_holds_nothing(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, text(server, FIRST)) as runtime:
        await held(runtime)
        file = runtime.configuration().file
        file.write_text(file.read_text().replace(FIRST, ""))
        assert (await runtime.snapshots.reload()).accepted
        assert text_of(await execute(runtime, "s__pay")) == "paid"


@pytest.mark.rule("hold.apart")
@pytest.mark.parametrize("when", ["identical_calls = 3", "calls = 3"])
async def test_waiting_polling_and_released_calls_do_not_count_in_interrupts(tmp_path: Path, when: str) -> None:
    rule = f'[[interrupts]]\nname = "loop"\nwhen = {{ {when}, within = "60s" }}\nthen = "pause-session"\n'
    server = scripted(tmp_path)
    async with running(tmp_path, text(server, rule)) as runtime:
        waiting = await held(runtime, HELD)
        for _ in range(5):
            assert (await held(runtime, HELD)).hold_id == waiting.hold_id
        await decide(runtime, waiting.hold_id)
        assert text_of(await execute(runtime, "s__pay", HELD)) == "paid"
        # The next is a call of its own, the second; the one after it is the third.
        again = await held(runtime, HELD)
        await decide(runtime, again.hold_id, "deny")
        refused(await execute(runtime, "s__pay", HELD), Code.GATEWAY_PAUSED)


@pytest.mark.rule("hold.apart")
async def test_a_call_that_waits_in_band_is_one_call(tmp_path: Path) -> None:
    rule = '[[interrupts]]\nname = "loop"\nwhen = { calls = 2, within = "60s" }\nthen = "pause-session"\n'
    quota = '[[quotas]]\nlimit = 1\nwindow = "1h"\ncount = "arrived"\n'
    server, outcomes = scripted(tmp_path), list[Outcome]()
    async with running(tmp_path, text(server, rule + quota, "inline_wait_seconds = 20")) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", HELD))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(runtime.book.pending)
            await decide(runtime, next(iter(runtime.book.all())).id)
    assert [text_of(outcome) for outcome in outcomes] == ["paid"]


@pytest.mark.rule("hold.apart", "hold.joined")
async def test_of_many_waiters_none_is_a_recent_call(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:pay": [{"delay": 0.2}, {"text": "paid"}]})
    outcomes: list[Outcome] = []
    async with running(tmp_path, text(server, "", "inline_wait_seconds = 20")) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", HELD))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await until(runtime.book.pending)
            await anyio.wait_all_tasks_blocked()
            await decide(runtime, next(iter(runtime.book.all())).id)
        assert [text_of(outcome) for outcome in outcomes] == ["paid"] * 3
        assert isinstance(await execute(runtime, "s__look"), Completed)
        (authorize,) = (stage for stage in runtime.engine.stages if isinstance(stage, Authorize))
        assert [call["tool"] for call in authorize.recent.of("session-1")] == ["s/look"]


RELAXED = ALLOW["gateway.rego"].replace("input.arguments.held", 'input.arguments.held == "never"')


async def relax(runtime: wiring.Runtime, directory: Path) -> None:
    """The policy holds nothing any more."""
    (directory / "policies" / "gateway.rego").write_text(RELAXED)
    assert (await runtime.snapshots.reload()).accepted


@pytest.mark.rule("hold.denied")
async def test_a_denial_stands_also_where_the_policy_holds_the_call_no_more(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, text(server, "")) as runtime:
        await decide(runtime, (await held(runtime, HELD)).hold_id, "deny")
        await relax(runtime, tmp_path)
        refused(await execute(runtime, "s__pay", HELD), Code.HOLD_DENIED)
        assert text_of(await execute(runtime, "s__pay", {"held": 2})) == "paid"


@pytest.mark.rule("hold.client-left")
async def test_a_kept_outcome_is_given_also_where_the_policy_holds_the_call_no_more(tmp_path: Path) -> None:
    on = {"tools/call:pay": [{"effect": "paid"}, {"gate": "go"}, {"text": "paid"}]}
    server = scripted(tmp_path, on)
    async with running(tmp_path, text(server, "")) as runtime:
        await decide(runtime, (await held(runtime, HELD)).hold_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, runtime, "s__pay", HELD)
            await server.wait_for("gate")
            tasks.cancel_scope.cancel()
        await relax(runtime, tmp_path)
        outcome = await execute(runtime, "s__pay", HELD)
        assert isinstance(outcome, Failed), "it was cancelled before its answer was heard"
        assert outcome.in_doubt
        assert len(server.effects("paid")) == 1
