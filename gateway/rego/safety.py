"""Which variables an expression needs and which it binds; bodies ordered so that every variable is bound in time.

The rules are OPA's (`compile.go`, `unify.go`), because they decide both what is refused as unsafe and the order in which
expressions are evaluated. An expression is taken as soon as all it needs is bound; expressions that become possible
together keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.rego import ast
from gateway.rego.errors import UNSAFE, Problem

Vars: TypeAlias = set[str]
Arity: TypeAlias = Callable[[ast.Ref], int]
"""The number of a function's or builtin's arguments, or -1."""
RESERVED = frozenset(("input", "data"))
GENERATED = "#"
"""The first character of the variables that the compiler makes up."""


# What a term mentions ------------------------------------------------------------------------------------------------


def needed_vars(term: ast.Term, found: Vars) -> Vars:
    """Adds the variables of a term but for those in closures and the heads of called functions."""
    match term:
        case ast.Var():
            found.add(term.name)
        case ast.Ref():
            for part in term.terms:
                needed_vars(part, found)
        case ast.ArrayTerm() | ast.SetTerm():
            for item in term.items:
                needed_vars(item, found)
        case ast.ObjectTerm():
            for k, v in term.pairs:
                needed_vars(k, found)
                needed_vars(v, found)
        case ast.Call():
            for part in term.op.terms[1:]:
                needed_vars(part, found)
            for arg in term.args:
                needed_vars(arg, found)
        case _:
            pass
    return found


def needed_by_with(modifier: ast.With, found: Vars) -> Vars:
    target, value = modifier.target, modifier.value
    if isinstance(target, ast.Ref):
        for part in target.terms[1:]:
            needed_vars(part, found)
    if isinstance(value, ast.Ref):
        for part in value.terms[1:]:
            needed_vars(part, found)
    else:
        needed_vars(value, found)
    return found


def needed_by_expr(expr: ast.Expr, found: Vars) -> Vars:
    node = expr.node
    if isinstance(node, ast.Every):
        return needed_vars(node.domain, found)
    if isinstance(node, ast.SomeDecl):
        for symbol in node.symbols:
            needed_vars(symbol, found)
    else:
        needed_vars(node, found)
    for modifier in expr.withs:
        needed_by_with(modifier, found)
    return found


def pattern_vars(term: ast.Term, found: Vars, *, sets: bool = True) -> Vars:
    """The variables that matching a term can bind: not the heads of refs, keys of objects, or closures."""
    match term:
        case ast.Var():
            found.add(term.name)
        case ast.Ref():
            for part in term.terms[1:]:
                pattern_vars(part, found, sets=sets)
        case ast.ArrayTerm():
            for item in term.items:
                pattern_vars(item, found, sets=sets)
        case ast.SetTerm():
            if sets:
                for item in term.items:
                    pattern_vars(item, found, sets=sets)
        case ast.ObjectTerm():
            for _, v in term.pairs:
                pattern_vars(v, found, sets=sets)
        case ast.Call():
            pattern_vars(term.op, found, sets=sets)
            for arg in term.args:
                pattern_vars(arg, found, sets=sets)
        case _:
            pass
    return found


def all_vars(terms: Iterable[ast.Term], found: Vars | None = None) -> Vars:
    """Every variable of the terms, closures included."""
    found = set() if found is None else found
    for outer in terms:
        for term in ast.walk_terms(outer):
            if isinstance(term, ast.Var):
                found.add(term.name)
    return found


def all_body_vars(body: ast.Body) -> Vars:
    return all_vars(ast.body_terms(body))


def closures_of(expr: ast.Expr) -> list[ast.Comprehension | ast.Every]:
    """The outermost comprehensions and `every` of an expression."""
    found: list[ast.Comprehension | ast.Every] = []
    if isinstance(expr.node, ast.Every):
        return [expr.node]
    for outer in ast.expr_terms(expr):
        for term in ast.walk_terms(outer, closures=False):
            if isinstance(term, ast.COMPREHENSIONS):
                found.append(term)
    return found


def _closed_over(expr: ast.Expr) -> Vars:
    found: Vars = set()
    for closure in closures_of(expr):
        if isinstance(closure, ast.Every):
            all_vars(ast.body_terms(closure.body), found)
        else:
            all_vars([closure], found)
    return found


# What an expression binds -------------------------------------------------------------------------------------------


def _head_safe(term: ast.Term, safe: Vars) -> bool:
    if isinstance(term, ast.Var):
        return term.name in safe
    return needed_vars(term, set()) <= safe


def _outputs_of_term(term: ast.Term, safe: Vars, found: Vars) -> None:
    """Variables bound by the refs of a term, as `x` by `input[x]`."""
    match term:
        case ast.Ref():
            if not _head_safe(term.terms[0], safe):
                return
            for part in term.terms[1:]:
                _vars_but_heads(part, found)
            for part in term.terms:
                _outputs_of_term(part, safe, found)
        case ast.ArrayTerm() | ast.SetTerm():
            for item in term.items:
                _outputs_of_term(item, safe, found)
        case ast.ObjectTerm():
            for k, v in term.pairs:
                _outputs_of_term(k, safe, found)
                _outputs_of_term(v, safe, found)
        case ast.Call():
            for arg in term.args:
                _outputs_of_term(arg, safe, found)
        case _:
            pass


def _vars_but_heads(term: ast.Term, found: Vars) -> None:
    """All variables but for the heads of refs; OPA counts those inside of closures, too."""
    if isinstance(term, ast.Ref):
        for part in term.terms[1:]:
            _vars_but_heads(part, found)
    elif isinstance(term, ast.COMPREHENSIONS):
        inner = [term.key, term.value] if isinstance(term, ast.ObjectComprehension) else [term.term]
        for part in [*inner, *ast.body_terms(term.body)]:
            _vars_but_heads(part, found)
    elif isinstance(term, ast.Var):
        found.add(term.name)
    else:
        for part in ast.term_children(term):
            _vars_but_heads(part, found)


def _outputs_of_terms(expr: ast.Expr, safe: Vars) -> Vars:
    found: Vars = set()
    for term in ast.expr_terms(expr):
        _outputs_of_term(term, safe, found)
    return found


def expr_outputs(expr: ast.Expr, arity: Arity, safe: Vars) -> Vars:
    """The variables that an expression binds, given those that are bound."""
    if expr.negated:
        return set()
    for modifier in expr.withs:
        if not needed_by_with(modifier, set()) <= safe:
            return set()
    node = expr.node
    if isinstance(node, ast.Call):
        if node.name == "eq":
            return eq_outputs(expr, node, safe) if len(node.args) == 2 else set(safe)
        count = arity(node.op)
        if count < 0:
            return set()
        output = _outputs_of_terms(expr, safe)
        if count >= len(node.args):
            return output
        needed: Vars = set()
        for arg in node.args[:count]:
            pattern_vars(arg, needed, sets=False)
        if needed - output - safe:
            return set()
        for arg in node.args[count:]:
            pattern_vars(arg, output, sets=False)
        return output
    if isinstance(node, ast.Every):
        found: Vars = set()
        _outputs_of_term(node.domain, safe, found)
        return found
    if isinstance(node, ast.TemplateString):
        return set()
    return _outputs_of_terms(expr, safe)


def eq_outputs(expr: ast.Expr, call: ast.Call, safe: Vars) -> Vars:
    left, right = call.args
    basis = _outputs_of_terms(expr, safe) | safe
    bound = basis
    if expr.from_assignment:
        # The left of `:=` is an output alone: the right may not be bound by matching backwards through it.
        bound = basis - all_vars([left])
        basis = bound
    return (basis | unify(bound, left, right)) - safe


def body_outputs(body: ast.Body, arity: Arity, safe: Vars) -> Vars:
    """The variables that a body binds beyond those in `safe`."""
    known = set(safe)
    for expr in body:
        known |= expr_outputs(expr, arity, known)
    return known - safe


def unify(safe: Vars, a: ast.Term, b: ast.Term) -> Vars:
    """The variables that are bound by making two terms equal."""
    unifier = _Unifier(safe)
    unifier.unify(a, b)
    return unifier.unified


class _Unifier:
    def __init__(self, safe: Vars) -> None:
        self.safe = safe
        self.unified: Vars = set()
        self.unknown: dict[str, Vars] = {}

    def is_safe(self, name: str) -> bool:
        return name in self.safe or name in self.unified

    def unify(self, a: ast.Term, b: ast.Term) -> None:
        match a:
            case ast.Var():
                self.unify_var(a, b)
            case ast.Ref() | ast.Call():
                if needed_vars(a, set()) <= self.safe if isinstance(a, ast.Call) else _head_safe(a.terms[0], self.safe):
                    if isinstance(b, ast.Var):
                        self.mark_safe(b.name)
                    elif isinstance(b, (ast.ArrayTerm, ast.ObjectTerm)):
                        self.mark_all_safe(b)
            case ast.ArrayComprehension() | ast.ObjectComprehension() | ast.SetComprehension():
                if isinstance(b, ast.Var):
                    self.mark_safe(b.name)
                elif (isinstance(b, ast.ArrayTerm) and isinstance(a, ast.ArrayComprehension)) or (
                    isinstance(b, ast.ObjectTerm) and isinstance(a, ast.ObjectComprehension)
                ):
                    self.mark_all_safe(b)
            case ast.ArrayTerm():
                self.unify_array(a, b)
            case ast.ObjectTerm():
                self.unify_object(a, b)
            case _:
                if isinstance(b, ast.Var):
                    self.mark_safe(b.name)

    def unify_var(self, a: ast.Var, b: ast.Term) -> None:
        match b:
            case ast.Var():
                if self.is_safe(b.name):
                    self.mark_safe(a.name)
                elif self.is_safe(a.name):
                    self.mark_safe(b.name)
                else:
                    self.unknown.setdefault(a.name, set()).add(b.name)
                    self.unknown.setdefault(b.name, set()).add(a.name)
            case ast.ArrayTerm() | ast.ObjectTerm():
                self.unify_all(a.name, b)
            case ast.Ref():
                if _head_safe(b.terms[0], self.safe):
                    self.mark_safe(a.name)
            case ast.Call():
                if needed_vars(b, set()) <= self.safe:
                    self.mark_safe(a.name)
            case _:
                self.mark_safe(a.name)

    def unify_array(self, a: ast.ArrayTerm, b: ast.Term) -> None:
        match b:
            case ast.Var():
                self.unify_all(b.name, a)
            case ast.ArrayComprehension() | ast.ObjectComprehension() | ast.SetComprehension():
                self.mark_all_safe(a)
            case ast.Ref():
                if _head_safe(b.terms[0], self.safe):
                    self.mark_all_safe(a)
            case ast.Call():
                if needed_vars(b, set()) <= self.safe:
                    self.mark_all_safe(a)
            case ast.ArrayTerm():
                if len(a.items) == len(b.items):
                    for left, right in zip(a.items, b.items, strict=True):
                        self.unify(left, right)
            case _:
                pass

    def unify_object(self, a: ast.ObjectTerm, b: ast.Term) -> None:
        match b:
            case ast.Var():
                self.unify_all(b.name, a)
            case ast.Ref():
                if _head_safe(b.terms[0], self.safe):
                    self.mark_all_safe(a)
            case ast.Call():
                if needed_vars(b, set()) <= self.safe:
                    self.mark_all_safe(a)
            case ast.ObjectTerm():
                if len(a.pairs) == len(b.pairs):
                    for k, v in a.pairs:
                        for other_k, other_v in b.pairs:
                            if ast.same_term(k, other_k):
                                self.unify(v, other_v)
            case _:
                pass

    def mark_all_safe(self, term: ast.Term) -> None:
        for name in pattern_vars(term, set()):
            self.mark_safe(name)

    def mark_safe(self, name: str) -> None:
        self.unified.add(name)
        for dependency in self.unknown.pop(name, set()):
            self.mark_safe(dependency)
        for other in list(self.unknown):
            dependencies = self.unknown.get(other)
            if dependencies is not None and name in dependencies:
                dependencies.discard(name)
                if not dependencies:
                    self.mark_safe(other)

    def unify_all(self, name: str, term: ast.Term) -> None:
        if self.is_safe(name):
            self.mark_all_safe(term)
            return
        unsafe = pattern_vars(term, set()) - self.safe - self.unified
        if not unsafe:
            self.mark_safe(name)
        for other in unsafe:
            self.unknown.setdefault(name, set()).add(other)


# Ordering ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Unsafe:
    """The variables that stay unbound, by expression."""

    by_expr: dict[int, tuple[ast.Expr, Vars]] = field(default_factory=dict)

    def add(self, expr: ast.Expr, names: Iterable[str]) -> None:
        self.by_expr.setdefault(id(expr), (expr, set()))[1].update(names)

    def __bool__(self) -> bool:
        return any(names for _, names in self.by_expr.values())


def reorder(body: ast.Body, arity: Arity, bound: Vars, unsafe: Unsafe) -> ast.Body:
    """The body in an order in which every variable is bound before it is needed, closures ordered likewise.

    What cannot be bound is added to `unsafe`.
    """
    needs: list[Vars] = []
    body_names: Vars = set()
    for expr in body:
        names = needed_by_expr(expr, set())
        needs.append(names)
        body_names |= names
    safe = body_names & bound
    missing = [names - safe for names in needs]
    closed = [_closed_over(expr) & body_names - bound for expr in body]
    pending = list(range(len(body)))
    ordered: list[int] = []
    progress = True
    while progress and pending:
        progress = False
        still: list[int] = []
        for at in pending:
            expr = body[at]
            outputs = expr_outputs(expr, arity, safe)
            if closed[at]:
                open_names = closed[at] - body_outputs([body[i] for i in ordered], arity, safe)
                if open_names:
                    if open_names == outputs:  # closes over what it binds itself
                        still.append(at)
                        continue
                    missing[at] = set(open_names)
            missing[at] = missing[at] - outputs - safe
            if missing[at]:
                still.append(at)
                continue
            ordered.append(at)
            safe |= outputs
            progress = True
        pending = still
    for at in pending:
        unsafe.add(body[at], missing[at])
    result = [body[at] for at in ordered]
    known = set(bound)
    for i, expr in enumerate(result):
        if i:
            needed_by_expr(result[i - 1], known)
        _reorder_closures(expr, arity, known, unsafe)
    return result


def _reorder_closures(expr: ast.Expr, arity: Arity, known: Vars, unsafe: Unsafe) -> None:
    node = expr.node
    if isinstance(node, ast.Every):
        known |= {var.name for var in (node.key, node.value) if var is not None}
        node.body = _reorder_closure(expr, (), node.body, arity, known, unsafe)
        return
    for closure in closures_of(expr):
        match closure:
            case ast.ObjectComprehension():
                terms: tuple[ast.Term, ...] = (closure.key, closure.value)
            case ast.ArrayComprehension() | ast.SetComprehension():
                terms = (closure.term,)
            case _:
                terms = ()
        closure.body = _reorder_closure(expr, terms, closure.body, arity, known, unsafe)


def _reorder_closure(
    expr: ast.Expr, terms: tuple[ast.Term, ...], body: ast.Body, arity: Arity, known: Vars, unsafe: Unsafe
) -> ast.Body:
    available = set(known)
    for inner in body:
        needed_by_expr(inner, available)
    unbound = all_vars(terms) - available
    if unbound:
        unsafe.add(expr, unbound)
    inside = Unsafe()
    ordered = reorder(body, arity, known, inside)
    if not inside:
        return ordered
    for inner_expr, names in inside.by_expr.values():
        unsafe.add(inner_expr, names)
    return body


def unsafe_problems(unsafe: Unsafe, original: dict[str, str]) -> list[Problem]:
    """The errors to report: by variable where it has a name of the user's, else by expression."""
    assigned: Vars = set()
    places: dict[str, ast.Location] = {}
    for expr, names in unsafe.by_expr.values():
        if expr.from_assignment and isinstance(expr.node, ast.Call) and len(expr.node.args) == 2:
            assigned |= all_vars([expr.node.args[0]])
        for name in names:
            if name not in places or expr.loc < places[name]:
                places[name] = expr.loc
    assigned |= {original[name] for name in assigned if name in original}
    named = [
        (original.get(name, name), name, loc)
        for name, loc in sorted(places.items(), key=lambda item: (item[1], item[0]))
        if not original.get(name, name).startswith(GENERATED)
    ]
    others = [entry for entry in named if entry[0] not in assigned and entry[1] not in assigned]
    chosen = others or named
    if chosen:
        return [Problem.at(loc, UNSAFE, _unsafe_text(name)) for name, _, loc in chosen]
    problems: list[Problem] = []
    seen: Vars = set()
    for expr, names in sorted(unsafe.by_expr.values(), key=lambda item: item[0].loc):
        if names - seen:
            problems.append(Problem.at(expr.loc, UNSAFE, "expression is unsafe"))
            seen |= names
    return problems


def _unsafe_text(name: str) -> str:
    text = f"var {'_' if name.startswith('$') else name} is unsafe"
    if name in ("and", "or", "not"):
        text += f" (hint: `import future.keywords.{name}` to import a future keyword)"
    return text
