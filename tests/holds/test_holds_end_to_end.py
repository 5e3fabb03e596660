"""Holds through a whole gateway: who executes, once, what survives, and what an agent is told."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from gateway import wiring
from gateway.acts import ActRefused
from gateway.adapters.signing import APPROVAL_TYPE, SignatureInvalid, load_public, verify
from gateway.decide.hold import HoldState, Operator
from gateway.model.call import Principal
from gateway.model.errors import JournalUnavailable
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused
from tests.running import ALLOW, OPERATORS, Silent, execute, running, server_table, text_of, until
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
FAY = Operator(id="fay", role="approver", groups=("finance",))
HELD = {"held": True, "amount": 10}


def scripted(directory: Path, *steps: Mapping[str, Any]) -> Scripted:
    on = {"tools/call:pay": [{"effect": "paid"}, *(dict(step) for step in steps), {"text": "paid"}]}
    return Scripted(directory / "server", {"tools": [tool("pay"), tool("look")], "on": on})


def table(server: Scripted, approvals: str = "inline_wait_seconds = 0.1") -> str:
    return f"{server_table(server)}\n{OPERATORS}\n[approvals]\n{approvals}\n"


async def approve(runtime: wiring.Runtime, hold_id: str, operator: Operator = ANN, **params: Any) -> Any:
    return await runtime.acts.perform("holds.approve", operator, {"id": hold_id, **params})


async def held(runtime: wiring.Runtime, arguments: Mapping[str, Any] = HELD, **more: Any) -> Held:
    outcome = await execute(runtime, "s__pay", arguments, **more)
    assert isinstance(outcome, Held), outcome
    return outcome


async def next_step(runtime: wiring.Runtime, session: str = "session-1") -> str:
    """What `gateway__holds` says that the agent should do about its oldest hold."""
    said = json.loads(text_of(await execute(runtime, "gateway__holds", session=session)))
    return str(said["holds"][-1]["next"])


def refused(outcome: Outcome, code: Code) -> Refused:
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is code
    return outcome


@pytest.mark.rule("hold.pending-then-picked-up", "hold.approval-starts-nothing")
async def test_an_approved_call_runs_when_the_agent_calls_again_and_only_once(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        assert waiting.hold_id in waiting.message
        assert "exactly the same arguments" in waiting.message
        assert (await held(runtime)).hold_id == waiting.hold_id
        await approve(runtime, waiting.hold_id)
        assert server.effects() == []
        assert text_of(await execute(runtime, "s__pay", HELD)) == "paid"
        assert len(server.effects("paid")) == 1
        assert (await held(runtime)).hold_id != waiting.hold_id
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.in-band")
async def test_a_call_that_waits_in_band_runs_as_soon_as_it_is_approved_with_progress_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.PROGRESS_SECONDS", 0.05)
    server, caller = scripted(tmp_path), Silent(progress=True)
    outcomes: list[Outcome] = []
    async with running(tmp_path, table(server, "inline_wait_seconds = 20")) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", HELD, caller=caller))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: len(caller.heard) >= 2)
            (hold,) = runtime.book.all()
            await approve(runtime, hold.id)
        assert text_of(outcomes[0]) == "paid"
        assert len(server.effects("paid")) == 1
        assert caller.heard[0][0] == "notifications/progress"


@pytest.mark.rule("hold.joined", "hold.claimed-once")
async def test_of_many_waiters_one_executes_and_all_get_its_outcome(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"delay": 0.2})
    outcomes: list[Outcome] = []
    async with running(tmp_path, table(server, "inline_wait_seconds = 20")) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", HELD))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            await until(runtime.book.pending)
            await anyio.wait_all_tasks_blocked()
            await approve(runtime, next(iter(runtime.book.all())).id)
        assert [text_of(outcome) for outcome in outcomes] == ["paid"] * 5
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.in-band", "hold.joined")
async def test_waiting_for_an_approved_call_that_outlives_its_hold_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.PROGRESS_SECONDS", 0.1)
    server, caller = scripted(tmp_path, {"gate": "go"}), Silent(progress=True)
    outcomes: list[Outcome] = []
    async with running(tmp_path, table(server, "inline_wait_seconds = 20\nexpires_seconds = 0.5")) as runtime:

        async def ask(who: Silent) -> None:
            outcomes.append(await execute(runtime, "s__pay", HELD, caller=who))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, Silent())
            await until(runtime.book.pending)
            (hold,) = runtime.book.all()
            await approve(runtime, hold.id)
            await server.wait_for("gate")
            await until(lambda: runtime.gateway.clock.time_ns() / 1e9 > hold.expires_at)
            tasks.start_soon(ask, caller)
            await until(lambda: len(caller.heard) >= 2)
            await anyio.sleep(0.5)
            assert len(caller.heard) <= 10, "a sign of life now and then, not one after another"
            server.open_gate("go")
        assert [text_of(outcome) for outcome in outcomes] == ["paid"] * 2
        assert len(server.effects("paid")) == 1


@asynccontextmanager
async def while_it_runs(runtime: wiring.Runtime, server: Scripted, outcomes: list[Outcome]) -> AsyncIterator[Held]:
    """While the approved call of a hold runs; when this is left, it has its outcome."""
    waiting = await held(runtime)
    assert not waiting.running
    await approve(runtime, waiting.hold_id)

    async def ask() -> None:
        outcomes.append(await execute(runtime, "s__pay", HELD))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await server.wait_for("gate")
        yield waiting
        server.open_gate("go")


@pytest.mark.rule("hold.running")
async def test_who_asks_while_the_approved_call_runs_is_told_so_and_not_that_it_waits(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    outcomes: list[Outcome] = []
    async with running(tmp_path, table(server)) as runtime:
        async with while_it_runs(runtime, server, outcomes) as waiting:
            asked = await held(runtime)
            assert (asked.hold_id, asked.running) == (waiting.hold_id, True)
            assert "runs now" in asked.message
            assert "Nothing was run" not in asked.message
            assert "It runs now" in await next_step(runtime)
        # The client of the call that ran has its outcome by now; who was told to come back for it gets it as well, once.
        assert "is kept for you" in await next_step(runtime)
        assert "asks again" in await next_step(runtime, session="another")
        assert text_of(outcomes[0]) == text_of(await execute(runtime, "s__pay", HELD)) == "paid"
        assert "asks again" in await next_step(runtime)
        assert (await held(runtime)).hold_id != waiting.hold_id
    assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.running")
async def test_an_outcome_kept_for_one_session_answers_no_other(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    async with running(tmp_path, table(server)) as runtime:
        async with while_it_runs(runtime, server, []) as waiting:
            assert (await held(runtime, session="told")).running
        another = await held(runtime, session="another")
        assert another.hold_id != waiting.hold_id
        assert (await held(runtime, session="told")).hold_id == another.hold_id
    assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.running")
async def test_an_outcome_whose_handing_out_could_not_be_recorded_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    async with running(tmp_path, table(server)) as runtime:
        async with while_it_runs(runtime, server, []):
            assert (await held(runtime)).running

        async def record(*_: Any) -> None:
            raise JournalUnavailable("the disk is full")

        with monkeypatch.context() as full:
            full.setattr(runtime.journal, "record", record)
            refused(await execute(runtime, "s__pay", HELD), Code.JOURNAL_UNAVAILABLE)
        assert text_of(await execute(runtime, "s__pay", HELD)) == "paid"
        assert isinstance(await execute(runtime, "s__pay", HELD), Held)
    assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.client-left")
async def test_a_client_that_left_after_forwarding_began_gets_the_outcome_with_its_next_identical_call(
    tmp_path: Path,
) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, runtime, "s__pay", HELD)
            await server.wait_for("gate")
            tasks.cancel_scope.cancel()
            server.open_gate("go")
        outcome = await execute(runtime, "s__pay", HELD)
        if isinstance(outcome, Completed):
            assert text_of(outcome) == "paid"
        else:  # it was cancelled before its answer was heard
            assert isinstance(outcome, Failed)
            assert outcome.in_doubt
        assert len(server.effects("paid")) == 1
        assert isinstance(await execute(runtime, "s__pay", HELD), Held)


@pytest.mark.rule("hold.denied")
async def test_a_denial_is_told_with_its_comment_and_stays_until_the_hold_expires(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server, "inline_wait_seconds = 0\nexpires_seconds = 1.5")) as runtime:
        waiting = await held(runtime)
        await runtime.acts.perform("holds.deny", FAY, {"id": waiting.hold_id, "comment": "too much"})
        for _ in range(2):
            refusal = refused(await execute(runtime, "s__pay", HELD), Code.HOLD_DENIED)
            assert "fay" in refusal.message
            assert "too much" in refusal.message
        with pytest.raises(ActRefused, match="denied"):
            await approve(runtime, waiting.hold_id)
        assert isinstance(await execute(runtime, "s__pay", {**HELD, "amount": 1}), Held)
        with anyio.fail_after(10):
            while not isinstance(again := await execute(runtime, "s__pay", HELD), Held):
                refused(again, Code.HOLD_DENIED)
                await anyio.sleep(0.1)
        assert server.effects() == []


@pytest.mark.rule("hold.expires")
async def test_a_hold_that_nobody_decides_is_refused_to_who_waits(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server, "inline_wait_seconds = 20\nexpires_seconds = 0.4")) as runtime:
        refused(await execute(runtime, "s__pay", HELD), Code.HOLD_EXPIRED)
        assert server.effects() == []


@pytest.mark.rule("hold.expiry-approves-reads")
async def test_where_expiry_approves_it_approves_reads_alone_and_is_recorded_as_decided_by_expiry(
    tmp_path: Path,
) -> None:
    server = scripted(tmp_path)
    approvals = 'inline_wait_seconds = 20\nexpires_seconds = 0.4\non_expiry = "approve"'
    read = '[servers.s.tools.look]\nrisk = "read"\n'
    async with running(tmp_path, table(server, approvals).replace(OPERATORS, read + OPERATORS)) as runtime:
        looked = await execute(runtime, "s__look", {"held": True})
        assert isinstance(looked, Completed), looked
        (hold,) = runtime.book.all()
        (word,) = hold.decisions
        assert (word.operator, word.channel, word.approve) == ("expiry", "expiry", True)
        refused(await execute(runtime, "s__pay", HELD), Code.HOLD_EXPIRED)
        assert server.effects() == []


@pytest.mark.rule("hold.judged-again", "hold.bound-to-one-call")
async def test_a_call_whose_policy_changed_since_the_approval_does_not_run(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        rego = tmp_path / "policies" / "gateway.rego"
        rego.write_text(rego.read_text() + "\n# changed\n")
        assert (await runtime.snapshots.reload()).accepted
        refusal = refused(await execute(runtime, "s__pay", HELD), Code.HOLD_MISMATCH)
        assert "not what was approved" in refusal.message
        assert isinstance(await execute(runtime, "s__pay", HELD), Held)
        assert server.effects() == []
        voided = [hold for hold in runtime.book.all() if hold.state is HoldState.VOID]
        assert [hold.id for hold in voided] == [waiting.hold_id]


async def mismatches(runtime: wiring.Runtime, server: Scripted, hold_id: str, **more: Any) -> None:
    """The approved call does not run, its approval is void, and a new hold opens."""
    refusal = refused(await execute(runtime, "s__pay", HELD, **more), Code.HOLD_MISMATCH)
    assert "not what was approved" in refusal.message
    assert (await held(runtime, **more)).hold_id != hold_id
    assert server.effects("paid") == []
    assert [hold.id for hold in runtime.book.all() if hold.state is HoldState.VOID] == [hold_id]


@pytest.mark.rule("hold.bound-to-one-call")
async def test_a_call_whose_tool_is_defined_anew_since_the_approval_does_not_run(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    script = json.loads(server.script_path.read_text())
    changed = [tool("pay", description="Pays twice"), tool("look")]
    script["on"]["tools/call:look"] = [{"replace": {"tools": changed}}, {"text": "replaced"}]
    server.rewrite(script)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        before = runtime.gateway.snapshot.catalogue.tools["s__pay"].definition_sha256
        assert text_of(await execute(runtime, "s__look", {})) == "replaced"
        await until(lambda: runtime.gateway.snapshot.catalogue.tools["s__pay"].definition_sha256 != before)
        await mismatches(runtime, server, waiting.hold_id)


@pytest.mark.rule("hold.bound-to-one-call")
async def test_a_call_whose_server_is_another_one_since_the_approval_does_not_run(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with server.http() as approved, server.http() as other:
        text = f'[servers.s]\nurl = "URL"\n{OPERATORS}\n[approvals]\ninline_wait_seconds = 0.1\n'
        async with running(tmp_path, text.replace("URL", approved)) as runtime:
            waiting = await held(runtime)
            await approve(runtime, waiting.hold_id)
            file = runtime.configuration().file
            file.write_text(file.read_text().replace(approved, other))
            assert (await runtime.snapshots.reload()).accepted
            await until(lambda: all(state.state == "available" for state in runtime.servers.states()))
            await mismatches(runtime, server, waiting.hold_id)


@pytest.mark.rule("hold.bound-to-one-call")
async def test_a_call_that_would_be_forwarded_with_other_arguments_than_approved_does_not_run(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    rego = ALLOW["gateway.rego"].replace(
        '"obligations": set()',
        '"obligations": {{"id": "set_argument", "path": "note", "value": input.context.client.name}}',
    )
    async with running(tmp_path, table(server), policies={"gateway.rego": rego}) as runtime:
        waiting = await held(runtime, client="one")
        await approve(runtime, waiting.hold_id)
        await mismatches(runtime, server, waiting.hold_id, client="two")


@pytest.mark.rule("hold.judged-again")
async def test_a_call_that_the_policy_denies_by_now_is_denied_although_it_was_approved(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        rego = tmp_path / "policies" / "gateway.rego"
        rego.write_text(ALLOW["gateway.rego"].replace("allow := true", "allow := false"))
        assert (await runtime.snapshots.reload()).accepted
        refused(await execute(runtime, "s__pay", HELD), Code.POLICY_DENIED)
        assert server.effects() == []


@pytest.mark.rule("hold.limit")
async def test_an_agent_cannot_flood_its_approvers(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(
        tmp_path, table(server, "inline_wait_seconds = 0\nmax_pending = { agent = 2, gateway = 3 }")
    ) as runtime:
        for amount in (1, 2):
            await held(runtime, {**HELD, "amount": amount})
        refused(await execute(runtime, "s__pay", {**HELD, "amount": 3}), Code.HOLD_LIMIT)
        other = Principal(id="other", roles=("local",))
        await held(runtime, {**HELD, "amount": 3}, principal=other)
        refused(await execute(runtime, "s__pay", {**HELD, "amount": 4}, principal=other), Code.HOLD_LIMIT)


@pytest.mark.rule("hold.nobody-configured")
async def test_a_hold_that_nobody_can_decide_is_a_denial(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, server_table(server)) as runtime:
        refusal = refused(await execute(runtime, "s__pay", HELD), Code.HOLD_DENIED)
        assert "nobody is configured" in refusal.message
    assert server.effects() == []


@pytest.mark.rule("hold.tool-approval")
async def test_a_tool_that_the_configuration_holds_is_held_whatever_the_policy_says(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    text = table(server) + '[servers.s.tools.look]\napproval = "hold"\n'
    async with running(tmp_path, text) as runtime:
        outcome = await execute(runtime, "s__look", {})
        assert isinstance(outcome, Held)
        await approve(runtime, outcome.hold_id)
        assert isinstance(await execute(runtime, "s__look", {}), Completed)


@pytest.mark.rule("hold.narrowed")
async def test_an_operator_may_narrow_the_arguments_and_the_record_shows_both(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id, arguments={"held": True, "amount": 1})
        assert isinstance(await execute(runtime, "s__pay", HELD), Completed)
        assert [effect["arguments"] for effect in server.effects("paid")] == [{"held": True, "amount": 1}]
        shown = await runtime.acts.perform("holds.show", ANN, {"id": waiting.hold_id})
        assert (shown["received"], shown["arguments"]) == (HELD, {"held": True, "amount": 1})


@pytest.mark.rule("hold.narrowed", "hold.approval-starts-nothing")
async def test_arguments_that_are_narrowed_to_what_nobody_holds_are_approved_once(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    rego = ALLOW["gateway.rego"].replace("input.arguments.held", "input.arguments.amount > 5")
    async with running(tmp_path, table(server), policies={"gateway.rego": rego}) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id, arguments={"amount": 3})
        assert isinstance(await execute(runtime, "s__pay", HELD), Completed)
        assert (await held(runtime)).hold_id != waiting.hold_id
        assert [effect["arguments"] for effect in server.effects("paid")] == [{"amount": 3}]
        hold = runtime.book.get(waiting.hold_id)
        assert hold is not None
        assert hold.state is HoldState.DONE


@pytest.mark.rule("hold.narrowed", "hold.bound-to-one-call")
async def test_narrowed_arguments_are_not_sent_once_their_approval_is_void(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    rego = ALLOW["gateway.rego"].replace("input.arguments.held", "input.arguments.amount > 5")
    async with running(tmp_path, table(server), policies={"gateway.rego": rego}) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id, arguments={"amount": 3})
        file = tmp_path / "policies" / "gateway.rego"
        file.write_text(rego + "\n# changed\n")
        assert (await runtime.snapshots.reload()).accepted
        refusal = refused(await execute(runtime, "s__pay", HELD), Code.HOLD_MISMATCH)
        assert "judged anew" in refusal.message
        assert (await held(runtime)).hold_id != waiting.hold_id
        assert server.effects("paid") == []


@pytest.mark.rule("hold.bound-to-one-call")
async def test_an_approval_that_the_policy_needs_no_more_is_used_up_or_void(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        file = tmp_path / "policies" / "gateway.rego"
        file.write_text(file.read_text().replace("input.arguments.held", "input.arguments.amount > 1000"))
        assert (await runtime.snapshots.reload()).accepted
        for _ in range(2):
            assert isinstance(await execute(runtime, "s__pay", HELD), Completed)
        hold = runtime.book.get(waiting.hold_id)
        assert hold is not None
        assert hold.state is HoldState.VOID


@pytest.mark.rule("hold.roles")
@pytest.mark.parametrize("operator", [None, Operator(id="v", role="viewer"), Operator(id="x", role="")])
async def test_nobody_without_the_role_decides(tmp_path: Path, operator: Operator | None) -> None:
    async with running(tmp_path, table(scripted(tmp_path))) as runtime:
        waiting = await held(runtime)
        with pytest.raises(ActRefused):
            await runtime.acts.perform("holds.approve", operator, {"id": waiting.hold_id})
        hold = runtime.book.get(waiting.hold_id)
        assert hold is not None
        assert hold.state is HoldState.PENDING


@pytest.mark.rule("hold.signed")
async def test_the_decision_is_signed_and_verifies_offline_with_the_public_key_alone(tmp_path: Path) -> None:
    async with running(tmp_path, table(scripted(tmp_path))) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id, comment="fine")
        shown = await runtime.acts.perform("holds.show", ANN, {"id": waiting.hold_id})
        key = load_public(runtime.signer.public.pem.encode())
    (envelope,) = json.loads(json.dumps(shown["envelopes"]))
    said = orjson.loads(verify(envelope, [key], APPROVAL_TYPE))
    assert (said["operator"], said["approve"], said["comment"]) == ("ann", True, "fine")
    assert said["arguments"] == HELD
    assert said["hold"] == waiting.hold_id
    forged = {**envelope, "payload": envelope["payload"][:-4] + "AAA="}
    with pytest.raises(SignatureInvalid):
        verify(forged, [key], APPROVAL_TYPE)


@pytest.mark.rule("hold.survives")
async def test_holds_approvals_and_their_clocks_survive_a_restart(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    text = table(server)
    async with running(tmp_path, text) as runtime:
        waiting = await held(runtime)
    async with running(tmp_path, text) as runtime:
        hold = runtime.book.get(waiting.hold_id)
        assert hold is not None
        assert hold.expires_at == waiting.expires_at
        assert (await held(runtime)).hold_id == waiting.hold_id
        await approve(runtime, waiting.hold_id)
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", HELD), Completed)
        assert len(server.effects("paid")) == 1
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", HELD), Held)
        assert len(server.effects("paid")) == 1


async def test_a_reason_that_the_approval_does_not_list_parks_the_call_again(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server)) as runtime:
        waiting = await held(runtime)
        await approve(runtime, waiting.hold_id)
        more = 'hold contains {"code": "amount", "reason": "much", "approvers": ["group:finance"]} if input.arguments.amount > 5\n'
        rego = tmp_path / "policies" / "gateway.rego"
        rego.write_text(rego.read_text() + more)
        assert (await runtime.snapshots.reload()).accepted
        refused(await execute(runtime, "s__pay", HELD), Code.HOLD_MISMATCH)
        again = await held(runtime)
        with pytest.raises(ActRefused):
            await approve(runtime, again.hold_id, Operator(id="bob", role="viewer"))
        await approve(runtime, again.hold_id, FAY)
        assert isinstance(await execute(runtime, "s__pay", HELD), Completed)
        assert len(server.effects("paid")) == 1
