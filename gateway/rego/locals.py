"""Declared variables get names of their own, so that a scope can shadow another; `:=`, `some` and `in` become equations.

Along the way: what is declared twice, used before it was declared, or (in strict mode) never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from gateway.rego import ast
from gateway.rego.errors import COMPILE, Problem
from gateway.rego.parser import _value_name as value_name
from gateway.rego.printer import term_text
from gateway.rego.resolve import declared_by, declared_vars
from gateway.rego.safety import GENERATED, RESERVED, Vars, all_vars, eq_outputs, needed_by_expr, pattern_vars


class Names:
    """Makes up variables: `#0`, `#1`, ... which no user can write."""

    def __init__(self) -> None:
        self.count = 0
        self.original: dict[str, str] = {}
        """The user's name for a made-up one, where there is one."""
        self.subjects: dict[str, ast.Term] = {}
        """The terms that made-up variables stand for at the heads of refs."""

    def fresh(self) -> str:
        self.count += 1
        return f"{GENERATED}{self.count - 1}"

    def var(self, loc: ast.Location) -> ast.Var:
        return ast.Var(self.fresh(), loc)


class _Seen(Enum):
    ARG = "arg"
    SEEN = "seen"
    ASSIGNED = "assigned"
    DECLARED = "declared"


@dataclass(slots=True)
class _Scope:
    names: dict[str, str] = field(default_factory=dict)
    how: dict[str, _Seen] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def copy(self) -> _Scope:
        return _Scope(dict(self.names), dict(self.how), dict(self.count))


class _Failure(Exception):
    def __init__(self, loc: ast.Location, message: str) -> None:
        super().__init__(message)
        self.loc = loc
        self.message = message


class _Stack:
    """The scopes around a place, innermost last."""

    def __init__(self, names: Names, scopes: list[_Scope] | None = None) -> None:
        self.names = names
        self.scopes = scopes if scopes is not None else [_Scope()]
        self.unused: list[Problem] = []

    def copy(self) -> _Stack:
        return _Stack(self.names, [scope.copy() for scope in self.scopes])

    @contextmanager
    def scope(self) -> Iterator[None]:
        self.scopes.append(_Scope())
        try:
            yield
        finally:
            self.scopes.pop()

    def insert(self, name: str, renamed: str, how: _Seen) -> None:
        scope = self.scopes[-1]
        scope.names[name] = renamed
        scope.how[name] = how
        scope.count[name] = 1
        if name != renamed:
            self.names.original[renamed] = name

    def declared(self, name: str) -> str | None:
        for scope in reversed(self.scopes):
            found = scope.names.get(name)
            if found is not None:
                return found
        return None

    def how(self, name: str) -> _Seen | None:
        return self.scopes[-1].how.get(name)

    def how_anywhere(self, name: str) -> _Seen | None:
        for scope in reversed(self.scopes):
            if name in scope.how:
                return scope.how[name]
        return None

    def see(self, name: str) -> None:
        for scope in reversed(self.scopes):
            if name in scope.count:
                scope.count[name] += 1
                return
        self.scopes[-1].count[name] = 1

    def count(self, name: str) -> int:
        for scope in reversed(self.scopes):
            if name in scope.count:
                return scope.count[name]
        return 0

    def declare(self, name: str, how: _Seen) -> str:
        match self.how(name):
            case _Seen.SEEN:
                raise ValueError(f"var {name} referenced above")
            case _Seen.ASSIGNED:
                raise ValueError(f"var {name} assigned above")
            case _Seen.DECLARED:
                raise ValueError(f"var {name} declared above")
            case _Seen.ARG:
                raise ValueError(f"arg {name} redeclared")
            case None:
                renamed = self.names.fresh()
                self.insert(name, renamed, how)
                return renamed


class LocalVars:
    """Renames the local variables of rules and queries."""

    def __init__(self, names: Names, builtins: frozenset[str], *, strict: bool) -> None:
        self.names = names
        self.builtins = builtins
        self.strict = strict
        self.problems: list[Problem] = []
        self.unused: list[Problem] = []

    # Rules ----------------------------------------------------------------------------------------------------

    def rule(self, first: ast.Rule) -> None:
        """Rewrites a rule and its `else` branches."""
        args = _Stack(self.names)
        unused_args: Vars = set()
        if self.strict:
            all_vars(first.head.args or [], unused_args)
        # Branches share the arguments' names, but every branch's head holds its own copy of them.
        for branch in first.chain():
            if branch is not first and branch.head.args is not None:
                branch.head.args = [ast.copy_term(arg) for arg in branch.head.args]
        self.args(first, args)
        original = first.head.args
        before = len(self.problems)
        for branch in first.chain():
            if branch is not first and original is not None:
                branch.head.args = [ast.copy_term(arg) for arg in original]
            stack = self.branch(branch, unused_args, args)
            self.unused += stack.unused
            for name in list(unused_args):
                if stack.count(name) > 1:
                    unused_args.discard(name)
        for name in sorted(unused_args) if len(self.problems) == before else ():
            if not name.startswith("$"):
                message = f"unused argument {name}. (hint: use _ (wildcard variable) instead)"
                self.unused.append(Problem.at(first.head.loc, COMPILE, message))

    def args(self, rule: ast.Rule, stack: _Stack) -> None:
        def rename(term: ast.Term) -> ast.Term:
            match term:
                case ast.Var():
                    renamed = stack.declared(term.name)
                    if renamed is not None:
                        stack.see(term.name)
                    else:
                        renamed = self.names.fresh()
                        stack.insert(term.name, renamed, _Seen.ARG)
                    return ast.Var(renamed, term.loc)
                case ast.ObjectTerm():
                    term.pairs = [(k, rename(v)) for k, v in term.pairs]
                case ast.ArrayTerm():
                    term.items = [rename(item) for item in term.items]
                case ast.Ref():
                    term.terms = [rename(item) for item in term.terms]
                case ast.Call():
                    self.problems.append(Problem.at(term.loc, COMPILE, "rule arguments cannot contain calls"))
                case _:
                    pass
            return term

        if rule.head.args is not None:
            rule.head.args = [rename(arg) for arg in rule.head.args]

    def branch(self, rule: ast.Rule, unused_args: Vars, args: _Stack) -> _Stack:
        head = rule.head
        used: Vars = set()
        self.head_closures(head)
        outside = [*head.ref[1:], *[t for t in (head.key,) if t is not None]]
        all_vars(outside, used)
        if head.value is not None:
            value_vars = all_vars([head.value])
            used |= value_vars
            unused_args -= value_vars
        stack = args.copy()
        self.shadowed_builtins(rule, stack)
        try:
            rule.body = self.body(rule.body, stack, used)
        except _Failure as failure:
            self.problems.append(Problem.at(failure.loc, COMPILE, failure.message))
            return stack
        declared = stack.scopes[-1].names
        head.ref[1:] = [_renamed(part, declared) for part in head.ref[1:]]
        if head.key is not None:
            head.key = _renamed(head.key, declared)
        if head.value is not None:
            head.value = _renamed(head.value, declared)
        return stack

    def head_closures(self, head: ast.Head) -> None:
        for term in (*head.ref[1:], *(head.args or []), head.key, head.value):
            if term is None:
                continue
            for inner in ast.walk_terms(term, closures=False):
                if isinstance(inner, (*ast.COMPREHENSIONS, ast.TemplateString)):
                    stack = _Stack(self.names)
                    try:
                        self.closure(inner, stack)
                    except _Failure as failure:
                        self.problems.append(Problem.at(failure.loc, COMPILE, failure.message))
                    self.unused += stack.unused

    def shadowed_builtins(self, rule: ast.Rule, stack: _Stack) -> None:
        """A variable named like a builtin is renamed, so that later stages cannot take it for the builtin."""
        used: Vars = set()
        for expr in rule.body:
            needed_by_expr(expr, used)
        used &= self.builtins
        if not used:
            return
        in_with: Vars = set()
        for expr in rule.body:
            for modifier in expr.withs:
                all_vars([modifier.target, modifier.value], in_with)
        for name in sorted(used - declared_vars(rule.body) - in_with):
            if stack.declared(name) is None:
                stack.insert(name, self.names.fresh(), _Seen.SEEN)

    def query(self, body: ast.Body) -> tuple[ast.Body, dict[str, str]]:
        """Rewrites a query; returns it with its variables' new names."""
        stack = _Stack(self.names)
        try:
            body = self.body(body, stack, set())
        except _Failure as failure:
            self.problems.append(Problem.at(failure.loc, COMPILE, failure.message))
        return body, stack.scopes[0].names

    # Bodies ---------------------------------------------------------------------------------------------------

    def body(self, body: ast.Body, stack: _Stack, used: Vars) -> ast.Body:
        result: ast.Body = []
        for expr in body:
            node = expr.node
            if isinstance(node, ast.Call) and node.name == "assign":
                self.assignment(expr, node, stack)
            elif isinstance(node, ast.SomeDecl):
                if not self.some(expr, node, stack):
                    continue
            elif isinstance(node, ast.Every):
                self.every(expr, node, stack)
            else:
                self.expr(expr, stack)
            result.append(expr)
        if not result:
            loc = body[0].loc if body else ast.NOWHERE
            result.append(ast.Expr(ast.Scalar(True, loc), loc))
        self.check_assigned(body, stack, used)
        self.check_declared(body, stack, used, result)
        return result

    def check_assigned(self, body: ast.Body, stack: _Stack, used: Vars) -> None:
        if not self.strict or stack.unused:
            return
        scope = stack.scopes[-1]
        unused = {
            scope.names[name]: name
            for name, how in scope.how.items()
            if how is _Seen.ASSIGNED
            and not name.startswith("$")
            and stack.count(name) <= 1
            and scope.names[name] not in used
        }
        for name in used:
            renamed = stack.declared(name)
            if renamed is not None:
                unused.pop(renamed, None)
        for renamed, name in sorted(unused.items()):
            place = next((expr.loc for expr in body if renamed in all_vars(ast.expr_terms(expr))), body[0].loc)
            stack.unused.append(Problem.at(place, COMPILE, f"assigned var {name} unused"))

    def check_declared(self, body: ast.Body, stack: _Stack, used: Vars, rewritten: ast.Body) -> None:
        if stack.unused:
            return
        scope = stack.scopes[-1]
        declared = {scope.names[name]: name for name, how in scope.how.items() if how is _Seen.DECLARED}
        if not declared:
            return
        mentioned = all_vars(ast.body_terms(rewritten))
        for name in used:
            mentioned.add(stack.declared(name) or name)
        for renamed, name in sorted(declared.items()):
            if renamed in mentioned or renamed in used or name.startswith(GENERATED):
                continue
            place = next((expr.loc for expr in body if name in declared_by(expr)), body[0].loc)
            stack.unused.append(Problem.at(place, COMPILE, f"declared var {name} unused"))

    def declare(self, name: str, how: _Seen, stack: _Stack, loc: ast.Location) -> str:
        try:
            return stack.declare(name, how)
        except ValueError as error:
            raise _Failure(loc, str(error)) from None

    def assignment(self, expr: ast.Expr, call: ast.Call, stack: _Stack) -> None:
        if expr.negated:
            raise _Failure(expr.loc, "cannot assign vars inside negated expression")
        if len(call.args) != 2:
            return
        call.args[1] = self.term(call.args[1], stack)
        for modifier in expr.withs:
            modifier.value = self.term(modifier.value, stack)
        call.args[0] = self.assigned(call.args[0], stack)
        call.op = ast.Ref([ast.Var("eq", call.op.loc)], call.op.loc)
        expr.from_assignment = True

    def assigned(self, term: ast.Term, stack: _Stack) -> ast.Term:
        match term:
            case ast.Var():
                return ast.Var(self.declare(term.name, _Seen.ASSIGNED, stack, term.loc), term.loc)
            case ast.ArrayTerm():
                term.items = [self.assigned(item, stack) for item in term.items]
                return term
            case ast.ObjectTerm():
                term.pairs = [(k, self.assigned(v, stack)) for k, v in term.pairs]
                return term
            case ast.Ref() if len(term.terms) == 1 and term_text(term) in RESERVED:
                return ast.Var(self.declare(term_text(term), _Seen.ASSIGNED, stack, term.loc), term.loc)
            case _:
                raise _Failure(term.loc, f"cannot assign to {value_name(term)}")

    def some(self, expr: ast.Expr, node: ast.SomeDecl, stack: _Stack) -> bool:
        first = node.symbols[0]
        if not isinstance(first, ast.Call):
            for symbol in node.symbols:
                if isinstance(symbol, ast.Var):
                    self.declare(symbol.name, _Seen.DECLARED, stack, node.loc)
            return False
        key: ast.Term
        if len(first.args) == 3:
            key, value, container = first.args
        else:
            key = self.names.var(first.loc)
            value, container = first.args
        bound = pattern_vars(key, set()) | pattern_vars(value, set())
        domain: Vars = set()
        for term in ast.walk_terms(container, closures=False):
            if isinstance(term, ast.Var):
                domain.add(term.name)
        for name in sorted(bound & domain):
            if not name.startswith("$"):
                raise _Failure(node.loc, f"var {name} assigned before")
        item = (
            ast.Ref([*container.terms, key], container.loc)
            if isinstance(container, ast.Ref)
            else ast.Ref([container, key], container.loc)
        )
        call = ast.Call(ast.Ref([ast.Var("eq", node.loc)], node.loc), [value, item], node.loc, infix=True)
        expr.node = call
        for name in sorted(eq_outputs(expr, call, all_vars([container]))):
            self.declare(name, _Seen.DECLARED, stack, node.loc)
        self.expr(expr, stack)
        return True

    def every(self, expr: ast.Expr, node: ast.Every, stack: _Stack) -> None:
        node.domain = self.term(node.domain, stack)
        with stack.scope():
            if node.key is None:
                node.key = self.names.var(node.loc)
            elif not node.key.is_wildcard:
                node.key = ast.Var(self.declare(node.key.name, _Seen.DECLARED, stack, node.loc), node.key.loc)
            if not node.value.is_wildcard:
                node.value = ast.Var(self.declare(node.value.name, _Seen.DECLARED, stack, node.loc), node.value.loc)
            node.body = self.body(node.body, stack, set())
            self.again(expr, stack)

    def again(self, expr: ast.Expr, stack: _Stack) -> None:
        """OPA goes through an `every` twice: what its body declares is then known before the declaration, too."""
        node = expr.node
        if isinstance(node, ast.Every):
            node.domain = self.term(node.domain, stack)
            for inner in node.body:
                self.again(inner, stack)
            for modifier in expr.withs:
                self.with_modifier(modifier, stack)
        else:
            self.expr(expr, stack)

    def expr(self, expr: ast.Expr, stack: _Stack) -> None:
        if not isinstance(expr.node, (ast.SomeDecl, ast.Every)):
            expr.node = self.term(expr.node, stack)
        for modifier in expr.withs:
            self.with_modifier(modifier, stack)

    def with_modifier(self, modifier: ast.With, stack: _Stack) -> None:
        target = modifier.target
        if isinstance(target, ast.Ref) and isinstance(target.terms[0], ast.Var):
            # The head is the document, even where a variable shadows it.
            target.terms[1:] = [self.term(part, stack) for part in target.terms[1:]]
        else:
            modifier.target = self.term(target, stack)
        modifier.value = self.term(modifier.value, stack)

    # Terms ----------------------------------------------------------------------------------------------------

    def term(self, term: ast.Term, stack: _Stack) -> ast.Term:
        match term:
            case ast.Var():
                renamed = stack.declared(term.name)
                if renamed is not None:
                    stack.see(term.name)
                    return ast.Var(renamed, term.loc) if renamed != term.name else term
                if stack.how(term.name) is None:
                    stack.insert(term.name, term.name, _Seen.SEEN)
            case ast.Ref():
                return self.ref(term, stack)
            case ast.Call():
                for part in term.op.terms:
                    if isinstance(part, ast.Var):
                        renamed = stack.declared(part.name)
                        if renamed is not None and renamed != part.name:
                            raise _Failure(term.loc, f"called function {term_text(term.op)} shadowed")
                term.op.terms[1:] = [self.term(part, stack) for part in term.op.terms[1:]]
                term.args = [self.term(arg, stack) for arg in term.args]
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension() | ast.TemplateString():
                self.closure(term, stack)
            case _:
                ast.map_terms(term, lambda inner: self.term(inner, stack))
        return term

    def ref(self, ref: ast.Ref, stack: _Stack) -> ast.Term:
        head = ref.terms[0]
        if len(ref.terms) == 1 and isinstance(head, ast.Var) and head.name in RESERVED:
            how = stack.how_anywhere(head.name)
            renamed = stack.declared(head.name)
            if how is not None and how is not _Seen.SEEN and renamed is not None:
                return ast.Var(renamed, ref.loc)
            return ref
        ref.terms = [self.term(part, stack) for part in ref.terms]
        return ref

    def closure(self, term: ast.Term, stack: _Stack) -> None:
        match term:
            case ast.ArrayComprehension() | ast.SetComprehension():
                used = all_vars([term.term])
                with stack.scope():
                    term.body = self.body(term.body, stack, used)
                    term.term = self.term(term.term, stack)
            case ast.ObjectComprehension():
                used = all_vars([term.key, term.value])
                with stack.scope():
                    term.body = self.body(term.body, stack, used)
                    term.key = self.term(term.key, stack)
                    term.value = self.term(term.value, stack)
            case ast.TemplateString():
                for part in term.parts:
                    if isinstance(part, ast.Expr):
                        self.expr(part, stack)
            case _:
                pass


def _renamed(term: ast.Term, names: dict[str, str]) -> ast.Term:
    """Renames variables everywhere in a term, closures included."""
    if isinstance(term, ast.Var):
        renamed = names.get(term.name)
        return ast.Var(renamed, term.loc) if renamed is not None else term

    def change(inner: ast.Term) -> ast.Term:
        return _renamed(inner, names)

    match term:
        case ast.ArrayComprehension() | ast.SetComprehension():
            term.term = change(term.term)
            _rename_body(term.body, names)
        case ast.ObjectComprehension():
            term.key, term.value = change(term.key), change(term.value)
            _rename_body(term.body, names)
        case ast.TemplateString():
            _rename_body([part for part in term.parts if isinstance(part, ast.Expr)], names)
        case _:
            ast.map_terms(term, change)
    return term


def _rename_body(body: ast.Body, names: dict[str, str]) -> None:
    for expr in body:
        node = expr.node
        if isinstance(node, ast.Every):
            node.domain = _renamed(node.domain, names)
            _rename_body(node.body, names)
        elif isinstance(node, ast.SomeDecl):
            node.symbols = [_renamed(symbol, names) for symbol in node.symbols]
        else:
            expr.node = _renamed(node, names)
        for modifier in expr.withs:
            modifier.target = _renamed(modifier.target, names)
            modifier.value = _renamed(modifier.value, names)
