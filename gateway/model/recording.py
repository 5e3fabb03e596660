"""The record format, version 1: what the journal writes, what readers read, what is checked against `gateway/schemas/`.

A record is one line of JSON, chained by hash over its exact bytes:

    {"version": 1, "type": "call", "writer": "...", "seq": 17, "at": 1795205460.1, "prev": "<sha-256, hex>", "body": {...}}

`prev` is the SHA-256 of the bytes of the writer's record before (64 zeros for its first). What an agent sent and what it got
are *payloads*: they lie beside the record, which holds only their salted hash (`SHA-256(salt || data)`), so that one
payload can be erased while the chain still verifies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RECORD_VERSION = 1
"""Of the record's form. A reader refuses a higher one; it ignores fields that it does not know."""

FIRST_PREV = "0" * 64
"""`prev` of a writer's first record."""


class RecordType(StrEnum):
    """The closed set of record types; each has a published schema: `gateway/schemas/<type>.schema.json`, of all holds `hold.schema.json`."""

    CALL = "call"
    AUTH_REFUSED = "auth.refused"
    CONFIG_CHANGED = "config.changed"
    POLICY_CHANGED = "policy.changed"
    CATALOGUE_CHANGED = "catalogue.changed"
    OPERATOR_ACTED = "operator.acted"
    OPERATOR_VIEWED = "operator.viewed"
    STATE_CHANGED = "state.changed"
    PROCESS_STARTED = "process.started"
    PROCESS_STOPPED = "process.stopped"
    CHECKPOINT = "checkpoint"
    TOMBSTONE = "tombstone"
    HOLD_OPENED = "hold.opened"
    HOLD_DECIDED = "hold.decided"
    HOLD_CLAIMED = "hold.claimed"
    HOLD_VOIDED = "hold.voided"
    HOLD_EXPIRED = "hold.expired"
    HOLD_DELIVERED = "hold.delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """What is kept of calls (`[recording]`)."""

    arguments: bool = True
    results: bool = True
    redact: tuple[str, ...] = ()
    """Path globs of what is erased before anything is written."""
    max_payload_bytes: int = 1_048_576
    """Of a larger payload only hash and size are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as read back."""

    seq: int
    sha256: str
    """Of the stored bytes."""
    data: bytes
    """The stored bytes themselves."""
    writer: str
    type: str
    at: float
    """Seconds since the epoch."""
    body: Mapping[str, Any]
    payloads: Mapping[str, Any] = field(default_factory=dict)
    """By role (`request`, `response`, `exchange`), decoded; a role whose payload was erased or not kept is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls a list shows. None is no condition; `agent` and `tool` take globs (`git/*`)."""

    agent: str | None = None
    tool: str | None = None
    session: str | None = None
    outcome: str | None = None
    """`completed`, `refused`, `held`, `failed`, or `error` (completed with a tool's own error)."""
    code: str | None = None
    since: float | None = None
    """Seconds since the epoch."""
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """One line of a list of calls."""

    seq: int
    id: str
    at: float
    """When the call was received."""
    agent: str
    session_id: str
    client: str
    method: str
    tool: str
    """`server/name`, or what the agent named where nothing was resolved."""
    risk: str
    outcome: str
    code: str | None
    executed: str
    in_doubt: bool
    """It may have run, and must not be repeated unasked. A read is never in doubt, even where it is unknown."""
    elapsed_us: int | None
    """None where the gateway was killed during the call."""
    recovered: bool
    """Written at a start, for a call that a killed process left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """One agent's session, as far as the store knows it."""

    id: str
    agent: str
    client: str
    first_at: float
    last_at: float
    calls: int
    completed: int
    errors: int
    """Completed with a tool's own error."""
    refused: int
    held: int
    failed: int
    in_doubt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call whose begin is durable and whose outcome is not: in flight, or left behind by a killed process."""

    id: str
    at: float
    command: Mapping[str, Any]
