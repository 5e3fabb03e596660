"""Schemas of tool servers: bounded, never fetching, and problems that a model can mend."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decide.schema import MAX_PROBLEMS, SchemaError, compile_schema

DEFINITIONS = Path(
    os.environ.get("TOOL_DEFINITIONS", Path(__file__).parents[3] / "shared" / "tool-definitions" / "github.json")
)


@pytest.mark.rule("schema.no-fetch")
@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/x.json"},
        {"properties": {"a": {"$ref": "https://example.test/s"}}},
        {"$ref": "file:///etc/hostname"},
        {"allOf": [{"$dynamicRef": "http://127.0.0.1:9/y#z"}]},
        {"$schema": "http://127.0.0.1:9/dialect"},
    ],
)
def test_a_reference_out_of_the_schema_is_refused_and_nothing_is_fetched(schema: Any) -> None:
    with pytest.raises(SchemaError):
        compile_schema(schema)


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"pattern": "("}, [], "x", 3, {"properties": 1}, {"$ref": "#/nowhere"}]
)
def test_what_is_no_schema_is_refused_with_the_reason(schema: Any) -> None:
    with pytest.raises(SchemaError, match=r"\w+"):
        compile_schema(schema)


@pytest.mark.rule("schema.bounded")
@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)(a+)+$", r"^(a|a)*\1$"])
def test_a_hostile_pattern_costs_no_time(pattern: str) -> None:
    validator = compile_schema({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}})
    before = time.monotonic()
    assert validator.problems({"a": "a" * 50 + "!"})
    assert time.monotonic() - before < 1.0


@pytest.mark.rule("schema.bounded")
def test_a_schema_of_too_many_parts_is_refused() -> None:
    with pytest.raises(SchemaError, match="parts"):
        compile_schema({"anyOf": [{"const": n} for n in range(30_000)]})


@pytest.mark.rule("schema.bounded")
def test_a_schema_as_deep_as_the_parser_lets_through_is_compiled_or_refused() -> None:
    schema: Any = {"type": "string"}
    for _ in range(500):
        schema = {"allOf": [schema]}
    with contextlib.suppress(SchemaError):
        assert compile_schema(schema, undeclared="refuse").problems(1)


@pytest.mark.rule("schema.undeclared")
@pytest.mark.parametrize(
    ("schema", "value", "paths"),
    [
        ({"properties": {"path": {}}}, {"path": 1, "pth": 1}, ["/pth"]),
        ({"properties": {"path": {}}, "additionalProperties": True}, {"pth": 1}, []),
        ({"properties": {"path": {}}, "additionalProperties": {"type": "integer"}}, {"pth": 1}, []),
        ({"type": "object"}, {"anything": 1}, []),
        ({"allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}}, {"a": 1, "b": 1, "c": 1}, ["/c"]),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {}}}}}, {"a": 1, "z": 1}, ["/z"]),
        ({"properties": {"a": {}}, "patternProperties": {"^x-": {}}}, {"x-1": 1, "y": 1}, ["/y"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {}}}, {"b~/": 1}, ["/b~0~1"]),
    ],
)
def test_undeclared_arguments_are_refused_where_the_schema_names_any_and_says_nothing_of_others(
    schema: Any, value: Any, paths: list[str]
) -> None:
    assert [problem.path for problem in compile_schema(schema, undeclared="refuse").problems(value)] == paths
    assert not compile_schema(schema, undeclared="relay").problems(value)


def test_an_undeclared_argument_is_told_the_nearest_name() -> None:
    (problem,) = compile_schema({"properties": {"repo_path": {}}}, undeclared="refuse").problems({"repo_pth": 1})
    assert "did you mean 'repo_path'" in problem.message


def test_problems_name_each_place_and_end_at_twenty() -> None:
    validator = compile_schema({"type": "array", "items": {"type": "integer"}})
    problems = validator.problems(["x"] * 50)
    assert len(problems) == MAX_PROBLEMS
    assert problems[3].path == "/3"


def test_a_lone_surrogate_is_a_problem_and_no_crash() -> None:
    assert compile_schema({"type": "object", "properties": {"a": {"pattern": "^x"}}}).problems({"a": "\ud800"})


DRAFTS: list[tuple[str, Any]] = [
    ("http://json-schema.org/draft-07/schema#", jsonschema.Draft7Validator),
    ("https://json-schema.org/draft/2019-09/schema", jsonschema.Draft201909Validator),
    ("https://json-schema.org/draft/2020-12/schema", jsonschema.Draft202012Validator),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=6,
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer", "minimum": 0}, {"const": "a"}, {"enum": [1, "ab", None]}, True, {}]
    ),
    lambda inner: st.one_of(
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["a"]}, inner, inner),
        st.builds(lambda a: {"type": "array", "items": a}, inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        st.builds(lambda a: {"not": a}, inner),
        st.builds(lambda a: {"type": "object", "additionalProperties": a}, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, value=VALUES, draft=st.sampled_from(DRAFTS))
def test_the_verdict_agrees_with_the_reference_implementation_in_each_draft(
    schema: Any, value: Any, draft: Any
) -> None:
    dialect, reference = draft
    if isinstance(schema, dict):
        schema = {"$schema": dialect, **schema}
    assert bool(compile_schema(schema).problems(value)) is not reference(schema).is_valid(value)


def test_every_real_tool_definition_compiles() -> None:
    if not DEFINITIONS.exists():
        pytest.skip(f"needs the tool definitions at {DEFINITIONS} (or $TOOL_DEFINITIONS)")
    tools = json.loads(DEFINITIONS.read_text())["tools"]
    assert len(tools) > 100
    for definition in tools:
        validator = compile_schema(definition["inputSchema"], undeclared="refuse")
        required = definition["inputSchema"].get("required") or []
        assert len(validator.problems({})) == min(len(required), MAX_PROBLEMS) or not required
