"""The clients whose configuration files are known: where the files lie and where in them the servers stand.

| client | files | servers under |
|---|---|---|
| `claude-desktop` | `claude_desktop_config.json` of the application | `mcpServers` |
| `claude-code` | `~/.claude.json` (user and, under `projects`, local scope), `.mcp.json` of a project | `mcpServers` |
| `cursor` | `~/.cursor/mcp.json`, `.cursor/mcp.json` of a project | `mcpServers` |
| `vscode` | `mcp.json` of the user's profile, `.vscode/mcp.json` of a project | `servers` |
| any other file | | `mcpServers`, else `servers` |
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.clients import jsonc
from gateway.model.errors import GatewayError

CLIENTS = ("claude-desktop", "claude-code", "cursor", "vscode")


class ClientFileError(GatewayError):
    """A client's file that cannot be read, or that holds no servers where they are expected. One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where clients' files are looked for; tests put their own in."""

    home: Path
    directory: Path
    """The project directory: the working directory."""
    platform: str
    """As `sys.platform`."""
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> "Surroundings":
        return cls(home=Path.home(), directory=Path.cwd(), platform=sys.platform, environment=os.environ)

    def application_data(self) -> Path:
        """Where applications keep their settings on this platform."""
        match self.platform:
            case "darwin":
                return self.home / "Library" / "Application Support"
            case "win32":
                return Path(self.environment.get("APPDATA") or self.home / "AppData" / "Roaming")
            case _:
                return Path(self.environment.get("XDG_CONFIG_HOME") or self.home / ".config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One map of servers: a file, and the keys under which the map stands."""

    client: str
    file: Path
    keys: tuple[str, ...]
    project: bool = False
    """It applies in one project only."""

    def __str__(self) -> str:
        inside = f" ({self.keys[1]})" if len(self.keys) > 2 else ""
        return f"{self.file}{inside}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One server as a client has it."""

    place: Place
    name: str
    raw: Mapping[str, Any]


def servers_key(client: str) -> str:
    """The key that holds the servers in this client's files."""
    return "servers" if client == "vscode" else "mcpServers"


def user_file(client: str, around: Surroundings) -> Path:
    """The file that applies everywhere for this user; `install` writes it."""
    match client:
        case "claude-desktop":
            return around.application_data() / "Claude" / "claude_desktop_config.json"
        case "claude-code":
            return around.home / ".claude.json"
        case "cursor":
            return around.home / ".cursor" / "mcp.json"
        case "vscode":
            return around.application_data() / "Code" / "User" / "mcp.json"
        case _:
            raise ClientFileError(f"{client!r} is no known client; known are {', '.join(CLIENTS)}, or name a file")


def places(client: str, around: Surroundings) -> list[Place]:
    """Every map of servers that this client reads here and that exists; a path stands for itself."""
    if client not in CLIENTS:
        return _places_of_file(Path(client))
    key = servers_key(client)
    project = {"claude-code": ".mcp.json", "cursor": ".cursor/mcp.json", "vscode": ".vscode/mcp.json"}.get(client)
    found: list[Place] = []
    user = user_file(client, around)
    if user.is_file():
        root = read(user)
        found.append(Place(client=client, file=user, keys=(key,)))
        if client == "claude-code":
            projects = root.at(("projects",))
            for member in (projects.members or []) if projects is not None else []:
                if member.value.member(key) is not None:
                    found.append(Place(client=client, file=user, keys=("projects", member.key, key), project=True))
    if project is not None and (around.directory / project).is_file():
        file = around.directory / project
        if file.resolve() != user.resolve():
            found.append(Place(client=client, file=file, keys=(key,), project=True))
    return found


def _places_of_file(file: Path) -> list[Place]:
    if not file.is_file():
        known = ", ".join(CLIENTS)
        raise ClientFileError(f"{file}: no such file, and no known client either; known are {known}")
    root = read(file)
    for key, client in (("mcpServers", "claude-desktop"), ("servers", "vscode")):
        if (node := root.at((key,))) is not None and node.members is not None:
            return [Place(client=client, file=file.absolute(), keys=(key,))]
    raise ClientFileError(f"{file}: it has neither mcpServers nor servers")


def read(file: Path) -> jsonc.Node:
    """The tree of a client's file.

    Raises:
        ClientFileError: it cannot be read or is no JSON object.
    """
    try:
        root = jsonc.parse(file.read_text(encoding="utf-8"))
    except jsonc.JsonError as error:
        raise ClientFileError(f"{file}:{error.line}: not JSON: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClientFileError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if root.members is None:
        raise ClientFileError(f"{file}: it is no JSON object")
    return root


def entries(place: Place) -> Iterator[Entry]:
    """The servers of one map, in its order; what is no object is passed over."""
    node = read(place.file).at(place.keys)
    for name, raw in (node.data() if node is not None and node.members is not None else {}).items():
        if isinstance(raw, dict):
            yield Entry(place=place, name=name, raw=raw)
