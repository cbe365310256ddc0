"""Compares other systems that track activity in batches, on the same Postgres server.

- Matrix Synapse, as shipped, in a process and a virtual environment of its own. Its flush upserts
  each key into a table with four indexes and updates the row of the device besides; ours updates a
  table shaped like its `devices`: text keys, text columns, full pages. Both figures are of keys.
- The Matrix Authentication Service's tracker, re-implemented: see `mas.py`.
"""

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.harness.flushing import CHUNK_KEYS, Clock, check, our_flusher
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed, connected
from benchmarks.peers.mas import MOST_KEYS, MasTracker
from benchmarks.peers.synapse import PeerUnavailableError, synapse
from tracker import Target
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres import Pool, open_pool
from tracker.postgres._store import PostgresStore

_KEYS: Final = 20_000
"""The number of keys that Synapse caches, so that its repeated touches take its cheapest path."""
_ROUNDS: Final = 5
STEPS: Final = 2 * 2 * _ROUNDS
_MICRO: Final = 1e6
_SHAPED_LIKE_SYNAPSES: Final = (
    """
    CREATE TABLE devices (
        user_id text NOT NULL, device_id text PRIMARY KEY, display_name text,
        last_seen timestamptz, ip text, user_agent text, hidden boolean DEFAULT false
    )
    """,
    f"""
    INSERT INTO devices
    SELECT '@user' || n || ':localhost', 'DEVICE' || md5(n::text), 'a phone', NULL, '10.0.0.1',
           'Element X/26.03.1 (Google Pixel 8; Android 16; Sdk 36)'
    FROM generate_series(1, {_KEYS}) AS n
    """,
    "VACUUM ANALYZE devices",
)
_TARGET: Final = Target(
    name="devices", table="devices", key_column="device_id", column="last_seen", key_type="text"
)


class Ours:
    """Our buffer and flush, in front of a table that is shaped like Synapse's.

    Args:
        pool: a connection to it.
        keys: the keys of the table.
    """

    def __init__(self, pool: Pool, keys: list[str]) -> None:
        self._now = 1_600_000_000.0
        store = PostgresStore(pool, _TARGET, statement_timeout_s=60, lock_timeout_s=0.25)
        buffer = Buffer(_TARGET, clock=lambda: self._now)
        self._flusher = Flusher(buffer, store, chunk_keys=CHUNK_KEYS)
        self._keys = keys

    def new_round(self) -> None:
        """Advance the time, so that every touch has a new value."""
        self._now += 130

    def touch(self) -> float:
        """Touch every key at the time of the round; return the microseconds per touch."""
        touch = self._flusher.buffer.touch
        started = time.perf_counter()
        for key in self._keys:
            touch(key)
        return (time.perf_counter() - started) / len(self._keys) * _MICRO

    async def flush(self) -> float:
        """Write what was touched; return the rows per second.

        Raises:
            BenchmarkFailedError: not all was written.
        """
        before = self._flusher.counts.written
        started = time.perf_counter()
        await self._flusher.flush()
        seconds = time.perf_counter() - started
        if self._flusher.counts.written - before != len(self._keys):
            raise BenchmarkFailedError("not every key was written")
        return len(self._keys) / seconds


@asynccontextmanager
async def _ours(testbed: Testbed) -> AsyncIterator[Ours]:
    async with testbed.database() as dsn, open_pool(dsn, connections=1) as pool:
        async with connected(dsn) as connection:
            for statement in _SHAPED_LIKE_SYNAPSES:
                await connection.execute(statement)
            rows = await connection.fetch("SELECT device_id FROM devices ORDER BY random()")
        yield Ours(pool, [row[0] for row in rows])


async def peers(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a table does not hold what was touched.
        PeerFailedError: Synapse reported an error or did not respond.
    """
    try:
        await _against_synapse(testbed, report, advance)
    except PeerUnavailableError as error:
        report.note(f"without Matrix Synapse: {error}")
    await _against_mas(testbed, report, advance)


async def _against_synapse(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    options = "ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
    async with (
        testbed.database(options) as dsn,
        synapse(dsn, _KEYS) as theirs,
        _ours(testbed) as ours,
    ):
        report.note(
            f"Matrix Synapse {theirs.version} writes two rows for each key, in one of its tables "
            "through four indexes; ours writes one, into a table of the same shape"
        )
        gc.collect()
        gc.freeze()  # as Synapse does
        rounds = 0

        async def our_round() -> Mapping[str, float]:
            ours.new_round()
            return {
                "touch": ours.touch(),
                "again": ours.touch(),
                "flush": await ours.flush(),
            }

        async def their_round() -> Mapping[str, float]:
            nonlocal rounds
            rounds += 1
            touched = await theirs.touch(_KEYS, rounds)
            again = await theirs.retouch(min(_KEYS, theirs.throttled_keys))
            flushed = await theirs.flush()
            stored = await theirs.check()
            if (stored.user_ips, stored.devices) != (_KEYS, _KEYS):
                raise BenchmarkFailedError(f"Synapse stored {stored}, not {_KEYS} each")
            return {
                "touch": touched.microseconds_each,
                "again": again.microseconds_each,
                "flush": flushed.rows_per_second,
            }

        both: dict[str, Callable[[], Awaitable[Mapping[str, float]]]] = {
            "ours": our_round,
            "Synapse": their_round,
        }
        for warm_up in both.values():
            await warm_up()
        measured = await alternate(_ROUNDS, both, advance)
    for what, key, goal in (
        ("first touch of a key", "touch", 4.0),
        ("repeated touch", "again", None),
    ):
        report.compare(
            *("peers", f"cost of a {what}, Synapse / ours"),
            *(
                Measured(name, [one[key] for one in measured[name]], "us")
                for name in ("Synapse", "ours")
            ),
            goal=goal,
        )
    report.compare(
        *("peers", "keys flushed/s, ours / Synapse"),
        *(
            Measured(name, [one["flush"] for one in measured[name]], "/s")
            for name in ("ours", "Synapse")
        ),
        goal=3,
    )


async def _against_mas(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    clock = Clock()
    async with (
        testbed.fleet(MOST_KEYS) as our_fleet,
        testbed.copy(our_fleet) as their_fleet,
        open_pool(our_fleet.dsn, connections=1) as our_pool,
        open_pool(their_fleet.dsn, connections=1) as their_pool,
    ):
        mas = MasTracker(their_pool)

        async def our_round() -> Mapping[str, float]:
            touches = clock.touches(our_fleet.devices, MOST_KEYS)
            started = time.perf_counter()
            flusher = our_flusher(our_pool, touches)
            touched = time.perf_counter()
            await flusher.flush()
            ended = time.perf_counter()
            await check(our_fleet.dsn, touches)
            return {
                "touch": (touched - started) / MOST_KEYS * _MICRO,
                "flush": MOST_KEYS / (ended - touched),
            }

        async def their_round() -> Mapping[str, float]:
            touches = clock.touches(their_fleet.devices, MOST_KEYS)
            started = time.perf_counter()
            for key, at in touches:
                await mas.record(key, at)
            if await mas.received() != MOST_KEYS:
                raise BenchmarkFailedError("the re-implemented tracker lost touches")
            touched = time.perf_counter()
            await mas.flush()
            ended = time.perf_counter()
            await check(their_fleet.dsn, touches)
            return {
                "touch": (touched - started) / MOST_KEYS * _MICRO,
                "flush": MOST_KEYS / (ended - touched),
            }

        both = {"ours": our_round, "MAS (re-implemented)": their_round}
        for warm_up in both.values():
            await warm_up()
        measured = await alternate(_ROUNDS, both, advance)
        await mas.close()
    ours, theirs = measured["ours"], measured["MAS (re-implemented)"]
    report.compare(
        *("peers", "cost of a first touch, MAS (re-implemented) / ours"),
        Measured("MAS", [one["touch"] for one in theirs], "us"),
        Measured("ours", [one["touch"] for one in ours], "us"),
    )
    report.compare(
        *("peers", "keys flushed/s of 10,000, ours / MAS (re-implemented)"),
        Measured("ours", [one["flush"] for one in ours], "/s"),
        Measured("MAS", [one["flush"] for one in theirs], "/s"),
    )
