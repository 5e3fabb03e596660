"""Policies from files: directories and bundles are read, checked and compiled. Control plane: it may raise and be slow.

Theory of operation
-------------------
A directory is read as `opa run --bundle` reads it: every `*.rego` (but `*_test.rego`), and every `data.json`,
`data.yaml` or `data.yml`, mounted by the directory it lies in. Hidden files and directories are passed over. A bundle is
a `.tar.gz` of the same files with a `.manifest` (`revision`, `roots`).

Compiling is strict, and has two checks that OPA does not have by itself. A field under `input` that the question does not
have is a type error (by the question's schema). And a rule of `package gateway` that is no entry point and is reached from
none is refused: it is a typing mistake (`deni contains ...`), or it is dead, and a rule that its author believes to deny
must not be dead in silence.
"""

import difflib
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from gateway.model.errors import PolicyLoadError
from gateway.rego import CompileError, Policy, compile_modules
from gateway.rego.errors import Problem
from gateway.rego.parser import parse_module

ENTRY_POINTS = ("decision", "allow", "deny", "hold", "obligations", "visible")
"""The rules of `package gateway` that the gateway itself, or `policies/gateway.rego`, asks for."""

_PACKAGE = ("gateway",)
_DATA_FILES = ("data.json", "data.yaml", "data.yml")
_MAX_BUNDLE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFiles:
    """Policies as read, not compiled."""

    modules: Mapping[str, str]
    """The text of each module by its name below the root, `/` between directories."""
    tests: Mapping[str, str] = field(default_factory=dict)
    """`*_test.rego`, where they were asked for."""
    data: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""
    """SHA-256 (hexadecimal) over modules and data; tests do not count."""
    bundle_revision: str = ""
    """What the bundle's manifest says, if it is one."""
    ignored: tuple[str, ...] = ()
    """Files that look like data and are not loaded, because of their names."""
    shown: str = ""
    """What names in messages begin with: the path as the user wrote it."""

    def place(self, name: str) -> str:
        """A module's name as messages show it."""
        return os.path.join(self.shown, name) if self.shown else name

    def document(self, decision: str) -> bytes:
        """Modules and data as one JSON document, by which the same decisions can be made later."""
        found = {
            "version": 1,
            "revision": self.revision,
            "decision": decision,
            "modules": self.modules,
            "data": self.data,
        }
        return json.dumps(found, ensure_ascii=True, separators=(",", ":")).encode()

    @classmethod
    def of_document(cls, document: bytes) -> "tuple[PolicyFiles, str]":
        """The files of a document, and the decision that was asked.

        Raises:
            ValueError: it is none, or its modules and data are not of the revision that it names.
        """
        try:
            found = json.loads(document)
            files = cls(modules=found["modules"], data=found["data"], revision=found["revision"], shown="recorded")
            decision = str(found["decision"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no kept policy: {error!r}") from None
        if revision_of(files.modules, files.data) != files.revision:
            raise ValueError(f"its modules and data are not those of the revision {files.revision}")
        return files, decision


# --- reading --------------------------------------------------------------------------------------------------------


def read_policies(*paths: Path, tests: bool = False, shown: Sequence[str] = ()) -> PolicyFiles:
    """Read directories, single files and bundles; several are merged, as OPA merges several `-d`.

    Args:
        paths: where the policies are.
        tests: read `*_test.rego` as well.
        shown: what each path is called in messages; without it, as it is.

    Raises:
        PolicyLoadError: something cannot be read, or two documents lie at one place; with a line for each.
    """
    reader = _Reader(tests)
    single = len(paths) == 1
    root = ""
    for index, path in enumerate(paths):
        name = shown[index] if index < len(shown) else str(path)
        if path.is_dir():
            root = name
            reader.directory(path, "" if single else name)
        elif path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
            root = name
            reader.bundle(path, name, "" if single else name)
        elif path.is_file():
            reader.file(name, path.read_bytes(), (), named=True)
        else:
            raise PolicyLoadError(
                f"{name}: there is no such directory or bundle; `gateway init` writes policies to begin with"
            )
    return reader.files(root if single else "")


class _Reader:
    """Gathers modules and data."""

    def __init__(self, tests: bool) -> None:
        self.with_tests = tests
        self.modules: dict[str, str] = {}
        self.tests: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.ignored: list[str] = []
        self.problems: list[str] = []
        self.bundle_revision = ""

    def directory(self, root: Path, prefix: str) -> None:
        """Every file below a directory."""
        for path in _walk(root, set()):
            relative = path.relative_to(root)
            try:
                content = path.read_bytes()
            except OSError as error:
                self.problems.append(f"{os.path.join(prefix or str(root), relative)}: {error.strerror}")
                continue
            self.file(
                os.path.join(prefix, relative.as_posix()) if prefix else relative.as_posix(),
                content,
                relative.parts[:-1],
            )

    def bundle(self, path: Path, name: str, prefix: str) -> None:
        """A `.tar.gz` as `opa build` writes it. Nothing is unpacked to the disk."""
        manifest: dict[str, Any] = {}
        found: list[tuple[PurePosixPath, bytes]] = []
        total = 0
        try:
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:
                    where = PurePosixPath(member.name.removeprefix("./").removeprefix("/"))
                    if not member.isfile():
                        continue
                    total += member.size
                    if total > _MAX_BUNDLE_BYTES:
                        raise PolicyLoadError(f"{name}: the bundle is larger than {_MAX_BUNDLE_BYTES} bytes")
                    content = archive.extractfile(member)
                    assert content is not None
                    if where == PurePosixPath(".manifest"):
                        manifest = json.loads(content.read())
                    elif not any(part.startswith(".") for part in where.parts):
                        found.append((where, content.read()))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise PolicyLoadError(f"{name}: not a bundle: {error}") from None
        if not isinstance(manifest, dict):
            raise PolicyLoadError(f"{name}: .manifest is no object")
        if manifest.get("rego_version", 1) != 1:
            raise PolicyLoadError(
                f"{name}: the bundle is of Rego version {manifest['rego_version']}; only 1 is supported"
            )
        self.bundle_revision = str(manifest.get("revision", ""))
        before = set(self.modules) | set(self.tests)
        mounted = self.data
        self.data = {}
        for where, content_bytes in found:
            self.file(f"{prefix}/{where}" if prefix else str(where), content_bytes, where.parts[:-1])
        roots = manifest.get("roots", [""])
        self._within(name, [str(root).strip("/") for root in roots], set(self.modules) - before)
        inside, self.data = self.data, mounted
        self._merge(inside, (), name)

    def _within(self, name: str, roots: Sequence[str], modules: Iterable[str]) -> None:
        """A bundle owns its roots and nothing else."""

        def owned(path: str) -> bool:
            return any(not root or path == root or path.startswith(root + "/") for root in roots)

        for module in sorted(modules):
            package = re.search(r"^\s*package\s+([\w.]+)", self.modules[module], re.MULTILINE)
            if package is not None and not owned(package[1].replace(".", "/")):
                self.problems.append(
                    f"{name}: {module}: package {package[1]} is outside the bundle's roots {list(roots)}"
                )
        for path in _leaves(self.data, ()):
            if not owned("/".join(path)):
                self.problems.append(f"{name}: data at {'/'.join(path)!r} is outside the bundle's roots {list(roots)}")

    def file(self, name: str, content: bytes, mount: tuple[str, ...], *, named: bool = False) -> None:
        """One file by its name; other kinds of files are passed over. A data file that the user named may be called anything."""
        base = name.rsplit("/", 1)[-1]
        if base.endswith(".rego"):
            test = base.endswith("_test.rego")
            if test and not self.with_tests:
                return
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                self.problems.append(f"{name}: not UTF-8: {error.reason} at byte {error.start}")
                return
            (self.tests if test else self.modules)[name] = text.removeprefix("\ufeff")
        elif base in _DATA_FILES or (named and base.endswith((".json", ".yaml", ".yml"))):
            try:
                document = _parse_data(base, content)
            except ValueError as error:
                self.problems.append(f"{name}: {error}")
                return
            for key in reversed(mount):
                document = {key: document}
            if not isinstance(document, dict):
                self.problems.append(f"{name}: the data at the root is no object")
                return
            self._merge(document, (), name)
        elif base.endswith((".json", ".yaml", ".yml")):
            self.ignored.append(name)

    def _merge(self, document: Mapping[str, Any], path: tuple[str, ...], name: str) -> None:
        """Objects are merged; two documents at one place are an error, as in OPA."""
        target: dict[str, Any] = self.data
        for key in path:
            target = target[key]
        for key, value in document.items():
            if key not in target:
                target[key] = value
            elif isinstance(value, dict) and isinstance(target[key], dict):
                target[key] = dict(target[key])
                self._merge(value, (*path, key), name)
            else:
                self.problems.append(f"{name}: merge error: another file has data at {'/'.join((*path, key))!r}")

    def files(self, shown: str) -> PolicyFiles:
        """What was gathered, with its revision."""
        if self.problems:
            raise PolicyLoadError("\n".join(os.path.join(shown, line) if shown else line for line in self.problems))
        return PolicyFiles(
            modules=dict(sorted(self.modules.items())),
            tests=dict(sorted(self.tests.items())),
            data=self.data,
            revision=revision_of(self.modules, self.data),
            bundle_revision=self.bundle_revision,
            ignored=tuple(sorted(self.ignored)),
            shown=shown,
        )


def _walk(directory: Path, above: set[str]) -> Iterator[Path]:
    """The files below a directory in a fixed order; links are followed, but not in circles."""
    real = os.path.realpath(directory)
    if real in above:
        return
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, above | {real})
        elif path.is_file():
            yield path


def _leaves(document: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def revision_of(modules: Mapping[str, str], data: Mapping[str, Any]) -> str:
    """SHA-256 over modules and data, whatever the order in which they were read."""
    digest = hashlib.sha256()
    for name, text in sorted(modules.items()):
        digest.update(json.dumps([name, text]).encode() + b"\n")
    digest.update(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


# --- data documents ---------------------------------------------------------------------------------------------------


def _parse_data(name: str, content: bytes) -> Any:
    """A data file's document. Raises `ValueError` with what is wrong."""
    if name.endswith(".json"):
        try:
            return json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_unique)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    try:
        return yaml.load(io.BytesIO(content), _DataLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} is there twice")
    return document


class _DataLoader(yaml.SafeLoader):
    """YAML as OPA reads it: version 1.2's scalars, so that `yes` and a date are strings; nothing but JSON comes out."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own form

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no scalar", key_node.start_mark)
            key = str(key_node.value)
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(node.value).replace("_", "")
        if re.fullmatch(r"[-+]?0[0-7]+", text):
            return int(text, 8)
        return int(text, 0)

    def construct_decimal(self, node: yaml.ScalarNode) -> float | int:
        number = float(str(node.value).replace("_", ""))
        if number in (float("inf"), float("-inf")):
            raise yaml.constructor.ConstructorError(None, None, "a number is too large", node.start_mark)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number


_DataLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_DataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_DataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    list("-+0123456789"),
)
_DataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
_DataLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), ["<"])
_DataLoader.add_constructor("tag:yaml.org,2002:int", _DataLoader.construct_integer)
_DataLoader.add_constructor("tag:yaml.org,2002:float", _DataLoader.construct_decimal)


# --- compiling --------------------------------------------------------------------------------------------------------


@cache
def input_schema() -> Mapping[str, Any]:
    """The published JSON Schema of the policy question (`gateway/schemas/policy-input.schema.json`)."""
    path = Path(__file__).parent.parent / "schemas" / "policy-input.schema.json"
    schema: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def compile_policies(files: PolicyFiles, *, decision: str = "gateway/decision", tests: bool = False) -> Policy:
    """Compile what was read, with every check that the gateway makes at start.

    Args:
        files: from `read_policies`.
        decision: the path that will be asked.
        tests: compile the tests with it (`policy test`).

    Raises:
        PolicyLoadError: they do not compile, with a line `file:line:col: code: message` for each fault; or there is no
            policy at all.
    """
    policy = compile_files(files, tests=tests)
    path = "data." + decision.replace("/", ".")
    if not policy.reachable([path]):
        raise PolicyLoadError(
            f"{files.shown or 'the policies'}: there is no policy: no rule defines {path}; "
            "`gateway init` writes a policies/gateway.rego that does"
        )
    problems = [*policy.path_conflicts(), *unreached_rules(files, policy, path)]
    if problems:
        raise _refused(problems)
    return policy


def compile_files(files: PolicyFiles, *, tests: bool = False, schema: bool = True) -> Policy:
    """Compile what was read as Rego, strictly; without the checks that only policies of the gateway have to pass.

    Args:
        schema: hold `input` to the question's schema.

    Raises:
        PolicyLoadError: a line `file:line:col: code: message` for each fault.
    """
    modules = {files.place(name): text for name, text in {**files.modules, **(files.tests if tests else {})}.items()}
    try:
        return compile_modules(
            modules,
            data=dict(files.data),
            strict=True,
            strict_builtin_errors=True,
            input_schema=input_schema() if schema else None,
        )
    except CompileError as error:
        raise _refused(error.errors) from None


def _refused(problems: Iterable[Problem]) -> PolicyLoadError:
    ordered = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
    return PolicyLoadError("\n".join(dict.fromkeys(map(str, ordered))))


UNREACHED = "gateway_unreached_rule_error"


def unreached_rules(files: PolicyFiles, policy: Policy, decision: str) -> Iterator[Problem]:
    """Each rule of `package gateway` that is no entry point and is reached from none. Rules named `test_...` are left out.

    Args:
        decision: the path that is asked, `data.gateway.decision`.
    """
    own = {
        files.place(name) for name, text in files.modules.items() if parse_module(text, name).package.path == _PACKAGE
    }
    reached = policy.reachable([*(f"data.gateway.{name}" for name in ENTRY_POINTS), decision])
    reached_names = {_name(path) for path in reached if path.startswith("data.gateway.")}
    for rule in policy.rules():
        name = _name(rule.path)
        if rule.file not in own or rule.path in reached or name.startswith(("test_", "todo_test_")):
            continue
        candidates = sorted({*ENTRY_POINTS, *reached_names} - {name})
        near = max(candidates, key=lambda known: difflib.SequenceMatcher(a=name, b=known).ratio())
        yield Problem(
            UNREACHED,
            f"rule {name} is no entry point ({', '.join(ENTRY_POINTS)}) and none of them uses it; the nearest name is {near}",
            rule.file,
            rule.line,
            rule.column,
        )


def _name(path: str) -> str:
    """The name of a rule of `package gateway` in its path."""
    return re.split(r"[.\[]", path.removeprefix("data.gateway."), maxsplit=1)[0]


def load_policies(path: Path, *, shown: str = "", decision: str = "gateway/decision") -> tuple[PolicyFiles, Policy]:
    """Read and compile the policies of a directory or bundle: what the gateway does at start and at a reload.

    Raises:
        PolicyLoadError: they cannot be read, do not compile, or there is no policy.
    """
    files = read_policies(path, shown=(shown,) if shown else ())
    return files, compile_policies(files, decision=decision)
