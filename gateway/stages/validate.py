"""Stage 3: the arguments against the tool's own schema; on the way back, the result against its output schema.

A failure is a tool error that names each place, so that the model can mend its call (MCP 2025-11-25, SEP-1303).
"""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.model.call import Call, TargetType
from gateway.model.refusal import Code
from gateway.model.snapshot import SchemaProblem
from gateway.model.verdict import PROCEED, Completed, Outcome, Refuse, Refused, Verdict
from gateway.ports import Settlement


class Validate:
    """Checks what goes out and what comes back."""

    name = "validate"

    async def admit(self, call: Call) -> Verdict:
        if problems := argument_problems(call):
            return Refuse(
                code=Code.SCHEMA_INVALID,
                message=f"The arguments of {call.target} do not meet its schema. Nothing was run. Mend and call again:\n{listing(problems)}",
                facts={"problems": [{"path": problem.path, "message": problem.message} for problem in problems]},
            )
        return PROCEED

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        entry = call.entry
        if entry is None or entry.results is None or entry.validate_results == "off":
            return None
        if not isinstance(outcome, Completed) or outcome.result is None:
            return None
        result = orjson.loads(outcome.received or outcome.result)
        if (
            not isinstance(result, dict)
            or result.get("isError") is True
            or result.get("resultType") == "input_required"
        ):
            return None
        problems: Sequence[SchemaProblem]
        if "structuredContent" in result:
            problems = entry.results.problems(result["structuredContent"])
        else:
            problems = [
                SchemaProblem(path="", message="structuredContent is missing, and the tool declares an outputSchema")
            ]
        if not problems:
            return None
        facts: dict[str, Any] = {
            "result_problems": [{"path": problem.path, "message": problem.message} for problem in problems]
        }
        if entry.validate_results == "warn":
            return Settlement(facts=facts)
        return Settlement(
            outcome=Refused(
                stage=self.name,
                code=Code.RESULT_INVALID,
                message=f"{call.target} ran, but its result does not meet the tool's own output schema and is withheld:\n{listing(problems)}",
                executed="yes",
            ),
            facts=facts,
        )


def argument_problems(call: Call) -> Sequence[SchemaProblem]:
    """What is wrong with a tool call's arguments; nothing for what has no schema (prompts, resources)."""
    if call.type is not TargetType.TOOL or call.entry is None or call.entry.arguments is None:
        return ()
    return call.entry.arguments.problems({} if call.arguments is None else call.arguments)


def listing(problems: Sequence[SchemaProblem]) -> str:
    """Problems as lines for a model: `- /path: what is wrong`."""
    return "\n".join(f"- {problem.path or '(the whole)'}: {problem.message}" for problem in problems)
