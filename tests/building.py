"""Builders of model values for tests: everything has a default, a test names what it is about."""

from collections.abc import Mapping
from typing import Any

from gateway.decide.catalogue import merge
from gateway.decide.schema import compile_schema
from gateway.model.call import Call, Client, Principal, Risk, TargetType
from gateway.model.snapshot import Catalogue, Entry, ServerCatalogue, Snapshot
from gateway.ports import UNDEFINED


class AllowAll:
    """A policy engine that answers `true`; for tests that are not about policy."""

    revision = "test"

    def __init__(self, answer: Any = True, visible: bool | None = None) -> None:
        self.answer, self._visible = answer, visible

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        return self.answer

    async def visible(self, questions: Any) -> list[bool | None]:
        return [self._visible for _ in questions]


NO_ANSWER = UNDEFINED


def tool(
    name: str = "echo", server: str = "fixture", risk: Risk = Risk.READ, schema: Any = None, **changes: Any
) -> Entry:
    """A tool's entry; `schema` is its inputSchema."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}} if schema is None else schema
    values: dict[str, Any] = {
        "type": TargetType.TOOL,
        "server": server,
        "name": name,
        "exposed": name,
        "definition": {"name": name, "inputSchema": schema},
        "definition_sha256": "0" * 64,
        "risk": risk,
        "idempotent": risk is Risk.READ,
        "arguments": compile_schema(schema, undeclared="refuse"),
    }
    return Entry(**{**values, **changes})


def catalogue(*entries: Entry, tool_names: str = "{server}__{tool}") -> Catalogue:
    """The merged catalogue of the entries' servers, all available."""
    servers = {entry.server for entry in entries}
    return merge(
        {
            server: ServerCatalogue(
                server=server, available=True, entries=tuple(e for e in entries if e.server == server)
            )
            for server in servers
        },
        tool_names,
    )


def snapshot(*entries: Entry, policy: Any = None, **changes: Any) -> Snapshot:
    """A snapshot over the entries, with a policy that allows everything."""
    values: dict[str, Any] = {
        "number": 1,
        "configuration_sha256": "0" * 64,
        "catalogue": catalogue(*(entries or (tool(),))),
        "policy": policy or AllowAll(),
    }
    return Snapshot(**{**values, **changes})


def call(entry: Entry | None = None, arguments: Any = None, **changes: Any) -> Call:
    """A call of a tool, as `resolve` leaves it where `entry` is given."""
    values: dict[str, Any] = {
        "id": "call-1",
        "method": "tools/call",
        "type": TargetType.TOOL,
        "target": entry.exposed if entry is not None else "fixture__echo",
        "arguments": {} if arguments is None else arguments,
        "received_arguments": {} if arguments is None else arguments,
        "params": {},
        "meta": {},
        "principal": Principal(id="local", roles=("local",)),
        "session_id": "session-1",
        "client": Client(name="tests"),
        "received_at": 1_795_205_460.0,
        "time_ns": 1_795_205_460_000_000_000,
    }
    if entry is not None:
        values.update(entry=entry, server=entry.server, name=entry.name, risk=entry.risk)
    values.update(changes)
    if "snapshot" not in values:
        values["snapshot"] = snapshot(entry) if entry is not None else snapshot()
    return Call(**values)
