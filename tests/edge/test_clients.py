"""The SDK's own client in each of its modes, over HTTP and stdio."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import orjson
import pytest
from mcp import Client, MCPError, types
from mcp.client.stdio import StdioServerParameters

from gateway.model.call import Call
from gateway.model.events import CatalogueChanged
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import World, prompt, resource, served, text_result, world

pytestmark = pytest.mark.anyio

MODES = ["legacy", "auto", "2026-07-28"]
MODERN = ["auto", "2026-07-28"]

PROGRAM = """
import anyio
from gateway.edge.stdio import serve_stdio, take_stdio
taken = take_stdio()
from gateway.edge.settings import EdgeSettings
from gateway.model.call import LOCAL
from tests.edge.test_clients import everything
anyio.run(serve_stdio, everything().gateway, LOCAL, EdgeSettings(), taken)
"""


async def progressing(call: Call, caller: Caller) -> Outcome:
    for number in (1, 2):
        await caller.notify("notifications/progress", {"progressToken": "own", "progress": number, "total": 2})
    return text_result("done")


async def elicits(call: Call, caller: Caller) -> Outcome:
    """As a modern tool server does it: a need for input, and the retry."""
    if "inputResponses" in call.params:
        return text_result(orjson.dumps(call.params["inputResponses"]["k"]["content"]).decode(), resultType="complete")
    params = {
        "mode": "form",
        "message": "Your name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
    }
    needed = {"k": {"method": "elicitation/create", "params": params}}
    state = {"resultType": "input_required", "inputRequests": needed, "requestState": "s"}
    return Completed(result=orjson.dumps(state))


async def prompts(call: Call, caller: Caller) -> Outcome:
    return Completed(result=b'{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}]}')


async def reads(call: Call, caller: Caller) -> Outcome:
    if call.method == "resources/read":
        return Completed(result=b'{"contents":[{"uri":"test://a","text":"content"}]}')
    return Completed(result=b"{}")


async def completes(call: Call, caller: Caller) -> Outcome:
    if call.method == "completion/complete":
        return Completed(result=b'{"completion":{"values":["one","two"]}}')
    return await prompts(call, caller)


def everything() -> World:
    return world(
        tool("echo"),
        tool("progressing"),
        tool("elicits"),
        prompt("p"),
        resource("test://a"),
        plays={"progressing": progressing, "elicits": elicits, "p": completes, "test://a": reads},
        capabilities={"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}},
    )


@asynccontextmanager
async def client(transport: str, mode: Any, made: World | None = None, **settings: Any) -> AsyncIterator[Client]:
    if transport == "http":
        async with served(made or everything()) as gateway, Client(gateway.url, mode=mode, **settings) as connected:
            yield connected
    else:
        parameters = StdioServerParameters(command=sys.executable, args=["-c", PROGRAM])
        async with Client(parameters, mode=mode, **settings) as connected:
            yield connected


@pytest.mark.rule("clients.sdk")
@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("mode", MODES)
async def test_the_sdks_client_uses_everything(transport: str, mode: str) -> None:
    heard: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async def elicited(context: Any, params: Any) -> types.ElicitResult:
        assert params.message == "Your name?"
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    with anyio.fail_after(30):
        async with client(transport, mode, elicitation_callback=elicited) as connected:
            names = [one.name for one in (await connected.list_tools()).tools]
            assert names == ["fixture__echo", "fixture__progressing", "fixture__elicits"]
            called = await connected.call_tool("fixture__echo", {"text": "hello"})
            assert called.content == [types.TextContent(text="hello")]
            await connected.call_tool("fixture__progressing", {}, progress_callback=progressed)
            assert heard == [1, 2]
            answered = await connected.call_tool("fixture__elicits", {})
            assert answered.content == [types.TextContent(text='{"name":"Ada"}')]
            wrong = await connected.call_tool("fixture__echo", {"text": 5})
            assert wrong.is_error
            with pytest.raises(MCPError) as unknown:
                await connected.call_tool("fixture__nothing", {})
            assert unknown.value.error.code == -32602
            assert (await connected.get_prompt("fixture__p")).messages[0].role == "user"
            assert (await connected.list_resources()).resources[0].uri == "test://a"
            read = (await connected.read_resource("test://a")).contents[0]
            assert isinstance(read, types.TextResourceContents)
            assert read.text == "content"
            reference = types.PromptReference(name="fixture__p")
            completed = await connected.complete(reference, {"name": "a", "value": "o"})
            assert completed.completion.values == ["one", "two"]


@pytest.mark.rule("http.listen")
@pytest.mark.parametrize("mode", MODERN)
async def test_the_sdks_client_listens(mode: str) -> None:
    made = everything()
    with anyio.fail_after(30):
        async with (
            client("http", mode, made) as connected,
            connected.listen(tools_list_changed=True, resource_subscriptions=["test://a"]) as subscription,
        ):
            assert subscription.honored.tools_list_changed
            assert subscription.honored.resource_subscriptions == ["test://a"]
            made.events.publish(CatalogueChanged(at=0, revision="2", kinds=("tools",)))
            assert type(await anext(subscription)).__name__ == "ToolsListChanged"
