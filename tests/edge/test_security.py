"""What the listener withstands (field notes A5 to A8, A12, A24, A25)."""

import contextlib
import time
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge import protocol
from gateway.edge.http import application, mcp_app
from gateway.edge.listener import bound, serve_http
from gateway.edge.security import HostCheck, respond
from gateway.edge.settings import EdgeSettings
from gateway.model.call import Call
from gateway.model.events import AuthenticationRefused, ConfigurationChanged, SessionEnded
from gateway.model.verdict import Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import (
    agent,
    connected,
    events_of,
    initialize_request,
    modern_request,
    served,
    text_result,
    world,
)
from tests.edge.test_http_legacy import call, standing
from tests.edge.test_parsing import values

pytestmark = pytest.mark.anyio

AGENTS = (agent("a", "key-a"), agent("b", "key-b"))
A = {"authorization": "Bearer key-a"}
B = {"authorization": "Bearer key-b"}


# --- A5: DNS rebinding ---


def checked(host: str | None, origin: str | None, settings: dict[str, Any]) -> int:
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    if origin is not None:
        headers.append((b"origin", origin.encode("latin-1")))
    fault = HostCheck(EdgeSettings(**settings)).fault(headers)
    return 200 if fault is None else fault[0]


@pytest.mark.rule("security.host", "security.origin")
@pytest.mark.parametrize(
    ("host", "origin", "settings", "status"),
    [
        ("127.0.0.1:8080", None, {}, 200),
        ("localhost", None, {}, 200),
        ("LOCALHOST:1", None, {}, 200),
        ("[::1]:8080", None, {}, 200),
        ("evil.example", None, {}, 421),
        ("evil.example:8080", None, {}, 421),
        ("localhost.evil.example", None, {}, 421),
        ("127.0.0.1.evil.example", None, {}, 421),
        ("localhost:80@evil", None, {}, 421),
        ("", None, {}, 421),
        (None, None, {}, 421),
        ("192.0.2.1:8080", None, {"host": "192.0.2.1"}, 200),
        ("192.0.2.1:8080", None, {"host": "0.0.0.0"}, 421),
        ("gw.example", None, {"allowed_hosts": ("gw.example",)}, 200),
        ("gw.example:8443", None, {"allowed_hosts": ("gw.example",)}, 200),
        ("gw.example:8443", None, {"allowed_hosts": ("gw.example:8443",)}, 200),
        ("gw.example:1", None, {"allowed_hosts": ("gw.example:8443",)}, 421),
        ("localhost:8080", "http://localhost:8080", {}, 200),
        ("localhost:8080", "http://localhost:3000", {}, 403),
        ("localhost:8080", "http://evil.example", {}, 403),
        ("localhost:8080", "null", {}, 403),
        ("localhost:8080", "", {}, 403),
        ("localhost:8080", "file://localhost:8080", {}, 403),
        ("localhost:8080", "https://app.example", {"allowed_origins": ("https://app.example",)}, 200),
        ("localhost:8080", "https://app.example.evil", {"allowed_origins": ("https://app.example",)}, 403),
    ],
)
def test_hosts_and_origins(host: str | None, origin: str | None, settings: dict[str, Any], status: int) -> None:
    assert checked(host, origin, settings) == status


@pytest.mark.rule("security.every-route")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT"])
@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/metrics", "/console/", "/api/v1/calls", "/nowhere"])
async def test_an_evil_host_or_origin_is_refused_on_every_route(method: str, path: str) -> None:
    reached: list[str] = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await respond(send, 200, b"{}")

    made = world()
    mcp = mcp_app(made.gateway, EdgeSettings())
    app = application(mcp, {"/healthz": route, "/metrics": route, "/console/": route, "/api/v1/": route})

    async def status(*headers: tuple[bytes, bytes]) -> int:
        said: list[Any] = []

        async def send(one: Any) -> None:
            said.append(one)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await app(scope, receive, send)
        return int(said[0]["status"])

    good = (b"host", b"127.0.0.1:8080")
    assert await status((b"host", b"evil.example")) == 421
    assert await status(good, good) == 421
    assert await status(good, (b"origin", b"http://evil.example")) == 403
    assert reached == []
    if path not in ("/mcp", "/nowhere"):
        assert await status(good) == 200
        assert reached == [path]


# --- A6: many clients, the same ids ---


@pytest.mark.rule("security.same-ids")
async def test_two_hundred_clients_with_the_same_ids_each_get_their_own_answer() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        text = call.arguments["text"]
        if caller.wants_progress:
            await caller.notify("notifications/progress", {"progressToken": 1, "progress": 1, "message": text})
        if caller.capabilities:
            answer = await caller.ask({"k": {"method": "elicitation/create", "params": {"message": text}}})
            text += " " + str(answer["k"]["result"]["content"])
        return text_result(text)

    made = world(plays={"echo": play})
    wrong: list[Any] = []

    async def modern(gateway: Any, number: int) -> None:
        text = f"m{number}"
        params: dict[str, Any] = {"name": "fixture__echo", "arguments": {"text": text}}
        can: dict[str, Any] = {"elicitation": {}} if number % 2 else {}
        answer = await gateway.modern("tools/call", params, meta={"progressToken": 7}, capabilities=can)
        progress, last = events_of(answer.text)
        if progress["params"]["message"] != text:
            wrong.append(answer.text)
        if can:
            requests = last["result"]["inputRequests"]
            params["inputResponses"] = {key: {"content": one["params"]["message"]} for key, one in requests.items()}
            params["requestState"] = last["result"]["requestState"]
            last = (await gateway.modern("tools/call", params, capabilities=can)).json()
            text += " " + text
        if last["result"]["content"][0]["text"] != text:
            wrong.append(last)

    async def legacy(gateway: Any, number: int) -> None:
        session = await gateway.initialize(elicitation={})
        body = orjson.dumps(call(identifier=1, arguments={"text": f"l{number}"}))
        headers = {"content-type": "application/json", **session}
        text = ""
        async with gateway.client.stream("POST", gateway.url, content=body, headers=headers) as answer:
            async for chunk in answer.aiter_text():
                text += chunk
                found = events_of(text)
                if len(found) == 1 and "method" in found[0]:
                    content = {"action": "accept", "content": found[0]["params"]["message"]}
                    await gateway.post({"jsonrpc": "2.0", "id": found[0]["id"], "result": content}, session)
        if events_of(text)[-1]["result"]["content"][0]["text"] != f"l{number} l{number}":
            wrong.append(text)

    async with served(made) as gateway:
        gateway.client.timeout = httpx2.Timeout(60)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(modern, gateway, number)
                tasks.start_soon(legacy, gateway, number)
    assert wrong == []
    assert len(made.journal.ends) == 200


# --- A7: another principal's ---


@pytest.mark.rule("security.foreign-session")
async def test_another_principals_session_is_not_found() -> None:
    made = world(agents=AGENTS)
    async with served(made) as gateway:
        session = await gateway.initialize(headers=A, elicitation={})
        stolen = {**session, **B}
        assert (await gateway.post(call(), session)).status_code == 200
        foreign = await gateway.post(call(), stolen)
        unknown = await gateway.post(call(), {**stolen, "mcp-session-id": "0" * 32})
        assert (foreign.status_code, foreign.content) == (404, unknown.content)
        async with standing(gateway, stolen) as answer:
            assert answer.status_code == 404
        assert (await gateway.client.delete(gateway.url, headers=stolen)).status_code == 404
        answer = {"jsonrpc": "2.0", "id": "gateway-1", "result": {}}
        assert (await gateway.post(answer, stolen)).status_code == 404
        assert (await gateway.post(call(), session)).status_code == 200, "it is still there for its own"


@pytest.mark.rule("security.foreign-state")
async def test_another_principals_retry_is_not_linked_to_the_call() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return text_result("x", resultType="input_required", requestState="the-same")

    made = world(agents=AGENTS, plays={"echo": play})
    async with served(made) as gateway:
        for headers in (A, B):
            params = {"name": "fixture__echo", "requestState": "the-same"}
            await gateway.modern("tools/call", params, headers=headers)
        await gateway.modern("tools/call", params, headers=A)
    first, second, third = made.script.calls
    assert second.logical_id != first.logical_id
    assert third.logical_id == first.logical_id


# --- A8, A12: keys and headers ---


@pytest.mark.rule("security.bearer")
@pytest.mark.parametrize(
    "credential", [None, "Bearer", "Bearer:", "Bearer wrong", "Basic a2V5LWE=", "key-a", "Bearer key-a extra"]
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_without_an_agents_key_nothing_is_served(credential: str | None, method: str) -> None:
    made = world(agents=AGENTS)
    headers = {} if credential is None else {"authorization": credential}
    async with served(made) as gateway:
        answer = await gateway.client.request(method, gateway.url, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    refused = [event for event in made.published if isinstance(event, AuthenticationRefused)]
    assert len(refused) == 1
    assert refused[0].remote == "127.0.0.1"


async def test_two_credentials_are_none() -> None:
    body, headers = modern_request("tools/list")
    lines = [*headers.items(), ("content-type", "application/json"), *A.items(), *B.items()]
    async with served(world(agents=AGENTS)) as gateway:
        answer = await gateway.client.post(gateway.url, content=orjson.dumps(body), headers=lines)
    assert answer.status_code == 401


@pytest.mark.rule("security.internal-headers")
async def test_no_header_chooses_the_principal_the_session_or_the_server() -> None:
    made = world(agents=AGENTS)
    forged = {
        "x-forwarded-for": "10.0.0.1", "x-forwarded-host": "evil", "forwarded": "for=1", "x-gateway-principal": "b",
        "x-gateway-session": "s", "gateway-session": "s", "x-principal": "b", "x-mcp-server": "other", "mcp-session-id": "s",
    }  # fmt: skip
    async with served(made) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo"}, headers={**A, **forged})
    assert answer.status_code == 200
    made_call = made.script.calls[0]
    assert made_call.principal.id == "a"
    assert made_call.server == "fixture"
    assert made_call.session_id != "s"


@pytest.mark.rule("security.no-passthrough")
async def test_the_clients_key_is_nowhere_in_the_call() -> None:
    made = world(agents=AGENTS)
    async with served(made) as gateway:
        await gateway.modern("tools/call", {"name": "fixture__echo", "arguments": {"text": "x"}}, headers=A)
        session = await gateway.initialize(headers=A)
        await gateway.post(call(), session)
    for one in made.script.calls:
        assert "key-a" not in repr((one.params, one.meta, one.client, one.principal, one.session_id))


@pytest.mark.rule("security.reserved-keys")
async def test_keys_under_gateway_are_not_forwarded() -> None:
    made = world()
    meta = {
        "gateway/refusal": {},
        "gateway/x": 1,
        "gateway/why": "w",
        "gateway/session": "s",
        "gateway/idempotency-key": "k",
    }
    async with served(made) as gateway:
        await gateway.modern("tools/call", {"name": "fixture__echo"}, meta=meta)
    made_call = made.script.calls[0]
    assert made_call.meta == {}
    assert (made_call.why, made_call.idempotency_key) == ("w", "k")


@pytest.mark.rule("session.removed-agent")
@pytest.mark.parametrize("change", ["removed", "another key", "no agents"])
async def test_a_removed_agents_sessions_end_at_once(change: str) -> None:
    made = world(agents=AGENTS)
    after = {"removed": AGENTS[1:], "another key": (agent("a", "key-new"), AGENTS[1]), "no agents": None}[change]
    async with served(made) as gateway:
        ours, theirs = await gateway.initialize(headers=A), await gateway.initialize(headers=B)
        async with standing(gateway, ours) as answer, connected(made, AGENTS[0].principal) as wire:
            await wire.request("initialize", initialize_request()["params"])
            made.gateway.agents = after
            made.events.publish(ConfigurationChanged(at=0, accepted=True, sha256=""))
            with anyio.fail_after(5):
                assert [chunk async for chunk in answer.aiter_text()]
        if after is not None:
            assert (await gateway.post(call(), ours)).status_code == 401
            assert (await gateway.post(call(), theirs)).status_code == 200
    ended = [event for event in made.published if isinstance(event, SessionEnded)]
    assert [event.principal for event in ended if "removed" in event.reason].count("a") == 2


async def test_a_connections_principal_is_the_one_of_the_configuration_as_it_is_now() -> None:
    made = world(agents=AGENTS)
    async with connected(made, AGENTS[0].principal) as wire:
        await wire.request("initialize", initialize_request()["params"])
        made.gateway.agents = (agent("a", "key-a", roles=("reader",)),)
        made.events.publish(ConfigurationChanged(at=0, accepted=True, sha256=""))
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__echo"}})
        while (await wire.receive()).get("id") != 1:
            pass
    assert made.script.calls[0].principal.roles == ("reader",)


# --- hidden and unknown ---


@pytest.mark.rule("answer.unknown-tool")
async def test_an_unknown_and_a_hidden_tool_answer_alike_byte_for_byte() -> None:
    hidden = agent("a", "key-a", tools=("fixture/other",))
    made = world(tool("echo"), tool("other"), agents=(hidden,))
    headers = {**A}
    async with served(made) as gateway:
        answers = []
        for name in ("fixture__echo", "fixture__none"):
            answer = await gateway.modern("tools/call", {"name": name, "arguments": {"text": 5}}, headers=headers)
            answers.append((answer.status_code, answer.content.replace(name.encode(), b"NAME")))
        session = await gateway.initialize(headers=A)
        for name in ("echo", "none"):
            answer = await gateway.post(call(name), session)
            answers.append((answer.status_code, answer.content.replace(f"fixture__{name}".encode(), b"NAME")))
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert b"-32602" in answers[0][1]
    assert made.script.calls == []


# --- A24: too much, too deep, too slow ---


@pytest.mark.rule("answer.malformed")
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"5", b'"x"', b"[[]]", b"{}", b'{"jsonrpc":"2.0"}', b"\xff\xfe", b"[" * 60_000,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + b'{"a":' * 60_000 + b"1" + b"}" * 60_001,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":1' + b"0" * 500 + b"}}",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, {"mcp-protocol-version": "2026-07-28"}])
async def test_malformed_input_is_a_json_rpc_error_and_never_a_500(body: bytes, headers: dict[str, str]) -> None:
    async with served(world()) as gateway:
        answer = await gateway.post(body, headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] in (-32700, -32600)
    assert error["message"]


@pytest.mark.rule("http.body-limit")
async def test_a_body_beyond_the_limit_is_413_with_a_json_rpc_error() -> None:
    made = world()
    body = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"' + b"x" * 2_000 + b'"}}'

    async def chunks() -> Any:
        for _ in range(10):
            yield b" " * 300

    async with served(made, max_request_bytes=1_000) as gateway:
        headers = {"content-type": "application/json"}
        for content in (body, chunks()):
            answer = await gateway.client.post(gateway.url, content=content, headers=headers)
            assert answer.status_code == 413
            assert answer.json()["error"]["data"] == {"code": "request.too_large", "limit_bytes": 1_000}
        fits = await gateway.post(b" " * 900 + b"5")
        assert fits.status_code == 400


@pytest.mark.rule("http.slow-client")
@pytest.mark.parametrize(
    "said", [b"", b"POST /mcp HT", b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"]
)  # fmt: skip
async def test_a_client_that_sends_slowly_is_cut_off(said: bytes) -> None:
    made = world()
    async with served(made, body_seconds=0.2) as gateway:
        port = int(gateway.url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            if said:
                await stream.send(said)
            before = time.monotonic()
            with anyio.fail_after(5), contextlib.suppress(anyio.BrokenResourceError):
                assert [chunk async for chunk in stream] == []
    assert time.monotonic() - before < 4
    assert made.journal.ends == []


async def raw(gateway: Any, *requests: bytes, until: bytes) -> bytes:
    """What comes back on one connection for what is sent on it, up to and including `until`."""
    port = int(gateway.url.split(":")[2].split("/")[0])
    said = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        with anyio.fail_after(5):
            for request in requests:
                await stream.send(request)
            while until not in said:
                said += await stream.receive()
    return said


def ping(identifier: int, head: bytes = b"POST /mcp HTTP/1.1", *headers: bytes) -> bytes:
    body = orjson.dumps({"jsonrpc": "2.0", "id": identifier, "method": "tools/list"})
    lines = [head, b"Host: localhost", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.rule("http.connections")
async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    async with served(world()) as gateway:
        said = await raw(gateway, b"".join(ping(number) for number in (11, 22, 33)), until=b'"id":33')
    assert said.count(b"HTTP/1.1 400 Bad Request") == 3
    assert said.index(b'"id":11') < said.index(b'"id":22') < said.index(b'"id":33')
    assert said.lower().count(b"\r\ndate: ") == 3


@pytest.mark.rule("http.connections")
@pytest.mark.parametrize(
    ("head", "header"), [(b"POST /mcp HTTP/1.0", b"X: y"), (b"POST /mcp HTTP/1.1", b"Connection: close")]
)
async def test_a_connection_that_is_not_kept_is_closed_behind_the_answer(head: bytes, header: bytes) -> None:
    async with served(world()) as gateway:
        port = int(gateway.url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(ping(5, head, header))
            with anyio.fail_after(5):
                said = b"".join([chunk async for chunk in stream])
    assert b"connection: close" in said.lower()
    assert b'"id":5' in said


@pytest.mark.rule("http.connections")
async def test_no_body_answers_head_and_a_path_may_be_escaped() -> None:
    async with served(world()) as gateway:
        said = await raw(gateway, ping(1, b"HEAD /mcp HTTP/1.1"), ping(7, b"POST /%6Dcp HTTP/1.1"), until=b'"id":7')
    first, _, second = said.partition(b"\r\n\r\n")
    assert b"405" in first.partition(b"\r\n")[0]
    assert second.startswith(b"HTTP/1.1 400")


@pytest.mark.rule("http.connections")
async def test_who_waits_to_send_the_body_is_told_to_go_on() -> None:
    async with served(world()) as gateway:
        whole = ping(9, b"POST /mcp HTTP/1.1", b"Expect: 100-continue")
        head, separator, body = whole.partition(b"\r\n\r\n")
        port = int(gateway.url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            with anyio.fail_after(5):
                await stream.send(head + separator)
                assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
                await stream.send(body)
                assert b'"id":9' in await stream.receive()


@pytest.mark.rule("http.connections")
async def test_a_connection_on_which_nothing_happens_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.listener.KEEP_ALIVE_SECONDS", 1)
    async with served(world(), body_seconds=1.0) as gateway:
        port = int(gateway.url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for number in (1, 2):  # it is kept while it is used
                await stream.send(ping(number))
                assert b'"id":%d' % number in await stream.receive()
                await anyio.sleep(0.4)
            before = time.monotonic()
            with anyio.fail_after(5):
                assert [chunk async for chunk in stream] == []
    assert time.monotonic() - before < 3


async def test_endless_headers_are_refused() -> None:
    async with served(world()) as gateway:
        answer = await gateway.client.post(gateway.url, content=b"{}", headers={"x": "y" * 100_000})
    assert answer.status_code == 400


async def test_results_of_several_megabytes_pass() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return text_result("x" * 6_000_000)

    async with served(world(plays={"echo": play})) as gateway:
        answer = await gateway.modern("tools/call", {"name": "fixture__echo"})
        session = await gateway.initialize()
        legacy = await gateway.post(call(), session)
    assert len(answer.content) > 6_000_000
    assert len(legacy.content) > 6_000_000


@pytest.mark.parametrize(("headers", "status"), [({"content-type": "text/plain"}, 415), ({"accept": "text/html"}, 406)])
async def test_media_types_that_are_not_served_are_told_so(headers: dict[str, str], status: int) -> None:
    async with served(world()) as gateway:
        assert (await gateway.modern("tools/list", headers=headers)).status_code == status


def test_our_own_error_code_is_outside_the_ranges_of_json_rpc_and_mcp() -> None:
    assert not -32768 <= protocol.REFUSED <= -32000


async def test_the_listener_drains() -> None:
    release, started = anyio.Event(), anyio.Event()

    async def play(call: Call, caller: Caller) -> Outcome:
        started.set()
        await release.wait()
        return text_result("done")

    made = world(plays={"echo": play})
    mcp = mcp_app(made.gateway, EdgeSettings())
    listening, stop = bound("127.0.0.1", 0), anyio.Event()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    body, headers = modern_request("tools/call", {"name": "fixture__echo"})
    answers: list[httpx2.Response] = []

    async def post(client: httpx2.AsyncClient) -> None:
        answers.append(
            await client.post(url, content=orjson.dumps(body), headers={"content-type": "application/json", **headers})
        )

    async with httpx2.AsyncClient(trust_env=False) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: serve_http(mcp, application(mcp), listening, stop=stop, drain_seconds=5))
        tasks.start_soon(post, client)
        await started.wait()
        stop.set()
        await anyio.sleep(0.05)
        release.set()
    assert answers[0].json()["result"]["content"][0]["text"] == "done"


# --- anything at all ---

MCP_METHODS = [
    "initialize", "ping", "tools/list", "tools/call", "prompts/get", "resources/read", "resources/subscribe",
    "resources/unsubscribe", "completion/complete", "logging/setLevel", "server/discover", "prompts/list", "x",
    "notifications/cancelled", "notifications/initialized",
]  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> Any:
    """Messages that are nearly right."""
    meta = draw(st.none() | values | st.fixed_dictionaries(
        {}, optional={
            protocol.VERSION_KEY: st.sampled_from(["2026-07-28", "2025-11-25", 5]),
            protocol.CAPABILITIES_KEY: st.just({}) | values,
            protocol.CLIENT_KEY: st.just({"name": "x"}) | values,
            "progressToken": values, "gateway/session": values, "gateway/idempotency-key": values,
        },
    ))  # fmt: skip
    members = dict.fromkeys(("arguments", "cursor", "level", "protocolVersion", "requestState", "argument"), values)
    members |= {
        "name": st.just("fixture__echo") | values, "uri": values, "requestId": values,
        "ref": st.fixed_dictionaries({}, optional={"type": st.sampled_from(["ref/prompt", "ref/resource"]), "name": values}),
        "inputResponses": values, "notifications": values, "capabilities": values, "clientInfo": values,
    }  # fmt: skip
    params = draw(st.none() | values | st.fixed_dictionaries({}, optional=members))
    if isinstance(params, dict) and meta is not None:
        params["_meta"] = meta
    method = draw(st.sampled_from(MCP_METHODS) | values)
    whole = {"jsonrpc": draw(st.sampled_from(["2.0", "1.0"])), "id": draw(values), "method": method, "params": params}
    return draw(
        st.just(whole)
        | st.just({k: v for k, v in whole.items() if k != "id"})
        | st.lists(st.just(whole), max_size=2)
        | values
    )


HEADERS = st.dictionaries(
    st.sampled_from(["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "accept", "last-event-id", "mcp-param-x"]),
    st.sampled_from(["2026-07-28", "2025-11-25", "2025-03-26", "tools/call", "tools/list", "fixture__echo", "", "*/*", "text/event-stream", "=?base64?eA==?=", "\xff"]),
)  # fmt: skip


@pytest.mark.rule("answer.malformed")
@settings(max_examples=400, deadline=None)
@given(body=messages(), headers=HEADERS, session=st.booleans())
def test_no_message_and_no_header_ever_makes_a_500(body: Any, headers: dict[str, str], session: bool) -> None:
    async def post() -> None:
        made = world(policy=None)
        mcp = mcp_app(made.gateway, EdgeSettings())
        app = application(mcp)
        said: list[Any] = []

        async def send(part: Any) -> None:
            said.append(part)

        async def request(content: bytes, more: dict[str, str]) -> None:
            parts = [{"type": "http.request", "body": content, "more_body": False}]

            async def receive() -> Any:
                if parts:
                    return parts.pop()
                return {"type": "http.disconnect"}

            base = {"host": "localhost", "content-type": "application/json", **more}
            lines = [(name.encode(), value.encode("latin-1")) for name, value in base.items()]
            await app({"type": "http", "method": "POST", "path": "/mcp", "headers": lines}, receive, send)

        async with mcp.running():
            with anyio.fail_after(5):
                more = dict(headers)
                if session:
                    await request(orjson.dumps(initialize_request("2025-03-26")), {})
                    opened = dict(said[0]["headers"])
                    more["mcp-session-id"] = opened[b"mcp-session-id"].decode()
                    said.clear()
                await request(orjson.dumps(body), more)
        assert said[0]["status"] < 500, said
        assert b'"code":-32603' not in b"".join(part.get("body", b"") for part in said), said

    anyio.run(post)


ODD: list[Any] = [None, 5, True, 1.5, [], ["fixture__echo"], {}, {"a": 1}]


@pytest.mark.rule("answer.malformed")
@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize(
    ("method", "member"),
    [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri"), ("completion/complete", "ref")],
)
async def test_a_member_of_a_wrong_type_is_named_in_both_eras(method: str, member: str, odd: Any) -> None:
    async with served(world()) as gateway:
        answers = [(await gateway.modern(method, {member: odd})).json()]
        about = await gateway.initialize("2025-11-25")
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {member: odd}}
        answers.append((await gateway.post(orjson.dumps(body), about)).json())
    for answer in answers:
        assert answer["error"]["code"] in (-32602, -32020), answer
