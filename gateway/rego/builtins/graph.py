"""Graphs and nested documents: `walk`, `graph.reachable`, `graph.reachable_paths`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, builtin, operand_error
from gateway.rego.values import UNDEFINED, Key, RegoSet, Value, key, sorted_keys, unkey


@builtin("walk")
def walk(ctx: BuiltinContext, value: Value) -> Iterator[Value]:
    """Every `[path, value]` of a document, itself first, depth first."""
    pending: list[tuple[list[Value], Value]] = [([], value)]
    while pending:
        path, current = pending.pop()
        ctx.charge(1 + len(path) // 16)
        yield [path, current]
        children = _children(current)
        pending.extend(([*path, step], item) for step, item in reversed(children))


def _children(value: Value) -> list[tuple[Value, Value]]:
    if type(value) is dict:
        return [(unkey(canonical), value[canonical]) for canonical in sorted_keys(value)]
    if type(value) is list:
        return list(enumerate(value))
    if type(value) is RegoSet:
        return [(item, item) for item in value.sorted()]
    return []


def _vertices(value: Value) -> list[Value]:
    if type(value) is list:
        return value
    return value.sorted() if type(value) is RegoSet else []


def _initial(value: Value) -> list[Value]:
    if type(value) is list or type(value) is RegoSet:
        return _vertices(value)
    raise operand_error(2, value, "{array, set}")


@builtin("graph.reachable")
def graph_reachable(ctx: BuiltinContext, graph: Value, initial: Value) -> Value:
    edges = operands.object_(graph, 1)
    queue = list(_initial(initial))
    reached: dict[Key, Value] = {}
    while queue:
        node = queue.pop()
        canonical = key(node)
        neighbours = edges.get(canonical, UNDEFINED)
        ctx.charge(1)
        if neighbours is UNDEFINED or canonical in reached:
            continue
        reached[canonical] = node
        queue.extend(_vertices(neighbours))
    return RegoSet.of(reached)


@builtin("graph.reachable_paths")
def graph_reachable_paths(ctx: BuiltinContext, graph: Value, initial: Value) -> Value:
    """As OPA's compliance suite has it: what one branch has passed, its later siblings do not pass again.

    (OPA 1.22 keeps what was passed for each branch apart and finds other paths in some graphs with shared vertices.)
    """
    edges = operands.object_(graph, 1)
    paths: list[Value] = []
    for node in _initial(initial):
        neighbours = edges.get(key(node), UNDEFINED)
        if neighbours is UNDEFINED:
            continue
        following = _vertices(neighbours)
        if not following:
            paths.append([node])
        for neighbour in following:
            _paths(ctx, edges, node, neighbour, paths)
    return RegoSet(paths)


def _paths(ctx: BuiltinContext, edges: dict[Key, Value], start: Value, first: Value, paths: list[Value]) -> None:
    """The paths from `start` by way of `first`, depth first, without recursion."""
    passed = {key(start)}
    # What is being walked: the path with its last vertex, and the vertices still to be tried from there.
    walked: list[tuple[list[Value], Iterator[Value]]] = [([start], iter([first]))]
    while walked:
        path, untried = walked[-1]
        node = next(untried, UNDEFINED)
        if node is UNDEFINED:
            walked.pop()
            continue
        ctx.charge(1 + len(path) // 8)
        if len(walked) > 1:
            if key(node) in passed:
                paths.append(path)
                continue
            passed.add(key(path[-1]))
        neighbours = edges.get(key(node), UNDEFINED)
        following = UNDEFINED if neighbours is UNDEFINED else _vertices(neighbours)
        if following is UNDEFINED:
            paths.append(path)
        elif not following:
            paths.append([*path, node])
        else:
            walked.append(([*path, node], iter(following)))
