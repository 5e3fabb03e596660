"""Names to documents: `allow` becomes `data.gateway.allow`, an import's name what it imports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.rego import ast
from gateway.rego.errors import COMPILE, Problem
from gateway.rego.printer import term_text
from gateway.rego.safety import RESERVED, Vars


@dataclass(slots=True)
class _Global:
    path: ast.Ref
    used: bool = False


def resolve_modules(modules: list[ast.Module], *, strict: bool) -> list[Problem]:
    """Resolves the names in all rules, in place; finds unused imports (strict) and shadowed documents."""
    problems: list[Problem] = []
    exports: dict[tuple[str, ...], Vars] = {}
    for module in modules:
        names = exports.setdefault(module.package.path, set())
        for rule in module.rules:
            first = rule.head.ref[0]
            if isinstance(first, ast.Var):
                names.add(first.name)
    for module in modules:
        resolver = Resolver(globals_of(module.package.path, exports[module.package.path], module.imports))
        for rule in module.rules:
            for branch in rule.chain():
                branch.package = module.package.path
                problem = resolver.rule(branch)
                if problem is not None:
                    problems.append(problem)
        if strict:
            for imported in module.imports:
                if _is_language_import(imported):
                    continue
                entry = resolver.globals.get(imported.name)
                if entry is not None and not entry.used:
                    text = f"import {term_text(imported.path)}" + (f" as {imported.alias}" if imported.alias else "")
                    problems.append(Problem.at(imported.loc, COMPILE, f"{text} unused"))
    return problems


def duplicate_imports(modules: Iterable[ast.Module]) -> list[Problem]:
    problems: list[Problem] = []
    for module in modules:
        seen: dict[str, ast.Import] = {}
        for imported in module.imports:
            before = seen.get(imported.name)
            if before is None:
                seen[imported.name] = imported
            else:
                text = f"import {term_text(before.path)}" + (f" as {before.alias}" if before.alias else "")
                problems.append(Problem.at(imported.loc, COMPILE, f"import must not shadow {text}"))
    return problems


def root_overrides(modules: Iterable[ast.Module]) -> list[Problem]:
    """Rules, arguments and assigned variables named `input` or `data`."""
    problems: list[Problem] = []
    for module in modules:
        for rule in module.rules:
            first = rule.head.ref[0]
            if isinstance(first, ast.Var) and first.name in RESERVED:
                message = f"rules must not shadow {first.name} (use a different rule name)"
                problems.append(Problem.at(rule.loc, COMPILE, message))
            for branch in rule.chain():
                for expr in nested_exprs(branch):
                    if isinstance(expr.node, ast.Call) and expr.node.name == "assign" and expr.node.args:
                        name = term_text(expr.node.args[0])
                        if name in RESERVED:
                            message = f"variables must not shadow {name} (use a different variable name)"
                            problems.append(Problem.at(expr.loc, COMPILE, message))
    return problems


def nested_exprs(rule: ast.Rule) -> Iterable[ast.Expr]:
    """Every expression of a rule, those in closures of its head and body included."""
    head = rule.head
    terms = [*head.ref[1:], *(head.args or []), *[t for t in (head.key, head.value) if t is not None]]
    for term in terms:
        yield from exprs_of_term(term)
    yield from exprs_of_body(rule.body)


def exprs_of_body(body: ast.Body) -> Iterable[ast.Expr]:
    for expr in body:
        yield expr
        if isinstance(expr.node, ast.Every):
            yield from exprs_of_term(expr.node.domain)
            yield from exprs_of_body(expr.node.body)
            for modifier in expr.withs:
                yield from exprs_of_term(modifier.value)
        else:
            for term in ast.expr_terms(expr):
                yield from exprs_of_term(term)


def exprs_of_term(outer: ast.Term) -> Iterable[ast.Expr]:
    for term in ast.walk_terms(outer, closures=False):
        match term:
            case ast.ArrayComprehension() | ast.SetComprehension():
                yield from exprs_of_term(term.term)
                yield from exprs_of_body(term.body)
            case ast.ObjectComprehension():
                yield from exprs_of_term(term.key)
                yield from exprs_of_term(term.value)
                yield from exprs_of_body(term.body)
            case ast.TemplateString():
                yield from exprs_of_body([part for part in term.parts if isinstance(part, ast.Expr)])
            case _:
                pass


def _is_language_import(imported: ast.Import) -> bool:
    head = imported.path.terms[0]
    return isinstance(head, ast.Var) and head.name in ("future", "rego")


def globals_of(package: tuple[str, ...], exported: Iterable[str], imports: Iterable[ast.Import]) -> dict[str, _Global]:
    found = {
        name: _Global(
            ast.Ref(
                [ast.Var("data", ast.NOWHERE), *[ast.Scalar(p, ast.NOWHERE) for p in (*package, name)]], ast.NOWHERE
            )
        )
        for name in exported
    }
    for imported in imports:
        if not _is_language_import(imported):
            found[imported.name] = _Global(imported.path)
    return found


class Resolver:
    def __init__(self, names: dict[str, _Global]) -> None:
        self.globals = names
        self.ignored: list[Vars] = []

    def is_ignored(self, name: str) -> bool:
        return any(name in names for names in self.ignored)

    def rule(self, rule: ast.Rule) -> Problem | None:
        head = rule.head
        names: Vars = set()
        for arg in head.args or []:
            shadowed = _arg_vars(arg, names)
            if shadowed is not None:
                message = f"args must not shadow {term_text(shadowed)} (use a different variable name)"
                return Problem.at(rule.loc, COMPILE, message)
        self.ignored = [names, declared_vars(rule.body)]
        head.ref[1:] = [self.term(part) for part in head.ref[1:]]
        if head.key is not None:
            head.key = self.term(head.key)
        if head.value is not None:
            head.value = self.term(head.value)
        rule.body = self.body(rule.body)
        return None

    def body(self, body: ast.Body) -> ast.Body:
        for expr in body:
            self.expr(expr)
        return body

    def expr(self, expr: ast.Expr) -> None:
        node = expr.node
        if isinstance(node, ast.SomeDecl):
            first = node.symbols[0]
            if isinstance(first, ast.Call):
                first.args = [self.term(arg) for arg in first.args]
        elif isinstance(node, ast.Every):
            self.ignored.append({var.name for var in (node.key, node.value) if var is not None})
            node.domain = self.term(node.domain)
            self.body(node.body)
            self.ignored.pop()
        else:
            expr.node = self.term(node)
        for modifier in expr.withs:
            modifier.target = self.term(modifier.target)
            modifier.value = self.term(modifier.value)

    def found(self, name: str) -> ast.Ref | None:
        entry = self.globals.get(name)
        if entry is None or self.is_ignored(name):
            return None
        entry.used = True
        return entry.path

    def term(self, term: ast.Term) -> ast.Term:
        match term:
            case ast.Var():
                path = self.found(term.name)
                return _placed(path, term.loc) if path is not None else term
            case ast.Ref():
                return self.ref(term)
            case ast.Call():
                term.op = self.ref(term.op)
                term.args = [self.term(arg) for arg in term.args]
            case ast.ArrayComprehension() | ast.SetComprehension():
                self.ignored.append(declared_vars(term.body))
                term.term = self.term(term.term)
                self.body(term.body)
                self.ignored.pop()
            case ast.ObjectComprehension():
                self.ignored.append(declared_vars(term.body))
                term.key = self.term(term.key)
                term.value = self.term(term.value)
                self.body(term.body)
                self.ignored.pop()
            case ast.TemplateString():
                for part in term.parts:
                    if isinstance(part, ast.Expr):
                        self.expr(part)
            case _:
                ast.map_terms(term, self.term)
        return term

    def ref(self, ref: ast.Ref) -> ast.Ref:
        head = ref.terms[0]
        path = self.found(head.name) if isinstance(head, ast.Var) else None
        # OPA does not look into template strings between brackets: names in there stay unknown, and are refused.
        rest = [part if isinstance(part, ast.TemplateString) else self.term(part) for part in ref.terms[1:]]
        if path is not None:
            return ast.Ref([*_placed(path, head.loc).terms, *rest], ref.loc)
        return ast.Ref([head if isinstance(head, ast.Var) else self.term(head), *rest], ref.loc)


def _placed(path: ast.Ref, loc: ast.Location) -> ast.Ref:
    terms: list[ast.Term] = [
        ast.Var(part.name, loc) if isinstance(part, ast.Var) else ast.Scalar(part.value, loc)
        for part in path.terms
        if isinstance(part, (ast.Var, ast.Scalar))
    ]
    return ast.Ref(terms, loc)


def _arg_vars(term: ast.Term, names: Vars) -> ast.Term | None:
    """Collects the variables of an argument pattern; returns a term that shadows a root document."""
    match term:
        case ast.Var():
            names.add(term.name)
        case ast.Ref():
            if len(term.terms) == 1 and term_text(term) in RESERVED:
                return term
            for part in term.terms:
                if (shadowed := _arg_vars(part, names)) is not None:
                    return shadowed
        case ast.ArrayTerm():
            for item in term.items:
                if (shadowed := _arg_vars(item, names)) is not None:
                    return shadowed
        case ast.ObjectTerm():
            for _, item in term.pairs:
                if (shadowed := _arg_vars(item, names)) is not None:
                    return shadowed
        case _:
            pass
    return None


def declared_vars(body: ast.Body) -> Vars:
    """The variables that a body declares by `:=` and `some`, `every` bodies included, comprehensions not."""
    found: Vars = set()
    for expr in body:
        _declared_by(expr, found)
    return found


def declared_by(expr: ast.Expr) -> Vars:
    found: Vars = set()
    _declared_by(expr, found)
    return found


def _declared_by(expr: ast.Expr, found: Vars) -> None:
    node = expr.node
    if isinstance(node, ast.Call) and node.name == "assign" and len(node.args) == 2:
        _vars_outside_closures(node.args[0], found)
    elif isinstance(node, ast.SomeDecl):
        for symbol in node.symbols:
            if isinstance(symbol, ast.Var):
                found.add(symbol.name)
            elif isinstance(symbol, ast.Call):
                for arg in symbol.args[:-1]:
                    _vars_outside_closures(arg, found)
    elif isinstance(node, ast.Every):
        for inner in node.body:
            _declared_by(inner, found)


def _vars_outside_closures(term: ast.Term, found: Vars) -> None:
    for inner in ast.walk_terms(term):
        if isinstance(inner, ast.Var):
            found.add(inner.name)
