"""The codes with which the gateway refuses or fails a call: a closed set, the source of docs and schema.

Each code says at which point a call ended and is part of the wire contract (`_meta["gateway/refusal"].code`).
Codes are never reused for another meaning; a new one is an addition to the contract.
"""

from enum import StrEnum


class Code(StrEnum):
    """Why a call did not end with an answer of its tool server. `CODES` explains each in one sentence."""

    REQUEST_INVALID = "request.invalid"
    REQUEST_TOO_LARGE = "request.too_large"
    SCHEMA_INVALID = "schema.invalid"
    POLICY_DENIED = "policy.denied"
    POLICY_UNDEFINED = "policy.undefined"
    POLICY_ERROR = "policy.error"
    POLICY_TIMEOUT = "policy.timeout"
    POLICY_MALFORMED = "policy.malformed"
    POLICY_UNKNOWN_OBLIGATION = "policy.unknown_obligation"
    POLICY_UNSTABLE = "policy.unstable"
    POLICY_UNAVAILABLE = "policy.unavailable"
    QUOTA_EXHAUSTED = "quota.exhausted"
    BREAKER_OPEN = "breaker.open"
    POOL_FULL = "pool.full"
    INTERRUPT_DENIED = "interrupt.denied"
    GATEWAY_PAUSED = "gateway.paused"
    KILLED = "killed"
    HOLD_PENDING = "hold.pending"
    HOLD_DENIED = "hold.denied"
    HOLD_EXPIRED = "hold.expired"
    HOLD_MISMATCH = "hold.mismatch"
    HOLD_LIMIT = "hold.limit"
    IDEMPOTENCY_CONFLICT = "idempotency.conflict"
    SERVER_UNAVAILABLE = "server.unavailable"
    SERVER_TIMEOUT = "server.timeout"
    SERVER_LOST = "server.lost"
    SERVER_CAPACITY = "server.capacity"
    RESULT_INVALID = "result.invalid"
    RESULT_TOO_LARGE = "result.too_large"
    RESULT_UNREDACTABLE = "result.unredactable"
    REPLAY_MISSING = "replay.missing"
    JOURNAL_UNAVAILABLE = "journal.unavailable"
    CANCELLED = "cancelled"
    GATEWAY_INTERNAL = "gateway.internal"


CODES: dict[Code, str] = {
    Code.REQUEST_INVALID: "The request is not one that the gateway can pass on unchanged.",
    Code.REQUEST_TOO_LARGE: "The request is larger than max_request_bytes.",
    Code.SCHEMA_INVALID: "The arguments do not meet the tool's own schema.",
    Code.POLICY_DENIED: "The policy denies the call, or nothing in it allows the call.",
    Code.POLICY_UNDEFINED: "The policy gave no answer to the question.",
    Code.POLICY_ERROR: "The policy failed while it was evaluated.",
    Code.POLICY_TIMEOUT: "The policy did not answer within its time.",
    Code.POLICY_MALFORMED: "The policy's answer is not of the agreed form.",
    Code.POLICY_UNKNOWN_OBLIGATION: "The policy asks for an obligation that the gateway does not know.",
    Code.POLICY_UNSTABLE: "The call that the policy's own change of arguments leads to is not allowed as it is.",
    Code.POLICY_UNAVAILABLE: "The policy engine cannot be reached.",
    Code.QUOTA_EXHAUSTED: "A quota or budget is used up.",
    Code.BREAKER_OPEN: "The tool server failed repeatedly and is given time to recover.",
    Code.POOL_FULL: "All places in the pool of this risk class or server are taken.",
    Code.INTERRUPT_DENIED: "A declared interrupt rule is met.",
    Code.GATEWAY_PAUSED: "The gateway, agent, session, server or tool is paused.",
    Code.KILLED: "An operator or an interrupt ended the session or agent.",
    Code.HOLD_PENDING: "A person has to approve the call and has not decided yet.",
    Code.HOLD_DENIED: "A person denied the call.",
    Code.HOLD_EXPIRED: "Nobody decided on the call in time.",
    Code.HOLD_MISMATCH: "What was approved is not what would run now.",
    Code.HOLD_LIMIT: "Too many calls of this agent wait for approval.",
    Code.IDEMPOTENCY_CONFLICT: "The idempotency key was used before with other arguments.",
    Code.SERVER_UNAVAILABLE: "The tool server cannot be reached; the call did not run.",
    Code.SERVER_TIMEOUT: "The tool server did not answer in time.",
    Code.SERVER_LOST: "The connection to the tool server was lost during the call.",
    Code.SERVER_CAPACITY: "No further connection or child of the tool server may be opened.",
    Code.RESULT_INVALID: "The result does not meet the tool's own output schema.",
    Code.RESULT_TOO_LARGE: "The result is larger than the limit.",
    Code.RESULT_UNREDACTABLE: "The result cannot be redacted as the policy demands and is withheld.",
    Code.REPLAY_MISSING: "The recording holds no such call.",
    Code.JOURNAL_UNAVAILABLE: "The journal cannot be written, so nothing may run.",
    Code.CANCELLED: "The agent cancelled the call.",
    Code.GATEWAY_INTERNAL: "The gateway failed; the call was not forwarded, or its state is recorded.",
}
