"""What holds of every module and every value."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.rego import CompileError, EvalError, RegoSet, compile_modules, numeric
from gateway.rego.literals import literal_value
from gateway.rego.parser import parse_module, parse_term
from gateway.rego.printer import module_text, term_text
from gateway.rego.values import (
    compare,
    equal,
    from_json,
    key,
    number_from_text,
    number_text,
    sort_values,
    to_json,
    to_rego,
    unkey,
)
from tests.rego.fuzz import Trial, judge, opa_server, trials

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
)  # fmt: skip
numbers = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=6).map(lambda d: number_from_text(str(d).replace("E+", "e"))),
)  # fmt: skip


def rego_values(leaves: Any = scalars) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(RegoSet),
            st.lists(st.tuples(inner, inner), max_size=3).map(lambda pairs: {key(k): v for k, v in pairs}),
        ),
        max_leaves=12,
    )


@pytest.mark.rule("rego.round-trip")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(trials())
def test_a_printed_module_parses_to_the_same_module(trial: Trial) -> None:
    try:
        parsed = parse_module(trial.module, "a.rego")
    except CompileError:
        return
    printed = module_text(parsed)
    assert module_text(parse_module(printed, "a.rego")) == printed


@pytest.mark.rule("rego.round-trip")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trials())
def test_a_printed_module_decides_like_the_original(trial: Trial) -> None:
    def answer(source: str) -> Any:
        try:
            policy = compile_modules(
                {"a.rego": source}, {"base": trial.data}, strict=False, strict_builtin_errors=False
            )
        except CompileError as error:
            return sorted({problem.code for problem in error.errors})
        try:
            return policy.query("x = data.fuzz", trial.input)
        except EvalError as error:
            return error.code

    try:
        parse_module(trial.module, "a.rego")
    except CompileError:
        return
    assert answer(trial.module) == answer(module_text(parse_module(trial.module, "a.rego")))


@pytest.mark.rule("rego.values")
@given(rego_values(), rego_values(), rego_values())
def test_values_are_totally_ordered(a: Any, b: Any, c: Any) -> None:
    assert compare(a, b) == -compare(b, a)
    assert (compare(a, b) == 0) == equal(a, b) == (key(a) == key(b))
    if equal(a, b):
        assert hash(key(a)) == hash(key(b))
    if compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0


@pytest.mark.rule("rego.values")
@given(st.lists(rego_values(), max_size=6))
def test_sorting_gives_the_same_order_whatever_the_start(values: list[Any]) -> None:
    forwards, backwards = sort_values(values), sort_values(list(reversed(values)))
    assert all(equal(a, b) for a, b in zip(forwards, backwards, strict=True))


@pytest.mark.rule("rego.values")
@given(rego_values())
def test_a_value_is_what_its_rego_text_says(value: Any) -> None:
    assert equal(literal_value(parse_term(_source(value))), value)
    assert equal(unkey(key(value)), value)


def _source(value: Any) -> str:
    """Rego source for a value (`to_rego` escapes like Go, which the parser does not read)."""
    match value:
        case str():
            return json.dumps(value)
        case list():
            return "[" + ", ".join(map(_source, value)) + "]"
        case RegoSet():
            return "{" + ", ".join(map(_source, value)) + "}" if len(value) else "set()"
        case dict():
            return "{" + ", ".join(f"{_source(unkey(k))}: {_source(v)}" for k, v in value.items()) + "}"
        case _:
            return to_rego(value)


@pytest.mark.rule("rego.values")
@given(rego_values(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4))))
def test_json_of_a_value_is_plain_data(value: Any) -> None:
    plain = to_json(value)
    assert equal(from_json(json.loads(json.dumps(plain))), from_json(plain))


@pytest.mark.rule("rego.numbers")
@given(numbers, numbers)
def test_arithmetic_is_exact_on_integers_and_close_on_the_rest(a: Any, b: Any) -> None:
    exact = Fraction(number_text(a)) + Fraction(number_text(b))
    found = Fraction(number_text(numeric.add(a, b)))
    if Fraction(number_text(a)).denominator == Fraction(number_text(b)).denominator == 1:
        assert found == exact
    else:
        largest = max(abs(Fraction(number_text(a))), abs(Fraction(number_text(b))))
        assert abs(found - exact) <= largest / 2**61


@pytest.mark.rule("rego.numbers")
@given(numbers)
def test_the_text_of_a_number_is_the_number(number: Any) -> None:
    assert equal(number_from_text(number_text(number)), number)


@pytest.mark.rule("rego.evaluator")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=6), st.integers(-3, 3))
def test_comprehensions_every_and_rules_agree_with_python(xs: list[int], limit: int) -> None:
    answer = compile_modules(
        {
            "a.rego": "package a\n\n"
            "array := [x | some x in input.xs; x > input.limit]\n"
            "members := {x | some x in input.xs}\n"
            "object := {x: y | some x in members; y := count([1 | some z in input.xs; z == x])}\n"
            "above if every x in input.xs { x > input.limit }\n"
            "none if not any_above\n"
            "any_above if { some x in input.xs; x > input.limit }\n"
            "partial contains x if { some x in input.xs; not x in {0, 1} }\n"
            "total := sum(input.xs)\n"
        }
    ).query("x = data.a", {"xs": xs, "limit": limit})[0]["x"]
    assert answer["array"] == [x for x in xs if x > limit]
    assert answer["members"] == sorted(set(xs))
    assert answer["object"] == {str(x): xs.count(x) for x in set(xs)}
    assert ("above" in answer) == all(x > limit for x in xs)
    assert ("none" in answer) == (not any(x > limit for x in xs))
    assert answer["partial"] == sorted({x for x in xs if x not in (0, 1)})
    assert answer["total"] == sum(xs)


@pytest.mark.slow
@pytest.mark.rule("rego.fuzz")
def test_made_up_policies_get_the_same_answers_from_opa(opa: str) -> None:
    with opa_server() as server:

        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(trials())
        def check(trial: Trial) -> None:
            assert not judge(server, trial)

        check()


def test_terms_print_as_opa_prints_them() -> None:
    for text in (
        '{"a": [1, {2}], "b": set()}',
        'input.x["a b"][y]',
        "[x | x := 1; not y]",
        "f(a, 1 + 2)",
        "{x: y | x = y}",
    ):
        assert term_text(parse_term(text)) in (text, text.replace("1 + 2", "(1 + 2)"))
