"""Gives the page's tests one browser and one service per test process: starting them is slow."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.conftest import new_database
from tests.support.browser import BrowserTab, chromium, open_tab
from tests.support.page_service import Host, hosting


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """Run one browser for all tests of the folder."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def host(
    browser: Browser, server_dsn: str, template_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Host]:
    """Run one service for all tests of the folder; each test uses a group of its own."""
    folder: Path = tmp_path_factory.mktemp("page")
    async with new_database(server_dsn, template_dsn) as dsn, hosting(dsn, folder) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="package")
async def tab(browser: Browser, host: Host) -> AsyncIterator[BrowserTab]:
    """Open a tab, and fail on each problem in it that the test has not cleared."""
    async with open_tab(browser, host.url) as tab:
        yield tab
        tab.check_well()


@pytest.fixture
def group() -> str:
    """Return the id of a group that no other test uses."""
    return f"g-{uuid.uuid4().hex[:8]}"
