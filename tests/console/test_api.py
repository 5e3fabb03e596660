"""The operator API over a real listener: who may do what, what is found, what is refused and how."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import jsonschema_rs
import orjson
import pytest

from gateway.acts import RANKS
from gateway.adapters import queries
from gateway.console.api import OPERATIONS, Operation, document
from gateway.console.feed import Feed
from gateway.model.events import ServerChanged
from gateway.model.verdict import Held
from tests.console.serving import AGENT_KEY, CLAUDE, KEYS, ROLES, Served, scripted, serving, table
from tests.running import execute, text_of, until

pytestmark = pytest.mark.anyio

HELD = {"held": True, "amount": 10}
WHO = {"viewer": "vic", "approver": "amy", "operator": "otto"}


async def hold_one(served: Served, arguments: dict[str, Any] | None = None) -> Held:
    outcome = await execute(served.runtime, "s__pay", arguments or HELD, principal=CLAUDE)
    assert isinstance(outcome, Held), outcome
    return outcome


async def acted(served: Served) -> list[dict[str, Any]]:
    """What is recorded of operators' acts, in order."""
    found = await served.runtime.journal.read(lambda raw: list(queries.read_records(raw, types=["operator.acted"])))
    return [dict(record.body) for record in found]


def filled(operation: Operation, hold: Held) -> str:
    """The operation's path, about things some of which exist."""
    identifier = hold.hold_id if "/holds/" in operation.path else "no-such-thing"
    return "/api/v1" + operation.path.replace("{id}", identifier).replace("{call_id}", "no-such-thing")


BODIES: dict[str, Any] = {
    "/pause": {"agent": "nobody"},
    "/kill": {"agent": "nobody"},
    "/resume": {"agent": "nobody"},
    "/breakers/trip": {"subject": "s"},
    "/breakers/reset": {"subject": "s"},
}


# --- who may -------------------------------------------------------------------------------------------------------


@pytest.mark.rule("api.roles")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_each_operation_is_done_by_its_role_and_those_above_and_refused_to_everybody_else(
    operation: Operation, tmp_path: Path
) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        hold = await hold_one(served)
        path, body = filled(operation, hold), BODIES.get(operation.path, {}) if operation.method == "POST" else None
        for key in (None, AGENT_KEY, "no-such-key-" * 4, ""):
            answer = await served.ask(operation.method, path, key=key, body=body)
            assert (answer.status, answer.json["error"]["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for role in RANKS:
            answer = await served.ask(operation.method, path, who=WHO[role], body=body)
            if RANKS.index(role) < RANKS.index(operation.role):
                assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")
                last = (await acted(served))[-1]
                assert last["operator"] == WHO[role]
                assert last["act"] == operation.act
                assert (last["done"], last["why"]) == (False, "role")
            else:
                assert answer.status in (200, 400, 404, 409), answer.text
                assert answer.status == 200 or set(answer.json["error"]) == {"code", "message"}


@pytest.mark.rule("api.agents-never")
async def test_an_agents_key_opens_nothing_here_not_even_the_document_or_what_paths_there_are(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for path in ("/api/v1/events", "/api/v1/openapi.json", "/api/v1/", "/api/v1", "/api/v1/no/such/path"):
            for key in (None, AGENT_KEY):
                assert (await served.ask("GET", path, key=key)).status == 401
        both = [("authorization", f"Bearer {key}") for key in (AGENT_KEY, KEYS["otto"])]
        async with served.client.get(f"{served.base}/api/v1/status", headers=both) as answer:
            assert answer.status == 401
        basic = {"authorization": f"Basic {KEYS['otto']}"}
        assert (await served.ask("GET", "/api/v1/status", headers=basic)).status == 401


@pytest.mark.rule("api.agents-never")
async def test_without_operators_no_key_opens_the_api(tmp_path: Path) -> None:
    from tests.running import server_table

    async with serving(tmp_path, server_table(scripted(tmp_path))) as served:
        answer = await served.ask("GET", "/api/v1/status", who="otto")
        assert answer.status == 401
        assert "[operators]" in answer.json["error"]["message"]


@pytest.mark.rule("api.host-and-origin")
async def test_a_foreign_host_or_origin_is_refused_before_any_key_is_looked_at(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for path in ("/api/v1/status", "/console/", "/console/login"):
            evil = await served.ask("GET", path, who="otto", headers={"host": "evil.example"})
            assert evil.status == 421
            foreign = await served.ask("GET", path, who="otto", headers={"origin": "http://evil.example"})
            assert foreign.status == 403


@pytest.mark.rule("api.acts-recorded")
async def test_every_act_that_changes_something_is_recorded_with_its_operator(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        hold = await hold_one(served)
        for path, body in (
            (f"/holds/{hold.hold_id}/approve", {"comment": "fine"}),
            ("/pause", {"agent": "claude", "reason": "lunch"}),
            ("/resume", {"agent": "claude"}),
            ("/breakers/trip", {"subject": "s"}),
            ("/breakers/reset", {"subject": "s"}),
        ):
            answer = await served.ask("POST", f"/api/v1{path}", who="otto", body=body)
            assert answer.status == 200, answer.text
        assert [(one["operator"], one["act"], one["done"]) for one in await acted(served)] == [
            ("otto", "holds.approve", True),
            ("otto", "pause", True),
            ("otto", "resume", True),
            ("otto", "breakers.trip", True),
            ("otto", "breakers.reset", True),
        ]


@pytest.mark.rule("api.acts-recorded")
async def test_looking_at_payloads_is_recorded(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        hold = await hold_one(served)
        shown = next(iter(served.runtime.book.all()))
        for path in (f"/holds/{hold.hold_id}", f"/calls/{shown.call_id}"):
            assert (await served.ask("GET", f"/api/v1{path}", who="vic")).status == 200
        found = await served.runtime.journal.read(
            lambda raw: [record.body for record in queries.read_records(raw, types=["operator.viewed"])]
        )
        assert [(one["operator"], one["what"], one["id"]) for one in found] == [
            ("vic", "hold", hold.hold_id),
            ("vic", "call", shown.call_id),
        ]


# --- deciding ------------------------------------------------------------------------------------------------------


@pytest.mark.rule("api.decides")
async def test_a_hold_is_approved_once_and_its_call_runs_when_its_agent_asks_again(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server)) as served:
        hold = await hold_one(served)
        listed = await served.ask("GET", "/api/v1/holds?state=pending", who="vic")
        assert [one["id"] for one in listed.json] == [hold.hold_id]
        path = f"/api/v1/holds/{hold.hold_id}"
        assert (await served.ask("POST", f"{path}/approve", who="amy", body={"comment": "ok"})).status == 200
        again = await served.ask("POST", f"{path}/deny", who="amy")
        assert (again.status, again.json["error"]["code"]) == (409, "conflict")
        assert server.effects() == []
        assert text_of(await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)) == "paid"
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("api.narrows")
async def test_narrowed_arguments_are_forwarded_and_who_saw_others_is_refused(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    both = ALLOW_TWO
    async with serving(tmp_path, table(server), policies=both) as served:
        hold = await hold_one(served)
        path = f"/api/v1/holds/{hold.hold_id}"
        seen = (await served.ask("GET", path, who="amy")).json["binding"]
        first = await served.ask("POST", f"{path}/approve", who="amy", body={"arguments": {"held": True, "amount": 5}})
        assert first.json["narrowed"] is True
        stale = await served.ask("POST", f"{path}/approve", who="fay", body={"binding": seen})
        assert stale.status == 409
        assert "changed since you looked" in stale.json["error"]["message"]
        now = (await served.ask("GET", path, who="fay")).json
        assert now["arguments"] == {"held": True, "amount": 5}
        assert now["received"] == HELD
        done = await served.ask("POST", f"{path}/approve", who="fay", body={"binding": now["binding"]})
        assert done.json["state"] == "approved"
        assert text_of(await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)) == "paid"
        forwarded = [one["params"]["arguments"] for one in server.received("tools/call")]
        assert forwarded == [{"held": True, "amount": 5}]


ALLOW_TWO = {
    "gateway.rego": """package gateway

allow := true

decision := {"allow": allow, "deny": set(), "hold": hold, "obligations": set()}

hold contains {"code": "first", "reason": "one", "approvers": ["amy"]} if input.arguments.held
hold contains {"code": "second", "reason": "two", "approvers": ["group:finance"]} if input.arguments.held
"""
}


@pytest.mark.rule("api.decides")
async def test_an_approver_who_is_none_of_the_holds_is_refused(tmp_path: Path) -> None:
    policy = {"gateway.rego": ALLOW_TWO["gateway.rego"].replace('["amy"]', '["group:finance"]')}
    async with serving(tmp_path, table(scripted(tmp_path)), policies=policy) as served:
        hold = await hold_one(served)
        answer = await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/approve", who="amy")
        assert answer.status == 403
        assert "group:finance" in answer.json["error"]["message"]


# --- calls and stops -----------------------------------------------------------------------------------------------


@pytest.mark.rule("api.calls-in-flight")
async def test_a_call_in_flight_is_seen_and_killed(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    outcomes: list[Any] = []
    async with serving(tmp_path, table(server)) as served:

        async def ask() -> None:
            outcomes.append(await execute(served.runtime, "s__pay", {"amount": 1}, principal=CLAUDE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.wait_for("gate")
            (running,) = (await served.ask("GET", "/api/v1/calls/running", who="vic")).json
            assert (running["agent"], running["tool"], running["stage"]) == ("claude", "s/pay", "forward")
            shown = await served.ask("GET", f"/api/v1/calls/{running['call_id']}", who="vic")
            assert shown.json["running"]["call_id"] == running["call_id"]
            kill = f"/api/v1/calls/{running['call_id']}/kill"
            assert (await served.ask("POST", kill, who="amy")).status == 403
            assert (await served.ask("POST", kill, who="otto", body={"reason": "wrong"})).status == 200
        assert outcomes[0].code == "killed"
        assert (await served.ask("POST", kill, who="otto")).status == 404


@pytest.mark.rule("api.calls-past")
async def test_past_calls_are_filtered_and_paged_by_keyset(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for number in range(7):
            await execute(served.runtime, "s__look", {"n": number, "note": f"needle-{number}"}, principal=CLAUDE)
        await execute(served.runtime, "s__nope", {}, principal=CLAUDE)
        await hold_one(served)

        async def found(query: str) -> Any:
            answer = await served.ask("GET", f"/api/v1/calls?{query}", who="vic")
            assert answer.status == 200, answer.text
            return answer.json

        seen, page = [], await found("limit=4")
        while True:
            seen += [call["seq"] for call in page["calls"]]
            if page["next"] is None:
                break
            page = await found(f"limit=4&before={page['next']}")
        assert len(seen) == len(set(seen)) == 9
        assert seen == sorted(seen, reverse=True)
        assert len((await found("tool=s/lo*"))["calls"]) == 7
        assert len((await found("agent=claude&outcome=held"))["calls"]) == 1
        assert len((await found("code=request.*"))["calls"]) == 1
        assert len((await found("since=1h"))["calls"]) == 9
        assert len((await found("until=1h"))["calls"]) == 0
        (one,) = (await found("text=NEEDLE-3"))["calls"]
        assert one["tool"] == "s/look"
        assert len((await found("text=needle&limit=3"))["calls"]) == 3
        assert (await found("text=nobody-wrote-this")) == {"calls": [], "next": None}


@pytest.mark.rule("api.sessions")
async def test_sessions_and_their_calls_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for session in ("one", "two"):
            for number in range(3):
                await execute(served.runtime, "s__look", {"n": number}, principal=CLAUDE, session=session)
        first = (await served.ask("GET", "/api/v1/sessions?limit=1", who="vic")).json
        assert [session["id"] for session in first["sessions"]] == ["two"]
        rest = (await served.ask("GET", f"/api/v1/sessions?before={first['next']}", who="vic")).json
        assert [session["id"] for session in rest["sessions"]] == ["one"]
        shown = (await served.ask("GET", "/api/v1/sessions/one?limit=2", who="vic")).json
        assert shown["session"]["calls"] == 3
        more = (await served.ask("GET", f"/api/v1/sessions/one?after={shown['next']}", who="vic")).json
        order = [call["seq"] for call in shown["calls"] + more["calls"]]
        assert len(order) == 3
        assert order == sorted(order)


# --- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.rule("api.strict")
async def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path)), head="") as served:
        hold = await hold_one(served)
        approve = f"/api/v1/holds/{hold.hold_id}/approve"
        kind = {"content-type": "application/json"}
        deep = b'{"arguments":' + b'{"a":' * 200 + b"1" + b"}" * 201
        for path, data, headers, status in (
            (approve, b"{", kind, 400),
            (approve, b"[]", kind, 400),
            (approve, b'{"coment": "x"}', kind, 400),
            (approve, b'{"comment": 7}', kind, 400),
            (approve, b'{"arguments": [1]}', kind, 400),
            (approve, b'{"arguments": {"n": 123456789012345678901234567890}}', kind, 400),
            (approve, deep, kind, 400),
            (approve, b'{"comment": "x"}', {"content-type": "text/plain"}, 415),
            (approve, b'{"comment": "' + b"x" * 5_000_000 + b'"}', kind, 413),
            (approve + "?comment=x", b"{}", kind, 400),
            ("/api/v1/pause", b'{"agent": "a", "tool": "b"}', kind, 400),
            ("/api/v1/pause", b'{"for_seconds": -1}', kind, 400),
            ("/api/v1/pause", b'{"for_seconds": NaN}', kind, 400),
        ):
            answer = await served.ask("POST", path, who="otto", data=data, headers=headers)
            assert answer.status == status, (path, data[:60], answer.text)
            assert answer.json["error"]["message"]
        for query in ("limit=0", "limit=x", "limit=501", "nope=1", "agent=a&agent=b", "since=soon", "before=-1"):
            assert (await served.ask("GET", f"/api/v1/calls?{query}", who="vic")).status == 400, query
        assert (await served.ask("DELETE", "/api/v1/status", who="vic")).status == 405
        assert (await served.ask("GET", "/api/v1/nope", who="vic")).status == 404
        assert next(iter(served.runtime.book.all())).state == "pending"


@pytest.mark.rule("api.headers")
async def test_what_operators_see_lies_in_no_cache(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for path in ("/api/v1/status", "/api/v1/nope"):
            answer = await served.ask("GET", path, who="vic")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"


# --- events --------------------------------------------------------------------------------------------------------


async def told(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """The messages of an event stream."""
    message: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if not line:
            if "event" in message:
                yield message
            message = {}
        else:
            name, _, value = line.partition(": ")
            message[name] = value


async def take(messages: AsyncIterator[dict[str, str]], wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    async for message in messages:
        if wanted(message):
            return message
    raise AssertionError("the stream ended")


def bearer(who: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[who]}", **more}


@pytest.mark.rule("api.events")
async def test_events_are_typed_and_numbered_and_go_on_behind_the_last_one_seen(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        url = f"{served.base}/api/v1/events"
        async with served.client.get(url, headers=bearer("vic")) as answer:
            assert answer.content_type == "text/event-stream"
            messages = told(answer)
            hold = await hold_one(served, {**HELD, "secret": "canary-in-arguments"})
            ended = await take(messages, lambda message: message["event"] == "call.ended")
            data = json.loads(ended["data"])
            assert (data["agent"], data["tool"], data["outcome"]) == ("claude", "s/pay", "held")
            assert data["hold_id"] == hold.hold_id
        await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/deny", who="amy")
        async with served.client.get(url, headers=bearer("vic", **{"last-event-id": ended["id"]})) as answer:
            after = await take(told(answer), lambda message: True)
            assert after["event"] == "state.changed"
            assert json.loads(after["data"])["state"] == "denied"
            assert int(after["id"].rpartition("-")[2]) == int(ended["id"].rpartition("-")[2]) + 1
        for lost in ("deadbeef-1", "nonsense", ended["id"].partition("-")[0] + "-999999"):
            async with served.client.get(url, headers=bearer("vic", **{"last-event-id": lost})) as answer:
                assert (await take(told(answer), lambda message: True))["event"] == "reset"


@pytest.mark.rule("api.events")
async def test_events_hold_no_arguments_and_no_results(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        async with served.client.get(f"{served.base}/api/v1/events", headers=bearer("vic")) as answer:
            messages = told(answer)
            await execute(served.runtime, "s__look", {"x": "canary-argument"}, principal=CLAUDE)
            text = ""
            async for message in messages:
                text += str(message)
                if message["event"] == "call.ended":
                    break
        assert "canary" not in text
        assert "seen" not in text


@pytest.mark.rule("api.events")
async def test_a_reader_that_is_too_slow_is_told_so_and_the_ring_stays_bounded() -> None:
    feed = Feed(kept=10)
    stream = feed.stream(None, lambda: True)
    await anext(stream)
    for number in range(25):
        feed.receive(ServerChanged(at=0.0, server=str(number), state="available"))
    assert b"event: reset" in await anext(stream)
    feed.receive(ServerChanged(at=0.0, server="last", state="available"))
    assert b'"server":"last"' in await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.rule("api.events")
async def test_nothing_is_summed_up_while_nobody_reads_and_a_reader_who_comes_back_late_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summed: list[Any] = []

    def summing(event: Any) -> dict[str, Any]:
        summed.append(event)
        return {"x": 1}

    monkeypatch.setattr("gateway.console.feed.summary", summing)
    monkeypatch.setattr("gateway.console.feed.FORGOTTEN_SECONDS", 0.02)
    feed, event = Feed(), ServerChanged(at=0.0, server="s", state="available")
    stream = feed.stream(None, lambda: True)
    await anext(stream)
    feed.receive(event)
    place = (await anext(stream)).split(b"\n")[0].removeprefix(b"id: ").decode()
    await stream.aclose()  # type: ignore[attr-defined]
    feed.receive(event)
    assert len(summed) == 2, "a reader who lost the connection may come back"
    await asyncio.sleep(0.03)
    feed.receive(event)
    assert len(summed) == 2
    again = feed.stream(place, lambda: True)
    await anext(again)
    assert b"event: reset" in await anext(again)
    feed.receive(event)
    assert b"event: server.changed" in await anext(again)
    await again.aclose()  # type: ignore[attr-defined]


@pytest.mark.rule("api.events")
async def test_a_stream_ends_when_its_operator_is_gone_or_the_gateway_stops() -> None:
    feed, allowed = Feed(), [True]
    removed, stopped = feed.stream(None, lambda: allowed[0]), feed.stream(None, lambda: True)
    await anext(removed)
    await anext(stopped)
    allowed[0] = False
    feed.receive(ServerChanged(at=0.0, server="s", state="available"))
    with pytest.raises(StopAsyncIteration):
        await anext(removed)
    await anext(stopped)
    feed.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stopped)


# --- the document --------------------------------------------------------------------------------------------------


@pytest.mark.rule("api.document")
async def test_answers_are_what_the_document_says(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        hold = await hold_one(served)
        await execute(served.runtime, "s__look", {"x": 1}, principal=CLAUDE)
        await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/approve", who="amy")
        said = (await served.ask("GET", "/api/v1/openapi.json", who="vic")).json
        assert said == orjson.loads(orjson.dumps(document()))
        assert said["openapi"].startswith("3.1")
        call_id = next(iter(served.runtime.book.all())).call_id
        checked = 0
        for operation in OPERATIONS:
            if operation.method != "GET" or "dead-letters/" in operation.path:
                continue
            path = operation.path
            identifier = {"/holds": hold.hold_id, "/calls": call_id, "/sessions": "session-1"}.get(
                path.rsplit("/", 1)[0]
            )
            answer = await served.ask("GET", "/api/v1" + path.replace("{id}", str(identifier)), who="vic")
            assert answer.status == 200, (path, answer.text)
            schema = said["paths"]["/api/v1" + path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": said["components"]}
            jsonschema_rs.validate(whole, answer.json)
            checked += 1
        assert checked >= 15


@pytest.mark.slow
@pytest.mark.rule("api.fuzzed")
async def test_schemathesis_finds_no_fault(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed")
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        await hold_one(served)
        await execute(served.runtime, "s__look", {"x": 1}, principal=CLAUDE)
        description = tmp_path / "openapi.json"
        description.write_bytes(orjson.dumps(document()))
        command = [
            str(program), "run", str(description), "--url", served.base, "--header", f"Authorization: Bearer {KEYS['otto']}",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--generation-database", "none",
            "--request-timeout", "10", "--exclude-path", "/api/v1/events", "--no-color", "--continue-on-failure",
            "--warnings", "off", "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
            "response_headers_conformance,unsupported_method,negative_data_rejection,ignored_auth",
        ]  # fmt: skip
        with anyio.fail_after(240):
            done = await anyio.run_process(command, check=False, cwd=tmp_path, stderr=asyncio.subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()[-6000:]
        await until(lambda: not list(served.runtime.engine.running()))


def test_every_role_has_an_operator_here() -> None:
    assert {ROLES[who] for who in WHO.values()} == set(RANKS)
