"""Terms, bodies, rules and modules as Rego text, one line a rule, as OPA's `String()` writes them.

What is printed parses to the same tree. It is used in error messages and by the round-trip tests, not to format files.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.rego import ast
from gateway.rego.lexer import KEYWORDS
from gateway.rego.values import quote, to_rego

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z")
INFIX: Final = {
    "plus": "+", "minus": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "eq": "=", "assign": ":=",
    "equal": "==", "neq": "!=", "lt": "<", "gt": ">", "lte": "<=", "gte": ">=",
}  # fmt: skip


def term_text(term: ast.Term) -> str:
    match term:
        case ast.Scalar():
            return to_rego(term.value)
        case ast.Var():
            return "_" if term.name.startswith("$") else term.name
        case ast.Ref():
            return _ref(term)
        case ast.ArrayTerm():
            return "[" + ", ".join([_operand(item) for item in term.items]) + "]"
        case ast.SetTerm():
            return "{" + ", ".join([_operand(item) for item in term.items]) + "}" if term.items else "set()"
        case ast.ObjectTerm():
            return "{" + ", ".join([f"{_operand(k)}: {_operand(v)}" for k, v in term.pairs]) + "}"
        case ast.ArrayComprehension():
            return f"[{_operand(term.term)} | {body_text(term.body)}]"
        case ast.SetComprehension():
            return f"{{{_operand(term.term)} | {body_text(term.body)}}}"
        case ast.ObjectComprehension():
            return f"{{{_operand(term.key)}: {_operand(term.value)} | {body_text(term.body)}}}"
        case ast.Call():
            return _call(term)
        case ast.TemplateString():
            return _template(term)


def _ref(ref: ast.Ref) -> str:
    head = ref.terms[0]
    text = term_text(head) if not isinstance(head, ast.Call) or not head.infix else f"({term_text(head)})"
    for part in ref.terms[1:]:
        if (
            isinstance(part, ast.Scalar)
            and isinstance(part.value, str)
            and _NAME.match(part.value)
            and part.value not in KEYWORDS
        ):
            text += f".{part.value}"
        else:
            text += f"[{term_text(part)}]"
    return text


def _call(call: ast.Call) -> str:
    name = _ref(call.op)
    if call.infix:
        if name == "internal.member_2":
            return f"{_operand(call.args[0])} in {_operand(call.args[1])}"
        if name == "internal.member_3":
            return f"{_operand(call.args[0])}, {_operand(call.args[1])} in {_operand(call.args[2])}"
        sign = INFIX.get(name)
        if sign is not None and len(call.args) == 2:
            return f"{_operand(call.args[0])} {sign} {_operand(call.args[1])}"
    return f"{name}({', '.join([_argument(arg) for arg in call.args])})"


def _operand(term: ast.Term) -> str:
    return f"({term_text(term)})" if isinstance(term, ast.Call) and term.infix else term_text(term)


def _argument(term: ast.Term) -> str:
    # `f(a, b in c)` would read as a membership with a key.
    return f"({term_text(term)})" if isinstance(term, ast.Call) and term.infix else term_text(term)


def _template(template: ast.TemplateString) -> str:
    text = ""
    for part in template.parts:
        if isinstance(part, ast.Expr):
            text += "{" + expr_text(part) + "}"
        elif isinstance(part.value, str):
            literal = part.value if template.raw else quote(part.value)[1:-1]
            text += literal.replace("{", "\\{")
        else:
            text += "{" + term_text(part) + "}"
    return f"$`{text}`" if template.raw else f'$"{text}"'


def expr_text(expr: ast.Expr) -> str:
    node = expr.node
    match node:
        case ast.SomeDecl():
            text = "some " + ", ".join([term_text(symbol) for symbol in node.symbols])
        case ast.Every():
            key = f"{term_text(node.key)}, " if node.key is not None else ""
            text = f"every {key}{term_text(node.value)} in {_operand(node.domain)} {{ {body_text(node.body)} }}"
        case _:
            text = term_text(node)
            # In braces, `{a}` would read as a set, and `{a | b}` as a comprehension.
            is_union = isinstance(node, ast.Call) and node.infix and node.name == "or"
            if is_union or (isinstance(node, (ast.SetTerm, ast.SetComprehension)) and not text.startswith("set(")):
                text = f"({text})"
    if expr.negated:
        text = f"not {text}"
    for modifier in expr.withs:
        text += f" with {term_text(modifier.target)} as {term_text(modifier.value)}"
    return text


def body_text(body: ast.Body) -> str:
    return "; ".join([expr_text(expr) for expr in body])


def head_text(head: ast.Head) -> str:
    first, *rest = head.ref
    text = _ref(ast.Ref([first, *rest], head.loc))
    if head.args is not None:
        text += "(" + ", ".join([term_text(arg) for arg in head.args]) + ")"
    if head.multi_value and head.key is not None:
        return f"{text} contains {term_text(head.key)}"
    if head.value is not None and not head.generated_value:
        text += f" {':=' if head.assign else '='} {term_text(head.value)}"
    return text


def rule_text(rule: ast.Rule) -> str:
    text = ("default " if rule.default else "") + head_text(rule.head)
    if not rule.default and not rule.generated_body:
        text += f" if {{ {body_text(rule.body)} }}"
    for branch in list(rule.chain())[1:]:
        text += " else"
        if branch.head.value is not None and not branch.head.generated_value:
            text += f" {':=' if branch.head.assign else '='} {term_text(branch.head.value)}"
        if not branch.generated_body:
            text += f" if {{ {body_text(branch.body)} }}"
    return text


def package_text(package: ast.Package) -> str:
    first, *rest = package.path
    return _ref(ast.Ref([ast.Var(first, package.loc), *[ast.Scalar(part, package.loc) for part in rest]], package.loc))


def module_text(module: ast.Module) -> str:
    lines = [f"package {package_text(module.package)}", ""]
    for imported in module.imports:
        lines.append(f"import {_ref(imported.path)}" + (f" as {imported.alias}" if imported.alias else ""))
    lines += [rule_text(rule) for rule in module.rules]
    return "\n".join(lines) + "\n"
