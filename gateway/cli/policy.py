"""`policy`: check, test, ask and measure the policies, as OPA's users know it (CONTRACT 4).

What these commands print, and their exit codes, are those of `opa check`, `opa test`, `opa eval` and `opa bench`. They
judge as the gateway does: strictly, with builtin errors as errors, and on the embedded engine. `policy doctor` puts the
same questions to a real OPA and reports any difference.
"""

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame, judging
from gateway.cli.evidence import Since
from gateway.cli.frame import group
from gateway.model.recording import CallFilter

if TYPE_CHECKING:
    from gateway.adapters.policy_files import PolicyFiles
    from gateway.rego import Policy

TEST_SECONDS = 5.0
"""How long one test may take, as in OPA."""


@group()
def policy() -> None:
    """Check, test and ask the policies."""


# --- where the policies are -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Which policies a command is about."""

    paths: tuple[Path, ...]
    shown: tuple[str, ...]
    decision: str = "gateway/decision"
    on_opa: bool = False
    """The configuration's engine is an OPA server."""
    configured: bool = False
    """They are the configuration's own: all checks of the gateway apply, whatever is in them."""


def _source(paths: Sequence[str]) -> _Source:
    """The policies at the paths, or else the configuration's; without one, `./policies`.

    Raises:
        ConfigurationError: there is neither.
    """
    from gateway.model.errors import ConfigurationError

    if paths:
        decision, on_opa = "gateway/decision", False
        try:
            configured = frame.configuration().policy
            decision, on_opa = configured.decision, configured.scheme == "opa"
        except ConfigurationError:
            pass  # without a usable configuration the paths alone say what to do
        return _Source(paths=tuple(map(Path, paths)), shown=tuple(paths), decision=decision, on_opa=on_opa)
    try:
        configuration = frame.configuration()
    except ConfigurationError:
        if frame.state().config is None and Path("policies").is_dir():
            return _Source(paths=(Path("policies"),), shown=("policies",), configured=True)
        raise
    settings = configuration.policy
    path = settings.path if settings.path is not None else configuration.file.parent / "policies"
    return _Source(
        paths=(path,),
        shown=(_shown(path),),
        decision=settings.decision,
        on_opa=settings.scheme == "opa",
        configured=True,
    )


def _shown(path: Path) -> str:
    """A path as a person in the working directory would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _of_the_gateway(files: "PolicyFiles") -> bool:
    """Whether any module is of `package gateway`: then they are meant for the gateway, and its checks apply."""
    return any(re.search(r"^package\s+gateway\s*(#.*)?$", text, re.MULTILINE) for text in files.modules.values())


def _load(source: _Source, *, tests: bool = False, gateway: bool | None = None) -> "tuple[PolicyFiles, Policy]":
    """Read and compile; with the gateway's own checks where the policies are meant for it."""
    from gateway.adapters.policy_files import compile_files, compile_policies, read_policies

    files = read_policies(*source.paths, tests=tests, shown=source.shown)
    whole = (source.configured or _of_the_gateway(files)) if gateway is None else gateway
    if whole:
        return files, compile_policies(files, decision=source.decision, tests=tests)
    return files, compile_files(files, tests=tests, schema=_of_the_gateway(files))


paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]...")


# --- check ------------------------------------------------------------------------------------------------------------


@policy.command()
@paths_argument
@frame.json_option
def check(paths: tuple[str, ...], as_json: bool) -> None:
    """Check policies as the gateway does at start: directories, files or bundles; else the configuration's.

    Prints a line `file:line:col: code: message` for each fault, and exits with 1; without a fault it prints nothing.
    """
    from gateway.model.errors import PolicyLoadError

    source = _source(paths)
    try:
        files, compiled = _load(source, tests=True)
    except PolicyLoadError as error:
        lines = str(error).splitlines()
        if as_json:
            frame.print_json({"errors": [_parsed(line) for line in lines]})
        else:
            frame.say(f"{len(lines)} error{'s' if len(lines) > 1 else ''} occurred:")
            for line in lines:
                frame.say(line)
        raise frame.Negative from None
    warnings = list(_warnings(source, files, compiled))
    if as_json:
        frame.print_json({"revision": files.revision, "warnings": warnings})
    else:
        for warning in warnings:
            frame.say(warning)


_PLACE = re.compile(r"(?P<file>[^:]*):(?P<row>\d+):(?P<col>\d+): (?P<code>\w+): (?P<message>.*)")


def _parsed(line: str) -> Mapping[str, Any]:
    """A fault's line in the form of OPA's JSON."""
    found = _PLACE.fullmatch(line)
    if found is None:
        return {"message": line}
    location = {"file": found["file"], "row": int(found["row"]), "col": int(found["col"])}
    return {"message": found["message"], "code": found["code"], "location": location}


def _warnings(source: _Source, files: "PolicyFiles", compiled: "Policy") -> Iterator[str]:
    """What loads, and may surprise."""
    for name in files.ignored:
        yield f"{files.place(name)}: warning: not loaded; data files are named data.json, data.yaml or data.yml"
    if source.on_opa:
        for name, places in sorted(compiled.nondeterministic_builtins().items()):
            for place in places:
                yield (
                    f"{place.file}:{place.row}:{place.column}: warning: {name} on an OPA server takes its own clock or "
                    "chance, so the decision cannot be replayed; take input.context.time_ns"
                )


# --- test -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Result:
    """How one test went."""

    path: str
    file: str
    row: int
    column: int
    outcome: str
    """`PASS`, `FAIL`, `ERROR` or `SKIPPED`."""
    nanoseconds: int = 0
    error: str = ""
    printed: list[str] = field(default_factory=list)

    def as_json(self) -> Mapping[str, Any]:
        """In the form of `opa test --format json`."""
        package, _, name = self.path.rpartition(".")
        found: dict[str, Any] = {
            "location": {"file": self.file, "row": self.row, "col": self.column},
            "package": package,
            "name": name,
        }
        if self.outcome == "FAIL":
            found["fail"] = True
        elif self.outcome == "ERROR":
            found["error"] = {"message": self.error}
        elif self.outcome == "SKIPPED":
            found["skip"] = True
        found["duration"] = self.nanoseconds
        return found


@policy.command()
@paths_argument
@click.option("-v", "--verbose", is_flag=True, help="Print every test, and what it printed.")
@click.option("-r", "--run", metavar="REGEX", help="Run only the tests whose names match.")
@click.option("-c", "--coverage", is_flag=True, help="Report which lines ran, as JSON.")
@click.option("--threshold", type=float, metavar="PERCENT", help="Exit with 2 where the coverage is less.")
@click.option("-f", "--format", "form", type=click.Choice(["pretty", "json"]), default="pretty")
@frame.json_option
def test(
    paths: tuple[str, ...],
    verbose: bool,
    run: str | None,
    coverage: bool,
    threshold: float | None,
    form: str,
    as_json: bool,
) -> None:
    """Run the `test_` rules of policies. Exits with 2 where one fails, and with 1 where they do not load, as OPA does."""
    from gateway.model.errors import PolicyLoadError
    from gateway.rego import Coverage

    try:
        wanted = re.compile(run or "")
    except re.error as error:
        raise click.UsageError(f"--run: {error}") from None
    source = _source(paths)
    try:
        _, compiled = _load(source, tests=True, gateway=False)
    except PolicyLoadError as error:
        lines = str(error).splitlines()
        frame.say(f"{len(lines)} error{'s' if len(lines) > 1 else ''} occurred during loading:")
        for line in lines:
            frame.say(line)
        raise frame.Negative from None
    covered = Coverage() if coverage or threshold is not None else None
    results = list(run_tests(compiled, wanted.search, covered))
    failed = any(result.outcome in ("FAIL", "ERROR") for result in results)
    if as_json or form == "json":
        frame.print_json([result.as_json() for result in results])
    elif covered is None or failed or threshold is not None:
        _print_results(results, verbose=verbose)
    if covered is not None and not failed:
        report = covered.report()
        if coverage:
            frame.print_json(report)
        if threshold is not None and report["coverage"] < threshold:
            frame.say(f"Code coverage threshold not met: got {report['coverage']:.2f} instead of {threshold:.2f}")
            click.get_current_context().exit(2)
    if failed:
        click.get_current_context().exit(2)


def run_tests(compiled: "Policy", wanted: Callable[[str], object], coverage: Any = None) -> Iterator[_Result]:
    """Run each test whose path (`data.x_test.test_y`) is wanted, in the order of files and lines."""
    from gateway.rego import UNDEFINED, EvalError

    seen: set[str] = set()
    for rule in compiled.rules():
        name = rule.path.partition("[")[0].rpartition(".")[2]
        if not name.startswith(("test_", "todo_test_")) or rule.path in seen or not wanted(rule.path):
            continue
        seen.add(rule.path)
        result = _Result(path=rule.path, file=rule.file, row=rule.line, column=rule.column, outcome="PASS")
        if name.startswith("todo_"):
            result.outcome = "SKIPPED"
            yield result
            continue
        if rule.kind != "complete" or "[" in rule.path:
            # A case that fails leaves no trace in the rule's value, so it could not be told from one that is not there.
            result.outcome, result.error = (
                "ERROR",
                "cases within one test are not supported here; write a test for each",
            )
            yield result
            continue
        began = time.perf_counter_ns()
        try:
            value = compiled.prepare(rule.path)(
                time_ns=time.time_ns(),
                seed=rule.path,
                deadline=time.monotonic() + TEST_SECONDS,
                coverage=coverage,
                on_print=result.printed.append,
            )
            if value is UNDEFINED or value is False:
                result.outcome = "FAIL"
        except EvalError as error:
            result.outcome, result.error = "ERROR", str(error)
        result.nanoseconds = time.perf_counter_ns() - began
        yield result


def _print_results(results: Sequence[_Result], *, verbose: bool) -> None:
    """As `opa test` prints them: what failed, or with `-v` everything, and a count of each outcome."""
    if not results:
        return
    place = ""
    for result in results:
        if not verbose and result.outcome == "PASS":
            continue
        here = f"{result.file}:{result.row}:"
        if here != place:
            click.echo(here)
            place = here
        time_taken = f" ({_duration(result.nanoseconds)})" if result.outcome != "SKIPPED" else ""
        click.echo(f"{result.path}: {result.outcome}{time_taken}")
        if result.error:
            click.echo(f"  {result.error}")
        if result.printed:
            click.echo()
            for line in result.printed:
                click.echo(f"  {line}")
            click.echo()
    if verbose or any(result.outcome != "PASS" for result in results):
        click.echo("-" * 80)
    for outcome in ("PASS", "FAIL", "ERROR", "SKIPPED"):
        count = sum(result.outcome == outcome for result in results)
        if count:
            click.echo(f"{outcome}: {count}/{len(results)}")


def _duration(nanoseconds: int) -> str:
    """As Go prints a duration: `241.819µs`, `2.357084ms`, `1.2s`."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.9f}".rstrip("0").rstrip(".") + unit
    return f"{nanoseconds}ns"


# --- eval -------------------------------------------------------------------------------------------------------------


def _data_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-d", "--data", "paths", multiple=True, metavar="PATH", help="Policies and data; else the configuration's."
    )(function)


def _input_options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("-i", "--input", "input_path", metavar="FILE", help="The input document, JSON.")(function)
    return click.option("-I", "--stdin-input", is_flag=True, help="Read the input document from standard input.")(
        function
    )


@policy.command(name="eval")
@click.argument("query")
@_data_option
@_input_options
@click.option(
    "-f", "--format", "form", type=click.Choice(["json", "values", "bindings", "raw", "pretty"]), default="json"
)
@click.option("--fail", is_flag=True, help="Exit with 1 where the result is undefined or empty.")
@click.option("--fail-defined", is_flag=True, help="Exit with 1 where the result is defined.")
def evaluate(
    query: str,
    paths: tuple[str, ...],
    input_path: str | None,
    stdin_input: bool,
    form: str,
    fail: bool,
    fail_defined: bool,
) -> None:
    """Ask the policies: `gateway policy eval -i input.json 'data.gateway.decision'`.

    Prints OPA's result document, `{}` where the query is undefined. Errors are part of the document; then it exits with 2.
    """
    from gateway.model.errors import PolicyLoadError
    from gateway.rego import CompileError, EvalError

    document = _read_input(input_path, stdin_input)
    try:
        _, compiled = _load(_source(paths), gateway=False)
        result = evaluate_query(compiled, query, document)
    except (PolicyLoadError, CompileError) as error:
        lines = (
            [str(problem) for problem in error.errors] if isinstance(error, CompileError) else str(error).splitlines()
        )
        frame.print_json({"errors": [_parsed(line) for line in lines]})
        click.get_current_context().exit(2)
    except EvalError as error:
        location = {"file": error.file, "row": error.line, "col": error.column}
        frame.print_json({"errors": [{"message": error.message, "code": error.code, "location": location}]})
        click.get_current_context().exit(2)
    _print_evaluation(result, form)
    if (fail and not result) or (fail_defined and result):
        click.get_current_context().exit(1)


def _read_input(path: str | None, stdin: bool) -> Any:
    """The input document, or UNDEFINED."""
    from gateway.rego import UNDEFINED

    if path is None and not stdin:
        return UNDEFINED
    if path is not None and stdin:
        raise click.UsageError("--input and --stdin-input exclude each other")
    try:
        text = sys.stdin.read() if path is None else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{path or 'standard input'}: not JSON: {error}") from None


def evaluate_query(compiled: "Policy", query: str, document: Any) -> list[dict[str, Any]]:
    """The result set of a query in the form of OPA's: for each solution the expressions' values and the bindings."""
    from gateway.rego import ast
    from gateway.rego.parser import parse_query
    from gateway.rego.printer import expr_text, term_text

    body = parse_query(query)
    texts: list[str] = []
    valued: set[int] = set()
    for index, expr in enumerate(body):
        node = expr.node
        plain = not (expr.negated or expr.withs or isinstance(node, ast.SomeDecl | ast.Every))
        if plain and not (isinstance(node, ast.Call) and node.name in ("eq", "assign")):
            valued.add(index)
            assert not isinstance(node, ast.SomeDecl | ast.Every)
            texts.append(f"__value{index}__ = {_function_form(node, term_text)}")
        else:
            texts.append(expr_text(expr))
    time_ns = time.time_ns()
    if isinstance(document, dict) and isinstance(document.get("context"), dict):
        asked_at = document["context"].get("time_ns")
        time_ns = asked_at if isinstance(asked_at, int) else time_ns
    rows = compiled.query(
        "; ".join(texts), document, time_ns=time_ns, seed="eval", on_print=lambda line: click.echo(line, err=True)
    )
    single = query.strip() if len(body) == 1 else None
    result = []
    for row in rows:
        expressions = [
            {
                "value": row.get(f"__value{index}__", True),
                "text": single or expr_text(expr),
                "location": {"row": expr.loc.row, "col": expr.loc.column},
            }
            for index, expr in enumerate(body)
        ]
        solution: dict[str, Any] = {"expressions": expressions}
        bindings = {name: value for name, value in row.items() if not name.startswith(("__value", "$"))}
        if bindings:
            solution["bindings"] = bindings
        result.append(solution)
    return result


def _function_form(node: Any, text: Callable[[Any], str]) -> str:
    """A term as text that can stand behind `=`: `a > b` as `gt(a, b)`."""
    from gateway.rego import ast

    if isinstance(node, ast.Call) and node.infix and node.name != "internal.member_2":
        return f"{node.name}({', '.join(_function_form(argument, text) for argument in node.args)})"
    if isinstance(node, ast.Call) and node.name.startswith("internal.member"):
        return f"({text(node)})"
    return text(node)


def _print_evaluation(result: list[dict[str, Any]], form: str) -> None:
    match form:
        case "json":
            frame.print_json({"result": result} if result else {})
        case "bindings":
            for solution in result:
                frame.print_json(solution.get("bindings", {}))
        case "values":
            for solution in result:
                frame.print_json([one["value"] for one in solution["expressions"]])
        case _:
            if not result and form == "pretty":
                click.echo("undefined")
            for solution in result:
                for one in solution["expressions"]:
                    value = one["value"]
                    if form == "raw":
                        click.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
                    else:
                        frame.print_json(
                            solution.get("bindings", value) if len(solution["expressions"]) == 1 else value
                        )


# --- bench ------------------------------------------------------------------------------------------------------------


@policy.command()
@click.argument("query", default="data.gateway.decision")
@_data_option
@_input_options
@click.option("--count", type=click.IntRange(1), default=5000, show_default=True, help="How often to ask.")
@frame.json_option
def bench(
    query: str, paths: tuple[str, ...], input_path: str | None, stdin_input: bool, count: int, as_json: bool
) -> None:
    """Measure how long the policies take for one answer (a ref, `data.gateway.decision` if nothing is said)."""
    from gateway.rego import CompileError, EvalError

    document = _read_input(input_path, stdin_input)
    began = time.perf_counter_ns()
    _, compiled = _load(_source(paths), gateway=False)
    loaded = time.perf_counter_ns() - began
    try:
        ask = compiled.prepare(query)
        samples = []
        for _ in range(count):
            began = time.perf_counter_ns()
            ask(document, time_ns=began, seed="bench")
            samples.append(time.perf_counter_ns() - began)
    except (CompileError, EvalError) as error:
        raise frame.Negative(str(error)) from None
    samples.sort()
    name = "histogram_timer_rego_query_eval_ns"
    rows: dict[str, int] = {"samples": count, "ns/op": round(statistics.fmean(samples))}
    for percent in (75, 90, 95, 99, 99.9, 99.99):
        rows[f"{name}_{percent:g}%"] = samples[min(count - 1, int(count * percent / 100))]
    rows |= {
        f"{name}_count": count,
        f"{name}_max": samples[-1],
        f"{name}_mean": round(statistics.fmean(samples)),
        f"{name}_median": samples[count // 2],
        f"{name}_min": samples[0],
        f"{name}_stddev": round(statistics.pstdev(samples)),
        "timer_rego_load_ns": loaded,
    }
    if as_json:
        frame.print_json(rows)
    else:
        frame.print_table(["measure", "value"], rows.items())


# --- doctor -----------------------------------------------------------------------------------------------------------


@policy.command()
@paths_argument
@click.option("--opa", metavar="COMMAND", help="The OPA executable; else `opa` on the PATH.")
@frame.json_option
def doctor(paths: tuple[str, ...], opa: str | None, as_json: bool) -> None:
    """Put the policies to the embedded engine and to an OPA, and report any difference.

    Compares what both say of the policies, every test, and the decision on a set of questions. Exits with 1 where
    something differs, or where there is no OPA to compare with.
    """
    command = opa or shutil.which("opa")
    if command is None or shutil.which(command) is None:
        raise frame.Negative(
            f"there is no {opa or 'opa'} on the PATH; it comes from openpolicyagent.org, Homebrew, or "
            "`go install github.com/open-policy-agent/opa@v1.9.0`"
        )
    source = _source(paths)
    report = compare(source, command)
    if as_json:
        frame.print_json(report)
    else:
        click.echo(f"OPA {report['opa']} and the embedded engine")
        for line in report["notes"]:
            click.echo(f"  {line}")
        for line in report["differences"]:
            click.echo(f"DIFFERENT: {line}")
        if not report["differences"]:
            click.echo("no difference")
    if report["differences"]:
        raise frame.Negative


def compare(source: _Source, command: str) -> dict[str, Any]:
    """Everything in which the two engines differ on these policies, and what was compared."""
    import tempfile

    from gateway.adapters.policy_files import compile_files, input_schema, read_policies
    from gateway.model.errors import PolicyLoadError

    files = read_policies(*source.paths, tests=True, shown=source.shown)
    differences: list[str] = []
    notes: list[str] = []
    version = re.search(r"Version: (\S+)", _opa(command, ["version"]).stdout)
    report = {
        "opa": version[1] if version else "of an unknown version",
        "notes": notes,
        "differences": differences,
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # Both engines read exactly the same files, whatever is beside them.
        for module, text in {**files.modules, **files.tests}.items():
            path = directory / "policies" / module.lstrip("/").replace("..", "_")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (directory / "policies").mkdir(exist_ok=True)
        (directory / "policies" / "data.json").write_text(json.dumps(files.data), encoding="utf-8")
        (directory / "schema.json").write_text(json.dumps(input_schema()), encoding="utf-8")
        try:
            compiled = compile_files(files, tests=True, schema=_of_the_gateway(files))
            ours = ""
        except PolicyLoadError as error:
            compiled, ours = None, str(error)
        schema = ["-s", "schema.json"] if _of_the_gateway(files) else []
        check = _opa(command, ["check", "--strict", *schema, "policies"], directory)
        if (check.returncode == 0) != (compiled is not None):
            verdict = f"OPA does not: {check.stderr.strip()}" if check.returncode else "OPA accepts them"
            differences.append(
                f"the embedded engine {'refuses' if ours else 'accepts'} the policies and {verdict} {ours}".strip()
            )
            return report
        notes.append(f"check: both {'accept' if compiled is not None else 'refuse'} the policies")
        if compiled is None:
            return report
        differences += _compare_tests(compiled, command, directory, notes)
        differences += _compare_decisions(compiled, source.decision, command, directory, notes)
        for builtin in compiled.nondeterministic_builtins():
            notes.append(f"{builtin}: not compared where an answer depends on it")
    return report


def _opa(command: str, arguments: list[str], directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [command, *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise frame.Negative(f"{command} cannot be run: {error}") from None


def _compare_tests(compiled: "Policy", command: str, directory: Path, notes: list[str]) -> Iterator[str]:
    """The outcome of every test on both engines."""
    ours = {result.path.partition("[")[0]: result for result in run_tests(compiled, lambda _: True)}
    found = _opa(command, ["test", "--format", "json", "policies"], directory)
    theirs: dict[str, str] = {}
    for one in json.loads(found.stdout or "[]"):
        outcome = (
            "SKIPPED" if one.get("skip") else "ERROR" if one.get("error") else "FAIL" if one.get("fail") else "PASS"
        )
        theirs[f"{one['package']}.{one['name']}"] = outcome
    same = 0
    for path in sorted({*ours, *theirs}):
        here = ours[path].outcome if path in ours else "absent"
        there = theirs.get(path, "absent")
        if here == "ERROR" and there != "ERROR":
            # `opa test` takes a builtin's error for undefined, the gateway does not: ask OPA as the gateway would.
            strict = ["eval", "--strict-builtin-errors", "-d", "policies", path]
            there = "ERROR" if _opa(command, strict, directory).returncode else there
        if here == there:
            same += 1
        else:
            why = f" ({ours[path].error})" if path in ours and ours[path].error else ""
            yield f"{path} is {here} on the embedded engine and {there} on OPA{why}"
    notes.append(f"tests: {same} of {len({*ours, *theirs})} alike")


def _compare_decisions(
    compiled: "Policy", decision: str, command: str, directory: Path, notes: list[str]
) -> Iterator[str]:
    """The decision on each of a set of questions on both engines."""
    from gateway.rego import UNDEFINED, EvalError

    questions = list(sample_questions())
    (directory / "input.json").write_text(json.dumps({"questions": questions}), encoding="utf-8")
    for path in dict.fromkeys(["data." + decision.replace("/", "."), "data.gateway.visible"]):
        if not compiled.reachable([path]):
            continue
        # One process for all questions; those without an answer are absent from the object.
        query = f"{{at: answer | some at, question in input.questions; answer := {path} with input as question}}"
        found = _opa(
            command,
            ["eval", "--strict-builtin-errors", "-d", "policies", "-i", "input.json", "--format", "json", query],
            directory,
        )
        theirs = json.loads(found.stdout or "{}")
        ask = compiled.prepare(path)
        ours: dict[str, Any] = {}
        failed: list[str] = []
        for at, asked in enumerate(questions):
            try:
                answer = ask(asked, time_ns=asked["context"]["time_ns"], seed="doctor")
            except EvalError as error:
                failed.append(str(error))
                continue
            if answer is not UNDEFINED:
                ours[str(at)] = answer
        if "errors" in theirs or failed:
            if not ("errors" in theirs and failed):
                side = "the embedded engine" if failed else "OPA"
                yield f"{path} fails only on {side}: {failed[0] if failed else theirs['errors'][0]['message']}"
            else:
                notes.append(f"{path}: fails on both, first with {failed[0]}")
            continue
        values = theirs["result"][0]["expressions"][0]["value"]
        different = [at for at in range(len(questions)) if _text(ours, at) != _text(values, at)]
        notes.append(f"{path}: {len(questions) - len(different)} of {len(questions)} answers alike")
        for at in different[:10]:
            yield (
                f"{path} of {json.dumps(questions[at])}: {_text(ours, at)} on the embedded engine, "
                f"{_text(values, at)} on OPA"
            )


def _text(answers: Mapping[str, Any], at: int) -> str:
    return json.dumps(answers[str(at)], sort_keys=True) if str(at) in answers else "undefined"


def sample_questions() -> Iterable[dict[str, Any]]:
    """Questions of every kind, with arguments that engines have stumbled over."""
    arguments: list[dict[str, Any]] = [
        {},
        {"path": '/srv/repos/a"b\\c\n\u2028é😀\x00', "amount": 1000.01, "limit": 2**63},
        {"path": "/srv/../etc/passwd", "sql": "SELECT 1; drop table x", "amount": -0.0, "text": "a" * 40 + "!"},
        {"path": 7, "amount": "5", "limit": 1e300, "nested": {"a": [1, 1.0, True, None, {}, []], "": ""}},
    ]
    recent = [
        {"tool": "git/git_diff", "outcome": "completed", "code": None, "time": "2026-11-20T20:10:00Z"},
        {"tool": "git/git_commit", "outcome": "refused", "code": "policy.denied", "time": "2026-11-20T20:10:30Z"},
    ]
    kinds = [
        ("tools/call", "tool", "git/git_log"),
        ("tools/call", "tool", "db/query"),
        ("resources/read", "resource", "docs/doc://a/b"),
        ("prompts/get", "prompt", "docs/review"),
        ("tasks/get", "method", "git/tasks/get"),
    ]
    for roles in (["local"], ["reader"], ["writer"], []):
        for method, type_, identifier in kinds:
            for at, risk in enumerate(("read", "write", "external")):
                server, _, name = identifier.partition("/")
                yield {
                    "version": 1,
                    "subject": {"type": "agent", "id": "doctor", "roles": roles, "claims": {"team": "a"}},
                    "action": {"name": method},
                    "resource": {
                        "type": type_,
                        "id": identifier,
                        "server": server,
                        "name": name,
                        "risk": risk,
                        "annotations": {"readOnlyHint": risk == "read"},
                        "definition_sha256": "0" * 64,
                    },
                    "arguments": arguments[(at + len(roles) + len(method)) % len(arguments)],
                    "meta": {},
                    "context": {
                        "time": "2026-11-20T20:11:00Z",
                        "time_ns": 1795205460000000000,
                        "session_id": "doctor",
                        "call_id": "doctor",
                        "trace_id": "",
                        "client": {"name": "doctor"},
                        "approval": None,
                        "recent": recent[: at % 3],
                    },
                }


# --- backtest ---------------------------------------------------------------------------------------------------------


@policy.command()
@judging.options
@click.option("--since", type=Since(), help="Calls not older than this: `2h`, `7d`, or a date.")
@click.option("--until", type=Since(), help="Calls older than this.")
@click.option("--agent", metavar="GLOB", help="Of this agent.")
@click.option("--tool", metavar="GLOB", help="Of this tool, as server/tool.")
@click.option(
    "--recording",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An export in place of the store.",
)
def backtest(
    since: float | None,
    until: float | None,
    agent: str | None,
    tool: str | None,
    recording: Path | None,
    policies: str | None,
    limits: Path | None,
    page: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Put recorded questions to a candidate policy; without --policies to `[policy] shadow`.

    First it says how many recorded decisions the old policy reproduces. The exit code is 1 where anything is newly allowed
    or undecidable.
    """
    with ExitStack() as stack:
        chosen = CallFilter(since=since, until=until, agent=agent, tool=tool)
        judging.run(judging.Source(recording, chosen, stack), policies, limits, page, jobs, as_json)
