"""Policies, data and inputs made up by Hypothesis, and a real OPA to judge them.

A *trial* is one module with some rules, data and an input. Both engines answer `data.fuzz`, with builtin errors strict and
not; they agree when the documents are equal as JSON, or both report an error of the same code, or the engine refuses the
module at load and so does OPA (or the reason is one of :data:`ALLOWED_REFUSALS`).

OPA is asked in batches: every module of a batch lives in a package of its own in one server, so that one trial costs a
few requests and no process.

    python -m tests.rego.fuzz [--minutes N] [--seed N]
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from hypothesis import strategies as st

from gateway.rego import UNDEFINED, CompileError, EvalError, compile_modules
from gateway.rego.values import equal

ALLOWED_REFUSALS = ("is not supported by this engine", "on purpose", "nests more loops")


class OpaServer:
    """A server of our own on a free port, asked over one kept-alive connection."""

    def __init__(self, opa: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process = subprocess.Popen(
            [opa, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--log-level", "error"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        for _ in range(300):
            try:
                self.call("GET", "/health", None)
                return
            except OSError:
                self.connection.close()
                time.sleep(0.05)
        raise RuntimeError("OPA does not start")

    def call(self, method: str, path: str, body: str | None, kind: str = "application/json") -> tuple[int, Any]:
        encoded = body.encode() if body is not None else None
        self.connection.request(method, path, encoded, {"content-type": kind})
        response = self.connection.getresponse()
        text = response.read()
        return response.status, json.loads(text, parse_float=Decimal) if text.strip() else None

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def opa_server() -> Iterator[OpaServer]:
    opa = shutil.which("opa")
    assert opa is not None, "no opa on PATH"
    server = OpaServer(opa)
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True, slots=True)
class Trial:
    module: str
    data: Any
    input: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What one engine says: a document, `undefined`, or an error's code."""

    kind: str
    value: Any = None

    def agrees(self, other: Answer) -> bool:
        if self.kind != other.kind:
            return False
        if self.kind == "value":
            return equal(as_doubles(self.value), as_doubles(other.value))
        # Of several errors either engine may meet another one first.
        return bool(self.value & other.value) if self.kind == "refused" else bool(self.value == other.value)


def as_doubles(value: Any) -> Any:
    """A JSON document with its fractions as JSON readers take them."""
    match value:
        case dict():
            return {k: as_doubles(item) for k, item in value.items()}
        case list():
            return [as_doubles(item) for item in value]
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case _:
            return value


def ask_opa(server: OpaServer, trial: Trial, *, strict: bool) -> Answer:
    status, report = server.call("PUT", "/v1/policies/fuzz", trial.module, "text/plain")
    if status != 200:
        errors = report.get("errors") or [{"code": report.get("code", "")}]
        return Answer("refused", {error.get("code") for error in errors})
    server.call("PUT", "/v1/data/base", json.dumps(trial.data))
    query = "?strict-builtin-errors=true" if strict else ""
    status, report = server.call("POST", f"/v1/data/fuzz{query}", json.dumps({"input": trial.input}))
    if status != 200:
        errors = report.get("errors") or [{"code": report.get("code", "")}]
        return Answer("error", errors[0].get("code"))
    return Answer("value", report["result"]) if "result" in report else Answer("undefined")


def ask_engine(trial: Trial, *, strict: bool) -> Answer:
    try:
        policy = compile_modules(
            {"fuzz.rego": trial.module}, {"base": trial.data}, strict=False, strict_builtin_errors=strict
        )
    except CompileError as error:
        if any(reason in problem.message for problem in error.errors for reason in ALLOWED_REFUSALS):
            return Answer("unsupported", error.message)
        return Answer("refused", {problem.code for problem in error.errors})
    try:
        value = policy.prepare("data.fuzz")(trial.input, deadline=time.monotonic() + 20)
    except EvalError as error:
        return Answer("error", error.code)
    return Answer("undefined") if value is UNDEFINED else Answer("value", value)


def judge(server: OpaServer, trial: Trial) -> str:
    """A description of how the engines differ, or nothing."""
    for strict in (True, False):
        ours = ask_engine(trial, strict=strict)
        if ours.kind == "unsupported":
            return ""
        try:
            theirs = ask_opa(server, trial, strict=strict)
        except http.client.RemoteDisconnected:  # it panicked
            server.connection.close()
            return ""
        if not ours.agrees(theirs):
            return (
                f"strict={strict}\n--- module\n{trial.module}\n--- data {json.dumps(trial.data)}\n--- input "
                f"{json.dumps(trial.input)}\n--- engine {ours}\n--- opa    {theirs}"
            )
        if ours.kind == "refused":
            return ""
    return ""


# Made-up trials ----------------------------------------------------------------------------------------------------------

AWKWARD = [
    "",
    "a",
    "b",
    "ab",
    'a"b',
    "a\\b",
    "a\nb",
    "é",
    "\U0001f600x",
    "a/b",
    "1",
    "-",
    "a.b",
    " a ",
    "\t",
    "A",
    "%s",
    "{x}",
    "\u2028",
]
NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    3,
    10,
    0.5,
    -0.5,
    1.5,
    2.0,
    1e10,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    0.1,
    0.2,
    1e-7,
    100.25,
]
KEYS = ["a", "b", "c", "x y", "1", ""]


class Chooser(Protocol):
    """Where choices come from: a random generator (fast), or Hypothesis (which makes failures small)."""

    def pick(self, options: Sequence[Any]) -> Any: ...

    def number(self, low: int, high: int) -> int: ...

    def shuffled(self, items: list[str]) -> list[str]: ...


class Randomly:
    def __init__(self, chosen: int) -> None:
        self.random = random.Random(chosen)

    def pick(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def shuffled(self, items: list[str]) -> list[str]:
        return self.random.sample(items, len(items))


class ByHypothesis:
    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def shuffled(self, items: list[str]) -> list[str]:
        return list(self.draw(st.permutations(items)))


def scalar(choose: Chooser) -> Any:
    match choose.number(0, 5):
        case 0:
            return None
        case 1:
            return choose.pick([True, False])
        case 2 | 3:
            return choose.pick(NUMBERS)
        case _:
            return choose.pick(AWKWARD)


def json_value(choose: Chooser, depth: int = 3) -> Any:
    match choose.number(0, 3) if depth else 0:
        case 2:
            return [json_value(choose, depth - 1) for _ in range(choose.number(0, 3))]
        case 3:
            return {choose.pick(KEYS): json_value(choose, depth - 1) for _ in range(choose.number(0, 3))}
        case _:
            return scalar(choose)


def document(choose: Chooser) -> dict[str, Any]:
    made = {name: json_value(choose) for name in ("n", "s", "xs", "o", "deep") if choose.number(0, 9)}
    if choose.number(0, 1):
        made["n"] = choose.number(-5, 5)
    if choose.number(0, 1):
        made["s"] = choose.pick(AWKWARD)
    match choose.number(0, 3):
        case 0 | 1:
            made["xs"] = [choose.number(0, 4) for _ in range(choose.number(0, 5))]
        case 2:
            made["xs"] = [scalar(choose) for _ in range(choose.number(0, 4))]
        case _:
            pass
    if choose.number(0, 1):
        made["o"] = {choose.pick(["a", "b", "c"]): scalar(choose) for _ in range(choose.number(0, 3))}
    return made


def rego_scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Writer:
    """Writes one module, choice by choice."""

    def __init__(self, choose: Chooser) -> None:
        self.choose = choose
        self.count = 0
        self.rules: list[tuple[str, str]] = []
        """(name, kind) of the rules written so far: a rule may use those before it."""

    def pick(self, options: list[Any]) -> Any:
        return self.choose.pick(options)

    def chance(self, percent: int) -> bool:
        return self.choose.number(0, 99) < percent

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def module(self) -> str:
        rules = [self.rule(i) for i in range(self.choose.number(1, 5))]
        return "package fuzz\n\nimport data.base\n\n" + "\n".join(rules) + "\n"

    # Terms

    def scalar(self) -> str:
        return rego_scalar(scalar(self.choose))

    def source(self) -> str:
        """A ref into what the caller gives, without variables."""
        root = self.pick(["input", "base"])
        ref = f"{root}.{self.pick(['n', 's', 'xs', 'o', 'deep', 'nope'])}"
        if self.chance(30):
            ref += self.pick(["[0]", "[1]", ".a", '["b"]', '["x y"]', "[-1]", "[1.0]", '["1"]', "[true]", "[null]"])
        return ref

    def term(self, bound: list[str], depth: int = 2) -> str:
        choices = ["scalar", *["source"] * 6, *["var"] * 5, "rule", "rule"]
        if depth:
            choices += [
                "array",
                "object",
                "set",
                "call",
                "call",
                "infix",
                "infix",
                "comprehension",
                "index",
                "template",
                "in",
            ]
        match self.pick(choices):
            case "var" if bound:
                return str(self.pick(bound))
            case "rule" if self.rules:
                return self.rule_ref(bound, depth)
            case "source":
                return self.source()
            case "array":
                return "[" + ", ".join(self.term(bound, depth - 1) for _ in range(self.choose.number(0, 3))) + "]"
            case "set":
                items = [self.term(bound, depth - 1) for _ in range(self.choose.number(0, 3))]
                return "{" + ", ".join(items) + "}" if items else "set()"
            case "object":
                keys = self.choose.shuffled(['"a"', '"b"', "1", "true", "null", '"c"', "[1]"])[
                    : self.choose.number(0, 3)
                ]
                if bound and self.chance(30):
                    keys.append(self.pick(bound))
                return "{" + ", ".join(f"{k}: {self.term(bound, depth - 1)}" for k in keys) + "}"
            case "call":
                return self.call(bound, depth - 1)
            case "infix" if self.chance(50):
                return f"({self.soft(bound)} {self.pick(['+', '-', '*', '/', '%', '&', '|'])} {self.soft(bound)})"
            case "infix":
                operator = self.pick(["==", "!=", "<", ">=", ">", "<="])
                return f"({self.term(bound, depth - 1)} {operator} {self.term(bound, depth - 1)})"
            case "in":
                return f"({self.term(bound, depth - 1)} in {self.term(bound, depth - 1)})"
            case "comprehension":
                return self.comprehension(bound, depth - 1)
            case "index":
                return f"{self.source()}[{self.pick(bound) if bound else self.scalar()}]"
            case "template":
                return f'$"a{{{self.term(bound, depth - 1)}}}b{{{self.source()}}}"'
            case _:
                return self.scalar()

    def soft(self, bound: list[str]) -> str:
        """A term that can be of any type, as far as the compiler knows."""
        return str(self.pick(bound)) if bound and self.chance(50) else self.source()

    def rule_ref(self, bound: list[str], depth: int) -> str:
        name, kind = self.pick(self.rules)
        if kind == "function":
            return f"{name}({self.term(bound, max(depth - 1, 0))})"
        if kind in ("set", "object") and self.chance(50):
            return f"{name}[{self.term(bound, max(depth - 1, 0)) if self.chance(70) else self.scalar()}]"
        return str(name)

    CALLS = (
        ("count", 1), ("sum", 1), ("max", 1), ("min", 1), ("sort", 1), ("product", 1), ("abs", 1), ("round", 1), ("ceil", 1), ("floor", 1),
        ("to_number", 1), ("lower", 1), ("upper", 1), ("trim_space", 1), ("concat", 2), ("contains", 2), ("startswith", 2),
        ("endswith", 2), ("split", 2), ("trim", 2), ("replace", 3), ("indexof", 2), ("substring", 3), ("sprintf", 2),
        ("type_name", 1), ("is_string", 1), ("is_number", 1), ("is_set", 1), ("object.get", 3), ("object.keys", 1), ("object.union", 2),
        ("object.remove", 2), ("object.filter", 2), ("array.concat", 2), ("array.slice", 3), ("array.reverse", 1), ("union", 1),
        ("intersection", 1), ("json.marshal", 1), ("json.unmarshal", 1), ("base64.encode", 1), ("numbers.range", 2), ("strings.reverse", 1),
        ("glob.match", 3), ("regex.match", 2), ("json.filter", 2), ("json.remove", 2), ("format_int", 2), ("trim_prefix", 2),
        ("strings.count", 2), ("strings.any_prefix_match", 2), ("json.patch", 2), ("bits.and", 2), ("object.subset", 2), ("array.flatten", 1),
    )  # fmt: skip

    def call(self, bound: list[str], depth: int) -> str:
        name, count = self.pick(list(self.CALLS))
        args = [self.soft(bound) if self.chance(75) else self.term(bound, max(depth, 0)) for _ in range(count)]
        if name in ("glob.match", "regex.match"):
            args[0] = self.pick(
                [
                    '"a*"',
                    '"*.b"',
                    '"a"',
                    '"[a-c]+"' if name == "regex.match" else '"{a,b}"',
                    '"**"' if name[0] == "g" else '"^a.*b$"',
                ]
            )
        if name == "glob.match":
            args[1] = self.pick(["[]", "null", '["."]', '["/"]'])
        if name == "sprintf":
            args = [
                self.pick(['"%v"', '"%s|%d"', '"%v %v"', '"%5.2f"', '"%x"', '"%q"', '"%%"', '"%T"']),
                f"[{', '.join(args)}]",
            ]
        if name == "numbers.range":
            args = [str(self.choose.number(-3, 3)), str(self.choose.number(-3, 3))]
        if name == "json.patch":
            op = self.pick(["add", "remove", "replace", "test"])
            args[1] = f'[{{"op": "{op}", "path": "/a", "value": {args[1]}}}]'
        return f"{name}({', '.join(args)})"

    def comprehension(self, bound: list[str], depth: int) -> str:
        lines, inner = self.body(bound, max(depth, 0), size=2)
        body = "; ".join(lines)
        head = self.term(inner, 1)
        match self.pick(["array", "set", "object"]):
            case "array":
                return f"[{head} | {body}]"
            case "set":
                return f"{{{head} | {body}}}"
            case _:
                return f"{{{self.term(inner, 0)}: {head} | {body}}}"

    # Bodies

    def body(self, bound: list[str], depth: int, size: int = 3) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        known = list(bound)
        for _ in range(self.choose.number(1, size)):
            lines.append(self.line(known, depth))
        if self.chance(15):
            lines = self.choose.shuffled(lines)
        return lines, known

    def line(self, known: list[str], depth: int) -> str:
        kind = self.pick(
            [
                "assign",
                "assign",
                "some",
                "some",
                "some2",
                "compare",
                "compare",
                "term",
                "not",
                "every",
                "unify",
                "pattern",
                "iterate",
                "with",
                "in",
            ]
        )
        match kind:
            case "assign":
                name, value = self.fresh(), self.term(known, depth)
                known.append(name)
                return f"{name} := {value}"
            case "some":
                name = self.fresh()
                source = self.collection(known, depth)
                known.append(name)
                return f"some {name} in {source}"
            case "some2":
                first, second = self.fresh(), self.fresh()
                source = self.collection(known, depth)
                known += [first, second]
                return f"some {first}, {second} in {source}"
            case "compare":
                operator = self.pick(["==", "!=", "<", "<=", ">", ">=", "="])
                return f"{self.term(known, depth)} {operator} {self.term(known, depth)}"
            case "not":
                return f"not {self.term(known, depth)}"
            case "every":
                name = self.fresh()
                lines, _ = self.body([*known, name], max(depth - 1, 0), size=2)
                return f"every {name} in {self.collection(known, depth)} {{ {'; '.join(lines)} }}"
            case "unify":
                name, value = self.fresh(), self.term(known, depth)
                known.append(name)
                return f"{value} = {name}" if self.chance(50) else f"{name} = {value}"
            case "pattern":
                first, second = self.fresh(), self.fresh()
                value = self.term(known, depth)
                pattern = self.pick(
                    [
                        f"[{first}, {second}]",
                        f'{{"a": {first}, "b": {second}}}',
                        f"[{first}, [{second}]]",
                        f"[{first}, {first}]",
                        f"[_, {first}]",
                    ]
                )
                known += [name for name in (first, second) if name in pattern]
                return (
                    f"{pattern} = {value}"
                    if self.chance(50)
                    else f"{pattern} := {value}"
                    if f"{first}, {first}" not in pattern
                    else f"{pattern} = {value}"
                )
            case "iterate":
                first, second = self.fresh(), self.fresh()
                ref = f"{self.source()}[{first}]"
                known += [first, second]
                return f"{ref} = {second}"
            case "with":
                if not self.rules:
                    return self.term(known, depth)
                target = self.pick(
                    [
                        "input.n",
                        "input.xs",
                        "input",
                        "data.base.n",
                        "data.base",
                        "input.deep.a",
                        "data.base.o.a",
                        "count",
                    ]
                )
                value = self.scalar() if target == "count" else self.term(known, 0)
                return f"{self.rule_ref(known, 0)} with {target} as {value}"
            case "in":
                return f"{self.term(known, depth)} in {self.collection(known, depth)}"
            case _:
                return self.term(known, depth)

    def collection(self, bound: list[str], depth: int) -> str:
        if self.chance(50):
            return f"{self.pick(['input', 'base'])}.{self.pick(['xs', 'o', 'deep'])}"
        return self.term(bound, depth)

    # Rules

    def rule(self, number: int) -> str:
        name = f"r{number}"
        kind = self.pick(
            ["complete", "complete", "default", "set", "set", "object", "function", "else", "nested", "multi"]
        )
        heads: list[str] = []
        for _ in range(self.choose.number(1, 2)):
            heads.append(self.one_rule(name, kind))
        self.rules.append(
            (
                name,
                "function"
                if kind == "function"
                else "set"
                if kind == "set"
                else "object"
                if kind in ("object", "nested", "multi")
                else "complete",
            )
        )
        text = "\n".join(heads)
        if kind == "default":
            text = f"default {name} := {self.scalar()}\n{text}"
        return text

    def one_rule(self, name: str, kind: str) -> str:
        if kind == "function":
            arg = self.pick(["x", "x", "[x, y]", '{"a": x}', "1", '"a"'])
            known = [v for v in ("x", "y") if v in arg]
            lines, inner = self.body(known, 1)
            return self.text(f"{name}({arg}) := {self.term(inner, 1)}", lines)
        lines, known = self.body([], 2)
        match kind:
            case "set":
                return self.text(f"{name} contains {self.term(known, 1)}", lines)
            case "object":
                return self.text(f"{name}[{self.term(known, 1)}] := {self.term(known, 1)}", lines)
            case "nested":
                return self.text(
                    f"{name}[{self.term(known, 0)}].k[{self.term(known, 0)}] := {self.term(known, 1)}", lines
                )
            case "multi":
                return self.text(f"{name}[{self.term(known, 0)}] contains {self.term(known, 1)}", lines)
            case "else":
                more, inner = self.body([], 1)
                first = self.text(f"{name} := {self.term(known, 1)}", lines)
                return f"{first} else := {self.term(inner, 1)} if {{\n\t" + "\n\t".join(more) + "\n}"
            case _:
                value = self.pick(["", f" := {self.term(known, 1)}", f" := {self.scalar()}"])
                return self.text(f"{name}{value}", lines)

    def text(self, head: str, lines: list[str]) -> str:
        text = f"{head} if {{\n\t" + "\n\t".join(lines) + "\n}"
        for name in set(re.findall(r"v\d+", text)):
            if len(re.findall(rf"\b{name}\b", text)) == 1:  # what is declared has to be used
                text = re.sub(rf"\b{name}\b(?! :?=)", "_" if self.chance(90) else name, text)
        return text


def trial(choose: Chooser) -> Trial:
    return Trial(Writer(choose).module(), document(choose), document(choose))


@st.composite
def trials(draw: Any) -> Trial:
    return trial(ByHypothesis(draw))


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the Rego engine against a real OPA")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=None, help="run this one trial alone")
    options = parser.parse_args()
    with opa_server() as server:
        if options.seed is not None:
            print(judge(server, trial(Randomly(options.seed))) or "the same")
            return 0
        ends = time.monotonic() + options.minutes * 60
        chosen = random.randrange(10**9)
        done = differences = loaded = 0
        while time.monotonic() < ends:
            made = trial(Randomly(chosen + done))
            difference = judge(server, made)
            loaded += ask_engine(made, strict=False).kind not in ("refused", "unsupported")
            if difference:
                differences += 1
                print(f"=== seed {chosen + done}\n{difference}\n", flush=True)
            done += 1
    print(f"{done} trials, {loaded} of them loaded, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
