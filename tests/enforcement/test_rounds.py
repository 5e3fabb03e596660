"""A call of several rounds, because its tool server asks for input, is one call to interrupts and under its key."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import types

from gateway.edge.calls import MAX_ROUNDS, Links
from tests.console.serving import AGENT_KEY, AGENTS, serving
from tests.edge.serving import modern_request
from tests.holds.test_agents_side import MODES, Person, connected
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ASK = {
    "ask": "elicitation/create",
    "params": {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}},
}
LOOP = '[[interrupts]]\nname = "loop"\nwhen = { identical_calls = 3, within = "60s" }\nthen = "pause-session"\n'


def asking(directory: Path, questions: int, era: Any = "modern") -> Scripted:
    on = {"tools/call:pay": [*[ASK] * questions, {"effect": "paid"}, {"text": "paid"}]}
    return Scripted(directory / "server", {"tools": [tool("pay")], "on": on}, era=era)


def text(url: str, more: str = "") -> str:
    return f'[servers.s]\nurl = {json.dumps(url)}\nisolation = "shared"\n{AGENTS}\n{more}\n'


@pytest.mark.rule("interrupt.rounds")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_the_rounds_of_a_call_are_no_calls_of_their_own(tmp_path: Path, mode: str, era: Any) -> None:
    server, person = asking(tmp_path, 4, era), Person("accept", {})
    async with server.http() as url, serving(tmp_path, text(url, LOOP)) as served:
        async with connected(served, mode, elicitation_callback=person) as client:
            for _ in range(2):
                result = await client.call_tool("s__pay", {})
                assert result.content == [types.TextContent(text="paid")], result
            result = await client.call_tool("s__pay", {})
            assert (result.meta or {})["gateway/refusal"]["code"] == "gateway.paused"
        assert len(person.asked) == 8
        assert len(server.effects("paid")) == 2


@pytest.mark.rule("idempotency.rounds")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_under_a_key_the_outcome_is_kept_and_not_the_question(tmp_path: Path, mode: str, era: Any) -> None:
    server, person = asking(tmp_path, 2, era), Person("accept", {})
    async with server.http() as url, serving(tmp_path, text(url)) as served:
        async with connected(served, mode, elicitation_callback=person) as client:
            meta: Any = {"gateway/idempotency-key": "k"}
            for _ in range(3):
                result = await client.call_tool("s__pay", {}, meta=meta)
                assert result.content == [types.TextContent(text="paid")], result
        assert len(person.asked) == 2
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("interrupt.rounds")
async def test_a_state_that_is_brought_again_is_a_call_of_its_own(tmp_path: Path) -> None:
    server = asking(tmp_path, 1)
    async with server.http() as url, serving(tmp_path, text(url, LOOP)) as served:

        async def put(**more: Any) -> dict[str, Any]:
            body, about = modern_request(
                "tools/call", {"name": "s__pay", "arguments": {}, **more}, capabilities={"elicitation": {}}
            )
            about |= {"authorization": f"Bearer {AGENT_KEY}", "accept": "application/json"}
            async with served.client.post(f"{served.base}/mcp", json=body, headers=about) as answer:
                found: dict[str, Any] = (await answer.json())["result"]
                return found

        result = await put()
        given = {key: {"action": "accept", "content": {}} for key in result["inputRequests"]}
        codes = []
        for _ in range(4):
            said = await put(inputResponses=given, requestState=result["requestState"])
            codes.append(said.get("_meta", {}).get("gateway/refusal", {}).get("code"))
        assert codes == [None, None, "gateway.paused", "gateway.paused"]


@pytest.mark.rule("interrupt.rounds")
def test_a_call_has_a_limited_number_of_rounds() -> None:
    links = Links()
    links.remember("claude", "state", "call-1", 0)
    assert links.follow("other", "state") == (None, 0)
    assert links.follow("claude", "state") == ("call-1", 1)
    logical, number = links.follow("claude", "state")
    assert logical == "call-1"
    assert number > MAX_ROUNDS
    links.remember("claude", "further", "call-1", number)
    assert links.follow("claude", "further")[1] > MAX_ROUNDS
