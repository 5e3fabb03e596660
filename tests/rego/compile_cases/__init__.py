"""Modules that OPA refuses or accepts, with what `opa check --strict` said about them.

`cases.txt` holds the modules, `expected.json` OPA's errors. `python -m tests.rego.compile_cases` asks a live OPA again
and writes the latter; `--compare` prints where the engine differs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.rego import CompileError, compile_modules

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    name: str
    modules: dict[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """One error, of OPA or of the engine."""

    file: str
    row: int
    column: int
    code: str
    message: str


def read_cases() -> list[CompileCase]:
    found: list[CompileCase] = []
    for block in (HERE / "cases.txt").read_text().split("=== ")[1:]:
        name, _, text = block.partition("\n")
        first, *others = text.split("\n--- ")
        modules = {"one.rego": first}
        for other in others:
            file, _, source = other.partition("\n")
            modules[file.strip()] = source
        found.append(CompileCase(name=name.strip(), modules=modules))
    return found


def engine_errors(modules: dict[str, str]) -> list[Found]:
    """What the engine says of modules in strict mode."""
    try:
        compile_modules(modules, strict=True)
    except CompileError as error:
        return sorted(Found(p.file, p.line, p.column, p.code, p.message) for p in error.errors)
    return []


def opa_errors(modules: dict[str, str]) -> list[Found]:
    """What `opa check --strict` says of them."""
    opa = shutil.which("opa")
    assert opa is not None
    with tempfile.TemporaryDirectory() as folder:
        for file, source in modules.items():
            Path(folder, file).write_text(source)
        done = subprocess.run(
            [opa, "check", "--strict", "--max-errors", "0", "--format", "json", folder], capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        if done.returncode == 0:
            return []
        report: dict[str, Any] = json.loads(done.stdout or done.stderr)
        found = []
        for error in report["errors"]:
            place = error.get("location") or {}
            file = Path(place.get("file", "")).name
            message = error["message"].replace(folder + "/", "")
            found.append(Found(file, place.get("row", 0), place.get("col", 0), error.get("code", ""), message))
        return sorted(found)


def ask_opa(cases: list[CompileCase]) -> dict[str, list[Found]]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([c.name for c in cases], pool.map(lambda c: opa_errors(c.modules), cases), strict=True))


def expected() -> dict[str, list[Found]]:
    recorded = json.loads(EXPECTED.read_text())
    return {name: [Found(*error) for error in errors] for name, errors in recorded["cases"].items()}
