"""Random histories of devices, paged through, against the plainest model: a list, filtered."""

import asyncio
from math import inf
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.config import DatabaseSettings
from api.fleet.cursors import from_cursor
from api.fleet.listing import Ages, Listings
from api.fleet.pending import Pending
from api.postgres.database import open_database
from tracker import Target
from tracker._buffer.buffer import Buffer

DEVICES = Target(
    name="devices", table="devices", key_column="device_id", column="last_seen_at", key_type="uuid"
)
_HOUR_S = 3600
NUMBERS = st.integers(min_value=0, max_value=11)
HOURS = st.integers(min_value=0, max_value=9)
STEPS = st.one_of(
    st.tuples(st.just("register"), NUMBERS, st.sampled_from(["aa", "bb", "cc"])),
    st.tuples(st.just("deactivate"), NUMBERS, st.none()),
    st.tuples(st.just("touch"), NUMBERS, HOURS),
    st.tuples(st.just("drain"), st.none(), st.none()),
    st.tuples(st.just("commit"), st.none(), st.none()),
    st.tuples(st.just("fail"), st.none(), st.none()),
)
BOUNDS = st.one_of(st.none(), HOURS)


class History:
    """Devices in the table and in the buffer, and what a list of them would say."""

    def __init__(self, db: asyncpg.Connection, now: int) -> None:
        self.db, self.now = db, now
        self.buffer = Buffer(DEVICES)
        self.in_flight: dict[object, int] | None = None
        self.model: dict[str, object] = {}
        self.seen: dict[str, int] = {}

    async def live(self, what: str, number: int | None, value: object) -> None:
        device = str(UUID(int=number or 0))
        match what:
            case "register":
                await self.db.execute(
                    "INSERT INTO devices (device_id, display_name, group_id, platform) "
                    "VALUES ($1, $2, 'family', 'ios') ON CONFLICT (device_id) "
                    "DO UPDATE SET display_name = excluded.display_name, is_active = true",
                    device,
                    value,
                )
                self.model[device] = value
            case "deactivate":
                await self.db.execute(
                    "UPDATE devices SET is_active = false WHERE device_id = $1", device
                )
                self.model.pop(device, None)
            case "touch" if device in self.model:
                at = self.now - value * _HOUR_S
                self.buffer.touch(device, at)
                self.seen[device] = max(self.seen.get(device, 0), at)
            case "drain" if self.in_flight is None:
                self.in_flight = self.buffer.drain()
            case "commit" if self.in_flight is not None:
                await self.db.executemany(
                    "UPDATE devices SET last_seen_at = greatest(last_seen_at, to_timestamp($2)) "
                    "WHERE device_id = $1",
                    list(self.in_flight.items()),
                )
                self.buffer.settle({})
                self.in_flight = None
            case "fail" if self.in_flight is not None:
                self.buffer.settle(self.in_flight)
                self.in_flight = None

    def expected(self, ages: Ages) -> list[str]:
        found = []
        for device in sorted(self.model, key=lambda one: (self.model[one], one)):
            age = self.now - self.seen[device] if device in self.seen else inf
            if ages.at_least_s <= age <= ages.at_most_s:
                found.append(device)
        return found


async def test_pages_together_equal_the_filtered_list(dsn, db):
    """Whatever was registered, deactivated, touched, drained, committed or restored before."""

    async def check(stored, steps, silent, within, limit, most_rows) -> None:
        await db.execute("TRUNCATE devices CASCADE")
        now = await db.fetchval("SELECT floor(extract(epoch FROM now()))::bigint")
        history = History(db, now)
        for number, hours in enumerate(stored):
            await history.live("register", number, "bb")
            if hours is not None:
                await history.live("touch", number, hours)
        await history.live("drain", None, None)
        await history.live("commit", None, None)
        for step in steps:
            await history.live(*step)
        # Half an hour off the ages that there are, so that the clock may go on meanwhile.
        ages = Ages(
            at_least_s=-inf if silent is None else silent * _HOUR_S - _HOUR_S // 2,
            at_most_s=inf if within is None else within * _HOUR_S + _HOUR_S // 2,
        )
        async with open_database(dsn, DatabaseSettings(), connections=1) as database:
            listings = Listings(
                database, Pending(history.buffer.view), ahead_s=300, most_rows=most_rows
            )
            found, after, is_last = [], None, False
            while not is_last:
                page = await listings.page("family", limit=limit, after=after, ages=ages)
                assert len(page.devices) <= limit
                if most_rows > len(history.model) + limit and page.next_cursor:
                    assert len(page.devices) == limit
                found += [device.device_id for device in page.devices]
                is_last = page.next_cursor is None
                after = None if is_last else from_cursor(page.next_cursor)
        assert found == history.expected(ages)

    loop = asyncio.get_running_loop()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(BOUNDS, max_size=12),
        st.lists(STEPS, max_size=20),
        BOUNDS,
        BOUNDS,
        st.integers(min_value=1, max_value=5),
        st.sampled_from([1, 4, 1000]),
    )
    def histories(stored, steps, silent, within, limit, most_rows) -> None:
        checked = check(stored, steps, silent, within, limit, most_rows)
        asyncio.run_coroutine_threadsafe(checked, loop).result()

    await asyncio.to_thread(histories)
