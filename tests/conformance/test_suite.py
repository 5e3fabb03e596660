"""The official conformance suite, against the fixture server and through the gateway."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.gateway_process import configure, http_server, listening, serve


def check(target: str, which: str, url: str, directory: Path) -> None:
    """Runs the set and holds it against the list of expected failures, both ways."""
    wanted = suite.expected(target, which)
    report = suite.run(which, url, directory)
    print(f"{target}, {which}: {report}")
    assert len(report.scored) == wanted.scenarios, f"the suite ran {sorted(report.scored)}"
    assert report.failing - set(wanted.failing) == set(), f"newly failing: {report}"
    assert set(wanted.failing) - report.failing == set(), "newly passing: take them off the list in expected.toml"


@contextmanager
def behind_a_gateway(directory: Path, *fixture_arguments: str) -> Iterator[str]:
    """The URL of a gateway, with policy, validation and journal, in front of the fixture server."""
    with listening("tests.fixture_server", *fixture_arguments) as url:
        config = configure(directory, http_server("fixture", url), head='tool_names = "{tool}"')
        with serve(config) as gateway:
            yield gateway.url


@pytest.mark.rule("conformance.fixture")
@pytest.mark.parametrize("which", suite.SETS)
def test_the_fixture_server_itself_is_conformant(which: str, tmp_path: Path) -> None:
    with listening("tests.fixture_server") as url:
        check("direct", which, url, tmp_path)


@pytest.mark.rule("conformance.same-era")
@pytest.mark.parametrize("which", suite.SETS)
def test_through_the_gateway_the_suite_gives_what_it_gives_directly(which: str, tmp_path: Path) -> None:
    with behind_a_gateway(tmp_path) as url:
        check("gateway", which, url, tmp_path)


@pytest.mark.rule("conformance.across-eras")
@pytest.mark.parametrize(("era", "which"), [("modern", "0.1.16"), ("modern", "2025-11-25"), ("legacy", "2026-07-28")])
def test_across_eras_the_gateway_translates(era: str, which: str, tmp_path: Path) -> None:
    with behind_a_gateway(tmp_path, "--era", era) as url:
        check("across", which, url, tmp_path)
