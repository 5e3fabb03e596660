"""Compiled rules to Python source, once; the source is executed to functions of a context.

Theory of operation
-------------------
All rules that define one document are one *group* and become one function ``g<n>(c)`` of the context, functions
``g<n>(c, a0, ...)`` of the context and their arguments. A group's value is kept in the context's `memo`. Because the
checker has put every body in an order in which each variable is bound before it is needed, what is bound is known at
each step while the code is written: an equation is an assignment, a comparison or a match, never a unification at run
time. Variables are Python locals, iteration is a ``for``.

A ref into a partial document with its key known (`deny[code]`) evaluates the rules with that key bound, as OPA does,
rather than the whole document: those are the functions ``k<n>(c, key)``.

What is known about OPA's order of evaluation is kept: expressions in the checker's order, ground equality checks of
`input` first (OPA's rule index skips a rule whose checks fail, whatever its other expressions would do), all rules of a
group even when one has a value, unless all have the same constant.
"""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.rego import ast, runtime
from gateway.rego.builtins.registry import DECLARED, BuiltinError, BuiltinFunction
from gateway.rego.emit import SPLIT_BLOCKS, TooDeep, Writer
from gateway.rego.errors import COMPILE, CompileError, Problem
from gateway.rego.literals import is_literal, literal_value
from gateway.rego.printer import term_text
from gateway.rego.rewrite import PRINT, TEMPLATE, is_true_body
from gateway.rego.ruletree import Node, ground_prefix, is_data_ref
from gateway.rego.safety import Arity, all_vars
from gateway.rego.values import Key, RegoSet, Value, key

_COMPARE = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_MEMBER = "internal.member_2"
_AFFIX = {
    "startswith": "startswith", "endswith": "endswith", "strings.any_prefix_match": "startswith",
    "strings.any_suffix_match": "endswith",
}  # fmt: skip
"""Calls that the rule index answers for constants, and the method of `str` that does."""
_ARITHMETIC = {"plus": "+", "minus": "-", "mul": "*"}
_TYPE_TESTS = {
    "is_string": "type({}) is str", "is_boolean": "type({}) is bool", "is_array": "type({}) is list", "is_object": "type({}) is dict",
    "is_set": "type({}) is RegoSet", "is_null": "{} is None",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Group:
    """The rules of one document or function."""

    number: int
    node: Node
    rules: list[ast.Rule]
    kind: str
    """`complete`, `function`, `set`, or `object` (any path with variables)."""

    @property
    def arity(self) -> int:
        return len(self.rules[0].head.args or [])


@dataclass(slots=True)
class Targets:
    """What `with` replaces anywhere in the policy: only there is code needed that looks whether it is replaced."""

    data: set[tuple[Key, ...]] = field(default_factory=set)
    mocks: set[str] = field(default_factory=set)

    def collect(self, withs: Iterable[ast.With], root: Node) -> None:
        for modifier in withs:
            target = modifier.target
            name = ast.ref_name(target) if isinstance(target, ast.Ref) else term_text(target)
            if isinstance(target, ast.Ref) and is_data_ref(target):
                path = tuple(ground_prefix(target.terms[1:]))
                node = root.find(path)
                if node is not None and node.is_function:
                    self.mocks.add(name)
                else:
                    self.data.add(path)
            elif name in DECLARED:
                self.mocks.add(name)

    def touch(self, path: tuple[Key, ...]) -> bool:
        """Whether a replaced path lies at, above or below a path."""
        return any(path[: len(t)] == t or t[: len(path)] == path for t in self.data)


@dataclass(slots=True)
class Program:
    """What the generated code is linked with."""

    namespace: dict[str, Any] = field(default_factory=dict)
    locations: list[ast.Location] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def load(self, name: str) -> None:
        """Executes the source written so far."""
        source = "\n".join(self.sources)
        self.sources.clear()
        exec(compile(source, f"<rego {name}>", "exec"), self.namespace)


class CodeGenerator:
    def __init__(
        self,
        root: Node,
        builtins: dict[str, BuiltinFunction],
        arity: Arity,
        original: dict[str, str],
        targets: Targets,
        *,
        coverage: bool = False,
    ) -> None:
        self.root = root
        self.builtins = builtins
        self.arity = arity
        self.original = original
        self.targets = targets
        self.coverage = coverage
        self.groups: list[Group] = []
        self.keyed: set[int] = set()
        self.keyed_done: set[int] = set()
        self.used_builtins: set[str] = set()
        self.constants: dict[str, str] = {}
        self.places: dict[ast.Location, int] = {}
        self.program = Program()
        self.link()
        self.make_groups(root)

    def link(self) -> None:
        names = self.program.namespace
        for name in runtime.__all__:
            names[name] = getattr(runtime, name)
        names["BuiltinError"] = BuiltinError
        names["RegoSet"] = RegoSet
        from gateway.rego import numeric

        names["add"], names["subtract"], names["multiply"] = numeric.add, numeric.subtract, numeric.multiply

    def make_groups(self, root: Node) -> None:
        stack = [root]
        while stack:
            node = stack.pop()
            rules = node.rules
            if rules:
                dynamic = any(len(ground_prefix(rule.path)) < len(rule.path) for rule in rules)
                if dynamic:
                    rules = [rule for below in node.walk() for rule in below.rules]
                if rules[0].head.args is not None:
                    kind = "function"
                elif dynamic:
                    kind = "object"
                else:
                    kind = "set" if rules[0].head.multi_value else "complete"
                node.group = len(self.groups)
                self.groups.append(Group(node.group, node, rules, kind))
                if dynamic:
                    continue
            stack.extend(reversed(list(node.children.values())))

    # Whole policies -----------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Writes and loads the functions of all groups."""
        for group in self.groups:
            self.write_group(group)
        self.write_keyed()
        self.program.load("policy")

    def write_keyed(self) -> None:
        while self.keyed - self.keyed_done:
            for number in sorted(self.keyed - self.keyed_done):
                self.keyed_done.add(number)
                self.write_keyed_group(self.groups[number])

    @property
    def memo_size(self) -> int:
        """One place a group for its value, one for its values by key."""
        return 2 * len(self.groups)

    def functions(self) -> list[Callable[..., Value]]:
        return [self.program.namespace[f"g{group.number}"] for group in self.groups]

    def place(self, loc: ast.Location) -> int:
        number = self.places.get(loc)
        if number is None:
            number = self.places[loc] = len(self.program.locations)
            self.program.locations.append(loc)
        return number

    def constant_value(self, group: Group) -> ast.Term | None:
        """The value of a document that is one constant, whatever is asked (`roles := {"a", "b"}`)."""
        if group.kind != "complete" or len(group.rules) != 1 or self.coverage or self.targets.touch(group.node.path):
            return None
        rule = group.rules[0]
        value = rule.head.value
        if (
            rule.default
            or rule.otherwise is not None
            or not is_true_body(rule.body)
            or value is None
            or not is_literal(value)
        ):
            return None
        return value

    def constant(self, value: Value, text: str) -> str:
        name = self.constants.get(text)
        if name is None:
            name = self.constants[text] = f"K{len(self.constants)}"
            self.program.namespace[name] = value
        return name

    def write(self, header: str, loc: ast.Location, body: Callable[[FunctionWriter], None]) -> None:
        writer = FunctionWriter(self)
        writer.line(header)
        writer.indent += 1
        writer.line("q = c.q")
        try:
            body(writer)
        except TooDeep:
            message = "the rule nests more loops than this engine can"
            raise CompileError([Problem.at(loc, COMPILE, message)]) from None
        self.program.sources += writer.lines

    # Groups -----------------------------------------------------------------------------------------------------

    def write_group(self, group: Group) -> None:
        params = ["c", *[f"a{i}" for i in range(group.arity)]] if group.kind == "function" else ["c"]
        header = f"def g{group.number}({', '.join(params)}):"
        writers: dict[str, Callable[[FunctionWriter], None]] = {
            "complete": lambda w: self.complete(w, group),
            "function": lambda w: self.complete(w, group),
            "set": lambda w: self.set_group(w, group),
            "object": lambda w: self.object_group(w, group),
        }
        self.write(header, group.rules[0].loc, writers[group.kind])

    def prologue(self, w: FunctionWriter, group: Group, slot: int | None) -> None:
        if slot is not None:
            w.line(f"m = c.memo[{slot}]")
            w.line("if m is not M: return m")
        w.line("q.n -= 1")
        w.line("if q.n < 0: q.check()")
        if self.targets.touch(group.node.path) and group.kind != "function":
            path = self.constant(group.node.path, f"path {group.node.path!r}")
            w.line(f"if c.patches and (m := c.patched({path})) is not M: return m")
        w.hoist_guards(group.rules)

    def complete(self, w: FunctionWriter, group: Group) -> None:
        function = group.kind == "function"
        slot = None if function else group.number
        self.prologue(w, group, slot)
        rules = [rule for rule in group.rules if not rule.default]
        defaults = [rule for rule in group.rules if rule.default]
        early = _early_exit(rules + defaults)
        w.line("r = U")
        for i, rule in enumerate(rules):
            self.chain(w, group, rule, first=i == 0, early=early)
        if defaults:
            w.line("if r is U:")
            w.indent += 1
            self.default_value(w, group, defaults[0])
            w.indent -= 1
        if slot is not None:
            w.line(f"c.memo[{slot}] = r")
        w.line("return r")

    def default_value(self, w: FunctionWriter, group: Group, rule: ast.Rule) -> None:
        value = rule.head.value
        assert value is not None
        w.open_body()
        w.start_rule(rule, [])
        w.bind_args(rule)
        w.body(rule.body)
        w.line(f"r = {w.value(value)}")
        w.covered(rule.head.loc)
        w.close_body()

    def chain(self, w: FunctionWriter, group: Group, rule: ast.Rule, *, first: bool, early: bool) -> None:
        """One rule with its `else` branches: the first branch that holds gives the value."""
        branches = list(rule.chain())
        kind = "function" if group.kind == "function" else "rule"
        name = term_text(ast.Ref([ast.Var("data", rule.loc), *rule.path], rule.loc))
        result = "r" if first else w.temp()
        if not first:
            w.line(f"{result} = U")
        for i, branch in enumerate(branches):
            if i:
                w.line(f"if {result} is U:")
                w.indent += 1
            w.open_body()
            w.start_rule(branch, [])
            w.bind_args(branch)
            w.rule_body(branch.body)
            value = branch.head.value
            assert value is not None
            w.covered(branch.head.loc)
            if early and len(branches) == 1:
                text = w.value(value)
                if group.kind != "function":
                    w.line(f"c.memo[{group.number}] = {text}")
                w.line(f"return {text}")
            elif w.in_loop:
                found = w.temp()
                w.line(f"{found} = {w.value(value)}")
                w.line(f"if {result} is U: {result} = {found}")
                w.line(f"elif not equal({result}, {found}): raise {self.conflict(branch, kind, name)}")
            else:
                w.line(f"{result} = {w.value(value)}")
            w.close_body()
            if i:
                w.indent -= 1
        if not first:
            w.line(f"if {result} is not U:")
            w.line(f"\tif r is U: r = {result}")
            w.line(f"\telif not equal(r, {result}): raise {self.conflict(rule, kind, name)}")

    def conflict(self, rule: ast.Rule, kind: str, name: str) -> str:
        message = "complete rules must not produce multiple outputs"
        if kind == "function":
            message = "functions must not produce multiple outputs for same inputs"
        message += f" ({name})"
        return f"q.conflict({self.place(rule.loc)}, {message!r})"

    def set_group(self, w: FunctionWriter, group: Group) -> None:
        self.prologue(w, group, group.number)
        w.line("acc = {}")
        for rule in group.rules:
            assert rule.head.key is not None
            w.open_body()
            w.start_rule(rule, [])
            w.rule_body(rule.body)
            w.covered(rule.head.loc)
            w.add_member("acc", rule.head.key)
            w.close_body()
        w.line(f"r = c.memo[{group.number}] = RegoSet.of(acc)")
        w.line("return r")

    def object_group(self, w: FunctionWriter, group: Group) -> None:
        self.prologue(w, group, group.number)
        simple = self.is_simple(group)
        w.line("acc = {}" if simple else "acc = Builder(q)")
        for rule in group.rules:
            w.open_body()
            w.start_rule(rule, [])
            w.rule_body(rule.body)
            self.add_path(w, group, rule, simple=simple)
            w.close_body()
        w.line(f"r = c.memo[{group.number}] = {'acc' if simple else 'acc.finish()'}")
        w.line("return r")

    @staticmethod
    def is_simple(group: Group) -> bool:
        """Whether all rules put one value under one key."""
        depth = len(group.node.path)
        return all(len(rule.path) == depth + 1 and not rule.head.multi_value for rule in group.rules)

    def add_path(self, w: FunctionWriter, group: Group, rule: ast.Rule, *, simple: bool) -> None:
        w.covered(rule.head.loc)
        at = self.place(rule.head.loc)
        steps = rule.path[len(group.node.path) :]
        member = rule.head.multi_value
        value = rule.head.key if member else rule.head.value
        assert value is not None
        if simple:
            w.line(f"put(acc, q, {w.value(steps[0])}, {w.value(value)}, {at})")
        else:
            path = ", ".join([w.value(step) for step in steps])
            w.line(f"acc.put(({path},), {w.value(value)}, {at}, member={member})")

    def write_keyed_group(self, group: Group) -> None:
        header = f"def k{group.number}(c, x):"
        self.write(header, group.rules[0].loc, lambda w: self.keyed_group(w, group))

    def keyed_group(self, w: FunctionWriter, group: Group) -> None:
        """The member or the value under one key of a partial document."""
        slot = len(self.groups) + group.number
        w.line(f"m = c.memo[{group.number}]")
        w.line("if m is not M: return index(m, x)")
        if self.targets.touch(group.node.path):
            path = self.constant(group.node.path, f"path {group.node.path!r}")
            w.line(f"if c.patches and (m := c.patched({path})) is not M: return index(m, x)")
        w.line("ck = x if type(x) is str else key(x)")
        w.line(f"known = c.memo[{slot}]")
        w.line(f"if known is M: known = c.memo[{slot}] = {{}}")
        w.line("r = known.get(ck, M)")
        w.line("if r is not M: return r")
        w.line("q.n -= 1")
        w.line("if q.n < 0: q.check()")
        w.hoist_guards(group.rules)
        if group.kind == "set":
            w.line("r = U")
            for rule in group.rules:
                assert rule.head.key is not None
                w.open_body()
                w.start_rule(rule, [])
                w.match(rule.head.key, "x")
                w.rule_body(rule.body)
                w.fail_unless_equal(rule.head.key, "x")
                w.covered(rule.head.loc)
                w.line("r = x")
                w.close_body()
        else:
            simple = self.is_simple(group)
            w.line("acc = {}" if simple else "acc = Builder(q)")
            for rule in group.rules:
                w.open_body()
                w.start_rule(rule, [])
                w.match(rule.path[len(group.node.path)], "x")
                w.rule_body(rule.body)
                self.add_path(w, group, rule, simple=simple)
                w.close_body()
            w.line(f"r = {'acc' if simple else 'acc.finish()'}.get(ck, U)")
        w.line("known[ck] = r")
        w.line("return r")

    # Queries ------------------------------------------------------------------------------------------------------

    def query(
        self, body: ast.Body, outputs: list[str], name: str
    ) -> Callable[[runtime.Context], list[tuple[Value, ...]]]:
        """A function that gives the values of `outputs` for every solution of a body."""

        def write(w: FunctionWriter) -> None:
            w.line("acc = []")
            w.open_body()
            w.count_vars(body, [ast.Var(name, ast.NOWHERE) for name in outputs])
            w.body(body)
            found = ", ".join([w.var(name) for name in outputs])
            w.line(f"acc.append(({found}{',' if outputs else ''}))")
            w.close_body()
            w.line("return acc")

        self.write(f"def {name}(c):", body[0].loc if body else ast.NOWHERE, write)
        self.write_keyed()
        self.program.load(name)
        function: Callable[[runtime.Context], list[tuple[Value, ...]]] = self.program.namespace.pop(name)
        return function


def _early_exit(rules: list[ast.Rule]) -> bool:
    """Whether all rules have the same constant value, so that the first that holds decides (OPA's early exit)."""
    texts: set[str] = set()
    for rule in rules:
        if rule.default:
            continue
        for branch in rule.chain():
            value = branch.head.value
            if value is None or all_vars([value]) or not is_literal(value):
                return False
            texts.add(term_text(value))
    return len(texts) == 1


def _guard(expr: ast.Expr) -> tuple[ast.Ref, ast.Scalar] | None:
    """A check that a path of `input` equals a scalar."""
    node = expr.node
    if expr.negated or expr.withs or not isinstance(node, ast.Call) or node.name != "eq" or len(node.args) != 2:
        return None
    for ref, scalar in (node.args, reversed(node.args)):
        if isinstance(ref, ast.Ref) and isinstance(scalar, ast.Scalar) and input_path(ref) is not None:
            return ref, scalar
    return None


def _marks(delimiters: ast.ArrayTerm) -> str:
    return "".join([str(d.value) for d in delimiters.items if isinstance(d, ast.Scalar)]) or "."


def _is_simple_glob(pattern: Value, delimiters: ast.ArrayTerm) -> bool:
    """Whether OPA indexes a glob: each part between delimiters is `*` or has no special characters."""
    if type(pattern) is not str:
        return False
    marks = _marks(delimiters)
    parts, escaped, current = [], False, ""
    for char in pattern:
        if char == "\\" or escaped:
            escaped = not escaped
            current += char
        elif char in marks:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    return all(part == "*" or not any(mark in part for mark in "[?{*\\") for part in parts)


def input_path(ref: ast.Ref) -> tuple[str, ...] | None:
    """The steps of a ref into `input` that are all strings."""
    head, *steps = ref.terms
    if not isinstance(head, ast.Var) or head.name != "input":
        return None
    path: list[str] = []
    for step in steps:
        if not isinstance(step, ast.Scalar) or not isinstance(step.value, str):
            return None
        path.append(step.value)
    return tuple(path)


class FunctionWriter(Writer):
    """Writes bodies and terms into one function. Knows at each line which variables are bound."""

    def __init__(self, gen: CodeGenerator) -> None:
        super().__init__()
        self.gen = gen
        self.bound: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.c = "c"
        self.hoisted: dict[tuple[str, ...], str] = {}
        self.contexts: dict[int, str] = {}
        self.args: set[str] = set()
        self.indexed: dict[str, str] = {}
        self.known: dict[str, ast.Term] = {}
        self.scalars: set[str] = set()

    # Rules --------------------------------------------------------------------------------------------------------

    def start_rule(self, rule: ast.Rule, extra: list[ast.Term]) -> None:
        self.bound = set()
        self.contexts = {}
        head = rule.head
        self.args = {arg.name for arg in head.args or [] if isinstance(arg, ast.Var)}
        terms = [*head.ref[1:], *(head.args or []), *[t for t in (head.key, head.value) if t is not None], *extra]
        self.count_vars(rule.body, terms)

    def count_vars(self, body: ast.Body, terms: list[ast.Term]) -> None:
        self.counts = Counter()
        for outer in [*terms, *ast.body_terms(body)]:
            for term in ast.walk_terms(outer):
                if isinstance(term, ast.Var):
                    self.counts[term.name] += 1

    def hoist_guards(self, rules: list[ast.Rule]) -> None:
        """Paths of `input` that several rules compare are looked up once."""
        paths: Counter[tuple[str, ...]] = Counter()
        for rule in rules:
            for branch in rule.chain():
                for expr in branch.body:
                    guard = _guard(expr)
                    if guard is not None and (path := input_path(guard[0])):
                        paths[path] += 1
        for path, count in paths.items():
            if count > 1:
                name = self.temp()
                self.lookup_path(name, f"{self.c}.input", path)
                self.hoisted[path] = name

    def bind_args(self, rule: ast.Rule) -> None:
        for i, arg in enumerate(rule.head.args or []):
            self.match(arg, f"a{i}")

    def covered(self, loc: ast.Location) -> None:
        if self.gen.coverage:
            self.line(f"q.coverage.add({self.gen.place(loc)})")

    @property
    def in_loop(self) -> bool:
        return self.blocks[-1].kind == "for"

    # Variables and values -------------------------------------------------------------------------------------------

    def var(self, name: str) -> str:
        if name.startswith("#"):
            return f"t{name[1:]}"
        if name.startswith("$"):
            return f"w{name[1:]}"
        return f"v_{name}"

    def is_bound(self, term: ast.Term) -> bool:
        """Whether all variables of a pattern are bound."""
        return all(name in self.bound for name in all_vars([term]))

    def value(self, term: ast.Term) -> str:
        """A Python expression for a term whose variables are bound."""
        match term:
            case ast.Scalar():
                return self.literal(term.value)
            case ast.Var():
                return self.var(term.name)
            case ast.ArrayTerm() | ast.ObjectTerm() | ast.SetTerm():
                if is_literal(term):
                    return self.gen.constant(literal_value(term), f"literal {type(term).__name__} {term_text(term)}")
                return self.composite(term)
            case ast.Ref():
                text, _ = self.ref(term)
                return text
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                return self.comprehension(term)
            case _:
                raise AssertionError(f"{type(term).__name__} has no value here")

    def composite(self, term: ast.ArrayTerm | ast.ObjectTerm | ast.SetTerm) -> str:
        if isinstance(term, ast.ArrayTerm):
            return "[" + ", ".join([self.value(item) for item in term.items]) + "]"
        if isinstance(term, ast.SetTerm):
            return "make_set((" + "".join([f"{self.value(item)}, " for item in term.items]) + "))"
        # OPA keeps the pairs in the order of their key terms, scalars before variables: of equal keys the last wins.
        pairs = sorted(term.pairs, key=lambda pair: not isinstance(pair[0], ast.Scalar))
        return "{" + ", ".join([f"{self.key(k)}: {self.value(v)}" for k, v in pairs]) + "}"

    def key(self, term: ast.Term) -> str:
        if isinstance(term, ast.Scalar) and type(term.value) in (str, int):
            return self.literal(term.value)
        return f"key({self.value(term)})"

    def literal(self, value: Value) -> str:
        if value is None or value is True or value is False:
            return repr(value)
        if type(value) is str:
            return repr(value)
        if type(value) is int and abs(value) < 10**30:
            return repr(value) if value >= 0 else f"({value!r})"
        from gateway.rego.values import to_rego

        return self.gen.constant(value, f"number {type(value).__name__} {to_rego(value)}")

    def unequal(self, value: str, term: ast.Term) -> str:
        """A condition: a Python value (possibly undefined) differs from a bound term."""
        if isinstance(term, ast.Scalar):
            scalar = term.value
            if scalar is None or scalar is True or scalar is False:
                return f"{value} is not {scalar!r}"
            if type(scalar) is str:
                return f"{value} != {scalar!r}"
            if type(scalar) is int and scalar not in (0, 1) and abs(scalar) < 2**53:
                return f"{value} != {scalar!r}"
        other = self.value(term)
        if isinstance(term, ast.Var):
            return f"({value} != {other} if type({value}) is str else {value} is U or not equal({value}, {other}))"
        return f"({value} is U or not equal({value}, {other}))"

    def fail_unless_equal(self, term: ast.Term, value: str) -> None:
        if not (isinstance(term, (ast.Var, ast.Scalar))):
            self.fail_if(self.unequal(value, term))

    def match(self, term: ast.Term, value: str) -> None:
        """Makes a term equal to a Python value that is defined: binds its variables, or fails."""
        if isinstance(term, ast.Var) and term.name not in self.bound:
            self.line(f"{self.var(term.name)} = {value}")
            self.bound.add(term.name)
            return
        if isinstance(term, (ast.Ref, ast.Call, *ast.COMPREHENSIONS)) or self.is_bound(term):
            self.fail_if(self.unequal(value, term))
            return
        match term:
            case ast.ArrayTerm():
                self.fail_if(f"type({value}) is not list or len({value}) != {len(term.items)}")
                for i, item in enumerate(term.items):
                    if not self.is_unused(item):
                        part = self.temp()
                        self.line(f"{part} = {value}[{i}]")
                        self.match(item, part)
            case ast.ObjectTerm():
                self.fail_if(f"type({value}) is not dict or len({value}) != {len(term.pairs)}")
                for k, v in term.pairs:
                    part = self.temp()
                    self.line(f"{part} = {value}.get({self.key(k)}, U)")
                    self.fail_if(f"{part} is U")
                    if not self.is_unused(v):
                        self.match(v, part)
            case _:
                self.line(self.fail)  # a set with unbound variables never matches

    def is_unused(self, term: ast.Term) -> bool:
        """A variable that stands nowhere else."""
        return isinstance(term, ast.Var) and term.name not in self.bound and self.counts[term.name] == 1

    # Bodies -------------------------------------------------------------------------------------------------------

    def body(self, body: ast.Body) -> None:
        for expr in body:
            self.expr(expr)

    def rule_body(self, body: ast.Body) -> None:
        """A rule's body: first what OPA's rule index looks at before it evaluates the rule at all."""
        if any(expr.call_name() == PRINT for expr in body):
            self.body(body)
            return
        first = [expr for expr in body if self.is_indexed(expr)]
        self.indexed = {name: name for name in self.args}
        self.known = {}
        self.scalars = set()
        later: list[ast.Expr] = []
        for expr in first:
            if isinstance(expr.node, ast.Call):
                for side, other in (expr.node.args, reversed(expr.node.args)):
                    if isinstance(side, ast.Var):
                        if is_literal(other):
                            self.known[side.name] = other
                        else:
                            self.indexed[side.name] = term_text(other)
                        if isinstance(other, ast.Scalar):
                            self.scalars.add(side.name)
            if self.is_only_looked_up(expr, body[: body.index(expr)], first):
                later.append(expr)
            else:
                self.expr(expr)
        rest = [expr for expr in body if expr not in first or expr in later]
        checks = [expr for expr in rest if self.is_indexed_check(expr)]
        tested = Counter(self.tested_path(expr) for expr in checks)
        for expr in checks:
            # Of several affixes of one path the index wants one; and what nothing precedes is evaluated at once anyway.
            if not (path := self.tested_path(expr)) or tested[path] == 1:
                self.indexed_check(expr, at_once=rest[: rest.index(expr)] == checks[: checks.index(expr)])
        self.body([expr for expr in rest if expr not in checks or expr.call_name() != _MEMBER])

    def is_indexed(self, expr: ast.Expr) -> bool:
        """Whether the index wants a path to be defined, or equal to something."""
        if expr.negated or expr.withs:
            return False
        node = expr.node
        if isinstance(node, ast.Ref):
            return self.is_index_path(node)
        if not isinstance(node, ast.Call) or node.name != "eq" or len(node.args) != 2:
            return False
        for ref, other in (node.args, reversed(node.args)):
            if isinstance(ref, ast.Ref) and self.is_index_path(ref):
                if isinstance(other, (ast.Var, ast.Scalar)):
                    return True
                return isinstance(other, ast.ArrayTerm) and all(
                    isinstance(item, (ast.Var, ast.Scalar)) for item in other.items
                )
            if isinstance(ref, ast.Var) and is_literal(other):
                return True
            if isinstance(ref, ast.Ref) and isinstance(other, ast.Scalar) and self.is_unused(ref.terms[-1]):
                return self.is_index_path(ast.Ref(ref.terms[:-1], ref.loc))
        return False

    def is_only_looked_up(self, expr: ast.Expr, before: ast.Body, first: ast.Body) -> bool:
        """Whether the index asks less of a path than the expression does; if so, what it asks is checked here."""
        node = expr.node
        items: list[ast.Term] = []
        if isinstance(node, ast.Ref):
            if all(earlier in first for earlier in before):
                return False  # nothing could fail before it
            ref: ast.Term = node
        else:
            assert isinstance(node, ast.Call)
            a, b = node.args
            ref, other = (a, b) if isinstance(a, ast.Ref) else (b, a)
            if not isinstance(ref, ast.Ref) or not self.is_index_path(ref):
                return False
            items = other.items if isinstance(other, ast.ArrayTerm) else []
            names = [item.name for item in items or [other] if isinstance(item, ast.Var)]
            # To the index a variable is anything, also where it stands twice.
            if len(set(names)) == len(names) and not any(
                name in self.bound and name not in self.known for name in names
            ):
                return False
        assert isinstance(ref, ast.Ref)
        text, _ = self.ref(ref)
        value = self.name(text)
        self.fail_if(f"{value} is U")
        if items:
            self.fail_if(f"type({value}) is not list or len({value}) != {len(items)}")
        for i, item in enumerate(items):
            if isinstance(item, ast.Scalar):
                self.fail_if(f"not equal({value}[{i}], {self.value(item)})")
        return True

    def is_index_path(self, ref: ast.Ref) -> bool:
        """Whether a ref is a path without variables into `input`, or into `data` where there are no rules."""
        head, *steps = ref.terms
        if not isinstance(head, ast.Var) or not all(isinstance(step, ast.Scalar) for step in steps):
            return False
        if head.name == "input":
            return True
        if head.name != "data":
            return False
        node: Node | None = self.gen.root
        for step in steps:
            node = node.children.get(key(step.value)) if node is not None and isinstance(step, ast.Scalar) else None
            if node is None:
                return True
            if node.rules:
                return False
        return False

    def is_indexed_check(self, expr: ast.Expr) -> bool:
        """Calls that the index answers itself for a known value: they cannot fail there, whatever the value's type."""
        node = expr.node
        if expr.negated or expr.withs or not isinstance(node, ast.Call):
            return False
        if node.name == _MEMBER and len(node.args) == 2:
            item, container = node.args
            scalar = isinstance(item, ast.Scalar) or (isinstance(item, ast.Var) and item.name in self.scalars)
            if scalar and self.is_from_index(container) and not self.is_argument(container):
                return True
            return self.has_index_members(container) and self.is_from_index(item)
        if node.name in _AFFIX and len(node.args) == 2:
            value, constant = node.args
            return self.is_from_index(value) and not self.is_argument(value) and bool(self.affixes(node))
        if node.name == "glob.match" and len(node.args) == 3:
            constant, delimiters, value = node.args
            if not isinstance(delimiters, ast.ArrayTerm) or not all(
                isinstance(d, ast.Scalar) for d in delimiters.items
            ):
                return False
            if not isinstance(constant, ast.Scalar) or not _is_simple_glob(constant.value, delimiters):
                return False
            return type(constant.value) is str and self.is_from_index(value)
        return False

    def affixes(self, call: ast.Call) -> tuple[str, ...]:
        """The constant strings with one of which a text has to start, or to end."""
        base = call.args[1]
        known = self.known.get(base.name) if isinstance(base, ast.Var) else base
        if known is None or not is_literal(known):
            return ()
        value = literal_value(known)
        if type(value) is str:
            return (value,)
        if call.name not in ("strings.any_prefix_match", "strings.any_suffix_match"):
            return ()
        found = tuple(runtime.values(value))
        return found if all(type(item) is str for item in found) else ()

    def tested_path(self, expr: ast.Expr) -> str:
        """The path whose beginning or end is tested, or nothing."""
        if not isinstance(expr.node, ast.Call) or expr.node.name not in _AFFIX:
            return ""
        value = expr.node.args[0]
        assert isinstance(value, ast.Var)
        return self.indexed[value.name]

    def is_argument(self, term: ast.Term) -> bool:
        return isinstance(term, ast.Var) and term.name in self.args

    def has_index_members(self, term: ast.Term) -> bool:
        """Whether the index finds all members of a known collection: scalars, and arrays of scalars."""
        known = self.known.get(term.name) if isinstance(term, ast.Var) else term
        if known is None or not is_literal(known):
            return False
        members = list(runtime.values(literal_value(known)))
        return bool(members) and not any(
            type(inner) in runtime.SIZED
            for member in members
            for inner in (member if type(member) is list else [member])
        )

    def is_from_index(self, term: ast.Term) -> bool:
        """A variable that stands for a path the index knows, or for an argument."""
        return isinstance(term, ast.Var) and term.name in self.indexed and term.name in self.bound

    def indexed_check(self, expr: ast.Expr, *, at_once: bool) -> None:
        assert isinstance(expr.node, ast.Call)
        if expr.node.name == _MEMBER:
            self.expr(expr)
            return
        if expr.node.name == "glob.match":
            pattern, delimiters, value = expr.node.args
            assert isinstance(value, ast.Var)
            assert isinstance(pattern, ast.Scalar)
            assert isinstance(delimiters, ast.ArrayTerm)
            name = self.var(value.name)
            marks = _marks(delimiters)
            if at_once or "\\" in pattern.value or len(marks) != 1:
                self.fail_if(f"type({name}) is not str")
            else:
                self.fail_if(f"type({name}) is not str or not fits_glob({name}, {pattern.value!r}, {marks!r})")
            return
        value = expr.node.args[0]
        assert isinstance(value, ast.Var)
        bases = self.gen.constant(found := self.affixes(expr.node), f"affixes {found!r}")
        # If nothing runs before it, the call itself says it of a string.
        other = f"type({self.var(value.name)}) is not str and " if at_once else ""
        self.fail_if(f"{other}not has_affix({self.var(value.name)}, {bases}, {_AFFIX[expr.node.name]!r})")

    def expr(self, expr: ast.Expr) -> None:
        self.covered(expr.loc)
        outer = self.c
        if expr.withs:
            self.c = self.with_context(expr)
        if expr.negated:
            self.negated(expr)
        else:
            self.positive(expr)
        self.c = outer

    def positive(self, expr: ast.Expr) -> None:
        node = expr.node
        match node:
            case ast.Call():
                self.call(node, expr)
            case ast.Every():
                self.every(node)
            case ast.SomeDecl():
                pass
            case ast.Scalar():
                if node.value is False:
                    self.line(self.fail)
            case ast.Var() | ast.Ref():
                text, undefined = self.ref(node) if isinstance(node, ast.Ref) else (self.var(node.name), False)
                self.fail_if(f"{text} is False or {text} is U" if undefined else f"{text} is False")
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                self.comprehension(node)
            case _:
                self.value(node)

    def negated(self, expr: ast.Expr) -> None:
        found = self.temp()
        inner = ast.Expr(expr.node, expr.loc)
        self.search(found, lambda: self.positive(inner))
        self.fail_if(found)

    def search(self, found: str, body: Callable[[], None]) -> None:
        """Sets a flag to whether a body has a solution; what it binds is forgotten."""
        bound = set(self.bound)
        contexts = dict(self.contexts)
        if len(self.blocks) >= SPLIT_BLOCKS:
            name = self.temp()
            with self.function(f"def {name}():"):
                self.line(f"{found} = False")
                self.open_body()
                body()
                self.close_body(found)
                self.line(f"return {found}")
            self.line(f"{found} = {name}()")
        else:
            self.line(f"{found} = False")
            self.open_body()
            body()
            self.close_body(found)
        self.bound = bound
        self.contexts = contexts

    def every(self, node: ast.Every) -> None:
        domain = self.name(self.value(node.domain))
        self.fail_if(f"not is_collection({domain})")
        failed = self.temp()

        def counterexample() -> None:
            self.iterate(domain, node.key or ast.Var("$", node.loc), node.value)
            found = self.temp()
            self.search(found, lambda: self.body(node.body))
            self.fail_if(found)

        self.search(failed, counterexample)
        self.fail_if(failed)

    def name(self, text: str) -> str:
        """A Python name for an expression."""
        if text.isidentifier() and not keyword.iskeyword(text):
            return text
        name = self.temp()
        self.line(f"{name} = {text}")
        return name

    def iterate(self, container: str, step: ast.Term, item: ast.Term | None) -> str:
        """Opens a loop over a collection: binds the step, and the item if it is a variable; gives the item's name."""
        free_item = isinstance(item, ast.Var) and item.name not in self.bound
        value = self.var(item.name) if isinstance(item, ast.Var) and free_item else self.temp()
        if self.is_unused(step) or (isinstance(step, ast.Var) and step.name == "$"):
            container = self.name(container)
            self.open_for(f"for {value} in {container} if type({container}) is list else values({container}):")
            if isinstance(item, ast.Var) and free_item:
                self.bound.add(item.name)
            return value
        free_step = isinstance(step, ast.Var) and step.name not in self.bound
        at = self.var(step.name) if isinstance(step, ast.Var) and free_step else self.temp()
        self.open_for(f"for {at}, {value} in items({container}):")
        if isinstance(step, ast.Var) and free_step:
            self.bound.add(step.name)
            if isinstance(item, ast.Var) and item.name == step.name:
                self.fail_if(f"not equal({at}, {value})")
        else:
            self.match(step, at)
        if isinstance(item, ast.Var) and free_item:
            self.bound.add(item.name)
        return value

    # With ---------------------------------------------------------------------------------------------------------

    def with_context(self, expr: ast.Expr) -> str:
        known = self.contexts.get(id(expr.withs))
        if known is not None:
            return known
        changes: list[str] = []
        for modifier in expr.withs:
            target = modifier.target
            assert isinstance(target, ast.Ref)
            head = target.terms[0]
            assert isinstance(head, ast.Var)
            name = ast.ref_name(target)
            if head.name == "input":
                changes.append(f'("input", {self.path(target.terms[1:])}, {self.value(modifier.value)})')
            elif name in self.gen.targets.mocks:
                changes.append(f'("mock", ({name!r},), {self.replacement(modifier.value)})')
            else:
                changes.append(f'("data", {self.path(target.terms[1:])}, {self.value(modifier.value)})')
        context = self.temp()
        self.line(f"{context} = {self.c}.derive(({', '.join(changes)},))")
        self.contexts[id(expr.withs)] = context
        return context

    def path(self, steps: list[ast.Term]) -> str:
        return "(" + "".join([f"{self.key(step)}, " for step in steps]) + ")"

    def replacement(self, value: ast.Term) -> str:
        if isinstance(value, ast.Ref):
            name = ast.ref_name(value)
            if is_data_ref(value):
                node = self.gen.root.find(ground_prefix(value.terms[1:]))
                if node is not None and node.is_function:
                    return f"(True, g{node.group})"
            elif name in DECLARED:
                return f"(True, {self.builtin_wrapper(name, value.loc)})"
        return f"(False, {self.value(value)})"

    def builtin_wrapper(self, name: str, loc: ast.Location) -> str:
        function = self.builtin(name, loc)
        wrapper = self.temp()
        with self.function(f"def {wrapper}(c, *args):"):
            self.line("try:")
            self.line(f"\treturn {function}(c.q, *args)")
            self.line("except BuiltinError as e:")
            self.line(f"\tc.q.failed(e, {name!r}, {self.gen.place(loc)})")
            self.line("\treturn U")
        return wrapper

    # Refs -----------------------------------------------------------------------------------------------------------

    def ref(self, ref: ast.Ref) -> tuple[str, bool]:
        """Evaluates a ref, opening loops for its unbound variables: a Python name, and whether it may be undefined."""
        head, *steps = ref.terms
        if isinstance(head, ast.Var) and head.name == "input":
            return self.input_ref(ref, steps)
        if isinstance(head, ast.Var) and head.name == "data" and "data" not in self.bound:
            return self.data_ref(steps)
        if not steps:
            return self.value(head), False
        return self.descend(self.name(self.value(head)), steps, undefined=False)

    def input_ref(self, ref: ast.Ref, steps: list[ast.Term]) -> tuple[str, bool]:
        if self.c == "c":
            for length in range(len(steps), 0, -1):
                path = input_path(ast.Ref(ref.terms[: length + 1], ref.loc))
                if path is not None and path in self.hoisted:
                    return self.descend(self.hoisted[path], steps[length:], undefined=True)
        return self.descend(f"{self.c}.input", steps, undefined=True)

    def lookup_path(self, name: str, base: str, path: Iterable[str], *, stored: bool = False) -> None:
        """The value along a path of strings."""
        steps = list(path)
        subscripts = "".join([f"[{step!r}]" for step in steps])
        self.line(f"try: {name} = {base}{subscripts}")
        self.line(f"except KeyError: {name} = U")
        slow = "lookup" if not stored else "lookup_stored"
        self.line(f"except TypeError: {name} = {slow}({base}, {self.gen.constant(tuple(steps), f'path {steps!r}')})")

    def descend(self, value: str, steps: list[ast.Term], *, undefined: bool, stored: bool = False) -> tuple[str, bool]:
        """Goes down a plain value along steps; `stored`: it is a base document, where numbers name keys, too."""
        at = 0
        while at < len(steps):
            names: list[str] = []
            while (
                at + len(names) < len(steps)
                and isinstance(step := steps[at + len(names)], ast.Scalar)
                and type(step.value) is str
            ):
                names.append(step.value)
            if names:
                found = self.temp()
                self.lookup_path(found, value, names, stored=stored)
                value, undefined = found, True
                at += len(names)
                continue
            step = steps[at]
            at += 1
            if self.is_bound(step):
                found = self.temp()
                self.line(f"{found} = {'index_stored' if stored else 'index'}({value}, {self.value(step)})")
                value, undefined = found, True
            else:
                value = self.iterate(value, step, None)
                undefined = False
        return value, undefined

    def data_ref(self, steps: list[ast.Term]) -> tuple[str, bool]:
        node: Node = self.gen.root
        at = 0
        while at < len(steps) and node.group < 0:
            step = steps[at]
            if not isinstance(step, ast.Scalar):
                break
            child = node.children.get(key(step.value))
            if child is None:
                return self.base_ref(node, steps, at)
            node = child
            at += 1
        if node.group >= 0:
            return self.group_ref(self.gen.groups[node.group], steps[at:])
        return self.dynamic_ref(node, steps[at:])

    def base_ref(self, node: Node, steps: list[ast.Term], at: int) -> tuple[str, bool]:
        if at == 0 and not steps:
            return self.dynamic_ref(node, [])
        return self.descend(f"{self.c}.data", steps, undefined=True, stored=True)

    def group_ref(self, group: Group, steps: list[ast.Term]) -> tuple[str, bool]:
        number = group.number
        if group.kind == "function":
            return "U", True
        found = self.temp()
        constant = self.gen.constant_value(group)
        if constant is not None:
            self.line(f"{found} = {self.value(constant)}")
            return self.descend(found, steps, undefined=False)
        if steps and group.kind in ("set", "object") and self.is_bound(steps[0]):
            self.gen.keyed.add(number)
            self.line(f"{found} = k{number}({self.c}, {self.value(steps[0])})")
            return self.descend(found, steps[1:], undefined=True)
        self.line(f"{found} = {self.c}.memo[{number}]")
        self.line(f"if {found} is M: {found} = g{number}({self.c})")
        patched = self.gen.targets.touch(group.node.path)
        return self.descend(found, steps, undefined=group.kind == "complete" or patched)

    def dynamic_ref(self, node: Node, steps: list[ast.Term]) -> tuple[str, bool]:
        """A ref that ends, or goes on with a variable, above the documents that rules define."""
        node_name = self.gen.constant(node, f"node {node.path!r}")
        path = self.gen.constant(node.path, f"path {node.path!r}")
        base = f"base_at({self.c}, {path})"
        if not steps:
            found = self.temp()
            self.line(f"{found} = extent({self.c}, {node_name}, {base})")
            return found, True
        free: list[ast.Term] = []
        given: list[str] = []
        bound = set(self.bound)
        for step in steps:
            if self.is_bound(step) and all(name in bound for name in all_vars([step])):
                given.append(self.value(step))
            else:
                given.append("FREE")
                free.append(step)
        taken, found = self.temp(), self.temp()
        self.open_for(f"for {taken}, {found} in dynamic({self.c}, {node_name}, {base}, ({', '.join(given)},)):")
        for i, step in enumerate(free):
            part = self.temp()
            self.line(f"{part} = {taken}[{i}]")
            self.match(step, part)
        return found, False

    # Comprehensions -----------------------------------------------------------------------------------------------------

    def comprehension(self, term: ast.Comprehension) -> str:
        acc = self.temp()
        empty = "[]" if isinstance(term, ast.ArrayComprehension) else "{}"
        bound, contexts = set(self.bound), dict(self.contexts)

        def write() -> None:
            self.line(f"{acc} = {empty}")
            self.open_body()
            self.body(term.body)
            match term:
                case ast.ArrayComprehension():
                    self.line(f"{acc}.append({self.value(term.term)})")
                case ast.SetComprehension():
                    self.add_member(acc, term.term)
                case ast.ObjectComprehension():
                    at = self.gen.place(term.loc)
                    self.line(f"put({acc}, q, {self.value(term.key)}, {self.value(term.value)}, {at})")
            self.close_body()

        if len(self.blocks) >= SPLIT_BLOCKS:
            name = self.temp()
            with self.function(f"def {name}():"):
                write()
                self.line(f"return {acc}")
            self.line(f"{acc} = {name}()")
        else:
            write()
        self.bound, self.contexts = bound, contexts
        if isinstance(term, ast.SetComprehension):
            self.line(f"{acc} = RegoSet.of({acc})")
        return acc

    def add_member(self, acc: str, term: ast.Term) -> None:
        if isinstance(term, ast.Scalar) and type(term.value) in (str, int):
            text = self.literal(term.value)
            self.line(f"{acc}[{text}] = {text}")
            return
        if is_literal(term):
            member = literal_value(term)
            kept = self.gen.constant(member, f"literal {type(term).__name__} {term_text(term)}")
            named = self.gen.constant(key(member), f"key {type(term).__name__} {term_text(term)}")
            self.line(f"{acc}[{named}] = {kept}")
            return
        if isinstance(term, (ast.ArrayTerm, ast.ObjectTerm)):
            value = self.name(self.value(term))
            self.line(f"{acc}[key({value})] = {value}")
            return
        value = self.name(self.value(term))
        self.line(f"{acc}[{value} if type({value}) is str else key({value})] = {value}")

    # Calls ------------------------------------------------------------------------------------------------------------

    def call(self, call: ast.Call, expr: ast.Expr) -> None:
        name = call.name
        if name == "eq" and len(call.args) == 2:
            self.equation(call.args[0], call.args[1])
            return
        if name == PRINT:
            self.print(call)
            return
        count = self.gen.arity(call.op)
        args, output = call.args[:count], call.args[count] if len(call.args) > count else None
        result, plain = self.call_value(call, name, args, expr.loc)
        if output is not None:
            value = result
            if plain == "maybe":
                value = self.name(result)
                self.fail_if(f"{value} is U")
            if self.is_unused(output):
                if not value.isidentifier():
                    self.line(value)
                return
            free = isinstance(output, ast.Var) and output.name not in self.bound
            self.match(output, value if free else self.name(value))
            return
        if plain == "boolean":
            self.fail_if(f"not {result}")
        elif plain == "value":
            self.fail_if(f"{self.name(result)} is False")
        else:
            value = self.name(result)
            self.fail_if(f"{value} is False or {value} is U")

    def call_value(self, call: ast.Call, name: str, args: list[ast.Term], loc: ast.Location) -> tuple[str, str]:
        """A Python expression for a call, and what it is: a `boolean`, a `value`, or `maybe` a value."""
        texts = [self.value(arg) for arg in args]
        mocked = name in self.gen.targets.mocks
        if is_data_ref(call.op):
            node = self.gen.root.find(ground_prefix(call.op.terms[1:]))
            if node is None or node.group < 0:
                return "U", "maybe"
            plain = f"g{node.group}({', '.join([self.c, *texts])})"
            if not mocked:
                return plain, "maybe"
            return self.mockable(name, texts, lambda result: self.line(f"{result} = {plain}")), "maybe"
        if mocked:
            return self.mockable(name, texts, lambda result: self.builtin_call(result, name, texts, loc)), "maybe"
        inline = self.inline(name, args, texts)
        if inline is not None:
            return inline
        found = DECLARED.get(name)
        if found is not None and found.relation:
            results = self.temp()
            self.builtin_call(results, name, texts, loc)
            self.fail_if(f"{results} is U")
            item = self.temp()
            self.open_for(f"for {item} in {results}:")
            return item, "value"
        result = self.temp()
        self.builtin_call(result, name, texts, loc)
        return result, "maybe"

    def mockable(self, name: str, texts: list[str], original: Callable[[str], None]) -> str:
        mock, result = self.temp(), self.temp()
        self.line(f"{mock} = {self.c}.mocks.get({name!r}) if {self.c}.mocks else None")
        self.line(f"if {mock} is None:")
        self.indent += 1
        original(result)
        self.indent -= 1
        arguments = "".join([f"{text}, " for text in texts])
        self.line(f"else: {result} = call_mock({self.c}, {mock}, ({arguments}))")
        return result

    def builtin(self, name: str, loc: ast.Location) -> str:
        function = self.gen.builtins.get(name)
        if function is None:
            message = f"built-in function {name} is not supported by this engine"
            raise CompileError([Problem.at(loc, COMPILE, message)])
        self.gen.used_builtins.add(name)
        linked = "b_" + name.replace(".", "_")
        self.gen.program.namespace[linked] = function
        return linked

    def builtin_call(self, result: str, name: str, texts: list[str], loc: ast.Location) -> None:
        if name == TEMPLATE:
            self.line(f"{result} = shown({texts[0]})")
            return
        function = self.builtin(name, loc)
        quick = self.quick(name, texts)
        if quick is not None:
            self.line(f"if {quick[0]}: {result} = {quick[1]}")
            self.line("else:")
            self.indent += 1
        self.line(f"try: {result} = {function}({', '.join(['q', *texts])})")
        self.line("except BuiltinError as e:")
        self.line(f"\tq.failed(e, {name!r}, {self.gen.place(loc)})")
        self.line(f"\t{result} = U")
        if quick is not None:
            self.indent -= 1

    def quick(self, name: str, texts: list[str]) -> tuple[str, str] | None:
        """For operands of everyday types, a condition and the result, written out."""
        if not all(text.isidentifier() or text[:1] in "'\"0123456789" for text in texts):
            return None
        if name in _ARITHMETIC:
            a, b = texts
            tests = [f"type({text}) is int" for text in texts if text.isidentifier()]
            return " and ".join(tests) or "True", f"{a} {_ARITHMETIC[name]} {b}"
        if name == "count" and texts[0].isidentifier():
            return f"type({texts[0]}) in SIZED", f"len({texts[0]})"
        if name in ("startswith", "endswith", "contains"):
            # Text beyond ASCII may not be Unicode, which the builtin looks at.
            tests = [f"type({text}) is str and {text}.isascii()" for text in texts if text.isidentifier()]
            if not all(
                text.isidentifier() or (text[0] in "'\"" and text.isascii() and "\\" not in text) for text in texts
            ):
                return None
            a, b = texts
            return " and ".join(tests) or "True", f"{b} in {a}" if name == "contains" else f"{a}.{name}({b})"
        return None

    def inline(self, name: str, args: list[ast.Term], texts: list[str]) -> tuple[str, str] | None:
        """Operators that cannot fail, written out."""
        if name in ("internal.member_2", "internal.member_3"):
            self.gen.used_builtins.add(name)
            return f"{'member' if len(args) == 2 else 'member_at'}({', '.join(texts)})", "boolean"
        if name in _TYPE_TESTS and texts[0].isidentifier() and texts[0] not in ("None", "True", "False"):
            self.gen.used_builtins.add(name)
            return f"({_TYPE_TESTS[name].format(texts[0])})", "boolean"
        if len(args) != 2:
            return None
        a, b = args
        x, y = texts
        if name in _ARITHMETIC and all(isinstance(arg, ast.Scalar) and type(arg.value) is int for arg in args):
            self.gen.used_builtins.add(name)
            folded = {"plus": int.__add__, "minus": int.__sub__, "mul": int.__mul__}[name](
                literal_value(a), literal_value(b)
            )
            return self.literal(folded), "value"
        if name in ("equal", "neq"):
            if isinstance(b, ast.Scalar) and not isinstance(a, ast.Scalar):
                differs = self.unequal(self.name(x), b)
            elif isinstance(a, ast.Scalar):
                differs = self.unequal(self.name(y), a)
            else:
                differs = self.unequal(self.name(x), b)
            return (f"({differs})" if name == "neq" else f"(not ({differs}))"), "boolean"
        if name in _COMPARE:
            sign = _COMPARE[name]
            known = [isinstance(arg, ast.Scalar) and type(arg.value) is int for arg in args]
            tests = [f"type({text}) is int" for text, is_int in zip(texts, known, strict=True) if not is_int]
            simple = all(text.isidentifier() for text, is_int in zip(texts, known, strict=True) if not is_int)
            if simple and not all(known):
                return f"({x} {sign} {y} if {' and '.join(tests)} else compare({x}, {y}) {sign} 0)", "boolean"
            return f"(compare({x}, {y}) {sign} 0)", "boolean"
        return None

    def print(self, call: ast.Call) -> None:
        array = call.args[0]
        assert isinstance(array, ast.ArrayTerm)
        self.line("if q.on_print is not None:")
        self.indent += 1
        parts = [self.comprehension(item) for item in array.items if isinstance(item, ast.SetComprehension)]
        shown = "".join([f"{part}.sorted(), " for part in parts])
        self.line(f"print_line(q, ({shown}), {self.gen.place(call.loc)})")
        self.indent -= 1

    # Equations ----------------------------------------------------------------------------------------------------------

    def equation(self, left: ast.Term, right: ast.Term) -> None:
        pairs = [(left, right)]
        while pairs:
            for i, (a, b) in enumerate(pairs):
                more = self.equate(a, b)
                if more is not None:
                    pairs[i : i + 1] = more
                    break
            else:
                raise AssertionError(f"no order for {term_text(left)} = {term_text(right)}")

    def equate(self, a: ast.Term, b: ast.Term) -> list[tuple[ast.Term, ast.Term]] | None:
        """Writes one equation; gives the equations that are left to do, or None if it is not possible yet."""
        a_value, b_value = self.has_value(a), self.has_value(b)
        if a_value and b_value:
            self.compare(a, b)
            return []
        if b_value:
            self.match_term(a, b)
            return []
        if a_value:
            self.match_term(b, a)
            return []
        if isinstance(a, ast.ArrayTerm) and isinstance(b, ast.ArrayTerm):
            if len(a.items) != len(b.items):
                self.line(self.fail)
                self.bind_all(a, b)
                return []
            return list(zip(a.items, b.items, strict=True))
        if isinstance(a, ast.ObjectTerm) and isinstance(b, ast.ObjectTerm):
            return self.equate_objects(a, b)
        if isinstance(a, ast.Var) or isinstance(b, ast.Var):
            return None
        self.line(self.fail)
        self.bind_all(a, b)
        return []

    def equate_objects(self, a: ast.ObjectTerm, b: ast.ObjectTerm) -> list[tuple[ast.Term, ast.Term]]:
        others = {term_text(k): v for k, v in b.pairs}
        if len(a.pairs) != len(b.pairs) or any(term_text(k) not in others for k, _ in a.pairs):
            self.line(self.fail)
            self.bind_all(a, b)
            return []
        return [(v, others[term_text(k)]) for k, v in a.pairs]

    def bind_all(self, *terms: ast.Term) -> None:
        """After a certain failure nothing runs, but the code that follows names these variables."""
        for name in sorted(all_vars(terms) - self.bound):
            self.line(f"{self.var(name)} = U")
            self.bound.add(name)

    def has_value(self, term: ast.Term) -> bool:
        """Whether a term can be evaluated (a ref always can, opening loops)."""
        return isinstance(term, (ast.Ref, *ast.COMPREHENSIONS)) or self.is_bound(term)

    def compare(self, a: ast.Term, b: ast.Term) -> None:
        if isinstance(a, ast.Ref):
            a, b = (b, a) if not isinstance(b, ast.Ref) else (a, b)
        if isinstance(b, ast.Ref):
            if isinstance(a, ast.Ref):
                left, undefined = self.ref(a)
                if undefined:
                    self.fail_if(f"{left} is U")
                right, _ = self.ref(b)
                self.fail_if(f"{right} is U or not equal({left}, {right})")
                return
            if not isinstance(a, (ast.Scalar, ast.Var)):
                a_name = self.name(self.value(a))
                right, _ = self.ref(b)
                self.fail_if(f"{right} is U or not equal({right}, {a_name})")
                return
            right, _ = self.ref(b)
            self.fail_if(self.unequal(right, a))
            return
        left = self.name(self.value(a))
        self.fail_if(self.unequal(left, b))

    def match_term(self, pattern: ast.Term, source: ast.Term) -> None:
        """Matches a pattern with unbound variables against a term that has a value."""
        if isinstance(source, ast.Ref):
            if self.iterates_into(pattern, source):
                return
            value, undefined = self.ref(source)
            if undefined:
                value = self.name(value)
                self.fail_if(f"{value} is U")
            self.match(pattern, value)
            return
        value = self.value(source)
        if not isinstance(pattern, ast.Var):
            value = self.name(value)
        self.match(pattern, value)

    def iterates_into(self, pattern: ast.Term, ref: ast.Ref) -> bool:
        """`x = xs[_]`: the loop's variable is x itself."""
        head, *steps = ref.terms
        if not (isinstance(pattern, ast.Var) and pattern.name not in self.bound and steps):
            return False
        last = steps[-1]
        if self.is_bound(last) or pattern.name in all_vars([ref]):
            return False
        if isinstance(head, ast.Var) and head.name in ("data",) and not self.ends_in_value(steps[:-1]):
            return False
        prefix = ast.Ref(ref.terms[:-1], ref.loc)
        container, _ = self.ref(prefix)
        self.iterate(container, last, pattern)
        return True

    def ends_in_value(self, steps: list[ast.Term]) -> bool:
        """Whether a path into `data` ends inside of one rule's document, or outside of all rules."""
        node: Node | None = self.gen.root
        for step in steps:
            if node is None or node.group >= 0:
                return True
            if not isinstance(step, ast.Scalar):
                return False
            node = node.children.get(key(step.value))
        return node is None or node.group >= 0


__all__ = ["CodeGenerator", "Group", "Program", "Targets"]
