"""Scrapes the service's metrics."""

import aiohttp

from api.status.scrape import Metrics, parse_metrics

__all__ = ["Metrics", "parse_metrics", "scrape"]


async def scrape(session: aiohttp.ClientSession, url: str) -> Metrics:
    """Scrape the service at a URL, and parse its metrics."""
    async with session.get(f"{url}/metrics") as response:
        response.raise_for_status()
        return parse_metrics(await response.text())
