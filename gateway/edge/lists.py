"""What an agent may see, said in the protocol's words: capabilities, instructions, and the four lists.

All comes from the principal's view, the one that `resolve` looks into, so that a list and a call cannot disagree. A list
is encoded once per view and served as bytes until the view is another.
"""

import base64
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.control import Gateway
from gateway.edge.protocol import MODERN_VERSIONS, SERVER_KEY
from gateway.edge.settings import EdgeSettings
from gateway.model.call import Principal
from gateway.model.snapshot import Catalogue, Entry, View

LISTS: Final = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
"""Each list method and the member of its result."""

MAX_CACHED: Final = 512


class UnknownCursor(ValueError):
    """A cursor that is none of ours. The edge answers -32602."""


class Lists:
    """Lists and capabilities of one gateway."""

    def __init__(self, gateway: Gateway, settings: EdgeSettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._cached: OrderedDict[tuple[str, str, bool], tuple[View, bytes]] = OrderedDict()

    @property
    def server_info(self) -> dict[str, Any]:
        """Our own name and version."""
        return {"name": self._settings.name, "version": self._settings.version}

    async def page(self, method: str, principal: Principal, cursor: Any, *, modern: bool) -> bytes:
        """The JSON text of a list result.

        Raises:
            UnknownCursor: the cursor is none that this method handed out.
        """
        await self._gateway.settled()
        view = await self._gateway.view(principal)
        key = (principal.id, method, modern)
        if cursor is None:
            cached = self._cached.get(key)
            if cached is not None and cached[0] is view:
                return cached[1]
        entries = self._entries(method, view)
        start = 0 if cursor is None else _start(cursor, method, entries)
        chosen = entries[start : start + self._settings.page_size]
        result: dict[str, Any] = {LISTS[method]: [definition(entry) for entry in chosen]}
        if start + len(chosen) < len(entries):
            result["nextCursor"] = _cursor(method, start + len(chosen), chosen[-1])
        if modern:
            result.update(
                resultType="complete",
                ttlMs=self._ttl_ms(view),
                cacheScope=self._scope(view),
                _meta={SERVER_KEY: self.server_info},
            )
        text = orjson.dumps(result)
        if cursor is None and result.get("ttlMs") != 0:
            self._cached[key] = (view, text)
            self._cached.move_to_end(key)
            while len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        return text

    async def discover(self, principal: Principal) -> dict[str, Any]:
        """The result of `server/discover`."""
        view = await self._gateway.view(principal)
        result: dict[str, Any] = {
            "resultType": "complete",
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": self.capabilities(view),
            "ttlMs": self._ttl_ms(view),
            "cacheScope": self._scope(view),
            "_meta": {SERVER_KEY: self.server_info},
        }
        if instructions := self.instructions(view):
            result["instructions"] = instructions
        return result

    async def initialize(self, principal: Principal, version: str) -> dict[str, Any]:
        """The result of `initialize`."""
        view = await self._gateway.view(principal)
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": self.capabilities(view),
            "serverInfo": self.server_info,
        }
        if instructions := self.instructions(view):
            result["instructions"] = instructions
        return result

    def capabilities(self, view: View) -> dict[str, Any]:
        """What the servers that the principal may use can do, together.

        Lists may always change, and the gateway tells. Of a server that was not reached yet nothing is known, so what it
        may bring is announced. An extension counts only where exactly one server has it: no other could be forwarded.
        """
        catalogue = self._gateway.snapshot.catalogue
        servers = [catalogue.servers[name] for name in view.servers if name in catalogue.servers]
        unknown = any(not server.available and not server.capabilities for server in servers)
        each = [server.capabilities for server in servers]
        union: dict[str, Any] = {"tools": {"listChanged": True}}
        if unknown or view.prompts or any("prompts" in one for one in each):
            union["prompts"] = {"listChanged": True}
        if unknown or view.resources or view.templates or any("resources" in one for one in each):
            resources: dict[str, Any] = {"listChanged": True}
            if unknown or any(_subscribes(one) for one in each):
                resources["subscribe"] = True
            union["resources"] = resources
        if unknown or any("logging" in one for one in each):
            union["logging"] = {}
        if unknown or any("completions" in one for one in each):
            union["completions"] = {}
        for member in ("extensions", "experimental"):
            if found := _of_exactly_one(each, member):
                union[member] = found
        return union

    def instructions(self, view: View) -> str:
        """What the configuration says, and what the servers say that the principal may use."""
        snapshot = self._gateway.snapshot
        parts = [snapshot.instructions] if snapshot.instructions else []
        for name in view.servers:
            server = snapshot.catalogue.servers.get(name)
            if server is not None and server.instructions:
                parts.append(f"[{name}]\n{server.instructions}")
        return "\n\n".join(parts)

    def _entries(self, method: str, view: View) -> Sequence[Entry]:
        match method:
            case "tools/list":
                return tuple(view.tools.values())
            case "prompts/list":
                return tuple(view.prompts.values())
            case "resources/list":
                return tuple(view.resources.values())
            case _:
                return view.templates

    def _ttl_ms(self, view: View) -> int:
        """Nothing may be kept while a server is away: it may be back at any moment, and its tools with it."""
        servers = self._gateway.snapshot.catalogue.servers
        if all(servers[name].available for name in view.servers if name in servers):
            return self._settings.list_ttl_ms
        return 0

    def _scope(self, view: View) -> str:
        """`public` only where there is one principal and nothing is hidden from it."""
        catalogue = self._gateway.snapshot.catalogue
        if self._gateway.agents is not None or _hides(view, catalogue):
            return "private"
        return "public"


def definition(entry: Entry) -> dict[str, Any]:
    """An entry as agents see it: the tool server's own definition, under the name towards agents."""
    if "name" not in entry.definition or entry.definition["name"] == entry.exposed:
        return dict(entry.definition)
    if entry.exposed == entry.name and "uri" in entry.definition:
        return dict(entry.definition)  # a resource is exposed by its URI and keeps its own name
    if entry.is_template or "uriTemplate" in entry.definition:
        return dict(entry.definition)
    return {**entry.definition, "name": entry.exposed}


def _hides(view: View, catalogue: Catalogue) -> bool:
    return (
        view.tools.keys() != catalogue.tools.keys()
        or len(view.prompts) != len(catalogue.prompts)
        or len(view.resources) != len(catalogue.resources)
        or len(view.templates) != len(catalogue.templates)
    )


def _subscribes(capabilities: Mapping[str, Any]) -> bool:
    resources = capabilities.get("resources")
    return isinstance(resources, Mapping) and bool(resources.get("subscribe"))


def _of_exactly_one(each: Sequence[Mapping[str, Any]], member: str) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for capabilities in each:
        members = capabilities.get(member)
        if isinstance(members, Mapping):
            for name, value in members.items():
                found.setdefault(name, []).append(value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _cursor(method: str, position: int, last: Entry) -> str:
    """Opaque to clients: where to go on, by the last item's name, and by number should it be gone."""
    return base64.urlsafe_b64encode(orjson.dumps([method, position, last.server, last.name])).decode().rstrip("=")


def _start(cursor: Any, method: str, entries: Sequence[Entry]) -> int:
    try:
        if not isinstance(cursor, str) or len(cursor) > 16_384:
            raise ValueError
        whose, position, server, name = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if whose != method or type(position) is not int or position < 0:
            raise ValueError
    except (ValueError, TypeError):
        raise UnknownCursor(f"params.cursor is not one that {method} handed out") from None
    for index, entry in enumerate(entries):
        if entry.server == server and entry.name == name:
            return index + 1
    return min(position, len(entries))
