"""OPA's type checker: refs to what cannot exist, calls with arguments of the wrong type, equations that cannot hold.

Rules are checked in the order of their dependencies, so that the types of the documents they refer to are known. Base
documents are unknown and can be anything; `input` is, unless a schema says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.rego import ast
from gateway.rego.errors import TYPE, Problem
from gateway.rego.literals import is_literal, literal_value
from gateway.rego.locals import Names
from gateway.rego.parser import is_ground
from gateway.rego.printer import term_text
from gateway.rego.ruletree import Graph, Node, rules_reached
from gateway.rego.safety import all_vars
from gateway.rego.types import (
    ANY,
    NUMBER,
    STRING,
    AnyOf,
    Array,
    Function,
    Object,
    Set,
    Type,
    builtin_type,
    is_empty_collection,
    is_nil,
    keys_of,
    merge,
    schema_type,
    select,
    type_of,
    unifies,
    union,
    values_of,
)
from gateway.rego.values import Key, Value, key, unkey

_ROOTS = ("input", "data")


@dataclass(slots=True)
class _Mismatch:
    """An error that may only be the consequence of another one."""

    problem: Problem
    unknown: bool


@dataclass(slots=True, eq=False)
class _TypeNode:
    """One step of a path, with the type of what is there."""

    value: Type | None = None
    children: dict[Any, _TypeNode] = field(default_factory=dict)

    def put(self, path: list[Any], of: Type | None) -> None:
        node = self
        for step in path:
            below = node.children.get(step)
            if below is None:
                below = node.children[step] = _TypeNode()
            node = below
        node.value = of

    def insert(self, path: list[Any], of: Type) -> None:
        """Adds a rule's type, and merges it into the objects around it."""
        node = self
        for i, step in enumerate(path):
            below = node.children.get(step)
            if below is None:
                below = node.children[step] = _TypeNode()
            elif below.value is not None and i + 1 < len(path) and isinstance(below.value, Object):
                below.value = _insert(below.value, path[i + 1 :], of)
            node = below
        node.value = merge(node.value, of)
        if isinstance(of, Object) and node.children:
            current = node.value
            for steps, leaf in list(node.leaves(())):
                if isinstance(current, Object):
                    current = _insert(current, list(steps), leaf)
            node.value = current

    def leaves(self, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Type]]:
        for step, below in self.children.items():
            if below.value is not None:
                yield (*path, step), below.value
            else:
                yield from below.leaves((*path, step))


def _insert(of: Object, path: list[Any], leaf: Type | None) -> Object:
    if not path:
        return of
    step = type_of(unkey(path[0])) if not isinstance(path[0], tuple) else ANY
    value = leaf if len(path) == 1 else _insert(Object(), path[1:], leaf)
    if of.dynamic is not None:
        return Object(of.static, (union(of.dynamic[0], step), union(of.dynamic[1], value)))
    return Object(of.static, (step, value))


def _step(term: ast.Term) -> Any:
    if isinstance(term, ast.Scalar):
        return key(term.value)
    return ("var", term.name) if isinstance(term, ast.Var) else ("term", term_text(term))


class _Env:
    """Types of documents and variables, in layers."""

    __slots__ = ("checker", "next", "tree", "vars")

    def __init__(self, checker: TypeChecker, following: _Env | None, *, share: bool = False) -> None:
        self.checker = checker
        self.next = following
        self.tree = _TypeNode()
        self.vars: _TypeNode = following.vars if share and following is not None else self.tree

    def set_var(self, name: str, of: Type | None) -> None:
        step = ("var", name)
        found = self.vars.children.get(step)
        if found is None:
            self.vars.children[step] = _TypeNode(of)
        else:
            found.value = of

    def var(self, name: str) -> Type | None:
        step = ("var", name)
        env: _Env | None = self
        while env is not None:
            found = env.tree.children.get(step)
            if found is not None:
                return found.value
            env = env.next
        return None

    def of(self, term: ast.Term) -> Type | None:
        """The type of a term, as far as it is known."""
        match term:
            case ast.Scalar():
                return type_of(term.value)
            case ast.TemplateString():
                return STRING
            case ast.Var():
                return self.var(term.name)
            case ast.Ref():
                return self.of_ref(term)
            case ast.ArrayTerm():
                return Array(tuple([self.of(item) for item in term.items]))
            case ast.ObjectTerm():
                static: dict[Key, Type | None] = {}
                dynamic: tuple[Type | None, Type | None] | None = None
                for k, v in term.pairs:
                    if is_literal(k):
                        static[key(literal_value(k))] = self.of(v)
                    else:
                        dynamic = (self.of(k), self.of(v))
                return Object(tuple(sorted(static.items(), key=lambda item: str(item[0]))), dynamic)
            case ast.SetTerm():
                of: Type | None = None
                for item in term.items:
                    of = union(of, self.of(item))
                return Set(of)
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                return self.of_comprehension(term)
            case ast.Call():
                return None

    def of_comprehension(self, term: ast.Comprehension) -> Type | None:
        env, problems = self.checker.body(self, term.body)
        if problems:
            return None
        match term:
            case ast.ArrayComprehension():
                return Array((), env.of(term.term))
            case ast.SetComprehension():
                return Set(env.of(term.term))
            case ast.ObjectComprehension():
                return Object((), (env.of(term.key), env.of(term.value)))

    def of_ref(self, ref: ast.Ref) -> Type | None:
        head = ref.terms[0]
        env: _Env | None = self
        step = _step(head)
        while env is not None:
            node = env.tree.children.get(step)
            if node is not None:
                found, ok = env.descend(node, ref.terms[1:])
                if ok:
                    return found
            env = env.next
        if isinstance(head, ast.Var):
            if head.name in _ROOTS:
                return ANY
            return builtin_type(ast.ref_name(ref))
        return None

    def descend(self, node: _TypeNode, tail: list[ast.Term]) -> tuple[Type | None, bool]:
        """The type below a node; False: this layer does not know the path."""
        while tail:
            if node.value is not None:
                below = node.children.get(_step(tail[0]))
                if below is None:
                    return select_path(node.value, tail), True
            elif not isinstance(tail[0], ast.Scalar):
                return select_path(extent(node), tail), True
            else:
                below = node.children.get(_step(tail[0]))
                if below is None:
                    return None, False
            node, tail = below, tail[1:]
        return extent(node), True


def extent(node: _TypeNode) -> Type | None:
    """The type of the whole document at a node."""
    if node.value is not None:
        return node.value
    static = [(step, extent(below)) for step, below in node.children.items() if not isinstance(step, tuple)]
    return Object(tuple(static), (STRING, ANY))


def select_path(of: Type | None, tail: list[ast.Term]) -> Type | None:
    for term in tail:
        if of is None:
            return None
        of = select(of, key(term.value)) if isinstance(term, ast.Scalar) else values_of(of)
    return of


class TypeChecker:
    def __init__(self, root: Node, names: Names, input_schema: Value) -> None:
        self.root = root
        self.names = names
        self.env = _Env(self, None)
        if input_schema is not None:
            self.env.tree.put([("var", "input")], schema_type(input_schema))
        self.problems: list[Problem] = []
        self.dependents: dict[int, list[ast.Rule]] | None = None
        self.graph: Graph | None = None

    # Entry points -------------------------------------------------------------------------------------------------

    def check_rules(self, graph: Graph) -> list[Problem]:
        """Checks all rules; what is learnt stays for queries."""
        self.graph = graph
        self.env = _Env(self, self.env)
        for rule in _sorted(graph):
            self.rule(rule)
        return self.problems

    def check_body(self, body: ast.Body) -> list[Problem]:
        return self.body(self.env, body)[1]

    def arity_problem(self, expr: ast.Expr, call: ast.Call, want: int, have: int) -> Problem:
        name = ast.ref_name(call.op)
        if builtin_type(name) is not None:
            return Problem.at(expr.loc, TYPE, f"{name}: arity mismatch")
        arguments = "argument" if have == 1 else "arguments"
        return Problem.at(expr.loc, TYPE, f"function {name} has arity {want}, got {have} {arguments}")

    # Rules --------------------------------------------------------------------------------------------------------

    def rule(self, rule: ast.Rule) -> None:
        head = rule.head
        env, problems = self.body(self.env, rule.body)
        self.problems += problems
        path: list[ast.Term] = list(rule.path)
        if problems:
            self.env.tree.put([("var", "data"), *[_step(term) for term in path]], ANY)
            return
        of: Type | None
        if head.args is not None:
            for arg in head.args:
                for name in all_vars([arg]):
                    if env.var(name) is None:
                        env.set_var(name, ANY)
            assert head.value is not None
            of = Function(tuple([env.of(arg) for arg in head.args]), env.of(head.value))
        elif head.multi_value:
            assert head.key is not None
            member = env.of(head.key)
            of = Set(member) if member is not None else None
        else:
            assert head.value is not None
            of = env.of(head.value)
        prefix = next((i for i, term in enumerate(path) if not isinstance(term, ast.Scalar)), len(path))
        for term in reversed(path[prefix:]):
            step = env.of(term)
            of = Object((), (step, of)) if of is not None and step is not None else None
        if of is not None:
            self.env.tree.insert([("var", "data"), *[_step(term) for term in path[:prefix]]], of)

    # Bodies -------------------------------------------------------------------------------------------------------

    def body(self, outer: _Env, body: ast.Body) -> tuple[_Env, list[Problem]]:
        """Checks a body: an environment that knows its variables, and what is wrong."""
        env = _Env(self, outer)
        problems: list[Problem] = []
        for expr in body:
            local = self.with_env(env, expr) if expr.withs else env
            closures = self.closures(local, expr)
            problems += closures
            refs = _RefChecker(self, local)
            refs.expr(expr)
            problems += refs.problems
            mismatch = self.expr(local, expr)
            if mismatch is not None and not (mismatch.unknown and (closures or refs.problems)):
                problems.append(mismatch.problem)
        return env, problems

    def closures(self, env: _Env, expr: ast.Expr) -> list[Problem]:
        found: list[Problem] = []
        bodies = [expr]
        while bodies:
            current = bodies.pop()
            if isinstance(current.node, ast.Every):
                bodies += current.node.body
                terms: list[ast.Term] = [current.node.domain]
            else:
                terms = ast.expr_terms(current)
            for term in terms:
                for inner in ast.walk_terms(term, closures=False):
                    if isinstance(inner, ast.COMPREHENSIONS):
                        problems = self.body(env, inner.body)[1]
                        if problems:
                            found = problems
        return found

    def with_env(self, env: _Env, expr: ast.Expr) -> _Env:
        """The types of documents where `with` replaces some of them."""
        replaced: list[tuple[list[Any], Type | None]] = []
        layer = env
        for modifier in expr.withs:
            target = modifier.target
            if not isinstance(target, ast.Ref):
                continue
            target_type = env.of_ref(target)
            function = isinstance(target_type, Function)
            dependents = self.rules_depending_on(target)
            if dependents:
                layer = _Env(self, layer, share=True)
                for rule in dependents:
                    prefix = [term for term in rule.path if isinstance(term, ast.Scalar)]
                    if function and term_text(ast.Ref([target.terms[0], *rule.path], target.loc)) == term_text(target):
                        continue
                    layer.tree.put([("var", "data"), *[_step(term) for term in prefix]], ANY)
            if not function:
                of: Type | None = ANY
                if is_ground(target) and target_type is not None:
                    value = env.of(modifier.value)
                    if value is not None:
                        of = union(target_type, value) or ANY
                ground = [term for term in target.terms if isinstance(term, (ast.Scalar, ast.Var))]
                replaced.append(([_step(term) for term in ground], of))
        if not replaced:
            return layer
        layer = _Env(self, layer, share=True)
        for path, of in replaced:
            layer.tree.put(path, of)
        return layer

    def rules_depending_on(self, target: ast.Ref) -> list[ast.Rule]:
        """The rules a ref reaches, and all that depend on them."""
        head = target.terms[0]
        if self.graph is None or not isinstance(head, ast.Var) or head.name != "data":
            return []
        if self.dependents is None:
            self.dependents = {}
            for rule in self.graph.rules:
                for below in self.graph.edges[id(rule)]:
                    self.dependents.setdefault(id(below), []).append(rule)
        found: list[ast.Rule] = []
        seen: set[int] = set()
        work = list(rules_reached(self.root, target))
        while work:
            rule = work.pop()
            if id(rule) not in seen:
                seen.add(id(rule))
                found.append(rule)
                work += self.dependents.get(id(rule), [])
        return found

    # Expressions --------------------------------------------------------------------------------------------------

    def expr(self, env: _Env, expr: ast.Expr) -> _Mismatch | None:
        for modifier in expr.withs:
            target_type, value_type = env.of(modifier.target), env.of(modifier.value)
            functions = isinstance(target_type, Function) and isinstance(value_type, Function)
            if functions and not unifies(target_type, value_type):
                name = term_text(modifier.target)
                return _Mismatch(Problem.at(modifier.loc, TYPE, f"{name}: arity mismatch"), False)
        node = expr.node
        if not isinstance(node, ast.Call):
            return None
        name = node.name
        if name == "eq":
            return self.equation(env, expr, node)
        if name in ("internal.member_2", "internal.member_3"):
            mismatch = self.membership(env, expr, node)
            if mismatch is not None:
                return mismatch
        return self.call(env, expr, node, name)

    def equation(self, env: _Env, expr: ast.Expr, call: ast.Call) -> _Mismatch | None:
        if len(call.args) != 2:
            return _Mismatch(Problem.at(expr.loc, TYPE, "eq: too many arguments"), False)
        a, b = call.args
        of_a, of_b = env.of(a), env.of(b)
        if self.unify_both(env, a, of_a, b, of_b):
            return None
        return _Mismatch(Problem.at(expr.loc, TYPE, "match error"), is_nil(of_a) or is_nil(of_b))

    def membership(self, env: _Env, expr: ast.Expr, call: ast.Call) -> _Mismatch | None:
        count = 3 if call.name == "internal.member_3" else 2
        if len(call.args) < count:
            return None
        collection = env.of(call.args[count - 1])
        values = values_of(collection)
        if values is None:
            return None
        checks = [(call.args[count - 2], values)]
        if count == 3:
            checks.insert(0, (call.args[0], keys_of(collection) or ANY))
        for term, of in checks:
            if is_nil(of):
                continue
            have = env.of(term)
            if (not is_nil(have) and not unifies(have, of)) or not self.unify(env, term, of, False):
                return _Mismatch(Problem.at(expr.loc, TYPE, "match error"), is_nil(have) or is_nil(of))
        return None

    def call(self, env: _Env, expr: ast.Expr, call: ast.Call, name: str) -> _Mismatch | None:
        of = env.of_ref(call.op)
        if isinstance(of, AnyOf) and not of.of:
            return None
        if not isinstance(of, Function):
            return _Mismatch(Problem.at(expr.loc, TYPE, f"undefined function {name}"), False)
        wanted = [*of.args, of.result] if of.result is not None else list(of.args)
        have = [env.of(arg) for arg in call.args]

        def wrong(message: str, types: list[Type | None]) -> _Mismatch:
            return _Mismatch(Problem.at(expr.loc, TYPE, f"{name}: {message}"), any(map(is_nil, types)))

        if len(call.args) > len(wanted) and of.variadic is None:
            return wrong("too many arguments", have)
        if len(call.args) < len(of.args):
            return wrong("too few arguments", have)
        for i, arg in enumerate(call.args):
            want = wanted[i] if i < len(wanted) else of.variadic
            if have[i] is not None and not is_nil(have[i]) and not unifies(have[i], want):
                return wrong("invalid argument(s)", have)
            if not self.unify(env, arg, want, False):
                return wrong("invalid argument(s)", [env.of(other) for other in call.args])
        return None

    # Unification of types ---------------------------------------------------------------------------------------------

    def unify_both(self, env: _Env, a: ast.Term, of_a: Type | None, b: ast.Term, of_b: Type | None) -> bool:
        nil_a, nil_b = is_nil(of_a), is_nil(of_b)
        if nil_a and not nil_b:
            return self.unify(env, a, of_b, False)
        if nil_b and not nil_a:
            return self.unify(env, b, of_a, False)
        if not nil_a and not nil_b:
            return unifies(of_a, of_b)
        if isinstance(a, ast.ArrayTerm):
            return self.unify_arrays(env, a, b)
        if isinstance(a, ast.ObjectTerm):
            return self.unify_objects(env, a, b)
        if isinstance(a, ast.Var):
            if isinstance(b, ast.Var):
                return self.unify(env, a, ANY, False) and self.unify(env, b, env.of(a), False)
            if isinstance(b, ast.ArrayTerm):
                return self.unify_arrays(env, b, a)
            if isinstance(b, ast.ObjectTerm):
                return self.unify_objects(env, b, a)
            if of_a is None and of_b is not None:
                return self.unify(env, a, of_b, False)
        if isinstance(b, ast.Var) and of_b is None and of_a is not None:
            return self.unify(env, b, of_a, False)
        return False

    def unify_arrays(self, env: _Env, a: ast.ArrayTerm, b: ast.Term) -> bool:
        if isinstance(b, ast.ArrayTerm):
            return len(a.items) == len(b.items) and all(
                self.unify_both(env, x, env.of(x), y, env.of(y)) for x, y in zip(a.items, b.items, strict=True)
            )
        if isinstance(b, ast.Var):
            return self.unify(env, a, ANY, False) and self.unify(env, b, env.of(a), False)
        return False

    def unify_objects(self, env: _Env, a: ast.ObjectTerm, b: ast.Term) -> bool:
        if isinstance(b, ast.ObjectTerm):
            others = {term_text(k): v for k, v in b.pairs}
            return len(a.pairs) == len(b.pairs) and all(
                term_text(k) in others
                and self.unify_both(env, v, env.of(v), others[term_text(k)], env.of(others[term_text(k)]))
                for k, v in a.pairs
            )
        if isinstance(b, ast.Var):
            return self.unify(env, a, ANY, False) and self.unify(env, b, env.of(a), False)
        return False

    def unify(self, env: _Env, term: ast.Term, of: Type | None, joined: bool) -> bool:
        """Whether a term can be of a type; variables without a type get it."""
        match term:
            case ast.ArrayTerm() | ast.ObjectTerm() | ast.SetTerm():
                if isinstance(of, AnyOf):
                    return self.unify_any(env, term, of)
                return self.unify_composite(env, term, of, joined)
            case ast.Var():
                if joined:
                    env.set_var(term.name, union(env.var(term.name), of))
                    return True
                known = env.var(term.name)
                if known is not None:
                    return unifies(known, of)
                env.set_var(term.name, of)
                return True
            case _:
                return unifies(env.of(term), of)

    def unify_any(self, env: _Env, term: ast.ArrayTerm | ast.ObjectTerm | ast.SetTerm, of: AnyOf) -> bool:
        if not of.of:
            for inner in ast.term_children(term):
                self.unify(env, inner, ANY, True)
            return True
        matches = [self.unify(env, term, member, True) for member in of.of]  # each one gives variables types
        return any(matches)

    def unify_composite(
        self, env: _Env, term: ast.ArrayTerm | ast.ObjectTerm | ast.SetTerm, of: Type | None, joined: bool
    ) -> bool:
        if isinstance(term, ast.ArrayTerm) and isinstance(of, Array):
            if len(term.items) != len(of.static) and of.dynamic is None:
                return False
            return all(self.unify(env, item, of.select(i), joined) for i, item in enumerate(term.items))
        if isinstance(term, ast.ObjectTerm) and isinstance(of, Object):
            size = len(of.static) + (1 if of.dynamic is not None else 0)
            if len(term.pairs) != size and (of.dynamic is None or of.dynamic[1] is None):
                return False
            for k, v in term.pairs:
                if isinstance(k, ast.Scalar):
                    child = select(of, key(k.value))
                    if child is None or not self.unify(env, v, child, joined):
                        return False
                else:
                    self.unify(env, v, ANY, joined)
            return True
        if isinstance(term, ast.SetTerm) and isinstance(of, Set):
            matches = [self.unify(env, item, of.of, joined) for item in term.items]
            return all(matches)
        return False

    # Messages -------------------------------------------------------------------------------------------------------------

    def shown(self, ref: ast.Ref) -> str:
        """A ref with the user's names for variables."""

        def rename(term: ast.Term) -> ast.Term:
            if isinstance(term, ast.Var):
                subject = self.names.subjects.get(term.name)
                if subject is not None and not isinstance(subject, ast.Var):
                    return rename(ast.copy_term(subject))
                return ast.Var(self.names.original.get(term.name, term.name), term.loc)
            if isinstance(term, ast.COMPREHENSIONS):
                return term
            return ast.map_terms(ast.copy_term(term), rename)

        return term_text(rename(ref))


class _RefChecker:
    """Checks the refs of one expression against the types of documents."""

    def __init__(self, checker: TypeChecker, env: _Env) -> None:
        self.checker = checker
        self.env = env
        self.problems: list[Problem] = []

    def expr(self, expr: ast.Expr) -> None:
        node = expr.node
        if isinstance(node, ast.Every):
            self.term(node.domain)
            for inner in node.body:
                self.expr(inner)
        elif isinstance(node, ast.Call):
            for arg in node.args:
                self.term(arg)
        elif not isinstance(node, ast.SomeDecl):
            self.term(node)

    def term(self, term: ast.Term) -> None:
        match term:
            case ast.Ref():
                if self.ref(term):
                    for inner in term.terms:
                        self.term(inner)
            case ast.ArrayTerm() | ast.SetTerm() | ast.ObjectTerm():
                for inner in ast.term_children(term):
                    self.term(inner)
            case _:
                pass

    def ref(self, ref: ast.Ref) -> bool:
        of = self.env.of_ref(ref)
        loc = ref.terms[0].loc
        if isinstance(of, Function):
            text = self.checker.shown(ref)
            self.problems.append(Problem.at(loc, TYPE, f"function {text} used as reference, not called"))
            return False
        if not self.path(self.env, self.env.tree, ref, 0):
            self.problems.append(Problem.at(loc, TYPE, f"undefined ref: {self.checker.shown(ref)}"))
        return True

    def path(self, env: _Env, node: _TypeNode, ref: ast.Ref, at: int) -> bool:
        if at == len(ref.terms):
            return True
        term = ref.terms[at]
        if at in (1, 2) and not (
            isinstance(term, ast.Var) or (isinstance(term, ast.Scalar) and isinstance(term.value, str))
        ):
            return False
        if isinstance(term, ast.Var) and at:
            keys = keys_of(extent(node))
            known = self.env.var(term.name)
            if known is None:
                self.env.set_var(term.name, keys)
            elif not unifies(keys, known):
                return False
        child = node.children.get(_step(term))
        if child is None:
            head = ref.terms[0]
            if env.next is not None:
                return self.path(env.next, env.next.tree, ref, 0)
            if isinstance(head, ast.Var) and head.name in _ROOTS:
                if at:
                    for below in node.children.values():
                        self.path(env, below, ref, at + 1)
                    return True
                return self.leaf(ANY, ref, 1)
            return self.leaf(ANY, ref, 0)
        if child.value is not None:
            return self.leaf(child.value, ref, at + 1)
        return self.path(env, child, ref, at + 1)

    def leaf(self, of: Type | None, ref: ast.Ref, at: int) -> bool:
        for term in ref.terms[at:]:
            if is_empty_collection(of):
                return False
            keys = keys_of(of)
            if keys is None:
                return False
            match term:
                case ast.Var():
                    known = self.env.var(term.name)
                    if known is None:
                        self.env.set_var(term.name, keys)
                    elif not unifies(known, keys):
                        return False
                case ast.Ref():
                    found = self.env.of_ref(term)
                    if found is not None and not unifies(found, keys):
                        return False
                case ast.ArrayTerm() | ast.ObjectTerm() | ast.SetTerm():
                    if not self.checker.unify(self.env, term, keys, False):
                        return False
                case ast.Scalar():
                    of = select(of, key(term.value))
                    if of is None:
                        return False
                    continue
                case _:
                    pass
            of = values_of(of)
        return True


def _sorted(graph: Graph) -> list[ast.Rule]:
    """The rules, each after those it depends on."""
    done: set[int] = set()
    order: list[ast.Rule] = []
    for start in graph.rules:
        work: list[tuple[ast.Rule, int]] = [(start, 0)]
        while work:
            rule, at = work.pop()
            if at == 0:
                if id(rule) in done:
                    continue
                done.add(id(rule))
            below = graph.edges[id(rule)]
            while at < len(below) and id(below[at]) in done:
                at += 1
            if at < len(below):
                work.append((rule, at + 1))
                work.append((below[at], 0))
            else:
                order.append(rule)
    return order


__all__ = ["NUMBER", "TypeChecker"]
