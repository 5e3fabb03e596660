"""Recorded sessions as MCP servers for the tests of an agent: no tool server, no network, the same answers every time.

Record once (`gateway log export --session ID -o session.jsonl`), keep the file beside the tests, and:

    pytest_plugins = ["gateway.testing"]          # in conftest.py

    def test_the_agent_finds_the_commit(mcp_replay):
        server = mcp_replay("session.jsonl")
        answer = run_my_agent(url=server.url)     # or: command=server.command, args=server.args
        assert "a1b2c3" in answer
        server.assert_complete()                  # every recorded call was made, and no other

Outside pytest, `replayed` is the same as a context manager. An agent that makes a call which is not recorded, or makes
calls in another order, gets the refusal `replay.missing`, with the nearest recorded call in its message; `loose=True` takes
recorded calls in any order.

This module uses nothing of the gateway but its command, so that it works whatever event loop the tests have.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 30.0
END_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """How far a recording was played over HTTP."""

    calls: int
    """Requests in the recording."""
    left: int
    """Of them, those that were not made by the session that made the most."""
    missing: tuple[str, ...]
    """Why each request that was not recorded was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayServer:
    """A recording that is served."""

    url: str
    """Streamable HTTP, both eras; each session begins at the recording's beginning."""
    command: str
    """For clients that start their server: a stdio server of the same recording, with `args`."""
    args: tuple[str, ...]

    def report(self) -> ReplayReport:
        """How far it was played over HTTP, and what was asked that is not recorded."""
        with urllib.request.urlopen(self.url.removesuffix("/mcp") + "/report", timeout=10) as answer:
            found = json.load(answer)
        return ReplayReport(calls=found["calls"], left=found["left"], missing=tuple(found["missing"]))

    def assert_complete(self) -> None:
        """Every recorded call was made over HTTP, and no other.

        Raises:
            AssertionError: with what is missing on either side.
        """
        found = self.report()
        problems = list(found.missing)
        if found.left:
            problems.append(f"{found.left} of {found.calls} recorded calls were not made")
        if problems:
            raise AssertionError("; ".join(problems))


@contextmanager
def replayed(
    file: str | os.PathLike[str], *, session: str | None = None, loose: bool = False, timing: bool = False
) -> Iterator[ReplayServer]:
    """Serve a recording for as long as the context lasts.

    Args:
        file: an export (`gateway log export`), as JSON Lines.
        session: the session to serve, where the file holds several; the beginning of its id is enough.
        loose: match calls by tool and arguments, in any order.
        timing: take as long as it took.

    Raises:
        RuntimeError: it cannot be served; the text is what the command said.
    """
    args = ["-m", "gateway", "replay", "serve", os.fspath(Path(file).absolute())]
    args += ["--session", session] if session is not None else []
    args += ["--loose"] if loose else []
    args += ["--timing"] if timing else []
    process = subprocess.Popen(
        [sys.executable, *args, "--port", "0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        url = _url(process)
        yield ReplayServer(url=url, command=sys.executable, args=(*args, "--stdio"))
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS)
        if process.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stderr.close()


def _url(process: "subprocess.Popen[str]") -> str:
    """The address that the command says it serves at."""
    assert process.stderr is not None
    watchdog = threading.Timer(READY_SECONDS, process.kill)
    watchdog.start()
    said: list[str] = []
    try:
        for line in process.stderr:
            if (found := re.search(r"http://127\.0\.0\.1:\d+/mcp", line)) is not None:
                stream = process.stderr
                # Nobody reads on, so what it says must not fill the pipe.
                threading.Thread(target=_drain, args=(stream,), daemon=True).start()
                return found[0]
            said.append(line)
    finally:
        watchdog.cancel()
    raise RuntimeError("".join(said).strip() or f"gateway replay serve ended with {process.wait(END_SECONDS)}")


def _drain(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        for _ in stream:
            pass


try:
    import pytest
except ImportError:  # `replayed` needs no pytest
    pass
else:

    @pytest.fixture
    def mcp_replay() -> Iterator[Callable[..., ReplayServer]]:
        """Serves recordings until the test ends: `mcp_replay(file, loose=False)` gives a `ReplayServer`."""
        with contextlib.ExitStack() as stack:

            def serve(file: str | os.PathLike[str], **options: Any) -> ReplayServer:
                return stack.enter_context(replayed(file, **options))

            yield serve
