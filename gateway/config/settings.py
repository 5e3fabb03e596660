"""What the configuration amounts to: defaults, servers and tools resolved into one effective, frozen value each."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from gateway.config.document import Document, GatewayTable, ListenTable
from gateway.config.secrets import Secret
from gateway.config.types import ItemGlob, ToolGlob, glob_matches
from gateway.model.call import LOCAL, Principal, Risk

Transport = Literal["stdio", "http", "sse"]
Isolation = Literal["session", "principal", "shared"]
Ask = Literal["roots", "elicitation", "sampling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    attempts: int = 3
    backoff_seconds: float = 0.2
    budget_percent: float = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    failures: int = 5
    window_seconds: float = 30
    cool_down_seconds: float = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """The effective settings of one tool (CONTRACT 3), whatever table they came from."""

    risk: Risk | None = None
    """What the tool's own table says; None where it says nothing. See `ServerSettings.risk_of`."""
    idempotent: bool | None = None
    """None: yes where the risk is `read`."""
    timeout_seconds: float = 60
    approval_hold: bool = False
    cost: float | None = None
    serialize_by: str | None = None
    retries: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    max_request_bytes: int = 4_194_304
    max_result_bytes: int = 16_777_216
    undeclared_arguments: Literal["refuse", "relay"] = "refuse"
    validate_results: Literal["off", "warn", "refuse"] = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The effective settings of one tool server."""

    name: str
    transport: Transport
    command: str | None = None
    """With `transport == "stdio"`: an absolute path, or a bare name to be looked up (`gateway.config.find_command`)."""
    args: tuple[str, ...] = ()
    env: Mapping[str, Secret] = field(default_factory=dict)
    cwd: Path
    """Absolute."""
    url: Secret | None = None
    """With `http` and `sse`; `str(url)` is safe to show, `url.reveal()` connects."""
    headers: Mapping[str, Secret] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    """Absolute paths, or URIs as written."""
    risk: Risk | None = None
    """As declared for the whole server; None where it is not. See `risk_of`."""
    trust_annotations: bool = False
    isolation: Isolation
    asks: frozenset[Ask] = frozenset({"roots", "elicitation", "sampling"})
    allow: tuple[ItemGlob, ...] | None = None
    """None: everything. Empty: nothing."""
    deny: tuple[ItemGlob, ...] = ()
    max_concurrency: int = 16
    defaults: ToolSettings = ToolSettings()
    """For a tool without a table of its own. Timeout and size limits of prompts and resources too."""
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    """Effective settings by name or glob, as written under `[servers.NAME.tools]`."""
    disabled_reason: str | None = None
    """Why this server cannot be used, most often a reference that does not resolve; None: it can."""

    def permits(self, type: str, name: str) -> bool:
        """Does `allow`/`deny` let a `tool`, `prompt` or `resource` of this name (or URI) be offered?"""
        if self.denies(type, name):
            return False
        return self.allow is None or any(glob.matches(type, name) for glob in self.allow)

    def denies(self, type: str, name: str) -> bool:
        """Does `deny` name it?"""
        return any(glob.matches(type, name) for glob in self.deny)

    def tool(self, name: str) -> ToolSettings:
        """The effective settings of one tool: its own table, else the first glob in file order that matches, else the server's."""
        if (exact := self.tools.get(name)) is not None:
            return exact
        for pattern, settings in self.tools.items():
            if glob_matches(pattern, name):
                return settings
        return self.defaults

    def risk_of(self, name: str, annotations: Mapping[str, Any]) -> Risk:
        """The failure domain of a tool: its own table's, else trusted hints', else the server's, else `write`."""
        if (own := self.tool(name).risk) is not None:
            return own
        if self.trust_annotations and (hinted := risk_from_hints(annotations)) is not None:
            return hinted
        return self.risk or Risk.WRITE

    def idempotent(self, name: str, annotations: Mapping[str, Any]) -> bool:
        """May a call of this tool be repeated? What its table says, else only where its risk is `read`."""
        declared = self.tool(name).idempotent
        return declared if declared is not None else self.risk_of(name, annotations) is Risk.READ

    def same_link(self, other: "ServerSettings") -> bool:
        """Do both reach the same tool server in the same way, so that its children and connections may stay?"""
        return all(getattr(self, key) == getattr(other, key) for key in _LINK_FIELDS)


_LINK_FIELDS = (
    "name", "transport", "command", "args", "env", "cwd", "url", "headers", "roots", "isolation", "asks", "disabled_reason",
)  # fmt: skip


def risk_from_hints(annotations: Mapping[str, Any]) -> Risk | None:
    """The risk that a tool's own hints amount to (MCP tool annotations), or None where it gives none.

    A tool that says it reads and may reach the open world is `external`: what it is asked leaves the house.
    """
    if not any(
        isinstance(annotations.get(hint), bool)
        for hint in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    ):
        return None
    if annotations.get("openWorldHint") is True:
        return Risk.EXTERNAL
    return Risk.READ if annotations.get("readOnlyHint") is True else Risk.WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """An agent that may connect."""

    name: str
    key_sha256: str | None
    """Lower-case hex; None for `local` alone."""
    roles: tuple[str, ...] = ()
    servers: tuple[str, ...] | None = None
    """Globs; None: all."""
    tools: tuple[ToolGlob, ...] | None = None
    """None: all."""
    approver: str | None = None

    @property
    def principal(self) -> Principal:
        """As it goes into calls."""
        if self.key_sha256 is None:
            return LOCAL
        return Principal(
            id=self.name,
            roles=self.roles,
            servers=self.servers,
            tools=None if self.tools is None else tuple(str(glob) for glob in self.tools),
        )

    def permits(self, server: str, type: str, name: str) -> bool:
        """May it use a `tool`, `prompt` or `resource` of this name at this server, as far as the configuration says?"""
        if self.servers is not None and not any(glob_matches(glob, server) for glob in self.servers):
            return False
        return self.tools is None or any(glob.matches(server, name, type) for glob in self.tools)


LOCAL_AGENT = AgentSettings(name="local", key_sha256=None, roles=("local",))
"""The one agent of a gateway without `[agents]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Who may look and decide."""

    name: str
    key_sha256: str
    """Lower-case hex."""
    role: Literal["viewer", "approver", "operator"] = "viewer"
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """A webhook that is told of holds."""

    number: int
    """Its place among `[[approvals.notify]]`, the first is 1; replies name it."""
    url: Secret
    secret: Secret
    """`whsec_` and base64 of 24 to 64 bytes (Standard Webhooks)."""
    format: Literal["json", "slack"] = "json"
    payload: Literal["summary", "full"] = "summary"
    operator: str | None = None
    """Whom signed replies act as; None: they are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where calls, records and holds are kept."""

    scheme: Literal["sqlite", "postgresql", "memory"]
    path: Path | None = None
    """Absolute, with `sqlite`."""
    url: Secret | None = None
    """With `postgresql`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Who decides."""

    scheme: Literal["embedded", "opa"]
    path: Path | None = None
    """Absolute, with `embedded`: a directory or a `.tar.gz` bundle; with `opa`: what is pushed (`?push=policies`)."""
    url: Secret | None = None
    """With `opa`: `http://…` or `https://…`."""
    shipped: bool = False
    """The policies that the package ships, because the file names none and there is no `policies` beside it."""
    decision: str = "gateway/decision"
    timeout_seconds: float = 0.5
    shadow: "PolicySettings | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A `servers.toml` that was read, checked and resolved. Replaced as a whole by a reload, never changed."""

    file: Path
    """Absolute."""
    text: str = field(repr=False)
    """As read, references unexpanded."""
    sha256: str
    """Of the file's bytes; what records name it by."""
    document: Document = field(repr=False)
    """As written, validated."""
    store: StoreSettings
    counters: Secret
    """`memory:` or a `redis://` URL."""
    policy: PolicySettings
    servers: Mapping[str, ServerSettings]
    """In file order, disabled ones included."""
    agents: Mapping[str, AgentSettings]
    """`local` alone where the file has no `[agents]`."""
    local_only: bool
    """There is no `[agents]`: nobody needs a key, and only loopback addresses are listened on."""
    operators: Mapping[str, OperatorSettings]
    reload: Literal["watch", "operator"]
    notify: tuple[NotifySettings, ...] = ()
    """`[[approvals.notify]]`, in the order of the file."""
    warnings: tuple[str, ...] = ()
    """One line each; `check` prints them."""

    @property
    def directory(self) -> Path:
        """What relative paths are relative to."""
        return self.file.parent

    @property
    def gateway(self) -> GatewayTable:
        return self.document.gateway

    @property
    def listen(self) -> ListenTable:
        return self.document.listen

    def agent_for_key(self, key: str) -> AgentSettings | None:
        """The agent whose key this is, or None. Without `[agents]` no key opens anything. Constant time in the key."""
        return _owner_of_key(self.agents.values(), key)

    def operator_for_key(self, key: str) -> OperatorSettings | None:
        """The operator whose key this is, or None. Constant time in the key."""
        return _owner_of_key(self.operators.values(), key)


_Owner = TypeVar("_Owner", AgentSettings, OperatorSettings)


def _owner_of_key(owners: Iterable[_Owner], key: str) -> _Owner | None:
    digest = key_digest(key)
    found: _Owner | None = None
    for owner in owners:
        if owner.key_sha256 is not None and hmac.compare_digest(owner.key_sha256, digest):
            found = owner
    return found


def key_digest(key: str) -> str:
    """SHA-256 of a key's UTF-8 bytes, lower-case hex. Plain, because keys are random and long (128 bits are required)."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs between two configurations, by what has to be done about it."""

    needs_restart: tuple[str, ...] = ()
    """Keys that a running process cannot take over: `gateway.store`, `gateway.counters`, `gateway.durability`, `listen`."""
    servers_added: tuple[str, ...] = ()
    servers_removed: tuple[str, ...] = ()
    servers_relinked: tuple[str, ...] = ()
    """Reached in another way: their children and connections drain and are made anew."""
    servers_retuned: tuple[str, ...] = ()
    """Same link, other settings (risk, allow, timeouts, tools)."""
    agents_added: tuple[str, ...] = ()
    agents_removed: tuple[str, ...] = ()
    """Their sessions end at once."""
    agents_rekeyed: tuple[str, ...] = ()
    """Another key: sessions opened with the former one end at once."""
    agents_changed: tuple[str, ...] = ()
    """Same key, other roles, servers or tools."""
    operators_changed: tuple[str, ...] = ()
    """Added, removed or different."""
    policy: bool = False
    """The engine or its settings (changed files of the policy are not seen here)."""
    sections: tuple[str, ...] = ()
    """Top-level tables that differ in any way."""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


def diff(old: Configuration, new: Configuration) -> Change:
    """What a reload from `old` to `new` amounts to."""
    common = [name for name in new.servers if name in old.servers]
    agents = [name for name in new.agents if name in old.agents]
    restart = [
        key
        for key, before, after in (
            ("gateway.store", old.store, new.store),
            ("gateway.counters", old.counters, new.counters),
            ("gateway.durability", old.gateway.durability, new.gateway.durability),
            ("listen", old.listen, new.listen),
        )
        if before != after
    ]
    return Change(
        needs_restart=tuple(restart),
        servers_added=tuple(name for name in new.servers if name not in old.servers),
        servers_removed=tuple(name for name in old.servers if name not in new.servers),
        servers_relinked=tuple(name for name in common if not old.servers[name].same_link(new.servers[name])),
        servers_retuned=tuple(
            name
            for name in common
            if old.servers[name].same_link(new.servers[name]) and old.servers[name] != new.servers[name]
        ),
        agents_added=tuple(name for name in new.agents if name not in old.agents),
        agents_removed=tuple(name for name in old.agents if name not in new.agents),
        agents_rekeyed=tuple(name for name in agents if old.agents[name].key_sha256 != new.agents[name].key_sha256),
        agents_changed=tuple(
            name
            for name in agents
            if old.agents[name].key_sha256 == new.agents[name].key_sha256 and old.agents[name] != new.agents[name]
        ),
        operators_changed=tuple(
            sorted(
                name for name in {*old.operators, *new.operators} if old.operators.get(name) != new.operators.get(name)
            )
        ),
        policy=old.policy != new.policy,
        sections=tuple(
            name
            for name in type(new.document).model_fields
            if getattr(old.document, name) != getattr(new.document, name)
        ),
    )
