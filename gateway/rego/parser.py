"""Rego v1 text to syntax trees: a recursive descent parser with the grammar, precedence and messages of OPA's.

Ambiguities are resolved as OPA resolves them. `{x | y}` is a comprehension rather than a set of a union; after `if`, a
brace is tried as a literal first and as a body when that fails or yields a set. Terms parsed once are remembered by
place, so that trying again does not take exponential time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final, TypeVar

from gateway.rego import ast
from gateway.rego.errors import COMPILE, PARSE, CompileError, Problem
from gateway.rego.lexer import (
    EOF,
    IDENT,
    ILLEGAL,
    KEYWORDS,
    NUMBER,
    RAW_END,
    RAW_PART,
    TEMPLATE_END,
    TEMPLATE_PART,
    Token,
    scan,
)
from gateway.rego.printer import term_text
from gateway.rego.values import number_from_text

_NAMES: Final = {
    "+": "plus", "-": "minus", "*": "mul", "/": "div", "%": "rem", "&": "and", "|": "or", "=": "eq", "==": "equal",
    ":=": "assign", "!=": "neq", ">": "gt", "<": "lt", ">=": "gte", "<=": "lte",
}  # fmt: skip
_RELATIONS: Final = ("==", "!=", "<", ">", "<=", ">=")
_RULE_NAME_FOLLOWERS: Final = {
    "every": (":=", "=", "if", "contains", "("), "if": (":=", "=", "if", "contains", "("),
    "in": (":=", "=", "if", "contains", "("), "some": (":=", "=", "if", "contains", "("),
    "as": (":=", "=", "if", "contains", "("), "package": (":=", "=", "("), "import": (":=", "=", "("),
    "not": (":=", "=", "if", "contains"), "contains": ("if", "contains"),
}  # fmt: skip
_MAX_NUMBER_EXPONENT: Final = 30103  # 2**100000, OPA's bound
_MEMBERSHIP: Final = ("internal.member_2", "internal.member_3")
ROOTS: Final = frozenset(("input", "data"))
_T = TypeVar("_T")


class _Failure(Exception):
    """Parsing failed here."""

    def __init__(self, loc: ast.Location, message: str) -> None:
        super().__init__(message)
        self.loc = loc
        self.message = message


class _NotARule(Exception):
    """The statement is no rule; it may be a query that stands for one."""


def parse_module(source: str, file: str) -> ast.Module:
    """Parses one module.

    Raises:
        CompileError: with the code `rego_parse_error`.
    """
    return _guarded(file, lambda: Parser(source, file).module())


def parse_query(source: str, file: str = "query") -> ast.Body:
    """Parses a query: a body without braces."""
    return _guarded(file, lambda: Parser(source, file).query())


def parse_term(source: str, file: str = "term") -> ast.Term:
    """Parses one term."""
    body = parse_query(source, file)
    if len(body) != 1 or isinstance(body[0].node, (ast.SomeDecl, ast.Every)) or body[0].withs or body[0].negated:
        raise CompileError([Problem(PARSE, "expected exactly one term", file, 1, 1)])
    return body[0].node


def _guarded(file: str, parse: Callable[[], _T]) -> _T:
    try:
        return parse()
    except _Failure as failure:
        raise CompileError([Problem.at(failure.loc, PARSE, failure.message)]) from None
    except RecursionError:
        raise CompileError([Problem(PARSE, "max parsing recursion depth exceeded", file, 1, 1)]) from None


class Parser:
    def __init__(self, source: str, file: str) -> None:
        self.source = source
        self.file = file
        self.tokens, self.comments = scan(source, file)
        self.at = 0
        self.tok = self.tokens[0]
        self.wildcards = 0
        self.remembered: dict[int, tuple[ast.Term | _Failure, int]] = {}
        self.logical_keywords = False
        self.keyword_head = -1

    # Tokens ---------------------------------------------------------------------------------------------------

    def advance(self) -> Token:
        token = self.tok
        self.at += 1
        self.tok = self.tokens[self.at]
        return token

    def back_to(self, at: int) -> None:
        self.at = at
        self.tok = self.tokens[at]

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def adjacent(self, *kinds: str) -> bool:
        """Whether the current token is one of `kinds` and touches the one before."""
        return self.tok.kind in kinds and not self.tok.space

    def keyword_in_ref(self) -> bool:
        """Whether the current token is a keyword that here only names the head of a ref (`not.x`, `in["y"]`)."""
        if self.tok.kind not in KEYWORDS:
            return False
        after = self.peek()
        return after.kind in (".", "[") and not after.space

    def illegal(self, note: str = "") -> _Failure:
        token = self.tok
        if token.kind == ILLEGAL:
            return _Failure(token.loc, token.text or "illegal token")
        name = _NAMES.get(token.kind, token.kind)
        kind = "keyword" if token.kind in KEYWORDS else "token"
        return _Failure(token.loc, f"unexpected {name} {kind}" + (f": {note}" if note else ""))

    def expect(self, kind: str, note: str = "") -> Token:
        if self.tok.kind != kind:
            raise self.illegal(note)
        return self.advance()

    # Statements -----------------------------------------------------------------------------------------------

    def module(self) -> ast.Module:
        package: ast.Package | None = None
        imports: list[ast.Import] = []
        rules: list[ast.Rule] = []
        problems: list[Problem] = []
        first = True
        while self.tok.kind != EOF:
            self.refuse_keyword_rule_name()
            start = self.at
            loc = self.tok.loc
            if self.tok.kind == "package" and not (self.peek().kind in (".", "[") and not self.peek().space):
                found = self.package()
                if first:
                    package = found
                else:
                    problems.append(Problem.at(loc, PARSE, "unexpected package"))
            elif self.tok.kind == "import" and not (self.peek().kind in (".", "[") and not self.peek().space):
                if first:
                    problems.append(Problem.at(loc, PARSE, "package expected"))
                imported = self.import_()
                if imported is not None:
                    imports.append(imported)
            else:
                if first:
                    problems.append(Problem.at(loc, PARSE, "package expected"))
                try:
                    rules += self.rules()
                except _NotARule:
                    self.back_to(start)
                    body = self.statement_body()
                    try:
                        rules.append(self.rule_from_body(body))
                    except _Failure as failure:
                        problems.append(Problem.at(body[0].loc, PARSE, failure.message))
            first = False
        if first:
            raise CompileError([Problem(PARSE, "empty module", self.file, 0, 0)])
        for rule in rules:
            problems += check_rule_v1(rule)
        if problems or package is None:
            raise CompileError(sorted(problems, key=lambda p: (p.line, p.column)))
        return ast.Module(self.file, package, imports, rules, self.comments)

    def query(self) -> ast.Body:
        if self.tok.kind == EOF:
            raise _Failure(self.tok.loc, "found empty body")
        body: ast.Body = []
        while self.tok.kind != EOF:
            body += self.statement_body()
        return body

    def refuse_keyword_rule_name(self, *, default: bool = False) -> None:
        followers = _RULE_NAME_FOLLOWERS.get(self.tok.kind)
        if followers is not None and (default or self.peek().kind in followers):
            raise _Failure(self.tok.loc, f"{self.tok.text} keyword cannot be used for rule name")

    def package(self) -> ast.Package:
        loc = self.advance().loc
        if self.tok.kind != IDENT and self.tok.kind not in KEYWORDS:
            raise self.illegal()
        term = self.path_term()
        terms = term.terms if isinstance(term, ast.Ref) else [term]
        path: list[str] = []
        for part in terms:
            if isinstance(part, ast.Var) and not path:
                path.append(part.name)
            elif isinstance(part, ast.Scalar) and isinstance(part.value, str):
                path.append(part.value)
            else:
                raise _Failure(
                    part.loc, f"unexpected {_value_name(part)} token: expecting {'string' if path else 'var'}"
                )
        if self.tok.kind == "-":
            raise self.illegal()
        return ast.Package(tuple(path), loc)

    def path_term(self) -> ast.Term:
        """A ref whose head may be a keyword."""
        token = self.advance()
        return self.finish_term(ast.Var(token.text, token.loc))

    def import_(self) -> ast.Import | None:
        loc = self.advance().loc
        if self.tok.kind != IDENT and self.tok.kind not in KEYWORDS:
            raise self.illegal()
        term = self.path_term()
        path = term if isinstance(term, ast.Ref) else ast.Ref([term], term.loc)
        head = path.terms[0]
        for part in path.terms[1:]:
            if not (isinstance(part, ast.Scalar) and isinstance(part.value, str)):
                raise _Failure(part.loc, f"unexpected {_value_name(part)} token: expecting string")
        name = head.name if isinstance(head, ast.Var) else ""
        if name not in ("input", "data", "future", "rego"):
            raise _Failure(
                path.loc,
                "unexpected import path, must begin with one of: {data, future, input, rego}, got: "
                f"{term_text(head)} (hint: if this is unexpected, try updating OPA)",
            )
        alias: str | None = None
        alias_loc = self.tok.loc
        if self.tok.kind == "as":
            self.advance()
            alias_loc = self.tok.loc
            if self.tok.kind != IDENT:
                raise self.illegal("expected var")
            target = self.term()
            if isinstance(target, ast.Ref) and len(target.terms) == 1:
                raise _Failure(
                    alias_loc, f"unexpected import alias, must not be a reserved name, got: {term_text(target)}"
                )
            if not isinstance(target, ast.Var):
                raise self.illegal("expected var")
            alias = target.name
        else:
            last = path.terms[-1]
            final = last.name if isinstance(last, ast.Var) else str(last.value) if isinstance(last, ast.Scalar) else ""
            if final in KEYWORDS and name != "future":
                raise _Failure(
                    last.loc,
                    f"unexpected import path, must not end with a keyword, got: {final} "
                    "(hint: import a different path or use an alias)",
                )
        if self.tok.kind == "-":
            raise self.illegal()
        text = term_text(path)
        if name == "rego":
            if text == "rego.v2":
                raise _Failure(path.loc, "invalid import, `rego.v2` is not supported by this engine")
            if text != "rego.v1":
                raise _Failure(path.loc, f"invalid import `{text}`, must be one of: `rego.v1`, `rego.v2`")
            if alias is not None:
                raise _Failure(alias_loc, "`rego` imports cannot be aliased")
        if name == "future":
            self.future_import(path, alias, alias_loc)
        return ast.Import(path, alias, loc)

    def future_import(self, path: ast.Ref, alias: str | None, alias_loc: ast.Location) -> None:
        parts = [part.value for part in path.terms[1:] if isinstance(part, ast.Scalar)]
        if not parts or parts[0] != "keywords":
            raise _Failure(path.loc, "invalid import, must be `future.keywords`")
        if alias is not None:
            raise _Failure(alias_loc, "`future` imports cannot be aliased")
        if len(parts) == 2 and parts[1] not in ("in", "every", "contains", "if", "not", "and", "or"):
            raise _Failure(path.loc, "unexpected keyword, must be one of [and contains every if in not or]")
        if len(parts) < 2 or parts[1] in ("not", "and", "or"):
            self.logical_keywords = True

    def rules(self) -> list[ast.Rule]:
        loc = self.tok.loc
        default = False
        if self.tok.kind == "default" and not self.keyword_in_ref():
            default = True
            self.advance()
        if self.tok.kind != IDENT and not self.keyword_in_ref():
            if default:
                self.refuse_keyword_rule_name(default=True)
            raise _NotARule
        head = self.head(default)
        rule = ast.Rule(head, [], loc, default=default)
        if default:
            self.check_default(rule)
            rule.body = [_true(loc)]
            rule.generated_body = True
            return [rule]
        has_if = self.tok.kind == "if" and not self.keyword_in_ref()
        key_like = head.args is None and len(head.ref) == 2
        if has_if and not head.contains and len(head.ref) == 2:
            last = head.ref[1]
            if (not is_ground(last) or isinstance(last, ast.Ref)) and head.args is None:
                head.key = last
            if head.value is None:
                head.generated_value = True
                head.value = ast.Scalar(True, head.loc)
        if not has_if and not head.contains and key_like:
            head.key = head.ref[1]
            if head.value is None:
                head.ref = head.ref[:-1]
        if has_if:
            head.has_if = True
            self.advance()
            rule.body = self.if_body()
        elif self.tok.kind == "{":
            self.advance()
            rule.body = self.body("}")
            self.advance()
        elif head.contains:
            rule.body = [_true(loc)]
            rule.generated_body = True
            rule.loc = head.loc
            return [rule]
        else:
            raise _NotARule
        if self.tok.kind == "else" and not self.keyword_in_ref():
            if len(head.ref) > 1 and not all(map(is_ground, head.ref[1:])):
                raise _Failure(self.tok.loc, "else keyword cannot be used on rules with variables in head")
            if head.key is not None:
                raise _Failure(self.tok.loc, "else keyword cannot be used on multi-value rules")
            rule.otherwise = self.else_(head)
        rules = [rule]
        while self.tok.kind == "{":
            if rule.otherwise is not None:
                raise _Failure(self.tok.loc, "expected else keyword")
            body_loc = self.advance().loc
            body = self.body("}")
            self.advance()
            rules.append(ast.Rule(self.copy_head(head, body_loc), body, body_loc))
        return rules

    def if_body(self) -> ast.Body:
        start = self.at
        brace = self.tok.kind == "{"
        try:
            expr = self.literal()
            if not (brace and isinstance(expr.node, ast.SetTerm)):
                return [expr]
        except _Failure:
            if not brace:
                raise
        self.back_to(start)
        self.advance()
        body = self.body("}")
        self.advance()
        return body

    def copy_head(self, head: ast.Head, loc: ast.Location) -> ast.Head:
        args = head.args
        if args is not None:
            args = [
                self.wildcard(arg.loc) if isinstance(arg, ast.Var) and arg.is_wildcard else ast.copy_term(arg)
                for arg in args
            ]
        return ast.Head(
            [ast.copy_term(part) for part in head.ref],
            loc,
            args,
            ast.copy_term(head.key) if head.key is not None else None,
            ast.copy_term(head.value) if head.value is not None else None,
            head.assign,
            head.generated_value,
            head.contains,
            head.has_if,
        )

    def else_(self, head: ast.Head) -> ast.Rule:
        loc = self.tok.loc
        branch = self.copy_head(head, loc)
        branch.generated_value = False
        branch.has_if = False
        self.advance()
        if self.tok.kind in ("{", "if"):
            branch.generated_value = True
            branch.value = ast.Scalar(True, loc)
        elif self.tok.kind in (":=", "="):
            branch.assign = self.tok.kind == ":="
            self.advance()
            branch.value = self.infix_term()
        else:
            raise self.illegal("expected else value term or rule body")
        rule = ast.Rule(branch, [], loc)
        if self.tok.kind not in ("if", "{"):
            rule.body = [_true(loc)]
            rule.generated_body = True
            return rule
        if self.tok.kind == "if":
            branch.has_if = True
            self.advance()
        if self.tok.kind == "{":
            self.advance()
            rule.body = self.body("}")
            self.advance()
        elif self.tok.kind != EOF:
            rule.body = [self.literal()]
        else:
            raise self.illegal("rule body expected")
        if self.tok.kind == "else" and not self.keyword_in_ref():
            rule.otherwise = self.else_(head)
        return rule

    def head(self, default: bool) -> ast.Head:
        loc = self.tok.loc
        token = self.advance()
        var: ast.Term = self.wildcard(loc) if token.text == "_" else ast.Var(token.text, loc)
        if (
            self.tok.kind in ("+", "-", "*", "/", "%", "&", "|", "==", "!=", ">", ">=", "<", "<=")
            and not self.tok.space
        ):
            raise self.illegal()
        term = self.ref(var) if self.tok.kind in ("(", ".", "[") else _root(var)
        args: list[ast.Term] | None = None
        if isinstance(term, ast.Call):
            args = term.args
            term = term.op
        if isinstance(term, ast.Var):
            ref: list[ast.Term] = [term]
        elif isinstance(term, ast.Ref):
            ref = list(term.terms)
        else:
            raise _NotARule
        if not isinstance(ref[0], ast.Var):
            raise _Failure(loc, f"rule head ref {term_text(term)} invalid") if args is not None else _NotARule()
        head = ast.Head(ref, loc, args)
        name = term_text(ast.Ref(ref, loc))
        kind = self.tok.kind
        if kind == "contains":
            if args is not None:
                raise self.illegal(
                    "the contains keyword can only be used with multi-value rule definitions "
                    f"(e.g., {name} contains <VALUE> {{ ... }})"
                )
            self.advance()
            head.contains = True
            head.key = self.infix_term()
            return head
        if kind in ("=", ":="):
            self.advance()
            head.assign = kind == ":="
            head.value = self.infix_term()
        if head.value is None and (len(ref) != 2 or args is not None):
            head.generated_value = True
            head.value = ast.Scalar(True, loc)
        return head

    def check_default(self, rule: ast.Rule) -> None:
        head = rule.head
        if head.value is None:
            raise _Failure(rule.loc, "illegal default rule (must have a value)")
        for term in ast.walk_terms(head.value, closures=False):
            if isinstance(term, (ast.Ref, ast.Var, ast.Call)):
                kind = type(term).__name__.lower()
                raise _Failure(rule.loc, f"illegal default rule (value cannot contain {kind})")
        seen: set[str] = set()
        for arg in head.args or []:
            if not isinstance(arg, ast.Var):
                raise _Failure(rule.loc, f"illegal default rule (arguments cannot contain {_value_name(arg)})")
            if arg.name in seen:
                raise _Failure(rule.loc, f"illegal default rule (arguments cannot be repeated {arg.name})")
            seen.add(arg.name)

    def rule_from_body(self, body: ast.Body) -> ast.Rule:
        """A statement without a body, read as a rule: `p := 1`, `p.q.r`, `f(1) = 2`."""
        expr = body[0]
        loc = expr.loc
        node = expr.node
        if len(body) != 1:
            raise _Failure(loc, "multiple expressions cannot be used for rule head")
        if expr.withs:
            raise _Failure(loc, "expressions using with keyword cannot be used for rule head")
        if expr.negated:
            raise _Failure(loc, "negated expressions cannot be used for rule head")
        if isinstance(node, ast.SomeDecl):
            raise _Failure(loc, "'some' declarations cannot be used for rule head")
        if isinstance(node, ast.Every):
            raise _Failure(loc, "expression cannot be used for rule head")
        if isinstance(node, ast.Ref):
            if not isinstance(node.terms[0], ast.Var):
                raise _Failure(loc, f"invalid rule head: {term_text(node)}")
            if len(node.terms) == 1:
                raise _Failure(loc, "refs cannot be used for rule head")
            head = ast.Head(list(node.terms), node.loc, value=ast.Scalar(True, node.loc), generated_value=True)
            if len(node.terms) == 2:
                head = ast.Head([node.terms[0]], node.loc, key=node.terms[1])
            return ast.Rule(head, [_true(loc)], loc, generated_body=True)
        if not isinstance(node, ast.Call):
            raise _Failure(loc, f"{_value_name(node)} cannot be used for rule name")
        name = node.name
        if name in ("eq", "assign"):
            if len(node.args) != 2:
                raise _Failure(loc, "assignment requires two operands")
            head = self.head_of_equation(node.args[0], node.args[1], loc)
            head.assign = name == "assign"
            return ast.Rule(head, [_true(node.args[1].loc)], loc, generated_body=True)
        from gateway.rego.builtins.registry import DECLARED

        if name in DECLARED:
            raise _Failure(loc, "rule name conflicts with built-in function")
        if not node.args:
            raise _Failure(loc, "rule argument list must take at least one argument")
        if not isinstance(node.op.terms[0], ast.Var):
            raise _Failure(loc, f"invalid rule head: {name}")
        head = ast.Head(list(node.op.terms), loc, node.args, value=ast.Scalar(True, loc), generated_value=True)
        return ast.Rule(head, [_true(loc)], loc, generated_body=True)

    def head_of_equation(self, left: ast.Term, value: ast.Term, loc: ast.Location) -> ast.Head:
        if isinstance(left, ast.Call):
            if isinstance(left.op.terms[0], ast.Var) and not left.infix:
                return ast.Head(list(left.op.terms), loc, left.args, value=value)
            raise _Failure(loc, "call cannot be used for rule name")
        if isinstance(left, ast.Var):
            return ast.Head([left], loc, value=value)
        if isinstance(left, ast.Ref):
            if not isinstance(left.terms[0], ast.Var):
                raise _Failure(loc, f"invalid rule head: {term_text(left)}")
            head = ast.Head(list(left.terms), loc, value=value)
            if len(left.terms) == 2:
                head.key = left.terms[1]
            return head
        raise _Failure(loc, f"{_value_name(left)} cannot be used for rule name")

    # Bodies ---------------------------------------------------------------------------------------------------

    def statement_body(self) -> ast.Body:
        body = [self.literal()]
        while self.tok.kind == ";":
            self.advance()
            body.append(self.literal())
        return body

    def body(self, end: str) -> ast.Body:
        if self.tok.kind == end:
            raise _Failure(self.tok.loc, "found empty body")
        body: ast.Body = []
        while True:
            body.append(self.literal())
            if self.tok.kind == ";":
                self.advance()
                continue
            if self.tok.kind == end:
                return body
            if not self.tok.newline:
                raise self.illegal(f"expected \\n or ; or {end}")

    def literal(self) -> ast.Expr:
        loc = self.tok.loc
        if self.keyword_in_ref():
            # Only here, and in the heads of rules, can a ref start with a keyword.
            self.keyword_head = self.at
            return self.literal_expr(loc, negated=False)
        negated = False
        if self.tok.kind == "not":
            negated = True
            self.advance()
            if self.logical_keywords and self.tok.kind in ("{", "("):
                raise _Failure(
                    self.tok.loc, "bodies after `not` (future.keywords.not) are not supported by this engine"
                )
        if self.tok.kind == "some" and not self.keyword_in_ref():
            if negated:
                raise self.illegal("illegal negation of 'some'")
            return self.some(loc)
        if self.tok.kind == "every" and not self.keyword_in_ref():
            if negated:
                raise self.illegal("illegal negation of 'every'")
            return self.every(loc)
        return self.literal_expr(loc, negated=negated)

    def literal_expr(self, loc: ast.Location, *, negated: bool) -> ast.Expr:
        left = self.infix_term()
        node = left
        if self.tok.kind in (":=", "="):
            token = self.advance()
            right = self.infix_term()
            node = ast.Call(_operator(_NAMES[token.kind], token.loc), [left, right], loc, infix=True)
        expr = ast.Expr(node, loc, negated=negated)
        expr.withs = self.withs()
        if self.logical_keywords and self.tok.kind == IDENT and self.tok.text in ("and", "or") and not self.tok.newline:
            raise _Failure(self.tok.loc, f"`{self.tok.text}` (future.keywords) is not supported by this engine")
        return expr

    def withs(self) -> list[ast.With]:
        withs: list[ast.With] = []
        while self.tok.kind == "with" and not self.keyword_in_ref():
            loc = self.advance().loc
            if self.tok.kind != IDENT:
                raise self.illegal("expected ident")
            target = self.term()
            if not isinstance(target, (ast.Ref, ast.Var)):
                raise self.illegal("expected with target path")
            if self.tok.kind != "as":
                raise self.illegal("expected as keyword")
            self.advance()
            withs.append(ast.With(target, self.infix_term(), loc))
        return withs

    def some(self, loc: ast.Location) -> ast.Expr:
        start = self.at
        self.advance()
        try:
            term: ast.Term | None = self.infix_term()
        except _Failure:
            term = None
        if isinstance(term, ast.Call):
            if term.name not in _MEMBERSHIP or not term.infix:
                raise self.illegal("expected `x in xs` or `x, y in xs` expression")
            expr = ast.Expr(ast.SomeDecl([term], loc), loc)
            expr.withs = self.withs()
            return expr
        self.back_to(start)
        symbols: list[ast.Term] = []
        while True:
            self.advance()
            if self.tok.kind != IDENT:
                raise self.illegal("expected var")
            token = self.advance()
            symbols.append(self.wildcard(token.loc) if token.text == "_" else ast.Var(token.text, token.loc))
            if self.tok.kind != ",":
                break
        return ast.Expr(ast.SomeDecl(symbols, loc), loc)

    def every(self, loc: ast.Location) -> ast.Expr:
        self.advance()
        term = self.infix_term()
        if not (isinstance(term, ast.Call) and term.infix and term.name in _MEMBERSHIP):
            raise self.illegal("expected `x[, y] in xs { ... }` expression")
        key: ast.Var | None = None
        if term.name == "internal.member_2":
            value, domain = term.args
        else:
            first, value, domain = term.args
            if not isinstance(first, ast.Var):
                raise self.illegal("expected key to be a variable")
            key = first
        if not isinstance(value, ast.Var):
            raise self.illegal("expected value to be a variable")
        if self.tok.kind != "{":
            raise self.illegal("missing body")
        self.advance()
        body = self.body("}")
        self.advance()
        expr = ast.Expr(ast.Every(key, value, domain, body, loc), loc)
        expr.withs = self.withs()
        return expr

    # Terms ----------------------------------------------------------------------------------------------------

    def infix_term(self, *, pairs: bool = True) -> ast.Term:
        """A term with infix operators; `pairs`: `k, v in xs` is allowed here."""
        loc = self.tok.loc
        left = self.relation()
        while True:
            if pairs and self.tok.kind == "," and (found := self.pair_membership(left, loc)) is not None:
                left = found
            elif self.tok.kind == "in" and not self.keyword_in_ref():
                op = self.operator("internal.member_2")
                left = ast.Call(op, [left, self.relation()], loc, infix=True)
            else:
                return left
            if self.tok.kind != "in":
                return left

    def pair_membership(self, key: ast.Term, loc: ast.Location) -> ast.Term | None:
        start = self.at
        self.advance()
        try:
            value = self.relation()
            if self.tok.kind == "in":
                op = self.operator("internal.member_3")
                return ast.Call(op, [key, value, self.relation()], loc, infix=True)
        except _Failure:
            pass
        self.back_to(start)
        return None

    def operator(self, name: str) -> ast.Ref:
        return _operator(name, self.advance().loc)

    def binary(self, operators: Iterable[str], operand: Callable[[], ast.Term]) -> ast.Term:
        loc = self.tok.loc
        left = operand()
        while self.tok.kind in operators:
            op = self.operator(_NAMES[self.tok.kind])
            left = ast.Call(op, [left, operand()], loc, infix=True)
        return left

    def relation(self) -> ast.Term:
        return self.binary(_RELATIONS, self.union)

    def union(self) -> ast.Term:
        return self.binary(("|",), self.intersection)

    def intersection(self) -> ast.Term:
        return self.binary(("&",), self.sum)

    def sum(self) -> ast.Term:
        return self.binary(("+", "-"), self.product)

    def product(self) -> ast.Term:
        return self.binary(("*", "/", "%"), self.term)

    def term(self) -> ast.Term:
        start = self.at
        remembered = self.remembered.get(start) if start != self.keyword_head else None
        if remembered is not None:
            outcome, end = remembered
            if isinstance(outcome, _Failure):
                raise _Failure(outcome.loc, outcome.message)
            self.back_to(end)
            return outcome
        try:
            term = self.fresh_term()
        except _Failure as failure:
            self.remembered[start] = (failure, start)
            raise
        self.remembered[start] = (term, self.at)
        return term

    def fresh_term(self) -> ast.Term:
        token = self.tok
        loc = token.loc
        term: ast.Term
        if self.at == self.keyword_head:
            self.advance()
            return self.finish_term(ast.Var(token.text, loc))
        match token.kind:
            case "null":
                self.advance()
                term = ast.Scalar(None, loc)
            case "true" | "false":
                self.advance()
                term = ast.Scalar(token.kind == "true", loc)
            case "-":
                after = self.peek()
                if after.kind in (IDENT, "contains"):
                    self.advance()
                    name = self.advance()
                    operand = self.finish_term(self.wildcard(loc) if name.text == "_" else ast.Var(name.text, name.loc))
                    return ast.Call(_operator("minus", loc), [ast.Scalar(0, loc), operand], loc, infix=True)
                term = self.number()
            case "." | "number":
                term = self.number()
            case "string":
                term = self.string()
            case (
                "template-string-part" | "template-string-end" | "raw-template-string-part" | "raw-template-string-end"
            ):
                term = self.template()
            case "identifier" | "contains":
                self.advance()
                term = self.wildcard(loc) if token.text == "_" else ast.Var(token.text, loc)
            case "[":
                term = self.array()
            case "{":
                term = self.braces()
            case "(":
                self.advance()
                term = self.infix_term()
                if self.tok.kind != ")":
                    raise _Failure(self.tok.loc, "non-terminated expression")
                self.advance()
            case _:
                raise self.illegal()
        return self.finish_term(term)

    def finish_term(self, term: ast.Term) -> ast.Term:
        return self.ref(term) if self.adjacent("(", ".", "[") else _root(term)

    def ref(self, head: ast.Term) -> ast.Term:
        if isinstance(head, (ast.Scalar, ast.TemplateString, ast.Ref)):
            raise _Failure(head.loc, f"illegal ref (head cannot be {_value_name(head)})")
        terms: list[ast.Term] = [head]
        first = True
        while True:
            # The head of a rule may stand apart from its brackets; everything else touches.
            if not (self.adjacent("(", ".", "[") or (first and self.tok.kind in ("(", ".", "["))):
                return ast.Ref(terms, head.loc)
            first = False
            if self.tok.kind == ".":
                self.advance()
                if self.tok.space or (self.tok.kind != IDENT and self.tok.kind not in KEYWORDS):
                    raise self.illegal("expected identifier")
                token = self.advance()
                terms.append(ast.Scalar(token.text, token.loc))
            elif self.tok.kind == "[":
                self.advance()
                part = self.infix_term()
                if self.tok.kind != "]":
                    raise self.illegal("expected [")
                self.advance()
                terms.append(part)
            else:
                call = self.call(ast.Ref(terms, head.loc))
                return self.ref(call) if self.adjacent(".", "[") else call

    def call(self, op: ast.Ref) -> ast.Term:
        self.advance()
        args = self.term_list(")", [])
        self.advance()
        if not args and term_text(op) == "set":
            return ast.SetTerm([], op.loc)
        return ast.Call(op, args, op.loc)

    def number(self) -> ast.Term:
        loc = self.tok.loc
        text = ""
        if self.tok.kind == "-":
            text = "-"
            self.advance()
            if self.tok.kind not in (NUMBER, "."):
                raise self.illegal("expected number")
        if self.tok.kind == ".":
            text += "."
            self.advance()
            if self.tok.kind != NUMBER:
                raise self.illegal("expected number")
        digits = self.tok.text
        if not text.endswith(".") and len(digits) > 1 and digits[0] == "0" and digits[1] not in ".eE":
            raise self.illegal("expected number without leading zero")
        text += digits
        if text.endswith(".") or text.count(".") > 1:
            raise self.illegal("invalid float")
        if abs(Decimal(text).adjusted()) > _MAX_NUMBER_EXPONENT:
            raise _Failure(self.tok.loc, "number too big")
        self.advance()
        return ast.Scalar(number_from_text(text), loc)

    def string(self) -> ast.Scalar:
        token = self.advance()
        if token.text[0] == "`":
            return ast.Scalar(token.text[1:-1], token.loc)
        inner = token.text[1:-1]
        if "\\" not in inner:
            return ast.Scalar(inner, token.loc)
        return ast.Scalar(self.unescape(inner, token), token.loc)

    def unescape(self, inner: str, token: Token) -> str:
        try:
            text: str = json.loads(f'"{inner}"')
        except ValueError:
            raise _Failure(token.loc, f"illegal string literal: {token.text}") from None
        return "".join(["\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text])

    def template(self) -> ast.Term:
        loc = self.tok.loc
        raw = self.tok.kind in (RAW_PART, RAW_END)
        parts: list[ast.Scalar | ast.Expr] = []
        while True:
            token = self.advance()
            if token.kind not in (TEMPLATE_PART, TEMPLATE_END, RAW_PART, RAW_END):
                raise _Failure(token.loc, token.text if token.kind == ILLEGAL else "expected template-string part")
            text = token.text.replace("\\{", "{") if raw else _unescape_braces(token.text)
            if not raw and "\\" in text:
                text = self.unescape(text, token)
            if text:
                parts.append(ast.Scalar(text, token.loc))
            if token.kind in (TEMPLATE_END, RAW_END):
                return ast.TemplateString(parts, raw, loc)
            comments = self.tok.space
            expr = self.literal()
            place = expr.loc
            if expr.negated:
                raise _Failure(place, "unexpected negation ('not') in template-string expression")
            if expr.call_name() == "eq":
                raise _Failure(place, "unexpected unification ('=') in template-string expression")
            if expr.call_name() == "assign":
                raise _Failure(place, "unexpected assignment (':=') in template-string expression")
            if isinstance(expr.node, ast.Every):
                raise _Failure(place, "unexpected 'every' in template-string expression")
            if isinstance(expr.node, ast.SomeDecl):
                raise _Failure(place, "unexpected 'some' in template-string expression")
            if isinstance(expr.node, ast.Scalar) and not comments and not expr.withs:
                parts.append(expr.node if not isinstance(expr.node.value, str) else ast.Scalar(expr.node.value, place))
            else:
                parts.append(expr)
            if self.tok.kind != "}":
                raise _Failure(self.tok.loc, "expected } to end template string expression")
            self.advance()

    def array(self) -> ast.Term:
        loc = self.advance().loc
        if self.tok.kind == "]":
            self.advance()
            return ast.ArrayTerm([], loc)
        comprehension = True
        if self.tok.kind == ",":
            comprehension = False
            self.advance()
        start = self.at
        head = self.term()
        if self.tok.kind == "|" and comprehension:
            self.advance()
            body = self.body("]")
            self.advance()
            return ast.ArrayComprehension(head, body, loc)
        self.back_to(start)
        items = self.term_list("]", [])
        self.advance()
        return ast.ArrayTerm(items, loc)

    def braces(self) -> ast.Term:
        loc = self.advance().loc
        if self.tok.kind == "}":
            self.advance()
            return ast.ObjectTerm([], loc)
        comprehension = True
        if self.tok.kind == ",":
            comprehension = False
            self.advance()
        start = self.at
        head = self.term()
        if self.tok.kind == "|" and comprehension:
            self.advance()
            body = self.body("}")
            self.advance()
            return ast.SetComprehension(head, body, loc)
        if self.tok.kind not in ("}", ",", ":"):
            self.back_to(start)
            head = self.infix_term(pairs=False)
        if self.tok.kind == ":":
            return self.object(head, comprehension, loc)
        if self.tok.kind in ("}", ","):
            self.back_to(start)
            items = self.term_list("}", [])
            self.advance()
            return ast.SetTerm(items, loc)
        raise self.illegal("non-terminated set")

    def object(self, key: ast.Term, comprehension: bool, loc: ast.Location) -> ast.Term:
        self.advance()
        start = self.at
        value = self.term()
        if self.tok.kind == "|" and comprehension:
            after = self.at
            try:
                self.advance()
                body = self.body("}")
                self.advance()
                return ast.ObjectComprehension(key, value, body, loc)
            except _Failure:
                self.back_to(after)
        if self.tok.kind not in ("}", ","):
            self.back_to(start)
            value = self.infix_term(pairs=False)
        pairs = [(key, value)]
        while self.tok.kind == ",":
            self.advance()
            if self.tok.kind == "}":
                break
            key = self.infix_term(pairs=False)
            if self.tok.kind != ":":
                raise self.illegal('expected ":"')
            self.advance()
            pairs.append((key, self.infix_term(pairs=False)))
        if self.tok.kind != "}":
            raise self.illegal("non-terminated object")
        self.advance()
        return ast.ObjectTerm(pairs, loc)

    def term_list(self, end: str, items: list[ast.Term]) -> list[ast.Term]:
        while self.tok.kind != end:
            items.append(self.infix_term(pairs=False))
            if self.tok.kind == ",":
                self.advance()
            elif self.tok.kind != end:
                raise self.illegal(f'expected "," or "{end}"')
        return items

    def wildcard(self, loc: ast.Location) -> ast.Var:
        self.wildcards += 1
        return ast.Var(f"${self.wildcards - 1}", loc)


def _unescape_braces(text: str) -> str:
    out, at = "", 0
    while (found := text.find("\\", at)) >= 0:
        following = text[found + 1 : found + 2]
        out += text[at:found] + ("{" if following == "{" else "\\" + following)
        at = found + 2
    return out + text[at:]


def _operator(name: str, loc: ast.Location) -> ast.Ref:
    first, *rest = name.split(".")
    return ast.Ref([ast.Var(first, loc), *[ast.Scalar(part, loc) for part in rest]], loc)


def _root(term: ast.Term) -> ast.Term:
    return ast.Ref([term], term.loc) if isinstance(term, ast.Var) and term.name in ROOTS else term


def _true(loc: ast.Location) -> ast.Expr:
    return ast.Expr(ast.Scalar(True, loc), loc, generated=True)


def is_ground(term: ast.Term) -> bool:
    """Whether a term has no variables (the heads of refs do not count)."""
    if isinstance(term, ast.Var):
        return False
    if isinstance(term, ast.Ref):
        return all(map(is_ground, term.terms[1:]))
    return all(map(is_ground, ast.term_children(term)[1:] if isinstance(term, ast.Call) else ast.term_children(term)))


def _value_name(term: ast.Term) -> str:
    """OPA's name for the kind of a term."""
    if isinstance(term, ast.Scalar):
        from gateway.rego.values import type_name

        return type_name(term.value)
    return {
        "ArrayTerm": "array",
        "ObjectTerm": "object",
        "SetTerm": "set",
        "ArrayComprehension": "arraycomprehension",
        "ObjectComprehension": "objectcomprehension",
        "SetComprehension": "setcomprehension",
        "TemplateString": "templatestring",
    }.get(type(term).__name__, type(term).__name__.lower())


def check_rule_v1(rule: ast.Rule) -> list[Problem]:
    """What Rego v1 demands of a rule and its `else` branches beyond the grammar."""
    problems: list[Problem] = []
    for branch in rule.chain():
        head = branch.head
        kind = "function" if head.args is not None else "rule"
        name = head.ref[0].name if isinstance(head.ref[0], ast.Var) else ""
        if len(head.ref) < 2 and name in KEYWORDS:
            problems.append(Problem.at(branch.loc, PARSE, f"{name} keyword cannot be used for rule name"))
        if branch.generated_body and head.generated_value and not branch.default:
            problems.append(Problem.at(branch.loc, PARSE, f"{kind} must have value assignment and/or body declaration"))
        if not branch.generated_body and not head.has_if and not branch.default:
            problems.append(Problem.at(branch.loc, PARSE, f"`if` keyword is required before {kind} body"))
        if head.multi_value and not head.contains:
            problems.append(Problem.at(branch.loc, PARSE, "`contains` keyword is required for partial set rules"))
    return problems


__all__ = ["COMPILE", "Parser", "check_rule_v1", "is_ground", "parse_module", "parse_query", "parse_term"]
