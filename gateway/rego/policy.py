"""Policies: compiled modules with data, and the questions put to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from gateway.rego import ast, errors
from gateway.rego.builtins.registry import DECLARED, BuiltinFunction
from gateway.rego.codegen import CodeGenerator, Group, Targets
from gateway.rego.compiler import Compilation, compile_query, compile_stages, load_builtins
from gateway.rego.errors import CompileError, EvalError, Problem
from gateway.rego.literals import literal_value
from gateway.rego.parser import parse_query, parse_term
from gateway.rego.resolve import nested_exprs
from gateway.rego.ruletree import Node, ground_prefix, is_data_ref, path_text
from gateway.rego.runtime import Context, M, Query
from gateway.rego.values import UNDEFINED, Undefined, Value, from_json, json_text, key, to_json

NONDETERMINISTIC: Final = ("time.now_ns", "rand.intn", "uuid.rfc4122")
"""Builtins whose results come from what the caller supplies: `time_ns`, `seed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleInfo:
    """One rule of a policy, for tools."""

    path: str
    """`data.gateway.deny`."""
    file: str
    line: int
    column: int
    kind: str
    """`complete`, `function`, `set` or `object`."""


class Coverage:
    """Which expressions and rule heads ran, summed over any number of decisions."""

    def __init__(self) -> None:
        self.hits: set[ast.Location] = set()
        self.all: set[ast.Location] = set()

    def report(self) -> dict[str, Any]:
        """In OPA's format: covered and uncovered ranges of lines by file, and percentages of lines."""
        files: dict[str, tuple[set[int], set[int]]] = {}
        for loc in self.all:
            covered, known = files.setdefault(loc.file, (set(), set()))
            known.add(loc.row)
            if loc in self.hits:
                covered.add(loc.row)
        report: dict[str, Any] = {"files": {}}
        total_covered = total = 0
        for file, (covered, known) in sorted(files.items()):
            missed = known - covered
            total_covered += len(covered)
            total += len(known)
            entry: dict[str, Any] = {}
            if covered:
                entry["covered"] = list(_ranges(covered))
            if missed:
                entry["not_covered"] = list(_ranges(missed))
            entry["coverage"] = round(100 * len(covered) / len(known), 2) if known else 0
            entry["covered_lines"] = len(covered)
            if missed:
                entry["not_covered_lines"] = len(missed)
            report["files"][file] = entry
        report["covered_lines"] = total_covered
        report["not_covered_lines"] = total - total_covered
        report["coverage"] = round(100 * total_covered / total, 2) if total else 0
        return report


def _ranges(rows: set[int]) -> Iterator[dict[str, Any]]:
    ordered = sorted(rows)
    start = previous = ordered[0]
    for row in [*ordered[1:], -1]:
        if row != previous + 1:
            yield {"start": {"row": start}, "end": {"row": previous}}
            start = row
        previous = row


_QUERIES_KEPT: Final = 128
_CompiledQuery: TypeAlias = tuple[CodeGenerator, Callable[[Context], list[tuple[Value, ...]]], dict[str, str]]
Decide: TypeAlias = Callable[..., Any]
"""`decide(input, time_ns=, seed=, max_steps=, deadline=, coverage=, on_print=)` -> a JSON value or `UNDEFINED`."""


class Policy:
    """Compiled modules and the data they see. Immutable; safe to share between threads that ask it."""

    def __init__(
        self,
        compilation: Compilation,
        sources: Mapping[str, str],
        data: Value,
        *,
        strict_builtin_errors: bool,
        generator: CodeGenerator | None = None,
    ) -> None:
        self._compilation = compilation
        self._sources = dict(sources)
        self._data = data
        self._strict_builtin_errors = strict_builtin_errors
        self._generator = generator if generator is not None else _generate(compilation, Targets())
        self._covering: CodeGenerator | None = None
        self._revision: str | None = None
        self._queries: dict[tuple[str, bool], _CompiledQuery] = {}

    # Asking -------------------------------------------------------------------------------------------------------

    def query(
        self,
        query: str,
        input: Any = UNDEFINED,
        *,
        input_term: str | None = None,
        time_ns: int | None = None,
        seed: str | int | None = None,
        max_steps: int | None = None,
        deadline: float | None = None,
        coverage: Coverage | None = None,
        on_print: Callable[[str], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers an ad-hoc query: the bindings of its variables, once for every solution, as JSON data.

        Args:
            query: a Rego body, such as `data.test.p = x; x > 1`.
            input: JSON data. Without it `input` is undefined.
            input_term: the input as Rego text, instead of `input`.
            time_ns: the time that `time.now_ns` answers.
            seed: what random builtins derive their results from.
            max_steps: the budget of steps.
            deadline: a time of `time.monotonic()`.
            coverage: collects which rules and expressions run.
            on_print: gets the lines of `print`.

        Raises:
            CompileError: the query is wrong.
            EvalError: it cannot be answered.
        """
        generator, run, outputs = self._compiled_query(query, coverage)
        value = _input_value(self, input, input_term)
        context = self._context(
            generator,
            value,
            time_ns=time_ns,
            seed=seed,
            max_steps=max_steps,
            deadline=deadline,
            coverage=coverage,
            on_print=on_print,
        )
        rows = _guarded(lambda: [[to_json(item) for item in row] for row in run(context)])
        _collect(coverage, context.q, generator)
        return [dict(zip(outputs, row, strict=True)) for row in rows]

    def _compiled_query(self, query: str, coverage: Coverage | None) -> _CompiledQuery:
        """Compiles a query, or finds it compiled; the lock is for the names that queries share."""
        asked = (query, coverage is not None)
        with self._compilation.lock:
            known = self._queries.get(asked)
            if known is None:
                body, outputs = compile_query(self._compilation, parse_query(query))
                generator = self._generator_for(body, coverage)
                run = generator.query(body, list(outputs.values()), f"query{self._compilation.names.count}")
                if len(self._queries) >= _QUERIES_KEPT:
                    self._queries.clear()
                known = self._queries[asked] = (generator, run, outputs)
            return known

    def prepare(self, ref: str) -> Decide:
        """Compiles a ref, such as `data.gateway.decision`, to a function of the input.

        The function returns JSON data, or :data:`UNDEFINED`, and raises :class:`EvalError`.
        """
        term = parse_term(ref)
        if not isinstance(term, ast.Ref):
            raise CompileError([Problem.at(term.loc, errors.COMPILE, "a ref is expected")])
        compiled: dict[bool, tuple[CodeGenerator, Callable[[Context], Value]]] = {}

        def entry(coverage: Coverage | None) -> tuple[CodeGenerator, Callable[[Context], Value]]:
            covered = coverage is not None
            with self._compilation.lock:
                if covered not in compiled:
                    generator = self._generator_for([], coverage)
                    compiled[covered] = generator, self._entry(generator, ref, term)
                return compiled[covered]

        generator, plain = entry(None)
        functions = generator.functions()
        locations = generator.program.locations
        blank = [M] * generator.memo_size
        data, strict = self._data, self._strict_builtin_errors

        def decide(
            input: Any = UNDEFINED,
            *,
            time_ns: int | None = None,
            seed: str | int | None = None,
            max_steps: int | None = None,
            deadline: float | None = None,
            coverage: Coverage | None = None,
            on_print: Callable[[str], None] | None = None,
        ) -> Any:
            if coverage is not None:
                covering, run = entry(coverage)
                context = self._context(
                    covering, input, time_ns=time_ns, seed=seed, max_steps=max_steps, deadline=deadline, coverage=coverage,
                    on_print=on_print,
                )  # fmt: skip
                value = _guarded(lambda: run(context))
                _collect(coverage, context.q, covering)
                return value if value is UNDEFINED else to_json(value)
            q = Query(
                time_ns=time_ns, seed=seed, max_steps=max_steps, deadline=deadline, strict=strict, on_print=on_print,
                locations=locations, functions=functions,
            )  # fmt: skip
            try:
                value = plain(Context(q, input, data, blank.copy()))
                return value if value is UNDEFINED else to_json(value)
            except RecursionError:
                raise EvalError(errors.INTERNAL, "the evaluation or its documents nest too deeply") from None

        return decide

    def _entry(self, generator: CodeGenerator, ref: str, term: ast.Ref) -> Callable[[Context], Value]:
        if is_data_ref(term):
            prefix = ground_prefix(term.terms[1:])
            node = self._compilation.root.find(prefix)
            if node is not None and len(prefix) == len(term.terms) - 1 and node.group >= 0 and not node.is_function:
                function: Callable[[Context], Value] = generator.functions()[node.group]
                return function
        body, outputs = compile_query(self._compilation, parse_query(f"__result__ = {ref}"))
        run = generator.query(body, list(outputs.values()), f"entry{self._compilation.names.count}_{id(generator)}")

        def first(context: Context) -> Value:
            rows = run(context)
            return rows[0][0] if rows else UNDEFINED

        return first

    def _generator_for(self, body: ast.Body, coverage: Coverage | None) -> CodeGenerator:
        targets = Targets()
        for expr in [e for e in _with_closures(body) if e.withs]:
            targets.collect(expr.withs, self._compilation.root)
        own = self._generator.targets
        if targets.data - own.data or targets.mocks - own.mocks:
            return _generate(self._compilation, targets, coverage=coverage is not None)
        if coverage is None:
            return self._generator
        if self._covering is None:
            self._covering = _generate(self._compilation, Targets(), coverage=True)
        return self._covering

    def _context(
        self,
        generator: CodeGenerator,
        value: Value,
        *,
        time_ns: int | None,
        seed: str | int | None,
        max_steps: int | None,
        deadline: float | None,
        coverage: Coverage | None,
        on_print: Callable[[str], None] | None,
    ) -> Context:
        q = Query(
            time_ns=time_ns,
            seed=seed,
            max_steps=max_steps,
            deadline=deadline,
            strict=self._strict_builtin_errors,
            on_print=on_print,
            locations=generator.program.locations,
            functions=generator.functions(),
            coverage=set() if coverage is not None else None,
        )
        return Context(q, value, self._data, [M] * generator.memo_size)

    # Variants -----------------------------------------------------------------------------------------------------

    def with_data(self, data: Any) -> Policy:
        """The same modules with other data; nothing is compiled again."""
        return Policy(
            self._compilation,
            self._sources,
            from_json(data if data is not None else {}),
            strict_builtin_errors=self._strict_builtin_errors,
            generator=self._generator,
        )

    # Looking inside -------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> str:
        """The SHA-256 of modules and data, as hex."""
        if self._revision is None:
            digest = hashlib.sha256()
            for file, source in sorted(self._sources.items()):
                for part in (file, source):
                    encoded = part.encode("utf-8", "surrogatepass")
                    digest.update(len(encoded).to_bytes(8, "big") + encoded)
            digest.update(json_text(self._data).encode("utf-8", "surrogatepass"))
            self._revision = digest.hexdigest()
        return self._revision

    @property
    def data(self) -> Any:
        """The base documents."""
        return self._data

    @property
    def builtins_used(self) -> frozenset[str]:
        """The names of all builtins that the modules call."""
        return frozenset(self._generator.used_builtins)

    def nondeterministic_builtins(self) -> dict[str, list[ast.Location]]:
        """Calls whose results depend on what the caller supplies (`time_ns`, `seed`), with their places."""
        found: dict[str, list[ast.Location]] = {}
        for rule in self._rules():
            for expr in nested_exprs(rule):
                name = expr.call_name()
                if name in NONDETERMINISTIC:
                    found.setdefault(name, []).append(expr.loc)
        return found

    def rules(self) -> list[RuleInfo]:
        """All rules, in the order of files and lines; `else` branches count as their rule."""
        kinds = {id(rule): group.kind for group in self._generator.groups for rule in group.rules}
        return [
            RuleInfo(
                path=path_text(rule.path, self._compilation.names.original),
                file=rule.loc.file,
                line=rule.loc.row,
                column=rule.loc.column,
                kind=kinds[id(rule)],
            )
            for module in self._compilation.modules
            for rule in module.rules
        ]

    def reachable(self, entry_points: Iterable[str]) -> set[str]:
        """The paths of all rules that evaluating the entry points may need, they themselves included.

        An entry point is a path such as `data.gateway.decision`; a package stands for all its rules.
        """
        graph = self._compilation.graph
        original = self._compilation.names.original
        work: list[ast.Rule] = []
        for entry_point in entry_points:
            term = parse_term(entry_point)
            if isinstance(term, ast.Ref) and is_data_ref(term):
                node = self._compilation.root.find(ground_prefix(term.terms[1:]))
                for below in node.walk() if node is not None else ():
                    work += [branch for rule in below.rules for branch in rule.chain()]
        seen: set[int] = set()
        paths: set[str] = set()
        while work:
            rule = work.pop()
            if id(rule) not in seen:
                seen.add(id(rule))
                paths.add(path_text(rule.path, original))
                work += graph.edges[id(rule)]
        return paths

    def path_conflicts(self) -> list[Problem]:
        """Rules that define what the data defines, too, as OPA's commands refuse them.

        (The engine, like OPA's, lets the rule answer for the path and the data for documents around it.)
        """
        problems: list[Problem] = []
        stack: list[tuple[Node, Value]] = [(self._compilation.root, self._data)]
        while stack:
            node, base = stack.pop()
            if node.rules:
                path = "/".join(str(step) for step in node.path)
                message = f"conflicting rule for data path {path} found"
                problems.append(Problem.at(node.rules[0].loc, errors.COMPILE, message))
            elif type(base) is dict:
                stack += [(child, base[step]) for step, child in node.children.items() if step in base]
        return problems

    def _rules(self) -> Iterator[ast.Rule]:
        for module in self._compilation.modules:
            for rule in module.rules:
                yield from rule.chain()

    def source(self) -> str:
        """The generated Python code (for debugging)."""
        generator = CodeGenerator(
            self._compilation.root,
            dict(self._compilation.builtins),
            self._compilation.arity,
            self._compilation.names.original,
            self._generator.targets,
        )
        for group in generator.groups:
            generator.write_group(group)
        generator.write_keyed()
        return "\n".join(generator.program.sources)


def compile_modules(
    modules: Mapping[str, str],
    data: Any = None,
    *,
    strict: bool = True,
    strict_builtin_errors: bool = True,
    input_schema: Any = None,
    extra_builtins: Mapping[str, BuiltinFunction] | None = None,
) -> Policy:
    """Compiles Rego v1 modules.

    Args:
        modules: text by file name.
        data: the base documents, an object of JSON data.
        strict: OPA's strict mode: unused variables and imports, deprecated builtins and shadowed documents are errors.
        strict_builtin_errors: a builtin that fails is an error, rather than undefined.
        input_schema: a JSON Schema of `input`; what it does not allow is a type error.
        extra_builtins: functions for builtins that OPA declares and the engine does not have.

    Raises:
        CompileError: with all that was found.
    """
    available = {**load_builtins(), **(extra_builtins or {})}
    unknown = [name for name in extra_builtins or {} if name not in DECLARED]
    if unknown:
        raise ValueError(f"no builtins of OPA: {', '.join(unknown)}")
    compilation = compile_stages(modules, available, strict=strict, input_schema=input_schema)
    try:
        return Policy(
            compilation,
            modules,
            from_json(data if data is not None else {}),
            strict_builtin_errors=strict_builtin_errors,
        )
    except RecursionError:
        raise CompileError([Problem(errors.PARSE, "the modules nest too deeply", "", 0, 0)]) from None


def _generate(compilation: Compilation, extra: Targets, *, coverage: bool = False) -> CodeGenerator:
    targets = Targets(set(extra.data), set(extra.mocks))
    for module in compilation.modules:
        for rule in module.rules:
            for branch in rule.chain():
                for expr in nested_exprs(branch):
                    targets.collect(expr.withs, compilation.root)
    generator = CodeGenerator(
        compilation.root,
        dict(compilation.builtins),
        compilation.arity,
        compilation.names.original,
        targets,
        coverage=coverage,
    )
    generator.generate()
    return generator


def _with_closures(body: ast.Body) -> Iterator[ast.Expr]:
    from gateway.rego.resolve import exprs_of_body

    yield from exprs_of_body(body)


def _input_value(policy: Policy, value: Any, text: str | None) -> Value:
    if text is None:
        return value if isinstance(value, Undefined) else from_json(value)
    term = parse_term(text)
    try:
        return literal_value(term)
    except ValueError:
        body, outputs = compile_query(policy._compilation, parse_query(f"__input__ = {text}"))
        run = policy._generator.query(body, list(outputs.values()), f"input{policy._compilation.names.count}")
        context = policy._context(
            policy._generator,
            UNDEFINED,
            time_ns=None,
            seed=None,
            max_steps=None,
            deadline=None,
            coverage=None,
            on_print=None,
        )
        rows = run(context)
        return rows[0][0] if rows else UNDEFINED


def _guarded(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except RecursionError:
        raise EvalError(errors.INTERNAL, "the evaluation or its documents nest too deeply") from None


def _collect(coverage: Coverage | None, q: Query, generator: CodeGenerator) -> None:
    if coverage is not None:
        locations = generator.program.locations
        coverage.all.update(loc for loc in locations if loc.row)
        coverage.hits.update(locations[at] for at in q.coverage or ())


__all__ = ["UNDEFINED", "Coverage", "Decide", "Group", "Policy", "RuleInfo", "compile_modules", "key"]
