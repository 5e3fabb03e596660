"""Options and fixtures that every test folder shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The gateway runs on asyncio: its policy client and its event loop are asyncio's."""
    return "asyncio"
