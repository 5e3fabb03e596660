"""Quotas, breakers, pools, interrupts and idempotency through a whole gateway, with real tool servers."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.acts import ActRefused
from gateway.decide.hold import Operator
from gateway.model.call import Principal
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused
from tests.running import OPERATORS, execute, running, server_table, text_of, until
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
READ = 'risk = "read"\n'


def scripted(directory: Path, on: Mapping[str, Any] | None = None, name: str = "server") -> Scripted:
    tools = [tool("pay"), tool("look"), tool("send")]
    return Scripted(directory / name, {"tools": tools, "on": dict(on or {})})


PAYS = {"tools/call:pay": [{"effect": "paid"}, {"text": "paid"}]}


def refused(outcome: Outcome, code: Code) -> Refused:
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is code, outcome
    return outcome


# --- quotas ---


@pytest.mark.rule("quota.exact")
async def test_of_many_calls_at_once_exactly_the_limit_gets_through(tmp_path: Path) -> None:
    server = scripted(tmp_path, PAYS)
    outcomes: list[Outcome] = []
    text = server_table(server, more=READ) + '[[quotas]]\nlimit = 7\nwindow = "1h"\n'
    async with running(tmp_path, text) as runtime:

        async def ask(number: int) -> None:
            outcomes.append(await execute(runtime, "s__pay", {"n": number}))

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(ask, number)
        assert sum(isinstance(outcome, Completed) for outcome in outcomes) == 7
        assert len(server.effects("paid")) == 7
        one = refused(next(outcome for outcome in outcomes if isinstance(outcome, Refused)), Code.QUOTA_EXHAUSTED)
        assert "7 of 7" in one.message
        assert "local" in one.message
        assert one.retry_after_seconds is not None
        (use,) = await runtime.acts.perform("quotas", None, {})
        assert (use["used"], use["limit"], use["subject"]) == (7, 7, "local")


@pytest.mark.rule("quota.survives")
async def test_counts_and_budgets_survive_a_restart(tmp_path: Path) -> None:
    server = scripted(tmp_path, PAYS)
    text = (
        server_table(server, more=READ)
        + "[servers.s.tools.pay]\ncost = 0.4\n"
        + '[[quotas]]\nlimit = 3\nwindow = "1h"\n[[quotas]]\nbudget = { unit = "usd", amount = 1.0, window = "1d" }\n'
    )
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", {"n": 1}), Completed)
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", {"n": 2}), Completed)
        refusal = refused(await execute(runtime, "s__pay", {"n": 3}), Code.QUOTA_EXHAUSTED)
        assert "0.8 of 1 usd" in refusal.message
        assert isinstance(await execute(runtime, "s__look", {}), Completed)
        refused(await execute(runtime, "s__look", {}), Code.QUOTA_EXHAUSTED)


@pytest.mark.rule("quota.budget-from-results")
async def test_a_budget_takes_the_cost_that_results_name_and_keeps_its_reserve_where_they_name_none(
    tmp_path: Path,
) -> None:
    on = {
        "tools/call:pay": [{"result": {"content": [], "_meta": {"cost": 0.3}}}],
        "tools/call:look": [{"result": {"content": [], "_meta": {"cost": -5}}}],
    }
    text = (
        server_table(scripted(tmp_path, on), more=READ)
        + '[[quotas]]\nbudget = { unit = "usd", amount = 1.0, window = "1d", cost = "result._meta.cost", reserve = 0.1 }\n'
    )
    async with running(tmp_path, text) as runtime:
        for name in ("pay", "look"):
            assert isinstance(await execute(runtime, f"s__{name}", {}), Completed)
        (use,) = await runtime.acts.perform("quotas", None, {})
        assert use["used"] == pytest.approx(0.4)


@pytest.mark.rule("quota.arrived")
async def test_refused_calls_count_where_the_quota_says_so(tmp_path: Path) -> None:
    text = server_table(scripted(tmp_path), more=READ) + '[[quotas]]\nlimit = 2\nwindow = "1h"\ncount = "arrived"\n'
    async with running(tmp_path, text, policies={"gateway.rego": "package gateway\n\ndecision := false\n"}) as runtime:
        for _ in range(2):
            refused(await execute(runtime, "s__look", {}), Code.POLICY_DENIED)
        refused(await execute(runtime, "s__look", {}), Code.QUOTA_EXHAUSTED)


@pytest.mark.rule("quota.arrived")
async def test_what_is_taken_while_a_call_runs_is_given_back_also_where_arrivals_count(tmp_path: Path) -> None:
    limits = 'limit = 4\nwindow = "1h"\ncount = "arrived"\nin_flight = 1\n'
    budget = 'budget = { unit = "usd", amount = 1.0, window = "1d", reserve = 0.1 }\n'
    text = server_table(scripted(tmp_path), more=READ) + "[[quotas]]\n" + limits + budget
    async with running(tmp_path, text) as runtime:
        for _ in range(3):
            assert isinstance(await execute(runtime, "s__look", {}), Completed)
        assert isinstance(await execute(runtime, "s__look", {}), Completed)
        refused(await execute(runtime, "s__look", {}), Code.QUOTA_EXHAUSTED)
        used = {use["measure"]: use["used"] for use in await runtime.acts.perform("quotas", None, {}) if use["used"]}
        assert used == {"calls in 3600s": 4, "usd in 86400s": pytest.approx(0.4)}


# --- breakers ---


@pytest.mark.rule("breaker.opens-and-recovers")
async def test_a_failing_server_is_left_alone_and_recovers_by_one_probe(tmp_path: Path) -> None:
    failing = [{"error": {"code": -32603, "message": "out of order"}}]
    on = {"tools/call:look": [failing, failing, failing, [{"text": "well again"}]]}
    server = scripted(tmp_path, on)
    text = server_table(
        server, more=READ + "breaker = { failures = 3, window_seconds = 30, cool_down_seconds = 0.5 }\n"
    )
    async with running(tmp_path, text) as runtime:
        for number in range(3):
            outcome = await execute(runtime, "s__look", {"n": number})
            assert isinstance(outcome, Completed)
            assert outcome.error is not None
        refusal = refused(await execute(runtime, "s__look", {}), Code.BREAKER_OPEN)
        assert refusal.retry_after_seconds is not None
        before = len(server.received("tools/call"))
        await until(lambda: all(state.retry_after_seconds in (None, 0.0) for state in runtime.breaker.states()))
        outcomes: list[Outcome] = []

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__look", {}))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        assert sum(isinstance(outcome, Completed) for outcome in outcomes) == 1
        assert len(server.received("tools/call")) == before + 1
        assert text_of(await execute(runtime, "s__look", {})) == "well again"


@pytest.mark.rule("breaker.operators")
async def test_operators_trip_and_reset_a_breaker(tmp_path: Path) -> None:
    async with running(tmp_path, server_table(scripted(tmp_path), more=READ) + OPERATORS) as runtime:
        await runtime.acts.perform("breakers.trip", ANN, {"subject": "s"})
        refused(await execute(runtime, "s__look", {}), Code.BREAKER_OPEN)
        await runtime.acts.perform("breakers.reset", ANN, {"subject": "s"})
        assert isinstance(await execute(runtime, "s__look", {}), Completed)
        with pytest.raises(ActRefused, match="no tool server"):
            await runtime.acts.perform("breakers.trip", ANN, {"subject": "nowhere"})


# --- pools ---


@pytest.mark.rule("pool.failure-domains")
async def test_a_hanging_external_tool_leaves_reads_alone_and_a_full_pool_refuses_at_once(tmp_path: Path) -> None:
    hanging = scripted(tmp_path, {"tools/call:send": [{"gate": "never"}]}, name="hanging")
    reading = scripted(tmp_path, name="reading")
    text = (
        server_table(hanging, name="out", more='risk = "external"\n')
        + server_table(reading, name="s", more=READ)
        + "[pools]\nexternal = { max_concurrency = 2 }\n"
    )
    async with running(tmp_path, text) as runtime:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(execute, runtime, "out__send", {})
            await hanging.wait_for("gate", count=2)
            refusal = refused(await execute(runtime, "out__send", {}), Code.POOL_FULL)
            assert "external" in refusal.message
            for number in range(20):
                assert isinstance(await execute(runtime, "s__look", {"n": number}), Completed)
            tasks.cancel_scope.cancel()
        assert all(use.in_use == 0 for use in runtime.bulkhead.use())


@pytest.mark.rule("pool.queue")
async def test_a_queue_lets_a_declared_number_wait_for_a_declared_time(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:look": [{"gate": "go"}, {"text": "done"}]})
    text = server_table(server, more=READ) + "[pools]\nread = { max_concurrency = 1, queue = 1, queue_seconds = 0.3 }\n"
    outcomes: list[Outcome] = []
    async with running(tmp_path, text) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__look", {}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.wait_for("gate")
            tasks.start_soon(ask)
            await until(lambda: any(use.waiting for use in runtime.bulkhead.use()))
            refused(await execute(runtime, "s__look", {}), Code.POOL_FULL)
            await until(lambda: outcomes)
            refused(outcomes[0], Code.POOL_FULL)
            server.open_gate("go")
        assert text_of(outcomes[1]) == "done"


@pytest.mark.rule("pool.serialized")
async def test_calls_with_the_same_value_run_one_after_another_across_agents(tmp_path: Path) -> None:
    on = {"tools/call:pay": [{"effect": "begin"}, {"delay": 0.05}, {"effect": "end"}, {"text": "done"}]}
    server = scripted(tmp_path, on)
    text = server_table(server) + '[servers.s.tools.pay]\nserialize_by = "arguments.path"\n'
    async with running(tmp_path, text) as runtime:
        async with anyio.create_task_group() as tasks:
            for agent in ("a", "b", "c"):
                tasks.start_soon(partial(execute, runtime, "s__pay", {"path": "/x"}, principal=Principal(id=agent)))
        labels = [effect["label"] for effect in server.effects()]
        assert labels == ["begin", "end"] * 3
        async with anyio.create_task_group() as tasks:
            for path in ("/x", "/y"):
                tasks.start_soon(partial(execute, runtime, "s__pay", {"path": path}))
        assert [effect["label"] for effect in server.effects()][6:8] == ["begin", "begin"]
        assert not [use for use in runtime.bulkhead.use() if use.pool.startswith("serial")]


# --- interrupts, pause, kill ---

LOOP = '[[interrupts]]\nname = "same-call-loop"\nwhen = { identical_calls = 3, within = "60s" }\n'


@pytest.mark.rule("interrupt.not-escaped")
async def test_a_looping_agent_is_paused_told_why_and_does_not_escape_by_reconnecting(tmp_path: Path) -> None:
    text = (
        server_table(scripted(tmp_path, PAYS), more=READ)
        + LOOP
        + 'then = "pause-session"\nfor = "15m"\nreason = "a loop"\n'
        + OPERATORS
    )
    async with running(tmp_path, text) as runtime:
        for _ in range(2):
            assert isinstance(await execute(runtime, "s__pay", {"n": 1}), Completed)
        refusal = refused(await execute(runtime, "s__pay", {"n": 1}), Code.GATEWAY_PAUSED)
        assert "same-call-loop" in refusal.message
        assert "a loop" in refusal.message
        refused(await execute(runtime, "s__look", {}), Code.GATEWAY_PAUSED)
        refused(await execute(runtime, "s__look", {}, session="session-2"), Code.GATEWAY_PAUSED)
        assert isinstance(await execute(runtime, "s__look", {}, session="session-3", client="another"), Completed)
    async with running(tmp_path, text) as runtime:
        refused(await execute(runtime, "s__look", {}, session="session-4"), Code.GATEWAY_PAUSED)
        with pytest.raises(ActRefused, match="operator"):
            await runtime.acts.perform("resume", Operator(id="fay", role="approver"), {"session": "session-1"})
        await runtime.acts.perform("resume", ANN, {"session": "session-1"})
        assert isinstance(await execute(runtime, "s__look", {}, session="session-4"), Completed)


@pytest.mark.rule("interrupt.neighbours")
async def test_a_session_that_is_paused_leaves_its_clients_other_sessions_alone(tmp_path: Path) -> None:
    text = server_table(scripted(tmp_path), more=READ) + LOOP + 'then = "pause-session"\nper = "session"\n'
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__look", {}, session="window-2"), Completed)
        for _ in range(2):
            assert isinstance(await execute(runtime, "s__look", {"n": 1}), Completed)
        refused(await execute(runtime, "s__look", {"n": 1}), Code.GATEWAY_PAUSED)
        assert isinstance(await execute(runtime, "s__look", {}, session="window-2"), Completed)
        refused(await execute(runtime, "s__look", {}, session="window-3"), Code.GATEWAY_PAUSED)
    async with running(
        tmp_path, text
    ) as runtime:  # a stdio client's session goes on when its process's owner is another
        assert isinstance(await execute(runtime, "s__look", {}, session="window-2"), Completed)
        for session in ("session-1", "window-3", "window-4"):
            refused(await execute(runtime, "s__look", {}, session=session), Code.GATEWAY_PAUSED)


@pytest.mark.rule("interrupt.then")
@pytest.mark.parametrize(
    ("then", "code", "another_session"),
    [
        ("deny", Code.INTERRUPT_DENIED, True),
        ("pause-agent", Code.GATEWAY_PAUSED, False),
        ("kill-session", Code.KILLED, True),
        ("kill-agent", Code.KILLED, False),
    ],
)
async def test_each_consequence_stops_what_it_names(
    tmp_path: Path, then: str, code: Code, another_session: bool
) -> None:
    text = server_table(scripted(tmp_path), more=READ) + LOOP + f'then = "{then}"\nper = "session"\n'
    async with running(tmp_path, text) as runtime:
        for _ in range(2):
            assert isinstance(await execute(runtime, "s__look", {"n": 1}), Completed)
        refused(await execute(runtime, "s__look", {"n": 1}), code)
        other = await execute(runtime, "s__look", {"n": 2}, session="another", client="another")
        assert isinstance(other, Completed) is another_session


async def test_an_interrupt_may_ask_for_a_person(tmp_path: Path) -> None:
    text = (
        server_table(scripted(tmp_path), more=READ)
        + LOOP
        + 'then = "hold"\n'
        + OPERATORS
        + "[approvals]\ninline_wait_seconds = 0\n"
    )
    async with running(tmp_path, text) as runtime:
        for _ in range(2):
            assert isinstance(await execute(runtime, "s__look", {"n": 1}), Completed)
        outcome = await execute(runtime, "s__look", {"n": 1})
        assert isinstance(outcome, Held)
        await runtime.acts.perform("holds.approve", ANN, {"id": outcome.hold_id})
        assert isinstance(await execute(runtime, "s__look", {"n": 1}), Completed)


@pytest.mark.rule("stop.kill-in-flight")
async def test_a_kill_cancels_what_is_in_flight_at_once(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:pay": [{"effect": "begun"}, {"gate": "never"}]})
    outcomes: list[Outcome] = []
    async with running(tmp_path, server_table(server) + OPERATORS) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", {}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.wait_for("gate")
            status = await runtime.acts.perform("status", None, {})
            assert [run["tool"] for run in status["running"]] == ["s/pay"]
            await runtime.acts.perform("kill", ANN, {"agent": "local", "reason": "enough"})
        (outcome,) = outcomes
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.in_doubt) == (Code.KILLED, True)
        refusal = refused(await execute(runtime, "s__look", {}), Code.KILLED)
        assert "enough" in refusal.message
        await runtime.acts.perform("resume", ANN, {"agent": "local"})
        assert isinstance(await execute(runtime, "s__look", {}), Completed)


@pytest.mark.rule("stop.subjects")
@pytest.mark.parametrize("act", ["pause", "kill"])
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"agent": "lokal"}, "there is no agent 'lokal'; there are local"),
        ({"server": "t"}, "there is no tool server 't'; there are s"),
        ({"tool": "t/pay"}, "there is no tool server 't'; there are s"),
        ({"tool": "pay"}, "write server/tool"),
        ({"session": "nobody"}, "there is no session 'nobody'"),
    ],
)
async def test_what_nobody_is_called_is_not_stopped_in_silence(
    tmp_path: Path, act: str, params: dict[str, str], says: str
) -> None:
    async with running(tmp_path, server_table(scripted(tmp_path)) + OPERATORS) as runtime:
        with pytest.raises(ActRefused, match=re.escape(says)):
            await runtime.acts.perform(act, ANN, params)
        assert await runtime.acts.perform("stops", None, {}) == []


@pytest.mark.rule("stop.subjects")
@pytest.mark.parametrize("params", [{}, {"agent": "local"}, {"server": "s"}, {"tool": "s/look"}])
async def test_the_gateway_an_agent_a_server_or_a_tool_is_paused_and_resumed(
    tmp_path: Path, params: dict[str, str]
) -> None:
    async with running(tmp_path, server_table(scripted(tmp_path), more=READ) + OPERATORS) as runtime:
        await runtime.acts.perform("pause", ANN, {**params, "reason": "maintenance"})
        refusal = refused(await execute(runtime, "s__look", {}), Code.GATEWAY_PAUSED)
        assert "maintenance" in refusal.message
        assert isinstance(await execute(runtime, "s__pay", {}), Completed) is (params == {"tool": "s/look"})
        await runtime.acts.perform("resume", ANN, params)
        assert isinstance(await execute(runtime, "s__look", {}), Completed)


# --- idempotency ---


def key(name: str) -> dict[str, Any]:
    return {"meta": {"gateway/idempotency-key": name}}


@pytest.mark.rule("idempotency.kept")
async def test_the_same_key_gives_what_is_kept_also_after_a_restart(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:pay": [{"effect": "paid"}, {"text": "receipt $count"}]})
    text = server_table(server)
    async with running(tmp_path, text) as runtime:
        first = await execute(runtime, "s__pay", {"n": 1}, **key("k"))
        second = await execute(runtime, "s__pay", {"n": 1}, **key("k"))
        assert text_of(first) == text_of(second)
        assert isinstance(second, Completed)
        assert second.source == "idempotency"
        refused(await execute(runtime, "s__pay", {"n": 2}, **key("k")), Code.IDEMPOTENCY_CONFLICT)
        refused(await execute(runtime, "s__look", {"n": 1}, **key("k")), Code.IDEMPOTENCY_CONFLICT)
        other = Principal(id="other", roles=("local",))
        assert isinstance(await execute(runtime, "s__pay", {"n": 1}, principal=other, **key("k")), Completed)
    async with running(tmp_path, text) as runtime:
        assert text_of(await execute(runtime, "s__pay", {"n": 1}, **key("k"))) == text_of(first)
    assert len(server.effects("paid")) == 2


@pytest.mark.rule("idempotency.joined")
async def test_an_unfinished_call_is_joined_and_a_joiners_cancellation_detaches_only_the_joiner(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:pay": [{"effect": "paid"}, {"gate": "go"}, {"text": "paid"}]})
    outcomes: list[Outcome] = []
    async with running(tmp_path, server_table(server)) as runtime:

        async def ask() -> None:
            outcomes.append(await execute(runtime, "s__pay", {"n": 1}, **key("k")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.wait_for("gate")
            with anyio.move_on_after(0.05):
                await ask()
            tasks.start_soon(ask)
            await until(lambda: sum(1 for _ in runtime.engine.running()) == 2)
            server.open_gate("go")
        assert [text_of(outcome) for outcome in outcomes] == ["paid", "paid"]
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("idempotency.released")
async def test_a_refusal_releases_the_key(tmp_path: Path) -> None:
    server = scripted(tmp_path, PAYS)
    text = server_table(server) + '[[quotas]]\nlimit = 1\nwindow = "1s"\n'
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", {"n": 0}), Completed)
        refused(await execute(runtime, "s__pay", {"n": 1}, **key("k")), Code.QUOTA_EXHAUSTED)
        outcomes: list[Outcome] = []

        async def again() -> None:
            while not outcomes or isinstance(outcomes[-1], Refused):
                outcomes.append(await execute(runtime, "s__pay", {"n": 1}, **key("k")))
                await anyio.sleep(0.05)

        with anyio.fail_after(10):
            await again()
        assert text_of(outcomes[-1]) == "paid"


@pytest.mark.rule("idempotency.released")
async def test_a_lost_answer_of_an_idempotent_call_releases_the_key(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:look": [[{"die": 1}], [{"text": "seen"}]]})
    text = server_table(server, more=READ + "retries = { attempts = 1 }\n")
    async with running(tmp_path, text) as runtime:
        lost = await execute(runtime, "s__look", {}, **key("k"))
        assert isinstance(lost, Failed), lost
        assert not lost.in_doubt
        await until(lambda: all(state.state == "available" for state in runtime.servers.states()))
        assert text_of(await execute(runtime, "s__look", {}, **key("k"))) == "seen"


@pytest.mark.rule("idempotency.in-doubt")
async def test_a_key_in_doubt_stays_so_until_an_operator_resolves_it(tmp_path: Path) -> None:
    server = scripted(
        tmp_path, {"tools/call:pay": [[{"effect": "paid"}, {"die": 1}], [{"effect": "paid"}, {"text": "paid"}]]}
    )
    text = server_table(server) + OPERATORS
    async with running(tmp_path, text) as runtime:
        for _ in range(3):
            outcome = await execute(runtime, "s__pay", {"n": 1}, **key("k"))
            assert isinstance(outcome, Failed)
            assert outcome.in_doubt
        assert len(server.effects("paid")) == 1
    async with running(tmp_path, text) as runtime:
        outcome = await execute(runtime, "s__pay", {"n": 1}, **key("k"))
        assert isinstance(outcome, Failed)
        kept = runtime.keys.kept("local", "k")
        assert kept is not None
        await runtime.acts.perform("resolve", ANN, {"call_id": kept.call_id})
        assert text_of(await execute(runtime, "s__pay", {"n": 1}, **key("k"))) == "paid"
    assert len(server.effects("paid")) == 2


@pytest.mark.rule("idempotency.suppression")
async def test_identical_writes_without_a_key_are_one_within_the_declared_window(tmp_path: Path) -> None:
    server = scripted(tmp_path, PAYS)
    text = server_table(server) + '[idempotency]\nsuppress_duplicates = "60s"\n'
    async with running(tmp_path, text) as runtime:
        for _ in range(3):
            assert text_of(await execute(runtime, "s__pay", {"n": 1})) == "paid"
        assert text_of(await execute(runtime, "s__pay", {"n": 2})) == "paid"
    assert len(server.effects("paid")) == 2


# --- dead letters ---


@pytest.mark.rule("deadletter.in-doubt")
async def test_a_write_in_doubt_is_kept_and_retried_only_by_who_knows_that_it_may_run_twice(tmp_path: Path) -> None:
    server = scripted(
        tmp_path, {"tools/call:pay": [[{"effect": "paid"}, {"die": 1}], [{"effect": "paid"}, {"text": "paid"}]]}
    )
    async with running(tmp_path, server_table(server) + OPERATORS) as runtime:
        outcome = await execute(runtime, "s__pay", {"amount": 3, "password": "hidden"})
        assert isinstance(outcome, Failed)
        (letter,) = await runtime.acts.perform("dead-letters.list", None, {})
        assert (letter["tool"], letter["in_doubt"], len(letter["attempts"])) == ("s/pay", True, 1)
        assert "params" not in letter
        shown = await runtime.acts.perform("dead-letters.show", ANN, {"call_id": letter["call_id"]})
        assert shown["params"]["arguments"] == {"amount": 3, "password": "hidden"}
        with pytest.raises(ActRefused, match="i-know-it-may-run-twice"):
            await runtime.acts.perform("dead-letters.retry", ANN, {"call_id": letter["call_id"]})
        assert len(server.effects("paid")) == 1
        params = {"call_id": letter["call_id"], "may_run_twice": True}
        done = await runtime.acts.perform("dead-letters.retry", ANN, params)
        assert done["result"]["content"][0]["text"] == "paid"
        assert [effect["arguments"] for effect in server.effects("paid")] == [{"amount": 3, "password": "hidden"}] * 2
        assert await runtime.acts.perform("dead-letters.list", None, {}) == []
        with pytest.raises(ActRefused, match="retried"):
            await runtime.acts.perform("dead-letters.retry", ANN, params)


@pytest.mark.rule("deadletter.exhausted", "hold.goes-with-its-purpose")
async def test_a_read_that_used_up_its_tries_is_kept_with_them_and_can_be_dropped(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"tools/call:look": [{"die": 1}]})
    text = server_table(server, more=READ + "retries = { attempts = 2, backoff_seconds = 0.01 }\n") + OPERATORS
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__look", {}), Failed)
        with anyio.fail_after(10):  # a read is answered once its outcome is queued
            while not (letters := await runtime.acts.perform("dead-letters.list", None, {})):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        (letter,) = letters
        assert (letter["in_doubt"], len(letter["attempts"])) == (False, 2)
        await runtime.acts.perform("dead-letters.drop", ANN, {"call_id": letter["call_id"]})
        assert await runtime.acts.perform("dead-letters.list", None, {}) == []
        dropped = await runtime.acts.perform("dead-letters.list", None, {"state": "dropped"})
        assert [letter["call_id"] for letter in dropped] == [letter["call_id"]]
        shown = await runtime.acts.perform("dead-letters.show", ANN, {"call_id": letter["call_id"]})
        assert (shown["state"], shown["params"]) == ("dropped", None), "its content went with its purpose"
        sealed = await runtime.journal.read(lambda raw: raw.execute("SELECT sealed FROM dead_letters").fetchall())
        assert sealed == [(b"",)]


@pytest.mark.rule("deadletter.in-doubt", "idempotency.in-doubt")
@pytest.mark.parametrize("restarted", [False, True])
async def test_to_retry_or_drop_what_is_in_doubt_frees_its_key_for_good(tmp_path: Path, restarted: bool) -> None:
    server = scripted(
        tmp_path, {"tools/call:pay": [[{"effect": "paid"}, {"die": 1}], [{"effect": "paid"}, {"text": "paid"}]]}
    )
    text = server_table(server) + OPERATORS
    async with running(tmp_path, text) as runtime:
        assert isinstance(await execute(runtime, "s__pay", {"n": 1}, **key("k")), Failed)
        if not restarted:
            (letter,) = await runtime.acts.perform("dead-letters.list", None, {})
            wanted = {"call_id": letter["call_id"], "may_run_twice": True}
            done = await runtime.acts.perform("dead-letters.retry", ANN, wanted)
            assert done["result"]["content"][0]["text"] == "paid", done
            assert text_of(await execute(runtime, "s__pay", {"n": 1}, **key("k"))) == "paid"
            assert len(server.effects("paid")) == 2
            return
    async with running(tmp_path, text) as runtime:
        (letter,) = await runtime.acts.perform("dead-letters.list", None, {})
        await runtime.acts.perform("dead-letters.drop", ANN, {"call_id": letter["call_id"]})
    async with running(tmp_path, text) as runtime:
        assert text_of(await execute(runtime, "s__pay", {"n": 1}, **key("k"))) == "paid"
    assert len(server.effects("paid")) == 2


async def test_a_retry_goes_through_the_whole_chain(tmp_path: Path) -> None:
    server = scripted(
        tmp_path, {"tools/call:pay": [[{"effect": "paid"}, {"die": 1}], [{"effect": "paid"}, {"text": "x"}]]}
    )
    async with running(tmp_path, server_table(server) + OPERATORS) as runtime:
        assert isinstance(await execute(runtime, "s__pay", {}), Failed)
        (letter,) = await runtime.acts.perform("dead-letters.list", None, {})
        await runtime.acts.perform("pause", ANN, {"tool": "s/pay"})
        done = await runtime.acts.perform(
            "dead-letters.retry", ANN, {"call_id": letter["call_id"], "may_run_twice": True}
        )
        assert done["refusal"]["code"] == "gateway.paused"
    assert len(server.effects("paid")) == 1
