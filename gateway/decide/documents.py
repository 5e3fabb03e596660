"""The catalogue and a principal's view of it as JSON documents, and back: what is kept by hash, so that a recording can be served.

A *catalogue* document holds the definitions as the tool servers gave them, with what agents could see of the servers
besides. A *view* document names the catalogue by hash and says which of its items one principal could see.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.decide.catalogue import merge
from gateway.decide.catalogue import view as view_of
from gateway.decide.own import ENTRIES
from gateway.model.call import Principal, Risk, TargetType
from gateway.model.snapshot import Catalogue, Entry, ServerCatalogue, Snapshot, View

DOCUMENT_VERSION = 1

CATALOGUE = "catalogue"
"""The kind of a kept catalogue document."""

VIEW = "view"
"""The kind of a kept view document."""


def catalogue_document(snapshot: Snapshot) -> bytes:
    """All that agents can be shown, whoever they are: JSON text, the same for the same catalogue."""
    return _text(
        {
            "version": DOCUMENT_VERSION,
            "revision": snapshot.catalogue.revision,
            "tool_names": snapshot.tool_names,
            "instructions": snapshot.instructions,
            "servers": [_server(server) for server in snapshot.catalogue.servers.values()],
        }
    )


def _server(server: ServerCatalogue) -> dict[str, Any]:
    return {
        "server": server.server,
        "available": server.available,
        "capabilities": server.capabilities,
        "instructions": server.instructions,
        "protocol_version": server.protocol_version,
        "server_info": server.server_info,
        "entries": [
            {
                "type": entry.type.value,
                "name": entry.name,
                "is_template": entry.is_template,
                "risk": entry.risk.value,
                "idempotent": entry.idempotent,
                "definition_sha256": entry.definition_sha256,
                "definition": entry.definition,
            }
            for entry in server.entries
        ],
    }


def catalogue_of(document: bytes) -> tuple[Catalogue, str, str]:
    """The catalogue of a document, the configuration's instructions, and the template of names towards agents.

    Raises:
        ValueError: it is no such document.
    """
    try:
        found = json.loads(document)
        if found["version"] > DOCUMENT_VERSION:
            raise ValueError(f"the catalogue's version {found['version']} is newer than this gateway knows")
        servers = {server["server"]: _server_of(server) for server in found["servers"]}
        return merge(servers, str(found["tool_names"])), str(found["instructions"]), str(found["tool_names"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no catalogue: {error!r}") from None


def _server_of(server: Mapping[str, Any]) -> ServerCatalogue:
    return ServerCatalogue(
        server=server["server"],
        available=server["available"],
        capabilities=server["capabilities"],
        instructions=server["instructions"],
        protocol_version=server["protocol_version"],
        server_info=server["server_info"],
        entries=tuple(
            Entry(
                type=TargetType(entry["type"]),
                server=server["server"],
                name=entry["name"],
                exposed=entry["name"],
                definition=entry["definition"],
                definition_sha256=entry["definition_sha256"],
                risk=Risk(entry["risk"]),
                idempotent=entry["idempotent"],
                annotations=entry["definition"].get("annotations") or {},
                is_template=entry["is_template"],
            )
            for entry in server["entries"]
        ),
    )


def view_document(
    view: View, catalogue: Catalogue, catalogue_sha256: str, principal: Principal, own: Sequence[str] = ()
) -> bytes:
    """What one principal could see: of each list the items' names in order, or null where it is the whole list."""
    return _text(
        {
            "version": DOCUMENT_VERSION,
            "catalogue_sha256": catalogue_sha256,
            "principal": {"id": principal.id, "roles": list(principal.roles)},
            "tools": _names(view.tools, catalogue.tools),
            "prompts": _names(view.prompts, catalogue.prompts),
            "resources": _names(view.resources, catalogue.resources),
            "templates": _names(_keys(view.templates), _keys(catalogue.templates)),
            **({"own": list(own)} if own else {}),
        }
    )


def view_from(document: Mapping[str, Any], catalogue: Catalogue) -> View:
    """The view that a document (parsed) describes, of the catalogue that it names."""
    entries: list[Entry] = []
    for member, whole in (
        ("tools", catalogue.tools),
        ("prompts", catalogue.prompts),
        ("resources", catalogue.resources),
        ("templates", dict(zip(_keys(catalogue.templates), catalogue.templates, strict=True))),
    ):
        names = document.get(member)
        entries.extend(whole.values() if names is None else (whole[name] for name in names if name in whole))
    view = view_of(catalogue, entries, f"{catalogue.revision}.recorded")
    own = {name: ENTRIES[name] for name in document.get("own", ()) if name in ENTRIES}
    return replace(view, tools={**view.tools, **own}) if own else view


def _keys(templates: Sequence[Entry]) -> list[str]:
    """Templates by server and URI template: two servers may have the same."""
    return [f"{entry.server} {entry.name}" for entry in templates]


def _names(shown: Any, whole: Any) -> list[str] | None:
    return None if len(shown) == len(whole) else list(shown)


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
