"""Aggregates: `count`, `sum`, `product`, `max`, `min`, `sort`, `all`, `any`."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import pairwise
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang.fmt import format_float
from gateway.rego.builtins.registry import BuiltinContext, UnsupportedError, builtin, element_error, operand_error
from gateway.rego.numeric import from_fraction, round_to_precision, to_fraction
from gateway.rego.values import (
    UNDEFINED,
    NumberText,
    RegoSet,
    Value,
    compare,
    number_from_text,
    number_text,
    sort_values,
    to_int,
    to_rego,
)

_STABLE: Final = 12
"""Elements up to which Go's `slices.SortFunc` is an insertion sort."""


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
    # Products are the one place where OPA computes with the 53 bits of a float64, and keeps the sign of a zero.
    total = Fraction(1)
    negative = False
    for item in items:
        if not operands.is_number(item):
            raise element_error(1, values, item, "number")
        by = to_fraction(item)
        negative ^= by < 0 or number_text(item).startswith("-")
        total = round_to_precision(total * by, 53)
    if not total:
        return NumberText("-0") if negative else 0
    if not Fraction(sys.float_info.min) <= abs(total) <= Fraction(sys.float_info.max):
        raise UnsupportedError("the product is beyond the numbers that are computed")
    as_float = float(total)
    if total.denominator == 1:
        return number_from_text(format_float(as_float, "f"))
    return number_from_text(format_float(as_float, "g"))


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
    if type(values) is RegoSet:
        return list(items)
    ordered = sort_values(items)
    if len(items) > _STABLE and not {type(item) for item in items} <= {int, str, bool, type(None)}:
        # Go's sort puts short arrays in a stable order. Beyond that 1 and 1.0, which are equal, may change places.
        for first, second in pairwise(ordered):
            if compare(first, second) == 0 and to_rego(first) != to_rego(second):
                raise UnsupportedError("equal numbers that are written differently have no order")
    return ordered


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
