"""From a file to a `Configuration`: find it, read it, check every key, resolve what it refers to.

The order matters for the reader of an error: first TOML itself, then unknown keys (with the nearest known one), then keys
of features that this version does not have, then values, then what only shows when tables are seen together.
"""

import base64
import difflib
import hashlib
import ipaddress
import json
import math
import os
import re
import shutil
import string
import sysconfig
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qs, parse_qsl, urlsplit

import platformdirs
from pydantic import BaseModel, ValidationError

from gateway.config import document as doc
from gateway.config.positions import Path as KeyPath
from gateway.config.positions import line_of, lines_of_keys
from gateway.config.secrets import ERASED, REGISTRY, Secret, UnresolvedReference, has_reference, looks_secret, resolve
from gateway.config.settings import (
    LOCAL_AGENT,
    AgentSettings,
    BreakerSettings,
    Configuration,
    NotifySettings,
    OperatorSettings,
    PolicySettings,
    RetrySettings,
    ServerSettings,
    StoreSettings,
    ToolSettings,
    key_digest,
)
from gateway.config.types import AGENT_NAME, SERVER_NAME, ItemGlob, ToolGlob, glob_matches
from gateway.model.call import Risk
from gateway.model.errors import ConfigurationError

FILE_NAME = "servers.toml"
RESERVED_SERVERS = frozenset({"gateway"})
RESERVED_AGENTS = frozenset({"local"})
LEAST_KEY_BITS = 128
NO_KEY = "-"
"""Stands for the digest of a key that was not resolved; no key has it."""

_T = TypeVar("_T")


class InvalidConfiguration(ConfigurationError):
    """A file with more than one fault: itself the first, `others` the rest, in the order of the file."""

    others: tuple[ConfigurationError, ...] = ()


def user_directory() -> Path:
    """Where a user's own `servers.toml` lives when nothing else is named (`~/.config/mcp-execution-gateway` on Linux)."""
    return Path(platformdirs.user_config_dir("mcp-execution-gateway", appauthor=False))


def discover(named: str | os.PathLike[str] | None = None) -> Path:
    """The configuration file to use: the one named, `$GATEWAY_CONFIG`, `./servers.toml`, the user's.

    Raises:
        ConfigurationError: there is none.
    """
    if named is not None:
        return Path(named)
    if from_environment := os.environ.get("GATEWAY_CONFIG"):
        return Path(from_environment)
    user = user_directory() / FILE_NAME
    for candidate in (Path(FILE_NAME), user):
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        f"there is no configuration: neither ./{FILE_NAME} nor {user}",
        mend="`gateway init` writes one, --config PATH names one",
    )


def load(path: str | os.PathLike[str], *, to_look: bool = False) -> Configuration:
    """Read, check and resolve a configuration. Blocks: reads files and may run `${exec:}` commands.

    Args:
        to_look: for commands that only look at a gateway, or talk to a running one. They are run in another shell than the
            gateway, where its variables may not be set and a password manager should not be asked: references are resolved
            as far as that is cheap (so that output can be redacted), and one that cannot be is no fault. What comes out
            must not start or authenticate anything.

    Raises:
        InvalidConfiguration: the file cannot be used; one line a fault.
    """
    shown = os.fspath(path)
    file = Path(os.path.abspath(Path(shown).expanduser()))
    try:
        raw = file.read_bytes()
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidConfiguration("it is not UTF-8 text", file=shown, line=line, mend="save it as UTF-8") from None
    except OSError as error:
        mend = "`gateway init` writes one" if isinstance(error, FileNotFoundError) else ""
        raise InvalidConfiguration(f"cannot be read: {error.strerror}", file=shown, mend=mend) from None
    return _Loader(shown, file, text, hashlib.sha256(raw).hexdigest(), to_look=to_look).load()


def loads(text: str, file: str | os.PathLike[str] = FILE_NAME, *, to_look: bool = False) -> Configuration:
    """The same from text, as if it stood in `file` (which need not exist)."""
    shown = os.fspath(file)
    absolute = Path(os.path.abspath(shown))
    return _Loader(shown, absolute, text, hashlib.sha256(text.encode()).hexdigest(), to_look=to_look).load()


def shipped_policies() -> Path:
    """The policies that come with the package (in a checkout: the repository's)."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "_policies"
    return shipped if shipped.is_dir() else package.parent / "policies"


def search_path() -> str:
    """The PATH in which commands are looked up: the process's own, then the directory of the gateway's own programs.

    Desktop clients start programs with next to no PATH; tool servers installed beside the gateway are found even so.
    """
    entries = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    scripts = sysconfig.get_path("scripts")
    return os.pathsep.join([*entries, *([scripts] if scripts not in entries else [])])


def find_command(command: str, path: str | None = None) -> str | None:
    """The absolute path of a server's command, or None where it cannot be found or is not executable.

    Args:
        command: `ServerSettings.command`.
        path: PATH to search; absent: `search_path()`.
    """
    return shutil.which(command, path=path if path is not None else search_path())


def is_loopback(host: str) -> bool:
    """Is `host` an address that only this machine reaches?"""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_listen(configuration: Configuration, host: str) -> None:
    """Refuse to listen on `host` where nobody would need a key (CONTRACT 3, principals).

    Raises:
        ConfigurationError: the host is not a loopback address and there is no `[agents]`.
    """
    if configuration.local_only and not is_loopback(host):
        raise ConfigurationError(
            f"{host!r} is not a loopback address, and without [agents] everybody who reaches it could call",
            file=os.fspath(configuration.file),
            key="listen.host",
            mend='add [agents.NAME] with a key, or listen on "127.0.0.1"',
        )


def key_bits(key: str) -> float:
    """How many bits of chance a key can hold at most, from its length and the characters it uses."""
    classes = (
        (string.hexdigits, 4.0),
        (string.ascii_lowercase + string.digits, math.log2(36)),
        (string.ascii_letters + string.digits + "-_+/=.", 6.0),
    )
    bits = next((bits for alphabet, bits in classes if set(key) <= set(alphabet)), 6.5)
    # Few different characters: a repeated pattern. Random text of 128 bits practically never has so few.
    return len(key) * min(bits, math.log2(max(len(set(key)), 1))) if len(set(key)) < 8 else len(key) * bits


class _Loader:
    """One file's way to a `Configuration`. Collects faults, so that `check` can name them all."""

    def __init__(self, shown: str, file: Path, text: str, sha256: str, *, to_look: bool) -> None:
        self.to_look = to_look
        self.shown, self.file, self.text, self.sha256 = shown, file, text, sha256
        self.directory = file.parent
        self.lines: dict[KeyPath, int] = {}
        self.errors: list[InvalidConfiguration] = []
        self.warnings: list[str] = []

    # -- faults ----------------------------------------------------------------------------------------------------

    def fault(self, path: Sequence[str | int], message: str, mend: str = "") -> None:
        line = line_of(self.lines, tuple(path))
        self.errors.append(
            InvalidConfiguration(
                _printable(message), file=self.shown, line=line, key=_printable(written(path)), mend=_printable(mend)
            )
        )

    def warn(self, path: Sequence[str | int], message: str) -> None:
        line = line_of(self.lines, tuple(path))
        self.warnings.append(_printable(f"{self.shown}{f':{line}' if line else ''}: {written(path)}: {message}"))

    def stop_if_faulty(self) -> None:
        if self.errors:
            self._raise()

    def _raise(self) -> NoReturn:
        ordered = sorted(self.errors, key=lambda error: error.line or 0)
        first = ordered[0]
        first.others = tuple(ordered[1:])
        raise first

    # -- steps -----------------------------------------------------------------------------------------------------

    def load(self) -> Configuration:
        data = self._parse()
        self.lines = lines_of_keys(self.text)
        self._unknown_keys(doc.Document, data, ())
        self._later_sections(data)
        self.stop_if_faulty()
        document = self._validate(data)
        self._names(document)
        self._listen(document)
        store = self._store(document)
        counters = self._counters(document)
        policy = self._policy(document)
        servers = {name: self._server(name, table, document.defaults) for name, table in document.servers.items()}
        agents, operators = self._principals(document)
        notify = self._notify(document)
        self._together(document, operators)
        self.stop_if_faulty()
        self._exposed(servers, store, policy)
        assert store is not None
        assert counters is not None
        assert policy is not None
        return Configuration(
            file=self.file,
            text=self.text,
            sha256=self.sha256,
            document=document,
            store=store,
            counters=counters,
            policy=policy,
            servers=types.MappingProxyType(servers),
            agents=types.MappingProxyType(agents if document.agents is not None else {"local": LOCAL_AGENT}),
            local_only=document.agents is None,
            operators=types.MappingProxyType(operators),
            reload=document.gateway.reload or ("operator" if document.operators is not None else "watch"),
            notify=notify,
            warnings=tuple(self.warnings),
        )

    def _parse(self) -> dict[str, Any]:
        try:
            parsed = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
            message = re.sub(r"\s*\(at .*\)$", "", str(error))
            line = int(place[1]) if place else self.text.count("\n") + 1
            column = f", column {place[2]}" if place else ""
            raise InvalidConfiguration(f"not TOML: {message}{column}", file=self.shown, line=line) from None
        return typing.cast(dict[str, Any], _tuples(parsed))

    def _unknown_keys(self, model: type[BaseModel], data: Any, path: KeyPath) -> None:
        if not isinstance(data, Mapping):
            return
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        for key, value in data.items():
            here = (*path, key)
            if key not in fields:
                self.fault(here, "unknown key", _nearest(key, list(fields)))
                continue
            for inner, place, item in nested_models(fields[key].annotation, value, here):
                self._unknown_keys(inner, item, place)

    def _later_sections(self, data: Mapping[str, Any]) -> None:
        for path, section in doc.inactive_keys(data):
            name, _, scheme = section.partition("=")
            what = f"{scheme}: is" if scheme else f"{header(name)} is"
            self.fault(path, f"{what} not available in this version", "remove it: it would do nothing")

    def _validate(self, data: Mapping[str, Any]) -> doc.Document:
        try:
            return doc.Document.model_validate(data)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                path = tuple(part for part in problem["loc"] if not _is_union_label(part))
                self.fault(path, *_explained(problem))
            self._raise()

    def _names(self, document: doc.Document) -> None:
        for name, table in document.servers.items():
            if not SERVER_NAME.fullmatch(name):
                self.fault(
                    ("servers", name),
                    f"{name!r} cannot name a server",
                    "use 1 to 31 of a-z, 0-9 and -, beginning with a letter or digit",
                )
            elif name in RESERVED_SERVERS:
                self.fault(("servers", name), f"the name {name!r} is the gateway's own", "choose another")
            for pattern in table.tools:
                if "/" in pattern:
                    self.fault(
                        ("servers", name, "tools", pattern),
                        "a tool's name has no server in it here",
                        f"write {pattern.partition('/')[2]!r}",
                    )
        for section in ("agents", "operators"):
            for name in getattr(document, section) or {}:
                if not AGENT_NAME.fullmatch(name):
                    mend = "use 1 to 64 of letters, digits and . _ @ -, beginning with a letter or digit"
                    self.fault((section, name), f"{name!r} cannot name one of {section}", mend)
                elif section == "agents" and name in RESERVED_AGENTS:
                    self.fault(
                        (section, name), f"the name {name!r} is that of the agent without a key", "choose another"
                    )
        template = document.gateway.tool_names
        literal = re.sub(r"\{(server|tool)\}", "", template)
        if "{tool}" not in template or "{" in literal or "}" in literal:
            self.fault(
                ("gateway", "tool_names"),
                f"{_as_toml(template)} is no template",
                'write "{server}__{tool}" or "{tool}"',
            )
        elif "{server}" not in template and len(document.servers) > 1:
            self.fault(
                ("gateway", "tool_names"),
                f"{_as_toml(template)} does not tell the tools of {len(document.servers)} servers apart",
                'write "{server}__{tool}"',
            )
        elif not re.fullmatch(r"[A-Za-z0-9_.-]*", literal):
            self.fault(
                ("gateway", "tool_names"), "tool names are of A-Z, a-z, 0-9, _, . and -", "drop what else is there"
            )

    def _listen(self, document: doc.Document) -> None:
        if document.agents is None and not is_loopback(document.listen.host):
            self.fault(
                ("listen", "host"),
                f"{document.listen.host!r} is not a loopback address, and without [agents] everybody who reaches it could call",
                'add [agents.NAME] with a key, or listen on "127.0.0.1"',
            )

    def _resolved(self, path: KeyPath, text: str) -> Secret | None:
        """A reference whose failure is fatal."""
        try:
            return resolve(text, directory=self.directory, name=str(path[-1]), run=not self.to_look)
        except UnresolvedReference as error:
            self.fault(path, str(error), "set it, or write another reference")
            return None

    def _store(self, document: doc.Document) -> StoreSettings | None:
        path = ("gateway", "store")
        if (secret := self._resolved(path, document.gateway.store)) is None:
            return None
        text = secret.reveal()
        if text == "memory:":
            return StoreSettings(scheme="memory")
        if text.startswith("sqlite:") and (name := text.removeprefix("sqlite:").removeprefix("//")):
            return StoreSettings(scheme="sqlite", path=self._path(name))
        if re.match(r"postgres(ql)?://", text):
            return StoreSettings(scheme="postgresql", url=secret)
        self.fault(
            path,
            f"{_as_toml(document.gateway.store)} is no store",
            'write "sqlite:gateway.db", "postgresql://…" or "memory:"',
        )
        return None

    def _counters(self, document: doc.Document) -> Secret | None:
        path = ("gateway", "counters")
        if self.to_look and has_reference(document.gateway.counters):
            return Secret("", shown=document.gateway.counters)
        if (secret := self._resolved(path, document.gateway.counters)) is None:
            return None
        if secret.reveal() != "memory:" and not re.match(r"rediss?://", secret.reveal()):
            self.fault(path, f"{_as_toml(document.gateway.counters)} counts nothing", 'write "memory:" or "redis://…"')
            return None
        return secret

    def _policy(self, document: doc.Document) -> PolicySettings | None:
        table = document.policy
        if not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", table.decision):
            self.fault(("policy", "decision"), f"{table.decision!r} is no path", 'write it as "gateway/decision"')
        live = self._engine(("policy", "engine"), table.engine, table)
        if table.shadow is None or live is None:
            return live
        shadow = self._engine(("policy", "shadow"), table.shadow, table)
        if shadow is None:
            return None
        return PolicySettings(
            scheme=live.scheme, path=live.path, url=live.url, shipped=live.shipped,
            decision=live.decision, timeout_seconds=live.timeout_seconds, shadow=shadow,
        )  # fmt: skip

    def _engine(self, path: KeyPath, engine: str | None, table: doc.PolicyTable) -> PolicySettings | None:
        common: dict[str, Any] = {"decision": table.decision, "timeout_seconds": table.timeout_seconds}
        if engine is None:
            beside = self.directory / "policies"
            shipped = not beside.is_dir()
            return PolicySettings(
                scheme="embedded", path=shipped_policies() if shipped else beside, shipped=shipped, **common
            )
        if self.to_look and has_reference(engine):
            return PolicySettings(scheme="opa", url=Secret("", shown=engine), **common)
        if (secret := self._resolved(path, engine)) is None:
            return None
        text = secret.reveal()
        if text.startswith("embedded:") and (name := text.removeprefix("embedded:")):
            where = self._path(name)
            if not where.exists():
                self.fault(path, f"there is no {name!r}", "`gateway init` writes policies to begin with")
                return None
            return PolicySettings(scheme="embedded", path=where, **common)
        if text.startswith(("opa+http://", "opa+https://")):
            url = text.removeprefix("opa+")
            pushed = None
            if "policies" in parse_qs(urlsplit(url).query).get("push", []):
                pushed = self.directory / "policies"
                if not pushed.is_dir():
                    self.fault(path, "there is no 'policies' to push", "`gateway init` writes policies to begin with")
                    return None
            return PolicySettings(
                scheme="opa",
                path=pushed,
                url=Secret(url, shown=_without_userinfo(url if secret.shown == ERASED else str(secret))),
                **common,
            )
        self.fault(
            path, f"{_as_toml(engine)} is no policy engine", 'write "embedded:policies" or "opa+http://127.0.0.1:8181"'
        )
        return None

    def _path(self, name: str) -> Path:
        return Path(os.path.abspath(self.directory / Path(name).expanduser()))

    # -- servers ---------------------------------------------------------------------------------------------------

    def _server(self, name: str, table: doc.ServerTable, defaults: doc.DefaultsTable) -> ServerSettings:
        path: KeyPath = ("servers", name)
        if (table.command is None) == (table.url is None):
            both = table.command is not None
            self.fault(
                (*path, "url") if both else path,
                "has both command and url" if both else "has neither command nor url",
                "keep one of them" if both else 'add command = "…" (a program on stdio) or url = "https://…"',
            )
        for key in ("args", "env", "cwd") if table.url is not None and table.command is None else ():
            if getattr(table, key):
                self.fault((*path, key), "only a server with a command has this", "remove it")
        if table.command is not None and table.headers:
            self.fault((*path, "headers"), "only a server with a url has this", "pass secrets in env")
        if table.transport is not None and (table.transport == "stdio") != (table.command is not None):
            self.fault(
                (*path, "transport"),
                f'"{table.transport}" does not go with {"command" if table.command is not None else "url"}',
                'write "http" or "sse" with url, "stdio" with command',
            )
        for key, values in (("command", (table.command or "",)), ("args", table.args)):
            for index, value in enumerate(values):
                if has_reference(value) and re.search(r"(?<!\$)\$\{(env|file|exec):", value):
                    self.fault(
                        (*path, key) if key == "command" else (*path, key, index),
                        "a reference is not replaced here, where every user of this machine could read it (ps)",
                        "pass it in env",
                    )
        disabled: list[str] = []
        env = {key: self._optional((*path, "env", key), value, disabled) for key, value in table.env.items()}
        headers = {
            key: self._optional((*path, "headers", key), value, disabled) for key, value in table.headers.items()
        }
        url = None if table.url is None else self._url((*path, "url"), table.url, disabled)
        transport = table.transport or ("stdio" if table.command is not None else "http")
        command = table.command
        if command is not None and ("/" in command or (os.sep != "/" and os.sep in command)):
            command = os.fspath(self._path(command))
        own = self._tool_defaults(table, defaults)
        return ServerSettings(
            name=name,
            transport=transport,
            command=command,
            args=table.args,
            env=types.MappingProxyType(env),
            cwd=self._path(table.cwd) if table.cwd is not None else self.directory,
            url=url,
            headers=types.MappingProxyType(headers),
            roots=tuple(
                root if re.match(r"[a-z][a-z0-9+.-]*://", root) else os.fspath(self._path(root)) for root in table.roots
            ),
            risk=None if table.risk is None else Risk(table.risk),
            trust_annotations=table.trust_annotations,
            isolation=table.isolation or ("session" if transport == "stdio" else "principal"),
            asks=frozenset(table.asks),
            allow=None if table.allow is None else tuple(ItemGlob.parse(glob) for glob in table.allow),
            deny=tuple(ItemGlob.parse(glob) for glob in table.deny),
            max_concurrency=_first(table.max_concurrency, defaults.max_concurrency),
            defaults=own,
            tools=types.MappingProxyType({key: self._tool(tool, own) for key, tool in table.tools.items()}),
            disabled_reason="; ".join(disabled) or None,
        )

    def _optional(self, path: KeyPath, text: str, disabled: list[str]) -> Secret:
        """A reference whose failure disables the server and nothing else."""
        try:
            return resolve(text, directory=self.directory, name=str(path[-1]), run=not self.to_look)
        except UnresolvedReference as error:
            if self.to_look:
                return Secret("", shown=text)
            disabled.append(f"{written(path[2:])}: {error}")
            self.warn(path, f"{error}; the server {path[1]} is disabled")
            return Secret("", shown=text)

    def _url(self, path: KeyPath, text: str, disabled: list[str]) -> Secret:
        failed = len(disabled)
        secret = self._optional(path, text, disabled)
        unknown = self.to_look and not secret.reveal()
        if len(disabled) == failed and not unknown and not re.match(r"https?://[^/\s]", secret.reveal()):
            self.fault(path, "is no http:// or https:// URL", 'write it as "https://host/mcp"')
        if userinfo := re.match(r"[a-z]+://([^/@\s]*:([^/@\s]+))@", secret.reveal()):
            REGISTRY.add(userinfo[2])
            REGISTRY.add(base64.b64encode(userinfo[1].encode()).decode())  # as the Authorization header has it
        for name, value in parse_qsl(secret.reveal().partition("?")[2]):
            if looks_secret(name):
                REGISTRY.add(value)
        return Secret(secret.reveal(), shown=_without_userinfo(text))

    def _tool_defaults(self, table: doc.ServerTable, defaults: doc.DefaultsTable) -> ToolSettings:
        return ToolSettings(
            timeout_seconds=_first(table.timeout_seconds, defaults.timeout_seconds),
            retries=_retries(_first(table.retries, defaults.retries)),
            breaker=_breaker(_first(table.breaker, defaults.breaker)),
            max_request_bytes=_first(table.max_request_bytes, defaults.max_request_bytes),
            max_result_bytes=_first(table.max_result_bytes, defaults.max_result_bytes),
            undeclared_arguments=_first(table.undeclared_arguments, defaults.undeclared_arguments),
            validate_results=_first(table.validate_results, defaults.validate_results),
        )

    def _tool(self, tool: doc.ToolTable, server: ToolSettings) -> ToolSettings:
        return ToolSettings(
            risk=None if tool.risk is None else Risk(tool.risk),
            idempotent=tool.idempotent,
            timeout_seconds=_first(tool.timeout_seconds, server.timeout_seconds),
            approval_hold=tool.approval == "hold",
            cost=tool.cost,
            serialize_by=tool.serialize_by,
            retries=server.retries if tool.retries is None else _retries(tool.retries),
            breaker=server.breaker if tool.breaker is None else _breaker(tool.breaker),
            max_request_bytes=_first(tool.max_request_bytes, server.max_request_bytes),
            max_result_bytes=_first(tool.max_result_bytes, server.max_result_bytes),
            undeclared_arguments=_first(tool.undeclared_arguments, server.undeclared_arguments),
            validate_results=_first(tool.validate_results, server.validate_results),
        )

    # -- principals ------------------------------------------------------------------------------------------------

    def _principals(self, document: doc.Document) -> tuple[dict[str, AgentSettings], dict[str, OperatorSettings]]:
        owners: dict[str, str] = {}
        agents: dict[str, AgentSettings] = {}
        operators: dict[str, OperatorSettings] = {}
        for name, agent in (document.agents or {}).items():
            if digest := self._key(("agents", name), agent.key, agent.key_sha256, owners):
                agents[name] = AgentSettings(
                    name=name,
                    key_sha256=digest,
                    roles=agent.roles,
                    servers=agent.servers,
                    tools=None if agent.tools is None else tuple(ToolGlob.parse(glob) for glob in agent.tools),
                    approver=agent.approver,
                )
        for name, operator in (document.operators or {}).items():
            if digest := self._key(("operators", name), operator.key, operator.key_sha256, owners):
                operators[name] = OperatorSettings(
                    name=name, key_sha256=digest, role=operator.role, groups=operator.groups
                )
        return agents, operators

    def _key(self, path: KeyPath, key: str | None, digest: str | None, owners: dict[str, str]) -> str | None:
        mend = "`openssl rand -base64 32` makes one"
        if (key is None) == (digest is None):
            both = key is not None
            self.fault(path, "has both key and key_sha256" if both else "has no key", "give one of key and key_sha256")
            return None
        if key is not None:
            if not has_reference(key):
                self.warn((*path, "key"), "the key itself stands in the file; write key_sha256, or a reference")
            if self.to_look:
                return self._key_to_look_at((*path, "key"), key)
            if (secret := self._resolved((*path, "key"), key)) is None:
                return None
            if key_bits(secret.reveal()) < LEAST_KEY_BITS:
                self.fault((*path, "key"), f"a key has at least {LEAST_KEY_BITS} bits of chance", mend)
                return None
            REGISTRY.add(secret.reveal())
            digest = key_digest(secret.reveal())
        assert digest is not None
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            self.fault(
                (*path, "key_sha256"),
                "is not a SHA-256 in hex (64 digits)",
                'printf %s "$KEY" | sha256sum prints it',
            )
            return None
        digest = digest.lower()
        if (owner := owners.setdefault(digest, written(path))) != written(path):
            self.fault(path, f"has the same key as {owner}", "give everyone their own")
            return None
        return digest

    def _key_to_look_at(self, path: KeyPath, key: str) -> str:
        """A key's digest where that is cheap to know, else one that no key has."""
        try:
            secret = resolve(key, directory=self.directory, name=str(path[-1]), run=False)
        except UnresolvedReference:
            return NO_KEY
        REGISTRY.add(secret.reveal())
        return key_digest(secret.reveal())

    def _notify(self, document: doc.Document) -> tuple[NotifySettings, ...]:
        """`[[approvals.notify]]`. What cannot be resolved is fatal: nobody would be told of what waits for them."""
        found: list[NotifySettings] = []
        for index, table in enumerate(document.approvals.notify):
            path = ("approvals", "notify", index)
            if self.to_look:
                continue
            url, secret = self._resolved((*path, "url"), table.url), self._resolved((*path, "secret"), table.secret)
            if url is None or secret is None:
                continue
            if not re.match(r"https?://[^/\s]", url.reveal()):
                self.fault((*path, "url"), "is no http:// or https:// URL", 'write it as "https://host/path"')
            if not is_webhook_secret(secret.reveal()):
                self.fault(
                    (*path, "secret"),
                    "is no Standard Webhooks secret",
                    'write whsec_ and base64 of 32 random bytes: echo "whsec_$(openssl rand -base64 32)" makes one',
                )
            REGISTRY.add(secret.reveal())
            found.append(
                NotifySettings(
                    number=index + 1,
                    url=Secret(url.reveal(), shown=_without_userinfo(table.url)),
                    secret=Secret(secret.reveal()),
                    format=table.format,
                    payload=table.payload,
                    operator=table.operator,
                )
            )
        return tuple(found)

    def _together(self, document: doc.Document, operators: Mapping[str, OperatorSettings]) -> None:
        for name, agent in (document.agents or {}).items():
            for pattern in agent.servers or ():
                if not any(
                    ToolGlob(pattern, ItemGlob("tool", "*")).matches(server, "x") for server in document.servers
                ):
                    self.warn(("agents", name, "servers"), f"{pattern!r} names no server of this file")
            if agent.approver is not None and agent.approver not in (document.operators or {}):
                self.fault(
                    ("agents", name, "approver"),
                    f"there is no operator {agent.approver!r}",
                    _nearest(agent.approver, list(document.operators or {})),
                )
            elif (known := operators.get(agent.approver or "")) is not None and known.role == "viewer":
                self.warn(
                    ("agents", name, "approver"), f"{agent.approver!r} has the role viewer, so nobody is ever asked"
                )
        for index, notify in enumerate(document.approvals.notify):
            if notify.operator is not None and notify.operator not in (document.operators or {}):
                self.fault(
                    ("approvals", "notify", index, "operator"),
                    f"there is no operator {notify.operator!r}",
                    _nearest(notify.operator, list(document.operators or {})),
                )
        if document.approvals.on_expiry == "approve":
            self.warn(("approvals", "on_expiry"), "calls of risk read are approved by nobody when their time is up")
        for index, interrupt in enumerate(document.interrupts):
            watched = interrupt.when.model_dump(exclude_none=True, exclude={"within"})
            if len(watched) != 1:
                self.fault(
                    ("interrupts", index, "when"),
                    f"watches for {' and '.join(watched) or 'nothing'}",
                    "name one thing, in an interrupt each",
                )
            if any(other.name == interrupt.name for other in document.interrupts[:index]):
                self.fault(("interrupts", index, "name"), f"{interrupt.name!r} is there twice", "choose another")
        self._limits_that_meet_nothing(document)
        for index, quota in enumerate(document.quotas):
            if (quota.limit is None) != (quota.window is None):
                self.fault(("quotas", index), "limit and window belong together", 'write limit = 100, window = "1h"')
            elif all(value is None for value in (quota.limit, quota.in_flight, quota.wall_seconds, quota.budget)):
                self.fault(
                    ("quotas", index), "limits nothing", "add limit and window, in_flight, wall_seconds or budget"
                )
        for name, table in document.servers.items():
            for key, value in table.env.items():
                if looks_secret(key) and value and not has_reference(value):
                    self.warn(
                        ("servers", name, "env", key), "a secret stands in the file; write ${env:NAME} or ${file:PATH}"
                    )
            for key, value in table.headers.items():
                if looks_secret(key) and value and not has_reference(value):
                    self.warn(
                        ("servers", name, "headers", key),
                        "a secret stands in the file; write ${env:NAME} or ${file:PATH}",
                    )

    def _limits_that_meet_nothing(self, document: doc.Document) -> None:
        """A limit whose globs name nothing that exists protects from nothing, and its author believes otherwise."""
        agents = list(document.agents) if document.agents is not None else [LOCAL_AGENT.name]
        roles = [role for agent in (document.agents or {}).values() for role in agent.roles] or list(LOCAL_AGENT.roles)
        for index, quota in enumerate(document.quotas):
            for key, glob, known in (
                ("agent", quota.match.agent, agents),
                ("role", quota.match.role, roles),
                ("risk", quota.match.risk, [str(risk) for risk in Risk]),
                (
                    "tool",
                    None if quota.match.tool is None else ToolGlob.parse(quota.match.tool).server,
                    document.servers,
                ),
            ):
                if glob is not None and not any(glob_matches(glob, name) for name in known):
                    what = "server" if key == "tool" else key
                    self.warn(
                        ("quotas", index, "match", key), f"{_as_toml(glob)} names no {what}: this quota never applies"
                    )
        for index, interrupt in enumerate(document.interrupts):
            for position, pattern in enumerate(interrupt.when.sequence or ()):
                if not any(glob_matches(ToolGlob.parse(pattern).server, name) for name in document.servers):
                    self.warn(
                        ("interrupts", index, "when", "sequence", position),
                        f"{_as_toml(pattern)} names no server: this interrupt never happens",
                    )
        for name, table in document.servers.items():
            for tool, settings in table.tools.items():
                path = settings.serialize_by
                if path is not None and not re.fullmatch(r"arguments(\.[^.\s]+)+", path):
                    self.fault(
                        ("servers", name, "tools", tool, "serialize_by"),
                        f"{_as_toml(path)} is no path into the arguments",
                        'write it as "arguments.repo_path"',
                    )

    def _exposed(
        self, servers: Mapping[str, ServerSettings], store: StoreSettings | None, policy: PolicySettings | None
    ) -> None:
        """Warn of a tool server whose directories hold what decides over it: it could write its own permission."""
        guarded = {"the configuration": self.file}
        if policy is not None and policy.path is not None and not policy.shipped:
            guarded["the policies"] = policy.path
        if store is not None and store.path is not None:
            guarded["the store"] = store.path
        for match in re.finditer(r"\$\{file:([^}]+)\}", self.text):
            guarded.setdefault("a key", self._path(match[1].strip()))
        for server in servers.values():
            places = [("roots", root) for root in server.roots] + [("args", arg) for arg in server.args]
            for key, place in places:
                if not os.path.isabs(place):
                    continue
                root = os.path.realpath(place)
                inside = [what for what, path in guarded.items() if Path(os.path.realpath(path)).is_relative_to(root)]
                if inside:
                    self.warn(
                        ("servers", server.name, key),
                        f"{place} contains {' and '.join(inside)}: this tool server could change what decides over it",
                    )


def is_webhook_secret(text: str) -> bool:
    """Is it `whsec_` and base64 of 24 to 64 bytes (Standard Webhooks)?"""
    try:
        return text.startswith("whsec_") and 24 <= len(base64.b64decode(text[6:], validate=True)) <= 64
    except ValueError:
        return False


def _first(*values: _T | None) -> _T:
    return next(value for value in values if value is not None)


def _retries(table: doc.RetriesTable) -> RetrySettings:
    return RetrySettings(**table.model_dump())


def _breaker(table: doc.BreakerTable) -> BreakerSettings:
    return BreakerSettings(**table.model_dump())


def _tuples(value: Any) -> Any:
    """Lists as tuples, so that frozen models hold nothing that can change."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _without_userinfo(url: str) -> str:
    """A URL as it may be shown: without the user and password in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", url)


def nested_models(annotation: Any, value: Any, path: KeyPath) -> Iterator[tuple[type[BaseModel], KeyPath, Any]]:
    """The models inside a field's type, each with the part of `value` it describes and that part's path."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path, value
    elif origin is typing.Annotated:
        yield from nested_models(arguments[0], value, path)
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from nested_models(argument, value, path)
    elif origin is tuple and isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from nested_models(arguments[0], item, (*path, index))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        for key, item in value.items():
            yield from nested_models(arguments[1], item, (*path, key))


def written(path: Sequence[str | int]) -> str:
    """A key as a person writes it: `servers.git.tools."a b".risk`, `quotas[0].limit`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            name = (
                part
                if re.fullmatch(r"[A-Za-z0-9_-]+", part)
                else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            )
            out += ("." if out else "") + name
    return out


def _printable(text: str) -> str:
    """One line that a terminal shows as it is: what is written in a file may contain anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def header(section: str) -> str:
    """A section as it stands in the file: `[[quotas]]`, `[pools]`, `policy.shadow`."""
    if "." in section:
        return section.replace("*", "NAME")
    return f"[[{section}]]" if section in {"quotas", "interrupts"} else f"[{section}]"


def _nearest(key: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(key.lower(), [name.lower() for name in known], n=1, cutoff=0.5)
    if found:
        return f'did you mean "{next(name for name in known if name.lower() == found[0])}"?'
    return f"known here: {', '.join(known)}" if known else ""


def _is_union_label(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"float", "int", "str", "Rolling", "Calendar"})


def _explained(problem: Any) -> tuple[str, str]:
    """A validation problem as (what is wrong, the mend)."""
    value, context = problem["input"], problem.get("ctx", {})
    shown = _as_toml(value)
    match problem["type"]:
        case "missing":
            return "is required", "add it"
        case "literal_error":
            choices = context["expected"].replace("'", '"')
            return f"{shown} is not one of {choices}", _nearest_choice(value, choices)
        case "value_error":
            return str(context["error"]).partition("; ")[0], str(context["error"]).partition("; ")[2]
        case "string_too_short":
            return "is empty", "write something, or remove the key"
        case "string_pattern_mismatch":
            return f"{shown} is not of the form {context['pattern']}", ""
        case "greater_than":
            return f"{shown} is not more than {context['gt']}", ""
        case "greater_than_equal":
            return f"{shown} is less than {context['ge']}", ""
        case "less_than_equal":
            return f"{shown} is more than {context['le']}", ""
        case kind if kind.endswith("_type") or kind.endswith("_parsing"):
            wanted = {
                "string": "a string", "int": "a whole number", "float": "a number", "bool": "true or false",
                "tuple": "an array", "mapping": "a table", "dict": "a table", "model": "a table",
            }.get(kind.partition("_")[0], kind)  # fmt: skip
            return f"{shown} where {wanted} belongs", f"write {wanted}"
        case _:
            return problem["msg"], ""


def _nearest_choice(value: Any, choices: str) -> str:
    names = re.findall(r'"([^"]+)"', choices)
    found = difflib.get_close_matches(value, names, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f'did you mean "{found[0]}"?' if found else f'write "{names[0]}"' if names else ""


def _as_toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a table" if isinstance(value, Mapping) else "an array" if isinstance(value, tuple) else str(value)
