"""Terms without variables, and their values."""

from __future__ import annotations

from gateway.rego import ast
from gateway.rego.values import RegoSet, Value, key


def is_literal(term: ast.Term) -> bool:
    """Whether a term is a scalar, or a collection of literals."""
    return all(
        isinstance(inner, (ast.Scalar, ast.ArrayTerm, ast.ObjectTerm, ast.SetTerm)) for inner in ast.walk_terms(term)
    )


def literal_value(term: ast.Term) -> Value:
    """The value of a term without variables."""
    match term:
        case ast.Scalar():
            return term.value
        case ast.ArrayTerm():
            return [literal_value(item) for item in term.items]
        case ast.SetTerm():
            return RegoSet([literal_value(item) for item in term.items])
        case ast.ObjectTerm():
            return {key(literal_value(k)): literal_value(v) for k, v in term.pairs}
        case _:
            raise ValueError(f"{type(term).__name__} is no constant")
