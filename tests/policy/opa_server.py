"""A real OPA, where there is one: `opa` on the PATH (or `$OPA`)."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HINT = "there is no opa on PATH; go install github.com/open-policy-agent/opa@v1.9.0 or newer"


def opa_command() -> str:
    """The OPA executable; skips the test where there is none."""
    found = os.environ.get("OPA") or shutil.which("opa")
    if found is None:
        pytest.skip(HINT)
    return found


def run_opa(*arguments: str, cwd: Path | None = None, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """One `opa` command, run to its end."""
    return subprocess.run(
        [opa_command(), *arguments], cwd=cwd, input=input, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def opa_server(*arguments: str) -> Iterator[str]:
    """An OPA server on a free port of the loopback interface, as its URL, for as long as the context lasts."""
    command = opa_command()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [command, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("OPA did not start") from None
            time.sleep(0.02)  # polls another process's start
