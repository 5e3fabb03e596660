"""Options and fixtures that every test folder shares."""

from collections.abc import Generator
from typing import Any

import pytest

NOT_HERE = "not on this platform: "
"""What the reason of a skip begins with that no installation could mend; CI allows it."""

OUTSIDE = ("$TOOL_DEFINITIONS", "REGO_CASES")
"""In the reasons of skips for want of material that lies beside the repository, not in it; CI allows them, and shows them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="a test that is skipped for want of something fails, so that nothing is left out in silence",
    )
    parser.addoption("--rego-cases", help="the folder of OPA's compliance cases (default: REGO_CASES)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--strict-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in (NOT_HERE, *OUTSIDE)):
            report.outcome = "failed"
            report.longrepr = f"skipped, which --strict-skips does not allow: {reason}"
    return report


@pytest.fixture
def anyio_backend() -> str:
    """The gateway runs on asyncio: its policy client and its event loop are asyncio's."""
    return "asyncio"
