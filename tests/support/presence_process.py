"""A process that watches presence, in a test: its database fails where the test says."""

from collections.abc import Callable

from api.events.feed import EventFeed
from api.events.sequencer import Sequencer
from api.fleet.pending import Pending
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from api.presence.listening import Listening
from api.presence.watcher import Watcher
from tests.support.presence_model import DEFAULT_S
from tracker import View


class Crash(BaseException):
    """A process has died."""


class Unreliable:
    """A database at which one statement fails, before it is executed or after."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.fails_in = -1
        self.error: BaseException = Crash()
        self.is_executed = False
        self.asked = self.executed = 0

    async def fetch(self, statement: str, *arguments, deadline_s: float | None = None):
        self.asked += 1
        fails = self.fails_in == 0
        self.fails_in -= 1
        if fails and not self.is_executed:
            raise self.error
        rows = await self._real.fetch(statement, *arguments, deadline_s=deadline_s)
        self.executed += 1
        if fails:
            raise self.error
        return rows


class Process:
    """What watches in a process; the touches that are pending are those of all of them."""

    def __init__(
        self, database: Database, pending: Callable[[], View], elapsed: Callable[[], float]
    ) -> None:
        self.database = Unreliable(database)
        self.clock = DatabaseClock(elapsed, lambda: 0.0)  # a host whose clock is wrong
        self.watcher = Watcher(
            self.database,
            Pending(pending),
            self.clock,
            Listening(self.database, offline_after_s=DEFAULT_S),
            offline_after_s=DEFAULT_S,
        )
        self.feed = EventFeed(
            self.database,
            Sequencer(self.database, ahead_s=60),
            on_online=self.watcher.watch,
            keep_days=30,
        )
