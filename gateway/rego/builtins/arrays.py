"""Arrays: `array.concat`, `array.flatten`, `array.reverse`, `array.slice`."""

from __future__ import annotations

from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, builtin
from gateway.rego.values import Value


@builtin("array.concat")
def array_concat(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    joined = operands.array(first, 1) + operands.array(second, 2)
    ctx.charge(len(joined) // 64)
    return joined


@builtin("array.flatten")
def array_flatten(ctx: BuiltinContext, values: Value) -> Value:
    out: list[Value] = []
    for item in operands.array(values, 1):
        if type(item) is list:
            out.extend(item)
        else:
            out.append(item)
    ctx.charge(len(out) // 64)
    return out


@builtin("array.reverse")
def array_reverse(ctx: BuiltinContext, values: Value) -> Value:
    return operands.array(values, 1)[::-1]


@builtin("array.slice")
def array_slice(ctx: BuiltinContext, values: Value, start: Value, stop: Value) -> Value:
    items = operands.array(values, 1)
    low, high = operands.int64(start, 2), operands.int64(stop, 3)
    return items[max(low, 0) : max(high, 0)]
