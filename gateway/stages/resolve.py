"""Stage 1: which tool server, which tool, prompt or resource, with its schema and risk.

It looks only into the principal's view, the one that lists are made from, so a hidden item and an unknown one are the
same to an agent, byte for byte. A resource belongs to the server that lists its URI, else to the one whose result linked
it in this session, else to the longest matching template; a tie or none is -32602. What the configuration's `deny` names is
read by no link and no template either, however its URI is written.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.decide.hold import Hold
from gateway.decide.own import SERVER as OWN_SERVER
from gateway.decide.uris import denied, fits, literal_length
from gateway.model.call import Call, HoldReason, Method, Risk, TargetType
from gateway.model.events import Event, SessionEnded
from gateway.model.refusal import Code
from gateway.model.snapshot import Entry, Snapshot, View
from gateway.model.value import replace
from gateway.model.verdict import Completed, Outcome, Proceed, Refuse, Verdict
from gateway.ports import Directory, Events, Settlement

INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601

NOTHING: Mapping[str, str] = {}
MAX_LINKS = 1000
"""Resource links remembered a session: the oldest are forgotten first."""


class Resolve:
    """Finds what a call is about, and the approval that this exact call has.

    Args:
        approval: the approved hold of a call; an operator may have narrowed its arguments.
    """

    name = "resolve"

    def __init__(
        self,
        directory: Directory,
        events: Events,
        approval: Callable[[Call], Hold | None] = lambda call: None,
        own: Callable[[Call], Verdict] | None = None,
    ) -> None:
        self._directory, self._approval, self._own = directory, approval, own
        self._links: dict[str, OrderedDict[str, str]] = {}
        """Session to URI to the server whose result linked it."""
        events.subscribe(self._forget, SessionEnded)

    async def admit(self, call: Call) -> Verdict:
        view = await self._directory.view(call.snapshot, call.principal)
        match call.type:
            case TargetType.TOOL:
                entry, missing = view.tools.get(call.target), f"Unknown tool: {call.target}"
            case TargetType.PROMPT:
                entry, missing = view.prompts.get(call.target), f"Unknown prompt: {call.target}"
            case TargetType.RESOURCE:
                entry, missing = self._resource(call, view), f"Resource not found: {call.target}"
            case TargetType.METHOD:
                entry, missing = _extension(call, view), "Method not found"
        if entry is None:
            error: dict[str, Any] = {"code": INVALID_PARAMS, "message": missing}
            if call.type is TargetType.RESOURCE:
                error["data"] = {"uri": call.target}
            elif call.type is TargetType.METHOD:
                error = {"code": METHOD_NOT_FOUND, "message": missing}
            seen = replace(call, view_sha256=view.sha256) if view.sha256 else None
            return Refuse(code=Code.REQUEST_INVALID, message=missing, data=error, call=seen)
        resource = call.type is TargetType.RESOURCE and call.method != Method.COMPLETE
        reasons = call.hold_reasons
        if entry.approval_hold:
            reasons = (
                *reasons,
                HoldReason(code="tool_approval", reason="the configuration asks for approval", source="tool"),
            )
        found = replace(
            call,
            entry=entry,
            server=entry.server,
            name=call.target if resource else entry.name,
            risk=entry.risk,
            deadline=asyncio.get_running_loop().time() + entry.timeout_seconds,
            hold_reasons=reasons,
            view_sha256=view.sha256,
        )
        if entry.server == OWN_SERVER and self._own is not None:
            return self._own(found)
        if (hold := self._approval(found)) is not None:
            said = {"hold_id": hold.id, "operators": [word.operator for word in hold.decisions], "at": hold.decided_at}
            found = replace(
                found, approval=said, arguments=hold.binding.arguments if hold.narrowed else found.arguments
            )
        return Proceed(call=found)

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        """Remembers the resources that a result links, so that they can be read from the same server."""
        if isinstance(outcome, Completed) and outcome.result is not None and b"resource_link" in outcome.result:
            links = self._links.setdefault(call.session_id, OrderedDict())
            for uri in _linked(orjson.loads(outcome.result)):
                links[uri] = call.server
                links.move_to_end(uri)
                if len(links) > MAX_LINKS:
                    links.popitem(last=False)
        return None

    def _resource(self, call: Call, view: View) -> Entry | None:
        uri = call.target
        if (listed := view.resources.get(uri)) is not None:
            return listed
        if call.method == Method.COMPLETE:
            named = [entry for entry in view.templates if entry.name == uri]
            return named[0] if len(named) == 1 else None
        catalogue = call.snapshot.catalogue
        # What its server lists and this principal may not see is reached by no link and no template of that server.
        hidden = catalogue.resources.get(uri)
        closed = {server for server in view.servers if denied(catalogue.servers[server].offers, uri)}
        if hidden is not None:
            closed.add(hidden.server)
        if (server := self._links.get(call.session_id, NOTHING).get(uri)) is not None and server in view.servers:
            linked = linked_resource(call.snapshot, server, uri)
            offers = catalogue.servers[server].offers
            offered = server not in closed and (offers is None or offers.permits(linked.type.value, uri))
            return linked if offered and self._directory.permits(call.principal, linked) else None
        fitting = [entry for entry in view.templates if entry.server not in closed and fits(entry.name, uri)]
        if not fitting:
            return None
        longest = max(literal_length(entry.name) for entry in fitting)
        best = [entry for entry in fitting if literal_length(entry.name) == longest]
        return best[0] if len(best) == 1 else None

    def _forget(self, event: Event) -> None:
        if isinstance(event, SessionEnded):
            self._links.pop(event.session_id, None)


def linked_resource(snapshot: Snapshot, server: str, uri: str) -> Entry:
    """The entry of a resource that no list names: as the server's other resources are treated."""
    catalogue = snapshot.catalogue.servers[server]
    alike = next((entry for entry in catalogue.entries if entry.type is TargetType.RESOURCE), None)
    base = alike or catalogue.prototype
    if base is not None:
        return replace(
            base,
            type=TargetType.RESOURCE,
            name=uri,
            exposed=uri,
            definition={"uri": uri},
            definition_sha256="",
            is_template=False,
        )
    return Entry(
        type=TargetType.RESOURCE,
        server=server,
        name=uri,
        exposed=uri,
        definition={"uri": uri},
        definition_sha256="",
        risk=Risk.WRITE,
    )


def _extension(call: Call, view: View) -> Entry | None:
    """The server that is meant by a method of an extension: exactly one visible server advertises it, or none is meant."""
    found: list[str] = []
    for server in view.servers:
        capabilities = call.snapshot.catalogue.servers[server].capabilities
        extensions = capabilities.get("extensions")
        if isinstance(extensions, Mapping) and any(belongs(call.method, identifier) for identifier in extensions):
            found.append(server)
    if len(found) != 1:
        return None
    prototype = call.snapshot.catalogue.servers[found[0]].prototype
    entry = Entry(
        type=TargetType.METHOD,
        server=found[0],
        name=call.method,
        exposed=call.method,
        definition={},
        definition_sha256="",
    )
    return replace(entry, timeout_seconds=prototype.timeout_seconds) if prototype is not None else entry


def belongs(method: str, extension: str) -> bool:
    """Whether a method is one of an extension's: named below its id, or below the last part of its id.

    `io.modelcontextprotocol/tasks` has `tasks/get`; `com.example/search` has `com.example/search/run`.
    """
    return method.startswith(extension + "/") or method.split("/", 1)[0] == extension.rsplit("/", 1)[-1]


def _linked(value: Any) -> list[str]:
    """The URIs of the resource links in a result, wherever they stand."""
    found: list[str] = []
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if part.get("type") == "resource_link" and isinstance(uri := part.get("uri"), str):
                found.append(uri)
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
    return found
