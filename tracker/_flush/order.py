"""In which order a batch is written: keys next to their neighbours, from a random start.

Neighbours share pages of the index, so a chunk of neighbours costs Postgres less than one of keys
from everywhere. And processes that flush the same keys at the same time meet in few chunks, where
one waits for the other, instead of in every chunk: four writers of the same 25,000 rows were twice
as fast. The start is random so that they do not meet at once.

To sort a large batch would block the event loop, so keys are only grouped, a slice at a time.
"""

import asyncio
import random
from bisect import bisect
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from tracker._flush.store import Chunk
from tracker.keys import Key

_SAMPLE_KEYS: Final = 1000
_KEYS_PER_BOUND: Final = 8
"""Every 8th key of the sample is a bound: a region is smaller than a chunk, and there are few."""
_SLICE_KEYS: Final = 1000


async def by_region(batch: Mapping[Key, int], last: AbstractSet[Key]) -> list[Chunk]:
    """Group a batch by regions of its keys.

    The bounds of the regions come from the first keys of the batch, so there are at most 126.

    Args:
        batch: at least one key; it must not change meanwhile.
        last: keys that go to the end, whatever their neighbours.

    Returns:
        The groups, of any size, none empty, in the order in which they should be written.
    """
    bounds = sorted(islice(batch, _SAMPLE_KEYS))[::_KEYS_PER_BOUND]
    regions = [Chunk([], []) for _ in range(len(bounds) + 1)]
    end = Chunk([], [])
    entries = iter(batch.items())
    for _ in range(0, len(batch), _SLICE_KEYS):
        for key, at in islice(entries, _SLICE_KEYS):
            region = end if key in last else regions[bisect(bounds, key)]
            region.keys.append(key)
            region.seconds.append(at)
        await asyncio.sleep(0)
    start = random.randrange(len(regions))
    return [region for region in (*regions[start:], *regions[:start], end) if region]
