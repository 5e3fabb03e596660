"""Hand-written modules, judged by a real OPA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rego.differential import DATA, INPUT, LEXICAL, MODULES
from tests.rego.fuzz import OpaServer, Trial, judge, opa_server


@pytest.fixture(scope="module")
def server(opa: str) -> Iterator[OpaServer]:
    with opa_server() as started:
        yield started


@pytest.mark.rule("rego.differential")
@pytest.mark.parametrize("name", MODULES)
def test_opa_and_the_engine_answer_alike(server: OpaServer, name: str) -> None:
    module = f"package fuzz\n\nimport data.base\n{MODULES[name]}"
    for question in (INPUT, {}, {**INPUT, "xs": {"a": 1}, "o": [], "n": "2"}):
        assert not judge(server, Trial(module, DATA, question))


@pytest.mark.rule("rego.differential")
def test_opa_and_the_engine_read_text_alike(server: OpaServer) -> None:
    for module in LEXICAL:
        assert not judge(server, Trial(module, DATA, INPUT))
