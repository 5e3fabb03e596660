"""Finds a Node that is new enough, and what `install` put beside the tests; says why where there is none."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
CONFORMANCE: Final = TESTS / "conformance"
REAL: Final = TESTS / "real"

OLDEST: Final = (22, 19)
"""What MCP Inspector needs; the conformance suite is content with 22."""


def _platform_package() -> str:
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine().lower(), "arm64")
    return f"node-{'darwin' if sys.platform == 'darwin' else 'linux'}-{machine}"


@cache
def find_node() -> Path | None:
    """``$GATEWAY_TEST_NODE``, the one that ``tests/conformance/install`` put here, or one on the PATH if new enough."""
    installed = CONFORMANCE / "node_modules" / _platform_package() / "bin" / "node"
    for candidate in (os.environ.get("GATEWAY_TEST_NODE"), str(installed), shutil.which("node")):
        if candidate and Path(candidate).exists():
            run = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=30, check=False)
            parts = run.stdout.strip().removeprefix("v").split(".")
            if run.returncode == 0 and tuple(int(part) for part in parts[:2]) >= OLDEST:
                return Path(candidate)
    return None


def node() -> Path:
    """The Node to run with; skips the test with the reason if there is none."""
    found = find_node()
    if found is None:
        pytest.skip(f"no Node >= {'.'.join(map(str, OLDEST))}: run tests/conformance/install, or set GATEWAY_TEST_NODE")
    return found


def installed(folder: Path, *path: str) -> Path:
    """A file under ``node_modules`` of that folder; skips the test with the reason if it is not installed."""
    wanted = folder.joinpath("node_modules", *path)
    if not wanted.exists():
        pytest.skip(f"{'/'.join(path)} is not installed: run tests/{folder.name}/install")
    return wanted


def environment(home: Path, **extra: str) -> dict[str, str]:
    """A small environment with this Node first on the PATH and a home of its own."""
    return {"PATH": f"{node().parent}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(home), **extra}
