"""The errors of compiling and evaluating a policy. Codes and messages are OPA's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.rego.ast import Location

PARSE = "rego_parse_error"
COMPILE = "rego_compile_error"
TYPE = "rego_type_error"
UNSAFE = "rego_unsafe_var_error"
RECURSION = "rego_recursion_error"

CONFLICT = "eval_conflict_error"
BUILTIN = "eval_builtin_error"
EVAL_TYPE = "eval_type_error"
CANCEL = "eval_cancel_error"
MERGE = "eval_with_merge_error"
INTERNAL = "eval_internal_error"
BUDGET = "eval_budget_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a module."""

    code: str
    message: str
    file: str
    line: int
    column: int

    @staticmethod
    def at(loc: Location, code: str, message: str) -> Problem:
        return Problem(code, message, loc.file, loc.row, loc.column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.code}: {self.message}"


class CompileError(Exception):
    """The modules do not compile. The first problem's fields are the exception's own."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__("\n".join(map(str, problems)))
        self.errors = tuple(problems)
        """All problems found, in the order of files and lines."""
        self.code = first.code
        self.message = first.message
        self.file = first.file
        self.line = first.line
        self.column = first.column


class EvalError(Exception):
    """A query cannot be answered."""

    def __init__(self, code: str, message: str, loc: Location | None = None) -> None:
        # OPA's text: the column stays in a field.
        where = f"{loc.file}:{loc.row}: " if loc is not None and loc.row else ""
        super().__init__(f"{where}{code}: {message}")
        self.code = code
        self.message = message
        self.file = loc.file if loc is not None else ""
        self.line = loc.row if loc is not None else 0
        self.column = loc.column if loc is not None else 0
