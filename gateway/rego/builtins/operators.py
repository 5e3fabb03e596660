"""The builtins behind infix operators: comparison, arithmetic, sets and membership."""

from __future__ import annotations

from gateway.rego import numeric
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, builtin, operand, operand_error
from gateway.rego.values import RegoSet, Value, compare, equal, is_number, key, type_name


@builtin("equal")
def equals(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return equal(a, b)


@builtin("eq")
def unifies(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return equal(a, b)


@builtin("neq")
def differs(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return not equal(a, b)


@builtin("lt")
def less(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return compare(a, b) < 0


@builtin("lte")
def less_or_equal(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return compare(a, b) <= 0


@builtin("gt")
def greater(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return compare(a, b) > 0


@builtin("gte")
def greater_or_equal(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    return compare(a, b) >= 0


@builtin("plus")
def plus(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a + b
    return numeric.add(operand(a, 1, "number"), operand(b, 2, "number"))


@builtin("minus")
def minus(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a - b
    if type(a) is RegoSet and type(b) is RegoSet:
        return a.difference(b)
    if is_number(a) and is_number(b):
        return numeric.subtract(a, b)
    if type_name(a) not in ("number", "set"):
        raise operand_error(1, a, "number", "set")
    raise operand_error(2, b, "number" if not is_number(b) and type(a) is not RegoSet else "set")


@builtin("mul")
def times(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a * b
    return numeric.multiply(operand(a, 1, "number"), operand(b, 2, "number"))


@builtin("div")
def divided(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    try:
        return numeric.divide(operand(a, 1, "number"), operand(b, 2, "number"))
    except numeric.ArithmeticFailure as failure:
        raise BuiltinError(str(failure)) from None


@builtin("rem")
def modulo(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    try:
        return numeric.remainder(operand(a, 1, "number"), operand(b, 2, "number"))
    except numeric.ArithmeticFailure as failure:
        raise BuiltinError(str(failure)) from None


@builtin("and")
def intersected(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    first: RegoSet = operand(a, 1, "set")
    return first.intersection(operand(b, 2, "set"))


@builtin("or")
def united(ctx: BuiltinContext, a: Value, b: Value) -> Value:
    first: RegoSet = operand(a, 1, "set")
    return first.union(operand(b, 2, "set"))


@builtin("internal.member_2")
def contains_value(ctx: BuiltinContext, item: Value, container: Value) -> Value:
    kind = type(container)
    if kind is RegoSet:
        return key(item) in container.members
    if kind is list:
        return any(equal(item, other) for other in container)
    if kind is dict:
        return any(equal(item, other) for other in container.values())
    return False


@builtin("internal.member_3")
def contains_pair(ctx: BuiltinContext, step: Value, item: Value, container: Value) -> Value:
    from gateway.rego.runtime import member_at

    return member_at(step, item, container)
