"""Records what OPA says of the compile cases, or compares: see the package's docstring."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

from tests.rego.compile_cases import EXPECTED, ask_opa, engine_errors, expected, read_cases


def main() -> int:
    cases = read_cases()
    if "--compare" not in sys.argv:
        opa = shutil.which("opa")
        assert opa is not None, "no opa on PATH"
        version = subprocess.run([opa, "version"], capture_output=True, text=True, check=True).stdout.split()[1]
        answers = {name: [dataclasses.astuple(e) for e in errors] for name, errors in ask_opa(cases).items()}
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(errors)}" for name, errors in answers.items())
        EXPECTED.write_text(f'{{"opa": "{version}", "cases": {{\n{lines}\n}}}}\n')
    known = expected()
    differing = 0
    for case in cases:
        ours, theirs = engine_errors(case.modules), known[case.name]
        if ours != theirs:
            same = {(e.file, e.row, e.code) for e in ours} == {(e.file, e.row, e.code) for e in theirs}
            differing += not same
            print(f"{'text' if same else 'DIFFERS'}: {case.name}")
            for label, errors in (("opa", theirs), ("engine", ours)):
                for e in [*map(str, errors)] or ["accepts"]:
                    print(f"    {label:7} {e}")
    print(f"{len(cases)} cases, {differing} differ in code or line")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
