"""Stage 1: what a call is about, found only in what its principal may see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.system import EventFanout
from gateway.model.call import Call, Method, Principal, TargetType
from gateway.model.events import SessionEnded
from gateway.model.snapshot import Entry, Snapshot, View
from gateway.model.verdict import Completed, Proceed, Refuse
from gateway.stages.resolve import Resolve, belongs, template_pattern
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
            resources=shown.resources,
            templates=shown.templates,
            servers=tuple(shown.servers),
        )


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
