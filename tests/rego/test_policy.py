"""The public API: questions, answers, bounds, and looking inside."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from gateway.rego import UNDEFINED, CompileError, Coverage, EvalError, Policy, compile_modules


def policy(source: str, **options: Any) -> Policy:
    return compile_modules({"a.rego": source}, **options)


@pytest.mark.rule("rego.query")
def test_a_query_gives_the_bindings_of_every_solution() -> None:
    rows = policy("package a\n\np contains x if some x in input.xs\n").query("data.a.p[x]; y := x + 1", {"xs": [2, 1]})
    assert rows == [{"x": 1, "y": 2}, {"x": 2, "y": 3}]


@pytest.mark.rule("rego.query")
def test_a_query_without_solutions_gives_none_and_without_variables_an_empty_one() -> None:
    asked = policy("package a\n\np := 1\n")
    assert asked.query("data.a.p == 2") == [] or asked.query("data.a.p = 2") == []
    assert asked.query("data.a.p = 1") == [{}]


@pytest.mark.rule("rego.input-term")
def test_input_can_be_rego_text() -> None:
    asked = policy("package a\n\np if input.xs == {1, 2}\n")
    assert asked.query("data.a.p = x", input_term='{"xs": {2, 1}}') == [{"x": True}]


@pytest.mark.rule("rego.decide")
def test_a_decision_is_plain_json_with_sets_sorted() -> None:
    decide = policy('package a\n\np contains x if some x in ["b", "a"]\np contains input.c\n').prepare("data.a.p")
    assert decide({"c": "c"}) == ["a", "b", "c"]
    assert decide({}) == ["a", "b"]


@pytest.mark.rule("rego.undefined")
def test_an_undefined_decision_is_undefined_and_not_false() -> None:
    decide = policy("package a\n\np if input.x\nq := false\n").prepare("data.a.p")
    assert decide({}) is UNDEFINED
    assert decide() is UNDEFINED
    with pytest.raises(TypeError):
        bool(decide({}))


@pytest.mark.rule("rego.decide")
def test_packages_and_paths_into_documents_can_be_prepared() -> None:
    asked = policy('package a.b\n\np := {"q": [1, 2]}\nf(x) := x\n', data={"a": {"c": 3}})
    assert asked.prepare("data.a")({}) == {"b": {"p": {"q": [1, 2]}}, "c": 3}
    assert asked.prepare("data.a.b.p.q[1]")({}) == 2
    assert asked.prepare("data.a.c")({}) == 3
    assert asked.prepare("data.nothing")({}) is UNDEFINED


@pytest.mark.rule("rego.injection")
@pytest.mark.parametrize(
    "path", ['/etc/passwd"}],"effect":"allow","deny":[],"z":[{"m":"', "a\\b", "a\nb", "a\0b", "\U0001f600", "é{}%s"]
)
def test_an_argument_echoed_in_a_message_cannot_change_the_decision(path: str) -> None:
    decide = policy(
        "package a\n\n"
        'decision := {"allow": allow, "deny": deny}\n'
        "default allow := false\n"
        'deny contains {"m": msg} if { not startswith(input.path, "/srv/"); msg := sprintf("no %s", [input.path]) }\n'
        'deny contains {"m": $"no {upper(input.path)} %s"}\n'
    ).prepare("data.a.decision")
    answer = decide({"path": path})
    assert answer["allow"] is False
    assert {"m": f"no {path}"} in answer["deny"]
    assert len(answer["deny"]) == 2


@pytest.mark.rule("rego.linear-regex")
def test_catastrophic_patterns_are_instant_and_flags_work() -> None:
    asked = policy('package a\n\np if regex.match("(a+)+$", input.x)\nq if regex.match("(?i)select", input.x)\n')
    started = time.monotonic()
    assert asked.prepare("data.a.p")({"x": "a" * 5000 + "!"}) is UNDEFINED
    assert time.monotonic() - started < 1
    assert asked.prepare("data.a.q")({"x": "SeLeCt"}) is True


@pytest.mark.rule("rego.deadline")
def test_an_endless_rule_meets_its_deadline() -> None:
    decide = policy(
        "package a\n\nxs := numbers.range(1, 3000)\n"
        "p if { some a in xs; some b in xs; some c in xs; a + b + c == -1 }\n"
    ).prepare("data.a.p")
    started = time.monotonic()
    with pytest.raises(EvalError) as caught:
        decide({}, deadline=started + 0.2)
    assert caught.value.code == "eval_cancel_error"
    assert time.monotonic() - started < 2


@pytest.mark.rule("rego.budget")
def test_the_step_budget_bounds_an_evaluation() -> None:
    decide = policy("package a\n\np := count([1 | some a in input.xs; some b in input.xs; a < b])\n").prepare(
        "data.a.p"
    )
    question = {"xs": list(range(100))}
    assert decide(question, max_steps=20_000) == 4950
    with pytest.raises(EvalError) as caught:
        decide(question, max_steps=500)
    assert caught.value.code == "eval_budget_error"


@pytest.mark.rule("rego.deep-data")
def test_deep_documents_are_an_error_and_not_a_crash() -> None:
    deep: Any = []
    other: Any = []
    for _ in range(100_000):
        deep, other = [deep], [other]
    decide = policy("package a\n\np if input.x == input.y\nq contains input.x\n").prepare("data.a")
    with pytest.raises(EvalError) as caught:
        decide({"x": deep, "y": other})
    assert caught.value.code == "eval_internal_error"
    for made in (deep, other):
        while made:  # Python itself cannot free such a list in one go on every version
            made = made.pop()


@pytest.mark.rule("rego.deep-policy")
@pytest.mark.parametrize(
    "text", ["[" * 5000 + "]" * 5000, "(" * 5000 + "1" + ")" * 5000, "-" * 5000 + "1", "1" + "+1" * 5000]
)
def test_deep_policies_are_an_error_and_not_a_crash(text: str) -> None:
    with contextlib.suppress(CompileError, EvalError):
        policy(f"package a\n\np := {text}\n").prepare("data.a.p")({})


@pytest.mark.rule("rego.time")
def test_time_comes_from_the_caller() -> None:
    decide = policy("package a\n\np := time.now_ns()\n").prepare("data.a.p")
    assert decide({}, time_ns=5) == 5
    with pytest.raises(EvalError) as caught:
        decide({})
    assert caught.value.code == "eval_builtin_error"


@pytest.mark.rule("rego.builtin-errors")
def test_builtin_errors_are_errors_or_undefined_as_asked() -> None:
    source = "package a\n\np := 1 / input.x\n"
    with pytest.raises(EvalError) as caught:
        policy(source).prepare("data.a.p")({"x": 0})
    error = caught.value
    assert (error.code, error.message, error.file, error.line, error.column) == (
        "eval_builtin_error", "div: divide by zero", "a.rego", 3, 6,
    )  # fmt: skip
    assert policy(source, strict_builtin_errors=False).prepare("data.a.p")({"x": 0}) is UNDEFINED


@pytest.mark.rule("rego.print")
def test_print_goes_to_the_callers_sink() -> None:
    lines: list[str] = []
    decide = policy('package a\n\np if { print("x is", input.x, input.nope); true }\n').prepare("data.a.p")
    assert decide({"x": {"b": 1}}, on_print=lines.append) is True
    assert lines == ['x is {"b": 1} <undefined>']
    assert decide({"x": 1}) is True


@pytest.mark.rule("rego.with-data")
def test_data_is_replaced_without_compiling_again() -> None:
    first = policy("package a\n\np := data.roles[input.role]\n", data={"roles": {"a": 1}})
    second = first.with_data({"roles": {"a": 2}})
    assert (first.prepare("data.a.p")({"role": "a"}), second.prepare("data.a.p")({"role": "a"})) == (1, 2)
    assert first.revision != second.revision
    assert first.revision == second.with_data({"roles": {"a": 1}}).revision


@pytest.mark.rule("rego.true-is-not-one")
def test_true_is_not_one_anywhere() -> None:
    rows = policy(
        "package a\n\n"
        'p := {1: "one", true: "true", 0: "zero", false: "false"}\n'
        "q := {1, true, 1.0, 0, false}\n"
        "r := [x | some x in [1, true, [1], [true]]; x == input.x]\n"
    ).query("data.a = x", {"x": [True]})
    assert rows == [
        {
            "x": {
                "p": {"1": "one", "true": "true", "0": "zero", "false": "false"},
                "q": [False, True, 0, 1],
                "r": [[True]],
            }
        }
    ]


@pytest.mark.rule("rego.coverage")
def test_coverage_says_which_lines_ran() -> None:
    coverage = Coverage()
    decide = policy("package a\n\np if {\n\tinput.x\n\tinput.y\n}\n\nq := 1\n").prepare("data.a.p")
    decide({"x": False}, coverage=coverage)
    report = coverage.report()
    assert report["files"]["a.rego"]["covered"] == [{"start": {"row": 4}, "end": {"row": 4}}]
    assert report["files"]["a.rego"]["not_covered"] == [
        {"start": {"row": 3}, "end": {"row": 3}}, {"start": {"row": 5}, "end": {"row": 5}}, {"start": {"row": 8}, "end": {"row": 8}},
    ]  # fmt: skip


@pytest.mark.rule("rego.reachable")
def test_rules_that_no_entry_point_reaches_are_found() -> None:
    asked = policy(
        'package a\n\ndecision := {"allow": allow, "deny": deny}\n'
        "default allow := false\nallow if helper\nhelper if input.x\n"
        "deny contains 1 if input.y\ndney contains 2 if input.y\n"
    )
    everything = {rule.path for rule in asked.rules()}
    assert everything - asked.reachable(["data.a.decision"]) == {"data.a.dney"}


@pytest.mark.rule("rego.nondeterministic")
def test_calls_that_depend_on_the_caller_are_listed() -> None:
    found = policy("package a\n\np := time.now_ns()\n").nondeterministic_builtins()
    assert {name: [loc.row for loc in places] for name, places in found.items()} == {"time.now_ns": [3]}


@pytest.mark.rule("rego.order")
def test_the_order_of_documents_does_not_depend_on_the_order_of_input() -> None:
    decide = policy("package a\n\np := [k | some k, _ in input]\nq := [x | some x in {3, 1, 2}]\n").prepare("data.a")
    assert decide({"b": 1, "a": 2}) == decide({"a": 2, "b": 1}) == {"p": ["a", "b"], "q": [1, 2, 3]}


@pytest.mark.rule("rego.with")
def test_with_replaces_input_data_and_functions_for_one_expression() -> None:
    source = """package a

import data.roles

f(x) := x + 1
p if input.x == 1
q := roles.a
results := {
	"input": [y | y := p with input as {"x": 1}],
	"path": [y | y := p with input.x as 1],
	"data": [y | y := q with data.roles as {"a": 2}],
	"rule": [y | y := q with data.a.q as 3],
	"function": [y | y := f(1) with f as 5],
	"builtin": [y | y := count([1]) with count as 7],
	"replaced": [y | y := f(1) with f as g],
	"after": [y | z := f(1) with f as 5; y := f(z)],
}
g(x) := x * 100
"""
    assert policy(source, data={"roles": {"a": 1}}).prepare("data.a.results")({}) == {
        "input": [True], "path": [True], "data": [2], "rule": [3], "function": [5], "builtin": [7], "replaced": [100], "after": [6],
    }  # fmt: skip
