"""The pages of `docs/` name commands, metrics and files that exist."""

import re
from pathlib import Path

import pytest

from gateway.cli.frame import COMMANDS, gateway
from gateway.telemetry import Metrics

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.rule("docs.commands")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    import click

    context = click.Context(gateway)
    for name, second in re.findall(r"`gateway ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?", page.read_text()):
        assert name in COMMANDS, f"{page.name}: gateway {name}"
        found = gateway.get_command(context, name)
        if isinstance(found, click.Group) and second:
            assert second in found.list_commands(context), f"{page.name}: gateway {name} {second}"


@pytest.mark.rule("docs.commands")
def test_every_metric_that_operations_names_exists_and_none_is_left_out() -> None:
    source = "\n".join(file.read_text() for file in (DOCS.parent / "gateway").glob("*.py"))
    named = {
        name.removesuffix("_total")
        for name in re.findall(r"`(gateway_[a-z][a-z_]*)", (DOCS / "operations.md").read_text())
    }
    families = {family.name for family in Metrics().registry.collect()}
    assert families <= named
    for name in named - families:
        assert f'"{name}"' in source, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
