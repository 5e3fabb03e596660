"""JSON: `json.marshal`, `unmarshal`, `is_valid`, `filter`, `remove`, `patch`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.edits import EditTree, Path
from gateway.rego.builtins.golang import json
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import (
    BuiltinContext,
    BuiltinError,
    OperandError,
    UnsupportedError,
    builtin,
    operand_error,
)
from gateway.rego.builtins.types import check_exponent
from gateway.rego.values import (
    UNDEFINED,
    Key,
    NumberText,
    RegoSet,
    Value,
    equal,
    json_quote,
    json_text,
    key,
    sorted_keys,
    to_rego,
    type_name,
    unkey,
)


@builtin("json.marshal")
def json_marshal(ctx: BuiltinContext, value: Value) -> Value:
    text = operands.unicode_text(json_text(value))
    charge_text(ctx, len(text))
    return text


@builtin("json.marshal_with_options")
def json_marshal_with_options(ctx: BuiltinContext, value: Value, options: Value) -> Value:
    prefix, indent = "", "\t"
    pretty: bool | None = None
    implied = False
    settings = operands.object_(options, 2)
    for at, canonical in enumerate(sorted_keys(settings)):
        name, setting = unkey(canonical), settings[canonical]
        if type(name) is not str:
            problem = operand_error(at, name, "string")
            raise OperandError(f"operand 2 failed to stringify key {to_rego(name)} at index {at}: {problem}")
        if name in ("prefix", "indent"):
            if type(setting) is not str:
                problem = operand_error(at, setting, "string")
                raise OperandError(f"operand 2 key {to_rego(name)} failed cast to string: {problem}")
            prefix, indent = (setting, indent) if name == "prefix" else (prefix, setting)
            implied = True
        elif name == "pretty":
            if type(setting) is not bool:
                raise OperandError(f"operand 2 key {to_rego(name)} failed cast to bool")
            pretty = setting
        else:
            raise OperandError(f"operand 2 object contained unknown key {to_rego(name)}")
    if not (implied if pretty is None else pretty):
        return json_marshal(ctx, value)
    out: list[str] = [prefix]
    _indented(ctx, value, prefix, indent, 0, out)
    return operands.unicode_text("".join(out))


def _indented(ctx: BuiltinContext, value: Value, prefix: str, indent: str, depth: int, out: list[str]) -> None:
    if type(value) is RegoSet:
        value = value.sorted()
    if type(value) not in (list, dict) or not value:
        out.append(json_text(value))
        return
    newline = f"\n{prefix}{indent * (depth + 1)}"
    charge_text(ctx, len(newline) * len(value))
    members: Iterable[tuple[str, Value]]
    if type(value) is list:
        opening, closing = "[", "]"
        members = (("", item) for item in value)
    else:
        opening, closing = "{", "}"
        named = {k if type(k) is str else json_text(unkey(k)): value[k] for k in sorted_keys(value)}
        members = ((json_quote(name) + ": ", named[name]) for name in sorted(named))
    out.append(opening)
    for at, (name, item) in enumerate(members):
        out.append(("," if at else "") + newline + name)
        _indented(ctx, item, prefix, indent, depth + 1, out)
    out.append(f"\n{prefix}{indent * depth}{closing}")


_EXPONENT: Final = re.compile(r"-?[0-9.]+[eE][-+]?[0-9]{4,}")


def unmarshal(text: str) -> Value:
    """A JSON text as a value, with OPA's errors."""
    try:
        value = json.decode(text)
    except json.JsonError as error:
        raise BuiltinError(str(error)) from None
    except json.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    if _EXPONENT.search(text):
        _check_numbers(value)
    return value


def _check_numbers(value: Value) -> None:
    if type(value) is list:
        for item in value:
            _check_numbers(item)
    elif type(value) is dict:
        for item in value.values():
            _check_numbers(item)
    elif type(value) is NumberText:
        check_exponent(value.text)


@builtin("json.unmarshal")
def json_unmarshal(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, 4 * len(source))
    return unmarshal(source)


@builtin("json.is_valid")
def json_is_valid(ctx: BuiltinContext, text: Value) -> Value:
    if type(text) is not str:
        return False
    charge_text(ctx, 4 * len(string(text, 1)))
    try:
        return json.is_valid(text)
    except json.Unsupported as error:
        raise UnsupportedError(str(error)) from None


# Paths


def _path(value: Value) -> Path:
    if type(value) is str:
        if not value:
            return []
        return [part.replace("~1", "/").replace("~0", "~") for part in value.lstrip("/").split("/")]
    if type(value) is list:
        return list(value)
    raise OperandError(
        "operand 2 must be one of {set, array} containing string paths or array of path segments but got "
        + type_name(value)
    )


Tree = dict[Key, "Tree | None"]
"""Paths in one: the next steps by key; None where a path ends, and all below is meant."""


def _tree(ctx: BuiltinContext, paths: Value) -> Tree:
    root: Tree = {}
    if type(paths) is not list and type(paths) is not RegoSet:
        raise operand_error(2, paths, "set", "array")
    for path in map(_path, operands.elements(paths, 2)):
        ctx.charge(1 + len(path) // 8)
        node = root
        for step in path[:-1]:
            following = node.setdefault(key(step), {})
            if following is None:
                break
            node = following
        else:
            if path:
                node[key(path[-1])] = None
    return root


@builtin("json.filter")
def json_filter(ctx: BuiltinContext, value: Value, paths: Value) -> Value:
    obj = operands.object_(value, 1)
    return _filtered(ctx, obj, _tree(ctx, paths))


def _filtered(ctx: BuiltinContext, value: Value, tree: Tree | None) -> Value:
    if tree is None:
        return value
    ctx.charge(1)
    if type(value) is dict:
        shared = value if len(value) >= len(tree) else tree
        return {k: _filtered(ctx, value[k], tree[k]) for k in shared if k in value and k in tree}
    if type(value) is list:
        return [_filtered(ctx, item, tree[str(at)]) for at, item in enumerate(value) if str(at) in tree]
    if type(value) is RegoSet:
        return RegoSet(_filtered(ctx, item, tree[key(item)]) for item in value if key(item) in tree)
    return value


@builtin("json.remove")
def json_remove(ctx: BuiltinContext, value: Value, paths: Value) -> Value:
    obj = operands.object_(value, 1)
    return _removed(ctx, obj, _tree(ctx, paths))


_GONE: Final = object()


def _removed(ctx: BuiltinContext, value: Value, tree: Tree | None) -> Value:
    if tree is None:
        return _GONE
    ctx.charge(1)
    if type(value) is dict:
        kept = ((k, _removed(ctx, item, tree[k]) if k in tree else item) for k, item in value.items())
        return {k: item for k, item in kept if item is not _GONE}
    if type(value) is list:
        items = (_removed(ctx, item, tree[str(at)]) if str(at) in tree else item for at, item in enumerate(value))
        return [item for item in items if item is not _GONE]
    if type(value) is RegoSet:
        members = (_removed(ctx, item, tree[key(item)]) if key(item) in tree else item for item in value)
        return RegoSet(item for item in members if item is not _GONE)
    return value


# Patches


@builtin("json.patch")
def json_patch(ctx: BuiltinContext, value: Value, operations: Value) -> Value:
    tree = EditTree(ctx, value)
    for operation in operands.array(operations, 2):
        _patch(ctx, tree, operation)
    result = tree.render()
    if result is UNDEFINED:
        raise UnsupportedError("the patch removes the whole document")
    return result


def _patch(ctx: BuiltinContext, tree: EditTree, operation: Value) -> None:
    if type(operation) is not dict:
        raise BuiltinError("must be an array of JSON-Patch objects, but at least one element is not an object")
    for required in ("path", "op"):
        _attribute(operation, required)
    op = operation["op"]
    if type(op) is not str:
        raise BuiltinError(f"attribute 'op' must be a string but found: {type_name(op)}")
    path = _path(operation["path"])
    ctx.charge(1 + len(path))
    match op:
        case "add":
            tree.insert_at(path, _attribute(operation, "value"))
        case "remove":
            tree.delete_at(path)
        case "replace":
            tree.delete_at(path)
            tree.insert_at(path, _attribute(operation, "value"))
        case "move":
            source = _path(_attribute(operation, "from"))
            moved = tree.render_at(source)
            tree.delete_at(source)
            tree.insert_at(path, moved)
        case "copy":
            source = _path(_attribute(operation, "from"))
            tree.insert_at(path, tree.render_at(source))
        case "test":
            found = tree.render_at(path)
            expected = _attribute(operation, "value")
            if found is UNDEFINED or not equal(found, expected):
                shown = "<nil>" if found is UNDEFINED else to_rego(found)
                message = f"Expected: {to_rego(expected)}\n\nFound: {shown}"
                raise BuiltinError(f"value from EditTree != patch value.\n\n{message}")
        case _:
            raise BuiltinError(f"unrecognized op: '{op}'")


def _attribute(operation: dict[Key, Value], name: str) -> Value:
    if name not in operation:
        raise BuiltinError(f"missing required attribute '{name}'")
    return operation[name]
