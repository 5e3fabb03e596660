"""Sets of sets: `intersection` and `union`; the operators are in the evaluator."""

from __future__ import annotations

from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, builtin
from gateway.rego.values import RegoSet, Value


@builtin("intersection")
def intersection(ctx: BuiltinContext, sets: Value) -> Value:
    members = [operands.set_(member, 1) for member in operands.set_(sets, 1).sorted()]
    ctx.charge(sum(map(len, members)) // 16)
    if not members:
        return RegoSet()
    result = members[0]
    for member in members[1:]:
        result = result.intersection(member)
    return result


@builtin("union")
def union(ctx: BuiltinContext, sets: Value) -> Value:
    members = [operands.set_(member, 1) for member in operands.set_(sets, 1).sorted()]
    ctx.charge(sum(map(len, members)) // 16)
    merged: dict[Value, Value] = {}
    for member in members:
        for canonical, value in member.members.items():
            merged.setdefault(canonical, value)
    return RegoSet.of(merged)


@builtin("set_diff")
def set_diff(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return operands.set_(first, 1).difference(operands.set_(second, 2))
