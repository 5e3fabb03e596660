"""The manifest of rules and the tests agree, both ways.

`tests/manifest/*.toml` names each rule of the contract, the issue that asks for it, the behaviour in words and the tests
that show it; a test names its rules with `@pytest.mark.rule(...)`. A rule without a test, a test that is named and does
not exist, and a mark that the manifest does not know all fail here.
"""

import ast
import re
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent
RULE_ID = re.compile(r"^[a-z0-9]+(\.[a-z0-9-]+)+$")


def rules() -> dict[str, dict[str, object]]:
    """Every rule by id, from all files of the manifest; a second rule of the same id is an error."""
    found: dict[str, dict[str, object]] = {}
    for file in sorted((TESTS / "manifest").glob("*.toml")):
        for rule in tomllib.loads(file.read_text())["rule"]:
            assert rule["id"] not in found, f"{file.name}: rule {rule['id']} is there twice"
            found[rule["id"]] = {**rule, "file": file.name}
    return found


def marked_tests() -> dict[str, set[str]]:
    """Test id (`tests/a.py::test_b`) to the rules of its `@pytest.mark.rule` marks, for every test function."""
    found: dict[str, set[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        if "node_modules" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks: set[str] = set()
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
                        marks.update(str(ast.literal_eval(argument)) for argument in decorator.args)
                found[f"{file.relative_to(TESTS.parent).as_posix()}::{node.name}"] = marks
            elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                for inner in node.body:
                    if isinstance(inner, ast.Assign) and ast.unparse(inner.targets[0]) == "pytestmark":
                        raise AssertionError(f"{file}: put rule marks on functions")
    return found


def test_every_rule_is_shown_by_tests_that_exist_and_say_so() -> None:
    tests = marked_tests()
    problems = []
    for identifier, rule in rules().items():
        if not RULE_ID.match(identifier):
            problems.append(f"{rule['file']}: {identifier}: not of the form area.rule-name")
        if not isinstance(rule.get("issue"), int) or not str(rule.get("behaviour", "")).strip():
            problems.append(f"{rule['file']}: {identifier}: needs issue and behaviour")
        named = rule.get("tests")
        if not isinstance(named, list) or not named:
            problems.append(f"{rule['file']}: {identifier}: no test shows it")
            continue
        for test in named:
            if test not in tests:
                problems.append(f"{rule['file']}: {identifier}: there is no test {test}")
            elif identifier not in tests[test]:
                problems.append(
                    f"{rule['file']}: {identifier}: {test} does not carry @pytest.mark.rule({identifier!r})"
                )
    assert not problems, "\n" + "\n".join(problems)


def test_every_mark_is_a_rule_that_names_the_test() -> None:
    known = rules()
    problems = []
    for test, marks in marked_tests().items():
        for mark in sorted(marks):
            if mark not in known:
                problems.append(f"{test}: rule {mark} is in no file of tests/manifest/")
            else:
                named = known[mark]["tests"]
                assert isinstance(named, list)
                if test not in named:
                    problems.append(f"{test}: rule {mark} does not name it in {known[mark]['file']}")
    assert not problems, "\n" + "\n".join(problems)
