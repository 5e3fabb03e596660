"""Runs the cases of OPA's v1 compliance suite: `python -m tests.rego.compliance [FOLDER] [-v] [--only TEXT]`.

A case *passes* when the result or the error is OPA's; it is *refused* when the modules do not load for a named reason of
:data:`REFUSABLE`; anything else is *wrong*.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.rego import CompileError, EvalError, compile_modules
from gateway.rego.builtins.registry import BuiltinContext, builtin, declare
from gateway.rego.values import Value, equal, from_json, sort_values

DEFAULT_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "rego-cases"
REFUSABLE = (
    "graphql.", "providers.aws.", "rego.parse_module", "rego.metadata.", "net.lookup_ip_addr", "http.send", "opa.runtime",
    "strings.render_template", "crypto.x509.", "crypto.parse_private_keys", "io.jwt.encode_", "rand.",
)  # fmt: skip
"""Builtins that the engine may lack (issue 3), by the start of their names."""
DEADLINE_SECONDS = 20.0
TIME_NS = 1_700_000_000_000_000_000

declare("test.sleep(string) -> null")


@builtin("test.sleep")
def _sleep(ctx: BuiltinContext, duration: Value) -> Value:
    """A builtin that OPA's own runner of the suite brings along, too; the clock of a query stands still anyway."""
    return None


Verdict = Literal["passed", "refused", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    category: str
    note: str
    verdict: Verdict
    reason: str
    seconds: float


def folder_of_cases(given: str | None = None) -> Path:
    return Path(given or os.environ.get("REGO_CASES") or DEFAULT_FOLDER)


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.glob("*.json")):
        for case in json.loads(file.read_bytes())["cases"]:
            yield file.stem, case


def run(category: str, case: dict[str, Any]) -> Outcome:
    started = time.monotonic()
    try:
        verdict, reason = _verdict(case)
    except Exception as error:  # noqa: BLE001 - a crash of the engine is the finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        verdict, reason = "wrong", f"crash: {type(error).__name__}: {error} ({last.name}:{last.lineno})"
    seconds = time.monotonic() - started
    return Outcome(category=category, note=case["note"], verdict=verdict, reason=reason, seconds=seconds)


def _verdict(case: dict[str, Any]) -> tuple[Verdict, str]:
    modules = {f"test-{i}.rego": text for i, text in enumerate(case.get("modules") or [])}
    wanted_code = case.get("want_error_code") or ""
    wanted_text = case.get("want_error") or ""
    wants_error = bool(wanted_code or wanted_text)
    arguments: dict[str, Any] = {
        "time_ns": TIME_NS,
        "seed": "compliance",
        "deadline": time.monotonic() + DEADLINE_SECONDS,
    }
    if case.get("input_term"):
        arguments["input_term"] = case["input_term"]
    elif "input" in case:
        arguments["input"] = case["input"]
    try:
        policy = compile_modules(
            modules, case.get("data") or {}, strict=False, strict_builtin_errors=bool(case.get("strict_error"))
        )
        rows = policy.query(case["query"], **arguments)
    except CompileError as error:
        if wants_error and wanted_code in ("", error.code) and wanted_text in error.message:
            return "passed", ""
        refused = _refused(error)
        return ("refused", refused) if refused else ("wrong", f"does not load: {error}")
    except EvalError as error:
        if not wants_error:
            return "wrong", f"unexpected error: {error}"
        if wanted_code not in ("", error.code):
            return "wrong", f"error code {error.code}, wanted {wanted_code} {wanted_text}: {error}"
        if wanted_text not in str(error):
            return "wrong", f"error {error}, wanted {wanted_text}"
        return "passed", ""
    if wants_error:
        return "wrong", f"no error: {rows}, wanted {wanted_code} {wanted_text}"
    if case.get("want_result") is None:
        return "passed", ""
    return _compare(case["want_result"], rows, sort=bool(case.get("sort_bindings")))


def _refused(error: CompileError) -> str:
    """The builtin that is the reason for not loading, if the engine may lack it."""
    for problem in error.errors:
        words = problem.message.split()
        if problem.message.startswith("built-in function ") and words[2].startswith(REFUSABLE):
            return words[2]
    return ""


def _compare(wanted: list[dict[str, Any]], rows: list[dict[str, Any]], *, sort: bool) -> tuple[Verdict, str]:
    def row(bindings: dict[str, Any]) -> Any:
        value = from_json(bindings)
        if sort:
            value = {name: sort_values(item) if isinstance(item, list) else item for name, item in value.items()}
        return value

    left, right = _distinct([row(r) for r in wanted]), _distinct([row(r) for r in rows])
    if len(left) == len(right) and all(any(equal(a, b) for b in right) for a in left):
        return "passed", ""
    return "wrong", f"got {json.dumps(rows)[:600]}, wanted {json.dumps(wanted)[:600]}"


def _distinct(rows: list[Any]) -> list[Any]:
    distinct: list[Any] = []
    for row in rows:
        if not any(equal(row, other) for other in distinct):
            distinct.append(row)
    return distinct


def table(outcomes: list[Outcome]) -> str:
    """Passed, refused and wrong by category, and their sums."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.category, Counter())[outcome.verdict] += 1
    width = max(map(len, counts), default=8)
    lines = [f"{'category':{width}} {'passed':>7} {'refused':>8} {'wrong':>6}"]
    total: Counter[str] = Counter()
    for category, count in sorted(counts.items()):
        total += count
        lines.append(f"{category:{width}} {count['passed']:7} {count['refused']:8} {count['wrong']:6}")
    lines.append(f"{'all':{width}} {total['passed']:7} {total['refused']:8} {total['wrong']:6}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run OPA's compliance cases on the embedded engine")
    parser.add_argument("folder", nargs="?", help="folder of the cases")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the reason of every wrong case")
    parser.add_argument("--only", default="", help="run cases whose note contains this")
    options = parser.parse_args()
    outcomes = [run(c, case) for c, case in cases(folder_of_cases(options.folder)) if options.only in case["note"]]
    if options.verbose:
        for outcome in outcomes:
            if outcome.verdict == "wrong":
                print(f"{outcome.note}: {outcome.reason}")
        for outcome in sorted(outcomes, key=lambda o: -o.seconds)[:5]:
            print(f"{outcome.seconds:.2f} s: {outcome.note}")
    print(table(outcomes))
    return 1 if any(outcome.verdict == "wrong" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
