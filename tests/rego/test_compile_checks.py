"""What does not load, and why: against what `opa check --strict` said of the same modules."""

from __future__ import annotations

import shutil

import pytest

from gateway.rego import CompileError, compile_modules
from tests.rego.compile_cases import CompileCase, ask_opa, engine_errors, expected, read_cases

STRICTER = {
    # OPA erases calls of print, and the `with` on them, before it looks at either.
    "with: void",
}
CASES = read_cases()


@pytest.mark.rule("rego.compile-checks")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_modules_are_refused_as_by_opa_check_strict(case: CompileCase) -> None:
    ours = engine_errors(case.modules)
    theirs = expected()[case.name]
    if case.name in STRICTER:
        assert ours
        assert not theirs
        return
    assert {(e.file, e.row, e.code) for e in ours} == {(e.file, e.row, e.code) for e in theirs}


@pytest.mark.rule("rego.compile-messages")
def test_nearly_all_messages_and_columns_are_opas() -> None:
    recorded = expected()
    same = sum(set(engine_errors(case.modules)) <= set(recorded[case.name]) for case in CASES)
    assert same >= len(CASES) - 8


@pytest.mark.slow
def test_the_recorded_errors_are_what_this_opa_says(opa: str) -> None:
    assert shutil.which("opa") == opa
    recorded = expected()
    differing = {
        name
        for name, errors in ask_opa(CASES).items()
        if {(e.row, e.code) for e in errors} != {(e.row, e.code) for e in recorded[name]}
    }
    assert not differing


@pytest.mark.rule("rego.typo-under-not")
def test_a_typo_under_not_does_not_load() -> None:
    with pytest.raises(CompileError) as caught:
        compile_modules({"a.rego": "package a\n\nallow if not typo\n"})
    error = caught.value
    assert (error.code, error.file, error.line, error.column) == ("rego_unsafe_var_error", "a.rego", 3, 10)
    assert error.message == "var typo is unsafe"


@pytest.mark.rule("rego.all-errors")
def test_all_errors_of_all_files_are_reported_in_order() -> None:
    with pytest.raises(CompileError) as caught:
        compile_modules({"b.rego": "package b\n\np if x\nq if y\n", "a.rego": "package a\n\np if z\n"})
    assert [(e.file, e.line, e.message) for e in caught.value.errors] == [
        ("a.rego", 3, "var z is unsafe"),
        ("b.rego", 3, "var x is unsafe"),
        ("b.rego", 4, "var y is unsafe"),
    ]


@pytest.mark.rule("rego.refused-builtins")
@pytest.mark.parametrize("name", ["http.send({})", "opa.runtime()"])
def test_what_reaches_outside_is_refused_by_name_and_place(name: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_modules({"a.rego": f"package a\n\np := {name}\n"})
    assert name.partition("(")[0] in caught.value.message
    assert "on purpose" in caught.value.message
    assert caught.value.line == 3


SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "object", "properties": {"id": {"type": "string"}, "claims": {"type": "object"}}},
        "arguments": {"type": "object"},
        "amount": {"type": "number"},
        "approval": {"type": ["object", "null"]},
        "recent": {"type": "array", "items": {"$ref": "#/$defs/call"}},
    },
    "$defs": {"call": {"type": "object", "properties": {"tool": {"type": "string"}}}},
}


@pytest.mark.rule("rego.input-schema")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("input.subjekt.id == 1", "undefined ref: input.subjekt.id"),
        ("input.subject.name == 1", "undefined ref: input.subject.name"),
        ("input.recent[_].toool", "undefined ref: input.recent[_].toool"),
        ('input.amount == "a"', "match error"),
        ('startswith(input.amount, "a")', "startswith: invalid argument(s)"),
    ],
)
def test_unknown_fields_of_input_are_type_errors(body: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_modules({"a.rego": f"package a\n\np if {body}\n"}, input_schema=SCHEMA)
    assert (caught.value.code, caught.value.message) == ("rego_type_error", message)


@pytest.mark.rule("rego.input-schema")
@pytest.mark.parametrize(
    "body",
    [
        "input.subject.claims.anything.at[0].all",
        "input.arguments.path == 1",
        "input.approval == null",
        "input.approval.by",
        'some call in input.recent; call.tool == "a"',
    ],
)
def test_known_and_open_fields_of_input_load(body: str) -> None:
    compile_modules({"a.rego": f"package a\n\np if {{ {body} }}\n"}, input_schema=SCHEMA)
