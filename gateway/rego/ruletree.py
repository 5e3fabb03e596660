"""The documents that rules define, as a tree by path; which rules a ref reaches; conflicts and recursion among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.rego import ast
from gateway.rego.errors import RECURSION, TYPE, Problem
from gateway.rego.printer import term_text
from gateway.rego.resolve import exprs_of_body, exprs_of_term
from gateway.rego.values import Key, key, sort_key, unkey


@dataclass(slots=True, eq=False)
class Node:
    """One step of a path below `data`."""

    key: Key
    path: tuple[Key, ...]
    children: dict[Key, Node] = field(default_factory=dict)
    rules: list[ast.Rule] = field(default_factory=list)
    """The rules whose ref's ground part ends here."""
    group: int = -1
    """The number of the generated code for these rules; set by the code generator."""

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(list(node.children.values())))

    def find(self, path: Iterable[Key]) -> Node | None:
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            node = node.children.get(step)
        return node

    @property
    def is_function(self) -> bool:
        return bool(self.rules) and self.rules[0].head.args is not None

    @property
    def has_documents(self) -> bool:
        """Whether any rule at or below this node defines a document (functions do not)."""
        return any(rule.head.args is None for node in self.walk() for rule in node.rules)


def ground_prefix(terms: list[ast.Term]) -> list[Key]:
    """The canonical keys of a path up to its first variable."""
    prefix: list[Key] = []
    for term in terms:
        if not isinstance(term, ast.Scalar):
            break
        prefix.append(key(term.value))
    return prefix


def build_tree(modules: Iterable[ast.Module]) -> Node:
    root = Node(key="data", path=())
    for module in modules:
        place(root, list(module.package.path))
        for rule in module.rules:
            place(root, ground_prefix(rule.path)).rules.append(rule)
    for node in root.walk():
        node.children = dict(sorted(node.children.items(), key=lambda item: sort_key(unkey(item[0]))))
    return root


def place(root: Node, path: list[Key]) -> Node:
    node = root
    for step in path:
        below = node.children.get(step)
        if below is None:
            below = node.children[step] = Node(key=step, path=(*node.path, step))
        node = below
    return node


def is_data_ref(term: ast.Term) -> bool:
    return isinstance(term, ast.Ref) and isinstance(term.terms[0], ast.Var) and term.terms[0].name == "data"


def rules_exact(root: Node, ref: ast.Ref) -> list[ast.Rule]:
    """The rules whose document or function a ref names exactly."""
    if not is_data_ref(ref):
        return []
    prefix = ground_prefix(ref.terms[1:])
    if len(prefix) != len(ref.terms) - 1:
        return []
    node = root.find(prefix)
    return node.rules if node is not None else []


def rules_reached(root: Node, ref: ast.Ref) -> list[ast.Rule]:
    """The rules a ref may need: those on its way, and below its end; a variable may stand for any step."""
    found: list[ast.Rule] = []
    seen: set[int] = set()

    def add(rules: Iterable[ast.Rule]) -> None:
        for rule in rules:
            if id(rule) not in seen:
                seen.add(id(rule))
                found.append(rule)

    def down(node: Node, terms: list[ast.Term]) -> None:
        add(rule for rule in node.rules if _may_match(rule.path[len(node.path) :], terms))
        if not terms:
            for below in node.walk():
                add(below.rules)
            return
        step = terms[0]
        if isinstance(step, ast.Scalar):
            child = node.children.get(key(step.value))
            if child is not None:
                down(child, terms[1:])
        else:
            for child in node.children.values():
                down(child, terms[1:])

    down(root, ref.terms[1:])
    return found


def _may_match(rest: list[ast.Term], terms: list[ast.Term]) -> bool:
    return all(
        not (isinstance(a, ast.Scalar) and isinstance(b, ast.Scalar)) or key(a.value) == key(b.value)
        for a, b in zip(rest, terms, strict=False)
    )


def data_refs(rule: ast.Rule) -> list[ast.Ref]:
    """All refs into `data` in one rule (not its `else` branches), operators of calls and targets of `with` included."""
    head = rule.head
    terms = [*head.ref[1:], *(head.args or []), *[t for t in (head.key, head.value) if t is not None]]
    return data_refs_of(terms, rule.body)


def data_refs_of(terms: list[ast.Term], body: ast.Body) -> list[ast.Ref]:
    found: list[ast.Ref] = []
    outer = list(terms)
    for term in terms:
        for expr in exprs_of_term(term):
            outer += ast.expr_terms(expr, closures=False)
    for expr in exprs_of_body(body):
        outer += ast.expr_terms(expr, closures=False)
    for term in outer:
        for inner in ast.walk_terms(term):
            if isinstance(inner, ast.Ref) and is_data_ref(inner):
                found.append(inner)
    return found


def path_text(terms: list[ast.Term], original: dict[str, str]) -> str:
    """`data.a.b[x]`, with the user's names for variables."""
    shown: list[ast.Term] = [
        ast.Var(original.get(term.name, term.name), term.loc) if isinstance(term, ast.Var) else term for term in terms
    ]
    return term_text(ast.Ref([ast.Var("data", ast.NOWHERE), *shown], ast.NOWHERE))


# Conflicts ----------------------------------------------------------------------------------------------------------


def check_conflicts(root: Node, modules: list[ast.Module], original: dict[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node.rules:
            found = _node_conflict(node, original, modules)
            if found is not None:
                problems.append(found)
                continue
        stack.extend(reversed(list(node.children.values())))
    packages: dict[tuple[str, ...], list[ast.Module]] = {}
    for module in modules:
        packages.setdefault(module.package.path, []).append(module)
    for module in modules:
        for rule in module.rules:
            prefix = ground_prefix(rule.path)
            if len(prefix) < len(rule.path):
                continue
            for other in packages.get(tuple(str(step) for step in prefix), []):
                if other is not module:
                    text = path_text([ast.Scalar(part, rule.loc) for part in other.package.path], {})
                    name = term_text(ast.Ref(rule.head.ref, rule.loc))
                    problems.append(
                        Problem.at(
                            module.package.loc,
                            TYPE,
                            f"package {text.removeprefix('data.')} conflicts with rule {name} defined at "
                            f"{rule.loc.file}:{rule.loc.row}",
                        )
                    )
    return problems


def _node_conflict(node: Node, original: dict[str, str], modules: list[ast.Module]) -> Problem | None:
    kinds: set[bool] = set()
    arities: set[int] = set()
    complete = partial = 0
    conflicts: list[ast.Rule] = []
    defaults: list[ast.Rule] = []
    set_like = object_like = False
    name = ""
    for rule in node.rules:
        head = rule.head
        ground = len(ground_prefix(rule.path)) == len(rule.path)
        name = path_text(rule.path, original)
        kinds.add(head.multi_value)
        arities.add(len(head.args or []))
        if rule.default:
            defaults.append(rule)
        if ground and node.children:
            conflicts = _rules_below(node)
        if not head.multi_value and ground:
            complete += 1
        else:
            partial += 1
        if head.multi_value:
            set_like |= ground
            object_like |= not ground
    first = node.rules[0]
    if not conflicts and node.children and any(len(ground_prefix(r.path)) < len(r.path) for r in node.rules):
        conflicts = [rule for rule in _rules_below(node) if rule.head.args is not None]
    if conflicts:
        lines = "\n".join(
            f"  rule {path_text(rule.path, original)} at {rule.loc.file}:{rule.loc.row}" for rule in conflicts
        )
        return Problem.at(first.loc, TYPE, f"rule {name} conflicts with:\n{lines}")
    if len(kinds) > 1 or len(arities) > 1 or (complete and partial) or (set_like and object_like):
        return Problem.at(first.loc, TYPE, f"conflicting rules {name} found")
    if len(defaults) > 1:
        places = ", ".join(f"{rule.loc.file}:{rule.loc.row}" for rule in defaults)
        package = next(m.package.loc for m in modules if defaults[0] in m.rules)
        return Problem.at(package, TYPE, f"multiple default rules {name} found at {places}")
    return None


def _rules_below(node: Node) -> list[ast.Rule]:
    """The rules below a node, without those inside the extent of another."""
    found: dict[tuple[str, ...], ast.Rule] = {}
    for child in node.children.values():
        for below in child.walk():
            for rule in below.rules:
                steps = tuple(term_text(term) for term in rule.path)
                if any(steps[: len(other)] == other for other in found):
                    continue
                found = {other: r for other, r in found.items() if other[: len(steps)] != steps}
                found[steps] = rule
    return [found[steps] for steps in sorted(found)]


# Recursion -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Graph:
    """Which rules each rule depends on, `else` branches counted on their own."""

    edges: dict[int, list[ast.Rule]] = field(default_factory=dict)
    rules: list[ast.Rule] = field(default_factory=list)

    @staticmethod
    def of(root: Node, modules: Iterable[ast.Module]) -> Graph:
        graph = Graph()
        for module in modules:
            for rule in module.rules:
                for branch in rule.chain():
                    graph.rules.append(branch)
                    graph.edges[id(branch)] = dependencies(root, data_refs(branch))
        return graph

    def cycle(self, start: ast.Rule) -> list[ast.Rule]:
        """A path from a rule back to itself, or nothing."""
        parents: dict[int, ast.Rule | None] = {}
        stack: list[tuple[ast.Rule, ast.Rule | None]] = [(rule, start) for rule in reversed(self.edges[id(start)])]
        while stack:
            rule, parent = stack.pop()
            if id(rule) in parents:
                continue
            parents[id(rule)] = parent
            if rule is start:
                path = [rule]
                while parent is not None and parent is not start:
                    path.append(parent)
                    parent = parents[id(parent)]
                path.append(start)
                return list(reversed(path))
            stack.extend((below, rule) for below in reversed(self.edges[id(rule)]))
        return []

    def in_cycles(self) -> set[int]:
        """The rules that are part of any cycle (Tarjan's algorithm, without recursion)."""
        index: dict[int, int] = {}
        low: dict[int, int] = {}
        on_stack: set[int] = set()
        stack: list[int] = []
        cyclic: set[int] = set()
        for root_rule in self.rules:
            if id(root_rule) in index:
                continue
            work: list[tuple[int, int]] = [(id(root_rule), 0)]
            while work:
                node, position = work.pop()
                if position == 0:
                    index[node] = low[node] = len(index)
                    stack.append(node)
                    on_stack.add(node)
                below = self.edges[node]
                descended = False
                while position < len(below):
                    child = id(below[position])
                    position += 1
                    if child not in index:
                        work.append((node, position))
                        work.append((child, 0))
                        descended = True
                        break
                    if child in on_stack:
                        low[node] = min(low[node], index[child])
                    if child == node:
                        cyclic.add(node)
                if descended:
                    continue
                if low[node] == index[node]:
                    component: list[int] = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1:
                        cyclic.update(component)
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
        return cyclic


def dependencies(root: Node, refs: Iterable[ast.Ref]) -> list[ast.Rule]:
    found: list[ast.Rule] = []
    seen: set[int] = set()
    for ref in refs:
        for rule in rules_reached(root, ref):
            for branch in rule.chain():
                if id(branch) not in seen:
                    seen.add(id(branch))
                    found.append(branch)
    return found


def check_recursion(graph: Graph, original: dict[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    cyclic = graph.in_cycles()
    for rule in graph.rules:
        if id(rule) in cyclic and (path := graph.cycle(rule)):
            names = " -> ".join(path_text(step.path, original) for step in path)
            message = f"rule {path_text(rule.path, original)} is recursive: {names}"
            problems.append(Problem.at(rule.loc, RECURSION, message))
    return problems
