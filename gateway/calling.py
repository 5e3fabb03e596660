"""One call on an operator's behalf, through the whole chain: what `gateway call` and the console's "try it" do.

There is no second way to a tool server: the call is judged, limited and recorded as the agent's own would be. Whoever calls
this has already proven who they are.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.control import Gateway, new_id
from gateway.edge import wire
from gateway.model.call import Client, Method, Principal
from gateway.model.verdict import Completed

CLIENT = Client(name="gateway call", transport="cli", protocol_version="2026-07-28")


class Alone:
    """The agent's side of a call that nobody can be asked about: questions are answered with an error."""

    capabilities: Mapping[str, Any] = {}
    wants_progress = False
    log_level: str | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        return

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        error = {"code": -32601, "message": "`gateway call` cannot be asked anything"}
        return {key: {"error": error} for key in requests}


async def call_tool(
    gateway: Gateway, principal: Principal, tool: str, arguments: Mapping[str, Any], idempotency_key: str | None = None
) -> dict[str, Any]:
    """Call a tool as an agent would.

    Args:
        tool: `server/tool`, or the tool's name towards agents.

    Returns:
        `call_id`, `answered` (the tool server answered, and with no error of its own), and the wire's `result` or `error`.
    """
    view = await gateway.view(principal)
    exposed = next((name for name, entry in view.tools.items() if f"{entry.server}/{entry.name}" == tool), tool)
    params: dict[str, Any] = {"name": exposed, "arguments": dict(arguments)}
    if idempotency_key is not None:
        params["_meta"] = {"gateway/idempotency-key": idempotency_key}
    session_id = new_id()
    call = gateway.call(
        method=Method.CALL_TOOL, params=params, principal=principal, session_id=session_id, client=CLIENT
    )
    outcome = await gateway.execute(call, Alone())
    message = orjson.loads(wire.answer(1, call, outcome, modern=True).body)
    body = {key: message[key] for key in ("result", "error") if key in message}
    failed = "error" in body or (isinstance(body.get("result"), dict) and body["result"].get("isError") is True)
    return {"call_id": call.id, "answered": isinstance(outcome, Completed) and not failed, **body}
