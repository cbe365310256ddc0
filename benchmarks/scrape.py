"""The service's own numbers, scraped from /metrics, and the balance of its books."""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """One scrape."""

    samples: Mapping[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that have these labels."""
        wanted = labels.items()
        return sum(
            value
            for (sample, having), value in self.samples.items()
            if sample == name and having >= wanted
        )

    def balance(self, target: str) -> float:
        """Return touches less everything that became of them: 0 when the books balance."""
        return self.total("activity_touches_total", target=target) - sum(
            self.total(name, target=target)
            for name in (
                "activity_touches_coalesced_total",
                "activity_touches_dropped_total",
                "activity_flush_keys_total",
                "activity_buffer_keys",
            )
        )


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus's text format."""
    return Metrics(
        {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


async def scrape(session: aiohttp.ClientSession, url: str) -> Metrics:
    """Scrape the service at a URL."""
    async with session.get(f"{url}/metrics") as answer:
        answer.raise_for_status()
        return parse_metrics(await answer.text())
