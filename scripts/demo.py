"""Starts `gateway serve`, waits until it is ready, and says how to connect a client and what to try."""

import argparse
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

TEXT = """
The gateway is ready at {url}
Its tool servers: time and git, from servers.toml. What agents may do: policies/. Stop it with Ctrl+C.

Connect a client
  Claude Code      claude mcp add --transport http gateway {url}
  Cursor           "gateway": {{"url": "{url}"}}                     in ~/.cursor/mcp.json under mcpServers
  VS Code          "gateway": {{"type": "http", "url": "{url}"}}     in .vscode/mcp.json under servers
  Claude Desktop   {gateway} install claude-desktop --config {config}

Try, in another terminal
  {gateway} tools --config {config}
  {gateway} calls list --config {config}
  Ask the agent what time it is in Tokyo, and for the last three commits of {root}: both are reads, and allowed.
  Ask it to commit something: a write, which the policy holds for a person.
"""


def main() -> int:
    """Run until stopped; the gateway's own exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=8080, help="where to listen on 127.0.0.1 (default 8080)")
    arguments = parser.parse_args()
    root: Path = arguments.root
    gateway = Path(sys.executable).parent / "gateway"
    config = root / "servers.toml"
    process = subprocess.Popen([gateway, "serve", "--config", config, "--port", str(arguments.port)])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))
    url = f"http://127.0.0.1:{arguments.port}"
    deadline = time.monotonic() + 60
    while not ready(url):
        if process.poll() is not None:
            return process.returncode
        if time.monotonic() > deadline:
            process.terminate()
            print(f"the gateway was not ready at {url} within a minute", file=sys.stderr)
            return 1
        time.sleep(0.1)
    wanted = len(tomllib.loads(config.read_text())["servers"])
    while available(url) < wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    print(TEXT.format(url=f"{url}/mcp", gateway=gateway, config=config, root=root), flush=True)
    return process.wait()


def ready(url: str) -> bool:
    """Does the gateway answer that it is ready?"""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def available(url: str) -> int:
    """How many tool servers are connected; a dead one delays the gateway's readiness not at all, and this text a minute."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return 0
    return sum(line.startswith("gateway_server_available{") and line.endswith(" 1.0") for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
