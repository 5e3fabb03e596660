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

REMEDIES: dict[Code, str] = {
    Code.REQUEST_INVALID: "The client has to send another request; the message says what is wrong with this one.",
    Code.REQUEST_TOO_LARGE: "Send less, or raise max_request_bytes.",
    Code.SCHEMA_INVALID: "Mend the arguments at the paths named. Is the schema too strict: undeclared_arguments, or the tool server.",
    Code.POLICY_DENIED: "Is it meant to be allowed: change the rule that denied it, or add one that allows it; `gateway policy eval` tries it.",
    Code.POLICY_UNDEFINED: "Give data.gateway.decision a value for this question; `gateway policy eval` shows where it has none.",
    Code.POLICY_ERROR: "Mend the policy; the error stands in the facts of authorize and in the log.",
    Code.POLICY_TIMEOUT: "`gateway policy bench` shows what is slow; [policy] timeout_seconds is the limit.",
    Code.POLICY_MALFORMED: "The decision has to be of the form in docs/policies.md; `gateway policy check` and `eval` show it.",
    Code.POLICY_UNKNOWN_OBLIGATION: "Use an obligation that docs/policies.md names.",
    Code.POLICY_UNSTABLE: "Let set_argument lead to a call that the policy allows unchanged.",
    Code.POLICY_UNAVAILABLE: "Is the OPA server up, and its URL in [policy] right? `gateway doctor` tries it.",
    Code.QUOTA_EXHAUSTED: "Wait until the window has moved on, or change [[quotas]]; `gateway quotas` shows the use.",
    Code.BREAKER_OPEN: "Mend the tool server; the breaker closes by itself, or by `gateway breakers reset`.",
    Code.POOL_FULL: "Try again; if it is frequent, raise max_concurrency, queue or queue_seconds.",
    Code.INTERRUPT_DENIED: "See whether the agent loops; [[interrupts]] has the rule.",
    Code.GATEWAY_PAUSED: "`gateway status` shows who paused it and why; `gateway resume` lets it go on.",
    Code.KILLED: "`gateway status` shows who ended it and why; `gateway resume` allows it again.",
    Code.HOLD_PENDING: "Decide: `gateway holds show`, `approve` or `deny`, or the console; then the same call is made again.",
    Code.HOLD_DENIED: "The person's comment is in `gateway holds show`; the same call can be asked for again once the hold expires.",
    Code.HOLD_EXPIRED: "Make the call again to ask anew; [approvals] expires_seconds is the time for a decision.",
    Code.HOLD_MISMATCH: "Something changed between approval and use; make the call again to ask anew.",
    Code.HOLD_LIMIT: "Decide on what waits (`gateway holds list`), or raise [approvals] max_pending.",
    Code.IDEMPOTENCY_CONFLICT: "The client has to use a new key for other arguments.",
    Code.SERVER_UNAVAILABLE: "`gateway servers` and `gateway doctor` say why it cannot be reached.",
    Code.SERVER_TIMEOUT: "Find out whether it ran, if it is in doubt (`gateway dead-letters`); timeout_seconds is the limit.",
    Code.SERVER_LOST: "Find out whether it ran, if it is in doubt (`gateway dead-letters`); the log has the server's last lines.",
    Code.SERVER_CAPACITY: "Try again; if it is frequent, share the server (isolation), or raise its limit.",
    Code.RESULT_INVALID: "Mend the tool server, or set validate_results to warn.",
    Code.RESULT_TOO_LARGE: "Ask for less, or raise max_result_bytes or the policy's limit_result.",
    Code.RESULT_UNREDACTABLE: "The call has run. Let the tool answer in JSON, or redact by other paths.",
    Code.REPLAY_MISSING: "The message names the nearest recorded call; --loose takes calls in any order.",
    Code.JOURNAL_UNAVAILABLE: "`gateway status` shows the journal's fault: is the disk full, or the store of another version?",
    Code.CANCELLED: "Nothing, unless it is in doubt whether it ran (`gateway dead-letters`).",
    Code.GATEWAY_INTERNAL: "This is a defect: report it with the log's lines of this call.",
}
"""What who runs the gateway can do about each."""
