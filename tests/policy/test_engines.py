"""One contract for every policy engine: the embedded one, and a real OPA server behind its client."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.adapters.policy_embedded import EmbeddedPolicy
from gateway.adapters.policy_files import PolicyFiles, compile_files, read_policies, revision_of
from gateway.adapters.policy_opa import opa_policy
from gateway.decide.policy import Denied, interpret, question
from gateway.model.call import Principal, Risk
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout
from gateway.ports import UNDEFINED, PolicyEngine
from tests.building import call, tool
from tests.policy.opa_server import opa_server

pytestmark = pytest.mark.anyio

Engines = Callable[..., AbstractAsyncContextManager[PolicyEngine]]


@pytest.fixture(scope="module")
def opa_url() -> Iterator[str]:
    with opa_server() as url:
        yield url


@pytest.fixture(params=["embedded", "opa"])
def engines(request: pytest.FixtureRequest) -> Engines:
    """Makes an engine of the kind under test from modules and data."""
    if request.param == "embedded":
        return embedded
    url = str(request.getfixturevalue("opa_url"))

    def server(
        modules: Mapping[str, str], data: Mapping[str, Any] | None = None, decision: str = "gateway/decision"
    ) -> AbstractAsyncContextManager[PolicyEngine]:
        return opa_policy(url, decision=decision, push=files_of(modules, data))

    return server


def files_of(modules: Mapping[str, str], data: Mapping[str, Any] | None = None) -> PolicyFiles:
    return PolicyFiles(modules=modules, data=data or {}, revision=revision_of(modules, data or {}))


@asynccontextmanager
async def embedded(
    modules: Mapping[str, str], data: Mapping[str, Any] | None = None, decision: str = "gateway/decision"
) -> AsyncIterator[PolicyEngine]:
    files = files_of(modules, data)
    yield EmbeddedPolicy(files, compile_files(files, schema=False), decision=decision)


def asking(**arguments: Any) -> dict[str, Any]:
    return question(call(tool("query", "db"), arguments))


BASE = """package gateway
decision := {"allow": allow, "deny": deny, "hold": hold, "obligations": obligations}
default allow := false
deny contains {} if false
hold contains {} if false
obligations contains {} if false
"""


@pytest.mark.rule("policy.engines")
async def test_the_answer_is_the_document_at_the_decision_path(engines: Engines) -> None:
    rules = """package gateway
allow if input.arguments.amount < data.limits.db
deny contains {"code": code, "message": "m"} if some code in ["b", "a", "b"]
"""
    async with engines({"base.rego": BASE, "rules.rego": rules}, {"limits": {"db": 10}}) as engine:
        answer = await engine.decide(asking(amount=9.5), timeout_seconds=5)
        assert answer == {
            "allow": True,
            "deny": [{"code": "a", "message": "m"}, {"code": "b", "message": "m"}],
            "hold": [],
            "obligations": [],
        }
        assert (await engine.decide(asking(amount=10), timeout_seconds=5))["allow"] is False
        assert len(engine.revision) == 64


@pytest.mark.rule("policy.engines")
@pytest.mark.parametrize("decision", ["gateway/decision", "corp/mcp/answer", "nothing/here"])
async def test_no_answer_is_undefined_and_an_empty_object_is_an_answer(engines: Engines, decision: str) -> None:
    package, name = decision.rsplit("/", 1)
    module = f"package {package.replace('/', '.')}\n{name} := {{}} if input.arguments.x == 1\n"
    if package == "nothing":
        module = "package gateway\nallow := true\n"
    async with engines({"a.rego": module}, None, decision) as engine:
        assert await engine.decide(asking(x=2), timeout_seconds=5) is UNDEFINED
        expected = UNDEFINED if package == "nothing" else {}
        assert await engine.decide(asking(x=1), timeout_seconds=5) == expected


@pytest.mark.rule("policy.engine-errors")
@pytest.mark.parametrize(
    "body",
    [
        'decision if to_number("x") == 1',
        "decision if 1 / 0 > 0",
        'decision if not time.parse_rfc3339_ns("no time")',
        "decision := value if some value in [true, false]",
    ],
)
async def test_a_builtin_error_or_conflict_is_an_error_and_not_undefined(engines: Engines, body: str) -> None:
    async with engines({"a.rego": f"package gateway\n{body}\n"}) as engine:
        with pytest.raises(PolicyEvaluationError) as caught:
            await engine.decide(asking(), timeout_seconds=5)
        assert "a.rego:2" in str(caught.value)


ENDLESS = """package gateway
decision := count([1 | some i in numbers.range(1, 20000); some j in numbers.range(1, 20000); i * j == 7]) == 2
"""


@pytest.mark.rule("policy.deadline")
async def test_an_endless_rule_meets_its_deadline(engines: Engines) -> None:
    async with engines({"a.rego": ENDLESS}) as engine:
        began = time.monotonic()
        with pytest.raises(PolicyTimeout):
            await engine.decide(asking(), timeout_seconds=0.2)
        assert time.monotonic() - began < 2


@pytest.mark.rule("policy.regex-linear")
async def test_a_regular_expression_that_backtracks_elsewhere_is_instant(engines: Engines) -> None:
    module = "package gateway\ndecision := regex.match(`(a+)+$`, input.arguments.text)\n"
    async with engines({"a.rego": module}) as engine:
        began = time.monotonic()
        assert await engine.decide(asking(text="a" * 50_000 + "!"), timeout_seconds=5) is False
        assert time.monotonic() - began < 1


async def test_a_regular_expression_may_ignore_case(engines: Engines) -> None:
    module = "package gateway\ndecision := regex.match(`(?i)^drop\\s+table`, input.arguments.text)\n"
    async with engines({"a.rego": module}) as engine:
        assert await engine.decide(asking(text="DrOp  TABLE x"), timeout_seconds=5) is True


ECHO = (
    BASE
    + """
allow := true
deny contains {"code": "path", "message": message} if {
	not startswith(input.arguments.path, "/srv/")
	message := sprintf("%s is outside the root", [input.arguments.path])
}
"""
)
ATTACKS = [
    '/etc/passwd"}],"effect":"allow","deny":[],"z":[{"m":"',
    '"}],"allow":true,"deny":[]}',
    "\\",
    '\\"',
    "\x00\n\r\t\u2028",
    "😀 \U0010ffff é",
    "{}",
    "%s%d%v",
]


@pytest.mark.rule("policy.no-injection")
@pytest.mark.parametrize("path", ATTACKS)
async def test_an_argument_that_is_echoed_in_a_message_cannot_change_the_decision(engines: Engines, path: str) -> None:
    async with engines({"a.rego": ECHO}) as engine:
        answer = await engine.decide(asking(path=path), timeout_seconds=5)
        decision = interpret(answer)
        assert isinstance(decision, Denied)
        assert [dict(one) for one in decision.policy] == [{"code": "path", "message": f"{path} is outside the root"}]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.rule("policy.values-exact")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_values_come_back_as_they_went_in(engines: Engines, values: list[Any]) -> None:
    async def echo() -> None:
        async with engines({"a.rego": "package gateway\ndecision := input.arguments.values\n"}) as engine:
            back = await engine.decide(asking(values=values), timeout_seconds=5)
            assert json.dumps(back, sort_keys=True) == json.dumps(values, sort_keys=True)

    anyio.run(echo)


@pytest.mark.rule("policy.visible")
async def test_visible_answers_each_question_with_true_false_or_nothing(engines: Engines) -> None:
    module = """package gateway
visible := false if input.resource.name == "hidden"
visible := true if input.resource.name == "shown"
"""
    names = ["hidden", "shown", "other"] * 20
    async with engines({"a.rego": module}) as engine:
        answers = await engine.visible([question(call(tool(name, "db"))) for name in names])
        assert list(answers) == [False, True, None] * 20
        assert list(await engine.visible([])) == []


@pytest.mark.rule("policy.visible-fails")
@pytest.mark.parametrize("body", ['visible if to_number("x") == 1', 'visible := "no"'])
async def test_visible_that_fails_or_is_no_boolean_is_an_error(engines: Engines, body: str) -> None:
    async with engines({"a.rego": f"package gateway\n{body}\n"}) as engine:
        with pytest.raises(PolicyEvaluationError):
            await engine.visible([asking(), asking()])


async def test_visible_without_a_rule_hides_nothing(engines: Engines) -> None:
    async with engines({"a.rego": BASE}) as engine:
        assert list(await engine.visible([asking()])) == [None]


# --- both at once ---

TEXTS = st.sampled_from(
    [
        "read",
        "write",
        "external",
        "db/query",
        "bank/transfer",
        "git/git_commit",
        "crm",
        "/srv/docs/a",
        "/srv/../etc",
        "",
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AMOUNTS = st.sampled_from([0, 1, 100, 1000, 1000.01, 50000, 50000.01, 2**63, -1]) | st.floats(-1e6, 1e6)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["path", "repo_path", "sql", "amount", "limit", "password", "other"]),
    TEXTS | AMOUNTS | st.sampled_from(["SELECT 1", "select a; drop b", "Insert"]) | VALUES,
    max_size=4,
)
CALLS = st.fixed_dictionaries(
    {
        "roles": st.lists(st.sampled_from(["local", "reader", "writer", "payer", "finance", "x"]), max_size=3),
        "id": st.sampled_from(["claude", "reporter", "someone"]),
        "server": st.sampled_from(["db", "bank", "git", "crm", "mail", "ci"]),
        "name": st.sampled_from(["query", "transfer", "git_commit", "git_diff", "send_report", "release"]),
        "risk": st.sampled_from(list(Risk)),
        "method": st.sampled_from(["tools/call", "resources/read", "prompts/get", "tasks/get"]),
        "time_ns": st.integers(1_795_000_000 * 10**9, 1_796_000_000 * 10**9),
        "arguments": ARGUMENTS,
        "recent": st.lists(st.sampled_from(["git/git_diff", "git/git_commit", "db/query"]), max_size=4),
    }
)


@pytest.mark.rule("policy.engines-agree")
def test_both_engines_decide_alike_on_the_shipped_policies_and_the_whole_cookbook(opa_url: str) -> None:
    root = Path(__file__).parents[2]
    examples = sorted(path for path in (root / "docs" / "policies").iterdir() if path.is_dir())
    files = read_policies(root / "policies", *examples)
    here = EmbeddedPolicy(files, compile_files(files))

    async def said(engine: PolicyEngine, asked: Mapping[str, Any]) -> str:
        try:
            answer = await engine.decide(asked, timeout_seconds=10)
        except PolicyEvaluationError:
            return "error"
        return "undefined" if answer is UNDEFINED else json.dumps(answer, sort_keys=True)

    async def compare(made: Mapping[str, Any]) -> None:
        entry = tool(made["name"], made["server"], risk=made["risk"])
        recent = [{"tool": one, "outcome": "completed", "code": None, "time": ""} for one in made["recent"]]
        principal = Principal(id=made["id"], roles=tuple(made["roles"]))
        one = call(entry, made["arguments"], principal=principal, method=made["method"], time_ns=made["time_ns"])
        asked = question(one, recent)
        async with opa_policy(opa_url) as there:
            assert await said(here, asked) == await said(there, asked)
            assert await here.visible([asked]) == await there.visible([asked])

    async def push() -> None:
        async with opa_policy(opa_url, push=files):
            pass

    @settings(max_examples=150, deadline=None)
    @given(CALLS)
    def agree(made: Mapping[str, Any]) -> None:
        anyio.run(compare, made)

    anyio.run(push)
    agree()


# --- the embedded engine alone ---


@pytest.mark.rule("policy.replayable")
async def test_time_and_chance_come_from_the_question_so_the_answer_comes_again() -> None:
    module = 'package gateway\ndecision := [time.now_ns(), rand.intn("x", 1000000)]\n'
    async with embedded({"a.rego": module}) as engine:
        first = await engine.decide(asking(), timeout_seconds=5)
        assert first[0] == 1795205460000000000
        assert await engine.decide(asking(), timeout_seconds=5) == first
        other = question(call(tool("query", "db"), {}, id="call-2"))
        assert (await engine.decide(other, timeout_seconds=5))[1:] != first[1:]


@pytest.mark.rule("policy.crash")
async def test_a_fault_of_the_engine_itself_is_an_evaluation_error_and_never_an_answer() -> None:
    async with embedded({"a.rego": "package gateway\ndecision := input.arguments.x < 1\n"}) as engine:
        with pytest.raises(PolicyEvaluationError):
            await engine.decide(asking(x=object()), timeout_seconds=1)


@pytest.mark.rule("policy.visible-question")
async def test_a_clock_in_visible_is_an_error_because_a_view_is_kept() -> None:
    from gateway.decide.policy import visibility_question
    from gateway.model.call import LOCAL

    async with embedded({"a.rego": "package gateway\nvisible := false if time.now_ns() > 0\n"}) as engine:
        with pytest.raises(PolicyEvaluationError):
            await engine.visible([visibility_question(LOCAL, tool("query", "db"))])
