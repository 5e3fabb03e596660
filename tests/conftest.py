"""Options and fixtures that every test folder shares."""

from collections.abc import Generator
from typing import Any

import pytest

NOT_HERE = "not on this platform: "
"""What the reason of a skip begins with that no installation could mend; CI allows it."""


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
        if NOT_HERE not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped, which --strict-skips does not allow: {reason}"
    return report


@pytest.fixture
def anyio_backend() -> str:
    """The gateway runs on asyncio: its policy client and its event loop are asyncio's."""
    return "asyncio"
