"""A real gateway in a process of its own, on a free port, with a configuration of the test's."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ALLOW_EVERYTHING: Final = {
    "gateway.rego": """package gateway

import rego.v1

default allow := false

allow if input.subject.id == "local"

deny contains entry if {
\tfalse
\tentry := {}
}

decision := {"allow": allow, "deny": deny, "hold": set(), "obligations": set()}
"""
}
"""A whole policy: the one local principal may do everything."""

PROGRAM: Final = [str(Path(sys.executable).with_name("gateway"))]
"""What users type, installed beside this interpreter."""


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway that answered ready."""

    pid: int
    base: str
    """``http://127.0.0.1:PORT``"""
    directory: Path
    """where its configuration, policies, store and log are"""

    @property
    def url(self) -> str:
        return f"{self.base}/mcp"

    @property
    def log(self) -> str:
        return (self.directory / "gateway.log").read_text(errors="replace")


def configure(directory: Path, servers: str, *, policies: Mapping[str, str] = ALLOW_EVERYTHING, head: str = "") -> Path:
    """Writes ``servers.toml`` and ``policies/``; returns the former's path. `servers` are its tables as they stand."""
    (directory / "policies").mkdir(parents=True, exist_ok=True)
    for name, text in policies.items():
        (directory / "policies" / name).write_text(text)
    path = directory / "servers.toml"
    path.write_text(
        f'[gateway]\nstore = "sqlite:gateway.db"\n{head}\n[policy]\nengine = "embedded:policies"\n\n{servers}\n'
    )
    return path


def free_port() -> int:
    """A port that nothing listens on, below those that the system gives out, and of this worker's own share of them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        port = 20_000 + worker * 1_500 + next(_PORTS) % 1_500
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


_PORTS = itertools.count(os.getpid())


def http_server(name: str, url: str, **settings: Any) -> str:
    """A ``[servers.NAME]`` table for an HTTP tool server."""
    return _table(name, {"url": url, "risk": "read", **settings})


def stdio_server(name: str, command: str, args: list[str], **settings: Any) -> str:
    """A ``[servers.NAME]`` table for a stdio tool server."""
    return _table(name, {"command": command, "args": args, "risk": "read", **settings})


def _table(name: str, settings: Mapping[str, Any]) -> str:
    lines = [f"[servers.{name}]"]
    for key, value in settings.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{key} = {{ {inner} }}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


@contextmanager
def serve(config: Path, *, ready_seconds: float = 30.0) -> Iterator[GatewayProcess]:
    """``gateway serve`` on a free port; ended by its own process id, and its log shown if it did not come up."""
    port = free_port()
    directory = config.parent
    with (directory / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--config", str(config), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
        )
    running = GatewayProcess(process.pid, f"http://127.0.0.1:{port}", directory)
    try:
        _wait_until_ready(process, running, ready_seconds)
        yield running
    finally:
        end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], running: GatewayProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if _is_ready(running.base):
            return
        if process.poll() is not None:
            raise AssertionError(f"the gateway ended with {process.returncode}:\n{running.log[-4000:]}")
        if time.monotonic() > deadline:
            raise AssertionError(f"the gateway was not ready in {seconds} s:\n{running.log[-4000:]}")
        time.sleep(0.05)


def _is_ready(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def end(process: subprocess.Popen[bytes], *, seconds: float = 10.0) -> None:
    """Asks the process to end, and after `seconds` makes it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


@contextmanager
def listening(module: str, *arguments: str, seconds: float = 30.0) -> Iterator[str]:
    """Runs ``python -m module --http 0 ...`` and yields the URL that it says on stderr; ended by its own process id."""
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--http", "0", *arguments], stderr=subprocess.PIPE, cwd=root, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if not line.startswith("listening on "):
            raise AssertionError(f"{module} did not start: {line}{process.stderr.read()}")
        # Nobody reads on, so what it logs must not fill the pipe.
        _drain(process)
        yield line.removeprefix("listening on ").strip()
    finally:
        end(process)  # type: ignore[arg-type]


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    stream = process.stderr
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()
