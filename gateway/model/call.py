"""What an agent asks: a `Call`, the frozen value that passes through the stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gateway.model.value import Value
from gateway.model.value import field as value_field

if TYPE_CHECKING:
    from gateway.model.snapshot import Entry, Snapshot


class Risk(StrEnum):
    """The failure domain of a tool. Absent a declaration a tool is `WRITE`: nothing is taken as harmless."""

    READ = "read"
    WRITE = "write"
    EXTERNAL = "external"


class Method:
    """The methods that become calls. A method outside these is a call only as an extension (CONTRACT 4)."""

    CALL_TOOL = "tools/call"
    GET_PROMPT = "prompts/get"
    READ_RESOURCE = "resources/read"
    SUBSCRIBE = "resources/subscribe"
    COMPLETE = "completion/complete"

    ALL = frozenset({CALL_TOOL, GET_PROMPT, READ_RESOURCE, SUBSCRIBE, COMPLETE})


class TargetType(StrEnum):
    """What a call is about (`resource.type` of the policy question)."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    METHOD = "method"
    """An extension's method that the gateway does not know itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks: an agent of `[agents]`, or `local`."""

    id: str
    roles: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] | None = None
    """Globs of the servers this agent may use; None where its configuration says nothing (all)."""
    tools: tuple[str, ...] | None = None
    """Globs `server/tool`; None where its configuration says nothing (all)."""


LOCAL = Principal(id="local", roles=("local",))
"""The one principal of a gateway without `[agents]`."""


class Client(Value, frozen=True, kw_only=True):
    """The agent's program, as it named itself. Unverified."""

    name: str = ""
    version: str = ""
    protocol_version: str = ""
    transport: str = ""
    """`stdio` or `http`."""
    capabilities: Mapping[str, Any] = value_field(default_factory=dict)
    """The client's own capabilities, raw; they are what a tool server sees as its caller's."""
    info: Mapping[str, Any] = value_field(default_factory=dict)
    """`clientInfo` as received."""


class Call(Value, frozen=True, kw_only=True):
    """One request of an agent on its way through the chain.

    A stage never changes a call; it answers with another one (`Proceed(call=...)`), which the later stages see. What the
    agent sent and what will be forwarded are both here, because approvals and records need both.
    """

    id: str
    """Unique, sortable by time (UUID version 7)."""
    method: str
    """`tools/call`, ... as in MCP; `action.name` of the policy question."""
    type: TargetType
    target: str
    """What the agent named: the tool's or prompt's name towards agents, the resource's URI, the method."""
    arguments: Any
    """The arguments as they will be forwarded (a dict, or None where the request had none)."""
    received_arguments: Any
    """The arguments as the agent sent them."""
    params: Mapping[str, Any]
    """All of the request's params as received, without `_meta`."""
    meta: Mapping[str, Any]
    """The `_meta` that will be forwarded: the agent's, without keys under `gateway/`."""
    principal: Principal
    session_id: str
    client: Client
    snapshot: "Snapshot"
    """Configuration, catalogue and policy, taken once for the whole call."""
    received_at: float
    """Seconds since the epoch, from the clock port."""
    time_ns: int
    """The same instant in nanoseconds: the clock of the policy question."""
    deadline: float | None = None
    """On the event loop's clock (`anyio.current_time()`), set by `resolve` from the tool's timeout."""
    trace_id: str = ""
    idempotency_key: str | None = None
    why: str | None = None
    """The agent's stated reason (`gateway/why`), unverified."""
    entry: "Entry | None" = None
    """What `resolve` found: the tool, prompt, resource or template."""
    server: str = ""
    """Set by `resolve`."""
    name: str = ""
    """The name at the tool server (tool or prompt), or the resource's URI. Set by `resolve`."""
    risk: Risk = Risk.WRITE
    """Set by `resolve`."""
    logical_id: str = ""
    """The first round's id where a call needs several rounds (`input_required`), else its own id."""
    continues: bool = False
    """It brings what the tool server asked for in the round before, for the first time: no call of its own to `interrupt`."""
    replay_of: str | None = None
    """The recorded call that this one repeats (`replay resend`, a dead letter's retry)."""
    view_sha256: str = ""
    """Of the kept document of what this principal could see; set by `resolve`, empty where nothing is kept."""
    waited_for: str | None = None
    """The hold that this call waited for in-band: it is the same call of the agent, asked again now."""
    apart: bool = False
    """It waits for a person's approval, polls for it or was released by it, and so counts neither in interrupts nor in
    `recent`. Set by `interrupt`."""
    approval: Mapping[str, Any] | None = None
    """What `context.approval` of the policy question says: the approval that this exact call has. Set by `resolve`."""
    obligations: tuple["Obligation", ...] = ()
    """What the policy asks to be done with the result and the record; set by `authorize`."""
    hold_reasons: tuple["HoldReason", ...] = ()
    """Why a person has to approve; gathered by `interrupt`, `resolve` (the tool's own) and `authorize`."""

    @property
    def asked(self) -> Any:
        """What the agent asks for: its arguments; of a method that the gateway does not know itself, all of its params."""
        return self.params if self.type is TargetType.METHOD else self.received_arguments

    @property
    def sent(self) -> Any:
        """The same, as it will be forwarded."""
        return self.params if self.type is TargetType.METHOD else self.arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What the policy demands beside its answer (CONTRACT 4): a closed set of ids."""

    id: str
    paths: tuple[str, ...] = ()
    """Path globs, for `redact_result` and `redact_arguments`."""
    path: str = ""
    value: Any = None
    """For `set_argument`."""
    max_bytes: int | None = None
    """For `limit_result`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReason:
    """One reason to hold a call for a person; each needs its own approvers."""

    code: str
    reason: str = ""
    approvers: tuple[str, ...] = ()
    """`group:NAME` or an operator's id; empty: any operator who may approve."""
    expires_seconds: float | None = None
    distinct: bool = False
    source: str = "policy"
    """`policy`, `tool` or `interrupt:NAME`."""
