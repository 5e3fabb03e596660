"""Rules and queries rewritten to the form that is checked and compiled: one step an expression.

After these stages no term holds a call, refs and comprehensions stand alone on one side of an equation or as an
expression, and every value that has to be computed has a variable. The order of the resulting expressions is OPA's; it
decides which error is met first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.rego import ast
from gateway.rego.builtins.registry import DECLARED
from gateway.rego.errors import COMPILE, TYPE, CompileError, Problem
from gateway.rego.locals import Names
from gateway.rego.parser import is_ground
from gateway.rego.printer import term_text
from gateway.rego.resolve import exprs_of_body, exprs_of_term
from gateway.rego.ruletree import Node, ground_prefix, is_data_ref
from gateway.rego.safety import (
    RESERVED,
    Arity,
    Vars,
    all_vars,
    body_outputs,
    closures_of,
    needed_vars,
)

PRINT = "internal.print"
TEMPLATE = "internal.template_string"


def operator(name: str, loc: ast.Location) -> ast.Ref:
    first, *rest = name.split(".")
    return ast.Ref([ast.Var(first, loc), *[ast.Scalar(part, loc) for part in rest]], loc)


def equation(left: ast.Term, right: ast.Term, loc: ast.Location) -> ast.Expr:
    return ast.Expr(ast.Call(operator("eq", loc), [left, right], loc, infix=True), loc, generated=True)


def is_true_body(body: ast.Body) -> bool:
    return (
        len(body) == 1 and isinstance(body[0].node, ast.Scalar) and body[0].node.value is True and not body[0].negated
    )


def append(body: ast.Body, exprs: Iterable[ast.Expr]) -> ast.Body:
    """A body with expressions added; a body that is nothing but `true` is replaced.

    OPA takes `not true` for `true` here, and drops it. Neither answer will do: such a body does not load.
    """
    added = list(exprs)
    if added and len(body) == 1 and body[0].negated and is_true_body([ast.Expr(body[0].node, body[0].loc)]):
        message = "a body of nothing but `not true` is not supported by this engine: OPA drops it"
        raise CompileError([Problem.at(body[0].loc, COMPILE, message)])
    if added and is_true_body(body):
        return added
    return [*body, *added]


def requires_eval(term: ast.Term | None) -> bool:
    if term is None:
        return False
    return any(isinstance(inner, (ast.Ref, *ast.COMPREHENSIONS)) for inner in ast.walk_terms(term))


class Rewriter:
    def __init__(self, names: Names, root: Node, arity: Arity) -> None:
        self.names = names
        self.root = root
        self.arity = arity
        self.problems: list[Problem] = []

    def define(self, term: ast.Term) -> tuple[ast.Expr, ast.Var]:
        """`#n = term`."""
        var = self.names.var(term.loc)
        return equation(var, term, term.loc), var

    # Heads ----------------------------------------------------------------------------------------------------

    def head_refs(self, rule: ast.Rule) -> None:
        """Steps of a rule's path that are neither scalars nor variables become variables."""
        head = rule.head
        for i, part in enumerate(head.ref):
            if i and not isinstance(part, (ast.Var, ast.Scalar)):
                expr, var = self.define(part)
                if i == len(head.ref) - 1 and head.key is not None and ast.same_term(head.key, part):
                    head.key = ast.Var(var.name, var.loc)
                head.ref[i] = var
                rule.body = append(rule.body, [expr])

    def refs_in_head(self, rule: ast.Rule) -> None:
        head = rule.head
        if requires_eval(head.key) and head.key is not None:
            expr, head.key = self.define(head.key)
            rule.body = append(rule.body, [expr])
        if requires_eval(head.value) and head.value is not None:
            expr, head.value = self.define(head.value)
            rule.body = append(rule.body, [expr])
        for i, arg in enumerate(head.args or []):
            if requires_eval(arg) and head.args is not None:
                expr, var = self.define(arg)
                head.args[i] = var
                rule.body = append(rule.body, [expr])

    # Template strings -------------------------------------------------------------------------------------------

    def templates(self, rule: ast.Rule) -> None:
        safe: Vars = set(RESERVED)
        all_vars(rule.head.args or [], safe)
        safe = self.templates_in_body(rule.body, safe)
        head = rule.head
        if head.args is not None:
            head.args = [self.templates_in_term(arg, safe) for arg in head.args]
        if head.key is not None:
            head.key = self.templates_in_term(head.key, safe)
        if head.value is not None:
            head.value = self.templates_in_term(head.value, safe)

    def templates_in_body(self, body: ast.Body, outer: Vars) -> Vars:
        if not any(isinstance(t, ast.TemplateString) for term in ast.body_terms(body) for t in ast.walk_terms(term)):
            return outer | body_outputs(body, self.arity, outer)
        safe = outer | body_outputs(body, self.arity, outer)
        for expr in body:
            node = expr.node
            if isinstance(node, ast.Every):
                node.domain = self.templates_in_term(node.domain, safe)
                inner = safe | {var.name for var in (node.key, node.value) if var is not None}
                self.templates_in_body(node.body, inner)
            elif not isinstance(node, ast.SomeDecl):
                expr.node = self.templates_in_term(node, safe)
            for modifier in expr.withs:
                modifier.value = self.templates_in_term(modifier.value, safe)
        return safe

    def templates_in_term(self, term: ast.Term, safe: Vars) -> ast.Term:
        match term:
            case ast.TemplateString():
                return self.template(term, safe)
            case ast.ArrayComprehension() | ast.SetComprehension():
                inner = self.templates_in_body(term.body, safe)
                term.term = self.templates_in_term(term.term, inner)
            case ast.ObjectComprehension():
                inner = self.templates_in_body(term.body, safe)
                term.key = self.templates_in_term(term.key, inner)
                term.value = self.templates_in_term(term.value, inner)
            case _:
                ast.map_terms(term, lambda part: self.templates_in_term(part, safe))
        return term

    def template(self, template: ast.TemplateString, safe: Vars) -> ast.Term:
        parts: list[ast.Term] = []
        for part in template.parts:
            if isinstance(part, ast.Scalar):
                parts.append(part)
                continue
            node = part.node
            if isinstance(node, (ast.SomeDecl, ast.Every)):
                message = "unexpected template-string expression type"
                self.problems.append(Problem.at(part.loc, COMPILE, message))
                continue
            if isinstance(node, ast.Call) and (found := DECLARED.get(node.name)) is not None and found.relation:
                message = f"illegal call to relation built-in '{node.name}' that may cause multiple outputs"
                self.problems.append(Problem.at(part.loc, COMPILE, message))
                continue
            node = self.templates_in_term(node, safe)
            if isinstance(node, ast.Var) or (isinstance(node, ast.Ref) and self.always_defined(node)):
                parts.append(ast.SetTerm([node], node.loc))
                continue
            for name in sorted(needed_vars(node, set()) - safe):
                shown = self.names.original.get(name, name)
                message = f"var {'_' if shown.startswith('$') else shown} is undeclared"
                self.problems.append(Problem.at(node.loc, COMPILE, message))
            expr, var = self.define(node)
            expr.withs = part.withs
            parts.append(ast.SetComprehension(ast.Var(var.name, var.loc), [expr], node.loc))
        if not parts:
            parts.append(ast.Scalar("", template.loc))
        return ast.Call(operator(TEMPLATE, template.loc), [ast.ArrayTerm(parts, template.loc)], template.loc)

    def always_defined(self, ref: ast.Ref) -> bool:
        """Whether a ref names a rule that always has a value: one with a default, a set, or a constant."""
        if not is_data_ref(ref) or len(ref.terms) < 2:
            return False
        prefix = ground_prefix(ref.terms[1:])
        node = self.root.find(prefix) if len(prefix) == len(ref.terms) - 1 else None
        if node is None or not node.rules or node.is_function:
            return False
        if any(rule.default for rule in node.rules) or node.rules[0].head.multi_value:
            return True
        rule = node.rules[0]
        value = rule.head.value
        return len(node.rules) == 1 and is_true_body(rule.body) and value is not None and _constant(value)

    # Print -----------------------------------------------------------------------------------------------------

    def prints(self, rule: ast.Rule) -> None:
        safe: Vars = set(RESERVED)
        all_vars(rule.head.args or [], safe)
        for body in _bodies_of_head(rule.head):
            self.prints_in_body(body, safe)
        self.prints_in_body(rule.body, safe)

    def prints_in_body(self, body: ast.Body, outer: Vars) -> None:
        for i, expr in enumerate(body):
            closures = closures_of(expr)
            is_print = isinstance(expr.node, ast.Call) and expr.node.name == "print"
            if not closures and not is_print:
                continue
            safe = outer | body_outputs(body[:i], self.arity, outer)
            for closure in closures:
                inner = set(safe)
                if isinstance(closure, ast.Every):
                    inner |= {var.name for var in (closure.key, closure.value) if var is not None}
                self.prints_in_body(closure.body, inner)
            if isinstance(expr.node, ast.Call) and is_print:
                expr.node = self.print_call(expr.node, safe)

    def print_call(self, call: ast.Call, safe: Vars) -> ast.Term:
        parts: list[ast.Term] = []
        for arg in call.args:
            for name in sorted(needed_vars(arg, set()) - safe):
                if name.startswith("#") and name not in self.names.original:
                    continue
                shown = self.names.original.get(name, name)
                message = f"var {'_' if shown.startswith('$') else shown} is undeclared"
                self.problems.append(Problem.at(arg.loc, COMPILE, message))
            expr, var = self.define(arg)
            parts.append(ast.SetComprehension(ast.Var(var.name, var.loc), [expr], arg.loc))
        return ast.Call(operator(PRINT, call.loc), [ast.ArrayTerm(parts, call.loc)], call.loc)

    # Calls inside terms -----------------------------------------------------------------------------------------

    def expr_terms(self, rule: ast.Rule) -> None:
        """Calls inside terms become expressions of their own with an output."""
        head = rule.head
        for i, arg in enumerate(head.args or []):
            if head.args is not None:
                support, head.args[i] = self.expand(arg)
                rule.body = append(rule.body, support)
        if head.key is not None:
            support, head.key = self.expand(head.key)
            rule.body = append(rule.body, support)
        if head.value is not None:
            support, head.value = self.expand(head.value)
            rule.body = append(rule.body, support)
        rule.body = self.expand_body(rule.body)

    def expand_body(self, body: ast.Body) -> ast.Body:
        return [expanded for expr in body for expanded in self.expand_expr(expr)]

    def expand_expr(self, expr: ast.Expr) -> ast.Body:
        result: ast.Body = []
        for modifier in expr.withs:
            support, modifier.value = self.expand(modifier.value)
            result += support
        node = expr.node
        if isinstance(node, ast.Every):
            domain = self.names.var(node.domain.loc)
            defined = equation(domain, node.domain, node.domain.loc)
            defined.withs = expr.withs
            result += self.expand_expr(defined) if not expr.withs else self.expand_with_shared(defined)
            node.domain = ast.Var(domain.name, domain.loc)
            node.body = self.expand_body(node.body)
            result.append(expr)
            return result
        if isinstance(node, ast.SomeDecl):
            return [*result, expr]
        support = []
        if isinstance(node, ast.Call):
            for i, arg in enumerate(node.args):
                extra, node.args[i] = self.expand(arg)
                support += extra
        else:
            support, expr.node = self.expand(node)
        if expr.withs:
            for extra_expr in support:
                extra_expr.withs = expr.withs
        return [*result, *support, expr]

    def expand_with_shared(self, expr: ast.Expr) -> ast.Body:
        # The values of the shared modifiers are expanded already.
        withs, expr.withs = expr.withs, []
        result = self.expand_expr(expr)
        for part in result:
            part.withs = withs
        return result

    def expand(self, term: ast.Term) -> tuple[list[ast.Expr], ast.Term]:
        support: list[ast.Expr] = []

        def part(inner: ast.Term) -> ast.Term:
            extra, output = self.expand(inner)
            support.extend(extra)
            return output

        match term:
            case ast.Call():
                term.args = [part(arg) for arg in term.args]
                output = self.names.var(term.loc)
                call = ast.Call(term.op, [*term.args, output], term.loc, term.infix)
                support.append(ast.Expr(call, term.loc, generated=True))
                return support, ast.Var(output.name, output.loc)
            case ast.Ref():
                subject = term.terms[0]
                if not isinstance(subject, (ast.Var, ast.Ref)):
                    subject = ast.copy_term(subject)
                term.terms = [part(item) for item in term.terms]
                if isinstance(term.terms[0], ast.Var):
                    self.names.subjects[term.terms[0].name] = subject
                elif not isinstance(term.terms[0], ast.Ref):
                    expr, var = self.define(term.terms[0])
                    support.append(expr)
                    term.terms[0] = ast.Var(var.name, var.loc)
                    self.names.subjects[var.name] = subject
            case ast.ArrayTerm() | ast.SetTerm() | ast.ObjectTerm():
                ast.map_terms(term, part)
            case ast.ArrayComprehension() | ast.SetComprehension():
                inner, term.term = self.expand(term.term)
                term.body = self.expand_body(append(term.body, inner))
            case ast.ObjectComprehension():
                inner, term.key = self.expand(term.key)
                term.body = append(term.body, inner)
                inner, term.value = self.expand(term.value)
                term.body = self.expand_body(append(term.body, inner))
            case _:
                pass
        return support, term

    # Comprehensions' terms --------------------------------------------------------------------------------------

    def comprehension_terms(self, rule: ast.Rule) -> None:
        for comprehension in _comprehensions_of_rule(rule):
            self.comprehension_term(comprehension)

    def comprehension_terms_of_body(self, body: ast.Body) -> None:
        for comprehension in _comprehensions_of_body(body):
            self.comprehension_term(comprehension)

    def comprehension_term(self, comprehension: ast.Comprehension) -> None:
        if isinstance(comprehension, ast.ObjectComprehension):
            if requires_eval(comprehension.key):
                expr, comprehension.key = self.define(comprehension.key)
                comprehension.body = append(comprehension.body, [expr])
            if requires_eval(comprehension.value):
                expr, comprehension.value = self.define(comprehension.value)
                comprehension.body = append(comprehension.body, [expr])
        elif requires_eval(comprehension.term):
            expr, comprehension.term = self.define(comprehension.term)
            comprehension.body = append(comprehension.body, [expr])

    # With -------------------------------------------------------------------------------------------------------

    def withs_of_rule(self, rule: ast.Rule) -> None:
        for closure_body in _closure_bodies_of_rule(rule):
            closure_body[:] = self.withs(closure_body)
        rule.body = self.withs(rule.body)

    def withs_of_query(self, body: ast.Body) -> ast.Body:
        for closure_body in _closure_bodies([], body):
            closure_body[:] = self.withs(closure_body)
        return self.withs(body)

    def withs(self, body: ast.Body) -> ast.Body:
        result: ast.Body = []
        for expr in body:
            for modifier in expr.withs:
                if self.check_with(modifier):
                    defined, modifier.value = self.define(modifier.value)
                    result.append(defined)
            result.append(expr)
        return result

    def check_with(self, modifier: ast.With) -> bool:
        """Checks one modifier; says whether its value has to be computed before."""
        target, value = modifier.target, modifier.value
        if isinstance(value, ast.Var) and value.name in DECLARED:
            value = modifier.value = ast.Ref([value], value.loc)
        target_name = term_text(target)
        builtin = DECLARED.get(target_name)
        if is_data_ref(target) and isinstance(target, ast.Ref):
            return self.check_with_data(target, value)
        if isinstance(target, ast.Ref) and isinstance(target.terms[0], ast.Var) and target.terms[0].name == "input":
            return requires_eval(value)
        if builtin is not None:
            if isinstance(target, ast.Var):
                modifier.target = ast.Ref([target], target.loc)
            message = ""
            if target_name in ("eq", "rego.metadata.chain", "rego.metadata.rule"):
                message = f'replacement of "{target_name}" invalid'
            elif target_name.startswith("internal."):
                message = f'replacement of internal function "{target_name}" invalid'
            elif builtin.relation:
                message = "target must not be a relation"
            elif builtin.result == "void":
                message = "target must not be a void function"
            if message:
                text = f"with keyword replacing built-in function: {message}"
                self.problems.append(Problem.at(target.loc, COMPILE, text))
                return False
            return False if self.is_function_value(value) else requires_eval(value)
        text = "with keyword target must reference existing input, data, or a function"
        self.problems.append(Problem.at(target.loc, TYPE, text))
        return False

    def check_with_data(self, target: ast.Ref, value: ast.Term) -> bool:
        node: Node | None = self.root
        steps = target.terms[1:]
        for i, step in enumerate(steps):
            child = node.children.get(_step_key(step)) if node is not None and isinstance(step, ast.Scalar) else None
            if child is not None and child.rules and i < len(steps) - 1:
                message = "with keyword cannot partially replace virtual document(s)"
                self.problems.append(Problem.at(target.loc, COMPILE, message))
                return False
            node = child
            if child is None:
                break
        if node is not None and node.is_function and self.is_function_value(value):
            return False
        if isinstance(value, ast.Ref):
            found = self.node_of(value)
            if found is not None and found.is_function:
                return False
        return requires_eval(value)

    def node_of(self, ref: ast.Ref) -> Node | None:
        if not is_data_ref(ref):
            return None
        prefix = ground_prefix(ref.terms[1:])
        return self.root.find(prefix) if len(prefix) == len(ref.terms) - 1 else None

    def is_function_value(self, value: ast.Term) -> bool:
        if isinstance(value, ast.Ref) and self.node_of(value) is not None:
            return True
        return isinstance(value, (ast.Ref, ast.Var)) and term_text(value) in DECLARED

    # Equality and dynamic terms -------------------------------------------------------------------------------------

    def equals(self, body: ast.Body) -> None:
        """`==` becomes `=`: by now both sides are known to be bound."""
        for expr in exprs_of_body(body):
            node = expr.node
            if isinstance(node, ast.Call) and node.name == "equal" and len(node.args) == 2:
                node.op = operator("eq", node.op.loc)

    def dynamics(self, body: ast.Body) -> ast.Body:
        """Refs and comprehensions inside terms get a variable, defined right before they are used."""
        result: ast.Body = []
        for expr in body:
            node = expr.node
            if isinstance(node, ast.Call):
                name = node.name
                if name == "eq" and len(node.args) == 2:
                    node.args = [self.dynamic_side(expr, arg, result) for arg in node.args]
                elif name == PRINT:
                    self.dynamic_closures(node)
                elif name != "eq":
                    node.args = [self.dynamic(expr, arg, result) for arg in node.args]
            elif isinstance(node, ast.Every):
                node.domain = self.dynamic(expr, node.domain, result)
                node.body = self.dynamics(node.body)
            elif not isinstance(node, ast.SomeDecl):
                expr.node = self.dynamic_side(expr, node, result)
            result.append(expr)
        return result

    def dynamic_closures(self, call: ast.Call) -> None:
        for term in ast.walk_terms(call, closures=False):
            if isinstance(term, ast.COMPREHENSIONS):
                term.body = self.dynamics(term.body)

    def dynamic_side(self, expr: ast.Expr, term: ast.Term, result: ast.Body) -> ast.Term:
        """A ref or a comprehension may stay where it is: only what is inside of it is taken out."""
        match term:
            case ast.Ref():
                term.terms[1:] = [self.dynamic(expr, part, result) for part in term.terms[1:]]
                return term
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                term.body = self.dynamics(term.body)
                return term
            case _:
                return self.dynamic(expr, term, result)

    def dynamic(self, expr: ast.Expr, term: ast.Term, result: ast.Body) -> ast.Term:
        match term:
            case ast.Ref():
                term.terms[1:] = [self.dynamic(expr, part, result) for part in term.terms[1:]]
            case ast.ArrayComprehension() | ast.SetComprehension() | ast.ObjectComprehension():
                term.body = self.dynamics(term.body)
            case ast.ArrayTerm() | ast.SetTerm() | ast.ObjectTerm():
                return ast.map_terms(term, lambda part: self.dynamic(expr, part, result))
            case _:
                return term
        defined, var = self.define(term)
        defined.withs = expr.withs
        result.append(defined)
        return ast.Var(var.name, var.loc)


def _step_key(step: ast.Scalar) -> object:
    from gateway.rego.values import key

    return key(step.value)


def _constant(value: ast.Term) -> bool:
    if isinstance(value, (ast.Scalar, ast.Var)):
        return True
    return (
        isinstance(value, (ast.ArrayTerm, ast.ObjectTerm, ast.SetTerm))
        and is_ground(value)
        and not requires_eval(value)
    )


def _head_terms(head: ast.Head) -> list[ast.Term]:
    return [*head.ref[1:], *(head.args or []), *[term for term in (head.key, head.value) if term is not None]]


def _bodies_of_head(head: ast.Head) -> list[ast.Body]:
    return [
        inner.body
        for term in _head_terms(head)
        for inner in ast.walk_terms(term, closures=False)
        if isinstance(inner, ast.COMPREHENSIONS)
    ]


def _closure_bodies(terms: list[ast.Term], body: ast.Body) -> list[ast.Body]:
    """All closures' bodies in terms and a body, the innermost first."""
    found: list[ast.Body] = []
    exprs = [expr for term in terms for expr in exprs_of_term(term)]
    for term in terms:
        for inner in ast.walk_terms(term, closures=False):
            if isinstance(inner, ast.COMPREHENSIONS):
                found.append(inner.body)
    for expr in [*exprs, *exprs_of_body(body)]:
        found += [closure.body for closure in closures_of(expr)]
    unique = {id(item): item for item in found}
    return list(reversed(unique.values()))


def _closure_bodies_of_rule(rule: ast.Rule) -> list[ast.Body]:
    return _closure_bodies(_head_terms(rule.head), rule.body)


def _comprehensions_of_rule(rule: ast.Rule) -> list[ast.Comprehension]:
    found = _comprehensions_of_body(rule.body)
    for term in _head_terms(rule.head):
        for inner in ast.walk_terms(term):
            if isinstance(inner, ast.COMPREHENSIONS):
                found.append(inner)
    return found


def _comprehensions_of_body(body: ast.Body) -> list[ast.Comprehension]:
    return [
        inner
        for term in ast.body_terms(body)
        for inner in ast.walk_terms(term)
        if isinstance(inner, ast.COMPREHENSIONS)
    ]


Checker = Callable[[ast.Rule], None]
