"""`servers.toml` as it is written (CONTRACT 3): one strict, frozen model a table, a docstring under each key.

The reference page of the documentation is made from this module, so a docstring here is what a user reads there. What
the keys amount to for one server or one tool is in `gateway.config.settings`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.config.types import Duration, NonEmpty, RuleName, Size, ToolPattern, Window

Risk = Literal["read", "write", "external"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """What every table has: no unknown keys, no silent conversions, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class GatewayTable(Table):
    """The gateway itself."""

    name: NonEmpty = "gateway"
    """The name it gives itself towards agents and in records."""
    store: NonEmpty = "sqlite:gateway.db"
    """Where calls, records and holds are kept: `sqlite:PATH`, `postgresql://…`, or `memory:` (gone with the process)."""
    counters: NonEmpty = "memory:"
    """Where rates are counted: `memory:` (one process) or `redis://…`."""
    durability: Literal["process", "power", "by-risk"] = "by-risk"
    """What a journal entry survives: `process` a killed gateway, `power` a power loss; `by-risk` is `power` for write and external calls."""
    tool_names: NonEmpty = "{server}__{tool}"
    """How tools and prompts are named towards agents; `{tool}` alone is enough with one server. At most 64 characters."""
    instructions: str = ""
    """Told to agents before the tool servers' own instructions."""
    reload: Literal["watch", "operator"] | None = None
    """`watch` takes a changed file over at once, `operator` waits for `gateway reload`. Default: `operator` where there are `[operators]`, else `watch`."""
    session_idle_seconds: Positive = 1800
    """After so long without a request an HTTP session ends."""


class ListenTable(Table):
    """Where `gateway serve` listens."""

    host: NonEmpty = "127.0.0.1"
    """The address to listen on. Without `[agents]` it has to be a loopback address."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """`Host` headers to accept besides the listening address."""
    allowed_origins: tuple[str, ...] = ()
    """`Origin` headers to accept besides the listening address."""


class PolicyTable(Table):
    """Who decides, and how it is asked."""

    engine: NonEmpty | None = None
    """`embedded:DIRECTORY` (or a bundle's path), or `opa+http://HOST:PORT`. Default: `embedded:policies`; where that directory does not exist, the policies that the package ships."""
    decision: NonEmpty = "gateway/decision"
    """The path of the decision document, under `data`."""
    timeout_seconds: Positive = 0.5
    """A decision that takes longer is a denial (`policy.timeout`)."""
    shadow: NonEmpty | None = None
    """A second engine that is asked beside the first one and only recorded."""


class RetriesTable(Table):
    """Retries of calls that may be repeated."""

    attempts: Count = 3
    """How often at most, the first time included."""
    backoff_seconds: NotNegative = 0.2
    """The first pause; it doubles, with jitter."""
    budget_percent: Annotated[float, Field(ge=0, le=100)] = 20
    """Retries may be this share of a server's traffic."""


class BreakerTable(Table):
    """When a failing tool server is left alone."""

    failures: Count = 5
    """So many failures …"""
    window_seconds: Positive = 30
    """… within this time open the breaker;"""
    cool_down_seconds: Positive = 15
    """after this time one probe is let through."""


class DefaultsTable(Table):
    """What holds for every server and tool that says nothing else."""

    timeout_seconds: Positive = 60
    """How long a call may take, retries included."""
    retries: RetriesTable = RetriesTable()
    """Retries of calls that may be repeated."""
    breaker: BreakerTable = BreakerTable()
    """When a failing tool server is left alone."""
    max_concurrency: Count = 16
    """Calls in flight at one server."""
    max_request_bytes: Bytes = 4_194_304
    """A larger request is refused (`request.too_large`)."""
    max_result_bytes: Bytes = 16_777_216
    """A larger result is refused (`result.too_large`)."""
    undeclared_arguments: Literal["refuse", "relay"] = "refuse"
    """Arguments that a tool's schema does not name, where it names any and says nothing of others."""
    validate_results: Literal["off", "warn", "refuse"] = "warn"
    """What happens to a result that does not meet the tool's output schema."""


class ToolTable(Table):
    """Settings of one tool, or of all that a glob names (`[servers.git.tools."git_*"]`); the exact name wins."""

    risk: Risk | None = None
    """Its failure domain. Default: the server's."""
    idempotent: bool | None = None
    """May the call be repeated? Default: yes where the risk is `read`, else no."""
    timeout_seconds: Positive | None = None
    """Default: the server's."""
    approval: Literal["hold"] | None = None
    """`hold`: every call waits for a person."""
    cost: NotNegative | None = None
    """What one call costs, in the budgets' unit."""
    serialize_by: NonEmpty | None = None
    """Calls with the same value at this path run one after another, across agents: `arguments.repo_path`."""
    retries: RetriesTable | None = None
    """Default: the server's."""
    breaker: BreakerTable | None = None
    """Default: the server's."""
    max_request_bytes: Bytes | None = None
    """Default: the server's."""
    max_result_bytes: Bytes | None = None
    """Default: the server's."""
    undeclared_arguments: Literal["refuse", "relay"] | None = None
    """Default: the server's."""
    validate_results: Literal["off", "warn", "refuse"] | None = None
    """Default: the server's."""


class ServerTable(Table):
    """A tool server: `command` starts one on stdio, `url` connects to one over HTTP."""

    command: NonEmpty | None = None
    """The program. A path with a `/` is relative to this file, a bare name is looked up in PATH and beside the gateway."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: Mapping[str, str] = Field(default_factory=dict)
    """Its environment, besides a short allow-list; the gateway's own environment is not passed on."""
    cwd: NonEmpty | None = None
    """Its working directory. Default: this file's directory."""
    url: NonEmpty | None = None
    """The endpoint of an HTTP tool server."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Sent with every request to `url`."""
    transport: Literal["stdio", "http", "sse"] | None = None
    """`sse` for the transport of 2024-11-05. Default: `stdio` with `command`, `http` with `url`."""
    roots: tuple[str, ...] = ()
    """What the gateway answers when a child that several sessions share asks for roots."""
    risk: Risk | None = None
    """For its tools. Absent: `write`."""
    trust_annotations: bool = False
    """Let the server's own hints set the risk of its tools, where no tool table does."""
    isolation: Literal["session", "principal", "shared"] | None = None
    """One child or connection for each. Default: `session` on stdio, `principal` over HTTP."""
    asks: tuple[Literal["roots", "elicitation", "sampling"], ...] = ("roots", "elicitation", "sampling")
    """What it may ask of clients."""
    allow: tuple[NonEmpty, ...] | None = None
    """Globs of tools, `resource:…` and `prompt:…`. Absent: everything; present: only what it names."""
    deny: tuple[NonEmpty, ...] = ()
    """Globs of what is not offered, whatever `allow` says."""
    tools: Mapping[str, ToolTable] = Field(default_factory=dict)
    """Settings of single tools."""
    timeout_seconds: Positive | None = None
    """Default: `[defaults]`."""
    retries: RetriesTable | None = None
    """Default: `[defaults]`."""
    breaker: BreakerTable | None = None
    """Default: `[defaults]`."""
    max_concurrency: Count | None = None
    """Default: `[defaults]`."""
    max_request_bytes: Bytes | None = None
    """Default: `[defaults]`."""
    max_result_bytes: Bytes | None = None
    """Default: `[defaults]`."""
    undeclared_arguments: Literal["refuse", "relay"] | None = None
    """Default: `[defaults]`."""
    validate_results: Literal["off", "warn", "refuse"] | None = None
    """Default: `[defaults]`."""


class AgentTable(Table):
    """An agent that may connect. With any, everybody needs a key."""

    key_sha256: NonEmpty | None = None
    """SHA-256 of the key, in hex."""
    key: NonEmpty | None = None
    """The key itself, as a reference: `${env:CLAUDE_KEY}`. At least 128 bits."""
    roles: tuple[NonEmpty, ...] = ()
    """What the policy calls it."""
    servers: tuple[NonEmpty, ...] | None = None
    """Globs of the servers it may use. Absent: all."""
    tools: tuple[ToolPattern, ...] | None = None
    """Globs `server/tool` of what it may use; `server/resource:…` and `server/prompt:…` for the rest. Absent: all; present: only what it names."""
    approver: NonEmpty | None = None
    """Its client may be asked to approve, as this operator."""


class OperatorTable(Table):
    """A person, or a program, that may look and decide."""

    key_sha256: NonEmpty | None = None
    """SHA-256 of the key, in hex."""
    key: NonEmpty | None = None
    """The key itself, as a reference. At least 128 bits."""
    role: Literal["viewer", "approver", "operator"] = "viewer"
    """`viewer` looks, `approver` decides holds as well, `operator` also pauses, kills, retries, trips breakers and reloads."""
    groups: tuple[NonEmpty, ...] = ()
    """Groups that a policy may name as approvers."""


class PoolTable(Table):
    """A failure domain."""

    max_concurrency: Count
    """Calls in flight."""
    queue: Annotated[int, Field(ge=0)] = 0
    """Calls that may wait for a place."""
    queue_seconds: NotNegative = 0
    """How long one may wait."""


class PoolsTable(Table):
    """Failure domains by risk: a stuck external tool does not starve reads."""

    read: PoolTable | None = None
    """For tools of risk `read`."""
    write: PoolTable | None = None
    """For tools of risk `write`."""
    external: PoolTable | None = None
    """For tools of risk `external`."""


class MatchTable(Table):
    """Which calls a quota counts: all of these, each a glob."""

    agent: NonEmpty | None = None
    """The agent's name."""
    role: NonEmpty | None = None
    """One of its roles."""
    session: NonEmpty | None = None
    """The session's id."""
    tool: ToolPattern | None = None
    """`server/tool`."""
    risk: NonEmpty | None = None
    """`read`, `write` or `external`."""


class BudgetTable(Table):
    """What calls may cost together."""

    unit: NonEmpty
    """What is counted: `usd`, `tokens`."""
    amount: Positive
    """How much there is …"""
    window: Window
    """… for this time."""
    cost: NonEmpty = "result._meta.cost"
    """Where a result names its cost. A tool's own `cost` is taken where it has one."""
    reserve: NotNegative | None = None
    """Set aside before a call; charged where the result names no cost."""


class QuotaTable(Table):
    """A limit. Every one that matches a call applies."""

    match: MatchTable = MatchTable()
    """Which calls. Default: all."""
    per: Literal["agent", "session", "server", "tool", "gateway"] = "agent"
    """Whom it counts."""
    limit: Annotated[int, Field(ge=0)] | None = None
    """Calls …"""
    window: Window | None = None
    """… in this time: `1h` (rolling) or `day@Europe/Berlin` (calendar)."""
    count: Literal["forwarded", "arrived"] = "forwarded"
    """`arrived`: refused calls count too; kept in memory, so that a restart begins anew."""
    in_flight: Count | None = None
    """Calls at the same time."""
    wall_seconds: Positive | None = None
    """How long a session may last."""
    budget: BudgetTable | None = None
    """What calls may cost together."""


class WhenTable(Table):
    """What an interrupt watches for: one of these."""

    identical_calls: Count | None = None
    """The same tool with the same arguments, so often."""
    repeated_result: Count | None = None
    """The same result, so often."""
    failures: Count | None = None
    """Calls that failed."""
    calls: Count | None = None
    """Calls at all."""
    distinct_tools: Count | None = None
    """Different tools."""
    first_seen_tool: bool | None = None
    """A tool that this agent never used before."""
    sequence: tuple[ToolPattern, ...] | None = None
    """Tools in this order, others in between allowed: `["web/*", "mail/send"]`."""
    result_bytes: Bytes | None = None
    """Results of this size together."""
    within: Duration | None = None
    """In this time. Default: in the session."""


class InterruptTable(Table):
    """A rule that stops an agent by what it does."""

    name: RuleName
    """Named in refusals and records."""
    when: WhenTable
    """What it watches for."""
    per: Literal["agent", "session"] = "agent"
    """Whom it watches."""
    then: Literal["deny", "hold", "pause-session", "pause-agent", "kill-session", "kill-agent"]
    """What happens."""
    for_: Annotated[Duration | None, Field(alias="for")] = None
    """How long a pause lasts. Absent: until an operator resumes."""
    reason: str = ""
    """Told to the agent."""


class IdempotencyTable(Table):
    """Calls with a key are done once."""

    ttl: Duration = 86400.0
    """How long an outcome is kept under its key."""
    suppress_duplicates: Duration = 0.0
    """Write calls without a key that equal an earlier one within this time are answered by its outcome. `0s`: off."""


class MaxPendingTable(Table):
    """How many calls may wait for a person."""

    agent: Count = 5
    """Of one agent."""
    gateway: Count = 200
    """Of all."""


class NotifyTable(Table):
    """A webhook that is told of holds."""

    url: NonEmpty
    """Where to post."""
    secret: NonEmpty
    """Signs the message (Standard Webhooks): `whsec_` and base64 of 24 to 64 random bytes."""
    format: Literal["json", "slack"] = "json"
    """How the message looks."""
    payload: Literal["summary", "full"] = "summary"
    """`full`: with arguments."""
    operator: NonEmpty | None = None
    """Signed replies (`POST /api/v1/webhooks/N`, the first is 1) act as this operator. Absent: replies are refused."""


class ApprovalsTable(Table):
    """Calls that wait for a person."""

    inline_wait_seconds: NotNegative = 25
    """How long a call waits before it is answered `held`."""
    expires_seconds: Positive = 3600
    """How long a decision may take."""
    approval_valid_seconds: Positive = 900
    """How long after the decision the call may come."""
    on_expiry: Literal["reject", "approve"] = "reject"
    """`approve` works for risk `read` only and is recorded as decided by expiry."""
    max_pending: MaxPendingTable = MaxPendingTable()
    """How many calls may wait."""
    notify: tuple[NotifyTable, ...] = ()
    """Who is told."""


class RecordingTable(Table):
    """What is kept of calls."""

    arguments: bool = True
    """Keep arguments."""
    results: bool = True
    """Keep results."""
    redact: tuple[NonEmpty, ...] = ()
    """Path globs that are erased: `**.password`."""
    retain: Duration | None = None
    """How long. Absent: for ever."""
    max_bytes: Size | None = None
    """How much; the oldest sealed segments go first. Absent: no limit."""
    max_payload_bytes: Bytes = 1_048_576
    """Of a larger payload only hash and size are kept."""


class EvidenceTable(Table):
    """How records are proven."""

    checkpoint_seconds: Positive = 60
    """How often the head of the chain is signed."""
    checkpoints_to: tuple[NonEmpty, ...] = ()
    """Where checkpoints are copied: `file:…`, `https://…`."""


class Document(Table):
    """The whole file. Every table may be absent; without `[servers.…]` there is nothing to call."""

    gateway: GatewayTable = GatewayTable()
    listen: ListenTable = ListenTable()
    policy: PolicyTable = PolicyTable()
    defaults: DefaultsTable = DefaultsTable()
    servers: Mapping[str, ServerTable] = Field(default_factory=dict)
    agents: Mapping[str, AgentTable] | None = None
    operators: Mapping[str, OperatorTable] | None = None
    pools: PoolsTable = PoolsTable()
    quotas: tuple[QuotaTable, ...] = ()
    interrupts: tuple[InterruptTable, ...] = ()
    idempotency: IdempotencyTable = IdempotencyTable()
    approvals: ApprovalsTable = ApprovalsTable()
    recording: RecordingTable = RecordingTable()
    evidence: EvidenceTable = EvidenceTable()


LATER: frozenset[str] = frozenset({"gateway.store=postgresql", "gateway.counters=redis"})
"""Keys, some with a value's scheme, whose meaning is fixed and that are refused until they do something."""


def inactive_keys(data: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """The keys of a parsed file that are known but do nothing yet: each with its path and its name in `LATER`."""
    found: list[tuple[tuple[str, ...], str]] = []
    for section in sorted(LATER):
        path, _, scheme = section.partition("=")
        for place, value in _at(data, tuple(path.split(".")), ()):
            if not scheme or (isinstance(value, str) and value.startswith(scheme)):
                found.append((place, section))
    return found


def _at(value: Any, parts: tuple[str, ...], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if not parts:
        return [(path, value)]
    if not isinstance(value, Mapping):
        return []
    keys = list(value) if parts[0] == "*" else [parts[0]] if parts[0] in value else []
    return [hit for key in keys for hit in _at(value[key], parts[1:], (*path, key))]
