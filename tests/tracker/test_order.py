"""The order of writing: neighbours together, whatever the keys are, and none lost or twice."""

import random
import uuid
from itertools import pairwise

import pytest

from tracker._flush.order import by_region

AT = 1_700_000_000
CHANCE = random.Random(3)
KEYS = {
    "uuids": [str(uuid.UUID(int=CHANCE.getrandbits(128))) for _ in range(20_000)],
    "uuids that begin with the time": [
        str(uuid.UUID(int=(AT + n) << 90 | CHANCE.getrandbits(60))) for n in range(20_000)
    ],
    "numbers from a sequence": list(range(1, 20_001)),
    "late numbers from a sequence": list(range(10**15, 10**15 + 20_000)),
    "any numbers": [CHANCE.randrange(-(2**63), 2**63) for _ in range(20_000)],
    "a few small numbers, then any": [*range(2000), *(CHANCE.getrandbits(63) for _ in range(2000))],
    "names": [f"user:{CHANCE.randrange(10**9)}" for _ in range(20_000)],
    "one name": ["only"],
    "one number": [-7],
    "names without a beginning": ["", "a", "aa", "é", "\U0001f600"],
}


@pytest.mark.parametrize("name", KEYS)
async def test_every_key_is_written_once_with_its_second(name):
    """Grouping neither loses nor repeats nor mixes up."""
    keys = list(dict.fromkeys(KEYS[name]))
    CHANCE.shuffle(keys)
    batch = {key: AT + n for n, key in enumerate(keys)}
    regions = await by_region(batch, set())
    assert all(len(region) for region in regions)
    entries = [entry for region in regions for entry in region.entries()]
    assert len(entries) == len(batch)
    assert dict(entries) == batch


@pytest.mark.parametrize(
    "name",
    [
        *("uuids", "uuids that begin with the time", "names", "any numbers"),
        *("numbers from a sequence", "late numbers from a sequence"),
    ],
)
async def test_neighbours_are_written_together(name):
    """Regions are many, none holds a large share, and they follow each other but for one jump."""
    keys = list(dict.fromkeys(KEYS[name]))
    CHANCE.shuffle(keys)
    regions = await by_region(dict.fromkeys(keys, AT), set())
    assert len(regions) > 100
    assert max(len(region) for region in regions) < len(keys) // 5
    firsts = [min(region.keys) for region in regions]
    assert sum(before > after for before, after in pairwise(firsts)) <= 1


async def test_regions_are_few_whatever_the_first_keys_are_like():
    """A thousand neighbours first, then keys from everywhere: no region for each of those."""
    keys = [f"{n:036}" for n in range(1000)] + KEYS["uuids"]
    assert len(await by_region(dict.fromkeys(keys, AT), set())) < 200


async def test_two_writers_begin_in_different_places():
    """They would all meet in the first chunk otherwise."""
    batch = dict.fromkeys(KEYS["uuids"], AT)
    assert len({(await by_region(batch, set()))[0].keys[0] for _ in range(20)}) > 1


async def test_keys_that_failed_come_last():
    """Wherever their neighbours are; those that are not in the batch any more are left out."""
    batch = dict.fromkeys(KEYS["uuids"], AT)
    failed = {KEYS["uuids"][5], KEYS["uuids"][500], "gone"}
    regions = await by_region(batch, failed)
    assert set(regions[-1].keys) == failed - {"gone"}
    assert sum(map(len, regions)) == len(batch)
    only = await by_region(dict.fromkeys(["a", "b"], AT), {"a", "b"})
    assert [sorted(region.keys) for region in only] == [["a", "b"]]
