"""Rego's types, as OPA's checker knows them: what a term can be, as far as that is known.

`None` stands for a type that is not known yet; :data:`ANY` for one that can be anything. Types are immutable and compare
by structure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias

from gateway.rego.builtins.registry import DECLARED, _split
from gateway.rego.values import Key, RegoSet, Value, is_number, key, type_name, unkey


@dataclass(frozen=True, slots=True)
class Basic:
    """null, boolean, number or string."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Array:
    static: tuple[Type | None, ...] = ()
    dynamic: Type | None = None

    def select(self, at: int) -> Type | None:
        if 0 <= at < len(self.static):
            return self.static[at]
        return self.dynamic if at >= 0 else None


@dataclass(frozen=True, slots=True)
class Set:
    of: Type | None = None


@dataclass(frozen=True, slots=True)
class Object:
    static: tuple[tuple[Key, Type | None], ...] = ()
    dynamic: tuple[Type | None, Type | None] | None = None

    def select(self, name: Key) -> Type | None:
        for k, found in self.static:
            if k == name:
                return found
        if self.dynamic is not None and contains(self.dynamic[0], type_of(unkey(name))):
            return self.dynamic[1]
        return None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several types; of none: anything."""

    of: frozenset[Type] = frozenset()


@dataclass(frozen=True, slots=True)
class Function:
    args: tuple[Type | None, ...]
    result: Type | None
    """None: the function has no value."""
    variadic: Type | None = field(default=None)

    def arg(self, at: int) -> Type | None:
        return self.args[at] if at < len(self.args) else self.variadic


Type: TypeAlias = Basic | Array | Set | Object | AnyOf | Function

NULL: Final = Basic("null")
BOOLEAN: Final = Basic("boolean")
NUMBER: Final = Basic("number")
STRING: Final = Basic("string")
ANY: Final = AnyOf()
_BASIC: Final = {"null": NULL, "boolean": BOOLEAN, "number": NUMBER, "string": STRING}


def type_of(value: Value) -> Type:
    """The type of a constant."""
    name = type_name(value)
    basic = _BASIC.get(name)
    if basic is not None:
        return basic
    if type(value) is list:
        return Array(tuple([type_of(item) for item in value]))
    if type(value) is dict:
        return Object(tuple([(k, type_of(item)) for k, item in value.items()]))
    assert type(value) is RegoSet
    of: Type | None = None
    for item in value.members.values():
        of = union(of, type_of(item))
    return Set(of)


def contains(a: Type | None, b: Type) -> bool:
    if isinstance(a, AnyOf):
        return not a.of or b in a.of
    return a == b


def union(a: Type | None, b: Type | None) -> Type | None:
    """A type for what is of one or the other."""
    if a is None:
        return b
    if b is None:
        return a
    if isinstance(a, Function) or isinstance(b, Function):
        if isinstance(a, Function) and isinstance(b, Function) and len(a.args) == len(b.args):
            args = tuple([union(x, y) for x, y in zip(a.args, b.args, strict=True)])
            return Function(args, union(a.result, b.result), union(a.variadic, b.variadic))
        return None
    if a == ANY or b == ANY:
        return ANY
    members = (a.of if isinstance(a, AnyOf) else frozenset((a,))) | (b.of if isinstance(b, AnyOf) else frozenset((b,)))
    return next(iter(members)) if len(members) == 1 else AnyOf(members)


def select(a: Type | None, name: Key) -> Type | None:
    """The type of what a constant key selects."""
    match a:
        case Array():
            at = unkey(name)
            return a.select(int(at)) if is_number(at) and at == int(at) else None
        case Object():
            return a.select(name)
        case Set():
            of = type_of(unkey(name))
            if a.of == of:
                return a.of
            return of if isinstance(a.of, AnyOf) and contains(a.of, of) else None
        case AnyOf():
            if not a.of:
                return ANY
            found: Type | None = None
            for member in a.of:
                found = union(select(member, name), found)
            return found
        case _:
            return None


def keys_of(a: Type | None) -> Type | None:
    """The type of the keys of a collection; None: it has none."""
    match a:
        case Array():
            return NUMBER
        case Object():
            found: Type | None = None
            for k, _ in a.static:
                found = union(found, type_of(unkey(k)))
            return union(found, a.dynamic[0]) if a.dynamic is not None else found
        case Set():
            return a.of
        case AnyOf():
            if not a.of:
                return ANY
            result: Type | None = None
            for member in a.of:
                result = union(keys_of(member), result)
            return result
        case _:
            return None


def values_of(a: Type | None) -> Type | None:
    """The type of the members of a collection."""
    match a:
        case Array():
            found: Type | None = None
            for item in a.static:
                found = union(found, item)
            return union(found, a.dynamic)
        case Object():
            of: Type | None = None
            for _, item in a.static:
                of = union(of, item)
            return union(of, a.dynamic[1]) if a.dynamic is not None else of
        case Set():
            return a.of
        case AnyOf():
            if not a.of:
                return ANY
            result: Type | None = None
            for member in a.of:
                result = union(values_of(member), result)
            return result
        case _:
            return None


def is_nil(a: Type | None) -> bool:
    """Whether any part of a type is not known."""
    match a:
        case None:
            return True
        case Function():
            return any(map(is_nil, a.args)) or is_nil(a.result)
        case Array():
            return any(map(is_nil, a.static)) or (a.dynamic is not None and is_nil(a.dynamic))
        case Object():
            if any(is_nil(of) for _, of in a.static):
                return True
            return a.dynamic is not None and (is_nil(a.dynamic[0]) or is_nil(a.dynamic[1]))
        case Set():
            return is_nil(a.of)
        case _:
            return False


def unifies(a: Type | None, b: Type | None) -> bool:
    """Whether values of the two types can be equal."""
    if a is None or b is None:
        return False
    if isinstance(a, AnyOf) or isinstance(b, AnyOf):
        if isinstance(a, AnyOf) and _unifies_any(a, b):
            return True
        return isinstance(b, AnyOf) and _unifies_any(b, a)
    match a:
        case Basic():
            return a == b
        case Array():
            return isinstance(b, Array) and _unifies_arrays(a, b)
        case Object():
            return isinstance(b, Object) and _unifies_objects(a, b)
        case Set():
            return isinstance(b, Set) and (a.of is None or b.of is None or unifies(a.of, b.of))
        case Function():
            if not isinstance(b, Function) or len(a.args) != len(b.args):
                return False
            return all(unifies(x, y) for x, y in zip(a.args, b.args, strict=True))


def _unifies_any(a: AnyOf, b: Type) -> bool:
    if isinstance(b, Function):
        return False
    return not a.of or any(unifies(member, b) for member in a.of)


def _unifies_arrays(a: Array, b: Array) -> bool:
    if not all(unifies(item, b.select(i)) for i, item in enumerate(a.static)):
        return False
    if not all(unifies(item, a.select(i)) for i, item in enumerate(b.static)):
        return False
    return a.dynamic is None or b.dynamic is None or unifies(a.dynamic, b.dynamic)


def _unifies_objects(a: Object, b: Object) -> bool:
    if not (_unifies_static(a, b) and _unifies_static(b, a)):
        return False
    x = a.dynamic[1] if a.dynamic is not None else None
    y = b.dynamic[1] if b.dynamic is not None else None
    return x is None or y is None or unifies(x, y)


def _unifies_static(a: Object, b: Object) -> bool:
    for k, of in a.static:
        other = b.select(k)
        if other is None:
            if (a.dynamic is not None and a.dynamic[1] is not None) or (
                b.dynamic is not None and b.dynamic[1] is not None
            ):
                continue
            return False
        if not unifies(of, other):
            return False
    return True


def merge(a: Type | None, b: Type | None) -> Type | None:
    """The type of a document that several rules define."""
    if a is None:
        return b
    if b is None:
        return a
    if isinstance(a, Object) and not a.static:
        if isinstance(b, Object) and not b.static:
            if a.dynamic is None or b.dynamic is None:
                return b if a.dynamic is None else a
            return Object((), (union(a.dynamic[0], b.dynamic[0]), merge(a.dynamic[1], b.dynamic[1])))
        if isinstance(b, AnyOf) and a.dynamic is not None:
            for member in b.of:
                if isinstance(member, Object) and not member.static and member.dynamic is not None:
                    joined = Object(
                        (), (union(member.dynamic[0], a.dynamic[0]), union(member.dynamic[1], a.dynamic[1]))
                    )
                    return AnyOf(b.of - {member} | {joined})
    if isinstance(a, Set) and isinstance(b, Set):
        return Set(union(a.of, b.of))
    if isinstance(a, AnyOf) and not isinstance(b, AnyOf):
        return merge(b, a) if isinstance(b, Object) else union(a, b)
    return union(a, b)


def is_empty_collection(a: Type | None) -> bool:
    match a:
        case Object():
            return not a.static and a.dynamic is None
        case Array():
            return not a.static and a.dynamic is None
        case Set():
            return a.of is None
        case _:
            return False


# The language of the declarations ---------------------------------------------------------------------------------------


@cache
def parse_type(text: str) -> Type:
    """Reads a type of :mod:`gateway.rego.builtins.declarations`."""
    text = text.strip()
    if text in _BASIC:
        return _BASIC[text]
    if text == "any":
        return ANY
    if text.startswith("array["):
        return Array((), parse_type(text[6:-1]))
    if text.startswith("set["):
        return Set(parse_type(text[4:-1]))
    if text.startswith("["):
        return Array(tuple(map(parse_type, _split(text[1:-1]))))
    if text.startswith("<"):
        return AnyOf(frozenset(map(parse_type, _alternatives(text[1:-1]))))
    if text.startswith("{"):
        static: list[tuple[Key, Type | None]] = []
        dynamic: tuple[Type | None, Type | None] | None = None
        for part in _split(text[1:-1]):
            name, of = _pair(part)
            if name.startswith("*"):
                dynamic = (parse_type(name[1:]), parse_type(of))
            else:
                static.append((name, parse_type(of)))
        return Object(tuple(static), dynamic)
    raise ValueError(f"no type: {text}")


def _alternatives(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        if char in "[{<":
            depth += 1
        elif char in "]}>":
            depth -= 1
        elif char == "|" and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _pair(text: str) -> tuple[str, str]:
    depth = 0
    for at, char in enumerate(text):
        if char in "[{<":
            depth += 1
        elif char in "]}>":
            depth -= 1
        elif char == ":" and depth == 0:
            return text[:at].strip(), text[at + 1 :]
    raise ValueError(text)


@cache
def builtin_type(name: str) -> Function | None:
    """The type of a builtin."""
    declared = DECLARED.get(name)
    if declared is None:
        return None
    args = tuple([parse_type(arg) for arg in declared.args if not arg.startswith("*")])
    variadic = next((parse_type(arg[1:]) for arg in declared.args if arg.startswith("*")), None)
    return Function(args, None if declared.result == "void" else parse_type(declared.result), variadic)


# JSON Schema -------------------------------------------------------------------------------------------------------------


def schema_type(schema: Any) -> Type:
    """The type that a JSON Schema describes, read as OPA reads it.

    An object with `properties` has these and no others; one without has any. What cannot be expressed is anything.
    """
    return _SchemaReader(schema).read(schema, ())


class _SchemaReader:
    def __init__(self, root: Any) -> None:
        self.root = root

    def read(self, schema: Any, seen: tuple[str, ...]) -> Type:
        if not isinstance(schema, dict):
            return ANY
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in seen or not reference.startswith("#"):
                return ANY
            return self.read(self.resolve(reference), (*seen, reference))
        if isinstance(schema.get("anyOf"), list):
            return self.any_of(schema["anyOf"], seen)
        if isinstance(schema.get("allOf"), list):
            parts = [schema, *schema["allOf"]]
            return self.read(self.merged([part for part in parts if isinstance(part, dict)]), seen)
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return self.any_of([{**schema, "type": kind} for kind in kinds], seen)
        if kinds is None:
            kinds = "object" if schema.get("properties") else "array" if schema.get("items") else None
        match kinds:
            case "boolean":
                return BOOLEAN
            case "string":
                return STRING
            case "integer" | "number":
                return NUMBER
            case "null":
                return NULL
            case "object":
                properties = schema.get("properties")
                if isinstance(properties, dict) and properties:
                    return Object(tuple([(name, self.read(part, seen)) for name, part in sorted(properties.items())]))
                return Object((), (ANY, ANY))
            case "array":
                items = schema.get("items")
                if isinstance(items, list):
                    return Array(tuple([self.read(part, seen) for part in items]))
                return Array((), self.read(items, seen) if items else ANY)
            case _:
                return ANY

    def any_of(self, schemas: Iterable[Any], seen: tuple[str, ...]) -> Type:
        found: Type | None = None
        for part in schemas:
            found = union(found, self.read(part, seen))
        return found if found is not None else ANY

    def merged(self, schemas: list[dict[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for schema in schemas:
            reference = schema.get("$ref")
            part = self.resolve(reference) if isinstance(reference, str) else schema
            for name, value in (part if isinstance(part, dict) else {}).items():
                if name == "properties" and isinstance(value, dict):
                    result["properties"] = {**result.get("properties", {}), **value}
                elif name != "allOf":
                    result.setdefault(name, value)
        return result

    def resolve(self, reference: str) -> Any:
        found: Any = self.root
        for step in reference.lstrip("#").strip("/").split("/"):
            if not step:
                continue
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, dict) else None
        return found


__all__ = [
    "ANY", "BOOLEAN", "NULL", "NUMBER", "STRING", "AnyOf", "Array", "Basic", "Function", "Object", "Set", "Type", "builtin_type",
    "contains", "is_empty_collection", "is_nil", "key", "keys_of", "merge", "parse_type", "schema_type", "select", "type_of",
    "unifies", "union", "values_of",
]  # fmt: skip
