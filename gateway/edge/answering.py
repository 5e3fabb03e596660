"""The requests that are no calls: discovery, lists, ping, log level. The same for HTTP and stdio."""

from gateway.edge import wire
from gateway.edge.calls import Asked
from gateway.edge.lists import LISTS, Lists, UnknownCursor
from gateway.edge.parsing import Request
from gateway.edge.protocol import (
    INVALID_PARAMS,
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    LOG_LEVELS,
    METHOD_NOT_FOUND,
)
from gateway.model.call import Client
from gateway.model.events import LogLevelSet


async def answer(asked: Asked, lists: Lists, request: Request) -> wire.Reply:
    """The answer to a request that is not a call; -32601 for what is unknown in its era."""
    params = request.params or {}
    method = request.method
    if method in LISTS:
        try:
            page = await lists.page(method, asked.principal, params.get("cursor"), modern=asked.modern)
        except UnknownCursor as problem:
            return wire.error(request.id, INVALID_PARAMS, str(problem))
        return wire.result(request.id, page)
    if asked.modern:
        if method == "server/discover":
            return wire.result_of(request.id, await lists.discover(asked.principal))
        return unknown_method(request)
    match method:
        case "ping":
            return wire.result_of(request.id, {})
        case "logging/setLevel":
            level = params.get("level")
            if level not in LOG_LEVELS:
                return wire.error(request.id, INVALID_PARAMS, f"params.level is none of {', '.join(LOG_LEVELS)}")
            asked.session.log_level = level
            asked.gateway.events.publish(
                LogLevelSet(
                    at=asked.gateway.clock.time_ns() / 1e9,
                    session_id=asked.session.id,
                    principal=asked.principal.id,
                    level=level,
                )
            )
            return wire.result_of(request.id, {})
        case "resources/unsubscribe":
            uri = params.get("uri")
            if not isinstance(uri, str):
                return wire.error(request.id, INVALID_PARAMS, "params.uri is missing or not a string")
            if uri in asked.session.subscribed:
                asked.session.subscribed.discard(uri)
                asked.session.unsubscribe((uri,))
            return wire.result_of(request.id, {})
        case _:
            return unknown_method(request)


def unknown_method(request: Request) -> wire.Reply:
    """-32601."""
    return wire.error(request.id, METHOD_NOT_FOUND, f"Method not found: {request.method}")


def negotiated(request: Request) -> str:
    """The version that a handshake settles on: the client's where we speak it, else our newest of that era."""
    offered = (request.params or {}).get("protocolVersion")
    return offered if offered in LEGACY_VERSIONS else LATEST_LEGACY


def introduced(request: Request, version: str, transport: str) -> Client | str:
    """The client as its `initialize` introduces it, or what is wrong with that."""
    params = request.params or {}
    info, capabilities = params.get("clientInfo"), params.get("capabilities")
    if not isinstance(params.get("protocolVersion"), str):
        return "params.protocolVersion is missing or not a string"
    if capabilities is not None and not isinstance(capabilities, dict):
        return "params.capabilities is not an object"
    if info is not None and not isinstance(info, dict):
        return "params.clientInfo is not an object"
    return client_of(info, capabilities, version, transport)


def client_of(info: object, capabilities: object, version: str, transport: str) -> Client:
    """The `Client` of what a program says of itself."""
    known = info if isinstance(info, dict) else {}
    name, number = known.get("name"), known.get("version")
    return Client(
        name=name if isinstance(name, str) else "",
        version=number if isinstance(number, str) else "",
        protocol_version=version,
        transport=transport,
        capabilities=capabilities if isinstance(capabilities, dict) else {},
        info=known,
    )
