"""The exceptions of the control plane, and the few that cross a port. The data plane returns values."""


class GatewayError(Exception):
    """The root of the gateway's own exceptions. The text is one line for a person: place, fault, mend."""


class ConfigurationError(GatewayError):
    """A `servers.toml` that cannot be used.

    Args:
        message: what is wrong.
        file: path of the file, as the user wrote it.
        line: 1-based line, where it is known.
        key: dotted key, where it is known.
        mend: what to do about it.
    """

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "", mend: str = "") -> None:
        self.message, self.file, self.line, self.key, self.mend = message, file, line, key, mend
        place = file + (f":{line}" if line is not None else "")
        parts = [part for part in (place, key, message) if part]
        super().__init__(": ".join(parts) + (f"; {mend}" if mend else ""))


class PolicyLoadError(GatewayError):
    """Policies that do not compile or do not load; the text has every `file:line:col: code: message`, a line each."""


class JournalUnavailable(GatewayError):
    """The journal could not commit. Nothing may be forwarded."""


class WriteConflict(JournalUnavailable):
    """A write that belongs to a call met another state than its stage saw (an approval was claimed twice, say).

    Nothing of the entry was committed.
    """


class StoreBusy(GatewayError):
    """Another process owns the store (`one owner a store`)."""


class PolicyUnavailable(GatewayError):
    """The policy engine cannot be reached."""


class PolicyTimeout(GatewayError):
    """The policy engine did not answer before the deadline."""


class PolicyEvaluationError(GatewayError):
    """The policy failed while it was evaluated; the text names the rule's place."""
