"""Aggregates: `count`, `sum`, `product`, `max`, `min`, `sort`, `all`, `any`."""

from __future__ import annotations

from fractions import Fraction

from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, builtin, element_error, operand_error
from gateway.rego.numeric import from_fraction, round_to_precision, to_fraction
from gateway.rego.values import UNDEFINED, RegoSet, Value, compare, sort_values, to_int


@builtin("count")
def count(ctx: BuiltinContext, value: Value) -> Value:
    if isinstance(value, (str, list, dict, RegoSet)):
        return len(value)
    raise operand_error(1, value, "array", "object", "set", "string")


@builtin("sum")
def sum_(ctx: BuiltinContext, values: Value) -> Value:
    items = operands.elements(values, 1)
    ctx.charge(len(items) // 16)
    whole = _integers(items)
    if whole is not None:
        return sum(whole)
    total = Fraction(0)
    for item in items:
        if not operands.is_number(item):
            raise element_error(1, values, item, "number")
        total = round_to_precision(total + to_fraction(item))
    return from_fraction(total)


@builtin("product")
def product(ctx: BuiltinContext, values: Value) -> Value:
    items = operands.elements(values, 1)
    ctx.charge(len(items) // 16)
    whole = _integers(items)
    if whole is not None:
        result = 1
        for factor in whole:
            operands.charge_bits(ctx, result.bit_length() + factor.bit_length())
            result *= factor
        return result
    total = Fraction(1)
    for item in items:
        if not operands.is_number(item):
            raise element_error(1, values, item, "number")
        total = round_to_precision(total * to_fraction(item))
    return from_fraction(total)


def _integers(items: list[Value]) -> list[int] | None:
    """The items as exact integers; None if one of them is no integer, and floating point decides."""
    out: list[int] = []
    for item in items:
        if type(item) is int:
            out.append(item)
            continue
        whole = to_int(item) if operands.is_number(item) else None
        if whole is None:
            return None
        out.append(whole)
    return out


@builtin("max")
def max_(ctx: BuiltinContext, values: Value) -> Value:
    items = operands.elements(values, 1)
    if type(values) is RegoSet:
        return items[-1] if items else UNDEFINED
    if not items:
        return UNDEFINED
    ctx.charge(len(items) // 16)
    best = items[0]
    for item in items:
        # Of equals the last is taken: 1 and 1.0 are equal and print differently.
        if compare(best, item) <= 0:
            best = item
    return best


@builtin("min")
def min_(ctx: BuiltinContext, values: Value) -> Value:
    items = operands.elements(values, 1)
    if type(values) is RegoSet:
        return items[0] if items else UNDEFINED
    if not items:
        return UNDEFINED
    ctx.charge(len(items) // 16)
    best = items[0]
    for item in items:
        if compare(best, item) >= 0:
            best = item
    return best


@builtin("sort")
def sort(ctx: BuiltinContext, values: Value) -> Value:
    items = operands.elements(values, 1)
    ctx.charge(len(items) // 4)
    return list(items) if type(values) is RegoSet else sort_values(items)


@builtin("all")
def all_(ctx: BuiltinContext, values: Value) -> Value:
    if type(values) is not list and type(values) is not RegoSet:
        raise operand_error(1, values, "array", "set")
    return all(item is True for item in operands.elements(values, 1))


@builtin("any")
def any_(ctx: BuiltinContext, values: Value) -> Value:
    if type(values) is not list and type(values) is not RegoSet:
        raise operand_error(1, values, "array", "set")
    return any(item is True for item in operands.elements(values, 1))
