"""What compiled rules call while they run: contexts, lookups, iteration, and the building of partial documents.

A :class:`Query` is one question: its budget, clock and sinks. A :class:`Context` is one view of `input` and `data`
within it: the query's own, and one more for every `with`. Values of rules are kept per context, so that a rule is
computed once for each view of the documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, final

from gateway.rego import errors
from gateway.rego.ast import Location
from gateway.rego.builtins.registry import BuiltinError, OperandError, UnsupportedError
from gateway.rego.errors import EvalError
from gateway.rego.ruletree import Node
from gateway.rego.values import (
    UNDEFINED,
    Key,
    NumberText,
    RegoSet,
    Value,
    compare,
    equal,
    is_number,
    key,
    number_text,
    sorted_keys,
    to_rego,
    unkey,
)

U: Final = UNDEFINED
_CHECK_EVERY: Final = 4096


@final
class _Missing:
    """Marks what has not been computed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


M: Final = _Missing()
DEFAULT_MAX_STEPS: Final = 50_000_000


@final
class Query:
    """One question put to a policy: what builtins see, and what bounds it."""

    __slots__ = (
        "_deadline",
        "_left",
        "coverage",
        "errors",
        "functions",
        "locations",
        "n",
        "on_print",
        "query_cache",
        "seed",
        "strict",
        "time_ns",
    )

    def __init__(
        self,
        *,
        time_ns: int | None,
        seed: str | int | None,
        max_steps: int | None,
        deadline: float | None,
        strict: bool,
        on_print: Callable[[str], None] | None,
        locations: Sequence[Location],
        functions: Sequence[Callable[..., Value]],
        coverage: set[int] | None = None,
    ) -> None:
        self.time_ns = time_ns
        self.seed = seed
        self.strict = strict
        self.on_print = on_print
        self.locations = locations
        self.functions = functions
        self.coverage = coverage
        self.query_cache: dict[Any, Any] = {}
        self.errors: list[EvalError] = []
        self._deadline = deadline
        budget = DEFAULT_MAX_STEPS if max_steps is None else max_steps
        self.n = min(budget, _CHECK_EVERY)
        """Steps until the next look at the clock."""
        self._left = budget - self.n

    def check(self) -> None:
        """Looks at the deadline, and takes the next portion of the budget."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise EvalError(errors.CANCEL, "the deadline has passed")
        if self._left <= 0:
            raise EvalError(errors.BUDGET, "the step budget is spent")
        portion = min(self._left, _CHECK_EVERY)
        self._left -= portion
        self.n += portion
        if self.n < 0:
            self.check()

    def charge(self, steps: int) -> None:
        self.n -= steps
        if self.n < 0:
            self.check()

    def print(self, text: str) -> None:
        if self.on_print is not None:
            self.on_print(text)

    def failed(self, error: BuiltinError, name: str, at: int) -> None:
        """A builtin failed: an error where they are strict, otherwise it is undefined."""
        code = errors.EVAL_TYPE if isinstance(error, OperandError) else errors.BUILTIN
        failure = EvalError(code, f"{name}: {error}", self.locations[at])
        if self.strict or isinstance(error, UnsupportedError):
            raise failure from None
        self.errors.append(failure)

    def conflict(self, at: int, message: str) -> EvalError:
        return EvalError(errors.CONFLICT, message, self.locations[at])


@final
class Context:
    """One view of `input` and `data`, and the values of rules in it."""

    __slots__ = ("data", "input", "memo", "mocks", "patches", "q")

    def __init__(
        self,
        q: Query,
        input_: Value,
        data: Value,
        memo: list[Any],
        patches: tuple[tuple[Key, ...], ...] = (),
        mocks: dict[str, Any] | None = None,
    ) -> None:
        self.q = q
        self.input = input_
        self.data = data
        self.memo = memo
        self.patches = patches
        """Paths below `data` that `with` has replaced: rules there are out of sight."""
        self.mocks = mocks
        """Functions that `with` has replaced, by name: (True, function of a context) or (False, value)."""

    def derive(self, changes: tuple[tuple[str, tuple[Key, ...], Value], ...]) -> Context:
        """The view inside of `with`: changes are (`input` | `data`, path, value) or (`mock`, (name,), replacement)."""
        input_, data, patches, mocks = self.input, self.data, self.patches, self.mocks
        for kind, path, value in changes:
            if kind == "input":
                input_ = patched(input_, path, value)
            elif kind == "data":
                data = patched(data, path, value)
                patches = (*patches, path)
            else:
                mocks = {**(mocks or {}), path[0]: value}
        return Context(self.q, input_, data, [M] * len(self.memo), patches, mocks)

    def patched(self, path: tuple[Key, ...]) -> Value:
        """The value at a path that `with` replaced, or `M` where rules are in force."""
        for patch in self.patches:
            if path[: len(patch)] == patch:
                value = self.data
                for step in path:
                    value = value.get(step, U) if type(value) is dict else U
                return value
        return M


def patched(document: Value, path: tuple[Key, ...], value: Value) -> Value:
    """A copy of a document with the value at a path replaced; objects on the way are made where there are none."""
    if not path:
        return value
    copy = dict(document) if type(document) is dict else {}
    copy[path[0]] = patched(copy.get(path[0], U), path[1:], value)
    return copy


def call_mock(c: Context, mock: tuple[bool, Any], args: tuple[Value, ...]) -> Value:
    is_function, replacement = mock
    if not is_function:
        return replacement
    # Inside of a replacement the originals are in force again.
    return replacement(Context(c.q, c.input, c.data, [M] * len(c.memo), c.patches), *args)


# Lookups ------------------------------------------------------------------------------------------------------------


def index(value: Value, step: Value) -> Value:
    """`value[step]`, or undefined."""
    kind = type(value)
    if kind is dict:
        return value.get(step if type(step) is str else key(step), U)
    if kind is list:
        if type(step) is not int:
            if type(step) is NumberText and ("e" in step.text or "E" in step.text):
                return U  # OPA takes no exponents for indices
            whole = key(step)
            if type(whole) is float and whole.is_integer():
                whole = int(whole)
            if type(whole) is not int:
                return U
            step = whole
        return value[step] if 0 <= step < len(value) else U
    if kind is RegoSet:
        return step if key(step) in value.members else U
    return U


def lookup(value: Value, steps: Iterable[Value]) -> Value:
    for step in steps:
        value = index(value, step)
    return value


def index_stored(value: Value, step: Value) -> Value:
    """`value[step]` in a base document: its paths are strings, so a number finds the key that is its text."""
    kind = type(value)
    if kind is dict:
        if type(step) is str:
            return value.get(step, U)
        return value.get(number_text(step), U) if is_number(step) else index(value, step)
    if kind is list and type(step) is str:
        return index(value, int(step)) if step.isascii() and step.isdigit() and str(int(step)) == step else U
    return index(value, step)


def lookup_stored(value: Value, steps: Iterable[Value]) -> Value:
    for step in steps:
        value = index_stored(value, step)
    return value


def values(container: Value) -> Iterable[Value]:
    """The members of a collection in Rego's order, which decides what an error or an early exit meets first."""
    kind = type(container)
    if kind is list:
        return container  # type: ignore[no-any-return]
    if kind is RegoSet:
        return container.sorted()  # type: ignore[no-any-return]
    if kind is dict:
        return container.values() if len(container) < 2 else [container[k] for k in sorted_keys(container)]
    return ()


def items(container: Value) -> Iterable[tuple[Value, Value]]:
    """The (key, value) pairs of a collection in Rego's order; a set's members are their own keys."""
    kind = type(container)
    if kind is list:
        return enumerate(container)
    if kind is dict:
        return [(k if type(k) is str else unkey(k), container[k]) for k in sorted_keys(container)]
    if kind is RegoSet:
        return [(v, v) for v in container.sorted()]
    return ()


def is_collection(value: Value) -> bool:
    kind = type(value)
    return kind is list or kind is dict or kind is RegoSet


SIZED: Final = frozenset((list, dict, RegoSet))
"""Types of which `len` is what `count` counts."""
FREE: Final = M
"""A step of a path that any key may take."""


def steps_of(value: Value, steps: tuple[Value, ...]) -> Iterator[tuple[tuple[Value, ...], Value]]:
    """All ways through a value along `steps`: the keys taken at the free ones, and what is found."""
    if value is U:
        return
    if not steps:
        yield (), value
        return
    first, rest = steps[0], steps[1:]
    if first is not FREE:
        yield from steps_of(index(value, first), rest)
        return
    for k, v in items(value):
        for taken, found in steps_of(v, rest):
            yield (k, *taken), found


def dynamic(c: Context, node: Node, base: Value, steps: tuple[Value, ...]) -> Iterator[tuple[tuple[Value, ...], Value]]:
    """All ways from a node of the rule tree along `steps`, through rules and the base document alike."""
    if c.patches and c.patched(node.path) is not M:
        yield from steps_of(base, steps)
        return
    if node.group >= 0:
        if not node.is_function:
            yield from steps_of(c.q.functions[node.group](c), steps)
        return
    if not steps:
        value = extent(c, node, base)
        if value is not U:
            yield (), value
        return
    c.q.charge(1)
    first, rest = steps[0], steps[1:]
    if first is not FREE:
        yield from _dynamic_step(c, node, base, first, rest)
        return
    own = list(items(base))
    taken_keys = {key(k) for k, _ in own}
    for k in [*(k for k, _ in own), *(unkey(child) for child in node.children if child not in taken_keys)]:
        for taken, found in _dynamic_step(c, node, base, k, rest):
            yield (k, *taken), found


def _dynamic_step(
    c: Context, node: Node, base: Value, step: Value, rest: tuple[Value, ...]
) -> Iterator[tuple[tuple[Value, ...], Value]]:
    child = node.children.get(key(step))
    below = index(base, step)
    if child is None:
        yield from steps_of(below, rest)
    else:
        yield from dynamic(c, child, below, rest)


def extent(c: Context, node: Node, base: Value) -> Value:
    """The whole document at a node: the values of all rules below it, merged with the base document."""
    if c.patches and c.patched(node.path) is not M:
        return base
    if node.group >= 0:
        return c.q.functions[node.group](c) if not node.is_function else U
    if not node.children:
        return base if base is not U else {}
    own: Value = {} if base is U else base
    if type(own) is not dict:
        return base
    result: dict[Key, Value] = dict(own)
    for step, child in node.children.items():
        if step == "system" and not node.path:
            continue
        below = own.get(step, U)
        value = extent(c, child, below)
        if value is not U:
            result[step] = merged(below, value) if child.group >= 0 and below is not U else value
    return result


def merged(base: Value, virtual: Value) -> Value:
    """Both documents in one; where they meet and are not both objects, the base document wins."""
    if type(base) is not dict or type(virtual) is not dict:
        return base
    return {**virtual, **{k: merged(v, virtual[k]) if k in virtual else v for k, v in base.items()}}


def base_at(c: Context, path: tuple[Key, ...]) -> Value:
    value = c.data
    for step in path:
        value = index_stored(value, unkey(step))
        if value is U:
            return U
    return value


# Building documents -----------------------------------------------------------------------------------------------------


def make_set(members: Iterable[Value]) -> RegoSet:
    return RegoSet(members)


def put(acc: dict[Key, Value], q: Query, key_: Value, value: Value, at: int) -> None:
    """Adds a key to a partial object; another value for the same key is a conflict."""
    k = key(key_)
    before = acc.get(k, M)
    if before is M:
        acc[k] = value
    elif not equal(before, value):
        raise q.conflict(at, "object keys must be unique")


@final
class _Leaf:
    """A partial object's leaf while it is built: a value, or the members of a set."""

    __slots__ = ("members", "value")

    def __init__(self, value: Value, members: dict[Key, Value] | None) -> None:
        self.value = value
        self.members = members


@final
class Builder:
    """A document whose paths rules fill in: objects inside of objects, with values or sets at the ends."""

    __slots__ = ("paths", "q", "root")

    def __init__(self, q: Query) -> None:
        self.q = q
        self.root: dict[Key, Any] = {}
        self.paths: list[tuple[Key, ...]] = []

    def put(self, path: tuple[Value, ...], value: Value, at: int, *, member: bool) -> None:
        keys = tuple([key(step) for step in path])
        for earlier in self.paths:
            if len(earlier) < len(keys) and keys[: len(earlier)] == earlier:
                raise self.q.conflict(at, "object keys must be unique")
        self.paths.append(keys)
        node: Any = self.root
        for step in keys[:-1]:
            below = node.get(step)
            if below is None:
                below = node[step] = {}
            elif type(below) is _Leaf:
                if type(below.value) is not dict or below.members is not None:
                    raise self.q.conflict(at, "object keys must be unique")
                below = node[step] = {k: _Leaf(v, None) for k, v in below.value.items()}
            node = below
        last = keys[-1]
        before = node.get(last)
        if before is None:
            node[last] = _Leaf(None, {key(value): value}) if member else _Leaf(value, None)
        elif type(before) is not _Leaf:
            if member or not equal(_finish(before), value):
                raise self.q.conflict(at, "object keys must be unique")
        elif member:
            if before.members is None:
                raise self.q.conflict(at, "object keys must be unique")
            before.members[key(value)] = value
        elif before.members is not None or not equal(before.value, value):
            raise self.q.conflict(at, "object keys must be unique")

    def finish(self) -> dict[Key, Value]:
        return _finish(self.root)


def _finish(node: dict[Key, Any]) -> dict[Key, Value]:
    return {
        step: (RegoSet.of(below.members) if below.members is not None else below.value)
        if type(below) is _Leaf
        else _finish(below)
        for step, below in node.items()
    }


# Operators -----------------------------------------------------------------------------------------------------------


def member(item: Value, container: Value) -> bool:
    """`item in container`."""
    kind = type(container)
    if type(item) is str:  # which equals nothing but strings, to Python as to Rego
        if kind is list:
            return item in container
        if kind is RegoSet:
            return item in container.members
        return kind is dict and item in container.values()
    if kind is RegoSet:
        return key(item) in container.members
    if kind is list:
        return any(equal(item, other) for other in container)
    if kind is dict:
        return any(equal(item, other) for other in container.values())
    return False


def member_at(step: Value, item: Value, container: Value) -> bool:
    """`step, item in container`."""
    if not is_collection(container):
        return False
    found = index(container, step)
    return found is not U and equal(found, item)


def has_affix(value: Value, affixes: tuple[str, ...], method: str) -> bool:
    """Whether the rule index takes a value for one that may start (or end) with one of some strings."""
    if type(value) is str:
        return bool(getattr(value, method)(affixes))
    return any(type(item) is str and getattr(item, method)(affixes) for item in values(value))


def fits_glob(text: str, pattern: str, mark: str) -> bool:
    """Whether the rule index takes a text for one that a glob of `*` and plain parts may match."""
    parts, wanted = text.split(mark), pattern.split(mark)
    return len(parts) == len(wanted) and all(b in ("*", a) for a, b in zip(parts, wanted, strict=True))


def shown(parts: Iterable[Value]) -> str:
    """A template string: its parts are scalars, or sets of what an expression gave (nothing: undefined)."""
    text = []
    for part in parts:
        if type(part) is RegoSet:
            if not part.members:
                text.append("<undefined>")
                continue
            if len(part.members) > 1:
                raise EvalError(errors.CONFLICT, "template-strings must not produce multiple outputs")
            part = next(iter(part.members.values()))
        text.append(part if type(part) is str else to_rego(part))
    return "".join(text)


def print_line(q: Query, parts: Sequence[Sequence[Value]], at: int) -> None:
    """`print(...)`: one line for every combination of the arguments' values."""
    lines: list[list[str]] = [[]]
    for options in parts:
        texts = ["<undefined>"] if not options else [o if type(o) is str else to_rego(o) for o in options]
        lines = [[*line, text] for line in lines for text in texts]
    for line in lines:
        q.print(" ".join(line))


__all__ = [
    "FREE", "SIZED", "Builder", "Context", "M", "Query", "U", "base_at", "call_mock", "compare", "dynamic", "equal", "extent", "fits_glob", "has_affix", "index", "index_stored",
    "is_collection", "items", "key", "lookup", "lookup_stored", "make_set", "member", "member_at", "patched", "print_line", "put",
    "shown", "steps_of", "values",
]  # fmt: skip
