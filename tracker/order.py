"""In which order a batch is written: keys beside their neighbours, from a random place on.

Neighbours share the pages of the index, so a chunk of them costs Postgres less than one of keys
from everywhere. And processes that flush the same keys at the same time meet in few chunks, where
one follows the other, instead of in every chunk, where all wait for each other: four writers of the
same 25,000 rows were twice as fast. The place to begin is random so that they do not meet at once.

Sorting a large batch would hold up the event loop, so keys are only grouped, a slice at a time.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from os.path import commonprefix
from typing import Any, Final, TypeAlias

from tracker.keys import Key
from tracker.store import Chunk

_SAMPLE_KEYS: Final = 1000
_SLICE_KEYS: Final = 1000
_REGION_BITS: Final = 8
"""So many regions that each is a part of a chunk, so few that grouping them is cheap."""
_ENOUGH_REGIONS: Final = 64

_Entries: TypeAlias = Iterable[tuple[Key, int]]
_Regions: TypeAlias = defaultdict[Any, tuple[list[Key], list[int]]]
_Group: TypeAlias = Callable[[_Entries], None]


async def by_region(batch: Mapping[Key, int], last: AbstractSet[Key]) -> list[Chunk]:
    """Group a batch by regions of its keys.

    Args:
        batch: at least one key; it must not change meanwhile.
        last: keys that belong at the end, whatever their neighbours.

    Returns:
        The groups, of any size, none empty, in the order in which they should be written.
    """
    regions: _Regions = defaultdict(lambda: ([], []))
    group = _grouping(regions, list(islice(batch, _SAMPLE_KEYS)))
    at_the_end = Chunk([], [])
    entries = iter(batch.items())
    for _ in range(0, len(batch), _SLICE_KEYS):
        some: _Entries = islice(entries, _SLICE_KEYS)
        if last:
            some = list(some)
            at_the_end.keys.extend(key for key, _ in some if key in last)
            at_the_end.seconds.extend(at for key, at in some if key in last)
            some = [(key, at) for key, at in some if key not in last]
        group(some)
        await asyncio.sleep(0)
    order = sorted(regions)
    start = random.randrange(len(order)) if order else 0
    ordered = [Chunk(*regions[region]) for region in order[start:] + order[:start]]
    return [*ordered, at_the_end] if at_the_end else ordered


def _grouping(regions: _Regions, sample: list[Key]) -> _Group:
    """Return what puts entries into their regions; written out for speed.

    A region is the leading characters, or the bits, in which the keys of the sample differ.
    """
    texts = [key for key in sample if isinstance(key, str)]
    if texts:
        end = len(commonprefix(texts)) + 1  # noqa: RUF071 - character by character it is
        longest = max(map(len, texts))
        while end < longest and len({key[:end] for key in texts}) < _ENOUGH_REGIONS:
            end += 1

        def group_texts(entries: _Entries) -> None:
            for key, at in entries:
                keys, seconds = regions[key[:end]]  # type: ignore[index]
                keys.append(key)
                seconds.append(at)

        return group_texts

    numbers = [key for key in sample if isinstance(key, int)]
    shift = max(0, (max(numbers) - min(numbers)).bit_length() - _REGION_BITS)
    mask = (1 << _REGION_BITS) - 1  # numbers far from the sample share the regions of others

    def group_numbers(entries: _Entries) -> None:
        for key, at in entries:
            keys, seconds = regions[(key >> shift) & mask]  # type: ignore[operator]
            keys.append(key)
            seconds.append(at)

    return group_numbers
