"""What an agent can do about its holds: ask what became of them, and, where its user is an approver, have the user asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError, types
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from gateway.decide.hold import HoldState, Operator
from gateway.model.call import Principal
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Held, Refused
from tests.console.serving import AGENT_KEY, CLAUDE, Served, scripted, serving, sha256, table
from tests.edge.serving import modern_request
from tests.gateway_process import PROGRAM, configure
from tests.running import ALLOW, OPERATORS, execute, server_table, until

pytestmark = pytest.mark.anyio

AMY = Operator(id="amy", role="approver")
HELD = {"held": True, "amount": 120}
MODES = ["legacy", "2026-07-28"]
OTHER_KEY = "other-key-" + "f1a2b3c4" * 6
OTHER = f'[agents.other]\nkey_sha256 = "{sha256(OTHER_KEY)}"\nroles = ["reader"]\n'


FINANCE = {"gateway.rego": ALLOW["gateway.rego"].replace('"reason": ', '"approvers": ["group:finance"], "reason": ')}


def with_approver(text: str, operator: str = "amy") -> str:
    return text.replace("[agents.claude]\n", f'[agents.claude]\napprover = "{operator}"\n')


@asynccontextmanager
async def connected(served: Served, mode: Any, *, key: str = AGENT_KEY, **settings: Any) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
        transport = streamable_http_client(f"{served.base}/mcp", http_client=http)
        with anyio.fail_after(60):
            async with Client(transport, mode=mode, **settings) as client:
                yield client


async def names(client: Client) -> list[str]:
    return [one.name for one in (await client.list_tools()).tools]


def refusal(result: types.CallToolResult) -> dict[str, Any]:
    assert result.is_error
    found: dict[str, Any] = (result.meta or {})["gateway/refusal"]
    return found


async def held(client: Client) -> str:
    """The id of the hold that a call of this client meets."""
    said = refusal(await client.call_tool("s__pay", HELD))
    assert said["code"] == "hold.pending"
    return str(said["hold"]["id"])


# --- gateway__holds ---


@pytest.mark.rule("hold.own-tool")
@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_that_has_had_a_hold_is_offered_a_tool_that_tells_its_state(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served, connected(served, mode) as client:
        assert "gateway__holds" not in await names(client)
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("gateway__holds", {})
        assert unknown.value.error.code == -32602
        hold_id = await held(client)
        async with connected(served, mode) as fresh:
            assert (await names(fresh))[-1] == "gateway__holds"
            said = await fresh.call_tool("gateway__holds", {})
            assert said.structured_content is not None
            (hold,) = said.structured_content["holds"]
            assert (hold["id"], hold["tool"], hold["state"]) == (hold_id, "s/pay", "pending")
            assert hold["arguments"] == HELD
            assert "Nobody has decided" in hold["next"]
            await served.runtime.book.decide(hold_id, AMY, approve=False, comment="not this month")
            said = await fresh.call_tool("gateway__holds", {"id": hold_id})
            assert said.structured_content is not None
            (hold,) = said.structured_content["holds"]
            assert hold["state"] == "denied"
            assert [(word["operator"], word["approved"], word["comment"]) for word in hold["decisions"]] == [
                ("amy", False, "not this month")
            ]
            wrong = await fresh.call_tool("gateway__holds", {"no": 1})
            assert refusal(wrong)["code"] == "schema.invalid"


@pytest.mark.rule("hold.own-tool")
@pytest.mark.parametrize("mode", MODES)
async def test_over_stdio_the_tool_is_there_too(tmp_path: Path, mode: Any) -> None:
    text = f"{server_table(scripted(tmp_path))}\n{OPERATORS}\n[approvals]\ninline_wait_seconds = 0.1\n"
    config = configure(tmp_path, text, policies=ALLOW)
    program = StdioServerParameters(command=PROGRAM[0], args=[*PROGRAM[1:], "stdio", "--config", str(config)])
    with anyio.fail_after(60):
        async with Client(program, mode=mode) as client:
            assert "gateway__holds" not in await names(client)
            hold_id = await held(client)
        async with Client(program, mode=mode) as client:  # a new one: clients of 2026-07-28 keep lists for a while
            assert "gateway__holds" in await names(client)
            said = await client.call_tool("gateway__holds", {})
            assert said.structured_content is not None
            assert [(hold["id"], hold["state"]) for hold in said.structured_content["holds"]] == [(hold_id, "pending")]


@pytest.mark.rule("hold.own-tool")
async def test_holds_of_others_are_not_told_and_nobody_else_is_offered_the_tool(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path), more=OTHER)) as served:
        outcome = await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)
        assert isinstance(outcome, Held)
        other = Principal(id="other", roles=("reader",))
        hidden = await execute(served.runtime, "gateway__holds", {}, principal=other)
        assert isinstance(hidden, Refused)
        assert hidden.code is Code.REQUEST_INVALID
        async with connected(served, "2026-07-28", key=OTHER_KEY) as client:
            assert "gateway__holds" not in await names(client)
            await held(client)
        async with connected(served, "2026-07-28", key=OTHER_KEY) as client:
            said = await client.call_tool("gateway__holds", {})
            assert said.structured_content is not None
            assert outcome.hold_id not in [hold["id"] for hold in said.structured_content["holds"]]
            said = await client.call_tool("gateway__holds", {"id": outcome.hold_id})
            assert said.structured_content == {"holds": []}


@pytest.mark.rule("hold.own-tool")
async def test_the_list_changes_for_the_agent_that_has_its_first_hold(tmp_path: Path) -> None:
    changed: dict[str, int] = {"claude": 0, "other": 0}

    def counts(who: str) -> Any:
        async def heard(message: Any) -> None:
            if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
                changed[who] += 1

        return heard

    async with (
        serving(tmp_path, table(scripted(tmp_path), more=OTHER)) as served,
        connected(served, "legacy", message_handler=counts("claude")) as claude,
        connected(served, "legacy", key=OTHER_KEY, message_handler=counts("other")),
    ):
        await held(claude)
        await until(lambda: changed["claude"] == 1)
        await held(claude)
        assert "gateway__holds" in await names(claude)
        assert changed == {"claude": 1, "other": 0}


@pytest.mark.rule("hold.own-tool")
async def test_what_the_own_tool_says_is_recorded_and_reaches_no_tool_server(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server)) as served:
        await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)
        said = await execute(served.runtime, "gateway__holds", {}, principal=CLAUDE)
        assert isinstance(said, Completed)
        assert said.source == "gateway"
        assert server.received("tools/call") == []
        # The outcome of a read is on its way to the store when its answer is given; a write is there.
        await served.runtime.journal.record("operator.acted", {"act": "tests"})
        otto = Operator(id="otto", role="operator")
        found = await served.runtime.acts.perform("calls.list", otto, {"tool": "gateway/holds"})
        assert [(call["tool"], call["outcome"]) for call in found["calls"]] == [("gateway/holds", "completed")]


# --- the user as approver ---


class Person:
    """A client's user, who answers what is asked."""

    def __init__(self, action: Any, content: Any = None) -> None:
        self.action, self.content = action, content
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params.message)
        if self.action is None:
            await anyio.sleep_forever()
        return types.ElicitResult(action=self.action, content=self.content)


@pytest.mark.rule("hold.elicited")
@pytest.mark.parametrize("mode", MODES)
async def test_an_approver_is_asked_by_their_own_client_and_the_call_runs(tmp_path: Path, mode: str) -> None:
    server, person = scripted(tmp_path), Person("accept", {"comment": "fine"})
    text = with_approver(table(server, approvals="inline_wait_seconds = 20"))
    async with serving(tmp_path, text) as served, connected(served, mode, elicitation_callback=person) as client:
        result = await client.call_tool("s__pay", HELD)
        assert result.content == [types.TextContent(text="paid")]
        assert len(server.effects("paid")) == 1
        (asked,) = person.asked
        assert "s/pay" in asked
        assert '"amount": 120' in asked
        (hold,) = served.runtime.book.all()
        (word,) = hold.decisions
        assert (word.operator, word.approve, word.channel, word.comment) == ("amy", True, "elicitation", "fine")


@pytest.mark.rule("hold.elicited")
@pytest.mark.parametrize("mode", MODES)
async def test_to_decline_is_to_deny_and_to_cancel_decides_nothing(tmp_path: Path, mode: str) -> None:
    server, person = scripted(tmp_path), Person("cancel")
    text = with_approver(table(server, approvals="inline_wait_seconds = 0.2"))
    async with serving(tmp_path, text) as served, connected(served, mode, elicitation_callback=person) as client:
        await held(client)
        assert len(person.asked) == 1
        person.action = "decline"
        assert refusal(await client.call_tool("s__pay", HELD))["code"] == "hold.denied"
        assert server.effects() == []
        (hold,) = served.runtime.book.all()
        assert hold.state is HoldState.DENIED


@pytest.mark.rule("hold.elicited")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("why", ["not configured", "client cannot", "not among the approvers"])
async def test_nobody_is_asked_where_it_is_not_theirs_to_decide(tmp_path: Path, mode: str, why: str) -> None:
    server, person = scripted(tmp_path), Person("accept")
    text = table(server)
    if why != "not configured":
        text = with_approver(text)
    settings: dict[str, Any] = {} if why == "client cannot" else {"elicitation_callback": person}
    policies = FINANCE if why == "not among the approvers" else ALLOW
    async with (
        serving(tmp_path, text, policies=policies) as served,
        connected(served, mode, **settings) as client,
    ):
        said = refusal(await client.call_tool("s__pay", HELD))
        assert said["code"] == "hold.pending"
        assert person.asked == []
        assert server.effects() == []
        assert [hold.state for hold in served.runtime.book.all()] == [HoldState.PENDING]


@pytest.mark.rule("hold.elicited")
async def test_what_is_decided_elsewhere_ends_the_question_to_a_handshake_era_client(tmp_path: Path) -> None:
    server, person = scripted(tmp_path), Person(None)
    text = with_approver(table(server, approvals="inline_wait_seconds = 20"))
    results: list[types.CallToolResult] = []
    async with (
        serving(tmp_path, text) as served,
        connected(served, "legacy", elicitation_callback=person) as client,
        anyio.create_task_group() as tasks,
    ):

        async def call() -> None:
            results.append(await client.call_tool("s__pay", HELD))

        tasks.start_soon(call)
        await until(lambda: bool(person.asked))
        (hold,) = served.runtime.book.all()
        await served.runtime.book.decide(hold.id, AMY, approve=True)
        await until(lambda: bool(results))
    assert results[0].content == [types.TextContent(text="paid")]


@pytest.mark.rule("hold.elicited")
async def test_a_client_whose_user_takes_their_time_learns_what_was_decided_meanwhile(tmp_path: Path) -> None:
    """2026-07-28: the client comes back with its state, and gets the outcome of what somebody else approved."""
    server = scripted(tmp_path)
    text = with_approver(table(server, approvals="inline_wait_seconds = 0.1"))
    async with serving(tmp_path, text) as served:

        async def decided_elsewhere(context: Any, params: Any) -> types.ElicitResult:
            (hold,) = served.runtime.book.all()
            await served.runtime.book.decide(hold.id, Operator(id="otto", role="operator"), approve=True)
            return types.ElicitResult(action="cancel")

        async with connected(served, "2026-07-28", elicitation_callback=decided_elsewhere) as client:
            result = await client.call_tool("s__pay", HELD)
            assert result.content == [types.TextContent(text="paid")]
            assert len(server.effects("paid")) == 1


@pytest.mark.rule("hold.elicited")
@pytest.mark.parametrize("forged", ["tampered", "another agent's", "of other arguments", "used before"])
async def test_a_question_is_answered_by_who_was_asked_with_the_state_that_was_given_out(
    tmp_path: Path, forged: str
) -> None:
    """2026-07-28, spoken by hand: an approval cannot be had with a state that is not this very call's."""
    server = scripted(tmp_path)
    text = with_approver(table(server, approvals="inline_wait_seconds = 0.1", more=OTHER))
    async with serving(tmp_path, text) as served:

        async def put(arguments: Any, key: str = AGENT_KEY, **more: Any) -> tuple[int, dict[str, Any]]:
            body, about = modern_request(
                "tools/call", {"name": "s__pay", "arguments": arguments, **more}, capabilities={"elicitation": {}}
            )
            about |= {"authorization": f"Bearer {key}", "accept": "application/json"}
            async with served.client.post(f"{served.base}/mcp", json=body, headers=about) as answer:
                return answer.status, await answer.json()

        _, asked = await put(HELD)
        result = asked["result"]
        assert result["resultType"] == "input_required"
        state, (question,) = result["requestState"], result["inputRequests"]
        responses = {question: {"action": "accept", "content": {}}}
        key, arguments = AGENT_KEY, HELD
        match forged:
            case "tampered":
                middle = len(state) // 2
                state = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
            case "another agent's":
                key = OTHER_KEY
            case "of other arguments":
                arguments = {**HELD, "amount": 120_000}
            case _:
                await put(HELD, requestState=state, inputResponses={question: {"action": "cancel"}})
        _, said = await put(arguments, key, requestState=state, inputResponses=responses)
        assert said["error"]["code"] == -32602
        assert "requestState" in said["error"]["message"]
        assert server.effects("paid") == []
        assert {hold.state for hold in served.runtime.book.all()} == {HoldState.PENDING}


@pytest.mark.rule("hold.never-the-agent")
async def test_an_agent_that_has_an_operators_name_is_not_asked(tmp_path: Path) -> None:
    server, person = scripted(tmp_path), Person("accept")
    text = with_approver(
        table(server, more=f'[operators.claude]\nkey_sha256 = "{"e" * 64}"\nrole = "approver"\n'), "claude"
    )
    async with serving(tmp_path, text) as served, connected(served, "legacy", elicitation_callback=person) as client:
        await held(client)
        assert person.asked == []


@pytest.mark.rule("hold.elicited")
async def test_an_approval_and_the_tool_servers_own_question_go_together(tmp_path: Path) -> None:
    form = {"message": "Your name?", "requestedSchema": {"type": "object", "properties": {}}}
    asking = {"ask": "elicitation/create", "params": form}
    server, person = scripted(tmp_path, asking), Person("accept", {})
    text = with_approver(table(server, approvals="inline_wait_seconds = 20"))
    async with serving(tmp_path, text) as served:
        for mode in MODES:
            async with connected(served, mode, elicitation_callback=person) as client:
                result = await client.call_tool("s__pay", HELD)
                assert not result.is_error, result
        assert ["Approve" in asked for asked in person.asked] == [True, False, True, False]
