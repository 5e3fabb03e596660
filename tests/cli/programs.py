"""Runs `gateway` as a user does, in a directory and an environment of the test's own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATEWAY = Path(sys.executable).parent / "gateway"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def environment(home: Path, **extra: str) -> dict[str, str]:
    """A home of the test's own and nothing of this machine's clients."""
    return {"HOME": str(home), "PATH": os.environ["PATH"], **extra}


def gateway(*arguments: str | Path, cwd: Path | str = "/", home: Path, seconds: float = 60, **extra: str) -> Ran:
    """One command, to its end."""
    done = subprocess.run(
        [str(GATEWAY), *(str(argument) for argument in arguments)],
        cwd=cwd,
        env=environment(home, **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


class StdioClient:
    """A client of 2025-11-25 on a process's pipes, just as much of one as a test needs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._last = process, 0

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request; notifications in between are passed over."""
        self._last += 1
        self.send({"id": self._last, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message.get("id") == self._last and "method" not in message:
                assert isinstance(message, dict)
                return message
        raise AssertionError(f"no answer to {method}; the process ended with {self._process.wait(10)}")

    def initialize(self) -> dict[str, Any]:
        answer = self.request(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}},
        )
        self.send({"method": "notifications/initialized"})
        return answer

    def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return self.request("tools/call", {"name": tool, "arguments": arguments})


@contextmanager
def stdio_client(command: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[StdioClient]:
    """Start a server as a desktop client does: in `/`, with the environment that its file names and no more."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [command, *arguments],
            cwd="/",
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
        try:
            yield StdioClient(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
                raise
            finally:
                assert process.stdout is not None
                process.stdout.close()
