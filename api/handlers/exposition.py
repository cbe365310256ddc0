"""Metrics in Prometheus's text format, written in pieces, so that a scrape delays no request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from typing import Final

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_PIECE_SAMPLES: Final = 100
"""These take half a millisecond; a busy service has more than a thousand, mostly of histograms."""


class Exposition:
    """The text of all metrics, cached for a while, so that many clients cost no more than one.

    Args:
        make: makes the text.
        max_age_s: seconds for which a text is sent again; 0 makes one for each request.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[bytes]],
        *,
        max_age_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._text = b""
        self._made_at = float("-inf")

    async def text(self) -> bytes:
        """Return the text, made now or up to `max_age_s` ago."""
        async with self._one_at_a_time:
            # Its age counts from when it was ready: else waiting clients would make it again.
            if self._monotonic() - self._made_at >= self._max_age_s:
                self._text = await self._make()
                self._made_at = self._monotonic()
            return self._text


async def exposition(registry: Collector) -> bytes:
    """Return all metrics in the text format.

    All values are read at once, so that the counters balance; the text is made in pieces.

    Args:
        registry: has the metrics. Large families have no times of creation, which would have to
            follow all of their samples.
    """
    text: list[bytes] = []
    families = list(registry.collect())
    await asyncio.sleep(0)
    samples = 0
    for family in families:
        for piece in _pieces(family):
            written = generate_latest(piece)
            # The HELP and TYPE lines are written once for a family, not for each piece of it.
            text.append(written if piece.is_first else written.split(b"\n", 2)[2])
            samples += len(piece.family.samples)
            if samples >= _PIECE_SAMPLES:
                samples = 0
                await asyncio.sleep(0)
    return b"".join(text)


class _Piece(Collector):
    """Some samples of a metric family."""

    def __init__(self, family: Metric, start: int) -> None:
        self.is_first = start == 0
        self.family = copy(family)
        self.family.samples = family.samples[start : start + _PIECE_SAMPLES]

    def collect(self) -> Iterator[Metric]:
        yield self.family


def _pieces(family: Metric) -> Iterator[_Piece]:
    for start in range(0, max(1, len(family.samples)), _PIECE_SAMPLES):
        yield _Piece(family, start)
