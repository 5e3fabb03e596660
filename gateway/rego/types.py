"""placeholder"""

from __future__ import annotations

from gateway.rego import ast
from gateway.rego.errors import TYPE, Problem
from gateway.rego.ruletree import Graph, Node
from gateway.rego.values import Value


class TypeChecker:
    def __init__(self, root: Node, original: dict[str, str], input_schema: Value) -> None:
        self.root = root

    def arity_problem(self, expr: ast.Expr, call: ast.Call, want: int, have: int) -> Problem:
        return Problem.at(expr.loc, TYPE, f"{call.name}: arity mismatch")

    def check_rules(self, graph: Graph) -> list[Problem]:
        return []

    def check_body(self, body: ast.Body) -> list[Problem]:
        return []
