"""The service's own numbers, scraped from /metrics."""

import aiohttp

from api.status.scrape import Metrics, parse_metrics

__all__ = ["Metrics", "parse_metrics", "scrape"]


async def scrape(session: aiohttp.ClientSession, url: str) -> Metrics:
    """Scrape the service at a URL."""
    async with session.get(f"{url}/metrics") as answer:
        answer.raise_for_status()
        return parse_metrics(await answer.text())
