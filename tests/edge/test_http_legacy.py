"""The handshake era over HTTP: sessions, streams and resuming, live questions to the client, batches."""

from collections.abc import Mapping
from typing import Any

import anyio
import orjson
import pytest

from gateway.edge.protocol import VERSION_KEY
from gateway.model.call import Call
from gateway.model.events import CatalogueChanged, RootsChanged, SessionEnded, SubscriptionEnded
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import (
    Served,
    events_of,
    initialize_request,
    resource,
    served,
    text_result,
    world,
)

pytestmark = pytest.mark.anyio

ASK = {"method": "elicitation/create", "params": {"message": "Sure?", "unknown": 1}}


def call(name: str = "echo", identifier: Any = 1, **params: Any) -> dict[str, Any]:
    """A `tools/call`."""
    return {
        "jsonrpc": "2.0",
        "id": identifier,
        "method": "tools/call",
        "params": {"name": f"fixture__{name}", "arguments": {}, **params},
    }


async def talkative(call: Call, caller: Caller) -> Outcome:
    await caller.notify("notifications/progress", {"progressToken": "servers-own", "progress": 1})
    await caller.notify("notifications/message", {"level": "debug", "data": "fine"})
    return text_result("done")


async def asking(call: Call, caller: Caller) -> Outcome:
    answers = await caller.ask({"a": ASK, "b": {"method": "roots/list"}})
    return text_result(orjson.dumps({"a": answers["a"], "b": answers["b"]}).decode())


async def never(call: Call, caller: Caller) -> Outcome:
    await anyio.sleep_forever()
    raise AssertionError


class Stream:
    """An open event stream: the messages as they come."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.text = ""
        self._chunks = answer.aiter_text()
        self._given = 0

    async def next(self) -> Any:
        """The next message."""
        with anyio.fail_after(5):
            while len(events_of(self.text)) <= self._given:
                self.text += await self._chunks.__anext__()
        self._given += 1
        return events_of(self.text)[self._given - 1]

    def last_id(self) -> str:
        """The id of the last event that came."""
        return [line.removeprefix("id: ") for line in self.text.split("\n") if line.startswith("id: ")][-1]


def streaming(gateway: Served, body: Any, session: Mapping[str, str]) -> Any:
    """A POST whose answer is read as it comes."""
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **session}
    return gateway.client.stream("POST", gateway.url, content=orjson.dumps(body), headers=headers)


def standing(gateway: Served, session: Mapping[str, str], **headers: str) -> Any:
    """The GET stream."""
    return gateway.client.stream("GET", gateway.url, headers={"accept": "text/event-stream", **session, **headers})


# --- sessions ---


@pytest.mark.rule("session.handshake")
@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ],
)
async def test_a_handshake_settles_on_a_version_and_opens_a_session(offered: str, agreed: str) -> None:
    made = world(instructions="Read this.")
    async with served(made) as gateway:
        answer = await gateway.post(initialize_request(offered))
        result = answer.json()["result"]
        session = {"mcp-session-id": answer.headers["mcp-session-id"]}
        listed = await gateway.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, session)
        called = await gateway.post(call(), session)
    assert result["protocolVersion"] == agreed
    assert result["serverInfo"]["name"] == "gateway"
    assert result["instructions"] == "Read this."
    assert "resultType" not in listed.json()["result"]
    assert "ttlMs" not in listed.json()["result"]
    assert called.json()["result"]["content"] == [{"type": "text", "text": ""}]
    assert made.script.calls[0].client.protocol_version == agreed
    assert made.script.calls[0].session_id == session["mcp-session-id"]
    assert len(session["mcp-session-id"]) >= 32


@pytest.mark.parametrize(
    "params", [{}, {"protocolVersion": 5}, {"protocolVersion": "2025-11-25", "capabilities": []}, {"protocolVersion": "2025-11-25", "clientInfo": 1}]
)  # fmt: skip
async def test_a_malformed_handshake_opens_nothing(params: Any) -> None:
    async with served(world()) as gateway:
        answer = await gateway.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
    assert "mcp-session-id" not in answer.headers


@pytest.mark.rule("session.not-found")
async def test_a_request_without_a_session_is_400_and_with_an_unknown_one_404() -> None:
    async with served(world()) as gateway:
        assert (await gateway.post(call())).status_code == 400
        assert (await gateway.post(call(), {"mcp-session-id": "nobody"})).status_code == 404
        for method in ("GET", "DELETE"):
            headers = {"accept": "text/event-stream"}
            assert (await gateway.client.request(method, gateway.url, headers=headers)).status_code == 400
            headers["mcp-session-id"] = "nobody"
            assert (await gateway.client.request(method, gateway.url, headers=headers)).status_code == 404


@pytest.mark.rule("session.delete")
async def test_a_deleted_session_is_gone_and_what_it_had_in_flight_is_cancelled() -> None:
    made = world(plays={"echo": never})
    async with served(made) as gateway, anyio.create_task_group() as tasks:
        session = await gateway.initialize()
        answers = []

        async def post() -> None:
            answers.append(await gateway.post(call(), session))

        tasks.start_soon(post)
        with anyio.fail_after(5):
            while not made.script.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert (await gateway.client.delete(gateway.url, headers=session)).status_code == 200
        assert (await gateway.post(call(), session)).status_code == 404
        await made.journal.ended.wait()
    assert made.script.cancelled == ["echo"]
    assert [event.reason for event in made.published if isinstance(event, SessionEnded)] == ["deleted by its client"]


@pytest.mark.rule("session.idle")
async def test_an_idle_session_ends_and_one_with_an_open_stream_does_not() -> None:
    made = world()
    async with served(made, session_idle_seconds=0) as gateway:
        idle, busy = await gateway.initialize(), await gateway.initialize()
        async with standing(gateway, busy) as answer:
            assert answer.status_code == 200
            gateway.mcp.sessions.end_idle()
            assert (await gateway.post(call(), idle)).status_code == 404
            assert (await gateway.post(call(), busy)).status_code == 200
    assert "idle" in [event.reason for event in made.published if isinstance(event, SessionEnded)]


async def test_idleness_counts_from_the_end_of_what_was_open() -> None:
    async with served(world(), session_idle_seconds=0.2) as gateway:
        session = await gateway.initialize()
        async with standing(gateway, session):
            await anyio.sleep(0.25)
        gateway.mcp.sessions.end_idle()
        assert (await gateway.post(call(), session)).status_code == 200


@pytest.mark.rule("session.limits")
async def test_requests_in_flight_and_subscriptions_of_one_session_are_limited() -> None:
    started, release = anyio.Event(), anyio.Event()

    async def play(call: Call, caller: Caller) -> Outcome:
        started.set()
        await release.wait()
        return text_result("done")

    async def subscribed(call: Call, caller: Caller) -> Outcome:
        return Completed(result=b"{}")

    made = world(tool("echo"), resource("test://a"), plays={"echo": play, "test://a": subscribed})
    async with served(made, max_in_flight=1, max_subscriptions=1) as gateway, anyio.create_task_group() as tasks:
        session = await gateway.initialize()
        tasks.start_soon(gateway.post, call(), session)
        tasks.start_soon(gateway.modern, "tools/call", {"name": "fixture__echo"})
        with anyio.fail_after(5):
            while len(made.script.calls) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        legacy = await gateway.post(call(identifier=2), session)
        modern = await gateway.modern("tools/call", {"name": "fixture__echo"})
        release.set()
        assert not -32768 <= legacy.json()["error"]["code"] <= -32000
        assert (modern.status_code, modern.headers["retry-after"]) == (503, "1")
        answers = []
        for identifier, uri in ((3, "test://a"), (4, "test://b"), (5, "test://a")):
            params = {"uri": uri}
            body = {"jsonrpc": "2.0", "id": identifier, "method": "resources/subscribe", "params": params}
            answers.append((await gateway.post(body, session)).json())
        assert answers[0]["result"] == answers[2]["result"] == {}
        assert "At most 1" in answers[1]["error"]["message"]


@pytest.mark.rule("session.limits")
async def test_a_new_session_takes_the_place_of_the_longest_idle_one_and_never_of_a_busy_one() -> None:
    async with served(world(), max_sessions_per_principal=2) as gateway:
        first, second = await gateway.initialize(), await gateway.initialize()
        third = await gateway.initialize()
        assert (await gateway.post(call(), first)).status_code == 404
        async with standing(gateway, second), standing(gateway, third):
            refused = await gateway.post(initialize_request())
            assert refused.status_code == 503
            assert refused.headers["retry-after"]


# --- answers and streams ---


@pytest.mark.rule("http.legacy-stream")
async def test_a_call_that_says_something_first_is_a_stream_with_ids_that_opens_with_a_priming_event() -> None:
    async with served(world(plays={"echo": talkative}), retry_ms=1234) as gateway:
        session = await gateway.initialize()
        answer = await gateway.post(call(_meta={"progressToken": "mine"}), session)
        older = {**session, "mcp-protocol-version": "2025-06-18"}
        unprimed = await gateway.post(call(identifier=2), older)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text.startswith("id: 1_0\nretry: 1234\ndata: \n\n")
    progress, log, last = events_of(answer.text)
    assert progress["params"]["progressToken"] == "mine"
    assert log["method"] == "notifications/message"
    assert last["result"]["content"][0]["text"] == "done"
    assert not unprimed.text.startswith("id: 2_0")


@pytest.mark.rule("http.log-level")
async def test_the_level_that_a_session_sets_holds_for_its_calls() -> None:
    async with served(world(plays={"echo": talkative})) as gateway:
        session = await gateway.initialize()
        for level, status in (("warning", 200), ("loud", 200)):
            params = {"level": level}
            answer = await gateway.post(
                {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": params}, session
            )
            assert answer.status_code == status
        assert answer.json()["error"]["code"] == -32602
        quiet = await gateway.post(call(), session)
    assert quiet.headers["content-type"] == "application/json"


@pytest.mark.rule("http.resume")
async def test_a_client_that_lost_its_stream_resumes_it_and_the_call_was_never_cancelled() -> None:
    release, ready = anyio.Event(), anyio.Event()

    async def play(call: Call, caller: Caller) -> Outcome:
        await caller.notify("notifications/message", {"level": "info", "data": 1})
        ready.set()
        await release.wait()
        await caller.notify("notifications/message", {"level": "info", "data": 2})
        return text_result("done")

    made = world(plays={"echo": play})
    async with served(made, watch_seconds=0.01) as gateway:
        session = await gateway.initialize()
        async with streaming(gateway, call(), session) as answer:
            stream = Stream(answer)
            assert (await stream.next())["params"]["data"] == 1
            last = stream.last_id()
        await ready.wait()
        async with standing(gateway, session, **{"last-event-id": last}) as answer:
            resumed = Stream(answer)
            release.set()
            assert (await resumed.next())["params"]["data"] == 2
            assert (await resumed.next())["result"]["content"][0]["text"] == "done"
        async with standing(gateway, session, **{"last-event-id": last}) as answer:
            again = Stream(answer)
            assert (await again.next())["params"]["data"] == 2
        gone = await gateway.client.get(
            gateway.url, headers={"accept": "text/event-stream", **session, "last-event-id": "99_1"}
        )
    assert gone.status_code == 404
    assert made.script.cancelled == []


@pytest.mark.rule("http.standing-stream")
async def test_the_standing_stream_tells_of_lists_resources_and_logs_and_a_second_one_takes_over() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=b"{}")

    made = world(tool("echo"), resource("test://a"), plays={"test://a": play})
    async with served(made) as gateway:
        session = await gateway.initialize()
        made.events.publish(CatalogueChanged(at=0, revision="2", kinds=("tools",)))
        channel = await made.gateway.channel(session["mcp-session-id"])
        assert channel is not None
        await channel.notify("notifications/resources/updated", {"uri": "test://a"})
        subscribe = {"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://a"}}
        assert (await gateway.post(subscribe, session)).json()["result"] == {}
        async with standing(gateway, session) as answer:
            stream = Stream(answer)
            assert (await stream.next())["method"] == "notifications/tools/list_changed", "from before it was opened"
            await channel.notify("notifications/resources/updated", {"uri": "test://a", "unknown": 1})
            assert (await stream.next())["params"] == {"uri": "test://a", "unknown": 1}
            async with standing(gateway, session) as second:
                await channel.notify("notifications/message", {"level": "info", "data": "x"})
                newer = Stream(second)
                assert (await newer.next())["params"]["data"] == "x"
                with pytest.raises(StopAsyncIteration):
                    await stream.next()
        unsubscribe = {"jsonrpc": "2.0", "id": 2, "method": "resources/unsubscribe", "params": {"uri": "test://a"}}
        assert (await gateway.post(unsubscribe, session)).json()["result"] == {}
    assert [event.uri for event in made.published if isinstance(event, SubscriptionEnded)] == ["test://a"]


@pytest.mark.rule("http.legacy-cancel")
async def test_a_cancelled_request_reaches_the_tool_and_its_stream_ends() -> None:
    started = anyio.Event()

    async def play(call: Call, caller: Caller) -> Outcome:
        started.set()
        return await never(call, caller)

    made = world(plays={"echo": play})
    async with served(made) as gateway, anyio.create_task_group() as tasks:
        session, other = await gateway.initialize(), await gateway.initialize()
        answers = []

        async def post() -> None:
            answers.append(await gateway.post(call(identifier="c"), session))

        tasks.start_soon(post)
        await started.wait()
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}
        assert (await gateway.post(cancelled, other)).status_code == 202
        assert made.script.cancelled == []
        assert (await gateway.post(cancelled, session)).status_code == 202
    assert made.script.cancelled == ["echo"]
    assert answers[0].json()["error"]["code"] == -32800


async def test_an_id_that_is_in_flight_is_not_taken_twice() -> None:
    started, release = anyio.Event(), anyio.Event()

    async def play(call: Call, caller: Caller) -> Outcome:
        started.set()
        await release.wait()
        return text_result("first")

    async with served(world(plays={"echo": play})) as gateway, anyio.create_task_group() as tasks:
        session = await gateway.initialize()
        tasks.start_soon(gateway.post, call(), session)
        await started.wait()
        assert (await gateway.post(call(), session)).json()["error"]["code"] == -32600
        release.set()


# --- questions to the client ---


@pytest.mark.rule("http.live-asks")
async def test_a_tool_servers_question_is_put_to_the_callers_client_and_its_answer_goes_back() -> None:
    made = world(plays={"echo": asking})
    async with served(made) as gateway:
        session = await gateway.initialize(elicitation={}, roots={})
        other = await gateway.initialize(elicitation={}, roots={})
        async with streaming(gateway, call(), session) as answer:
            stream = Stream(answer)
            first, second = await stream.next(), await stream.next()
            assert (first["method"], first["params"]) == ("elicitation/create", ASK["params"])
            assert second["method"] == "roots/list"
            theirs = {"jsonrpc": "2.0", "id": first["id"], "result": {"action": "decline"}}
            assert (await gateway.post(theirs, other)).status_code == 202, "another session's answer goes nowhere"
            roots = {"jsonrpc": "2.0", "id": second["id"], "error": {"code": 5, "message": "m", "data": [1]}}
            assert (await gateway.post(roots, session)).status_code == 202
            mine = {
                "jsonrpc": "2.0",
                "id": first["id"],
                "result": {"action": "accept", "content": {"x": 1}, "unknown": 2},
            }
            assert (await gateway.post(mine, session)).status_code == 202
            done = orjson.loads((await stream.next())["result"]["content"][0]["text"])
        assert (await gateway.post(mine, session)).status_code == 202, "a late answer goes nowhere"
    assert done == {
        "a": {"result": {"action": "accept", "content": {"x": 1}, "unknown": 2}},
        "b": {"error": {"code": 5, "message": "m", "data": [1]}},
    }


@pytest.mark.rule("http.ask-honest")
async def test_a_client_that_cannot_be_asked_is_answered_for_with_an_error() -> None:
    async with served(world(plays={"echo": asking})) as gateway:
        session = await gateway.initialize()
        answer = await gateway.post(call(), session)
        no_stream = await gateway.initialize(elicitation={}, roots={})
        silent = await gateway.post(call(), {**no_stream, "accept": "application/json"})
    for one in (answer, silent):
        said = orjson.loads(one.json()["result"]["content"][0]["text"])
        assert said["a"]["error"]["message"]
        assert said["b"]["error"]["message"]


@pytest.mark.rule("bridge.live-rounds")
async def test_a_modern_servers_need_for_input_becomes_live_questions_and_retries() -> None:
    state = 's\u00e9 "1"'

    async def play(call: Call, caller: Caller) -> Outcome:
        answers = call.params.get("inputResponses")
        if answers is None:
            needed = {"resultType": "input_required", "requestState": state, "inputRequests": {"k": ASK}}
            return Completed(result=orjson.dumps(needed))
        assert call.params["requestState"] == state
        if answers["k"]["content"]["n"] < 2:
            needed = {"resultType": "input_required", "requestState": state, "inputRequests": {"k": ASK}}
            return Completed(result=orjson.dumps(needed))
        return text_result("done", resultType="complete")

    made = world(plays={"echo": play})
    async with served(made) as gateway:
        session = await gateway.initialize(elicitation={})
        async with streaming(gateway, call(), session) as answer:
            stream = Stream(answer)
            for number in (1, 2):
                asked = await stream.next()
                assert asked["params"] == ASK["params"]
                content = {"action": "accept", "content": {"n": number}}
                await gateway.post({"jsonrpc": "2.0", "id": asked["id"], "result": content}, session)
            assert (await stream.next())["result"]["content"][0]["text"] == "done"
    assert len({one.logical_id for one in made.script.calls}) == 1
    assert len({one.id for one in made.script.calls}) == 3


async def test_a_client_that_declines_to_answer_a_modern_servers_need_gets_an_error() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=orjson.dumps({"resultType": "input_required", "inputRequests": {"k": ASK}}))

    async with served(world(plays={"echo": play})) as gateway:
        session = await gateway.initialize()
        answer = await gateway.post(call(), session)
    assert "elicitation" in answer.json()["error"]["message"]


async def test_changed_roots_are_told_on() -> None:
    made = world()
    async with served(made) as gateway:
        session = await gateway.initialize()
        await gateway.post({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}, session)
    assert [event.session_id for event in made.published if isinstance(event, RootsChanged)] == [
        session["mcp-session-id"]
    ]


# --- batches and mixtures ---


@pytest.mark.rule("http.batch")
async def test_a_batch_of_a_2025_03_26_session_is_a_call_each() -> None:
    made = world()
    async with served(made) as gateway:
        session = await gateway.initialize("2025-03-26")
        entries = [
            call(identifier=1),
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "ping"},
            call(name="unknown", identifier=3),
            {"jsonrpc": "1.0", "id": 4, "method": "ping"},
            initialize_request(identifier=5),
        ]
        answer = await gateway.post(entries, session)
        only_notifications = await gateway.post([entries[1]], session)
    said = {one["id"]: one for one in answer.json()}
    assert set(said) == {1, 2, 3, 4, 5}
    assert said[2]["result"] == {}
    assert said[3]["error"]["code"] == -32602
    assert said[4]["error"]["code"] == said[5]["error"]["code"] == -32600
    assert only_notifications.status_code == 202
    assert len(made.journal.ends) == 2


@pytest.mark.rule("http.batch")
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_a_batch_of_any_other_session_is_refused(version: str) -> None:
    made = world()
    async with served(made) as gateway:
        session = await gateway.initialize(version)
        answer = await gateway.post([call()], session)
        empty = await gateway.post([], await gateway.initialize("2025-03-26"))
        modern = await gateway.post([call()], {"mcp-protocol-version": "2026-07-28"})
    for one in (answer, empty, modern):
        assert (one.status_code, one.json()["error"]["code"]) == (400, -32600)
    assert made.journal.ends == []


async def test_an_enveloped_request_with_a_sessions_headers_is_a_mismatch() -> None:
    async with served(world()) as gateway:
        session = await gateway.initialize()
        answer = await gateway.post(call(_meta={VERSION_KEY: "2026-07-28"}), session)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in (-32020, -32602)


@pytest.mark.rule("session.storm")
async def test_of_a_storm_of_changes_a_client_that_is_not_listening_is_told_once() -> None:
    made = world()
    async with served(made) as gateway:
        session = await gateway.initialize()
        for number in range(1_000):
            made.events.publish(CatalogueChanged(at=0, revision=str(number), kinds=("tools",)))
        channel = await made.gateway.channel(session["mcp-session-id"])
        assert channel is not None
        await channel.notify("notifications/message", {"level": "info", "data": "x"})
        async with standing(gateway, session) as answer:
            stream = Stream(answer)
            assert (await stream.next())["method"] == "notifications/tools/list_changed"
            assert (await stream.next())["method"] == "notifications/message"
            made.events.publish(CatalogueChanged(at=0, revision="next", kinds=("tools",)))
            assert (await stream.next())["method"] == "notifications/tools/list_changed"
