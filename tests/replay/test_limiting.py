"""The limits of another configuration on recorded calls, by the recording's own clock."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.decide.hold import Operator
from gateway.model.verdict import Completed, Held
from tests.replay.test_judging import run
from tests.running import OPERATORS, execute, running, server_table
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")
QUOTA = '\n[[quotas]]\nmatch = { tool = "s/look" }\nper = "agent"\nlimit = %d\nwindow = "1h"\n'
LOOP = '\n[[interrupts]]\nname = "loop"\nwhen = { identical_calls = %d, within = "60s" }\nthen = "%s"\n'


async def recorded(directory: Path, limits: str) -> Path:
    """Six equal calls and one other under some limits."""
    server = Scripted(directory / "server", {"tools": [tool("look")]})
    async with running(directory, server_table(server, more='risk = "read"') + limits) as runtime:
        for _ in range(6):
            await execute(runtime, "s__look", {"a": 1})
        await execute(runtime, "s__look", {"a": 2})
    return directory / "servers.toml"


def judged(config: Path, limits: str, *, code: int, calls: int = 7) -> dict[tuple[str, str, str], int]:
    """What changes under other limits."""
    other = config.with_name("other.toml")
    other.write_text(f'[policy]\nengine = "embedded:policies"\n{limits}')
    said: dict[str, Any] = json.loads(
        run("policy", "backtest", "--config", str(config), "--limits", str(other), "--json", code=code)
    )
    assert said["calls"] == calls
    return {(each["was"], each["now"], each["code"]): each["calls"] for each in said["changes"]}


@pytest.mark.rule("replay.limits")
async def test_a_quota_that_was_not_there_would_have_stopped_what_went_beyond_it(tmp_path: Path) -> None:
    config = await recorded(tmp_path, "")
    assert judged(config, QUOTA % 4, code=0) == {("allow", "deny", "#1 tool s/look"): 3}
    assert judged(config, QUOTA % 7, code=0) == {}


@pytest.mark.rule("replay.limits")
async def test_an_interrupt_stops_the_loop_and_what_comes_behind_it(tmp_path: Path) -> None:
    config = await recorded(tmp_path, "")
    assert judged(config, LOOP % (5, "deny"), code=0) == {("allow", "deny", "loop"): 2}
    assert judged(config, LOOP % (5, "pause-session"), code=0) == {
        ("allow", "deny", "loop"): 1,
        ("allow", "deny", "interrupt:loop"): 2,
    }
    assert judged(config, LOOP % (5, "hold"), code=0) == {("allow", "hold", "loop"): 2}


@pytest.mark.rule("replay.limits")
async def test_calls_that_polled_for_a_hold_or_were_released_by_it_count_no_further(tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", {"tools": [tool("pay")]})
    text = server_table(server) + OPERATORS + "[approvals]\ninline_wait_seconds = 0\n"
    async with running(tmp_path, text) as runtime:
        for _ in range(2):
            for _ in range(4):
                held = await execute(runtime, "s__pay", {"held": True})
                assert isinstance(held, Held)
                waiting = held.hold_id
            await runtime.acts.perform("holds.approve", ANN, {"id": waiting})
            assert isinstance(await execute(runtime, "s__pay", {"held": True}), Completed)
    config = tmp_path / "servers.toml"
    assert judged(config, LOOP % (3, "deny"), code=0, calls=10) == {}
    assert judged(config, LOOP % (2, "deny"), code=0, calls=10) == {("allow", "deny", "loop"): 1}


@pytest.mark.rule("replay.limits")
async def test_a_limit_that_is_lifted_makes_newly_allowed_calls(tmp_path: Path) -> None:
    config = await recorded(tmp_path, QUOTA % 4)
    assert judged(config, QUOTA % 4, code=0) == {}
    assert judged(config, "", code=1) == {("deny", "allow", "#1 tool s/look"): 3}
