"""2026-07-28 over HTTP: self-contained requests, the header ladder, streams, cancellation, subscriptions."""

from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import orjson
import pytest

from gateway.edge.protocol import CAPABILITIES_KEY, SERVER_KEY, SUBSCRIPTION_KEY, VERSION_KEY
from gateway.model.call import Call
from gateway.model.events import CatalogueChanged, SubscriptionEnded
from gateway.model.value import replace
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import (
    Served,
    agent,
    events_of,
    modern_request,
    prompt,
    resource,
    served,
    text_result,
    world,
)

pytestmark = pytest.mark.anyio

SCHEMA_WITH_HEADERS = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "region": {"type": "string", "x-mcp-header": "Region"},
        "size": {"type": "integer", "x-mcp-header": "Size"},
        "deep": {"type": "object", "properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}}},
    },
}


async def talkative(call: Call, caller: Caller) -> Outcome:
    await caller.notify("notifications/progress", {"progressToken": "servers-own", "progress": 1, "unknown": True})
    await caller.notify("notifications/message", {"level": "debug", "data": "fine"})
    await caller.notify("notifications/message", {"level": "warning", "data": "loud"})
    return text_result("done")


async def never(call: Call, caller: Caller) -> Outcome:
    await anyio.sleep_forever()
    raise AssertionError


# --- one request, one answer ---


@pytest.mark.rule("http.modern-call")
async def test_a_call_is_answered_with_the_servers_bytes() -> None:
    result = b'{"content":[],"unknown":{"b":1.0,"a":[]},"resultType":"complete"}'

    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=result)

    async with served(world(plays={"echo": play})) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"
    assert "mcp-session-id" not in answer.headers


async def test_the_envelope_stays_here_and_everything_else_is_forwarded() -> None:
    made = world()
    meta = {
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "x": 1,
        "progressToken": 5,
        "gateway/why": "to test",
    }
    async with served(made) as gateway:
        await gateway.modern(
            "tools/call",
            {"name": "fixture__echo", "arguments": {"text": "a"}, "inputResponses": {"k": {}}, "unknown": [1]},
            meta=meta,
            capabilities={"elicitation": {"form": {}}},
        )
    call = made.script.calls[0]
    assert call.meta == {"traceparent": meta["traceparent"], "x": 1}
    assert call.trace_id == "a" * 32
    assert call.why == "to test"
    assert call.params["inputResponses"] == {"k": {}}
    assert call.params["unknown"] == [1]
    assert call.client.capabilities == {"elicitation": {"form": {}}}
    assert (call.client.name, call.client.protocol_version, call.client.transport) == ("tests", "2026-07-28", "http")


@pytest.mark.rule("http.discover")
async def test_discover_tells_the_union_of_what_visible_servers_can() -> None:
    made = world(
        tool("echo", "one"),
        tool("echo", "two"),
        capabilities={"tools": {}, "completions": {}, "extensions": {"example/ext": {}}},
    )
    async with served(made) as gateway:
        result = (await gateway.modern("server/discover")).json()["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["capabilities"] == {"tools": {"listChanged": True}, "completions": {}}, (
        "an extension of two is of none"
    )
    assert (result["resultType"], result["_meta"][SERVER_KEY]["name"]) == ("complete", "gateway")
    assert result["ttlMs"] >= 0


async def test_an_extension_of_exactly_one_server_is_announced() -> None:
    made = world(capabilities={"extensions": {"example/ext": {"a": 1}}})
    async with served(made) as gateway:
        result = (await gateway.modern("server/discover")).json()["result"]
    assert result["capabilities"]["extensions"] == {"example/ext": {"a": 1}}


@pytest.mark.rule("http.lists")
async def test_lists_come_from_the_view_in_pages() -> None:
    tools = [
        tool(f"t{number:02}", definition={"name": f"t{number:02}", "inputSchema": {}, "x-own": 1})
        for number in range(7)
    ]
    made = world(*tools, prompt("p"), resource("test://a"))
    async with served(made, page_size=3) as gateway:
        names: list[str] = []
        cursor: str | None = None
        for _ in range(3):
            params = {"cursor": cursor} if cursor else {}
            result = (await gateway.modern("tools/list", params)).json()["result"]
            names += [one["name"] for one in result["tools"]]
            assert all(one["x-own"] == 1 for one in result["tools"])
            cursor = result.get("nextCursor")
        assert cursor is None
        assert names == [f"fixture__t{number:02}" for number in range(7)]
        assert (await gateway.modern("prompts/list")).json()["result"]["prompts"] == [{"name": "fixture__p"}]
        listed = (await gateway.modern("resources/list")).json()["result"]["resources"]
        assert listed == [{"uri": "test://a", "name": "name of test://a"}]
        assert (await gateway.modern("resources/templates/list")).json()["result"]["resourceTemplates"] == []


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", 5, "W10", "é", "bnVsbA"])
async def test_a_cursor_that_is_none_of_ours_is_invalid_params(cursor: Any) -> None:
    async with served(world()) as gateway:
        answer = await gateway.modern("tools/list", {"cursor": cursor})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


@pytest.mark.rule("http.cache-scope")
async def test_lists_are_public_only_where_nothing_is_hidden_from_the_only_principal() -> None:
    class HidesAll:
        revision = "hides"

        async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
            return True

        async def visible(self, questions: Any) -> list[bool | None]:
            return [False for _ in questions]

    async def scope(made: Any, headers: Mapping[str, str] | None = None) -> str:
        async with served(made) as gateway:
            return str((await gateway.modern("tools/list", headers=headers)).json()["result"]["cacheScope"])

    assert await scope(world()) == "public"
    assert await scope(world(policy=HidesAll())) == "private"
    assert await scope(world(agents=(agent("a", "key-a"),)), {"authorization": "Bearer key-a"}) == "private"


async def test_a_list_is_another_once_the_view_is() -> None:
    made = world()
    async with served(made) as gateway:
        assert len((await gateway.modern("tools/list")).json()["result"]["tools"]) == 1
        other = world(tool("echo"), tool("more")).gateway.snapshot
        made.gateway.snapshot = replace(other, catalogue=replace(other.catalogue, revision="other"))
        assert len((await gateway.modern("tools/list")).json()["result"]["tools"]) == 2


@pytest.mark.rule("http.unknown-method")
@pytest.mark.parametrize("method", ["ping", "logging/setLevel", "resources/subscribe", "initialize", "tasks/get", "x"])
async def test_a_method_that_the_revision_does_not_have_is_404(method: str) -> None:
    async with served(world()) as gateway:
        answer = await gateway.modern(method, {"uri": "a", "level": "info"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


async def test_an_extensions_method_is_a_call_where_one_server_has_it() -> None:
    def extensions(method: str) -> str | None:
        return "fixture" if method.startswith("example/") else None

    made = world(extensions=extensions)
    async with served(made) as gateway:
        answer = await gateway.modern("example/do", {"a": 1})
        assert answer.status_code in (200, 404)
        assert (await gateway.modern("other/do")).status_code == 404
    assert [end.call.method for end in made.journal.ends] == ["example/do"]


# --- the header ladder ---


@pytest.mark.rule("http.header-mismatch")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mcp-protocol-version": "2026-07-29"}, "MCP-Protocol-Version"),
        ({"mcp-protocol-version": "2025-11-25"}, "MCP-Protocol-Version"),
        ({"mcp-protocol-version": None}, "MCP-Protocol-Version"),
        ({"mcp-method": "tools/list"}, "Mcp-Method"),
        ({"mcp-method": "TOOLS/CALL"}, "Mcp-Method"),
        ({"mcp-method": None}, "Mcp-Method"),
        ({"mcp-name": "fixture__other"}, "Mcp-Name"),
        ({"mcp-name": None}, "Mcp-Name"),
        ({"mcp-name": "=?base64?!!?="}, "Mcp-Name"),
    ],
)
async def test_headers_that_are_not_the_body_are_400_before_anything_is_judged(
    change: dict[str, str | None], words: str
) -> None:
    made = world()
    body, headers = modern_request("tools/call", {"name": "fixture__echo"})
    kept = {name: value for name, value in {**headers, **change}.items() if value is not None}
    async with served(made) as gateway:
        answer = await gateway.post(body, kept)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.json()["id"]) == (400, -32020, 1)
    assert words in error["message"]
    assert made.journal.ends == []


@pytest.mark.rule("http.header-mismatch")
@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
async def test_a_routing_header_that_comes_twice_is_refused_even_where_both_agree(name: str) -> None:
    body, headers = modern_request("tools/call", {"name": "fixture__echo"})
    lines = [*headers.items(), ("content-type", "application/json"), ("accept", "*/*"), (name.upper(), headers[name])]
    async with served(world()) as gateway:
        answer = await gateway.client.post(gateway.url, content=orjson.dumps(body), headers=lines)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize(
    "lines",
    [
        ["MCP-Protocol-Version:2026-07-28", "Mcp-Method: \ttools/call  ", "Mcp-Name:   fixture__echo \t"],
        ["MCP-Protocol-Version: 2026-07-28", "MCP-METHOD: tools/call", "mcp-name: =?base64?Zml4dHVyZV9fZWNobw==?="],
    ],
)
async def test_white_space_around_a_header_and_its_base64_form_are_understood(lines: list[str]) -> None:
    body, _ = modern_request("tools/call", {"name": "fixture__echo"})
    async with served(world()) as gateway:
        status, answer = await gateway.raw(lines, orjson.dumps(body))
    assert status == 200, answer


@pytest.mark.rule("http.unsupported-version")
async def test_an_unknown_version_is_told_which_are_supported() -> None:
    async with served(world()) as gateway:
        answer = await gateway.modern(
            "tools/list", headers={"mcp-protocol-version": "2099-01-01"}, meta={VERSION_KEY: "2099-01-01"}
        )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["data"]) == (-32022, {"supported": ["2026-07-28"], "requested": "2099-01-01"})


@pytest.mark.rule("http.missing-meta")
@pytest.mark.parametrize(
    "params", [None, {}, {"_meta": 5}, {"_meta": {VERSION_KEY: "2026-07-28"}}, {"_meta": {CAPABILITIES_KEY: {}}},
               {"_meta": {VERSION_KEY: 5, CAPABILITIES_KEY: {}}}, {"_meta": {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: []}}],
)  # fmt: skip
async def test_a_request_without_its_envelope_is_400_and_says_what_is_missing(params: Any) -> None:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    async with served(world()) as gateway:
        answer = await gateway.post({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": params}, headers)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32602, 3)
    assert "_meta" in answer.json()["error"]["message"]


@pytest.mark.rule("http.param-headers")
@pytest.mark.parametrize(
    ("arguments", "headers", "fits"),
    [
        ({"region": "eu"}, {"mcp-param-region": "eu"}, True),
        ({"region": "é"}, {"mcp-param-region": "=?base64?w6k=?="}, True),
        ({"region": "eu"}, {}, False),
        ({"region": "eu"}, {"mcp-param-region": "us"}, False),
        ({"region": None}, {}, True),
        ({"text": "a"}, {"mcp-param-region": "eu"}, False),
        ({"size": 42}, {"mcp-param-size": "42"}, True),
        ({"size": 42}, {"mcp-param-size": "42.0"}, True),
        ({"size": 42}, {"mcp-param-size": "4.2e1"}, False),
        ({"size": 9007199254740993}, {"mcp-param-size": "9007199254740992"}, False),
        ({"deep": {"flag": True}}, {"mcp-param-flag": "true"}, True),
        ({"deep": {"flag": True}}, {"mcp-param-flag": "True"}, False),
        ({"text": "a"}, {"mcp-param-unknown": "x"}, True),
        ({}, {"mcp-param-region": "eu"}, False),
    ],
)
async def test_arguments_that_are_mirrored_in_headers_agree_with_them(
    arguments: dict[str, Any], headers: dict[str, str], fits: bool
) -> None:
    made = world(
        tool(
            "echo",
            schema=SCHEMA_WITH_HEADERS,
            definition={"name": "echo", "inputSchema": SCHEMA_WITH_HEADERS},
            arguments=None,
        )
    )
    async with served(made) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo", "arguments": arguments}, headers=headers)
    assert (answer.status_code == 200) is fits, answer.text
    if not fits:
        assert answer.json()["error"]["code"] == -32020
        assert made.journal.ends == []


# --- what is said before the answer ---


@pytest.mark.rule("http.modern-stream")
async def test_a_call_that_says_something_first_is_answered_as_a_stream() -> None:
    async with served(world(plays={"echo": talkative})) as gateway:
        answer = await gateway.modern(
            "tools/call",
            {"name": "fixture__echo"},
            meta={"progressToken": "mine", "io.modelcontextprotocol/logLevel": "info"},
        )
    assert answer.headers["content-type"] == "text/event-stream"
    progress, log, last = events_of(answer.text)
    assert progress["params"] == {"progressToken": "mine", "progress": 1, "unknown": True}
    assert log["params"] == {"level": "warning", "data": "loud"}
    assert last["result"]["content"][0]["text"] == "done"


@pytest.mark.rule("http.log-opt-in")
async def test_nothing_is_logged_or_reported_to_a_request_that_did_not_ask_for_it() -> None:
    async with served(world(plays={"echo": talkative})) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo"})
    assert answer.headers["content-type"] == "application/json"


async def test_a_client_that_takes_no_stream_gets_its_answer_alone() -> None:
    async with served(world(plays={"echo": talkative})) as gateway:
        answer = await gateway.modern(
            "tools/call", {"name": "fixture__echo"}, meta={"progressToken": 1}, headers={"accept": "application/json"}
        )
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"][0]["text"] == "done"


async def test_a_long_silence_becomes_a_stream_with_signs_of_life() -> None:
    release = anyio.Event()

    async def slow(call: Call, caller: Caller) -> Outcome:
        await release.wait()
        return text_result("late")

    async with served(world(plays={"echo": slow}), watch_seconds=0.01, ping_seconds=0.05) as gateway:
        body, headers = modern_request("tools/call", {"name": "fixture__echo"})
        base = {"content-type": "application/json", **headers}
        async with gateway.client.stream("POST", gateway.url, content=orjson.dumps(body), headers=base) as answer:
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                if text.count(": ping") >= 2:
                    release.set()
    assert events_of(text)[-1]["result"]["content"][0]["text"] == "late"


@pytest.mark.rule("http.modern-cancel")
async def test_closing_the_response_cancels_the_call() -> None:
    made = world(plays={"echo": never})
    async with served(made, watch_seconds=0.01) as gateway:
        gateway.client.timeout = httpx2.Timeout(0.2)
        with pytest.raises(httpx2.ReadTimeout):
            await gateway.modern("tools/call", {"name": "fixture__echo"})
        with anyio.fail_after(5):
            await made.journal.ended.wait()
    assert made.script.cancelled == ["echo"]
    assert made.journal.ends[0].outcome.code == "cancelled"  # type: ignore[union-attr]


@pytest.mark.rule("http.input-required")
async def test_a_need_for_input_and_its_state_pass_byte_for_byte_and_the_retry_is_linked() -> None:
    state = 'opaque \u00e9 "quoted" \\ \u2028'
    needed = orjson.dumps(
        {"resultType": "input_required", "requestState": state, "inputRequests": {"a": {"method": "x"}}}
    )

    async def play(call: Call, caller: Caller) -> Outcome:
        return text_result("done") if "requestState" in call.params else Completed(result=needed)

    made = world(plays={"echo": play})
    async with served(made) as gateway:
        first = await gateway.modern("tools/call", {"name": "fixture__echo"})
        assert needed in first.content
        given = first.json()["result"]["requestState"]
        again = {"name": "fixture__echo", "requestState": given, "inputResponses": {"a": {"action": "accept"}}}
        second = await gateway.modern("tools/call", again, identifier=2)
    assert second.json()["result"]["content"][0]["text"] == "done"
    one, two = made.script.calls
    assert two.params["requestState"] == state
    assert two.params["inputResponses"] == {"a": {"action": "accept"}}
    assert two.id != one.id
    assert two.logical_id == one.id


async def test_a_servers_error_code_makes_the_status() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(error=b'{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}')

    async with served(world(plays={"echo": play})) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo"})
    assert answer.status_code == 400
    assert answer.json()["error"]["data"] == {"requiredCapabilities": {"sampling": {}}}


async def test_reads_of_resources_carry_cache_hints() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=b'{"contents":[]}')

    async with served(world(resource("test://a"), plays={"test://a": play})) as gateway:
        answer = await gateway.modern("resources/read", {"uri": "test://a"})
    assert answer.json()["result"] == {"contents": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


# --- subscriptions ---


async def heard(
    gateway: Served, notifications: Any, meanwhile: Any, count: int, identifier: Any = "sub-1"
) -> list[Any]:
    """The first messages of a listen stream; `meanwhile` runs once it is acknowledged."""
    body, headers = modern_request("subscriptions/listen", {"notifications": notifications}, identifier=identifier)
    base = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    text = ""
    async with gateway.client.stream("POST", gateway.url, content=orjson.dumps(body), headers=base) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_text():
            before = len(events_of(text))
            text += chunk
            found = events_of(text)
            if before == 0 and found:
                await meanwhile()
            if len(found) >= count:
                return found
    return events_of(text)


@pytest.mark.rule("http.listen")
async def test_a_listen_stream_acknowledges_first_and_tells_what_was_asked_for() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=b"{}")

    made = world(
        tool("echo"), resource("test://a"), plays={"test://a": play}, capabilities={"tools": {}, "resources": {}}
    )

    async def meanwhile() -> None:
        made.events.publish(CatalogueChanged(at=0, revision="2", kinds=("prompts", "tools")))
        session = made.script.calls[0].session_id
        channel = await made.gateway.channel(session)
        assert channel is not None
        await channel.notify("notifications/resources/updated", {"uri": "test://b"})
        await channel.notify("notifications/resources/updated", {"uri": "test://a", "unknown": 1})

    unsubscribed = made.told(SubscriptionEnded)
    async with served(made) as gateway:
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": False,
            "resourceSubscriptions": ["test://a", "test://nowhere"],
        }
        acknowledged, changed, updated = await heard(gateway, wanted, meanwhile, 3)
        with anyio.fail_after(5):
            await unsubscribed.wait()
    meta = {SUBSCRIPTION_KEY: "sub-1"}
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"] == {
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["test://a"]},
        "_meta": meta,
    }
    assert (changed["method"], changed["params"]) == ("notifications/tools/list_changed", {"_meta": meta})
    assert updated["params"] == {"uri": "test://a", "unknown": 1, "_meta": meta}
    assert [end.call.method for end in made.journal.ends] == ["resources/subscribe"] * 2
    assert [event.uri for event in made.published if isinstance(event, SubscriptionEnded)] == ["test://a"]


async def test_a_listen_stream_ends_with_its_result_when_the_gateway_stops() -> None:
    async with served(world()) as gateway:
        messages = await heard(gateway, {"toolsListChanged": True}, lambda: gateway.mcp.drain(0), 2, identifier=77)
    assert messages[-1]["id"] == 77
    assert messages[-1]["result"]["_meta"][SUBSCRIPTION_KEY] == 77


@pytest.mark.parametrize(
    "notifications", [None, 5, {"resourceSubscriptions": "test://a"}, {"resourceSubscriptions": [5]}]
)
async def test_a_malformed_listen_is_invalid_params(notifications: Any) -> None:
    async with served(world()) as gateway:
        answer = await gateway.modern("subscriptions/listen", {"notifications": notifications})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


# --- sessions ---


@pytest.mark.rule("session.modern")
async def test_a_session_is_named_by_the_agent_or_is_one_per_client() -> None:
    made = world(agents=(agent("a", "key-a"), agent("b", "key-b")))

    async def session(key: str, **meta: Any) -> str:
        params = {"name": "fixture__echo"}
        await gateway.modern("tools/call", params, meta=meta, headers={"authorization": f"Bearer {key}"})
        return made.script.calls[-1].session_id

    async with served(made) as gateway:
        named = await session("key-a", **{"gateway/session": "job-1"})
        assert await session("key-a", **{"gateway/session": "job-1"}) == named
        assert await session("key-a", **{"gateway/session": "job-2"}) != named
        assert await session("key-b", **{"gateway/session": "job-1"}) != named, "scoped to the principal"
        unnamed = await session("key-a")
        assert await session("key-a") == unnamed
        assert await session("key-b") != unnamed
        assert await session("key-a", **{"io.modelcontextprotocol/clientInfo": {"name": "other"}}) != unnamed
        assert "gateway/session" not in made.script.calls[0].meta


@pytest.mark.parametrize("named", ["", "x" * 129, 5, {}])
async def test_a_session_name_of_a_wrong_form_is_invalid_params(named: Any) -> None:
    async with served(world()) as gateway:
        answer = await gateway.modern("tools/list", meta={"gateway/session": named})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
