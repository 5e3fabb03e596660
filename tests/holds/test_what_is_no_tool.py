"""Approvals and idempotency keys of what is no tool: resources, and methods of extensions that the gateway does not know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway import wiring
from gateway.acts import ActRefused
from gateway.decide.hold import Operator
from gateway.model.call import LOCAL, Client, Method
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Held, Outcome, Refused
from gateway.owner import ActingOperator
from tests.running import OPERATORS, Silent, running, server_table
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
HOLDS = {
    "gateway.rego": """package gateway

allow := true

decision := {"allow": allow, "deny": set(), "hold": hold, "obligations": set()}

hold contains {"code": "review", "reason": "looked at by a person"} if input.action.name != "tools/call"
"""
}
ALLOWS = {"gateway.rego": "package gateway\n\ndecision := true\n"}


def scripted(directory: Path) -> Scripted:
    script = {
        "tools": [tool("look")],
        "resources": [{"uri": "doc://one", "name": "one"}],
        "capabilities": {"tools": {}, "resources": {"subscribe": True}, "extensions": {"example/notes": {}}},
        "on": {
            "notes/delete": [{"effect": "deleted"}, {"result": {"deleted": "$params.id", "resultType": "complete"}}],
            "resources/read": [{"effect": "read"}, {"result": {"contents": [], "resultType": "complete"}}],
            "resources/subscribe": [{"effect": "subscribed"}, {"result": {}}],
        },
    }
    return Scripted(directory / "server", script)


async def ask(runtime: wiring.Runtime, method: str, **params: Any) -> Outcome:
    call = runtime.gateway.call(
        method=method, params=params, principal=LOCAL, session_id="session-1", client=Client(name="tests")
    )
    return await runtime.gateway.execute(call, Silent())


def held(outcome: Outcome) -> Held:
    assert isinstance(outcome, Held), outcome
    return outcome


async def approve(runtime: wiring.Runtime, hold_id: str, **params: Any) -> None:
    await runtime.acts.perform("holds.approve", ANN, {"id": hold_id, **params})


def text(server: Scripted) -> str:
    return f"{server_table(server)}\n{OPERATORS}\n[approvals]\ninline_wait_seconds = 0\n"


@pytest.mark.rule("hold.whole-request")
async def test_an_approved_method_of_an_extension_is_approved_with_these_params_alone(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, text(server), policies=HOLDS) as runtime:
        one = held(await ask(runtime, "notes/delete", id=1))
        other = held(await ask(runtime, "notes/delete", id=2))
        assert other.hold_id != one.hold_id
        shown = await runtime.acts.perform("holds.show", ANN, {"id": one.hold_id})
        assert (shown["received"], shown["arguments"]) == ({"id": 1}, {"id": 1})
        with pytest.raises(ActRefused, match="cannot be changed"):
            await approve(runtime, one.hold_id, arguments={"id": 2})
        await approve(runtime, one.hold_id)
        assert held(await ask(runtime, "notes/delete", id=2)).hold_id == other.hold_id
        assert server.effects("deleted") == []
        outcome = await ask(runtime, "notes/delete", id=1)
        assert isinstance(outcome, Completed), outcome
        assert len(server.effects("deleted")) == 1


@pytest.mark.rule("hold.whole-request")
async def test_a_word_on_reading_a_resource_is_none_on_subscribing_to_it(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, text(server), policies=HOLDS) as runtime:
        reading = held(await ask(runtime, Method.READ_RESOURCE, uri="doc://one"))
        await approve(runtime, reading.hold_id)
        assert held(await ask(runtime, Method.SUBSCRIBE, uri="doc://one")).hold_id != reading.hold_id
        assert server.effects() == []
        assert isinstance(await ask(runtime, Method.READ_RESOURCE, uri="doc://one"), Completed)
        assert [effect["label"] for effect in server.effects()] == ["read"]


@pytest.mark.rule("idempotency.kept")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("notes/delete", {"id": 1}), ("notes/delete", {"id": 2})),
        ((Method.READ_RESOURCE, {"uri": "doc://one"}), (Method.SUBSCRIBE, {"uri": "doc://one"})),
    ],
)
async def test_a_key_stands_for_the_method_with_its_params(
    tmp_path: Path, first: tuple[str, Mapping[str, Any]], second: tuple[str, Mapping[str, Any]]
) -> None:
    server = scripted(tmp_path)
    meta = {"_meta": {"gateway/idempotency-key": "k"}}
    async with running(tmp_path, text(server), policies=ALLOWS) as runtime:
        assert isinstance(await ask(runtime, first[0], **first[1], **meta), Completed)
        assert isinstance(await ask(runtime, first[0], **first[1], **meta), Completed)
        assert len(server.effects()) == 1
        outcome = await ask(runtime, second[0], **second[1], **meta)
        assert isinstance(outcome, Refused), outcome
        assert outcome.code is Code.IDEMPOTENCY_CONFLICT
        assert len(server.effects()) == 1


@pytest.mark.rule("replay.resend")
async def test_an_extensions_method_is_a_write_to_who_makes_recorded_calls_again(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    otto = ActingOperator(name="otto", role="operator")
    async with running(tmp_path, text(server), policies=ALLOWS) as runtime:
        wanted = {"agent": "local", "method": "notes/delete", "params": {"id": 1}}
        assert "include-writes" in (await wiring.resend_as(runtime, wanted, otto))["skipped"]
        parked = await wiring.resend_as(runtime, {**wanted, "include_writes": True}, otto)
        assert parked["refusal"]["code"] == "hold.pending"
        assert server.effects() == []
        reading = {"agent": "local", "method": "resources/read", "params": {"uri": "doc://one"}}
        assert (await wiring.resend_as(runtime, reading, otto))["result"]["contents"] == []
