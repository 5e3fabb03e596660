"""`gateway install`: the gateway goes into a client's configuration, the servers that it has go out, and back.

Desktop clients start programs in `/` with next to no environment, so everything that is written is absolute, and PATH is
one on which every configured command resolves. Each install keeps the bytes of every file that it changed, in the user's
state directory (mode 0600: clients keep secrets in these files). `undo` puts them back byte for byte; where the client has
changed a file since, only what the install changed is taken back and the client's own changes stay.
"""

import base64
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from gateway import __version__
from gateway.clients import jsonc
from gateway.clients.drafts import draft, is_gateway
from gateway.clients.importing import write_atomically
from gateway.clients.known import (
    CLIENTS,
    ClientFileError,
    Entry,
    Place,
    Surroundings,
    entries,
    places,
    read,
    servers_key,
    user_file,
)
from gateway.config import Configuration, find_command, search_path
from gateway.model.errors import GatewayError

ENTRY = "gateway"
"""What the gateway is called in a client's file."""


class InstallError(GatewayError):
    """An install that cannot be done, or undone; the text is one line with the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """What happens to one file."""

    file: Path
    before: bytes | None
    """None: the file does not exist yet."""
    after: bytes


@dataclass(slots=True, kw_only=True)
class Plan:
    """What an install will do."""

    client: str
    entry: Mapping[str, Any]
    place: Place
    """Where the gateway goes in."""
    changes: list[FileChange] = field(default_factory=list)
    moved: list[Entry] = field(default_factory=list)
    """Servers that go out: the client reaches them through the gateway from now on."""
    direct: list[Entry] = field(default_factory=list)
    """Servers that stay, because the gateway does not have them or `--keep-direct` was given."""


def program(prefix: str = sys.prefix) -> tuple[str, list[str]]:
    """The absolute command that starts this gateway, and its first arguments.

    Args:
        prefix: of the environment that it is installed in. One of `uvx` lies in uv's cache and may be cleaned away any
            time, so a client gets `uvx` itself, with this version.

    Raises:
        InstallError: it is one of `uvx`, which is not on the PATH.
    """
    if "archive-v0" in Path(prefix).parts:
        uvx = shutil.which("uvx")
        if uvx is None:
            raise InstallError(
                "the gateway was started by uvx, which is not on the PATH; put it there, or pip install the gateway"
            )
        return os.path.abspath(uvx), [f"mcp-execution-gateway=={__version__}"]
    beside = Path(sys.executable).parent / ("gateway.exe" if sys.platform == "win32" else "gateway")
    if os.access(beside, os.X_OK):
        return os.fspath(beside), []
    return os.path.abspath(sys.executable), ["-m", "gateway"]


def path_for(configuration: Configuration) -> str:
    """A PATH on which every command of the configuration resolves: their own directories and the system's, no more.

    Raises:
        InstallError: a command that does not resolve even now.
    """
    system = ["/usr/local/bin", "/usr/bin", "/bin"] if os.name == "posix" else []
    found: list[str] = []
    for server in configuration.servers.values():
        if server.command is None:
            continue
        resolved = find_command(server.command, server.env["PATH"].reveal() if "PATH" in server.env else None)
        if resolved is None:
            raise InstallError(
                f"{configuration.file}: servers.{server.name}.command: {server.command!r} is not found; "
                "install it, or write its absolute path"
            )
        for directory in (os.path.dirname(resolved), _interpreter_directory(resolved)):
            if directory and directory not in found and directory not in system:
                found.append(directory)
    return os.pathsep.join([*found, *(entry for entry in system if os.path.isdir(entry))])


def _interpreter_directory(script: str) -> str | None:
    """Where the interpreter of an `#!/usr/bin/env NAME` script lies (npx needs node beside it)."""
    try:
        with open(script, "rb") as stream:
            first = stream.readline(200)
    except OSError:
        return None
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if len(words) >= 2 and os.path.basename(words[0]) == "env":
        name = next((word for word in words[1:] if not word.startswith("-")), None)
        resolved = shutil.which(name, path=search_path()) if name else None
        return os.path.dirname(resolved) if resolved else None
    return None


def plan(
    client: str,
    configuration: Configuration,
    around: Surroundings,
    *,
    agent: str | None = None,
    agent_key: str | None = None,
    keep_direct: bool = False,
) -> Plan:
    """What `install` would do to a client's files; changes nothing.

    Args:
        client: a known client's name, or the path of a file.
        agent, agent_key: with `[agents]`, who connects.

    Raises:
        InstallError, ClientFileError: it cannot be done.
    """
    command, first = program()
    arguments = [*first, "stdio", "--config", os.fspath(configuration.file)]
    environment = {"PATH": path_for(configuration)}
    if not configuration.local_only:
        if agent is None or agent not in configuration.agents:
            known = ", ".join(configuration.agents) or "none"
            raise InstallError(f"{configuration.file} has [agents]; name one with --agent (there: {known})")
        found = configuration.agent_for_key(agent_key) if agent_key else None
        if found is None or found.name != agent:
            raise InstallError(f"GATEWAY_AGENT_KEY is not the key of {agent!r}; set it, the client needs it to connect")
        arguments += ["--agent", agent]
        environment["GATEWAY_AGENT_KEY"] = agent_key or ""
    entry: dict[str, Any] = {"command": command, "args": arguments, "env": environment}
    if client in ("vscode", "claude-code"):
        entry = {"type": "stdio", **entry}
    existing = places(client, around) if client in CLIENTS or Path(client).exists() else []
    place = _target(client, around, existing)
    made = Plan(client=client, entry=entry, place=place)
    texts: dict[Path, str] = {}
    originals: dict[Path, bytes | None] = {}
    for where in [place, *existing]:
        if where.file not in texts:
            raw = where.file.read_bytes() if where.file.exists() else None
            originals[where.file] = raw
            texts[where.file] = "" if raw is None else raw.decode("utf-8")
    for where in existing:
        for item in entries(where):
            if is_gateway(item, configuration):
                if where != place or item.name != ENTRY:
                    texts[where.file] = jsonc.remove_member(texts[where.file], (*where.keys, item.name))
                continue
            if not keep_direct and _configured(item, configuration, around):
                made.moved.append(item)
                texts[where.file] = jsonc.remove_member(texts[where.file], (*where.keys, item.name))
            else:
                made.direct.append(item)
    try:
        texts[place.file] = jsonc.set_member(texts[place.file], (*place.keys, ENTRY), entry)
    except jsonc.JsonError as error:
        raise ClientFileError(f"{place.file}:{error.line}: {error}") from None
    made.changes = [
        FileChange(file=file, before=originals[file], after=text.encode("utf-8"))
        for file, text in texts.items()
        if text.encode("utf-8") != originals[file]
    ]
    return made


def _target(client: str, around: Surroundings, existing: list[Place]) -> Place:
    if client in CLIENTS:
        file = user_file(client, around)
        if file.exists():
            read(file)
        return Place(client=client, file=file, keys=(servers_key(client),))
    if not existing:
        raise ClientFileError(f"{client}: no such file, and no known client either; known are {', '.join(CLIENTS)}")
    return existing[0]


def _configured(entry: Entry, configuration: Configuration, around: Surroundings) -> bool:
    """Does the configuration have the server of this entry?"""
    try:
        made = draft(entry, (), around)
    except ValueError:
        return False
    return any(made.is_server(server) for server in configuration.servers.values())


def still_direct(configuration: Configuration | None, around: Surroundings) -> list[tuple[Entry, bool]]:
    """Every server that a known client reaches without the gateway; with it, whether the gateway has it too."""
    found: list[tuple[Entry, bool]] = []
    for client in CLIENTS:
        for place in places(client, around):
            found += [
                (entry, configuration is not None and _configured(entry, configuration, around))
                for entry in entries(place)
                if not is_gateway(entry, configuration) and entry.raw.get("disabled") is not True
            ]
    return found


# --- carrying it out, and back ------------------------------------------------------------------------------------


def state_directory() -> Path:
    """Where installs are remembered."""
    return Path(platformdirs.user_state_dir("mcp-execution-gateway", appauthor=False)) / "installs"


def carry_out(made: Plan, state: Path) -> list[Path]:
    """Write the plan's changes, each file's former bytes first; returns the backups.

    Raises:
        InstallError: a file changed since the plan was made; nothing was written then.
    """
    for change in made.changes:
        now = change.file.read_bytes() if change.file.exists() else None
        if now != change.before:
            raise InstallError(f"{change.file} has just changed; close the client and try again")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    backups: list[Path] = []
    for change in made.changes:
        if change.before is not None:
            backup = _free(change.file.with_name(f"{change.file.name}.before-gateway-{stamp}"))
            write_atomically(backup, change.before, mode=0o600)
            backups.append(backup)
    record = {
        "version": 1,
        "client": made.client,
        "at": int(time.time()),
        "gateway": {"file": os.fspath(made.place.file), "keys": [*made.place.keys, ENTRY]},
        "moved": [
            {"file": os.fspath(entry.place.file), "keys": [*entry.place.keys, entry.name], "value": entry.raw}
            for entry in made.moved
        ],
        "files": [
            {
                "file": os.fspath(change.file),
                "before": None if change.before is None else base64.b64encode(change.before).decode(),
                "after_sha256": hashlib.sha256(change.after).hexdigest(),
            }
            for change in made.changes
        ],
    }
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(_free(state / f"{time.time_ns():020d}.json"), json.dumps(record, indent=1), mode=0o600)
    for change in made.changes:
        mode = stat.S_IMODE(change.file.stat().st_mode) if change.before is not None else 0o600
        write_atomically(change.file, change.after, mode=mode)
    return backups


def _free(path: Path) -> Path:
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What `undo` did to one file."""

    file: Path
    exactly: bool
    """True: it is what it was, byte for byte. False: the client had changed it, and its changes stay."""
    removed: bool = False
    """The file did not exist before the install and does not any more."""


def undo(client: str, state: Path) -> list[Undone]:
    """Take back the newest install into this client.

    Raises:
        InstallError: there is none.
    """
    path, record = _newest(client, state)
    done: list[Undone] = []
    for item in record["files"]:
        file = Path(item["file"])
        before = None if item["before"] is None else base64.b64decode(item["before"])
        now = file.read_bytes() if file.exists() else None
        if now is None or hashlib.sha256(now).hexdigest() == item["after_sha256"]:
            if before is None:
                file.unlink(missing_ok=True)
                done.append(Undone(file=file, exactly=True, removed=True))
            else:
                mode = stat.S_IMODE(file.stat().st_mode) if now is not None else 0o600
                write_atomically(file, before, mode=mode)
                done.append(Undone(file=file, exactly=True))
            continue
        try:
            text = _without_install(now.decode("utf-8"), os.fspath(file), record)
        except (jsonc.JsonError, UnicodeDecodeError) as error:
            raise InstallError(
                f"{file}: was changed since and is no JSON now ({error}); its backup is beside it"
            ) from None
        write_atomically(file, text, mode=None)
        done.append(Undone(file=file, exactly=False))
    path.unlink()
    return done


def _without_install(text: str, file: str, record: Mapping[str, Any]) -> str:
    if record["gateway"]["file"] == file:
        text = jsonc.remove_member(text, tuple(record["gateway"]["keys"]))
    for moved in record["moved"]:
        if moved["file"] == file and jsonc.parse(text).at(tuple(moved["keys"])) is None:
            text = jsonc.set_member(text, tuple(moved["keys"]), moved["value"])
    return text


def _newest(client: str, state: Path) -> tuple[Path, dict[str, Any]]:
    for path in sorted(state.glob("*.json"), reverse=True) if state.is_dir() else ():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["client"] == client:
            assert isinstance(record, dict)
            return path, record
    raise InstallError(f"there is no install into {client} to undo")


def describe(made: Plan) -> Iterable[str]:
    """The plan in words, a line each."""
    yield f"{made.place}: {ENTRY} goes in"
    for entry in made.moved:
        yield f"{entry.place}: {entry.name} goes out (reached through the gateway)"
    for entry in made.direct:
        yield f"{entry.place}: {entry.name} stays direct"
