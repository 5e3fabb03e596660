"""What a tool server offers: all of it, as it gave it, with what the configuration says; faults cost one definition each."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import ItemGlob
from gateway.model.call import Risk, TargetType
from gateway.model.snapshot import ServerCatalogue
from gateway.servers.catalogue import Builder, Listing, canonical
from tests.scripted_server import Scripted, tool
from tests.servers.harness import HERE, pool, scripted, stdio, text, tool_settings


def built(definitions: list[Any], kind: str = "tools", **extra: Any) -> ServerCatalogue:
    """The catalogue of a server that gives these definitions."""
    items = tuple(each if isinstance(each, bytes) else json.dumps(each).encode() for each in definitions)
    settings = stdio("s", "x", [], **extra)
    return Builder().build(settings, Listing(items={kind: items}), available=True, reason="")


def reasons(catalogue: ServerCatalogue) -> dict[str, str]:
    return {each.name: each.reason for each in catalogue.removed}


@pytest.mark.rule("servers.malformed-definition")
@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (b"[]", "no object"),
        (b'{"description": "no name"}', "no name"),
        (b'{"name": 7, "inputSchema": {"type": "object"}}', "no name"),
        ({"name": ""}, "no name"),
        ({"name": "a b", "inputSchema": {"type": "object"}}, "not one that MCP allows"),
        ({"name": "x" * 129, "inputSchema": {"type": "object"}}, "not one that MCP allows"),
        ({"name": "t\u0000", "inputSchema": {"type": "object"}}, "not one that MCP allows"),
        ({"name": "t"}, "inputSchema"),
        ({"name": "t", "inputSchema": {}}, "inputSchema"),
        ({"name": "t", "inputSchema": {"type": "string"}}, "inputSchema"),
        ({"name": "t", "inputSchema": {"type": "object", "properties": {"a": {"type": "no-such"}}}}, "schema"),
        ({"name": "t", "inputSchema": {"type": "object", "$ref": "http://evil.example/x"}}, "$ref"),
        ({"name": "t", "inputSchema": {"type": "object"}, "outputSchema": {"type": 3}}, "schema"),
        ({"name": "t", "inputSchema": {"type": "object"}, "outputSchema": "x"}, "outputSchema"),
        ({"name": "t", "inputSchema": {"type": "object"}, "description": 3}, "description"),
        ({"name": "t", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": "yes"}}, "readOnlyHint"),
        ({"name": "t", "inputSchema": {"type": "object"}, "annotations": []}, "annotations"),
        ({"name": "t", "inputSchema": {"type": "object"}, "_meta": 1}, "_meta"),
        ({"name": "t", "inputSchema": {"type": "object"}, "icons": [{}]}, "icons"),
        ({"name": "t", "inputSchema": {"type": "object", "x-mcp-header": "A"}}, "x-mcp-header"),
        (
            {
                "name": "t",
                "inputSchema": {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
            },
            "x-mcp-header",
        ),
        (b'{"name": "t", "inputSchema": {"type": "object", "default": 123456789012345678901}}', "64 bits"),
        (b'{"name": "t", "inputSchema": {"type": "object", "x": ' + b"[" * 200 + b"]" * 200 + b"}}", "deep"),
        (b'{"name": "t", "inputSchema": {"type": "object"}, "description": "' + b"x" * 1_100_000 + b'"}', "larger"),
    ],
)
def test_a_malformed_definition_costs_that_tool_with_a_reason_and_no_other(definition: Any, says: str) -> None:
    catalogue = built([tool("before"), definition, tool("after")])
    assert [entry.name for entry in catalogue.entries] == ["before", "after"]
    assert len(catalogue.removed) == 1
    assert says in catalogue.removed[0].reason


@pytest.mark.rule("servers.malformed-definition")
def test_what_is_offered_is_what_the_sdks_own_types_accept() -> None:
    from mcp_types import Tool

    kept = built(
        [tool("t", title=None, annotations={"title": "x", "openWorldHint": True}, execution={}, unknown={"a": 1})]
    )
    assert [Tool.model_validate(dict(entry.definition)).name for entry in kept.entries] == ["t"]


SCHEMA_WORDS = st.sampled_from(
    [
        "type",
        "properties",
        "$ref",
        "$defs",
        "items",
        "allOf",
        "x-mcp-header",
        "pattern",
        "enum",
        "$id",
        "$schema",
        "required",
    ]
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(
        [
            "object",
            "string",
            "#/$defs/a",
            "#",
            "http://x/y",
            "(",
            "^(a+)+$",
            "https://json-schema.org/draft/2019-09/schema",
        ]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCHEMA_WORDS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
DEFINITIONS = ANY | st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c"]) | ANY},
    optional={
        "uri": st.sampled_from(["x://a", "x://b"]) | ANY,
        "uriTemplate": st.sampled_from(["x://{a}", "x://{"]) | ANY,
        "inputSchema": st.dictionaries(SCHEMA_WORDS, ANY, max_size=4).map(lambda schema: {**schema, "type": "object"})
        | ANY,
        "outputSchema": ANY,
        "annotations": ANY,
        "arguments": ANY,
        "description": ANY,
        "icons": ANY,
        "_meta": ANY,
        "size": ANY,
    },
)


@pytest.mark.rule("servers.malformed-definition")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(DEFINITIONS, max_size=5), st.sampled_from(["tools", "prompts", "resources", "templates"]))
def test_whatever_is_listed_each_definition_is_offered_or_reported(definitions: list[Any], kind: str) -> None:
    catalogue = built(definitions, kind)
    assert len(catalogue.entries) + len(catalogue.removed) == len(definitions)
    assert all(each.reason for each in catalogue.removed)
    for entry in catalogue.entries:
        orjson.dumps(dict(entry.definition))


@pytest.mark.rule("servers.malformed-definition")
@pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"1e-999", b"NaN", b"Infinity", b'"\\ud800"'])
def test_values_that_json_readers_disagree_on_cost_that_tool(number: bytes) -> None:
    raw = b'{"name": "t", "inputSchema": {"type": "object", "default": %b}}' % number
    catalogue = built([tool("before"), raw])
    assert next(entry.name for entry in catalogue.entries) == "before"
    assert len(catalogue.entries) + len(catalogue.removed) == 2


@pytest.mark.rule("servers.definitions-untouched")
def test_definitions_are_kept_with_unknown_fields_in_the_servers_own_order() -> None:
    definitions = [tool("z", future={"x": [1, 2.5, None]}), tool("a", title="A"), tool("m")]
    catalogue = built(definitions)
    assert [dict(entry.definition) for entry in catalogue.entries] == definitions


@pytest.mark.rule("servers.duplicates-reported")
def test_a_second_definition_of_a_name_is_reported() -> None:
    catalogue = built([tool("t", title="first"), tool("t", title="second")])
    assert [entry.definition["title"] for entry in catalogue.entries] == ["first"]
    assert reasons(catalogue) == {"t": "the server defines it a second time"}


@pytest.mark.rule("servers.allow-deny")
def test_allow_and_deny_decide_what_is_offered_and_nothing_goes_in_silence() -> None:
    allow = tuple(map(ItemGlob.parse, ("git_*", "resource:**")))
    deny = (ItemGlob.parse("git_reset"),)
    catalogue = built([tool("git_log"), tool("git_reset"), tool("other")], allow=allow, deny=deny)
    assert [entry.name for entry in catalogue.entries] == ["git_log"]
    assert set(reasons(catalogue)) == {"git_reset", "other"}
    resources = built([{"uri": "file:///a", "name": "a"}], "resources", allow=allow)
    assert len(resources.entries) == 1
    assert built([{"name": "p"}], "prompts", allow=allow).entries == ()


@pytest.mark.rule("servers.effective-risk")
@pytest.mark.parametrize(
    ("extra", "annotations", "risk", "idempotent"),
    [
        ({}, {"readOnlyHint": True}, Risk.WRITE, False),
        ({"trust_annotations": True}, {"readOnlyHint": True}, Risk.READ, True),
        ({"risk": Risk.READ}, {}, Risk.READ, True),
        ({"risk": Risk.READ, "tools": {"t": tool_settings(risk=Risk.EXTERNAL)}}, {}, Risk.EXTERNAL, False),
        ({"tools": {"t": tool_settings(idempotent=True)}}, {}, Risk.WRITE, True),
    ],
)
def test_the_risk_is_what_was_configured_and_hints_count_only_where_trusted(
    extra: dict[str, Any], annotations: dict[str, Any], risk: Risk, idempotent: bool
) -> None:
    entry = built([tool("t", annotations=annotations)], **extra).entries[0]
    assert (entry.risk, entry.idempotent) == (risk, idempotent)


@pytest.mark.rule("servers.effective-settings")
def test_limits_and_schemas_come_from_the_tools_own_settings() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    settings = {
        "t": tool_settings(
            timeout_seconds=5, max_result_bytes=7, approval_hold=True, cost=0.5, serialize_by="arguments.a"
        ),
        "relaxed": tool_settings(undeclared_arguments="relay", validate_results="off"),
    }
    catalogue = built(
        [tool("t", inputSchema=schema, outputSchema=schema), tool("relaxed", inputSchema=schema, outputSchema=schema)],
        tools=settings,
    )
    strict, relaxed = catalogue.entries
    assert (strict.timeout_seconds, strict.max_result_bytes, strict.approval_hold) == (5, 7, True)
    assert (strict.cost, strict.serialize_by) == (0.5, "arguments.a")
    assert strict.arguments is not None
    assert relaxed.arguments is not None
    assert strict.arguments.problems({"a": "x"})
    assert strict.arguments.problems({"b": 1})
    assert not relaxed.arguments.problems({"b": 1})
    assert strict.results is not None
    assert relaxed.results is None


@pytest.mark.rule("servers.definition-digest")
def test_the_definitions_digest_is_of_its_rfc_8785_form() -> None:
    one = built([b'{"name":"t","inputSchema":{"type":"object","b":1.0,"a":1e1}}']).entries[0]
    two = built([b'{ "inputSchema" : {"a":10,"b":1,"type":"object"}, "name":"t" }']).entries[0]
    other = built([b'{"name":"t","inputSchema":{"type":"object","b":1.0,"a":11}}']).entries[0]
    assert one.definition_sha256 == two.definition_sha256 != other.definition_sha256
    assert (
        canonical({"€": 2**60, "1": [1e30, True, None, "\n"]})
        == b'{"1":[1e+30,true,null,"\\n"],"\xe2\x82\xac":1152921504606846976}'
    )


@pytest.mark.rule("servers.lists-whole")
@pytest.mark.anyio
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy", "sse-legacy"])
async def test_all_pages_of_all_lists_are_read(wire: str, tmp_path: Path) -> None:
    script = {
        "page": 7,
        "instructions": "be nice",
        "tools": [tool(f"t{index}") for index in range(30)],
        "prompts": [{"name": f"p{index}"} for index in range(8)],
        "resources": [{"uri": f"x://{index}", "name": "x"} for index in range(15)],
        "templates": [{"uriTemplate": "y://{id}", "name": "y"}],
    }
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        catalogue = running.servers.catalogues()["s"]
        assert [entry.name for entry in catalogue.entries if entry.type is TargetType.TOOL] == [
            f"t{i}" for i in range(30)
        ]
        assert sum(entry.type is TargetType.PROMPT for entry in catalogue.entries) == 8
        assert [entry.name for entry in catalogue.entries if entry.is_template] == ["y://{id}"]
        assert catalogue.instructions == "be nice"
        assert catalogue.server_info["name"] == "scripted"
        assert catalogue.capabilities["tools"] == {"listChanged": True}


@pytest.mark.rule("servers.lists-bounded")
@pytest.mark.anyio
async def test_pages_without_an_end_make_the_server_unavailable_with_the_reason(tmp_path: Path) -> None:
    endless = {"tools": [tool("t")], "nextCursor": "again"}
    script = {"tools": [], "on": {"tools/list": [{"result": endless}]}}
    async with scripted("stdio-modern", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.until(lambda: "do not end" in running.servers.catalogues()["s"].reason)


@pytest.mark.rule("servers.malformed-definition")
@pytest.mark.anyio
async def test_other_lists_that_fail_do_not_cost_the_tools(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "prompts": [],
        "resources": [],
        "on": {
            "prompts/list": [{"error": {"code": -32603, "message": "broken"}}],
            "resources/list": [{"result": {"resources": "none"}}],
        },
    }
    async with scripted("http-legacy", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {})) == "{}"


@pytest.mark.rule("servers.list-changed")
@pytest.mark.anyio
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy", "sse-legacy"])
async def test_a_list_that_changed_is_read_again_and_told(wire: str, tmp_path: Path) -> None:
    steps = [{"replace": {"tools": [tool("grow"), tool("new")]}}, {"text": "grown"}]
    script = {"tools": [tool("grow")], "on": {"tools/call:grow": steps}}
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        if wire == "http-modern":
            await server.wait_for("received", method="subscriptions/listen")
        if wire == "http-legacy":
            await server.wait_for("stream")
        await running.call("s", "grow", {})
        await running.until(lambda: len(running.servers.catalogues()["s"].entries) == 2)
        assert running.changes[-1] == ("s", frozenset({"tools"}))


@pytest.mark.rule("servers.list-changed")
@pytest.mark.anyio
async def test_a_storm_of_list_changed_costs_few_readings(tmp_path: Path) -> None:
    line = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"stdout": line * 500}, {"delay": 0.5}, {"text": "x"}]}}
    async with (
        scripted("stdio-legacy", tmp_path, script, isolation="shared") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        await it.call("s", "t", {})
        assert len(server.received("tools/list")) < 8


@pytest.mark.rule("servers.reconfigured")
@pytest.mark.anyio
async def test_servers_are_added_removed_retuned_and_replaced_while_others_stay(tmp_path: Path) -> None:
    pid = {
        "tools": [tool("t"), tool("wait")],
        "on": {"tools/call:t": [{"text": "$pid"}], "tools/call:wait": [{"gate": "go"}, {"text": "done"}]},
    }
    one, two = Scripted(tmp_path, pid, name="one"), Scripted(tmp_path, pid, name="two")
    first = stdio("one", one.command, one.args)
    second = stdio("two", two.command, two.args)
    async with pool(first) as running:
        await running.available("one")
        before = text(await running.call("one", "t", {}))
        await running.servers.reconfigure({"one": first, "two": second})
        await running.available("two")
        assert text(await running.call("one", "t", {})) == before, "untouched"

        tuned = stdio("one", one.command, one.args, deny=(ItemGlob.parse("t"),))
        entry = running.entry("one", "t")
        await running.servers.reconfigure({"one": tuned, "two": second})
        assert [each.name for each in running.servers.catalogues()["one"].entries] == ["wait"]
        assert text(await running.call("one", "t", {}, entry=entry)) == before, "the same child"

        waiting = asyncio.create_task(running.call("one", "wait", {}))
        await one.wait_for("gate", gate="go")
        changed = stdio("one", one.command, [*one.args, "--era", "legacy"])
        await running.servers.reconfigure({"one": changed, "two": second})
        await running.available("one")
        assert text(await running.call("one", "t", {})) != before, "another child"
        one.open_gate("go")
        assert text(await waiting) == "done", "what was in flight drained"

        await running.servers.reconfigure({"two": second})
        outcome = await running.call("one", "t", {}, entry=entry)
        assert not getattr(outcome, "in_doubt", True)
        assert set(running.servers.catalogues()) == {"two"}


@pytest.mark.rule("servers.reconfigured")
@pytest.mark.anyio
async def test_a_disabled_server_is_never_started_and_says_why(tmp_path: Path) -> None:
    server = Scripted(tmp_path, {"tools": [tool("t")]})
    settings = stdio("s", server.command, server.args, disabled_reason="${env:NOPE} is not set")
    async with pool(settings) as running:
        await running.until(lambda: "NOPE" in running.servers.catalogues()["s"].reason)
        assert server.entries("started") == []


@pytest.mark.rule("servers.denied-uri")
@pytest.mark.anyio
async def test_a_denied_uri_is_not_reached_through_a_template(tmp_path: Path) -> None:
    from gateway.model.call import Method
    from gateway.model.verdict import Refused

    script = {"tools": [], "resources": [], "templates": [{"uriTemplate": "file:///{+path}", "name": "any"}]}
    deny = (ItemGlob.parse("resource:file:///secret/**"),)
    async with scripted("stdio-modern", tmp_path, script, deny=deny) as (server, settings), pool(settings) as running:
        await running.available("s")
        template = running.entry("s", "file:///{+path}")
        outcome = await running.call("s", "file:///secret/x", method=Method.READ_RESOURCE, entry=template)
        assert isinstance(outcome, Refused)
        assert outcome.data is not None
        assert outcome.data["code"] == -32602
        assert server.received("resources/read") == []


@pytest.mark.anyio
@pytest.mark.rule("servers.lists-whole")
async def test_real_servers_from_pypi_are_listed_and_called(tmp_path: Path) -> None:
    import shutil
    import sys

    if shutil.which("mcp-server-time", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mcp-server-time is not installed")
    async with pool(stdio("time", "mcp-server-time", [], cwd=HERE), stdio("git", "mcp-server-git", [])) as running:
        with anyio.fail_after(60):
            await running.available("time", "git")
        assert len([e for e in running.servers.catalogues()["git"].entries if e.type is TargetType.TOOL]) == 12
        outcome = await running.call("time", "get_current_time", {"timezone": "UTC"})
        assert "UTC" in text(outcome)
