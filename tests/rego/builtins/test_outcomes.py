"""Builtins give OPA's outcomes: those written down, and those of a live OPA where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.rego.compiler import load_builtins
from gateway.rego.values import NumberText, RegoSet, Value
from tests.rego.builtins.calling import outcome
from tests.rego.builtins.opa import Opa, Outcome
from tests.rego.builtins.recording import recorded
from tests.rego.builtins.tables import FAMILIES, calls, sampled

load_builtins()

MAY_REFUSE = 0.03
"""The share of a family's calls, chosen for their edges, that may be refused rather than answered."""
MAY_REFUSE_MARKUP = 0.15
"""The same for YAML, of which tags, anchors and more are refused."""


@pytest.fixture(scope="module")
def live(opa: str) -> Iterator[Opa]:
    """A running OPA."""
    running = Opa(opa)
    yield running
    running.close()


def differences(family: str, cases: list[tuple[str, list[Value], Outcome]]) -> list[str]:
    """What is answered otherwise than by OPA; too many refusals count as a difference."""
    out: list[str] = []
    refused = 0
    for name, arguments, expected in cases:
        found = outcome(name, arguments)
        if found.error == "unsupported":
            refused += 1
        elif found != expected and not expected.error.startswith(("crashed", "internal_error", "rego_type_error")):
            out.append(f"{name}({arguments!r}): {found} instead of {expected}")
    share = MAY_REFUSE_MARKUP if family == "markup" else MAY_REFUSE
    if refused > share * len(cases):
        out.append(f"{refused} of {len(cases)} calls are refused")
    return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.rule("rego.builtins-exact")
def test_builtins_give_the_outcomes_that_opa_gave(family: str) -> None:
    cases = list(recorded(family))
    assert len(cases) > 30
    assert not differences(family, cases)


@pytest.mark.parametrize("family", FAMILIES)
def test_builtins_give_the_outcomes_of_a_live_opa(live: Opa, family: str) -> None:
    cases = [(name, arguments, live.ask(name, arguments)) for name, arguments in sampled(family, 12)]
    assert not differences(family, cases)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_builtins_give_the_outcomes_of_a_live_opa_on_every_call(live: Opa, family: str) -> None:
    cases = [(name, arguments, live.ask(name, arguments)) for name, arguments in calls(family)]
    assert not differences(family, cases)


TEXT = st.text(st.sampled_from("abXY09 .,-_/\\\"'{}[]()*+?^$|&<>\x00\n\té日😀ſK\u2028\ufffd"), max_size=12)
NUMBERS = st.one_of(
    st.integers(-10, 300),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [2**53, 2**63 - 1, -(2**63), 2**64, 0.1, 1.0, -2.5, 1e21, 1e-7, NumberText("1e3"), NumberText("0.30")]
    ),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)).filter(lambda x: x != 0),
)
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(TEXT, inner, max_size=3),
        st.lists(inner, max_size=3).map(RegoSet),
    ),
    max_leaves=8,
)
SIGNATURES: dict[str, list[st.SearchStrategy[Any]]] = {
    "sprintf": [st.text(st.sampled_from("%%%dvsqxXfgeTcU+-# 0123.*[]ab"), max_size=10), st.lists(VALUES, max_size=3)],
    "regex.match": [st.text(st.sampled_from("ab(|)*+?.[]^$\\dwsbBpPL{}1,2éA-Z:i"), max_size=10), TEXT],
    "regex.find_n": [st.text(st.sampled_from("ab(|)*+?.[]^$\\dws{}1,2é"), max_size=8), TEXT, st.integers(-1, 3)],
    "regex.replace": [
        TEXT,
        st.text(st.sampled_from("ab(|)*+?.X"), max_size=5),
        st.text(st.sampled_from("$01{}ab"), max_size=5),
    ],
    "regex.split": [st.text(st.sampled_from("ab.,*+?[]|"), max_size=5), TEXT],
    "glob.match": [
        st.text(st.sampled_from("ab*?.,{}[]!-\\/é"), max_size=8),
        st.sampled_from([None, [], ["/"], ["."]]),
        st.text(st.sampled_from("ab./é"), max_size=6),
    ],
    "split": [TEXT, TEXT],
    "replace": [TEXT, TEXT, TEXT],
    "concat": [TEXT, st.lists(TEXT, max_size=4)],
    "trim": [TEXT, TEXT],
    "upper": [TEXT],
    "substring": [TEXT, st.integers(-2, 8), st.integers(-2, 8)],
    "sum": [st.lists(NUMBERS, max_size=5)],
    "product": [st.lists(st.integers(-9, 9) | st.sampled_from([0.5, 1.5, -2.25]), max_size=5)],
    "sort": [st.lists(VALUES, max_size=6)],
    "max": [st.lists(VALUES, max_size=6)],
    "round": [NUMBERS],
    "ceil": [NUMBERS],
    "floor": [NUMBERS],
    "format_int": [NUMBERS, st.sampled_from([2, 8, 10, 16])],
    "json.marshal": [VALUES],
    "json.unmarshal": [st.text(st.sampled_from('{}[],:"0123.eE+-truefalsn \\u"'), max_size=12)],
    "object.union": [st.dictionaries(TEXT, VALUES, max_size=3), st.dictionaries(TEXT, VALUES, max_size=3)],
    "object.subset": [VALUES, VALUES],
    "json.remove": [
        st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2),
        st.lists(st.sampled_from(["a", "a/0", "b/a", "/a/b"])),
    ],
    "time.format": [st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=1)],
    "time.parse_duration_ns": [st.text(st.sampled_from("0123456789.-+hmsudwy"), max_size=8)],
    "to_number": [st.text(st.sampled_from("0123456789.-+eE"), max_size=8)],
    "units.parse": [st.text(st.sampled_from("0123.eEKkMmGi-"), max_size=7)],
    "units.parse_bytes": [st.text(st.sampled_from("0123.eEKkMBbGi-"), max_size=7)],
    "semver.compare": [st.from_regex(r"[0-9]{1,2}\.[0-9]\.[0-9](-[0-9a-z.]{1,4})?", fullmatch=True)] * 2,
    "base64.decode": [st.text(st.sampled_from("YWJjZA=\n-_+/"), max_size=9)],
    "urlquery.decode": [st.text(st.sampled_from("ab%0142+&c"), max_size=8)],
    "uri.parse": [st.text(st.sampled_from("htp:/[]@.?#%41 a1é"), max_size=12)],
    "net.cidr_contains": [
        st.from_regex(r"(10|192)\.[0-9]{1,3}\.0\.0/[0-9]{1,2}", fullmatch=True),
        st.from_regex(r"(10|192)\.[0-9]{1,3}\.0\.[0-9](/[0-9]{1,2})?", fullmatch=True),
    ],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_live_opa_agrees_on_calls_nobody_chose(live: Opa, name: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.tuples(*SIGNATURES[name]))
    def agrees(arguments: tuple[Value, ...]) -> None:
        found = outcome(name, list(arguments))
        if found.error == "unsupported":
            return
        expected = live.ask(name, list(arguments))
        if expected.error.startswith(("crashed", "internal_error", "rego_type_error")):
            return
        assert found == expected, json.dumps([name, repr(arguments)])

    agrees()
