"""Fault runs: what a failing tool server sees of retries, and that its recovery is noticed."""

from pathlib import Path
from typing import Any

import pytest

from gateway.decide.retry import FLOOR
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Refused
from tests.running import execute, running
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

CALLS = 60


def table(url: str, more: str = "") -> str:
    return f'[servers.s]\nurl = "{url}"\nrisk = "read"\n{more}\n'


def scripted(directory: Path, *steps: Any) -> Scripted:
    return Scripted(directory / "server", {"tools": [tool("look")], "on": {"tools/call:look": list(steps)}})


@pytest.mark.rule("retry.amplification")
async def test_a_server_that_always_fails_sees_at_most_the_declared_share_of_retries_more(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"status": 503, "body": "busy"})
    retries = (
        "retries = { attempts = 5, backoff_seconds = 0.001, budget_percent = 20 }\nbreaker = { failures = 100000 }\n"
    )
    async with server.http() as url, running(tmp_path, table(url, retries)) as runtime:
        before = len(server.received("tools/call"))
        for number in range(CALLS):
            outcome = await execute(runtime, "s__look", {"n": number})
            assert isinstance(outcome, Failed)
            assert outcome.code is Code.SERVER_UNAVAILABLE
        seen = len(server.received("tools/call")) - before
    assert CALLS < seen <= CALLS * 1.2 + FLOOR


@pytest.mark.rule("retry.reads-succeed")
async def test_a_read_that_fails_now_and_then_succeeds_within_its_tries(tmp_path: Path) -> None:
    works, fails = [{"text": "well"}], [{"status": 503, "body": "busy"}]
    server = scripted(tmp_path, works, fails, works, works, fails, works)
    async with server.http() as url, running(tmp_path, table(url)) as runtime:
        for number in range(4):
            assert isinstance(await execute(runtime, "s__look", {"n": number}), Completed)


@pytest.mark.rule("retry.breaker-stops-storm")
async def test_a_dead_server_is_soon_left_alone_and_each_refusal_says_when_to_try_again(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"status": 503, "body": "busy"})
    async with server.http() as url, running(tmp_path, table(url, "retries = { attempts = 1 }\n")) as runtime:
        outcomes = [await execute(runtime, "s__look", {"n": number}) for number in range(20)]
        assert len(server.received("tools/call")) == 5
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert [outcome.code for outcome in refusals] == [Code.BREAKER_OPEN] * 15
    assert all(outcome.retry_after_seconds for outcome in refusals)
