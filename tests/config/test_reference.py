"""The reference page says what the model says."""

from pathlib import Path

import pytest

from gateway.config.document import Document
from gateway.config.reference import page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.rule("config.reference-page")
def test_the_reference_page_is_the_one_made_from_the_model() -> None:
    assert (DOCS / "configuration.md").read_text() == page(), (
        "make it again: python -m gateway.config.reference > docs/configuration.md"
    )


@pytest.mark.rule("config.reference-page")
def test_every_key_of_the_model_has_words() -> None:
    for line in page().splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), line
    for table in Document.model_fields:
        assert f"[{table}" in page()
