"""The stages between parsed modules and generated code, in OPA's order.

A stage that finds errors ends the compilation; strict-mode findings (unused variables and imports) are collected and do
not keep later stages from running. All errors found are reported together, ordered by file and place.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.rego import ast, builtins
from gateway.rego.builtins.refused import REFUSED as REASONS
from gateway.rego.builtins.registry import DECLARED, BuiltinFunction, functions
from gateway.rego.errors import PARSE, TYPE, CompileError, Problem
from gateway.rego.locals import LocalVars, Names
from gateway.rego.parser import parse_module
from gateway.rego.resolve import (
    Resolver,
    duplicate_imports,
    exprs_of_body,
    nested_exprs,
    resolve_modules,
    root_overrides,
)
from gateway.rego.rewrite import Rewriter
from gateway.rego.ruletree import (
    Graph,
    Node,
    build_tree,
    check_conflicts,
    check_recursion,
    is_data_ref,
    path_text,
    rules_exact,
)
from gateway.rego.safety import GENERATED, RESERVED, Unsafe, Vars, all_vars, needed_by_expr, reorder, unsafe_problems
from gateway.rego.typecheck import TypeChecker
from gateway.rego.values import Value

REFUSED = frozenset(("http.send", "opa.runtime"))
"""Builtins that are not there on purpose: a decision reaches nothing outside."""


def load_builtins() -> dict[str, BuiltinFunction]:
    """All builtins of the engine by name."""
    for module in pkgutil.iter_modules(builtins.__path__):
        importlib.import_module(f"{builtins.__name__}.{module.name}")
    return functions()


@dataclass(slots=True)
class Compilation:
    """Modules that passed all checks, and what was learnt on the way."""

    modules: list[ast.Module]
    root: Node
    names: Names
    graph: Graph
    rewriter: Rewriter
    types: TypeChecker
    builtins: Mapping[str, BuiltinFunction]
    strict: bool
    problems: list[Problem] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while a query is compiled."""

    def arity(self, op: ast.Ref) -> int:
        return arity_of(self.root, op)


def arity_of(root: Node, op: ast.Ref) -> int:
    declared = DECLARED.get(ast.ref_name(op))
    if declared is not None:
        return sum(1 for arg in declared.args if not arg.startswith("*"))
    rules = rules_exact(root, op)
    return len(rules[0].head.args or []) if rules else -1


def compile_stages(
    sources: Mapping[str, str],
    available: Mapping[str, BuiltinFunction],
    *,
    strict: bool,
    input_schema: Value = None,
) -> Compilation:
    """Parses and checks modules.

    Raises:
        CompileError: with everything that was found.
    """
    modules: list[ast.Module] = []
    problems: list[Problem] = []
    for file in sorted(sources):
        try:
            modules.append(parse_module(sources[file], file))
        except CompileError as error:
            problems += error.errors
    if problems:
        raise CompileError(problems)
    try:
        return _Stages(modules, available, strict=strict, input_schema=input_schema).run()
    except RecursionError:
        raise CompileError([Problem(PARSE, "the modules nest too deeply", "", 0, 0)]) from None


class _Stages:
    def __init__(
        self,
        modules: list[ast.Module],
        available: Mapping[str, BuiltinFunction],
        *,
        strict: bool,
        input_schema: Value,
    ) -> None:
        self.modules = modules
        self.available = available
        self.strict = strict
        self.input_schema = input_schema
        self.collected: list[Problem] = []
        self.names = Names()

    def branches(self) -> Iterable[ast.Rule]:
        for module in self.modules:
            for rule in module.rules:
                yield from rule.chain()

    def stop_if(self, problems: list[Problem]) -> None:
        if problems:
            raise CompileError(sorted_problems([*self.collected, *problems]))

    def run(self) -> Compilation:
        found = resolve_modules(self.modules, strict=self.strict)
        unused = [p for p in found if p.message.endswith(" unused")]
        self.collected += unused
        self.stop_if([p for p in found if p not in unused])
        root = Node(key="data", path=())
        rewriter = Rewriter(self.names, root, lambda op: arity_of(root, op))
        for branch in self.branches():
            rewriter.head_refs(branch)
        self.collected += root_overrides(self.modules)
        self.collected += duplicate_imports(self.modules)
        built = build_tree(self.modules)
        root.children, root.rules = built.children, built.rules

        local_vars = LocalVars(self.names, frozenset(DECLARED), strict=self.strict)
        for module in self.modules:
            for rule in module.rules:
                local_vars.rule(rule)
        self.collected += local_vars.unused
        self.stop_if(local_vars.problems)

        for branch in self.branches():
            rewriter.templates(branch)
        self.stop_if(rewriter.problems)
        self.stop_if(self.void_calls())
        for branch in self.branches():
            rewriter.prints(branch)
        self.stop_if(rewriter.problems)
        for branch in self.branches():
            rewriter.expr_terms(branch)
        graph = Graph.of(root, self.modules)
        for branch in self.branches():
            rewriter.comprehension_terms(branch)
            rewriter.refs_in_head(branch)
        for branch in self.branches():
            rewriter.withs_of_rule(branch)
        self.stop_if(rewriter.problems)
        self.stop_if(check_conflicts(root, self.modules, self.names.original))

        types = TypeChecker(root, self.names, self.input_schema)
        self.stop_if(self.calls(types))
        self.stop_if(self.safe_heads())
        self.stop_if(self.safe_bodies(rewriter))
        for branch in self.branches():
            rewriter.equals(branch.body)
        for branch in self.branches():
            branch.body = rewriter.dynamics(branch.body)
        self.stop_if(check_recursion(graph, self.names.original))
        self.stop_if(types.check_rules(graph))
        self.collected += deprecated_builtins(self.branches())
        self.stop_if(self.missing_builtins())
        if self.collected:
            raise CompileError(sorted_problems(self.collected))
        return Compilation(self.modules, root, self.names, graph, rewriter, types, self.available, self.strict)

    def void_calls(self) -> list[Problem]:
        return [
            problem for branch in self.branches() for problem in void_calls(nested_exprs(branch), _head_terms(branch))
        ]

    def calls(self, types: TypeChecker) -> list[Problem]:
        problems: list[Problem] = []
        for branch in self.branches():
            problems += undefined_functions(nested_exprs(branch), types, self.names.original)
        return problems

    def safe_heads(self) -> list[Problem]:
        problems: list[Problem] = []
        for branch in self.branches():
            head = branch.head
            outside = _head_terms(branch)
            needed = all_vars([*head.ref[1:], *outside])
            if not needed:
                continue
            known: Vars = all_vars(head.args or [])
            for expr in branch.body:
                needed_by_expr(expr, known)
            for name in sorted(needed - known - RESERVED):
                shown = self.names.original.get(name, name)
                if not shown.startswith(GENERATED):
                    text = "_" if shown.startswith("$") else shown
                    loc = _location_of(name, [*head.ref[1:], *outside]) or head.loc
                    problems.append(Problem.at(loc, "rego_unsafe_var_error", f"var {text} is unsafe"))
        return problems

    def safe_bodies(self, rewriter: Rewriter) -> list[Problem]:
        problems: list[Problem] = []
        for branch in self.branches():
            bound = set(RESERVED)
            all_vars(branch.head.args or [], bound)
            unsafe = Unsafe()
            ordered = reorder(branch.body, rewriter.arity, bound, unsafe)
            if unsafe:
                problems += unsafe_problems(unsafe, self.names.original)
            else:
                branch.body = ordered
        return problems

    def missing_builtins(self) -> list[Problem]:
        problems: list[Problem] = []
        for branch in self.branches():
            problems += missing_builtins(branch.body, self.available)
            if branch.head.value is not None:
                problems += missing_builtins([ast.Expr(branch.head.value, branch.loc)], self.available)
        return problems


def _head_terms(rule: ast.Rule) -> list[ast.Term]:
    head = rule.head
    return [*(head.args or []), *[term for term in (head.key, head.value) if term is not None]]


def _location_of(name: str, terms: list[ast.Term]) -> ast.Location | None:
    for outer in terms:
        for term in ast.walk_terms(outer):
            if isinstance(term, ast.Var) and term.name == name:
                return term.loc
    return None


def sorted_problems(problems: Iterable[Problem]) -> list[Problem]:
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda p: (p.file, p.line, p.column, p.code, p.message))


def void_calls(exprs: Iterable[ast.Expr], heads: Iterable[ast.Term]) -> list[Problem]:
    """Functions without a result (`print`) that are used for a value."""
    problems: list[Problem] = []

    def check(outer: ast.Term, *, top: bool) -> None:
        for term in ast.walk_terms(outer, closures=False):
            if isinstance(term, ast.Call) and not (top and term is outer):
                declared = DECLARED.get(term.name)
                if declared is not None and declared.result == "void":
                    from gateway.rego.printer import term_text

                    problems.append(Problem.at(term.loc, TYPE, f"{term_text(term)} used as value"))

    for term in heads:
        check(term, top=False)
    for expr in exprs:
        for term in ast.expr_terms(expr, closures=False):
            check(term, top=term is expr.node)
    return problems


def undefined_functions(exprs: Iterable[ast.Expr], types: TypeChecker, original: dict[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    for expr in exprs:
        call = expr.node
        if not isinstance(call, ast.Call):
            continue
        count = arity_of(types.root, call.op)
        given = len(call.args)
        if count < 0:
            problems.append(Problem.at(expr.loc, TYPE, f"undefined function {_function_name(call.op, original)}"))
        elif expr.generated and call.name != "eq":
            if given != count + 1:
                problems.append(types.arity_problem(expr, call, count, given - 1))
        elif given not in (count, count + 1):
            problems.append(types.arity_problem(expr, call, count, given))
    return problems


def _function_name(op: ast.Ref, original: dict[str, str]) -> str:
    if is_data_ref(op):
        return path_text(op.terms[1:], original)
    return ast.ref_name(op)


def missing_builtins(body: ast.Body, available: Mapping[str, BuiltinFunction]) -> list[Problem]:
    """Builtins of OPA that this engine does not have."""
    problems: list[Problem] = []
    for expr in exprs_of_body(body):
        names: list[tuple[str, ast.Location]] = []
        if isinstance(expr.node, ast.Call):
            names.append((expr.node.name, expr.node.loc))
        for modifier in expr.withs:
            if isinstance(modifier.value, ast.Ref):
                names.append((ast.ref_name(modifier.value), modifier.value.loc))
        for name, loc in names:
            if name in DECLARED and name not in available and name not in _BUILT_IN:
                reason = "is not available here on purpose" if name in REFUSED else "is not supported by this engine"
                why = f": {REASONS[name]}" if name in REASONS else ""
                problems.append(Problem.at(loc, TYPE, f"built-in function {name} {reason}{why}"))
    return problems


def deprecated_builtins(rules: Iterable[ast.Rule]) -> list[Problem]:
    problems: list[Problem] = []
    for rule in rules:
        for expr in nested_exprs(rule):
            declared = DECLARED.get(expr.call_name() or "")
            if declared is not None and declared.deprecated:
                message = f"deprecated built-in function calls in expression: {declared.name}"
                problems.append(Problem.at(expr.loc, TYPE, message))
    return problems


_BUILT_IN = frozenset(("eq", "assign", "print", "internal.print", "internal.template_string"))


def compile_query(compilation: Compilation, body: ast.Body) -> tuple[ast.Body, dict[str, str]]:
    """Puts a query through the stages; gives it with the names of its variables by the user's names."""
    names, rewriter = compilation.names, compilation.rewriter
    resolver = Resolver({})
    resolver.ignored = []
    resolver.body(body)
    local_vars = LocalVars(names, frozenset(DECLARED), strict=False)
    body, renamed = local_vars.query(body)
    _stop(local_vars.problems)
    rewriter.problems = []
    rewriter.templates_in_body(body, set(RESERVED))
    _stop(rewriter.problems)
    _stop(void_calls(exprs_of_body(body), []))
    rewriter.prints_in_body(body, set(RESERVED))
    _stop(rewriter.problems)
    visible: Vars = set()
    for expr in body:
        needed_by_expr(expr, visible)
    body = rewriter.expand_body(body)
    rewriter.comprehension_terms_of_body(body)
    body = rewriter.withs_of_query(body)
    _stop(rewriter.problems)
    _stop(undefined_functions(exprs_of_body(body), compilation.types, names.original))
    unsafe = Unsafe()
    body = reorder(body, rewriter.arity, set(RESERVED), unsafe)
    if unsafe:
        _stop(unsafe_problems(unsafe, names.original))
    body = rewriter.dynamics(body)
    _stop(compilation.types.check_body(body))
    _stop(missing_builtins(body, compilation.builtins))
    outputs: dict[str, str] = {}
    for name in sorted(visible - RESERVED):
        shown = names.original.get(name, name)
        if not shown.startswith(("$", GENERATED)):
            outputs[shown] = name
    for shown, name in renamed.items():
        if name != shown and shown in outputs:
            outputs[shown] = name
    return body, outputs


def _stop(problems: list[Problem]) -> None:
    if problems:
        raise CompileError(sorted_problems(problems))
