"""Stage 1: what a call is about, found only in what its principal may see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.system import EventFanout
from gateway.decide.uris import denied, fits, template_pattern, walked
from gateway.directory import permitted
from gateway.model.call import Call, Method, Principal, TargetType
from gateway.model.events import SessionEnded
from gateway.model.snapshot import Entry, Snapshot, View
from gateway.model.value import replace
from gateway.model.verdict import Completed, Proceed, Refuse
from gateway.stages.resolve import Resolve, belongs
from tests.building import call, snapshot, tool

pytestmark = pytest.mark.anyio


class Sees:
    """A directory that shows everything of the snapshot but what it is told to hide."""

    def __init__(self, hidden: tuple[str, ...] = ()) -> None:
        self.hidden = hidden

    async def view(self, snapshot: Snapshot, principal: Principal) -> View:
        shown = snapshot.catalogue
        return View(
            tools={name: entry for name, entry in shown.tools.items() if name not in self.hidden},
            prompts=shown.prompts,
            resources={uri: entry for uri, entry in shown.resources.items() if uri not in self.hidden},
            templates=shown.templates,
            servers=tuple(shown.servers),
        )

    def permits(self, principal: Principal, entry: Entry) -> bool:
        return permitted(principal, entry)


def resource(uri: str, server: str) -> Entry:
    return tool(uri, server, type=TargetType.RESOURCE, exposed=uri, arguments=None)


def template(uri: str, server: str) -> Entry:
    return tool(uri, server, type=TargetType.RESOURCE, exposed=uri, arguments=None, is_template=True)


def read(uri: str, *entries: Entry, session: str = "session-1", method: str = Method.READ_RESOURCE) -> Call:
    return call(method=method, type=TargetType.RESOURCE, target=uri, session_id=session, snapshot=snapshot(*entries))


@pytest.mark.rule("wire.unknown-tool")
async def test_a_hidden_tool_is_refused_like_an_unknown_one() -> None:
    answers = []
    for hidden, target in ((("fixture__echo",), "fixture__echo"), ((), "fixture__echo")):
        entries = () if hidden == () else (tool("echo"),)
        stage = Resolve(Sees(hidden), EventFanout())
        shown = snapshot(*entries) if entries else snapshot(tool("other"))
        answers.append(await stage.admit(call(target=target, snapshot=shown)))
    assert answers[0] == answers[1]
    assert isinstance(answers[0], Refuse)
    assert answers[0].data == {"code": -32602, "message": "Unknown tool: fixture__echo"}


async def test_a_tool_is_found_with_its_server_name_risk_and_deadline() -> None:
    verdict = await Resolve(Sees(), EventFanout()).admit(call(snapshot=snapshot(tool("echo", timeout_seconds=5))))
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert (verdict.call.server, verdict.call.name, verdict.call.risk) == ("fixture", "echo", "read")
    assert verdict.call.deadline is not None


async def test_a_tool_that_asks_for_approval_gives_a_reason_to_hold() -> None:
    verdict = await Resolve(Sees(), EventFanout()).admit(call(snapshot=snapshot(tool("echo", approval_hold=True))))
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert [reason.source for reason in verdict.call.hold_reasons] == ["tool"]


@pytest.mark.rule("routing.resources")
async def test_a_resource_goes_to_its_lister_then_its_linker_then_the_longest_template() -> None:
    entries = (
        resource("doc://one", "a"),
        template("doc://{id}", "b"),
        template("doc://long/{id}", "c"),
        tool("echo", "d"),
    )
    stage = Resolve(Sees(), EventFanout())

    async def server(uri: str) -> str | None:
        verdict = await stage.admit(read(uri, *entries))
        return verdict.call.server if isinstance(verdict, Proceed) and verdict.call is not None else None

    assert await server("doc://one") == "a"
    assert await server("doc://two") == "b"
    assert await server("doc://long/x") == "c"
    assert await server("other://x") is None
    linking = call(tool("echo", "d"), snapshot=snapshot(*entries))
    await stage.settle(linking, Completed(result=b'{"content":[{"type":"resource_link","uri":"other://x"}]}'))
    assert await server("other://x") == "d"
    assert isinstance(await stage.admit(read("other://x", *entries, session="another")), Refuse)


@pytest.mark.rule("routing.resources")
async def test_two_templates_that_fit_alike_are_refused() -> None:
    stage = Resolve(Sees(), EventFanout())
    verdict = await stage.admit(read("doc://x", template("doc://{a}", "a"), template("doc://{b}", "b")))
    assert isinstance(verdict, Refuse)
    assert verdict.data is not None
    assert (verdict.data["code"], verdict.data["data"]) == (-32602, {"uri": "doc://x"})


@pytest.mark.rule("routing.resources")
async def test_the_links_of_a_session_are_forgotten_with_it() -> None:
    events = EventFanout()
    stage = Resolve(Sees(), events)
    entries = (tool("echo", "d"),)
    await stage.settle(call(entries[0]), Completed(result=b'{"content":[{"type":"resource_link","uri":"other://x"}]}'))
    assert isinstance(await stage.admit(read("other://x", *entries)), Proceed)
    events.publish(SessionEnded(at=0.0, session_id="session-1", principal="local"))
    assert isinstance(await stage.admit(read("other://x", *entries)), Refuse)


class Denies:
    """A server's `deny`: every URI below a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def permits(self, type: str, name: str) -> bool:
        return not self.denies(type, name)

    def denies(self, type: str, name: str) -> bool:
        return type == "resource" and name.startswith(self.prefix)


ESCAPES = [
    "file:///etc/passwd",
    "file:///pub/../etc/passwd",
    "file:///pub/%2e%2e/etc/passwd",
    "file:///pub/..%2fetc%2Fpasswd",
    "file:///pub/%252e%252e/etc/passwd",
    "file:///pub/..\\..\\etc\\passwd",
    "FILE:////etc//passwd",
    "file:///./etc/passwd",
    "file:///etc%2fpasswd",
]


@pytest.mark.rule("routing.denied-uri")
@pytest.mark.parametrize("uri", ESCAPES)
def test_what_deny_names_is_denied_however_its_uri_is_written(uri: str) -> None:
    assert denied(Denies("file:///etc"), uri)
    assert not denied(Denies("file:///etc"), "file:///pub/etc/passwd")


@pytest.mark.rule("routing.denied-uri")
@pytest.mark.parametrize("uri", [uri for uri in ESCAPES if "pub" in uri])
def test_a_uri_that_leaves_its_template_is_none_of_it(uri: str) -> None:
    assert not fits("file:///pub/{+path}", uri)
    assert fits("file:///pub/{+path}", "file:///pub/a/../b..c")
    assert fits("gh://{owner}/{branch}", "gh://me/feature%2Fx")


@pytest.mark.rule("routing.denied-uri")
@given(st.text(max_size=60))
def test_a_walked_uri_has_no_steps_left_to_walk(uri: str) -> None:
    for form in walked(uri):
        assert not {"..", "."} & set(form.partition(":")[2].split("/")[3:])


@pytest.mark.rule("routing.denied-uri")
async def test_what_the_configuration_keeps_from_an_agent_is_reached_by_no_link_and_no_template() -> None:
    entries = (resource("doc://listed", "a"), template("doc://{+id}", "a"), tool("echo", "a"))
    shown = snapshot(*entries)
    servers = {name: replace(server, offers=Denies("doc://secret")) for name, server in shown.catalogue.servers.items()}
    shown = replace(shown, catalogue=replace(shown.catalogue, servers=servers))
    events = EventFanout()
    everything, nothing_listed = Resolve(Sees(), events), Resolve(Sees(("doc://listed",)), events)
    linking = (
        b'{"content":[{"type":"resource_link","uri":"doc://secret/x"},{"type":"resource_link","uri":"other://x"}]}'
    )
    for stage in (everything, nothing_listed):
        await stage.settle(call(entries[2], snapshot=shown), Completed(result=linking))

    async def found(stage: Resolve, uri: str, **changes: object) -> bool:
        asked = replace(read(uri, *entries), snapshot=shown, **changes)
        return isinstance(await stage.admit(asked), Proceed)

    assert await found(everything, "doc://open/x")
    assert await found(everything, "doc://listed")
    assert await found(everything, "other://x")
    assert not await found(everything, "doc://secret/x")
    assert not await found(everything, "doc://open/../secret/x")
    # A listed resource that this agent may not see is none of a template's or a link's.
    assert not await found(nothing_listed, "doc://listed")
    # Where an agent's `tools` name all that it may use, a link names nothing more.
    only = Principal(id="reader", roles=("reader",), tools=("a/echo", "a/resource:doc://**"))
    assert not await found(everything, "other://x", principal=only)
    assert await found(everything, "doc://open/x", principal=only)


@pytest.mark.rule("routing.extensions")
@pytest.mark.parametrize(
    ("method", "extension", "is_its"),
    [
        ("tasks/get", "io.modelcontextprotocol/tasks", True),
        ("com.example/search/run", "com.example/search", True),
        ("tools/call", "io.modelcontextprotocol/tasks", False),
        ("task/get", "io.modelcontextprotocol/tasks", False),
    ],
)
def test_a_method_belongs_to_the_extension_that_names_it(method: str, extension: str, is_its: bool) -> None:
    assert belongs(method, extension) is is_its


@given(value=st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=20))
def test_a_simple_expression_matches_one_segment(value: str) -> None:
    pattern = template_pattern("file:///{name}.json")
    assert pattern.fullmatch(f"file:///{value}.json")
    assert not pattern.fullmatch(f"file:///{value}/x.json")
    assert template_pattern("file:///{+path}").fullmatch(f"file:///{value}/{value}")
