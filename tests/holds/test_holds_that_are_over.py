"""Holds that are over: found after a restart, bounded in memory, without what redaction erases, dropped with their time."""

from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from gateway import wiring
from gateway.acts import ActInvalid, ActRefused, ActUnknown
from gateway.adapters.holds import PURPOSE
from gateway.adapters.sealing import open_seal
from gateway.adapters.signing import APPROVAL_TYPE, load_public, verify
from gateway.decide.hold import Operator
from gateway.model.verdict import Held
from tests.running import OPERATORS, execute, running, server_table, text_of, until
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
QUICK = "inline_wait_seconds = 0\nexpires_seconds = 0.2\nmax_pending = { agent = 100, gateway = 100 }"
SLOW = "inline_wait_seconds = 0\nmax_pending = { agent = 100, gateway = 100 }"


def scripted(directory: Path) -> Scripted:
    return Scripted(directory / "server", {"tools": [tool("pay")], "on": {"tools/call:pay": [{"text": "paid"}]}})


def table(server: Scripted, approvals: str = SLOW, more: str = "") -> str:
    return f"{server_table(server)}\n{OPERATORS}\n{more}\n[approvals]\n{approvals}\n"


async def held(runtime: wiring.Runtime, **arguments: Any) -> str:
    outcome = await execute(runtime, "s__pay", {"held": True, **arguments})
    assert isinstance(outcome, Held), outcome
    return outcome.hold_id


async def used(runtime: wiring.Runtime, **arguments: Any) -> str:
    """A hold that was approved, and its call made."""
    hold_id = await held(runtime, **arguments)
    await runtime.acts.perform("holds.approve", ANN, {"id": hold_id})
    assert text_of(await execute(runtime, "s__pay", {"held": True, **arguments})) == "paid"
    return hold_id


async def listed(runtime: wiring.Runtime, state: str = "all", **more: Any) -> list[tuple[str, str]]:
    found = await runtime.acts.perform("holds.list", None, {"state": state, **more})
    return [(hold["id"], hold["state"]) for hold in found]


async def all_expired(runtime: wiring.Runtime) -> None:
    """Every hold is recorded as expired."""

    async def waiting() -> int:
        query = "SELECT count(*) FROM holds WHERE state = 'pending'"
        return int(await runtime.journal.read(lambda raw: raw.execute(query).fetchone()[0]))

    with anyio.fail_after(15):
        while await waiting():  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.05)


@pytest.mark.rule("hold.over")
async def test_holds_that_are_over_are_listed_and_shown_after_a_restart(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with running(tmp_path, table(server, QUICK)) as runtime:
        done = await used(runtime, n=1)
        expired = await held(runtime, n=2)
        await all_expired(runtime)
        before = await runtime.acts.perform("holds.show", ANN, {"id": done})
    async with running(tmp_path, table(server)) as runtime:
        assert await listed(runtime) == [(expired, "expired"), (done, "done")]
        assert await listed(runtime, "expired") == [(expired, "expired")]
        assert await listed(runtime, "done") == [(done, "done")]
        assert await listed(runtime, "pending") == []
        shown = await runtime.acts.perform("holds.show", ANN, {"id": done[-12:]})
        assert {**shown, "claimed_by": ""} == {**before, "claimed_by": ""}
        (envelope,) = shown["envelopes"]
        said = orjson.loads(verify(envelope, [load_public(runtime.signer.public.pem.encode())], APPROVAL_TYPE))
        assert said["binding"] == shown["binding"]
        told = await execute(runtime, "gateway__holds")
        assert [hold["id"] for hold in orjson.loads(text_of(told))["holds"]] == [expired, done]


@pytest.mark.rule("hold.over")
async def test_memory_keeps_the_newest_and_the_store_has_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapters.holds.FINISHED", 3)
    server = scripted(tmp_path)
    async with running(tmp_path, table(server, QUICK)) as runtime:
        ids = [await held(runtime, n=number) for number in range(4)]
        await all_expired(runtime)
        ids += [await used(runtime, n=number) for number in range(4, 9)]
    for _ in range(2):
        async with running(tmp_path, table(server)) as runtime:
            waiting = await held(runtime, n=-1)  # the same in both
            assert len(list(runtime.book.all())) <= 4, "three that are over and the one that waits"
            everything = [found for found, _ in await listed(runtime)]
            assert everything == [waiting, *reversed(ids)]
            first = await listed(runtime, limit=4)
            rest = await listed(runtime, before=first[-1][0])
            assert [found for found, _ in first + rest] == everything
            assert await listed(runtime, "expired") == [(found, "expired") for found in reversed(ids[:4])]
            oldest = await runtime.acts.perform("holds.show", ANN, {"id": ids[0]})
            assert (oldest["id"], oldest["state"]) == (ids[0], "expired")
            with pytest.raises(ActRefused, match="is expired; nothing was changed"):
                await runtime.acts.perform("holds.approve", ANN, {"id": ids[0]})
            with pytest.raises(ActInvalid, match="'lost'; name one of all, pending"):
                await listed(runtime, "lost")
            with pytest.raises(ActUnknown):
                await runtime.acts.perform("holds.show", ANN, {"id": "no-such-hold"})
            with pytest.raises(ActInvalid, match="write more of the id"):
                await runtime.acts.perform("holds.show", ANN, {"id": ids[0][:3]})


async def sealed(runtime: wiring.Runtime, store: Path) -> bytes:
    """All that is sealed of holds and decisions, opened."""
    queries = ("SELECT data FROM holds", "SELECT data FROM hold_decisions")
    found = await runtime.journal.read(lambda raw: [row[0] for query in queries for row in raw.execute(query)])
    seal = open_seal(store)
    return b"\n".join(seal.open(data, PURPOSE) for data in found)


@pytest.mark.rule("hold.goes-with-its-purpose")
@pytest.mark.parametrize("glob", ["**.iban", "arguments.to.iban", "to.iban"])
async def test_what_redaction_erases_goes_with_the_hold_and_is_in_no_signed_decision(glob: str, tmp_path: Path) -> None:
    server, canary = scripted(tmp_path), "DE02CANARY"
    text = table(server, more=f'[recording]\nredact = ["{glob}"]\n')
    async with running(tmp_path, text) as runtime:
        arguments = {"n": 1, "to": {"iban": canary, "name": "ACME"}}
        hold_id = await held(runtime, **arguments)
        binding = (await runtime.acts.perform("holds.show", ANN, {"id": hold_id}))["binding"]
        assert canary.encode() in await sealed(runtime, tmp_path / "gateway.db"), "it is forwarded once it is approved"
        await runtime.acts.perform("holds.approve", ANN, {"id": hold_id})
        assert text_of(await execute(runtime, "s__pay", {"held": True, **arguments})) == "paid"
        assert server.received("tools/call")[0]["params"]["arguments"]["to"]["iban"] == canary
        left = await sealed(runtime, tmp_path / "gateway.db")
        assert canary.encode() not in left
        assert b"ACME" in left
        shown = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
        assert (shown["binding"], shown["arguments"]["to"]["name"]) == (binding, "ACME")
        (envelope,) = shown["envelopes"]
        said = orjson.loads(verify(envelope, [load_public(runtime.signer.public.pem.encode())], APPROVAL_TYPE))
        assert (said["binding"], said["redacted"]) == (binding, ["to.iban"])
        # The same call again is another one, with a hold of its own.
        assert await held(runtime, **arguments) != hold_id


@pytest.mark.rule("hold.goes-with-its-purpose")
async def test_where_no_arguments_are_recorded_none_are_left_of_a_hold(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    text = table(server, QUICK, more="[recording]\narguments = false\n")
    async with running(tmp_path, text) as runtime:
        await used(runtime, text="canary-used")
        await held(runtime, text="canary-expired")
        await all_expired(runtime)
        assert b"canary" not in await sealed(runtime, tmp_path / "gateway.db")


@pytest.mark.rule("hold.goes-with-its-purpose")
async def test_what_is_over_goes_with_the_records_of_its_time_and_what_waits_stays(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    text = table(server, more='[recording]\nretain = "1s"\n')
    async with running(tmp_path, text) as runtime:
        old = await used(runtime, n=1)
        waiting = await held(runtime, n=2)
        await runtime.checkpoints.write()
        await anyio.sleep(1.2)
        young = await used(runtime, n=3)
        await runtime.checkpoints.write()
        assert await runtime.retention.apply() > 0
        assert await listed(runtime) == [(young, "done"), (waiting, "pending")]
        with pytest.raises(ActUnknown):
            await runtime.acts.perform("holds.show", ANN, {"id": old})
        decisions = "SELECT DISTINCT hold_id FROM hold_decisions"
        assert await runtime.journal.read(lambda raw: raw.execute(decisions).fetchall()) == [(young,)]
        await runtime.acts.perform("holds.approve", ANN, {"id": waiting})
        assert text_of(await execute(runtime, "s__pay", {"held": True, "n": 2})) == "paid"
    async with running(tmp_path, text) as runtime:
        await until(lambda: runtime.book.get(young) is not None)
        assert (old, "done") not in await listed(runtime)


@pytest.mark.rule("hold.erased")
@pytest.mark.parametrize("restarted", [False, True])
async def test_with_a_calls_request_goes_what_its_hold_has_of_it(restarted: bool, tmp_path: Path) -> None:
    server, path = scripted(tmp_path), tmp_path / "gateway.db"
    async with running(tmp_path, table(server)) as runtime:
        hold_id = await used(runtime, text="canary")
        other = await used(runtime, text="stays")
        binding = (await runtime.acts.perform("holds.show", ANN, {"id": hold_id}))["binding"]
        if not restarted:
            await _erased(runtime, hold_id, binding, path, "claimed_by")
    if restarted:
        async with running(tmp_path, table(server)) as runtime:
            await _erased(runtime, hold_id, binding, path, "call_id")
    async with running(tmp_path, table(server)) as runtime:
        shown = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
        assert (shown["arguments"], shown["received"], shown["envelopes"]) == (None, None, [])
        kept = await runtime.acts.perform("holds.show", ANN, {"id": other})
        assert kept["arguments"]["text"] == "stays"
        assert len(kept["envelopes"]) == 1


async def _erased(runtime: wiring.Runtime, hold_id: str, binding: str, path: Path, call: str) -> None:
    shown = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
    assert b"canary" in await sealed(runtime, path)
    done = await runtime.acts.perform("calls.erase", ANN, {"id": shown[call], "roles": ["request"]})
    assert done["erased"] == ["request"]
    assert b"canary" not in await sealed(runtime, path)
    after = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
    assert (after["binding"], after["state"], after["arguments"]) == (binding, "done", None)


@pytest.mark.rule("hold.erased")
async def test_a_hold_that_waits_keeps_its_arguments_until_its_end_though_its_call_is_erased(tmp_path: Path) -> None:
    server, path = scripted(tmp_path), tmp_path / "gateway.db"
    async with running(tmp_path, table(server)) as runtime:
        hold_id = await held(runtime, text="canary")
        shown = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
        await runtime.acts.perform("calls.erase", ANN, {"id": shown["call_id"], "roles": ["request"]})
    async with running(tmp_path, table(server)) as runtime:
        await runtime.acts.perform("holds.approve", ANN, {"id": hold_id})
        assert text_of(await execute(runtime, "s__pay", {"held": True, "text": "canary"})) == "paid"
        assert server.received("tools/call")[0]["params"]["arguments"]["text"] == "canary"
        assert b"canary" not in await sealed(runtime, path)
        after = await runtime.acts.perform("holds.show", ANN, {"id": hold_id})
        assert (after["state"], after["arguments"], after["binding"]) == ("done", None, shown["binding"])
