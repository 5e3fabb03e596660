"""Several clients' processes on one store: one owns it, the others join; it dies, and no client notices."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.adapters import queries
from gateway.adapters.sqlite import read_only
from gateway.model.recording import CallFilter
from gateway.owner import CommandRefused, NoOwner, ask_owner
from tests.owner.fleet import Fleet, answered, fleet

pytestmark = pytest.mark.anyio


def verified(store: Path) -> int:
    """The number of records of a chain without a fault."""
    with read_only(store) as raw:
        found = queries.verify(raw)
    assert found.fault is None, found
    return found.records


async def owners(running: Fleet) -> set[int]:
    return {await member.owner() for member in running.members}


@pytest.mark.rule("owner.joins")
async def test_a_second_process_joins_the_owner_of_the_store(tmp_path: Path) -> None:
    async with fleet(tmp_path / "gateway.db") as running:
        first, second = await running.start(), await running.start()
        assert await owners(running) == {first.pid}
        assert (await answered(second.call("note", "from-second")))["result"]["content"][0]["text"] == "from-second"
        assert running.ledger == ["from-second"]
        await second.leave()
        await first.leave()
    with read_only(tmp_path / "gateway.db") as raw:
        sessions = queries.list_sessions(raw)
    assert len(sessions) == 2
    assert {session.client for session in sessions} == {"tests"}


async def kill_owner(running: Fleet, number: int) -> list[str]:
    """One run: kill the owner with calls of two joiners in flight; nobody's connection is lost, nothing is untrue.

    Returns the ids of the calls that are in doubt, as their clients were told.
    """
    told = []
    while len(running.members) < 3:
        await running.start()
    [owner] = await owners(running)
    joiners = [member for member in running.members if member.pid != owner]
    assert len(joiners) == 2
    stuck = [member.call("stuck", f"stuck-{number}-{place}") for place, member in enumerate(joiners)]
    listed = joiners[0].ask("tools/list")
    while len(running.ledger) < 2 * (number + 1):  # noqa: ASYNC110 - another process writes it
        await anyio.sleep(0.005)
    await running.kill(running.of(owner))
    for place, waiting in enumerate(stuck):
        result = (await answered(waiting))["result"]
        assert result["isError"] is True
        refusal = result["_meta"]["gateway/refusal"]
        assert (refusal["code"], refusal["executed"]) == ("server.lost", "unknown"), place
        told.append(refusal["call_id"])
    assert "result" in await answered(listed)
    [now] = await owners(running)
    assert now in {member.pid for member in joiners}
    assert not any(member.ended for member in joiners)
    return told


@pytest.mark.rule("owner.takeover")
async def test_when_the_owner_is_killed_one_joiner_takes_over_and_no_connection_is_lost(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    told: list[str] = []
    async with fleet(store) as running:
        for number in range(3):
            told += await kill_owner(running, number)
        for member in list(running.members):
            await member.leave()
    verified(store)
    with read_only(store) as raw:
        lost = queries.list_calls(raw, CallFilter(tool="fixture/stuck"))
        assert queries.open_calls(raw) == []
    assert len(lost) == 6
    assert {call.id for call in lost} == set(told), "what is said to be in doubt is found under its id"
    assert {(call.code, call.executed, call.recovered) for call in lost} == {("server.lost", "unknown", True)}


@pytest.mark.slow
@pytest.mark.rule("owner.takeover")
async def test_the_owner_is_killed_with_two_joiners_a_hundred_times(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    async with fleet(store) as running:
        for number in range(100):
            await kill_owner(running, number)
    with read_only(store) as raw:
        starts = list(queries.read_records(raw, types=["process.started"]))
    assert len(starts) == 101
    verified(store)


@pytest.mark.rule("owner.leaves")
async def test_an_owner_that_stops_lets_calls_end_and_hands_over(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    async with fleet(store) as running:
        first, second = await running.start(), await running.start()
        assert await second.owner() == first.pid
        calls = [second.call("note", f"n{number}") for number in range(20)]
        await first.leave()
        running.members.remove(first)
        answers = [await answered(call) for call in calls]
        assert [answer["result"].get("isError", False) for answer in answers] == [False] * 20
        assert sorted(running.ledger) == sorted(f"n{number}" for number in range(20))
        assert await second.owner() == second.pid
        await second.leave()
    with read_only(store) as raw:
        starts = [record.body["clean"] for record in queries.read_records(raw, types=["process.started"])]
    assert starts == [True, True]
    verified(store)


@pytest.mark.rule("owner.leaves")
async def test_a_terminated_owner_hands_over_in_good_order(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    async with fleet(store) as running:
        first, second = await running.start(), await running.start()
        assert await second.owner() == first.pid
        os.kill(first.pid, signal.SIGTERM)
        with anyio.fail_after(20):
            while await second.owner() == first.pid:
                pass
        assert await second.owner() == second.pid
        os.kill(second.pid, signal.SIGTERM)
        await second.leave()
    with read_only(store) as raw:
        starts = [record.body["clean"] for record in queries.read_records(raw, types=["process.started"])]
    assert starts == [True, True]
    verified(store)


async def test_an_owner_s_own_client_is_served_while_others_come_and_go(tmp_path: Path) -> None:
    async with fleet(tmp_path / "gateway.db") as running:
        first = await running.start()
        for number in range(5):
            other = await running.start()
            waiting = other.call("stuck", f"s{number}")
            while f"s{number}" not in running.ledger:  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.005)
            await running.kill(other)
            waiting.cancel()
            assert await first.owner() == first.pid


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.rule("owner.commands")
async def test_commands_reach_the_owner_and_acting_needs_an_operator_s_key(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    with pytest.raises(NoOwner, match="no gateway runs"):
        await ask_owner(store, "pid")
    async with fleet(store) as running:
        first = await running.start()
        assert await ask_owner(store, "pid") == first.pid
        assert await ask_owner(store, "stop", operator_key="key-of-ann") == first.pid
        for key, words in ((None, "needs an operator's key"), ("guess", "no operator has this key")):
            with pytest.raises(CommandRefused, match=words):
                await ask_owner(store, "stop", operator_key=key)
        with pytest.raises(CommandRefused, match="knows no command"):
            await ask_owner(store, "made-up")
        first.kill()
        with pytest.raises((NoOwner, CommandRefused)):
            await ask_owner(store, "pid")


@pytest.mark.parametrize("hello", [b"", b"nonsense\n", b'{"gateway":99,"kind":"agent"}\n', b"[]\n", b"x" * 100_000])
async def test_what_is_no_hello_is_refused_and_harms_nobody(tmp_path: Path, hello: bytes) -> None:
    store = tmp_path / "gateway.db"
    async with fleet(store) as running:
        first = await running.start()
        async with await anyio.connect_unix(store.with_name("gateway.db.sock")) as stream:
            await stream.send(hello)
            await stream.send_eof()
            answer = b""
            with anyio.fail_after(5):
                async for chunk in stream:
                    answer += chunk
        answers: list[Any] = [json.loads(line) for line in answer.splitlines()]
        assert [each["ok"] for each in answers] in ([], [False])
        assert await first.owner() == first.pid
