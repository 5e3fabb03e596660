"""JSON Schema drafts 4, 6 and 7 as gojsonschema validates them, with its errors: OPA's `json.match_schema`.

Schemas and documents are plain JSON data whose numbers are Rego's (:mod:`gateway.rego.values`). References are to the
schema itself (`#`, `#/definitions/x`); anything that would have to be fetched, or found by an identifier further down,
is refused. Where gojsonschema goes through an object in random order, this goes by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import re2

from gateway.rego.builtins.golang import netip, regexp, time, url
from gateway.rego.builtins.golang.fmt import json_float, shortest
from gateway.rego.builtins.golang.url import Mode, UrlError
from gateway.rego.values import json_text, number_text, to_decimal

Json = Any


class SchemaError(ValueError):
    """The schema is malformed; the message is gojsonschema's."""


class Unsupported(ValueError):
    """The schema is beyond what is validated here."""


_TYPES: Final = ("array", "boolean", "integer", "number", "null", "object", "string")
_HYBRID: Final = 1 << 31
_DRAFTS: Final = {f"http://json-schema.org/draft-0{number}/schema": number for number in (4, 6, 7)}
_ROOT: Final = "(Root)"


def _is_number(value: Json) -> bool:
    return not isinstance(value, (str, bool, list, dict)) and value is not None


def _fraction(value: Json) -> Fraction:
    return Fraction(to_decimal(value))


def _float_text(value: Fraction) -> str:
    """`fmt.Sprint(new(big.Float).SetRat(value))`."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 64:
        raise Unsupported("a limit is too exact to be shown")
    as_float = float(value)
    if Fraction(as_float) != value and len(shortest(as_float)[0]) > 15:
        raise Unsupported("a limit is too exact to be shown")
    digits, point = shortest(as_float)
    sign = "-" if value < 0 else ""
    if not digits:
        return "0"
    if point - 1 < -4 or point - 1 >= 6:
        if Fraction(as_float) == value and point > 17:
            raise Unsupported("a limit is too large to be shown")
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{'-' if point < 1 else '+'}{abs(point - 1):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if len(digits) <= point:
        return sign + digits + "0" * (point - len(digits))
    return f"{sign}{digits[:point]}.{digits[point:]}"


def _as_floats(value: Json) -> Json:
    """The value with its numbers as Go's `float64` writes them in JSON."""
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_floats(item) for name, item in value.items()}
    if not _is_number(value):
        return value
    try:
        as_float = float(number_text(value))
    except OverflowError:
        as_float = float("inf")
    if as_float in (float("inf"), float("-inf")):
        raise Unsupported("a number is beyond a float64")
    return as_float + 0.0 if as_float else 0.0


def canonical(value: Json) -> str:
    """`marshalWithoutNumber`: the JSON text by which constants and enumerations are compared."""
    return _FLOATS.sub(_json_float, json_text(_as_floats(value)))


_FLOATS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][-+.0-9eE]*')


def _json_float(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else json_float(float(text))


# Formats

_HOSTNAME: Final = re.compile(
    r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
_TEMPLATE: Final = re2.compile(r"([^{]*(\{[^}]*\})?)*")
_UUID: Final = re.compile(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", re.IGNORECASE | re.ASCII)
_POINTER: Final = re2.compile(r"(?:/(?:[^~/]|~0|~1)*)*")
_RELATIVE_POINTER: Final = re2.compile(r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~0|~1)*)*)")
_PLAIN_EMAIL: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
)


def _parses(text: str, *layouts: str) -> bool:
    for layout in layouts:
        try:
            time.parse(layout, text)
        except time.ParseError:
            continue
        return True
    return False


def _email(text: str) -> bool:
    if _PLAIN_EMAIL.fullmatch(text):
        return True
    if "@" not in text:
        return False
    raise Unsupported("an address that is not plainly one is not judged")


def _address(text: str, mark: str) -> bool:
    address = netip.parse_address(text)
    return address is not None and not address.zone and mark in text


def _url(text: str) -> url.Url | None:
    try:
        return None if "\\" in text else url.parse(text)
    except UrlError:
        return None


def _uri(text: str) -> bool:
    parsed = _url(text)
    return parsed is not None and parsed.scheme != ""


def _uri_template(text: str) -> bool:
    parsed = _url(text)
    return parsed is not None and _TEMPLATE.fullmatch(parsed.path.decode(errors="replace")) is not None


def _regex(text: str) -> bool:
    try:
        return regexp.is_valid(text)
    except regexp.Unsupported as error:
        raise Unsupported(str(error)) from None


_FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "date": lambda text: _parses(text, "2006-01-02"),
    "time": lambda text: _parses(text, "15:04:05Z07:00", "15:04:05"),
    "date-time": lambda text: _parses(
        text, "15:04:05", "15:04:05Z07:00", "2006-01-02", time.LAYOUTS["RFC3339"], time.LAYOUTS["RFC3339Nano"]
    ),
    "hostname": lambda text: _HOSTNAME.fullmatch(text) is not None and len(text) < 256,
    "email": _email,
    "idn-email": _email,
    "ipv4": lambda text: _address(text, "."),
    "ipv6": lambda text: _address(text, ":"),
    "uri": _uri,
    "iri": _uri,
    "uri-reference": lambda text: _url(text) is not None,
    "iri-reference": lambda text: _url(text) is not None,
    "uri-template": _uri_template,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "regex": _regex,
    "json-pointer": lambda text: _POINTER.fullmatch(text) is not None,
    "relative-json-pointer": lambda text: _RELATIVE_POINTER.fullmatch(text) is not None,
}


# Schemas


@dataclass(slots=True)
class Subschema:
    """A parsed schema."""

    name: str
    draft: int
    passes: bool | None = None
    """What a schema that is just true or false says."""
    reference: Subschema | None = None
    types: list[str] = field(default_factory=list)
    properties: list[Subschema] = field(default_factory=list)
    additional_properties: Subschema | bool | None = None
    pattern_properties: list[tuple[regexp.Regexp, Subschema]] = field(default_factory=list)
    property_names: Subschema | None = None
    dependencies: dict[str, list[str] | Subschema] = field(default_factory=dict)
    items: list[Subschema] = field(default_factory=list)
    single_items: bool = False
    additional_items: Subschema | bool | None = None
    contains: Subschema | None = None
    limits: dict[str, Fraction] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    pattern: tuple[str, regexp.Regexp] | None = None
    format: str = ""
    required: list[str] = field(default_factory=list)
    unique_items: bool = False
    constant: str | None = None
    enumeration: list[str] | None = None
    one_of: list[Subschema] = field(default_factory=list)
    any_of: list[Subschema] = field(default_factory=list)
    all_of: list[Subschema] = field(default_factory=list)
    negated: Subschema | None = None
    conditions: dict[str, Subschema] = field(default_factory=dict)

    def type_text(self) -> str:
        return self.types[0] if len(self.types) == 1 else f"[{','.join(self.types)}]"


def _invalid_type(expected: str, given: str) -> SchemaError:
    return SchemaError(f"Invalid type. Expected: {expected}, given: {given}")


def _is_schema(value: Json) -> bool:
    return isinstance(value, (dict, bool))


class _Reader:
    def __init__(self, document: Json) -> None:
        self.document = document
        self.references: dict[str, Subschema] = {}
        identified = list(_identified(document, root=True))
        self.root_id = document["$id"] if isinstance(document, dict) and isinstance(document.get("$id"), str) else ""
        self.nested_ids = any(identified)

    def read(self) -> Subschema:
        draft = self.detect()
        root = Subschema(_ROOT, _HYBRID if draft is None else draft)
        self.parse(self.document, root)
        return root

    def detect(self) -> int | None:
        document = self.document
        if isinstance(document, bool):
            return None
        if not isinstance(document, dict):
            raise SchemaError("schema is invalid")
        if "$schema" not in document:
            return None
        name = document["$schema"]
        if not isinstance(name, str):
            raise SchemaError("$schema must be of type string")
        self.check_url(name)
        return _DRAFTS.get(name.removesuffix("#"))

    def check_url(self, text: str) -> None:
        try:
            url.parse(text)
        except UrlError as error:
            raise SchemaError(str(error)) from None

    def text(self, node: dict[str, Json], name: str) -> str | None:
        if name not in node:
            return None
        if not isinstance(node[name], str):
            raise _invalid_type("string", name)
        found: str = node[name]
        return found

    def list(self, node: dict[str, Json], name: str) -> list[Json] | None:
        if name not in node:
            return None
        if not isinstance(node[name], list):
            raise SchemaError(f"{name} must be of an array")
        found: list[Json] = node[name]
        return found

    def child(self, node: Json, name: str, draft: int) -> Subschema:
        made = Subschema(name, draft)
        self.parse(node, made)
        return made

    def parse(self, node: Json, schema: Subschema) -> None:
        if schema.draft >= 6 and isinstance(node, bool):
            schema.passes = node
            return
        if not isinstance(node, dict):
            raise SchemaError("Expected: Valid Schema, given: Invalid JSON")
        draft = schema.draft
        key = "id" if draft == 4 or (draft == _HYBRID and "id" in node) else "$id"
        identifier = self.text(node, key)
        if identifier is not None:
            self.check_url(identifier)
        if "definitions" in node:
            definitions = node["definitions"]
            if not isinstance(definitions, dict):
                raise _invalid_type("Array Of Schemas", "definitions")
            for name in sorted(definitions):
                if not _is_schema(definitions[name]):
                    raise _invalid_type("Array Of Schemas", "definitions")
                self.child(definitions[name], "definitions", draft)
        self.text(node, "title")
        self.text(node, "description")
        reference = self.text(node, "$ref")
        if reference is not None:
            self.check_url(reference)
            if reference not in self.references:
                self.refer(reference, schema)
                return
            schema.reference = self.references[reference]
        self.parse_types(node, schema)
        self.parse_object(node, schema)
        self.parse_items(node, schema)
        self.parse_numbers(node, schema)
        self.parse_string(node, schema)
        self.parse_sizes(node, schema)
        self.parse_values(node, schema)
        self.parse_combined(node, schema)

    def refer(self, reference: str, schema: Subschema) -> None:
        made = Subschema("$ref", schema.draft)
        self.references[reference] = made
        target = self.resolve(reference)
        if not _is_schema(target):
            raise SchemaError("Valid Schema must be of type object")
        self.parse(target, made)
        schema.reference = made

    def resolve(self, reference: str) -> Json:
        base, _, fragment = reference.partition("#")
        if base and base != self.root_id.removesuffix("#"):
            raise Unsupported("references to other documents are not followed")
        if self.nested_ids:
            raise Unsupported("references beside identifiers further down are not followed")
        try:
            pointer = url.unescape(fragment.encode(), Mode.FRAGMENT).decode()
        except UrlError as error:
            raise SchemaError(f"parse {reference}: {error}") from None
        if pointer and not pointer.startswith("/"):
            raise Unsupported("references by name are not followed")
        node = self.document
        for token in pointer.split("/")[1:]:
            if isinstance(node, dict):
                name = token.replace("~1", "/").replace("~0", "~")
                if name not in node:
                    raise SchemaError(f"Object has no key '{name}'")
                node = node[name]
            elif isinstance(node, list):
                if not re.fullmatch(r"[-+]?[0-9]{1,18}", token):
                    raise SchemaError(f"Invalid array index '{token}'")
                if not 0 <= int(token) < len(node):
                    raise SchemaError(f"Out of bound array[0,{len(node)}] index '{int(token)}'")
                node = node[int(token)]
            else:
                raise SchemaError(f"Invalid token reference '{token}'")
        return node

    def parse_types(self, node: dict[str, Json], schema: Subschema) -> None:
        if "type" not in node:
            return
        given = node["type"]
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list):
            raise _invalid_type("type", "string/Array Of Strings")
        for name in names:
            if not isinstance(name, str):
                raise _invalid_type("type", "string/Array Of Strings")
            if name not in _TYPES:
                raise SchemaError(
                    f"has a primitive type that is NOT VALID -- given: /{name}/ "
                    f"Expected valid values are:[{' '.join(_TYPES)}]"
                )
            if name in schema.types:
                raise SchemaError(f"{name} type is duplicated")
            schema.types.append(name)

    def parse_object(self, node: dict[str, Json], schema: Subschema) -> None:
        draft = schema.draft
        if "properties" in node:
            properties = node["properties"]
            if not isinstance(properties, dict):
                raise SchemaError("Properties must be of type object")
            for name in sorted(properties):
                schema.properties.append(self.child(properties[name], name, draft))
        if "additionalProperties" in node:
            schema.additional_properties = self.more(node["additionalProperties"], "additionalProperties", draft)
        if "patternProperties" in node:
            patterns = node["patternProperties"]
            if not isinstance(patterns, dict):
                raise _invalid_type("Valid Schema", "patternProperties")
            for pattern in sorted(patterns):
                compiled = self.regexp(pattern, f"Invalid regex pattern '{pattern}'")
                schema.pattern_properties.append((compiled, self.child(patterns[pattern], pattern, draft)))
        if "propertyNames" in node and draft >= 6:
            if not _is_schema(node["propertyNames"]):
                raise _invalid_type("Valid Schema", "patternProperties")
            schema.property_names = self.child(node["propertyNames"], "propertyNames", draft)
        if "dependencies" in node:
            self.parse_dependencies(node["dependencies"], schema)

    def more(self, node: Json, name: str, draft: int) -> Subschema | bool:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise _invalid_type("boolean/Valid Schema", name)
        return self.child(node, name, draft)

    def regexp(self, pattern: str, problem: str) -> regexp.Regexp:
        try:
            return regexp.compile(pattern)
        except regexp.RegexpError:
            raise SchemaError(problem) from None
        except regexp.Unsupported as error:
            raise Unsupported(str(error)) from None

    def parse_dependencies(self, node: Json, schema: Subschema) -> None:
        if not isinstance(node, dict):
            raise SchemaError("dependencies must be of type object")
        problem = "Dependency must be of type Schema Or Array Of Strings"
        for name in sorted(node):
            value = node[name]
            if isinstance(value, list):
                if not all(isinstance(item, str) for item in value):
                    raise SchemaError(problem)
                if value:
                    schema.dependencies[name] = value
            elif _is_schema(value):
                schema.dependencies[name] = self.child(value, name, schema.draft)
            else:
                raise SchemaError(problem)

    def parse_items(self, node: dict[str, Json], schema: Subschema) -> None:
        if "items" in node:
            given = node["items"]
            schema.single_items = not isinstance(given, list)
            for item in given if isinstance(given, list) else [given]:
                if not _is_schema(item):
                    raise _invalid_type("Valid Schema/Array Of Schemas", "items")
                schema.items.append(self.child(item, "items", schema.draft))
        if "additionalItems" in node:
            schema.additional_items = self.more(node["additionalItems"], "additionalItems", schema.draft)

    def parse_numbers(self, node: dict[str, Json], schema: Subschema) -> None:
        if "multipleOf" in node:
            if not _is_number(node["multipleOf"]):
                raise _invalid_type("Number", "multipleOf")
            multiple = _fraction(node["multipleOf"])
            if multiple <= 0:
                raise SchemaError("multipleOf must be strictly greater than 0")
            schema.limits["multipleOf"] = multiple
        for name, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if name in node:
                if not _is_number(node[name]):
                    raise SchemaError(f"{name} must be of a Number")
                schema.limits[name] = _fraction(node[name])
            if exclusive in node:
                self.parse_exclusive(node[exclusive], name, exclusive, schema)

    def parse_exclusive(self, value: Json, name: str, exclusive: str, schema: Subschema) -> None:
        hybrid = schema.draft == _HYBRID
        if isinstance(value, bool) and (schema.draft == 4 or hybrid):
            if name not in schema.limits:
                raise SchemaError(f"{exclusive} cannot be used without {name}")
            if value:
                schema.limits[exclusive] = schema.limits.pop(name)
        elif schema.draft == 4:
            raise _invalid_type("boolean", exclusive)
        elif _is_number(value):
            schema.limits[exclusive] = _fraction(value)
        else:
            raise _invalid_type("boolean/number" if hybrid else "number", exclusive)

    def size(self, node: dict[str, Json], schema: Subschema, name: str) -> None:
        if name not in node:
            return
        value = node[name]
        if not _is_number(value) or not re.fullmatch(r"-?[0-9]+", number_text(value)) or abs(int(value)) >= 1 << 63:
            raise SchemaError(f"{name} must be of an integer")
        if value < 0:
            raise SchemaError(f"{name} must be greater than or equal to 0")
        schema.sizes[name] = int(value)

    def parse_string(self, node: dict[str, Json], schema: Subschema) -> None:
        self.size(node, schema, "minLength")
        self.size(node, schema, "maxLength")
        self.ordered(schema, "minLength", "maxLength")
        pattern = self.text(node, "pattern")
        if pattern is not None:
            schema.pattern = (pattern, self.regexp(pattern, "pattern must be a valid regex"))
        schema.format = self.text(node, "format") or ""

    def ordered(self, schema: Subschema, low: str, high: str) -> None:
        if low in schema.sizes and high in schema.sizes and schema.sizes[low] > schema.sizes[high]:
            raise SchemaError(f"{low} cannot be greater than {high}")

    def parse_sizes(self, node: dict[str, Json], schema: Subschema) -> None:
        self.size(node, schema, "minProperties")
        self.size(node, schema, "maxProperties")
        self.ordered(schema, "minProperties", "maxProperties")
        for name in self.list(node, "required") or []:
            if not isinstance(name, str):
                raise _invalid_type("string", "required")
            if name in schema.required:
                raise SchemaError("required items must be unique")
            schema.required.append(name)
        self.size(node, schema, "minItems")
        self.size(node, schema, "maxItems")
        if "uniqueItems" in node:
            if not isinstance(node["uniqueItems"], bool):
                raise SchemaError("uniqueItems must be of a boolean")
            schema.unique_items = node["uniqueItems"]
        if "contains" in node and schema.draft >= 6:
            schema.contains = self.child(node["contains"], "contains", schema.draft)

    def parse_values(self, node: dict[str, Json], schema: Subschema) -> None:
        if "const" in node and schema.draft >= 6:
            schema.constant = canonical(node["const"])
        values = self.list(node, "enum")
        if values is not None:
            schema.enumeration = []
            for value in values:
                text = canonical(value)
                if text in schema.enumeration:
                    raise SchemaError("enum items must be unique")
                schema.enumeration.append(text)

    def parse_combined(self, node: dict[str, Json], schema: Subschema) -> None:
        for name, into in (("oneOf", schema.one_of), ("anyOf", schema.any_of), ("allOf", schema.all_of)):
            into.extend(self.child(item, name, schema.draft) for item in self.list(node, name) or [])
        for name in ("not", "if", "then", "else"):
            if name not in node or (name != "not" and schema.draft < 7):
                continue
            if not _is_schema(node[name]):
                raise SchemaError(f"{name} must be of an object")
            made = self.child(node[name], name, schema.draft)
            if name == "not":
                schema.negated = made
            else:
                schema.conditions[name] = made


def _identified(node: Json, *, root: bool = False) -> Iterator[bool]:
    """True for every part of a schema, below its root, that has an identifier."""
    if isinstance(node, list):
        for item in node:
            yield from _identified(item)
    elif isinstance(node, dict):
        if not root:
            yield isinstance(node.get("$id"), str) or isinstance(node.get("id"), str)
        elif isinstance(node.get("id"), str):
            yield True
        for name, value in node.items():
            if name in ("const", "enum"):
                continue
            if name in ("properties", "dependencies", "patternProperties") and isinstance(value, dict):
                for item in value.values():
                    yield from _identified(item)
            else:
                yield from _identified(value)


def compile(document: Json) -> Subschema:
    """A schema, read. Raises SchemaError or Unsupported."""
    return _Reader(document).read()


# Validation


@dataclass(frozen=True, slots=True)
class Failure:
    """Something a document does not fulfil."""

    kind: str
    field: str
    description: str

    def text(self) -> str:
        return f"{self.field}: {self.description}"


class _Result:
    __slots__ = ("failures", "score")

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.score = 0

    def add(self, kind: str, context: str, description: str) -> None:
        place = context.removeprefix(_ROOT + ".")
        self.failures.append(Failure(kind, place, description.replace("{field}", place)))
        self.score -= 2

    def merge(self, other: _Result) -> None:
        self.failures.extend(other.failures)
        self.score += other.score


class _Validator:
    def __init__(self, charge: Callable[[int], None]) -> None:
        self.charge = charge

    def apart(self, schema: Subschema, node: Json, context: str) -> _Result:
        result = _Result()
        self.validate(schema, node, result, context)
        return result

    def validate(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        self.charge(1)
        if schema.passes is not None:
            if not schema.passes:
                result.add("false", context, "False always fails validation")
            return
        if schema.reference is not None:
            self.validate(schema.reference, node, result, context)
            return
        kind = _kind(node)
        if schema.types and kind not in schema.types and not (kind == "integer" and "number" in schema.types):
            expected = schema.type_text()
            result.add("invalid_type", context, f"Invalid type. Expected: {expected}, given: {kind}")
            return
        self.combined(schema, node, result, context)
        if kind in ("integer", "number"):
            self.number(schema, node, result, context)
        elif kind == "array":
            self.array(schema, node, result, context)
        elif kind == "object":
            self.object(schema, node, result, context)
        self.common(schema, node, result, context)
        if kind == "string":
            self.string(schema, node, result, context)
        elif kind == "object":
            for child in schema.properties:
                if child.name in node:
                    self.validate(child, node[child.name], result, f"{context}.{child.name}")
        result.score += 1

    def combined(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        if schema.any_of:
            best: _Result | None = None
            for option in schema.any_of:
                tried = self.apart(option, node, context)
                if not tried.failures:
                    break
                if best is None or tried.score > best.score:
                    best = tried
            else:
                result.add("number_any_of", context, "Must validate at least one schema (anyOf)")
                if best is not None:
                    result.merge(best)
        if schema.one_of:
            self.one_of(schema, node, result, context)
        if schema.all_of:
            passed = 0
            for option in schema.all_of:
                tried = self.apart(option, node, context)
                passed += not tried.failures
                result.merge(tried)
            if passed != len(schema.all_of):
                result.add("number_all_of", context, "Must validate all the schemas (allOf)")
        if schema.negated is not None and not self.apart(schema.negated, node, context).failures:
            result.add("number_not", context, "Must not validate the schema (not)")
        if schema.dependencies and isinstance(node, dict):
            self.dependencies(schema, node, result, context)
        if "if" in schema.conditions:
            self.conditions(schema, node, result, context)
        result.score += 1

    def one_of(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        best: _Result | None = None
        passed = 0
        for option in schema.one_of:
            tried = self.apart(option, node, context)
            if not tried.failures:
                passed += 1
            elif passed == 0 and (best is None or tried.score > best.score):
                best = tried
        if passed != 1:
            result.add("number_one_of", context, "Must validate one and only one schema (oneOf)")
            if passed == 0 and best is not None:
                result.merge(best)

    def dependencies(self, schema: Subschema, node: dict[str, Json], result: _Result, context: str) -> None:
        for name in sorted(node):
            dependency = schema.dependencies.get(name)
            if isinstance(dependency, list):
                for wanted in dependency:
                    if wanted not in node:
                        result.add("missing_dependency", context, f"Has a dependency on {wanted}")
            elif dependency is not None:
                self.validate(dependency, node, result, context)

    def conditions(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        met = not self.apart(schema.conditions["if"], node, context).failures
        name = "then" if met else "else"
        branch = schema.conditions.get(name)
        if branch is None:
            return
        tried = self.apart(branch, node, context)
        if tried.failures:
            was = "was" if met else "was not"
            result.add(f"condition_{name}", context, f'Must validate "{name}" as "if" {was} valid')
            result.merge(tried)

    def common(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        if schema.constant is not None and canonical(node) != schema.constant:
            result.add("const", context, "{field} does not match: " + schema.constant)
        if schema.enumeration is not None and canonical(node) not in schema.enumeration:
            allowed = ", ".join(schema.enumeration)
            result.add("enum", context, "{field} must be one of the following: " + allowed)
        if schema.format in _FORMATS and isinstance(node, str) and not _FORMATS[schema.format](node):
            result.add("format", context, f"Does not match format '{schema.format}'")
        result.score += 1

    def number(self, schema: Subschema, node: Json, result: _Result, context: str) -> None:
        value, limits = _fraction(node), schema.limits
        if "multipleOf" in limits and (value / limits["multipleOf"]).denominator != 1:
            result.add("multiple_of", context, f"Must be a multiple of {_float_text(limits['multipleOf'])}")
        if "maximum" in limits and value > limits["maximum"]:
            result.add("number_lte", context, f"Must be less than or equal to {_float_text(limits['maximum'])}")
        if "exclusiveMaximum" in limits and value >= limits["exclusiveMaximum"]:
            result.add("number_lt", context, f"Must be less than {_float_text(limits['exclusiveMaximum'])}")
        if "minimum" in limits and value < limits["minimum"]:
            result.add("number_gte", context, f"Must be greater than or equal to {_float_text(limits['minimum'])}")
        if "exclusiveMinimum" in limits and value <= limits["exclusiveMinimum"]:
            result.add("number_gt", context, f"Must be greater than {_float_text(limits['exclusiveMinimum'])}")
        result.score += 1

    def string(self, schema: Subschema, node: str, result: _Result, context: str) -> None:
        sizes = schema.sizes
        if "minLength" in sizes and len(node) < sizes["minLength"]:
            message = f"String length must be greater than or equal to {sizes['minLength']}"
            result.add("string_gte", context, message)
        if "maxLength" in sizes and len(node) > sizes["maxLength"]:
            result.add("string_lte", context, f"String length must be less than or equal to {sizes['maxLength']}")
        if schema.pattern is not None and not _matches(schema.pattern[1], node):
            result.add("pattern", context, f"Does not match pattern '{schema.pattern[0]}'")
        result.score += 1

    def array(self, schema: Subschema, node: list[Json], result: _Result, context: str) -> None:
        if schema.single_items:
            for at, item in enumerate(node):
                result.merge(self.apart(schema.items[0], item, f"{context}.{at}"))
        elif schema.items:
            for at, (child, item) in enumerate(zip(schema.items, node, strict=False)):
                result.merge(self.apart(child, item, f"{context}.{at}"))
            if len(schema.items) < len(node):
                if schema.additional_items is False:
                    result.add("array_no_additional_items", context, "No additional items allowed on array")
                elif isinstance(schema.additional_items, Subschema):
                    for at in range(len(schema.items), len(node)):
                        result.merge(self.apart(schema.additional_items, node[at], f"{context}.{at}"))
        sizes = schema.sizes
        if "minItems" in sizes and len(node) < sizes["minItems"]:
            result.add("array_min_items", context, f"Array must have at least {sizes['minItems']} items")
        if "maxItems" in sizes and len(node) > sizes["maxItems"]:
            result.add("array_max_items", context, f"Array must have at most {sizes['maxItems']} items")
        if schema.unique_items:
            seen: dict[str, int] = {}
            for at, item in enumerate(node):
                text = canonical(item)
                if text in seen:
                    result.add("unique", context, f"array items[{seen[text]},{at}] must be unique")
                seen[text] = at
        if schema.contains is not None:
            self.contains(schema.contains, node, result, context)
        result.score += 1

    def contains(self, schema: Subschema, node: list[Json], result: _Result, context: str) -> None:
        best: _Result | None = None
        for at, item in enumerate(node):
            tried = self.apart(schema, item, f"{context}.{at}")
            if not tried.failures:
                return
            if best is None or tried.score > best.score:
                best = tried
        result.add("contains", context, "At least one of the items must match")
        if best is not None:
            result.merge(best)

    def object(self, schema: Subschema, node: dict[str, Json], result: _Result, context: str) -> None:
        sizes = schema.sizes
        if "minProperties" in sizes and len(node) < sizes["minProperties"]:
            message = f"Must have at least {sizes['minProperties']} properties"
            result.add("array_min_properties", context, message)
        if "maxProperties" in sizes and len(node) > sizes["maxProperties"]:
            message = f"Must have at most {sizes['maxProperties']} properties"
            result.add("array_max_properties", context, message)
        for name in schema.required:
            if name in node:
                result.score += 1
            else:
                result.add("required", context, f"{name} is required")
        described = {child.name for child in schema.properties}
        for name in sorted(node):
            matched = self.pattern_property(schema, name, node[name], result, context)
            if name in described or matched:
                continue
            more = schema.additional_properties
            if more is False:
                message = f"Additional property {name} is not allowed"
                result.add("additional_property_not_allowed", context, message)
            elif isinstance(more, Subschema):
                result.merge(self.apart(more, node[name], f"{context}.{name}"))
        if schema.property_names is not None:
            for name in sorted(node):
                tried = self.apart(schema.property_names, name, context)
                if tried.failures:
                    result.add("invalid_property_name", context, f'Property name of "{name}" does not match')
                    result.merge(tried)
        result.score += 1

    def pattern_property(self, schema: Subschema, name: str, value: Json, result: _Result, context: str) -> bool:
        matched = False
        for pattern, child in schema.pattern_properties:
            if _matches(pattern, name):
                matched = True
                result.merge(self.apart(child, value, f"{context}.{name}"))
        result.score += matched
        return matched


def _matches(pattern: regexp.Regexp, text: str) -> bool:
    try:
        return pattern.match(text)
    except regexp.Unsupported as error:
        raise Unsupported(str(error)) from None


def _kind(node: Json) -> str:
    if node is None:
        return "null"
    if isinstance(node, bool):
        return "boolean"
    if isinstance(node, str):
        return "string"
    if isinstance(node, list):
        return "array"
    if isinstance(node, dict):
        return "object"
    return "integer" if _fraction(node).denominator == 1 else "number"


def validate(schema: Subschema, document: Json, charge: Callable[[int], None]) -> list[Failure]:
    """What the document does not fulfil. Raises Unsupported."""
    return _Validator(charge).apart(schema, document, _ROOT).failures
