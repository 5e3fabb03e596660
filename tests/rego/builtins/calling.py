"""Calls single builtins of the engine as the evaluator would, and writes values down as JSON."""

from __future__ import annotations

from typing import Any

from gateway.rego.builtins import registry
from gateway.rego.values import RegoSet, Value, json_text, number_from_text, number_text
from tests.rego.builtins.opa import UNDEFINED, Outcome

MODULES = (
    "aggregates",
    "arrays",
    "crypto",
    "encoding",
    "glob",
    "graph",
    "json",
    "jwt",
    "net",
    "numbers",
    "objects",
    "regex",
    "schemas",
    "semver",
    "sets",
    "strings",
    "time",
    "types",
    "units",
    "uri",
    "uuid",
    "yaml",
)


class OutOfSteps(Exception):
    """The budget is spent."""


class Context:
    """A query of its own, with a budget."""

    def __init__(self, *, steps: int = 1_000_000, time_ns: int | None = None, seed: str | int | None = None) -> None:
        self.steps = steps
        self.time_ns = time_ns
        self.seed = seed
        self.query_cache: dict[Any, Any] = {}
        self.printed: list[str] = []

    def charge(self, steps: int) -> None:
        assert steps >= 0
        self.steps -= steps
        if self.steps < 0:
            raise OutOfSteps

    def print(self, text: str) -> None:
        self.printed.append(text)


def call(name: str, arguments: list[Value], context: Context | None = None) -> Value:
    """The value that a builtin returns."""
    return registry.functions()[name](context or Context(), *arguments)


def outcome(name: str, arguments: list[Value], context: Context | None = None) -> Outcome:
    """The outcome of a call, in the words in which OPA's is written down."""
    try:
        value = call(name, arguments, context)
    except registry.UnsupportedError:
        return Outcome(error="unsupported")
    except registry.OperandError as error:
        return Outcome(error=f"eval_type_error: {name}: {error}")
    except registry.BuiltinError as error:
        return Outcome(error=f"eval_builtin_error: {name}: {error}")
    return Outcome(result=UNDEFINED if value is registry_undefined() else json_text(value))


def registry_undefined() -> Value:
    from gateway.rego.values import UNDEFINED as absent

    return absent


def encode(value: Value) -> Any:
    """A value as JSON data: numbers as `{"#": text}` unless they are ordinary integers, sets as `{"set": [...]}`."""
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, RegoSet):
        return {"set": [encode(item) for item in value]}
    if isinstance(value, dict):
        from gateway.rego.values import sorted_keys, unkey

        return {"object": [[encode(unkey(k)), encode(value[k])] for k in sorted_keys(value)]}
    if value is None or isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    return {"#": number_text(value)}


def decode(data: Any) -> Value:
    """The value that :func:`encode` wrote."""
    from gateway.rego.values import make_object

    if isinstance(data, list):
        return [decode(item) for item in data]
    if isinstance(data, dict):
        if "#" in data:
            return number_from_text(data["#"])
        if "set" in data:
            return RegoSet(decode(item) for item in data["set"])
        return make_object((decode(k), decode(v)) for k, v in data["object"])
    return data
