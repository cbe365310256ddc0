"""Opens the live page in a real browser, and records every problem in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from benchmarks.harness.chromium import chromium_path

CHROMIUM = chromium_path()
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1366, "height": 860}
RECORD = """
window.received = "";
const send = window.fetch;
window.fetch = async (...request) => {
  const response = await send(...request);
  if (!response.body) return response;
  const [copy, original] = response.body.tee();
  const record = async () => {
    const chunks = copy.pipeThrough(new TextDecoderStream()).getReader();
    for (let { done, value } = await chunks.read(); !done; { done, value } = await chunks.read()) {
      window.received += value;
    }
  };
  record().catch(() => {});
  return new Response(original, response);
};
window.slowest = 0;
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.slowest = Math.max(window.slowest, task.duration);
}).observe({ type: "longtask", buffered: true });
"""
"""Keeps every response body that the page receives, and the duration of its longest task in ms."""
TOO_WIDE = """
document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")]
    .filter((element) => element.getBoundingClientRect().right > innerWidth)
    .map((element) => element.outerHTML)
"""

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class BrowserTab:
    """One tab with a browser profile of its own, and the problems that occurred in it."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", self._response)

    def _console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {urlsplit(response.url).path}")

    async def open(self, where: str = "/") -> None:
        await self.page.goto(self.url + where)

    async def sign_in(self, key: str, where: str = "/") -> None:
        """Open an address, and sign in with an API key."""
        await self.open(where)
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()

    async def watch(self, key: str, group: str, where: str = "") -> None:
        """Open a group, and wait until it is shown live."""
        await self.sign_in(key, f"/#/group/{group}{where}")
        await self.live()

    async def live(self) -> None:
        await expect(self.page.locator(".connection")).to_have_text("Live")

    def rows(self) -> Any:
        return self.page.locator(".devices tbody tr")

    def row(self, name: str) -> Any:
        """Return the row of a device."""
        return self.rows().filter(has=self.page.get_by_role("link", name=name, exact=True))

    async def names(self) -> list[str]:
        return await self.page.locator(".devices tbody th a").all_inner_texts()

    async def shows(self, names: list[str]) -> None:
        await expect(self.page.locator(".devices tbody th a")).to_have_text(names)

    async def received(self) -> str:
        """Return all response bodies that the page received since it was loaded."""
        return await self.page.evaluate("window.received")

    async def module(self, name: str, expression: str) -> Any:
        """Evaluate an expression in which `m` is one of the page's modules."""
        return await self.page.evaluate(f"import('/page/{name}.js').then((m) => {expression})")

    async def check_accessible(self) -> None:
        """Fail on any violation that axe-core finds, and on a page wider than the screen."""
        found = await Axe().run(self.page)
        assert not found.response["violations"], found.generate_report()
        too_wide = await self.page.evaluate(TOO_WIDE)
        assert not too_wide, too_wide

    def check_well(self) -> None:
        """Fail on script errors, failed requests, policy violations and requests to other hosts."""
        assert not self.problems
        assert {urlsplit(url).netloc for url in self.requests} == {urlsplit(self.url).netloc}


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the system's browser."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: `make packages` installs it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@asynccontextmanager
async def open_tab(browser: Browser, url: str, **options: Any) -> AsyncIterator[BrowserTab]:
    """Open a tab with a new browser profile.

    Args:
        browser: the browser.
        url: the service's address.
        options: Playwright's options of a context, such as `color_scheme` or `viewport`.
    """
    context = await browser.new_context(
        **{"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "UTC", **options}
    )
    context.set_default_timeout(PATIENCE_MS)
    await context.add_init_script(RECORD)
    try:
        yield BrowserTab(await context.new_page(), url)
    finally:
        await context.close()
