"""Options and fixtures of the Rego tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.rego.compliance import folder_of_cases


@pytest.fixture(scope="session")
def rego_cases(request: pytest.FixtureRequest) -> Path:
    """The folder of OPA's compliance cases (`--rego-cases`, `REGO_CASES`)."""
    folder = folder_of_cases(request.config.getoption("--rego-cases", default=None))
    if not folder.is_dir():
        pytest.skip(f"no compliance cases at {os.path.relpath(folder)}: set --rego-cases or REGO_CASES")
    return folder


@pytest.fixture(scope="session")
def opa() -> str:
    """A real OPA."""
    found = shutil.which("opa")
    if found is None:
        pytest.skip("no opa on PATH: go install github.com/open-policy-agent/opa@v1.22.0")
    return found
