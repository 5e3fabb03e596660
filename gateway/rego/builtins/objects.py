"""Objects: `object.get`, `keys`, `remove`, `filter`, `union`, `union_n`, `subset`."""

from __future__ import annotations

from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, OperandError, builtin, element_error, operand_error
from gateway.rego.values import UNDEFINED, Key, RegoSet, Value, equal, key, unkey


@builtin("object.get")
def object_get(ctx: BuiltinContext, value: Value, path: Value, default: Value) -> Value:
    current: Value = operands.object_(value, 1)
    if type(path) is not list:
        return current.get(key(path), default)
    for step in path:
        current = child(current, step)
        if current is UNDEFINED:
            return default
    return current


def child(value: Value, step: Value) -> Value:
    """What a reference finds in a value by one step, or UNDEFINED."""
    if type(value) is dict:
        return value.get(key(step), UNDEFINED)
    if type(value) is list:
        at = operands.as_int64(step) if operands.is_number(step) else None
        return value[at] if at is not None and 0 <= at < len(value) else UNDEFINED
    if type(value) is RegoSet:
        return value.members.get(key(step), UNDEFINED)
    return UNDEFINED


@builtin("object.keys")
def object_keys(ctx: BuiltinContext, value: Value) -> Value:
    obj = operands.object_(value, 1)
    ctx.charge(len(obj) // 64)
    return RegoSet.of({canonical: unkey(canonical) for canonical in obj})


def _key_set(value: Value) -> set[Key] | dict[Key, Value]:
    if type(value) is list:
        return {key(item) for item in value}
    if type(value) is RegoSet:
        return value.members
    if type(value) is dict:
        return value
    raise operand_error(2, value, "object", "set", "array")


@builtin("object.remove")
def object_remove(ctx: BuiltinContext, value: Value, keys: Value) -> Value:
    obj, removed = operands.object_(value, 1), _key_set(keys)
    ctx.charge((len(obj) + len(removed)) // 64)
    return {canonical: item for canonical, item in obj.items() if canonical not in removed}


@builtin("object.filter")
def object_filter(ctx: BuiltinContext, value: Value, keys: Value) -> Value:
    obj, kept = operands.object_(value, 1), _key_set(keys)
    ctx.charge((len(obj) + len(kept)) // 64)
    return {canonical: item for canonical, item in obj.items() if canonical in kept}


def merge(ctx: BuiltinContext, first: dict[Key, Value], second: dict[Key, Value]) -> dict[Key, Value]:
    """Both objects in one; where both have a key, objects merge and anything else is the second's."""
    ctx.charge(1 + (len(first) + len(second)) // 64)
    merged = dict(first)
    for canonical, value in second.items():
        before = merged.get(canonical)
        if type(before) is dict and type(value) is dict:
            value = merge(ctx, before, value)
        merged[canonical] = value
    return merged


@builtin("object.union")
def object_union(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return merge(ctx, operands.object_(first, 1), operands.object_(second, 2))


@builtin("object.union_n")
def object_union_n(ctx: BuiltinContext, objects: Value) -> Value:
    items = operands.array(objects, 1)
    for item in items:
        if type(item) is not dict:
            raise element_error(1, objects, item, "object")
    merged: dict[Key, Value] = {}
    for item in items:
        merged = merge(ctx, merged, item) if merged else item
    return merged


@builtin("object.subset")
def object_subset(ctx: BuiltinContext, superset: Value, subset: Value) -> Value:
    if type(superset) is list and type(subset) is RegoSet:
        ctx.charge(len(superset) // 16)
        # OPA counts the elements that are in the set, and so [1, 1] has {1, 2} for a subset.
        return bool(superset) and sum(item in subset for item in superset) >= len(subset)
    if type(superset) is not type(subset) or type(superset) not in (dict, list, RegoSet):
        raise OperandError("both arguments object.subset must be of the same type or array and set")
    return _subset(ctx, superset, subset)


def _subset(ctx: BuiltinContext, superset: Value, subset: Value) -> bool:
    if type(superset) is RegoSet:
        ctx.charge(len(subset) // 16)
        return bool(subset.members.keys() <= superset.members.keys())
    if type(superset) is list:
        return _subsequence(ctx, superset, subset)
    for canonical, wanted in subset.items():
        found = superset.get(canonical, UNDEFINED)
        ctx.charge(1)
        if found is UNDEFINED:
            return False
        if equal(found, wanted):
            continue
        if type(found) is not type(wanted) or type(found) not in (dict, list, RegoSet):
            return False
        if not _subset(ctx, found, wanted):
            return False
    return True


def _subsequence(ctx: BuiltinContext, superset: list[Value], subset: list[Value]) -> bool:
    if len(subset) > len(superset):
        return False
    width = len(subset)
    for at in range(len(superset) - width + 1):
        ctx.charge(1 + width // 8)
        if all(map(equal, superset[at : at + width], subset)):
            return True
    return False
