"""`gateway import`: a client's servers become tables of `servers.toml`, each tool with a proposed risk.

What a tool does is the server's own claim (its hints), so every risk is marked `# proposed` and shown in a table for a
person to read. Nothing is written before everything could be, and a `servers.toml` that is there is only added to.
"""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.clients.drafts import SECRETS, Draft, draft, is_gateway, toml_array, toml_key, toml_string, toml_table
from gateway.clients.known import Place, Surroundings, entries
from gateway.config import Configuration, loads, risk_from_hints
from gateway.model.call import Risk
from gateway.model.errors import GatewayError

ListTools = Callable[[Configuration, str], Awaitable[Sequence[Mapping[str, Any]]]]
"""Connects to one server of a configuration and lists its tools, raw definitions; `ServerUnreachable` where it cannot."""


class ServerUnreachable(GatewayError):
    """A server could not be asked for its tools; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedTool:
    """One tool and the risk proposed for it."""

    name: str
    risk: Risk
    hints: str
    """The hints that the proposal rests on, in words; `no hints` where the server gave none."""


@dataclass(slots=True, kw_only=True)
class ImportedServer:
    """A server as it will be written."""

    draft: Draft
    place: Place
    tools: list[ProposedTool] = field(default_factory=list)
    unreachable: str | None = None
    """Why it could not be asked for its tools."""


@dataclass(slots=True, kw_only=True)
class Import:
    """What an import found and will write."""

    servers: list[ImportedServer] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(the client's name for it, why)."""


def gather(places: Iterable[Place], configuration: Configuration | None, around: Surroundings) -> Import:
    """The servers of a client that the configuration does not have yet."""
    found = Import()
    known = dict(configuration.servers) if configuration is not None else {}
    for place in places:
        for entry in entries(place):
            taken = [*known, *(server.draft.name for server in found.servers)]
            if is_gateway(entry, configuration):
                found.skipped.append((entry.name, "is the gateway itself"))
                continue
            if entry.raw.get("disabled") is True:
                found.skipped.append((entry.name, "is disabled in the client"))
                continue
            try:
                made = draft(entry, taken, around)
            except ValueError as error:
                found.skipped.append((entry.name, str(error)))
                continue
            same = next((name for name, server in known.items() if made.is_server(server)), None)
            if same is not None:
                found.skipped.append((entry.name, f"is there already, as {same}"))
                continue
            twin = next((other.draft for other in found.servers if _same(other.draft, made)), None)
            if twin is not None:
                found.skipped.append((entry.name, f"is the same as {twin.name}"))
                continue
            found.servers.append(ImportedServer(draft=made, place=place))
    return found


def _same(one: Draft, other: Draft) -> bool:
    return (one.command, one.args, one.url, one.cwd) == (other.command, other.args, other.url, other.cwd)


async def propose(found: Import, list_tools: ListTools) -> None:
    """Connect to each server and propose a risk for each of its tools.

    The servers run from a configuration of their own in a temporary directory, so that secrets are on disk only with
    mode 0600 and nothing stays behind if the import is not carried out.
    """
    import anyio

    with tempfile.TemporaryDirectory(prefix="gateway-import-") as temporary:
        for server in found.servers:
            write_secrets(server.draft.secrets, Path(temporary))
        text = "".join(render(server, for_listing=True) for server in found.servers)
        configuration = loads(text, Path(temporary) / "servers.toml")

        async def one(server: ImportedServer) -> None:
            settings = configuration.servers[server.draft.name]
            try:
                if settings.disabled_reason is not None:
                    raise ServerUnreachable(settings.disabled_reason)
                definitions = await list_tools(configuration, server.draft.name)
            except ServerUnreachable as error:
                server.unreachable = str(error)
                return
            server.tools = [
                proposed(definition) for definition in definitions if isinstance(definition.get("name"), str)
            ]

        async with anyio.create_task_group() as tasks:
            for server in found.servers:
                tasks.start_soon(one, server)


def proposed(definition: Mapping[str, Any]) -> ProposedTool:
    """The risk that a tool's hints suggest; `write` where it gives none (CONTRACT 3)."""
    annotations = definition.get("annotations")
    hints = annotations if isinstance(annotations, dict) else {}
    given = {key: value for key, value in hints.items() if key.endswith("Hint") and isinstance(value, bool)}
    words = ", ".join(f"{key.removesuffix('Hint')}={'yes' if value else 'no'}" for key, value in given.items())
    return ProposedTool(
        name=str(definition["name"]), risk=risk_from_hints(hints) or Risk.WRITE, hints=words or "no hints"
    )


def render(server: ImportedServer, *, for_listing: bool = False) -> str:
    """The tables of one server, TOML, beginning with an empty line."""
    made = server.draft
    lines = [
        "",
        f"[servers.{made.name}]"
        + ("" if for_listing else f"  # {_comment(made.origin)}, from {_comment(str(server.place))}"),
    ]
    if not for_listing:
        lines += [f"# {_comment(note)}" for note in made.notes]
        if server.unreachable is not None:
            lines.append(
                f"# could not be asked for its tools, so all of them are write: {_comment(server.unreachable)}"
            )
    if made.command is not None:
        lines += [f"command = {toml_string(made.command)}", f"args = {toml_array(made.args)}"]
        if made.env:
            lines.append(f"env = {toml_table(made.env)}")
        if made.cwd is not None:
            lines.append(f"cwd = {toml_string(made.cwd)}")
    else:
        assert made.url is not None
        lines.append(f"url = {toml_string(made.url)}")
        if made.headers:
            lines.append(f"headers = {toml_table(made.headers)}")
        if made.transport is not None:
            lines.append(f"transport = {toml_string(made.transport)}")
    if server.tools and not for_listing:
        lines += ["", f"[servers.{made.name}.tools]"]
        written = [f'{toml_key(tool.name)} = {{ risk = "{tool.risk}" }}' for tool in server.tools]
        width = max(len(line) for line in written)
        lines += [
            f"{line.ljust(width)}  # proposed ({tool.hints})" for line, tool in zip(written, server.tools, strict=True)
        ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def write(found: Import, file: Path, head: str = "") -> Configuration:
    """Add the servers to a `servers.toml` (made from `head` where it does not exist) and put their secrets beside it.

    Raises:
        ConfigurationError: the result would not load; nothing was written then.
    """
    before = file.read_text(encoding="utf-8") if file.exists() else head
    text = (
        before + ("" if not before or before.endswith("\n") else "\n") + "".join(render(one) for one in found.servers)
    )
    secrets = {name: value for server in found.servers for name, value in server.draft.secrets.items()}
    write_secrets(secrets, file.parent)
    try:
        configuration = loads(text, file, to_look=True)
    except GatewayError:
        for name in secrets:
            (file.parent / SECRETS / name).unlink()
        raise
    write_atomically(file, text, mode=None)
    return configuration


def write_secrets(secrets: Mapping[str, str], directory: Path) -> None:
    """Each secret as a file of mode 0600 in `secrets/`, a directory of mode 0700 that git ignores."""
    if not secrets:
        return
    where = directory / SECRETS
    where.mkdir(mode=0o700, exist_ok=True)
    where.chmod(0o700)
    ignore = where / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    for name, value in secrets.items():
        write_atomically(where / name, value + "\n", mode=0o600)


def write_atomically(file: Path, text: str | bytes, *, mode: int | None) -> None:
    """Replace a file as a whole, following links, so that a reader or a crash never sees half of it.

    Args:
        mode: permission bits of the file; None keeps those that it has (0644 less the umask for a new one).
    """
    target = Path(os.path.realpath(file))
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        mask = os.umask(0)
        os.umask(mask)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~mask
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8") if isinstance(text, str) else text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
