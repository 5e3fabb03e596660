"""The catalogues of all tool servers, merged into one: names made unique towards agents, every loss reported."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache

from gateway.decide.own import ENTRIES as OWN
from gateway.model.call import TargetType
from gateway.model.snapshot import Catalogue, Entry, RemovedEntry, ServerCatalogue, View

MAX_NAME = 64
"""Clients cut or refuse longer tool names."""


def exposed_name(template: str, server: str, tool: str) -> str:
    """A tool's or prompt's name towards agents.

    A name beyond 64 characters is cut and ends in eight hexadecimal digits of its SHA-256, so that it stays the same
    from start to start and differs from its neighbours'.
    """
    name = template.replace("{server}", server).replace("{tool}", tool)
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def merge(servers: Mapping[str, ServerCatalogue], tool_names: str) -> Catalogue:
    """One catalogue of many, in the order of the servers' names and, within each, the server's own.

    Of two entries with one name (or one URI) the first stays and the other goes to `removed` with the reason, as does a tool
    that would pass for one of the gateway's own.
    """
    tools: dict[str, Entry] = {}
    prompts: dict[str, Entry] = {}
    resources: dict[str, Entry] = {}
    templates: list[Entry] = []
    removed: list[RemovedEntry] = []
    digest = hashlib.sha256()
    for server, catalogue in sorted(servers.items()):
        removed.extend(catalogue.removed)
        digest.update(f"{server}\0{catalogue.available}\0{catalogue.instructions}\0".encode())
        for entry in catalogue.entries:
            digest.update(f"{entry.type}\0{entry.name}\0{entry.definition_sha256}\0{entry.risk}\0".encode())
            if entry.is_template:
                templates.append(entry)
                continue
            match entry.type:
                case TargetType.TOOL | TargetType.PROMPT:
                    entry = replace(entry, exposed=exposed_name(tool_names, server, entry.name))
                    names = tools if entry.type is TargetType.TOOL else prompts
                case _:
                    names = resources
            if entry.type is TargetType.TOOL and entry.exposed in OWN:
                reason = f"{entry.exposed!r} is a tool of the gateway itself; set tool_names or deny this one"
                removed.append(RemovedEntry(server=server, type=entry.type, name=entry.name, reason=reason))
                continue
            if (first := names.get(entry.exposed)) is not None:
                reason = (
                    f"{entry.exposed!r} is taken by {first.server}/{first.name}; set tool_names or deny one of them"
                )
                removed.append(RemovedEntry(server=server, type=entry.type, name=entry.name, reason=reason))
                continue
            names[entry.exposed] = entry
    return Catalogue(
        servers=dict(sorted(servers.items())),
        tools=tools,
        prompts=prompts,
        resources=resources,
        templates=tuple(templates),
        removed=tuple(removed),
        revision=digest.hexdigest()[:16],
    )


@lru_cache(maxsize=16_384)
def matches(glob: str, server: str, tool: str) -> bool:
    """Whether a glob `server/tool` (each part a glob of its own) names this tool. Without a slash it names servers."""
    server_glob, slash, tool_glob = glob.partition("/")
    return fnmatchcase(server, server_glob) and (not slash or fnmatchcase(tool, tool_glob))


def view(catalogue: Catalogue, entries: Iterable[Entry], revision: str) -> View:
    """The view that holds just these entries of the catalogue, in the catalogue's order."""
    kept = {id(entry) for entry in entries}
    tools = {name: entry for name, entry in catalogue.tools.items() if id(entry) in kept}
    prompts = {name: entry for name, entry in catalogue.prompts.items() if id(entry) in kept}
    resources = {uri: entry for uri, entry in catalogue.resources.items() if id(entry) in kept}
    templates = tuple(entry for entry in catalogue.templates if id(entry) in kept)
    every = [*tools.values(), *prompts.values(), *resources.values(), *templates]
    return View(
        tools=tools,
        prompts=prompts,
        resources=resources,
        templates=templates,
        servers=tuple(sorted({entry.server for entry in every})),
        revision=revision,
    )
