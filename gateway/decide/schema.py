"""JSON Schema as tool servers declare it: compiled once a definition, bounded, never fetching anything.

Source: JSON Schema 2020-12 and the drafts 4, 6, 7 and 2019-09, chosen by `$schema`; 2020-12 where there is none (MCP).
The engine is jsonschema-rs with a linear-time regular expression engine; a pattern with look-around or back-references
gets a back-tracking engine with a limit, beyond which the value counts as invalid.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jsonschema_rs

from gateway.model.snapshot import SchemaProblem, Validator

MAX_PROBLEMS = 20
"""More places than these help no model."""

MAX_SUBSCHEMAS = 20_000
"""A definition with more parts is refused: its cost would be its server's to choose."""

BACKTRACK_LIMIT = 10_000


class SchemaError(ValueError):
    """A schema that cannot be used; the text says why."""


def compile_schema(schema: Any, *, undeclared: str = "relay") -> Validator:
    """Compile a schema.

    Args:
        schema: the JSON value of `inputSchema` or `outputSchema`.
        undeclared: `"refuse"`: top-level properties that the schema does not name are problems, where it names any and
            says nothing of others; `"relay"`: they pass.

    Raises:
        SchemaError: not a schema, a reference that is not inside it, an unknown dialect, a pattern that does not
            compile, or too large.
    """
    if not isinstance(schema, dict | bool):
        raise SchemaError("a schema is an object or a boolean")
    for _, _, reference in _references(schema):
        if not reference.startswith("#") and not _inside(schema, reference):
            raise SchemaError(f"$ref {reference[:200]!r} is not inside the schema; nothing is fetched")
    compiled = _compile(schema)
    declared = _declared(schema) if undeclared == "refuse" and isinstance(schema, dict) else None
    return _Compiled(compiled, declared)


def _no_fetch(uri: str) -> NoReturn:
    raise SchemaError(f"{uri[:200]!r} is not inside the schema; nothing is fetched")


def _compile(schema: dict[str, Any] | bool) -> jsonschema_rs.Validator:
    """With the linear engine, or where a pattern needs it with the limited back-tracking one."""
    engines = (jsonschema_rs.RegexOptions(), jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT))
    problem = ""
    for engine in engines:
        try:
            return jsonschema_rs.validator_for(schema, retriever=_no_fetch, pattern_options=engine)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            problem = str(error).split("\n", 1)[0][:300]
            if not isinstance(error, jsonschema_rs.ValidationError):
                break
    raise SchemaError(f"the schema does not compile: {problem}")


IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
IN_PLACE = ("if", "then", "else")
SAYS_OF_OTHERS = ("additionalProperties", "unevaluatedProperties", "propertyNames")


@dataclass(frozen=True, slots=True)
class _Declared:
    """The names that a schema gives to top-level properties."""

    names: frozenset[str]
    patterns: tuple[jsonschema_rs.Validator, ...]

    def unknown(self, value: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name in value
            if name not in self.names and not any(pattern.is_valid(name) for pattern in self.patterns)
        ]


def _declared(schema: Mapping[str, Any]) -> _Declared | None:
    """None where the schema names no property, or says itself what becomes of others."""
    names: set[str] = set()
    patterns: list[jsonschema_rs.Validator] = []
    for part in _in_place(schema):
        if any(keyword in part for keyword in SAYS_OF_OTHERS):
            return None
        names.update(part.get("properties") or ())
        for pattern in part.get("patternProperties") or ():
            patterns.append(_compile({"pattern": pattern}))
    return _Declared(frozenset(names), tuple(patterns)) if names else None


def _in_place(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and every subschema that applies to the same value."""
    stack, seen = [schema], set[int]()
    while stack:
        part = stack.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        stack.extend(part.get(keyword) for keyword in IN_PLACE)
        for keyword in IN_PLACE_LISTS:
            stack.extend(part.get(keyword) or ())
        for keyword in ("dependentSchemas", "dependencies"):
            stack.extend((part.get(keyword) or {}).values())
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(reference := part.get(keyword), str):
                stack.append(_pointed(schema, reference))


def _pointed(root: Any, reference: str) -> Any:
    """What a local reference points at: a JSON Pointer or an anchor; None where it is neither."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        name = reference.removeprefix("#")
        return next(
            (part for part in _subschemas(root) if name in (part.get("$anchor"), part.get("$dynamicAnchor"))), None
        )
    value = root
    for token in reference[2:].split("/"):
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


def _subschemas(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in the schema, bounded."""
    stack, count = [value], 0
    while stack:
        part = stack.pop()
        count += 1
        if count > MAX_SUBSCHEMAS:
            raise SchemaError(f"the schema has more than {MAX_SUBSCHEMAS} parts")
        if isinstance(part, dict):
            yield part
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


def _references(schema: Any) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """Each `$ref` of the schema. A property that is called `$ref` holds a schema, not a string, and is none."""
    for part in _subschemas(schema):
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(reference := part.get(keyword), str):
                yield part, keyword, reference


def _inside(schema: Any, reference: str) -> bool:
    """Whether a reference that is not a fragment names a schema that is embedded here, or a known dialect."""
    base = reference.split("#", 1)[0]
    if base.startswith(("http://json-schema.org/draft-", "https://json-schema.org/draft/")):
        return True
    return any(
        isinstance(identifier := part.get(keyword), str) and identifier.split("#", 1)[0].endswith(base)
        for part in _subschemas(schema)
        for keyword in ("$id", "id")
    )


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A `Validator` on jsonschema-rs."""

    compiled: jsonschema_rs.Validator
    declared: _Declared | None

    def problems(self, value: Any) -> Sequence[SchemaProblem]:
        try:
            valid = self.compiled.is_valid(value)
        except ValueError as fault:  # a lone surrogate: UnicodeEncodeError is one
            return (SchemaProblem(path="", message=str(fault)[:300]),)
        found: list[SchemaProblem] = []
        if self.declared is not None and isinstance(value, dict):
            for name in self.declared.unknown(value)[:MAX_PROBLEMS]:
                close = difflib.get_close_matches(name, self.declared.names, n=1)
                hint = (
                    f"; did you mean {close[0]!r}?"
                    if close
                    else f"; it has {', '.join(sorted(self.declared.names)[:20])}"
                )
                found.append(
                    SchemaProblem(path=_pointer([name]), message=f"the tool declares no argument {name!r}{hint}")
                )
        if valid:
            return found
        for error in self.compiled.iter_errors(value):
            if len(found) >= MAX_PROBLEMS:
                break
            found.append(SchemaProblem(path=_pointer(error.instance_path), message=error.message[:500]))
        return found or (SchemaProblem(path="", message="the value does not meet the schema"),)


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in path)
