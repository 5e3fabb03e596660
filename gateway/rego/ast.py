"""The syntax tree of Rego modules, with source locations.

Nodes are plain mutable objects: the compiler's stages rewrite the tree in place, or build new nodes. A term is one of the
classes in :data:`Term`; an expression holds one term, a call, a `some` or an `every`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gateway.rego.values import Value


class Location(NamedTuple):
    """A place in a module's text; rows and columns count from 1, columns in characters."""

    row: int
    column: int
    file: str


NOWHERE = Location(0, 0, "")


@dataclass(slots=True, eq=False)
class Scalar:
    """null, a boolean, a number or a string."""

    value: Value
    loc: Location


@dataclass(slots=True, eq=False)
class Var:
    """A variable; wildcards are named `$0`, `$1`, ... and what the compiler makes up starts with `$` too."""

    name: str
    loc: Location

    @property
    def is_wildcard(self) -> bool:
        return self.name.startswith("$")


@dataclass(slots=True, eq=False)
class Ref:
    """`head[a].b...`; the first term is the head, `.b` is the string "b"."""

    terms: list[Term]
    loc: Location


@dataclass(slots=True, eq=False)
class ArrayTerm:
    items: list[Term]
    loc: Location


@dataclass(slots=True, eq=False)
class ObjectTerm:
    pairs: list[tuple[Term, Term]]
    loc: Location


@dataclass(slots=True, eq=False)
class SetTerm:
    items: list[Term]
    loc: Location


@dataclass(slots=True, eq=False)
class ArrayComprehension:
    term: Term
    body: Body
    loc: Location


@dataclass(slots=True, eq=False)
class SetComprehension:
    term: Term
    body: Body
    loc: Location


@dataclass(slots=True, eq=False)
class ObjectComprehension:
    key: Term
    value: Term
    body: Body
    loc: Location


@dataclass(slots=True, eq=False)
class Call:
    """A call; the operator is the ref of a builtin (`plus`, `json.patch`) or of a function."""

    op: Ref
    args: list[Term]
    loc: Location
    infix: bool = False

    @property
    def name(self) -> str:
        return ref_name(self.op)


@dataclass(slots=True, eq=False)
class TemplateString:
    """`$"text {expression} text"`."""

    parts: list[Scalar | Expr]
    raw: bool
    loc: Location


Term: TypeAlias = (
    Scalar
    | Var
    | Ref
    | ArrayTerm
    | ObjectTerm
    | SetTerm
    | ArrayComprehension
    | SetComprehension
    | ObjectComprehension
    | Call
    | TemplateString
)
Comprehension: TypeAlias = ArrayComprehension | SetComprehension | ObjectComprehension
COMPREHENSIONS = (ArrayComprehension, SetComprehension, ObjectComprehension)


@dataclass(slots=True, eq=False)
class SomeDecl:
    """`some x, y` (variables), or `some k, v in xs` (one membership call)."""

    symbols: list[Term]
    loc: Location


@dataclass(slots=True, eq=False)
class Every:
    key: Var | None
    value: Var
    domain: Term
    body: Body
    loc: Location


@dataclass(slots=True, eq=False)
class With:
    target: Term
    value: Term
    loc: Location


@dataclass(slots=True, eq=False)
class Expr:
    """One line of a body."""

    node: Term | SomeDecl | Every
    loc: Location
    negated: bool = False
    withs: list[With] = field(default_factory=list)
    generated: bool = False
    """The compiler made the expression, or added an output to the call in it."""
    from_assignment: bool = False
    """An equation that was written with `:=`."""

    def call_name(self) -> str | None:
        """The operator of a call expression, as text."""
        return self.node.name if isinstance(self.node, Call) else None


Body: TypeAlias = list[Expr]


@dataclass(slots=True, eq=False)
class Head:
    """A rule's head. `ref` starts with the rule's name as a variable."""

    ref: list[Term]
    loc: Location
    args: list[Term] | None = None
    key: Term | None = None
    value: Term | None = None
    assign: bool = False
    generated_value: bool = False
    contains: bool = False
    has_if: bool = False

    @property
    def multi_value(self) -> bool:
        return self.value is None and self.key is not None


@dataclass(slots=True, eq=False)
class Rule:
    head: Head
    body: Body
    loc: Location
    default: bool = False
    generated_body: bool = False
    otherwise: Rule | None = None
    """The `else` branch."""
    package: tuple[str, ...] = ()
    """The path of the module's package; set by the compiler."""

    @property
    def path(self) -> list[Term]:
        """The full ref of the rule's document below `data`: strings, and variables where the head has them."""
        head = self.head.ref
        first = head[0]
        name: Term = Scalar(first.name, first.loc) if isinstance(first, Var) else first
        return [*[Scalar(part, self.loc) for part in self.package], name, *head[1:]]

    def chain(self) -> Iterator[Rule]:
        """This rule and its `else` branches."""
        rule: Rule | None = self
        while rule is not None:
            yield rule
            rule = rule.otherwise


@dataclass(slots=True, eq=False)
class Import:
    path: Ref
    alias: str | None
    loc: Location

    @property
    def name(self) -> str:
        """What the import is called in its module."""
        if self.alias:
            return self.alias
        last = self.path.terms[-1]
        if isinstance(last, Var):
            return last.name
        return str(last.value) if isinstance(last, Scalar) else ""


@dataclass(slots=True, eq=False)
class Package:
    path: tuple[str, ...]
    loc: Location


@dataclass(slots=True, eq=False)
class Comment:
    text: str
    """Without the `#`."""
    loc: Location


@dataclass(slots=True, eq=False)
class Module:
    file: str
    package: Package
    imports: list[Import]
    rules: list[Rule]
    comments: list[Comment]


def copy_term(term: Term) -> Term:
    """A deep copy, bodies included."""
    match term:
        case Scalar():
            return term
        case Var():
            return Var(term.name, term.loc)
        case Ref():
            return Ref([copy_term(item) for item in term.terms], term.loc)
        case ArrayTerm():
            return ArrayTerm([copy_term(item) for item in term.items], term.loc)
        case SetTerm():
            return SetTerm([copy_term(item) for item in term.items], term.loc)
        case ObjectTerm():
            return ObjectTerm([(copy_term(k), copy_term(v)) for k, v in term.pairs], term.loc)
        case ArrayComprehension():
            return ArrayComprehension(copy_term(term.term), copy_body(term.body), term.loc)
        case SetComprehension():
            return SetComprehension(copy_term(term.term), copy_body(term.body), term.loc)
        case ObjectComprehension():
            return ObjectComprehension(copy_term(term.key), copy_term(term.value), copy_body(term.body), term.loc)
        case Call():
            return Call(copy_ref(term.op), [copy_term(arg) for arg in term.args], term.loc, term.infix)
        case TemplateString():
            parts: list[Scalar | Expr] = [part if isinstance(part, Scalar) else copy_expr(part) for part in term.parts]
            return TemplateString(parts, term.raw, term.loc)


def copy_ref(ref: Ref) -> Ref:
    return Ref([copy_term(item) for item in ref.terms], ref.loc)


def copy_expr(expr: Expr) -> Expr:
    node = expr.node
    copied: Term | SomeDecl | Every
    if isinstance(node, SomeDecl):
        copied = SomeDecl([copy_term(symbol) for symbol in node.symbols], node.loc)
    elif isinstance(node, Every):
        key = Var(node.key.name, node.key.loc) if node.key is not None else None
        value = Var(node.value.name, node.value.loc)
        copied = Every(key, value, copy_term(node.domain), copy_body(node.body), node.loc)
    else:
        copied = copy_term(node)
    withs = [With(copy_term(w.target), copy_term(w.value), w.loc) for w in expr.withs]
    return Expr(copied, expr.loc, expr.negated, withs, expr.generated, expr.from_assignment)


def copy_body(body: Body) -> Body:
    return [copy_expr(expr) for expr in body]


def term_children(term: Term) -> list[Term]:
    """The terms right below a term (a comprehension's and a template's are not: they are scopes of their own)."""
    match term:
        case Ref(terms=terms):
            return terms
        case ArrayTerm(items=items) | SetTerm(items=items):
            return items
        case ObjectTerm(pairs=pairs):
            return [side for pair in pairs for side in pair]
        case Call(op=op, args=args):
            return [op, *args]
        case _:
            return []


def map_terms(term: Term, change: Callable[[Term], Term]) -> Term:
    """Replaces the terms right below `term` by what `change` makes of them, in place, and returns `term`.

    The operator of a call is left alone, and so are closures.
    """
    match term:
        case Ref():
            term.terms = [change(item) for item in term.terms]
        case ArrayTerm() | SetTerm():
            term.items = [change(item) for item in term.items]
        case ObjectTerm():
            term.pairs = [(change(k), change(v)) for k, v in term.pairs]
        case Call():
            term.args = [change(item) for item in term.args]
    return term


def walk_terms(term: Term, *, closures: bool = True) -> list[Term]:
    """Every term below and including `term`, each before those inside of it."""
    found: list[Term] = []
    _walk(term, found, closures)
    return found


def _walk(term: Term, found: list[Term], closures: bool) -> None:
    found.append(term)
    kind = type(term)
    if kind is Scalar or kind is Var:
        return
    for below in term_children(term):
        _walk(below, found, closures)
    if closures:
        match term:
            case ArrayComprehension() | SetComprehension():
                _walk(term.term, found, closures)
                for below in body_terms(term.body):
                    _walk(below, found, closures)
            case ObjectComprehension():
                _walk(term.key, found, closures)
                _walk(term.value, found, closures)
                for below in body_terms(term.body):
                    _walk(below, found, closures)
            case TemplateString():
                for part in term.parts:
                    for below in [part] if isinstance(part, Scalar) else expr_terms(part):
                        _walk(below, found, closures)
            case _:
                pass


def expr_terms(expr: Expr, *, closures: bool = True) -> list[Term]:
    """The outermost terms of an expression, those of an `every` body included (with `closures`)."""
    node = expr.node
    terms: list[Term]
    if isinstance(node, SomeDecl):
        terms = list(node.symbols)
    elif isinstance(node, Every):
        terms = [node.domain]
        if closures:
            terms += [t for t in (node.key, node.value) if t is not None]
            terms += body_terms(node.body)
    else:
        terms = [node]
    for modifier in expr.withs:
        terms += [modifier.target, modifier.value]
    return terms


def body_terms(body: Body) -> list[Term]:
    return [term for expr in body for term in expr_terms(expr)]


def ref_name(ref: Ref) -> str:
    """The name of a function: `json.patch`, `data.lib.allowed`."""
    first, *rest = ref.terms
    if isinstance(first, Var):
        if not rest:
            return first.name
        parts = [first.name]
        for part in rest:
            if not (isinstance(part, Scalar) and type(part.value) is str and part.value.isidentifier()):
                break
            parts.append(part.value)
        else:
            return ".".join(parts)
    from gateway.rego.printer import term_text

    return term_text(ref)


def same_term(a: Term, b: Term) -> bool:
    """Whether two terms are the same text but for their places."""
    from gateway.rego.printer import term_text

    return type(a) is type(b) and term_text(a) == term_text(b)


def string_ref(path: tuple[str, ...], loc: Location) -> Ref:
    """The ref `path[0].path[1]...`, with a variable at its head."""
    return Ref([Var(path[0], loc), *[Scalar(part, loc) for part in path[1:]]], loc)
