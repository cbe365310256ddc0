"""Random histories of presence on a real Postgres whose time is virtual, compared with a model.

The service's statements say `now()`. Connections to this database find another function of that
name first, which returns the time of a table. So hours pass in milliseconds, and the clock jumps.
"""

import random
import uuid

import asyncpg

from api.postgres.database import Database
from tests.support.presence_model import DEFAULT_S, GAP_S, Device, Model
from tests.support.presence_process import Crash, Process
from tracker import StoreUnavailable, View

START = 1_700_000_000
AGAIN_S = 1
VIRTUAL_TIME = """
CREATE SCHEMA shifted;
CREATE TABLE shifted.clock (at timestamptz);
INSERT INTO shifted.clock VALUES (now());
CREATE FUNCTION shifted.now() RETURNS timestamptz LANGUAGE sql STABLE
AS 'SELECT at FROM shifted.clock';
ALTER FUNCTION note_presence() SET search_path = shifted, pg_catalog, public;
"""
CLEAR = f"""
TRUNCATE devices, event_outbox, device_events, listening_gaps, group_settings CASCADE;
UPDATE event_position SET last = 0, removed = 0;
UPDATE presence_clock SET listened_until = '-infinity', offline_after_s = {DEFAULT_S}
"""
ADD = """
INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at)
VALUES ($1, 'Phone', 'g0', 'android', to_timestamp($2))
"""
TOUCH = """
UPDATE devices SET last_seen_at = to_timestamp($2)
WHERE device_id = $1 AND last_seen_at < to_timestamp($2)
"""
SET_GROUP = """
INSERT INTO group_settings (group_id, offline_after_s, changed_at)
VALUES ($1, $2, clock_timestamp())
ON CONFLICT (group_id) DO UPDATE
SET offline_after_s = excluded.offline_after_s, changed_at = excluded.changed_at
"""
ROWS = """
SELECT device_id::text, is_online, event_seq, date_part('epoch', presence_since)::bigint,
       date_part('epoch', last_seen_at)::bigint
FROM devices
"""
LOG = """
SELECT position, device_id::text, seq, type, date_part('epoch', at)::bigint
FROM device_events ORDER BY position
"""


class History:
    """One random history.

    Args:
        seed: decides all of it.
        database: what the processes use.
        db: what else happens in the database.
        other: a connection whose transaction stays open.
    """

    def __init__(
        self, seed: int, database: Database, db: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        self._random = random.Random(seed)
        self._database = database
        self._db = db
        self._other = other
        self._model = Model()
        self._now = START
        self._elapsed = 0.0
        self._again_at = 0.0
        """When devices are checked again that could not be set offline just now."""
        self._pending: dict[str, int] = {}
        self._locked: tuple[Device, int, int] | None = None
        self._processes = [self._process() for _ in range(2)]

    def _process(self) -> Process:
        pending = lambda: View([dict(self._pending)], "uuid")  # noqa: E731
        return Process(self._database, pending, lambda: self._elapsed)

    async def begin(self, devices: int) -> None:
        """Register devices in an empty database."""
        await self._db.execute(CLEAR)
        await self._pass(0)
        for _ in range(devices):
            device_id = str(uuid.UUID(int=self._random.getrandbits(128)))
            await self._db.execute(ADD, device_id, self._now)
            self._model.register(device_id, self._now)

    async def run(self, steps: int) -> None:
        """Run it.

        Raises:
            AssertionError: what is stored is not what the model says.
        """
        await self.begin(6)
        actions = (
            *10 * (self.live,),
            *4 * (self._touch,),
            *2 * (self.pend, self.flush, self._lock, self._unlock, self._fail),
            *(self._outage, self._set_back, self._change, self._change_group, self._move),
        )
        for _ in range(steps):
            await self._random.choice(actions)()
            await self._observe()
        await self._unlock()
        await self.flush()
        await self.end()

    async def end(self) -> None:
        """Number all events, and compare them."""
        for _ in range(3):
            await self._pass(AGAIN_S)
            await self._round(self._processes[0])
        await self._processes[0].feed.run_once()
        await self._check_log()

    async def _pass(self, seconds: int, *, back: bool = False) -> None:
        self._now += -seconds if back else seconds
        self._elapsed += 0 if back else seconds
        await self._db.execute("UPDATE shifted.clock SET at = to_timestamp($1)", self._now)

    def _allow(self, seconds: float) -> None:
        """Let processes find what is offline so much later."""
        self._again_at = max(self._again_at, self._elapsed + seconds)

    def _any(self) -> Device | None:
        """Some device whose row is free."""
        device = self._random.choice(list(self._model.devices.values()))
        return None if self._locked and self._locked[0] is device else device

    async def live(self, rounds: int = 0) -> None:
        """Time passes as it mostly does; each process runs a round."""
        for _ in range(rounds or self._random.randrange(1, 12)):
            await self._pass(self._random.randrange(1, 5))
            for process in self._random.sample(self._processes, len(self._processes)):
                await self._round(process)

    async def _round(self, process: Process) -> None:
        """Let a process do what it does several times a second."""
        process.clock.set(self._now, asked_at=self._elapsed)
        try:
            await process.feed.run_once()
            before = process.database.executed
            try:
                await process.watcher.run_once()
            finally:
                if process.database.executed > before:
                    self._model.listen(self._now)
        except Crash:
            self._processes[self._processes.index(process)] = self._process()
            return
        except StoreUnavailable:
            return
        finally:
            await self._observe()
        if self._elapsed < self._again_at:
            return
        for device in self._model.devices.values():
            is_locked = self._locked is not None and self._locked[0] is device
            is_pending = self._pending.get(device.id, 0) > device.last_seen
            if device.is_online and not is_locked and not is_pending:
                at = self._model.offline_at(device, self._now)
                assert at > self._now, f"missed: {device} at {self._now} since {at}"

    async def _fail(self) -> None:
        """A process fails at any statement: it dies, or it finds the database unavailable."""
        process = self._random.choice(self._processes)
        process.database.fails_in = self._random.randrange(8)
        process.database.is_executed = self._random.random() < 0.5
        process.database.error = self._random.choice([Crash(), StoreUnavailable("away")])
        await self._pass(self._random.randrange(4))
        await self._round(process)
        process.database.fails_in = -1
        self._allow(AGAIN_S)

    async def _touch(self) -> None:
        """A touch is written, perhaps late."""
        if device := self._any():
            late_s = self._random.choice([0, 0, 0, self._random.randrange(200)])
            await self._db.execute(TOUCH, device.id, self._now - late_s)
            self._model.touch(device, self._now - late_s, self._now)

    async def pend(self) -> None:
        self._pending[self._random.choice(list(self._model.devices))] = self._now

    async def flush(self) -> None:
        for device_id in list(self._pending):
            device = self._model.devices[device_id]
            if not (self._locked and self._locked[0] is device):
                at = min(self._pending.pop(device_id), self._now)
                self._allow(AGAIN_S)
                await self._db.execute(TOUCH, device_id, at)
                self._model.touch(device, at, self._now)

    async def _lock(self) -> None:
        """A transaction touches a device, and commits later."""
        if self._locked is None and (device := self._any()):
            await self._other.execute("BEGIN")
            await self._other.execute(TOUCH, device.id, self._now)
            self._locked = device, self._now, self._now

    async def _unlock(self) -> None:
        if self._locked is not None:
            device, at, began = self._locked
            self._locked = None
            self._allow(AGAIN_S)
            if self._random.random() < 0.7:
                await self._other.execute("COMMIT")
                self._model.touch(device, at, began)
            else:
                await self._other.execute("ROLLBACK")

    async def _outage(self) -> None:
        await self.outage(self._random.choice([4, 6, 20, 90, 1500, 90_000]))

    async def outage(self, seconds: int) -> None:
        """No process runs, or the clock jumps ahead."""
        await self._pass(seconds)

    async def _set_back(self) -> None:
        await self.set_back(self._random.choice([1, 3, 30, 1500]))

    async def set_back(self, seconds: int) -> None:
        """The database's clock jumps back; what is due soon is due later by as much."""
        await self._pass(seconds, back=True)
        self._allow(AGAIN_S + min(seconds, GAP_S))

    @property
    def offline(self) -> int:
        """How many devices are offline."""
        return sum(not device.is_online for device in self._model.devices.values())

    async def _change(self) -> None:
        if device := self._any():
            device.offline_after_s = self._random.choice([None, 30, 45, 300])
            await self._db.execute(
                "UPDATE devices SET offline_after_s = $2 WHERE device_id = $1",
                *(device.id, device.offline_after_s),
            )
            for process in self._processes:
                process.watcher.look_at_soon(device.id)

    async def _change_group(self) -> None:
        group, seconds = self._random.choice(["g0", "g1"]), self._random.choice([None, 35, 200])
        await self._db.execute(SET_GROUP, group, seconds)
        self._model.groups[group] = seconds

    async def _move(self) -> None:
        if device := self._any():
            group = self._random.choice(["g0", "g1"])
            await self._db.execute(
                "UPDATE devices SET group_id = $2 WHERE device_id = $1", device.id, group
            )
            self._model.move(device, group, self._now)
            for process in self._processes:
                process.watcher.look_at_soon(device.id)

    async def _observe(self) -> None:
        """Compare each row; a device that is offline now was found by a process."""
        for device_id, is_online, seq, since, last_seen in await self._db.fetch(ROWS):
            device = self._model.devices[device_id]
            if device.is_online and not is_online:
                self._model.silence(device, self._now, pending=self._pending.get(device_id, 0))
            expected = device.is_online, len(device.events), device.since, device.last_seen
            assert (is_online, seq, since, last_seen) == expected, (device, self._now)

    async def _check_log(self) -> None:
        """Each event is there once, numbered without gaps, in the order of its device."""
        log = await self._db.fetch(LOG)
        assert [row[0] for row in log] == list(range(1, len(log) + 1))
        for device in self._model.devices.values():
            own = [tuple(row[2:]) for row in log if row[1] == device.id]
            expected = [(n, *event) for n, event in enumerate(device.events, start=1)]
            assert own == expected, (own, expected)
