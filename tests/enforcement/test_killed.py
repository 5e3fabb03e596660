"""`kill -9` two hundred times: a write happens at most once under its key, holds are kept, and what is in doubt says so."""

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from gateway.config import load
from gateway.decide.hold import HoldState, Operator
from gateway.wiring import build
from tests.enforcement.killing import moments, victims
from tests.gateway_process import configure
from tests.running import ALLOW, OPERATORS
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

RUNS = 200
HOLD_RUNS = 50


def table(url: str) -> str:
    return (
        f'[servers.s]\nurl = "{url}"\n{OPERATORS}\n[approvals]\ninline_wait_seconds = 0\n[idempotency]\nttl = "24h"\n'
    )


@pytest.mark.slow
@pytest.mark.rule("idempotency.at-most-once")
async def test_an_effect_happens_at_most_once_under_its_key_however_the_gateway_is_killed(tmp_path: Path) -> None:
    server = Scripted(
        tmp_path / "server", {"tools": [tool("pay")], "on": {"tools/call:pay": [{"effect": "paid"}, {"text": "paid"}]}}
    )
    async with server.http() as url:
        config = configure(tmp_path, table(url), policies=ALLOW)
        open_keys: list[str] = []
        doubtful: set[str] = set()
        completed: set[str] = set()

        def all_runs() -> None:
            with victims(config) as gateways:
                for number, moment in enumerate(moments(RUNS, 0.06)):
                    keys = [*open_keys[-4:], *(f"k{number}-{part}" for part in range(3))]
                    calls = [("s__pay", {"key": key}, key) for key in keys]
                    for index, kind in gateways.run(calls, kill_after=moment).items():
                        assert kind in ("completed", "in doubt"), kind
                        (completed if kind == "completed" else doubtful).add(keys[index])
                    open_keys[:] = [key for key in (*open_keys, *keys) if key not in completed and key not in doubtful]
                last = gateways.run([("s__pay", {"key": key}, key) for key in dict.fromkeys(open_keys)])
                for index, kind in last.items():
                    (completed if kind == "completed" else doubtful).add(list(dict.fromkeys(open_keys))[index])

        await anyio.to_thread.run_sync(all_runs)
        counts: dict[str, int] = {}
        for effect in server.effects("paid"):
            counts[effect["arguments"]["key"]] = counts.get(effect["arguments"]["key"], 0) + 1
    assert max(counts.values()) == 1, {key: count for key, count in counts.items() if count > 1}
    assert completed <= set(counts)
    assert len(completed) > RUNS // 4
    async with build(load(config), watch=False) as runtime:
        letters = await runtime.letters.all("open", limit=10_000)
        kept = {key for key in doubtful if runtime.keys.kept("local", key) is not None}
        assert kept == doubtful
        assert len(letters) >= len(doubtful)
        assert all(letter.in_doubt for letter in letters)
    verified = await anyio.to_thread.run_sync(verify, config)
    assert json.loads(verified)["fault"] is None, verified


def verify(config: Path) -> str:
    """What `gateway log verify --json` prints."""
    command = [sys.executable, "-m", "gateway", "log", "verify", "--config", str(config), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.rule("hold.survives-kill")
async def test_no_hold_is_lost_its_clock_is_kept_and_an_approved_one_runs_once(tmp_path: Path) -> None:
    server = Scripted(
        tmp_path / "server", {"tools": [tool("pay")], "on": {"tools/call:pay": [{"effect": "paid"}, {"text": "paid"}]}}
    )
    async with server.http() as url:
        text = table(url).replace(
            "inline_wait_seconds = 0", "inline_wait_seconds = 0\nmax_pending = { agent = 1000, gateway = 1000 }"
        )
        config = configure(tmp_path, text, policies=ALLOW)
        held: dict[int, str] = {}

        def ask() -> None:
            with victims(config) as gateways:
                for number, moment in enumerate(moments(HOLD_RUNS, 0.05)):
                    calls = [("s__pay", {"held": True, "n": index}, None) for index in range(number % 5 + 1)]
                    for index, kind in gateways.run(calls, kill_after=moment).items():
                        assert kind.startswith("held "), kind
                        assert held.setdefault(index, kind) == kind, "the same call met another hold"

        await anyio.to_thread.run_sync(ask)
        assert held
        ann = Operator(id="ann", role="operator")
        async with build(load(config), watch=False) as runtime:
            kept = {hold.id: hold for hold in runtime.book.all()}
            assert {kind.split()[1] for kind in held.values()} <= set(kept)
            clocks = {identifier: hold.expires_at - hold.opened_at for identifier, hold in kept.items()}
            assert set(clocks.values()) == {3600.0}
            for identifier, hold in kept.items():
                if hold.state is HoldState.PENDING:
                    await runtime.book.decide(identifier, ann, approve=True)

        def use() -> None:
            with victims(config) as gateways:
                for moment in moments(10, 0.05, seed=7):
                    gateways.run(
                        [("s__pay", {"held": True, "n": index}, None) for index in range(5)], kill_after=moment
                    )

        await anyio.to_thread.run_sync(use)
        counts: dict[int, int] = {}
        for effect in server.effects("paid"):
            counts[effect["arguments"]["n"]] = counts.get(effect["arguments"]["n"], 0) + 1
    assert set(counts.values()) <= {1}
