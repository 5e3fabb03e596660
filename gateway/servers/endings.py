"""What the answer to a request, or its absence, means: for the call it was made for, and for a person."""

from typing import assert_never

from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Refused
from gateway.servers import wire
from gateway.servers.exchange import Answered, Ending, Unanswered
from gateway.servers.wire import Envelope, Unset


def outcome(ending: Ending, call: Call) -> Outcome:
    """What an ending means for the call (CONTRACT 5)."""
    if isinstance(ending, Answered):
        return Completed(result=ending.result, error=ending.error)
    message = f"The tool server {call.server!r} gave no answer: {ending.reason}"
    match ending.code:
        case Code.RESULT_TOO_LARGE | Code.RESULT_INVALID | Code.REQUEST_INVALID:
            return Refused(stage="forward", code=ending.code, message=message, executed=ending.ran)
        case _:
            may_have_run = ending.ran != "no"
            return Failed(
                code=ending.code,
                message=message,
                in_doubt=may_have_run and not (call.entry is not None and call.entry.idempotent),
                sent=may_have_run,
                retry_after_seconds=ending.retry_after_seconds,
            )


def of_answer(message: Envelope, max_result_bytes: int) -> Ending:
    """What an answer amounts to."""
    try:
        if not isinstance(message.error, Unset):
            error = wire.relayed(message.error)
            if error != b"null":
                if error[:1] != b"{":
                    return Unanswered(Code.SERVER_LOST, "its error is no JSON object", "unknown")
                return Answered(error=error)
        if isinstance(message.result, Unset):
            return Unanswered(Code.SERVER_LOST, "its answer has neither result nor error", "unknown")
        if len(memoryview(message.result)) > max_result_bytes:
            return too_large(max_result_bytes)
        result = wire.relayed(message.result)
    except wire.Garbage as fault:
        return Unanswered(Code.SERVER_LOST, f"its answer cannot be read ({fault})", "unknown")
    if result[:1] != b"{":
        return Unanswered(Code.SERVER_LOST, "its result is no JSON object", "unknown")
    return Answered(result=result)


def timed_out(ending: Ending | None) -> bool:
    return isinstance(ending, Unanswered) and ending.code is Code.SERVER_TIMEOUT


def too_large(limit: int) -> Unanswered:
    return Unanswered(Code.RESULT_TOO_LARGE, f"its result is larger than {limit} bytes", "yes")


def why(ending: Ending | None) -> str:
    """Why one of our own requests failed, for a person."""
    match ending:
        case None:
            return "it did not answer in time"
        case Unanswered():
            return ending.reason
        case Answered(error=bytes() as error):
            parsed = wire.parse_mended(error)
            return f"it answers with the error {parsed.get('code')}: {str(parsed.get('message'))[:200]}"
        case Answered():
            return "its answer is not understood"
        case _:
            assert_never(ending)


def error_code(ending: Ending | None) -> int | None:
    if isinstance(ending, Answered) and ending.error is not None:
        code = wire.parse_mended(ending.error).get("code")
        return code if isinstance(code, int) else None
    return None


def names_our_version(ending: Ending | None) -> bool:
    """Whether a server refused a protocol version and lists one that we speak without a handshake."""
    if ending is None or ending.error is None:
        return False
    error = wire.parse_mended(ending.error)
    data = error.get("data") if error.get("code") == wire.UNSUPPORTED_VERSION else None
    supported = data.get("supported") if isinstance(data, dict) else None
    return isinstance(supported, list) and wire.MODERN in supported
