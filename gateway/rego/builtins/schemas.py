"""JSON Schema: `json.match_schema`, `json.verify_schema`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gateway.rego.builtins.golang import json, jsonschema
from gateway.rego.builtins.operands import charge_text, string, unicode_text
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import Value, json_text


class _Invalid(ValueError):
    """What is given is neither JSON nor a JSON document."""


def _document(ctx: BuiltinContext, value: Value) -> str:
    """The JSON text of an argument, which is one itself, or an object or array."""
    if type(value) is str:
        charge_text(ctx, 4 * len(value))
        try:
            if not json.is_valid(string(value, 1)):
                raise _Invalid("invalid JSON string")
        except json.Unsupported as error:
            raise UnsupportedError(str(error)) from None
        return value
    if type(value) is dict or type(value) is list:
        text = unicode_text(json_text(value))
        charge_text(ctx, 4 * len(text))
        return text
    raise _Invalid("wrong type, expected string or object")


def _decode(text: str) -> Any:
    try:
        return json.decode(text)
    except json.Unsupported as error:
        raise UnsupportedError(str(error)) from None


@lru_cache(maxsize=128)
def _compiled(text: str) -> jsonschema.Subschema:
    try:
        return jsonschema.compile(_decode(text))
    except jsonschema.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    except RecursionError:
        raise UnsupportedError("the schema nests too deeply") from None


@builtin("json.verify_schema")
def json_verify_schema(ctx: BuiltinContext, schema: Value) -> Value:
    try:
        _compiled(_document(ctx, schema))
    except (_Invalid, jsonschema.SchemaError) as error:
        return [False, f"jsonschema: {error}"]
    return [True, None]


@builtin("json.match_schema")
def json_match_schema(ctx: BuiltinContext, document: Value, schema: Value) -> Value:
    try:
        instance = _document(ctx, document)
        compiled = _compiled(_document(ctx, schema))
    except (_Invalid, jsonschema.SchemaError) as error:
        raise BuiltinError(str(error)) from None
    try:
        failures = jsonschema.validate(compiled, _decode(instance), ctx.charge)
    except jsonschema.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    except RecursionError:
        # A schema that refers to itself without going down in the document ends OPA's process.
        raise UnsupportedError("the schema or the document nests too deeply") from None
    described = [
        {"error": one.text(), "type": one.kind, "field": one.field, "desc": one.description} for one in failures
    ]
    return [not failures, described]
