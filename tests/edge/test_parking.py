"""The bridge's fourth cell: a client of 2026-07-28 and a tool server that asks in the middle of its call."""

from typing import Any

import anyio
import httpx2
import orjson
import pytest

from gateway.edge.parking import PREFIX, Parking
from gateway.model.call import Call
from gateway.model.value import replace
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import (
    Served,
    World,
    agent,
    connected,
    events_of,
    modern_request,
    prompt,
    resource,
    served,
    text_result,
    world,
)
from tests.edge.test_security import AGENTS, A, B

pytestmark = pytest.mark.anyio

ELICIT = {"method": "elicitation/create", "params": {"mode": "form", "message": "Sure?", "unknown": 1}}
CAN: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


async def asking(call: Call, caller: Caller) -> Outcome:
    """Asks twice, and says what it was told."""
    first = await caller.ask({"ask": ELICIT})
    await caller.notify("notifications/progress", {"progressToken": "own", "progress": 1})
    second = await caller.ask({"ask": {"method": "roots/list"}})
    return text_result(orjson.dumps([first["ask"], second["ask"]]).decode())


def asker(**plays: Any) -> World:
    return world(tool("ask"), tool("echo"), prompt("p"), plays={"ask": asking, "p": asking, **plays}, agents=AGENTS)


async def call(gateway: Served, params: Any = None, *, method: str = "tools/call", **changes: Any) -> httpx2.Response:
    body = {"name": "fixture__ask", "arguments": {"text": "a"}, **(params or {})}
    return await gateway.modern(method, body, **{"capabilities": CAN, "headers": A, **changes})


def needed(answer: httpx2.Response) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The result that needs input; its state; and an answer to each of its requests, by the key."""
    assert answer.status_code == 200, answer.text
    result = (
        events_of(answer.text)[-1]["result"]
        if "event-stream" in answer.headers["content-type"]
        else answer.json()["result"]
    )
    assert result["resultType"] == "input_required", result
    responses = {key: {"action": "accept", "content": {"key": key}} for key in result["inputRequests"]}
    return result, result["requestState"], responses


def said(answer: httpx2.Response) -> Any:
    """What the tool was told in the end."""
    text = events_of(answer.text)[-1] if "event-stream" in answer.headers["content-type"] else answer.json()
    return orjson.loads(text["result"]["content"][0]["text"])


@pytest.mark.rule("bridge.parked")
async def test_a_question_in_mid_call_parks_it_and_the_retry_goes_on_with_the_answer() -> None:
    made = asker()
    async with served(made) as gateway:
        result, state, responses = needed(await call(gateway))
        assert list(result["inputRequests"].values()) == [ELICIT]
        assert state.startswith(PREFIX)
        retry = {"requestState": state, "inputResponses": responses}
        answer = await call(gateway, retry, identifier="other", meta={"progressToken": "of the second round"})
        assert answer.headers["content-type"] == "text/event-stream"
        assert events_of(answer.text)[0]["params"]["progressToken"] == "of the second round"
        result, state, more = needed(answer)
        assert events_of(answer.text)[-1]["id"] == "other"
        assert [one["method"] for one in result["inputRequests"].values()] == ["roots/list"]
        assert not set(more) & set(responses), "keys are not used twice"
        done = await call(gateway, {"requestState": state, "inputResponses": more}, identifier=3)
        assert said(done) == [{"result": one} for one in (*responses.values(), *more.values())]
        assert len(gateway.mcp.parking) == 0
    assert len(made.journal.ends) == 1, "one call, whatever its rounds"


@pytest.mark.rule("bridge.parked")
async def test_a_prompt_may_be_parked_as_well() -> None:
    async with served(asker()) as gateway:
        _, state, responses = needed(await call(gateway, {"name": "fixture__p"}, method="prompts/get"))
        retry = {"name": "fixture__p", "requestState": state, "inputResponses": responses}
        needed(await call(gateway, retry, method="prompts/get"))


async def test_a_call_that_asks_nothing_is_answered_at_once_though_it_might_have() -> None:
    async with served(asker()) as gateway:
        answer = await call(gateway, {"name": "fixture__echo"})
    assert answer.json()["result"]["content"][0]["text"] == "a"


async def test_questions_that_come_together_are_put_together_and_what_is_not_answered_is_asked_again() -> None:
    async def two(call: Call, caller: Caller) -> Outcome:
        answers: dict[str, Any] = {}

        async def one(name: str) -> None:
            params = {"mode": "form", "message": name}
            answers[name] = (await caller.ask({"ask": {"method": "elicitation/create", "params": params}}))["ask"]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "a")
            tasks.start_soon(one, "b")
        return text_result(orjson.dumps(answers).decode())

    async with served(asker(ask=two)) as gateway:
        result, state, responses = needed(await call(gateway))
        keys = {one["params"]["message"]: key for key, one in result["inputRequests"].items()}
        assert set(keys) == {"a", "b"}
        part = {keys["a"]: responses[keys["a"]], "nobody-asked": {}}
        result, state, _ = needed(await call(gateway, {"requestState": state, "inputResponses": part}))
        assert list(result["inputRequests"]) == [keys["b"]]
        done = await call(gateway, {"requestState": state, "inputResponses": responses})
    assert said(done)["b"] == {"result": responses[keys["b"]]}


@pytest.mark.rule("bridge.state-sealed")
@pytest.mark.parametrize(
    "how", ["changed", "cut", "foreign", "arguments", "tool", "method", "replayed", "used", "garbage", "other"]
)
async def test_a_state_that_is_not_exactly_this_calls_is_refused_and_nothing_runs(how: str) -> None:
    made = asker()
    async with served(made) as gateway:
        _, state, responses = needed(await call(gateway))
        retry: dict[str, Any] = {"requestState": state, "inputResponses": responses}
        changes: dict[str, Any] = {}
        match how:
            case "changed":
                middle = len(PREFIX) + 20
                letter = "A" if state[middle] != "A" else "B"
                retry["requestState"] = state[:middle] + letter + state[middle + 1 :]
            case "cut":
                retry["requestState"] = state[:-3]
            case "foreign":
                changes["headers"] = B
            case "arguments":
                retry["arguments"] = {"text": "b"}
            case "tool":
                retry["name"] = "fixture__echo"
            case "method":
                changes["method"] = "prompts/get"
                retry["name"] = "fixture__p"
            case "replayed":
                _, newer, _ = needed(await call(gateway, retry))
                assert newer != state
            case "used":
                _, newer, more = needed(await call(gateway, retry))
                await call(gateway, {"requestState": newer, "inputResponses": more})
                retry["requestState"] = newer
            case "garbage":
                retry["requestState"] = PREFIX + "é!" * 50
            case _:
                other = Parking(seconds=60, limit=10, per_principal=10)
                parked = other.begin("a", b"")
                assert parked is not None
                retry["requestState"] = other.park(parked)
        before = len(made.script.calls)
        answer = await call(gateway, retry, **changes)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602), answer.text
        assert "requestState" in answer.json()["error"]["message"]
        assert len(made.script.calls) == before


@pytest.mark.rule("bridge.parked-limits")
async def test_a_parked_call_ends_with_its_age_and_the_tool_server_is_told() -> None:
    made = asker()
    async with served(made, parked_seconds=0) as gateway:
        _, state, responses = needed(await call(gateway))
        gateway.mcp.parking.end_expired()
        with anyio.fail_after(5):
            await made.journal.ended.wait()
        late = await call(gateway, {"requestState": state, "inputResponses": responses})
    assert late.json()["error"]["code"] == -32602
    assert "expired" in late.json()["error"]["message"]
    assert made.script.cancelled == ["ask"]


@pytest.mark.rule("bridge.parked-limits")
async def test_beyond_the_limit_a_call_runs_and_its_questions_are_answered_with_an_error() -> None:
    async with served(asker(), max_parked_per_principal=1) as gateway:
        needed(await call(gateway))
        answer = await call(gateway)
        assert all("error" in one for one in said(answer))
        needed(await call(gateway, headers=B))


async def test_a_parked_call_keeps_its_session_and_ends_with_the_gateway() -> None:
    made = asker()
    async with served(made, session_idle_seconds=0) as gateway:
        _, state, responses = needed(await call(gateway))
        gateway.mcp.sessions.end_idle()
        needed(await call(gateway, {"requestState": state, "inputResponses": responses}))
    assert made.script.cancelled == ["ask"]


async def test_closing_the_response_of_a_round_that_runs_cancels_the_call() -> None:
    async def slow(call: Call, caller: Caller) -> Outcome:
        await caller.ask({"ask": ELICIT})
        await anyio.sleep_forever()
        raise AssertionError

    made = asker(ask=slow)
    async with served(made, watch_seconds=0.01) as gateway:
        _, state, responses = needed(await call(gateway))
        gateway.client.timeout = httpx2.Timeout(0.2)
        with pytest.raises(httpx2.ReadTimeout):
            await call(gateway, {"requestState": state, "inputResponses": responses})
        with anyio.fail_after(5):
            await made.journal.ended.wait()
    assert made.script.cancelled == ["ask"]


@pytest.mark.rule("bridge.capability")
@pytest.mark.parametrize(
    ("capabilities", "request_", "required"),
    [
        ({}, ELICIT, {"elicitation": {}}),
        ({"roots": {}}, {"method": "sampling/createMessage", "params": {}}, {"sampling": {}}),
        (
            {"elicitation": {}},
            {"method": "elicitation/create", "params": {"mode": "url"}},
            {"elicitation": {"url": {}}},
        ),
    ],
)
async def test_what_the_client_did_not_declare_is_said_in_the_revisions_own_error(
    capabilities: Any, request_: Any, required: Any
) -> None:
    async def needs(call: Call, caller: Caller) -> Outcome:
        answer = (await caller.ask({"ask": request_}))["ask"]
        return Completed(error=orjson.dumps({"code": -32603, "message": answer["error"]["message"], "data": [1]}))

    async with served(asker(ask=needs)) as gateway:
        answer = await call(gateway, capabilities=capabilities)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, -32021)
    assert error["data"]["requiredCapabilities"] == required
    assert error["data"]["cause"]["data"] == [1], "the tool server's own words are not lost"


async def test_a_tool_that_can_do_without_is_not_refused() -> None:
    async def copes(call: Call, caller: Caller) -> Outcome:
        await caller.ask({"ask": ELICIT})
        return text_result("without")

    async with served(asker(ask=copes)) as gateway:
        answer = await call(gateway, capabilities={})
    assert answer.json()["result"]["content"][0]["text"] == "without"


@pytest.mark.rule("bridge.parked")
async def test_a_call_is_parked_on_stdio_too() -> None:
    made = world(tool("ask"), plays={"ask": asking})
    async with connected(made) as wire:
        params: dict[str, Any] = {"name": "fixture__ask"}
        for identifier in ("one", "two"):
            body, _ = modern_request("tools/call", params, identifier=identifier, capabilities=CAN)
            await wire.send(body)
            answer = await wire.receive()
            assert answer["id"] == identifier
            result = answer["result"]
            params = {
                **params,
                "requestState": result["requestState"],
                "inputResponses": {key: {"n": identifier} for key in result["inputRequests"]},
            }
        body, _ = modern_request("tools/call", params, identifier="three", capabilities=CAN)
        await wire.send(body)
        answer = await wire.receive()
    assert orjson.loads(answer["result"]["content"][0]["text"]) == [{"result": {"n": "one"}}, {"result": {"n": "two"}}]


async def test_many_parked_calls_of_many_agents_are_never_confused() -> None:
    async def own(call: Call, caller: Caller) -> Outcome:
        params = {"mode": "form", "message": call.arguments["text"]}
        answer = await caller.ask({"ask": {"method": "elicitation/create", "params": params}})
        return text_result(call.arguments["text"] + " " + answer["ask"]["result"]["content"])

    wrong: list[str] = []
    agents = tuple(agent(f"a{number}", f"key-{number}") for number in range(10))
    made = world(tool("ask"), plays={"ask": own}, agents=agents)

    async def one(gateway: Served, number: int) -> None:
        headers = {"authorization": f"Bearer key-{number % 10}"}
        arguments = {"arguments": {"text": f"n{number}"}}
        result, state, _ = needed(await call(gateway, arguments, headers=headers))
        answers = {key: {"content": one["params"]["message"]} for key, one in result["inputRequests"].items()}
        retry = {**arguments, "requestState": state, "inputResponses": answers}
        answer = await call(gateway, retry, headers=headers)
        if answer.json()["result"]["content"][0]["text"] != f"n{number} n{number}":
            wrong.append(answer.text)

    async with served(made) as gateway:
        gateway.client.timeout = httpx2.Timeout(60)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, gateway, number)
    assert wrong == []


@pytest.mark.rule("bridge.error-codes")
async def test_a_handshake_servers_missing_resource_is_what_2026_07_28_calls_it() -> None:
    async def missing(call: Call, caller: Caller) -> Outcome:
        return Completed(error=b'{"code":-32002,"message":"no","data":{"uri":"test://a"},"unknown":1}')

    async with served(world(resource("test://a"), plays={"test://a": missing})) as gateway:
        modern = await gateway.modern("resources/read", {"uri": "test://a"})
        session = await gateway.initialize()
        read = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "test://a"}}
        legacy = await gateway.post(read, session)
    assert modern.status_code == 400
    assert modern.json()["error"] == {"code": -32602, "message": "no", "data": {"uri": "test://a"}, "unknown": 1}
    assert legacy.json()["error"]["code"] == -32002, "untouched within its own era"


@pytest.mark.rule("bridge.error-codes")
async def test_a_page_that_has_to_be_visited_first_is_a_need_for_input() -> None:
    page = {"mode": "url", "url": "https://example.org/x", "message": "Sign in", "elicitationId": "e1"}

    async def first(call: Call, caller: Caller) -> Outcome:
        assert "inputResponses" not in call.params
        return Completed(error=orjson.dumps({"code": -32042, "message": "m", "data": {"elicitations": [page]}}))

    made = asker(ask=first)
    servers = made.gateway.snapshot.catalogue.servers
    old = {name: replace(server, protocol_version="2025-11-25") for name, server in servers.items()}
    made.gateway.snapshot = replace(
        made.gateway.snapshot, catalogue=replace(made.gateway.snapshot.catalogue, servers=old)
    )
    async with served(made) as gateway:
        can = await call(gateway, capabilities={"elicitation": {"form": {}, "url": {}}})
        retried = await call(
            gateway, {"inputResponses": {"url-1": {"action": "accept"}}}, capabilities={"elicitation": {"url": {}}}
        )
        cannot = await call(gateway, capabilities={"elicitation": {}})
    for answer in (can, retried):
        params = {"mode": "url", "url": "https://example.org/x", "message": "Sign in"}
        requests = {"url-1": {"method": "elicitation/create", "params": params}}
        assert answer.json()["result"] == {"resultType": "input_required", "inputRequests": requests}
    assert cannot.json()["error"]["code"] == -32021
    assert cannot.json()["error"]["data"]["requiredCapabilities"] == {"elicitation": {"url": {}}}


async def test_a_question_that_its_server_takes_back_is_not_put() -> None:
    async def changes_its_mind(call: Call, caller: Caller) -> Outcome:
        with anyio.move_on_after(0.001):
            await caller.ask({"ask": ELICIT})
        await anyio.sleep(0.05)
        return text_result("never mind")

    async with served(asker(ask=changes_its_mind)) as gateway:
        answer = await call(gateway)
    assert answer.json()["result"]["content"][0]["text"] == "never mind"
