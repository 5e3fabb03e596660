"""Third-party tool servers as users have them: how each is started, and what shows that it works through whatever is between.

`Reached` is a client that is connected; it hides whether a tool is called by its own name or by the gateway's.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from mcp import Client, types

from tests.nodejs import REAL, installed, node

MODES: Final = ("auto", "legacy", "2026-07-28")
"""How the SDK's client may speak: as the server does, the handshake era only, the current revision only."""


@dataclass
class Reached:
    """A connected client, and what it was asked on its way."""

    client: Client
    prefix: str = ""
    """what the gateway puts before tools' names"""
    progress: list[float] = field(default_factory=list)

    async def call(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self.progress.append(progress)

        return await self.client.call_tool(self.prefix + tool, arguments, progress_callback=on_progress)

    async def text(self, tool: str, arguments: dict[str, Any]) -> str:
        """The text of a call that succeeds."""
        result = await self.call(tool, arguments)
        text = "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))
        assert not result.is_error, text
        return text

    async def tools(self) -> set[str]:
        found: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self.client.list_tools(cursor=cursor)
            found |= {t.name.removeprefix(self.prefix) for t in page.tools if t.name.startswith(self.prefix)}
            cursor = page.next_cursor
            if cursor is None:
                return found


@dataclass(frozen=True)
class Workplace:
    """What the servers work on."""

    directory: Path
    page: str
    """a URL on the loopback interface, for `fetch`"""

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def files(self) -> Path:
        return self.directory / "files"

    def prepare(self) -> None:
        self.repository.mkdir(parents=True)
        self.files.mkdir()
        (self.files / "letter.txt").write_text("dear gateway\n")
        (self.repository / "readme.txt").write_text("hello\n")
        author = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        for command in (["init", "-q"], ["add", "readme.txt"], [*author, "commit", "-q", "-m", "The first commit"]):
            subprocess.run(["git", "-C", str(self.repository), *command], check=True, timeout=60)


Exercise = Callable[[Reached, Workplace], Awaitable[None]]


@dataclass(frozen=True)
class RealServer:
    """A server of somebody else's."""

    name: str
    launch: Callable[[Workplace], tuple[str, list[str]]]
    """its command and arguments; skips the test with the reason if it is not installed"""
    exercise: Exercise
    """calls it, and fails if it does not answer as it should"""
    eras: tuple[str, ...]
    """the modes in which it can be reached without a gateway"""


def _python(module: str, *arguments: str) -> tuple[str, list[str]]:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install {module.replace('_', '-')}")
    return sys.executable, ["-m", module, *arguments]


def _npm(package: str, *arguments: str) -> tuple[str, list[str]]:
    program = installed(REAL, "@modelcontextprotocol", package, "dist", "index.js")
    return str(node()), [str(program), *arguments]


async def _time(reached: Reached, _: Workplace) -> None:
    assert {"get_current_time", "convert_time"} <= await reached.tools()
    assert '"timezone": "Europe/Berlin"' in await reached.text("get_current_time", {"timezone": "Europe/Berlin"})
    wrong = await reached.call("get_current_time", {"timezone": "Nowhere/Else"})
    assert wrong.is_error


async def _git(reached: Reached, workplace: Workplace) -> None:
    assert {"git_log", "git_status", "git_add"} <= await reached.tools()
    repository = str(workplace.repository)
    assert "The first commit" in await reached.text("git_log", {"repo_path": repository})
    (workplace.repository / "new.txt").write_text("new\n")
    await reached.text("git_add", {"repo_path": repository, "files": ["new.txt"]})
    assert "new.txt" in await reached.text("git_status", {"repo_path": repository})
    missing = await reached.call("git_log", {"repo_path": str(workplace.directory / "nowhere")})
    assert missing.is_error


async def _fetch(reached: Reached, workplace: Workplace) -> None:
    assert await reached.tools() == {"fetch"}
    assert "a page for the gateway" in await reached.text("fetch", {"url": workplace.page})


async def _everything(reached: Reached, _: Workplace) -> None:
    assert {"echo", "get-sum", "get-structured-content"} <= await reached.tools()
    assert await reached.text("echo", {"message": "Grüße 🌍"}) == "Echo: Grüße 🌍"
    assert "5" in await reached.text("get-sum", {"a": 2, "b": 3})
    structured = await reached.call("get-structured-content", {"location": "Chicago"})
    assert structured.structured_content is not None
    assert "temperature" in structured.structured_content
    image = await reached.call("get-tiny-image", {})
    assert next(block for block in image.content if isinstance(block, types.ImageContent)).mime_type == "image/png"
    await reached.text("trigger-long-running-operation", {"duration": 0.4, "steps": 4})
    assert reached.progress == sorted(reached.progress)
    assert len(reached.progress) >= 3
    resources = (await reached.client.list_resources()).resources
    document = next(r for r in resources if str(r.uri).endswith("/features.md"))
    contents = (await reached.client.read_resource(document.uri)).contents
    assert isinstance(contents[0], types.TextResourceContents)
    prompts = {p.name.removeprefix(reached.prefix) for p in (await reached.client.list_prompts()).prompts}
    assert {"simple-prompt", "args-prompt"} <= prompts
    prompt = await reached.client.get_prompt(reached.prefix + "args-prompt", {"city": "Berlin"})
    assert "Berlin" in str(prompt.messages[0].content)


async def _filesystem(reached: Reached, workplace: Workplace) -> None:
    letter = str(workplace.files / "letter.txt")
    assert {"read_text_file", "write_file"} <= await reached.tools()
    assert "dear gateway" in await reached.text("read_text_file", {"path": letter})
    written = workplace.files / "answer.txt"
    await reached.text("write_file", {"path": str(written), "content": "dear client\n"})
    assert written.read_text() == "dear client\n"
    outside = await reached.call("read_text_file", {"path": str(workplace.repository / "readme.txt")})
    assert outside.is_error


async def _memory(reached: Reached, _: Workplace) -> None:
    entity = {"name": "gateway", "entityType": "program", "observations": ["relays calls"]}
    await reached.text("create_entities", {"entities": [entity]})
    assert "relays calls" in await reached.text("read_graph", {})


_BOTH: Final = MODES
_LEGACY: Final = ("auto", "legacy")

SERVERS: Final = {
    server.name: server
    for server in (
        RealServer("time", lambda _: _python("mcp_server_time", "--local-timezone", "UTC"), _time, _BOTH),
        RealServer("git", lambda _: _python("mcp_server_git"), _git, _BOTH),
        RealServer(
            "fetch",
            # It refuses the loopback interface otherwise, and it asks for a robots.txt that our page does not have.
            lambda _: _python("mcp_server_fetch", "--allow-private-ips", "--ignore-robots-txt"),
            _fetch,
            _BOTH,
        ),
        RealServer("everything", lambda _: _npm("server-everything", "stdio"), _everything, _LEGACY),
        RealServer("filesystem", lambda w: _npm("server-filesystem", str(w.files)), _filesystem, _LEGACY),
        RealServer("memory", lambda _: _npm("server-memory"), _memory, _LEGACY),
    )
}
