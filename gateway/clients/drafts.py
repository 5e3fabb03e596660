"""From a client's server entry to a `[servers.NAME]` table.

Clients write references in their own ways (`${VAR}`, `${VAR:-default}`, `${env:VAR}`, `${input:id}`) and secrets in plain
text. A draft has the gateway's own references, with secrets moved to files of mode 0600 of their own.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.clients.known import Entry, Surroundings
from gateway.config import Configuration, ServerSettings, looks_secret
from gateway.config.types import SERVER_NAME

SECRETS = "secrets"
"""The directory beside `servers.toml` that imported secrets go to."""

_CLIENT_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_TELLTALE = re.compile(
    r"^(sk-|sk_|pk_live|rk_live|gh[pousr]_|github_pat_|glpat-|xox[abposr]-|AKIA|ASIA|AIza|ya29\.|eyJ[\w-]+\.|npm_|pypi-|hf_|dop_v1_|shpat_|SG\.)"
)
_SECRET_IN_URL = re.compile(r"//[^/@\s]+:[^/@\s]+@|[?&][^=&]*(key|token|secret|password)[^=&]*=", re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A tool server to be written into `servers.toml`."""

    name: str
    """As it will be called here."""
    origin: str
    """The name that the client has for it."""
    command: str | None = None
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    """With references."""
    cwd: str | None = None
    url: str | None = None
    """With references."""
    reaches: str | None = None
    """The URL as it is connected to."""
    headers: dict[str, str] = field(default_factory=dict)
    """With references."""
    transport: str | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    """File name under `secrets/` to value."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, one line each."""

    def is_server(self, settings: ServerSettings) -> bool:
        """Would both reach the same tool server?"""
        if self.reaches is not None:
            return settings.url is not None and settings.url.reveal().rstrip("/") == self.reaches.rstrip("/")
        return (
            settings.command is not None
            and Path(settings.command).name == Path(self.command or "").name
            and settings.args == tuple(self.args)
        )


def server_name(name: str, taken: Iterable[str] = ()) -> str:
    """A name of the form that servers have here, as near to `name` as it gets, and not among `taken`."""
    wanted = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:31].rstrip("-") or "server"
    names = {*taken, "gateway"}
    found, number = wanted, 2
    while found in names or not SERVER_NAME.fullmatch(found):
        suffix = f"-{number}"
        found = wanted[: 31 - len(suffix)].rstrip("-") + suffix
        number += 1
    return found


def is_gateway(entry: Entry, configuration: Configuration | None = None) -> bool:
    """Is this entry the gateway itself (`… stdio …`, or the URL that the configuration listens on)? It is never imported."""
    command, args = entry.raw.get("command"), entry.raw.get("args")
    parts = [command, *(args if isinstance(args, list) else [])]
    texts = [part for part in parts if isinstance(part, str)]
    programs = {Path(text).name.removesuffix(".exe").partition("==")[0] for text in texts[:4]}
    if "stdio" in texts and programs & {"gateway", "mcp-execution-gateway"}:
        return True
    if configuration is None:
        return False
    urls = [entry.raw.get("url"), *(texts if command is not None and "mcp-remote" in " ".join(texts) else [])]
    hosts = {"127.0.0.1", "localhost", "[::1]", configuration.listen.host, *configuration.listen.allowed_hosts}
    own = {f"http://{host}:{configuration.listen.port}/mcp" for host in hosts}
    return any(isinstance(url, str) and url.rstrip("/") in own for url in urls)


def draft(entry: Entry, taken: Iterable[str], around: Surroundings) -> Draft:
    """What an entry amounts to here.

    Args:
        taken: names of servers that are already there.

    Raises:
        ValueError: the entry says neither what to start nor where to connect; the text says so.
    """
    raw = entry.raw
    made = Draft(name=server_name(entry.name, taken), origin=entry.name)
    url = _text(raw, "url") or _text(raw, "serverUrl")
    command, args = _text(raw, "command"), [str(arg) for arg in raw.get("args") or []]
    headers = _texts(raw, "headers")
    if command is not None and (remote := _remote(command, args)) is not None:
        url, remote_headers = remote
        command, headers = None, {**headers, **remote_headers}
        made.notes.append("was reached through mcp-remote; the gateway connects itself")
    if command is not None:
        made.command = _plain(command, made, around, entry)
        made.args = [_plain(arg, made, around, entry) for arg in args]
        for arg, before in zip(made.args, [*made.args[:1], *made.args], strict=False):
            if _TELLTALE.match(arg) or (looks_secret(before.lstrip("-")) and before.startswith("-") and before != arg):
                made.notes.append(
                    "a secret seems to stand in its arguments, where every user of this machine can read it"
                )
                break
        environment = {**_env_file(raw, entry, made, around), **_texts(raw, "env")}
        made.env = {key: _reference(key, value, made, around, entry) for key, value in environment.items()}
        cwd = _text(raw, "cwd")
        made.cwd = None if cwd is None else _plain(cwd, made, around, entry)
        return made
    if url is None:
        raise ValueError(f"{entry.place}: {entry.name}: has neither command nor url")
    made.url = _reference("url", url, made, around, entry)
    made.reaches = _expanded(
        url, lambda whole: whole, around, entry, lambda name, default: around.environment.get(name, default or "")
    )
    made.headers = {key: _reference(key, value, made, around, entry) for key, value in headers.items()}
    kind = raw.get("type") or raw.get("transport")
    made.transport = "sse" if kind == "sse" or (kind is None and url.rstrip("/").endswith("/sse")) else None
    if "headersHelper" in raw:
        made.notes.append("its headersHelper was left out; write headers with ${exec:COMMAND}")
    if "auth" in raw or "oauth" in raw:
        made.notes.append("its OAuth settings were left out; the gateway sends the headers it is given")
    return made


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) and value else None


def _texts(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    value = raw.get(key)
    return {str(name): str(item) for name, item in value.items() if item is not None} if isinstance(value, dict) else {}


def _remote(command: str, args: Sequence[str]) -> tuple[str, dict[str, str]] | None:
    """The URL and headers of `npx mcp-remote URL --header "K: V"`, the usual bridge of clients without HTTP."""
    if Path(command).name.removesuffix(".cmd") not in {"npx", "bunx", "pnpm", "mcp-remote"}:
        return None
    words = list(args)
    at = next((i for i, word in enumerate(words) if re.fullmatch(r"mcp-remote(@.+)?", word)), None)
    if Path(command).name == "mcp-remote":
        at = -1
    if at is None:
        return None
    url: str | None = None
    headers: dict[str, str] = {}
    rest = iter(words[at + 1 :])
    for word in rest:
        if word == "--header":
            key, _, value = next(rest, "").partition(":")
            headers[key.strip()] = value.strip()
        elif word.startswith(("http://", "https://")) and url is None:
            url = word
        elif word in {"--allow-http", "--debug"} or re.fullmatch(r"\d+", word):
            continue
        elif word == "--transport":
            next(rest, None)
        else:
            return None  # something that only mcp-remote knows (an OAuth client, a proxy): keep it
    return (url, headers) if url is not None else None


def _expanded(
    text: str, unknown: Callable[[str], str], around: Surroundings, entry: Entry, env: Callable[[str, str | None], str]
) -> str:
    """`text` with a client's references replaced, each by what the callables say."""

    def one(match: re.Match[str]) -> str:
        inner = match[1]
        kind, colon, rest = inner.partition(":")
        project = entry.place.file.parent
        project = project.parent if project.name in {".cursor", ".vscode"} else project
        if inner in {"workspaceFolder", "workspaceRoot", "CLAUDE_PROJECT_DIR"}:
            return os.fspath(project)
        if inner == "userHome":
            return os.fspath(around.home)
        if inner in {"pathSeparator", "/"}:
            return os.sep
        if kind == "env" and colon:
            return env(rest, None)
        if kind == "input" and colon:
            return env(re.sub(r"[^A-Za-z0-9]+", "_", rest).upper(), None)
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", inner):
            return env(inner, None)
        if (default := re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*):-(.*)", inner, re.DOTALL)) is not None:
            return env(default[1], default[2])
        return unknown(match[0])

    return _CLIENT_REFERENCE.sub(one, text)


def _plain(text: str, made: Draft, around: Surroundings, entry: Entry) -> str:
    """For commands and arguments, in which the gateway replaces nothing: a reference is replaced now."""

    def env(name: str, default: str | None) -> str:
        value = around.environment.get(name, default)
        if value is None:
            made.notes.append(f"${{{name}}} in its command line is not set here and was left as it is")
            return f"${{{name}}}"
        made.notes.append(f"${{{name}}} in its command line was replaced by its value of now")
        return value

    return _expanded(text, lambda whole: whole, around, entry, env)


def _reference(key: str, text: str, made: Draft, around: Surroundings, entry: Entry) -> str:
    """For env, headers and URLs: the gateway's own references, and secrets by file."""
    referenced = False
    marks: list[str] = []

    def env(name: str, default: str | None) -> str:
        nonlocal referenced
        if default is not None and name not in around.environment:
            return default
        referenced = True
        marks.append(f"${{env:{name}}}")
        if name not in around.environment:
            made.notes.append(f"set the environment variable {name} for {key}")
        return f"\0{len(marks) - 1}\0"

    value = _expanded(text, lambda whole: whole, around, entry, env)
    if (
        not referenced
        and (looks_secret(key) or _TELLTALE.match(value) or _random_looking(value))
        and key != "url"
        and value
    ):
        scheme = re.match(r"(Bearer|Basic|token|Token) +", value)
        prefix, secret = (scheme[0], value[scheme.end() :]) if scheme else ("", value)
        file = f"{made.name}.{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}"
        made.secrets[file] = secret
        return f"{prefix}${{file:{SECRETS}/{file}}}"
    if key == "url" and not referenced and _SECRET_IN_URL.search(value):
        made.secrets[f"{made.name}.url"] = value
        return f"${{file:{SECRETS}/{made.name}.url}}"
    value = value.replace("${", "$${")
    for index, mark in enumerate(marks):
        value = value.replace(f"\0{index}\0", mark)
    return value


def _random_looking(value: str) -> bool:
    """Long, without spaces and path separators, letters and digits mixed: a key rather than a word."""
    return (
        len(value) >= 24
        and re.fullmatch(r"[A-Za-z0-9+=_.-]+", value) is not None
        and len(set(value)) >= 12
        and re.search(r"\d", value) is not None
        and re.search(r"[A-Za-z]", value) is not None
        and not re.fullmatch(r"[\w.-]+\.[a-z]{2,10}", value)
    )


def _env_file(raw: Mapping[str, Any], entry: Entry, made: Draft, around: Surroundings) -> dict[str, str]:
    """The variables of VS Code's `envFile`."""
    named = _text(raw, "envFile")
    if named is None:
        return {}
    path = Path(
        _expanded(
            named, lambda whole: whole, around, entry, lambda name, default: around.environment.get(name, default or "")
        )
    )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        made.notes.append(f"its envFile {path} cannot be read and was left out")
        return {}
    found = {}
    for line in lines:
        if match := re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$", line):
            value = match[2]
            found[match[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return found


def toml_string(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """A bare key where that is possible, else a quoted one."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_string(key)


def toml_array(items: Iterable[str]) -> str:
    return "[" + ", ".join(toml_string(item) for item in items) + "]"


def toml_table(items: Mapping[str, str]) -> str:
    inner = ", ".join(f"{toml_key(key)} = {toml_string(value)}" for key, value in items.items())
    return f"{{ {inner} }}" if inner else "{}"
