"""The shipped policies and the cookbook: strict, formatted, tested, and the same on a real OPA."""

import re
from pathlib import Path

import pytest

from gateway.adapters.policy_files import ENTRY_POINTS, compile_policies, read_policies
from gateway.cli.policy import run_tests
from tests.policy.opa_server import run_opa

ROOT = Path(__file__).parents[2]
SCHEMA = "gateway/schemas/policy-input.schema.json"
EXAMPLES = sorted(path.name for path in (ROOT / "docs" / "policies").iterdir() if path.is_dir())


@pytest.mark.rule("policy.shipped", "policy.cookbook")
@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_every_policy_loads_and_its_tests_pass(example: str) -> None:
    paths = [ROOT / "policies", *([ROOT / "docs" / "policies" / example] if example else [])]
    files = read_policies(*paths, tests=True)
    compile_policies(files)
    results = list(run_tests(compile_policies(files, tests=True), lambda _: True))
    assert {result.path: result.outcome for result in results if result.outcome != "PASS"} == {}
    assert len(results) > (6 if example else 5)
    assert {path.rpartition(".")[0] for path in (result.path for result in results)} == {
        "data.gateway_test",
        *([f"data.{example}_test"] if example else []),
    }


@pytest.mark.rule("policy.shipped", "policy.cookbook")
@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_a_real_opa_says_the_same(example: str) -> None:
    paths = ["policies", *([f"docs/policies/{example}"] if example else [])]
    checked = run_opa("check", "--strict", "-s", SCHEMA, *paths, cwd=ROOT)
    assert checked.returncode == 0, checked.stderr
    formatted = run_opa("fmt", "--list", *paths, cwd=ROOT)
    assert (formatted.returncode, formatted.stdout) == (0, "")
    tested = run_opa("test", *paths, cwd=ROOT)
    assert tested.returncode == 0, tested.stdout


@pytest.mark.rule("policy.cookbook")
def test_every_rego_block_of_the_documentation_is_a_tested_file() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    blocks = re.findall(r"```rego\n(.*?)```", text, re.DOTALL)
    files = {
        path.read_text(): path.name
        for directory in (ROOT / "docs" / "policies", ROOT / "policies")
        for path in directory.rglob("*.rego")
    }
    for block in blocks:
        assert block in files, f"no tested file holds:\n{block}"
    shown = {files[block] for block in blocks}
    assert {f"{example}.rego" for example in EXAMPLES} <= shown


def test_the_entry_points_are_those_that_the_documentation_names() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    assert all(f"`{name}`" in text for name in ENTRY_POINTS)
