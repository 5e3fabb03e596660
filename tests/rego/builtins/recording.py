"""OPA's outcomes of sampled calls, written down: `python -m tests.rego.builtins.recording` asks an OPA on PATH anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gateway.rego.values import Value
from tests.rego.builtins.calling import decode, encode
from tests.rego.builtins.opa import Opa, Outcome, find_opa
from tests.rego.builtins.tables import FAMILIES, sampled

FOLDER = Path(__file__).parent / "recorded"
MOST = 40
"""Calls of a builtin that are written down at most."""
LONGEST = 1_000
"""Characters; longer calls are left to the live comparison."""


def recorded(family: str) -> Iterator[tuple[str, list[Value], Outcome]]:
    """The calls of a family with OPA's outcome of each."""
    with (FOLDER / f"{family}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            name, arguments, result, error = json.loads(line)
            yield name, decode(arguments), Outcome(result, error)


def record(opa: Opa, family: str) -> int:
    """Writes down a family; returns how many calls it has."""
    lines: list[str] = []
    for name, arguments in sampled(family, MOST):
        outcome = opa.ask(name, arguments)
        if outcome.error.startswith(("crashed", "internal_error", "rego_type_error")):
            # OPA gave up, or its compiler saw through the call: nothing to compare with.
            continue
        line = json.dumps([name, encode(arguments), outcome.result, outcome.error], separators=(",", ":"))
        if len(line) <= LONGEST:
            lines.append(line)
    (FOLDER / f"{family}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    program = find_opa()
    if program is None:
        raise SystemExit("no opa on PATH")
    FOLDER.mkdir(exist_ok=True)
    opa = Opa(program)
    try:
        for family in FAMILIES:
            print(family, record(opa, family))
    finally:
        opa.close()


if __name__ == "__main__":
    main()
