"""What builtins cost is bounded, and what they cannot do exactly they refuse."""

from __future__ import annotations

import time

import pytest

from gateway.rego import CompileError, compile_modules
from gateway.rego.builtins.refused import REFUSED
from gateway.rego.builtins.registry import DECLARED, BuiltinError, UnsupportedError, functions
from gateway.rego.compiler import load_builtins
from gateway.rego.values import RegoSet, Value
from tests.rego.builtins.calling import Context, OutOfSteps, call

load_builtins()

SECOND = 1.0


@pytest.mark.rule("rego.regex-linear")
@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "(a*)*b", "(?i)(A+)+$"])
def test_a_pattern_that_makes_others_backtrack_is_instant(pattern: str) -> None:
    began = time.perf_counter()
    assert call("regex.match", [pattern, "a" * 100_000 + "!"]) is False
    assert time.perf_counter() - began < SECOND


def test_case_folding_flags_work() -> None:
    assert call("regex.match", ["(?i)drop table", "x DROP Table y"]) is True


def test_a_glob_is_matched_in_linear_time() -> None:
    began = time.perf_counter()
    assert call("glob.match", ["a*" * 200 + "b", None, "a" * 20_000]) is False
    assert time.perf_counter() - began < SECOND


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("numbers.range", [0, 10**12]),
        ("numbers.range", [0, 10**5]),
        ("numbers.range_step", [0, 10**15, 2]),
        ("net.cidr_expand", ["10.0.0.0/8"]),
        ("net.cidr_expand", ["2001:db8::/32"]),
        ("bits.lsh", [1, 10**9]),
        ("bits.lsh", [1, 10**30]),
        ("product", [[2**60] * 50_000]),
        ("sprintf", ["%999999d" * 100, [1] * 100]),
        ("replace", ["a" * 30_000, "a", "b" * 30_000]),
        ("concat", ["x" * 30_000, ["a"] * 10_000]),
        ("regex.replace", ["a" * 30_000, "a", "b" * 30_000]),
        ("strings.replace_n", [{"": "x" * 100_000}, "a" * 10_000]),
        ("graph.reachable_paths", [{str(n): [str(m) for m in range(300)] for n in range(300)}, ["0"]]),
        ("json.marshal_with_options", [[[[[[0] * 50] * 20] * 20]], {"indent": " " * 10_000}]),
        ("units.parse", ["1e999999"]),
        ("regex.globs_match", ["[a-z]*b*" * 200, "[a-y]*c*" * 200]),
        ("regex.match", ["((a{100}){100}){100}", "a"]),
        ("regex.match", ["[a-z]" * 30_000, "a"]),
        ("regex.find_n", ["a.*b|a", "a" * 200_000, -1]),
        ("regex.split", ["a.*b|a", "a" * 200_000]),
        ("regex.find_n", ["a", "a" * 200_000, -1]),
        ("net.cidr_contains_matches", [["10.0.0.0/8"] * 1000, ["10.0.0.1"] * 1000]),
        ("object.subset", [["a"] * 30_000, ["a"] * 15_000 + ["b"]]),
    ],
)
@pytest.mark.rule("rego.builtins-bounded")
def test_a_costly_call_ends_early(name: str, arguments: list[Value]) -> None:
    began = time.perf_counter()
    with pytest.raises((OutOfSteps, BuiltinError)):
        call(name, arguments, Context(steps=50_000))
    assert time.perf_counter() - began < 3 * SECOND


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("time.now_ns", []),
        ("rand.intn", ["x", 10]),
        ("uuid.rfc4122", ["x"]),
        ("io.jwt.decode_verify", ["a.b.c", {"secret": "s"}]),
        ("time.clock", [[0, "Local"]]),
    ],
)
@pytest.mark.rule("rego.deterministic-builtins")
def test_what_the_caller_did_not_give_is_refused(name: str, arguments: list[Value]) -> None:
    with pytest.raises(UnsupportedError):
        call(name, arguments)


def test_a_seed_decides_what_is_random() -> None:
    first = [call("rand.intn", ["x", 1_000_000], Context(seed=seed)) for seed in (1, 1, 2, "1")]
    assert first[0] == first[1]
    assert len(set(first)) == 3
    assert call("uuid.rfc4122", ["x"], Context(seed=1)) == call("uuid.rfc4122", ["x"], Context(seed=1))
    assert call("uuid.rfc4122", ["x"], Context(seed=1)) != call("uuid.rfc4122", ["y"], Context(seed=1))
    version = call("uuid.parse", [call("uuid.rfc4122", ["x"], Context(seed=1))])
    assert version == {"version": 4, "variant": "RFC4122"}


def test_the_present_is_the_queries() -> None:
    assert call("time.now_ns", [], Context(time_ns=42)) == 42


@pytest.mark.parametrize("name", ["base64.decode", "hex.decode", "urlquery.decode", "base64url.decode"])
def test_bytes_that_are_no_text_are_refused(name: str) -> None:
    text = {"hex.decode": "ff", "urlquery.decode": "%ff"}.get(name, "_w" if name == "base64url.decode" else "/w==")
    with pytest.raises(UnsupportedError):
        call(name, [text])


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "x" * 300 + "\udc80"])
@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, function in functions().items()
        if name not in ("count", "type_name", "walk", "time.now_ns", "trace", "internal.print")
        and not name.startswith(("is_", "cast_", "internal.", "test."))
        and len(DECLARED[name].args) <= 4
        and "string" in "".join(DECLARED[name].args)
        and function is not None
    ),
)
def test_half_of_a_surrogate_pair_never_gets_into_a_builtin(name: str, text: str) -> None:
    samples: dict[str, Value] = {
        "number": 1,
        "set[string]": RegoSet(),
        "array[any]": [text],
        "{*string: any}": {"a": text},
    }
    arguments = [text if "string" in kind else samples.get(kind, text) for kind in DECLARED[name].args]
    with pytest.raises((BuiltinError, UnsupportedError)):
        call(name, arguments)


def test_every_builtin_of_opa_is_there_or_refused_for_a_reason() -> None:
    of_the_evaluator = {"assign", "eq", "print", "internal.print", "internal.template_string", "internal.test_case"}
    missing = set(DECLARED) - set(functions()) - of_the_evaluator - {"test.sleep"}
    assert missing == set(REFUSED)


def test_a_refused_builtin_is_named_with_its_reason() -> None:
    with pytest.raises(CompileError) as caught:
        compile_modules({"a.rego": 'package a\n\nx := http.send({"method": "get", "url": "http://x"})\n'})
    assert "http.send" in caught.value.message
    assert REFUSED["http.send"] in caught.value.message
