"""Rules whose values are known from a real OPA: corners of the language where engines part ways.

`cases.txt` holds modules (all are asked with the same data and input, see :mod:`..differential`), `expected.json` what OPA
answered for each of their documents. `python -m tests.rego.eval_cases` asks a live OPA again and writes the latter.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.rego import UNDEFINED, CompileError, EvalError, compile_modules
from gateway.rego.values import equal
from tests.rego.differential import DATA, INPUT
from tests.rego.fuzz import OpaServer

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"
TIME_NS = 1_700_000_000_000_000_000
_DOCUMENT = re.compile(r"^(?:default )?([a-z_][a-zA-Z0-9_]*)(?=[ .\[])(?!\()", re.MULTILINE)
_WORDS = {"package", "import", "default", "if", "else", "some", "every", "not", "with"}

Answer = list[Any]
"""`["value", document]`, `["undefined"]`, `["error", code]`; for a module `["refused", codes]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalCase:
    name: str
    module: str

    def documents(self) -> list[str]:
        """The documents that are asked for: each top-level name, and all together."""
        names = sorted(set(_DOCUMENT.findall(self.module)) - _WORDS)
        return ["data.fuzz", *[f"data.fuzz.{name}" for name in names]]


def read_cases() -> list[EvalCase]:
    found: list[EvalCase] = []
    for block in (HERE / "cases.txt").read_text(encoding="utf-8").split("\n=== ")[1:]:
        name, _, text = block.partition("\n")
        module = text if text.startswith("package") else f"package fuzz\n\nimport data.base\n\n{text}"
        found.append(EvalCase(name=name.strip(), module=module + "\n"))
    return found


def expected() -> dict[str, dict[str, dict[str, Answer]]]:
    """By case, by `strict` or `lenient` (builtin errors), by document."""
    found: dict[str, dict[str, dict[str, Answer]]] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return found


def engine_answers(case: EvalCase, *, strict: bool) -> dict[str, Answer]:
    try:
        policy = compile_modules({"fuzz.rego": case.module}, {"base": DATA}, strict=False, strict_builtin_errors=strict)
    except CompileError as error:
        return {"": ["refused", sorted({problem.code for problem in error.errors})]}
    answers: dict[str, Answer] = {}
    for document in case.documents():
        try:
            value = policy.prepare(document)(INPUT, deadline=time.monotonic() + 20, time_ns=TIME_NS, seed="s")
            answers[document] = ["undefined"] if value is UNDEFINED else ["value", value]
        except EvalError as error:
            answers[document] = ["error", error.code]
    return answers


def opa_answers(server: OpaServer, case: EvalCase, *, strict: bool) -> dict[str, Answer]:
    status, report = server.call("PUT", "/v1/policies/fuzz", case.module, "text/plain")
    if status != 200:
        errors = report.get("errors") or [report]
        return {"": ["refused", sorted({error["code"] for error in errors})]}
    server.call("PUT", "/v1/data/base", json.dumps(DATA))
    answers: dict[str, Answer] = {}
    for document in case.documents():
        path = document.replace(".", "/") + ("?strict-builtin-errors=true" if strict else "")
        status, report = server.call("POST", f"/v1/{path}", json.dumps({"input": INPUT}))
        if status != 200:
            code = (report.get("errors") or [report])[0]["code"]
            if code != "internal_error":  # it has a value that it cannot write as JSON
                answers[document] = ["error", code]
        else:
            answers[document] = ["value", report["result"]] if "result" in report else ["undefined"]
    return answers


def agree(ours: Answer, theirs: Answer) -> bool:
    if ours[0] != theirs[0]:
        return False
    if ours[0] == "value":
        return equal(ours[1], theirs[1])
    return bool(set(ours[1]) & set(theirs[1])) if ours[0] == "refused" else ours == theirs
