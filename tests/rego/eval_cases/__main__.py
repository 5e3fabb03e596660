"""Records what OPA answers for the eval cases, and says where the engine differs."""

from __future__ import annotations

import json
import sys

from tests.rego.eval_cases import EXPECTED, agree, engine_answers, opa_answers, read_cases
from tests.rego.fuzz import as_doubles, opa_server


def main() -> int:
    lines: list[str] = []
    differing = 0
    with opa_server() as server:
        for case in read_cases():
            kept: dict[str, object] = {}
            for label, strict in (("strict", True), ("lenient", False)):
                theirs = as_doubles(opa_answers(server, case, strict=strict))
                ours = as_doubles(engine_answers(case, strict=strict))
                for document, answer in theirs.items():
                    if not agree(ours.get(document, ["missing"]), answer):
                        differing += 1
                        print(
                            f"{case.name}: {document} ({label})\n    opa    {answer}\n    engine {ours.get(document)}"
                        )
                if label == "strict" or theirs != kept["strict"]:
                    kept[label] = theirs
            lines.append(f" {json.dumps(case.name)}: {json.dumps(kept)}")
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(lines)} cases, {differing} differences")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
