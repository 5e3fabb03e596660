"""What a call is judged against: one immutable `Snapshot` of configuration, catalogue and policy, swapped as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gateway.model.call import Risk, TargetType

if TYPE_CHECKING:
    from gateway.ports import PolicyEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaProblem:
    """One place at which a value does not meet its schema."""

    path: str
    """JSON Pointer into the value (`""` is the whole)."""
    message: str


class Validator(Protocol):
    """A compiled JSON Schema. Pure: no I/O, bounded time."""

    def problems(self, value: Any) -> Sequence[SchemaProblem]:
        """What is wrong with `value`, at most twenty places; empty where it is valid."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tool, prompt, resource or resource template of a tool server, with what the configuration says of it."""

    type: TargetType
    server: str
    name: str
    """The name at the tool server; of a resource the URI, of a template the URI template."""
    exposed: str
    """The name towards agents; of resources and templates the same as `name`."""
    definition: Mapping[str, Any]
    """As the tool server gave it, unknown fields included, without `gateway/` keys."""
    definition_sha256: str
    """Of the RFC 8785 form of the definition."""
    risk: Risk = Risk.WRITE
    idempotent: bool = False
    """Repeating a call does no harm; true for `read` unless the configuration says otherwise."""
    annotations: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 60.0
    approval_hold: bool = False
    cost: float | None = None
    serialize_by: str | None = None
    max_request_bytes: int = 4_194_304
    max_result_bytes: int = 16_777_216
    validate_results: str = "warn"
    arguments: Validator | None = None
    """Of `inputSchema`, with `undeclared_arguments` applied; None for what has no schema."""
    results: Validator | None = None
    """Of `outputSchema`; None where there is none."""
    is_template: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedEntry:
    """A definition that is not offered, and why: nothing is dropped in silence."""

    server: str
    type: TargetType
    name: str
    reason: str


class Offers(Protocol):
    """What the configuration's `allow` and `deny` say of anything by its name or URI, whether a list names it or not."""

    def permits(self, type: str, name: str) -> bool:
        """Whether it may be offered."""
        ...

    def denies(self, type: str, name: str) -> bool:
        """Whether `deny` names it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCatalogue:
    """What one tool server offers, as last heard from it."""

    server: str
    available: bool
    """False while it cannot be reached: its entries stay known, marked unavailable."""
    reason: str = ""
    """Why it is not available."""
    entries: tuple[Entry, ...] = ()
    """After the configuration's `allow` and `deny`, in the server's own order."""
    removed: tuple[RemovedEntry, ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """The server's capabilities, raw, `extensions` included."""
    instructions: str = ""
    protocol_version: str = ""
    server_info: Mapping[str, Any] = field(default_factory=dict)
    prototype: Entry | None = None
    """What the configuration says of anything of this server that no list names (a linked resource, an extension's method)."""
    offers: Offers | None = field(default=None, compare=False, repr=False)
    """None: everything is offered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What all tool servers offer: names made unique, collisions reported, order deterministic."""

    servers: Mapping[str, ServerCatalogue] = field(default_factory=dict)
    tools: Mapping[str, Entry] = field(default_factory=dict)
    """By the name towards agents, ordered by (server, the server's own order)."""
    prompts: Mapping[str, Entry] = field(default_factory=dict)
    resources: Mapping[str, Entry] = field(default_factory=dict)
    """By URI; of two servers with the same URI the first by name, the other is in `removed`."""
    templates: tuple[Entry, ...] = ()
    removed: tuple[RemovedEntry, ...] = ()
    revision: str = ""
    """Changes whenever anything that an agent could see changes."""


EMPTY_CATALOGUE = Catalogue()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of a catalogue that one principal may see: what lists show and what `resolve` finds, from one place."""

    tools: Mapping[str, Entry]
    prompts: Mapping[str, Entry]
    resources: Mapping[str, Entry]
    templates: tuple[Entry, ...]
    servers: tuple[str, ...]
    """The servers of which this principal may use anything at all."""
    revision: str = ""
    sha256: str = ""
    """Of the kept document of this view (`decide/documents.py`); empty where nothing is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a call is judged against. The data plane takes the reference once per call."""

    number: int
    """Counts up with every swap, within one process."""
    configuration_sha256: str
    catalogue: Catalogue
    policy: "PolicyEngine"
    shadow: "PolicyEngine | None" = None
    """Another policy, judged beside the live one and recorded (`[policy] shadow`); it decides nothing."""
    instructions: str = ""
    """The configuration's own, towards agents; the edge adds those of the tool servers that the agent may use."""
    tool_names: str = "{server}__{tool}"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Typed sections that stages were built with (quotas, interrupts, ...), by the stage's name."""
    extensions: Callable[[str], str | None] | None = None
    """Method name to the one server that advertises the extension it belongs to."""
