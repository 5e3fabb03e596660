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
    edges = operands.object_(graph, 1)
    paths: list[Value] = []
    # What is pending: the path so far, the vertices already on it, and the vertex to go on with.
    pending: list[tuple[list[Value], frozenset[Key], Value]] = []
    for node in _initial(initial):
        neighbours = edges.get(key(node), UNDEFINED)
        if neighbours is UNDEFINED:
            continue
        if not _vertices(neighbours):
            paths.append([node])
        pending.extend(([node], frozenset((key(node),)), neighbour) for neighbour in _vertices(neighbours))
    while pending:
        path, visited, node = pending.pop()
        ctx.charge(1 + len(path) // 8)
        canonical = key(node)
        neighbours = edges.get(canonical, UNDEFINED)
        if neighbours is UNDEFINED:
            paths.append(path)
            continue
        path = [*path, node]
        following = _vertices(neighbours)
        if not following:
            paths.append(path)
            continue
        visited = visited | {canonical}
        for neighbour in following:
            if key(neighbour) in visited:
                paths.append(path)
            else:
                pending.append((path, visited, neighbour))
    return RegoSet(paths)
