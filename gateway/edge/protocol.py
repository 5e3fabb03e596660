"""The protocol's own words, both eras: versions, methods, `_meta` keys, error codes. Constants only."""

from typing import Final

MODERN: Final = "2026-07-28"
"""The stateless revision: every request carries its envelope in `_meta`."""

MODERN_VERSIONS: Final = (MODERN,)
LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The handshake revisions, newest first."""

LATEST_LEGACY: Final = LEGACY_VERSIONS[0]
DEFAULT_LEGACY: Final = "2025-03-26"
"""What an HTTP request without a version header speaks, by specification."""

BATCHES: Final = "2025-03-26"
"""The one revision with JSON-RPC batches."""

# --- the envelope (2026-07-28, basic/index) ---

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
CLIENT_KEY: Final = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
PROGRESS_TOKEN: Final = "progressToken"

HOP_KEYS: Final = frozenset({VERSION_KEY, CAPABILITIES_KEY, CLIENT_KEY, LOG_LEVEL_KEY, PROGRESS_TOKEN})
"""Keys of a request's `_meta` that belong to this connection: read here, and made anew towards the tool server."""

SESSION_KEY: Final = "gateway/session"
REFUSAL_KEY: Final = "gateway/refusal"

# --- error codes ---

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32002
URL_ELICITATION_REQUIRED: Final = -32042
"""Both of the handshake era, and retired since."""
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800
"""Ends the stream of a cancelled request on handshake-era HTTP, where a stream ends with a response (as the SDK does)."""

REFUSED: Final = -31000
"""Our own: the gateway refused, held or failed the request; `data` is the `gateway/refusal` object."""

STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The HTTP status of an error answered as JSON on 2026-07-28; 200 for every other."""

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

ASKING: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a tool server may ask of a client, and the capability that the client must have declared."""

LIST_CHANGED: Final = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
}

RESOURCE_UPDATED: Final = "notifications/resources/updated"
LOG_MESSAGE: Final = "notifications/message"
PROGRESS: Final = "notifications/progress"
