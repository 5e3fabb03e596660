"""`gateway.testing`, as the tests of an agent use it: an agent, a recording kept in the repository, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from gateway.testing import ReplayServer, replayed

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "session.jsonl"

REPOSITORY = {"repo_path": "/tmp/demo/repo"}
CALLS = (
    ("time__get_current_time", {"timezone": "Europe/Berlin"}),
    ("time__get_current_time", {"timezone": "Asia/Tokyo"}),
    ("time__convert_time", {"source_timezone": "Europe/Berlin", "time": "16:30", "target_timezone": "Asia/Tokyo"}),
    ("time__get_current_time", {"timezone": "Nowhere/Else"}),
    ("git__git_log", {**REPOSITORY, "max_count": 5}),
    ("git__git_status", REPOSITORY),
    ("git__git_show", {**REPOSITORY, "revision": "HEAD"}),
    ("git__git_add", {**REPOSITORY, "files": ["readme.txt"]}),
    ("git__git_commit", {**REPOSITORY, "message": "second"}),
    ("git__git_log", {"repo_path": "/nowhere"}),
    ("git__git_branch", {**REPOSITORY, "branch_type": "local"}),
    ("time__get_current_time", {"timezone": "UTC"}),
)


async def an_agent(url: str) -> str:
    """The agent under test: does its task by the tools that it finds at `url`."""
    async with Client(url) as client:
        for tool, arguments in CALLS:
            result = await client.call_tool(tool, arguments)
        return str(result.content[0])


@pytest.mark.rule("replay.testing-fixture")
def test_an_agent_is_tested_against_a_recording(mcp_replay: Callable[..., ReplayServer]) -> None:
    server = mcp_replay(EXAMPLE)
    assert "2026-11-21" in anyio.run(an_agent, server.url)
    server.assert_complete()


@pytest.mark.rule("replay.testing-fixture")
def test_a_call_that_is_not_recorded_fails_the_agents_test_with_the_nearest_one() -> None:
    async def astray(url: str) -> str:
        async with Client(url) as client:
            result = await client.call_tool("time__get_current_time", {"timezone": "Europe/Paris"})
            assert result.is_error
            return str(result.content[0])

    with replayed(EXAMPLE) as server:
        said = anyio.run(astray, server.url)
        assert "replay.missing" in said
        assert "Europe/Berlin" in said
        with pytest.raises(AssertionError, match="12 of 12 recorded calls were not made"):
            server.assert_complete()
        assert len(server.report().missing) == 1


@pytest.mark.anyio
@pytest.mark.rule("replay.testing-fixture")
async def test_a_client_that_starts_its_server_gets_the_same_recording() -> None:
    with replayed(EXAMPLE) as server:
        async with Client(StdioServerParameters(command=server.command, args=list(server.args))) as client:
            assert {"git__git_log", "time__get_current_time"} <= {
                tool.name for tool in (await client.list_tools()).tools
            }
            first = await client.call_tool(*CALLS[0])
            assert not first.is_error


@pytest.mark.rule("replay.testing-fixture")
def test_a_recording_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such file"), replayed(tmp_path / "absent.jsonl"):
        pass
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(EXAMPLE.read_bytes().replace(b"Asia/Tokyo", b"Asia/Seoul"))
    with pytest.raises(RuntimeError, match="not"), replayed(changed):
        pass
