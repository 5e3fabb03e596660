"""What one tool server offers: all pages of its lists, and the entries that the configuration makes of them.

Definitions are kept as the server gave them, unknown fields included. One that is malformed is left out alone, with the
reason; so are second ones of a name, and what the configuration does not offer. Nothing is left out in silence.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import rfc8785

from gateway.config import ServerSettings, ToolSettings
from gateway.decide.schema import SchemaError, compile_schema
from gateway.model.call import Risk, TargetType
from gateway.model.snapshot import Entry, RemovedEntry, ServerCatalogue, Validator
from gateway.model.value import replace
from gateway.servers import headers, wire
from gateway.servers.link import Link, RequestFailed

logger = logging.getLogger("gateway.servers")

MAX_PAGES: Final = 1000
MAX_ITEMS: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of all definitions of one server together."""

MAX_DEFINITION_BYTES: Final = 1024 * 1024
MAX_URI: Final = 8192

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""As MCP has it (2026-07-28, "Tool names")."""

PROMPT_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the four lists."""

    name: str
    method: str
    member: str
    """Of the result."""
    capability: str
    type: TargetType
    key: str
    """The member that names an item."""


KINDS: Final = (
    Kind("tools", "tools/list", "tools", "tools", TargetType.TOOL, "name"),
    Kind("prompts", "prompts/list", "prompts", "prompts", TargetType.PROMPT, "name"),
    Kind("resources", "resources/list", "resources", "resources", TargetType.RESOURCE, "uri"),
    Kind("templates", "resources/templates/list", "resourceTemplates", "resources", TargetType.RESOURCE, "uriTemplate"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a server said of itself, unjudged."""

    items: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Kind to its definitions, each as JSON text."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str = ""
    protocol_version: str = ""
    server_info: Mapping[str, Any] = field(default_factory=dict)


async def fetch(link: Link) -> Listing:
    """Read every list that the server says it has.

    Raises:
        RequestFailed: its tools cannot be listed, or its lists are beyond all bounds. Other lists that fail are empty, and
            logged.
    """
    items: dict[str, tuple[bytes, ...]] = {}
    budget = [MAX_BYTES]
    for kind in KINDS:
        if kind.capability not in link.server_capabilities:
            continue
        try:
            items[kind.name] = await _pages(link, kind, budget)
        except RequestFailed as error:
            if kind.name == "tools":
                raise
            if error.code != wire.METHOD_NOT_FOUND:
                logger.warning("%s: %s", link.settings.name, error)
    return Listing(
        items=items,
        capabilities=link.server_capabilities,
        instructions=link.instructions,
        protocol_version=link.protocol_version,
        server_info=link.server_info,
    )


async def _pages(link: Link, kind: Kind, budget: list[int]) -> tuple[bytes, ...]:
    found: list[bytes] = []
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(MAX_PAGES):
        result = wire.members(await link.request(kind.method, {} if cursor is None else {"cursor": cursor}))
        try:
            page = wire.decode_batch(bytes(result[kind.member]))
        except (KeyError, wire.Garbage):
            raise RequestFailed(f"{kind.method}: the result has no list {kind.member!r}") from None
        found.extend(page)
        budget[0] -= sum(map(len, page))
        if len(found) > MAX_ITEMS or budget[0] < 0:
            raise RequestFailed(f"{kind.method}: more than {MAX_ITEMS} definitions or {MAX_BYTES} bytes")
        following = wire.parse(result["nextCursor"]) if "nextCursor" in result else None
        if following is None:
            return tuple(found)
        if not isinstance(following, str) or following in seen:
            raise RequestFailed(f"{kind.method}: its pages do not end")
        seen.add(following)
        cursor = following
    raise RequestFailed(f"{kind.method}: more than {MAX_PAGES} pages")


def joined(first: Listing, others: Iterable[Listing]) -> Listing:
    """`first` with what only the others list.

    A server may offer one session more than another: by its client's capabilities, or after a call that switched something
    on. What several list is taken from `first`.
    """
    items = dict(first.items)
    for kind in KINDS:
        for other in others:
            mine, theirs = items.get(kind.name, ()), other.items.get(kind.name, ())
            if set(theirs) <= set(mine):
                continue
            known = {_key(raw, kind) for raw in mine}
            items[kind.name] = mine + tuple(raw for raw in theirs if _key(raw, kind) not in known)
    return replace(first, items=items)


def _key(raw: bytes, kind: Kind) -> object:
    """What names a definition; None for all that have no name."""
    try:
        definition = wire.parse(raw)
    except wire.Garbage:
        return None
    name = definition.get(kind.key) if isinstance(definition, dict) else None
    return name if isinstance(name, str) else None


class Builder:
    """Makes a server's catalogue of its listing and its settings. Keeps compiled schemas from one to the next."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], tuple[Validator | None, Validator | None]] = {}

    def build(self, settings: ServerSettings, listing: Listing, *, available: bool, reason: str) -> ServerCatalogue:
        """The catalogue: entries in the server's own order, tools before prompts before resources before templates."""
        entries: list[Entry] = []
        removed: list[RemovedEntry] = []
        compiled: dict[tuple[str, str], tuple[Validator | None, Validator | None]] = {}
        for kind in KINDS:
            names: set[str] = set()
            for position, raw in enumerate(listing.items.get(kind.name, ())):
                try:
                    definition = _definition(raw, kind)
                    name = definition[kind.key]
                    if name in names:
                        raise Unfit(name, "the server defines it a second time")
                    names.add(name)
                    if not settings.permits(kind.type.value, name):
                        raise Unfit(name, "the configuration does not offer it (allow, deny)")
                    entries.append(self._entry(settings, kind, definition, compiled))
                except Unfit as unfit:
                    shown = unfit.name or f"({kind.name}, number {position + 1})"
                    removed.append(RemovedEntry(server=settings.name, type=kind.type, name=shown, reason=unfit.reason))
        self._compiled = compiled
        return ServerCatalogue(
            server=settings.name,
            available=available,
            reason=reason,
            entries=tuple(entries),
            removed=tuple(removed),
            capabilities=listing.capabilities,
            instructions=listing.instructions,
            protocol_version=listing.protocol_version,
            server_info=listing.server_info,
            prototype=prototype(settings),
            offers=settings,
        )

    def _entry(
        self,
        settings: ServerSettings,
        kind: Kind,
        definition: dict[str, Any],
        compiled: dict[tuple[str, str], tuple[Validator | None, Validator | None]],
    ) -> Entry:
        name = definition[kind.key]
        sha256 = hashlib.sha256(canonical(definition)).hexdigest()
        if kind.type is not TargetType.TOOL:
            return _plain_entry(settings, kind.type, name, definition, sha256, is_template=kind.name == "templates")
        annotations = definition.get("annotations") or {}
        tool = settings.tool(name)
        key = (sha256, tool.undeclared_arguments)
        if (validators := self._compiled.get(key)) is None:
            try:
                output = definition.get("outputSchema")
                validators = (
                    compile_schema(definition["inputSchema"], undeclared=tool.undeclared_arguments),
                    compile_schema(output) if output is not None else None,
                )
            except SchemaError as error:
                raise Unfit(name, str(error)) from None
        compiled[key] = validators
        return Entry(
            type=TargetType.TOOL,
            server=settings.name,
            name=name,
            exposed=name,
            definition=definition,
            definition_sha256=sha256,
            risk=settings.risk_of(name, annotations),
            idempotent=settings.idempotent(name, annotations),
            annotations=annotations,
            arguments=validators[0],
            results=validators[1] if tool.validate_results != "off" else None,
            approval_hold=tool.approval_hold,
            cost=tool.cost,
            serialize_by=tool.serialize_by,
            **_limits(tool),
        )


def _limits(tool: ToolSettings) -> dict[str, Any]:
    return {
        "timeout_seconds": tool.timeout_seconds,
        "max_request_bytes": tool.max_request_bytes,
        "max_result_bytes": tool.max_result_bytes,
        "validate_results": tool.validate_results,
    }


def _plain_entry(
    settings: ServerSettings,
    type: TargetType,
    name: str,
    definition: Mapping[str, Any],
    sha256: str,
    *,
    is_template: bool = False,
) -> Entry:
    """Prompts and resources: reading them changes nothing, by the protocol; what leaves the house is still external."""
    return Entry(
        type=type,
        server=settings.name,
        name=name,
        exposed=name,
        definition=definition,
        definition_sha256=sha256,
        risk=Risk.EXTERNAL if settings.risk is Risk.EXTERNAL else Risk.READ,
        idempotent=True,
        is_template=is_template,
        **_limits(settings.defaults),
    )


def prototype(settings: ServerSettings) -> Entry:
    """What holds for anything of this server that no list names."""
    return _plain_entry(settings, TargetType.RESOURCE, "", {}, "")


def changed_kinds(old: ServerCatalogue, new: ServerCatalogue) -> frozenset[str]:
    """Which lists towards agents differ (`tools`, `prompts`, `resources`); all that either has, where availability does."""

    def lists(catalogue: ServerCatalogue) -> dict[str, list[tuple[Any, ...]]]:
        found: dict[str, list[tuple[Any, ...]]] = {"tools": [], "prompts": [], "resources": []}
        for entry in catalogue.entries:
            found[f"{entry.type.value}s"].append(
                (entry.name, entry.definition_sha256, entry.risk, entry.is_template, entry.timeout_seconds)
            )
        return found

    before, after = lists(old), lists(new)
    if old.available != new.available:
        return frozenset(kind for kind in before if before[kind] or after[kind]) or frozenset({"tools"})
    return frozenset(kind for kind in before if before[kind] != after[kind])


# --- definitions ---------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """A definition that is not offered."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


def _definition(raw: bytes, kind: Kind) -> dict[str, Any]:
    """One definition, checked as far as clients would fail on it.

    Raises:
        Unfit: it is malformed.
    """
    if len(raw) > MAX_DEFINITION_BYTES:
        raise Unfit("", f"its definition is larger than {MAX_DEFINITION_BYTES} bytes")
    try:
        definition = wire.parse(wire.strip_reserved(raw))
    except wire.Garbage as error:
        raise Unfit("", f"its definition cannot be read: {error}") from None
    if not isinstance(definition, dict):
        raise Unfit("", "its definition is no object")
    name = definition.get(kind.key)
    if not isinstance(name, str) or not name:
        raise Unfit("", f"its definition has no {kind.key}")
    shown = name[:200].encode("ascii", "backslashreplace").decode("ascii")
    for problem in _problems(kind, name, definition):
        raise Unfit(shown, problem)
    _check_value(shown, definition)
    return definition


def _problems(kind: Kind, name: str, definition: Mapping[str, Any]) -> list[str]:
    """What is wrong with a definition by the protocol's own schema."""
    found: list[str] = []

    def check(holder: Mapping[str, Any], member: str, fits: Callable[[Any], bool], what: str) -> None:
        if holder.get(member) is not None and not fits(holder[member]):
            found.append(f"its {member} is no {what}")

    match kind.name:
        case "tools":
            if not TOOL_NAME.fullmatch(name):
                found.append("its name is not one that MCP allows: 1 to 128 of A-Z a-z 0-9 _ . -")
            schema = definition.get("inputSchema")
            if not isinstance(schema, dict) or schema.get("type") != "object":
                found.append('its inputSchema is no schema of the type "object"')
            else:
                try:
                    headers.marked(schema)
                except ValueError as error:
                    found.append(str(error))
            check(definition, "outputSchema", lambda value: isinstance(value, dict), "schema")
            check(definition, "execution", lambda value: isinstance(value, dict), "object")
            if isinstance(hints := definition.get("annotations"), dict):
                for hint in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"):
                    check(hints, hint, lambda value: isinstance(value, bool), "boolean")
                check(hints, "title", lambda value: isinstance(value, str), "text")
        case "prompts":
            if not PROMPT_NAME.fullmatch(name):
                found.append("its name is longer than 256 characters or has control characters")
            arguments = definition.get("arguments")
            if arguments is not None:
                if not isinstance(arguments, list):
                    found.append("its arguments are no list")
                elif not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in arguments):
                    found.append("one of its arguments has no name")
                else:
                    for each in arguments:
                        check(each, "required", lambda value: isinstance(value, bool), "boolean")
                        check(each, "description", lambda value: isinstance(value, str), "text")
        case _:
            if len(name) > MAX_URI or any(c <= " " or c == "\x7f" for c in name):
                found.append(f"its {kind.key} is longer than {MAX_URI} characters or has blanks")
            if not isinstance(definition.get("name"), str):
                found.append("it has no name")
            check(definition, "mimeType", lambda value: isinstance(value, str), "text")
            check(definition, "size", lambda value: type(value) in (int, float), "number")
    for member in ("title", "description"):
        check(definition, member, lambda value: isinstance(value, str), "text")
    for member in ("annotations", "_meta"):
        check(definition, member, lambda value: isinstance(value, dict), "object")
    check(
        definition,
        "icons",
        lambda value: (
            isinstance(value, list)
            and all(isinstance(each, dict) and isinstance(each.get("src"), str) for each in value)
        ),
        "list of icons",
    )
    return found


def _check_value(name: str, definition: Any) -> None:
    """Only values that can be passed on unchanged.

    Raises:
        Unfit: nested too deeply, an integer beyond 64 bits, or a lone surrogate.
    """
    stack: list[tuple[Any, int]] = [(definition, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > wire.MAX_DEPTH:
            raise Unfit(name, f"its definition is nested more than {wire.MAX_DEPTH} deep")
        match value:
            case dict():
                stack.extend((inner, depth + 1) for inner in value.values())
            case list():
                stack.extend((inner, depth + 1) for inner in value)
            case bool():
                pass
            case int() if not -(2**63) <= value < 2**64:
                raise Unfit(name, "its definition has an integer beyond 64 bits")
            case _:
                pass


def canonical(value: Any) -> bytes:
    """The RFC 8785 form; integers beyond 2^53, which it leaves out, in exact decimal (CONTRACT 6)."""
    match value:
        case dict():
            members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
            return b"{" + b",".join(rfc8785.dumps(name) + b":" + canonical(inner) for name, inner in members) + b"}"
        case list() | tuple():
            return b"[" + b",".join(map(canonical, value)) + b"]"
        case int() if not isinstance(value, bool):
            return b"%d" % value
        case _:
            return rfc8785.dumps(value)
