"""The tracker: the buffers, journals and flush loops of all targets, wired together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tracker._buffer.buffer import Buffer
from tracker._buffer.view import View
from tracker._flush.flusher import Flusher
from tracker._flush.loop import FlushLoop, flush_all
from tracker._options import Options, make_buffers, warn_renamed
from tracker.instrumentation import Log
from tracker.postgres import Connections, Pool, connections, open_pool
from tracker.postgres._identity import identity
from tracker.postgres._store import PostgresStore
from tracker.target import Target
from tracker.times import Time

if TYPE_CHECKING:
    from aiohttp import web

    from tracker._journal.recovery import JournalRecovery

log: Final = Log(__name__)


class Tracker:
    """Records touches in memory and writes them to Postgres in the background.

    Touches may be recorded from construction on; they are written while the tracker runs:
    `async with tracker.running(): ...`, or `app.cleanup_ctx.append(tracker.lifespan)`.

    Args:
        targets: the columns to keep up to date; names must differ.
        dsn: a Postgres server. The tracker opens connections of its own, which no request uses.
        pool: an asyncpg pool to borrow from instead, one connection for each target at a time. The
            tracker neither changes nor closes it; leave room in it.
        flush_interval_s: time between flushes, in seconds.
        chunk_keys: the most keys in one UPDATE.
        statement_timeout_s: how long one UPDATE may take, in seconds.
        lock_timeout_s: how long an UPDATE waits for one lock, in seconds.
        backoff_initial_s: delay after the first failed flush, in seconds; each further failure
            doubles it.
        backoff_max_s: the longest delay, in seconds.
        shutdown_deadline_s: how long the last flush may take, in seconds.
        journal_dir: a directory for journals, which hold what is pending if the process is killed;
            another process that writes to the same database recovers it. Processes may share the
            directory. None: pending touches are in memory alone.
        journal_max_bytes: the most room for the journal of one target, in bytes.
        log_keys: whether log lines about rows name some of their keys. False if keys are personal
            data, such as email addresses. Journals hold keys in any case.
        clock: wall clock in seconds since the epoch, which says what now is. It is called for each
            touch, or once for all of a request. Pass another one if the host's clock is not that of
            the database.
        backoff_first_s: deprecated name of `backoff_initial_s`.
        backoff_most_s: deprecated name of `backoff_max_s`.

    Raises:
        ConfigurationError: arguments that cannot work.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        dsn: str | None = None,
        pool: Pool | None = None,
        flush_interval_s: float = 5.0,
        chunk_keys: int = 5000,
        statement_timeout_s: float = 5.0,
        lock_timeout_s: float = 0.25,
        backoff_initial_s: float = 1.0,
        backoff_max_s: float = 30.0,
        shutdown_deadline_s: float = 10.0,
        journal_dir: str | PathLike[str] | None = None,
        journal_max_bytes: int = 512 << 20,
        log_keys: bool = True,
        clock: Callable[[], float] = time.time,
        backoff_first_s: float | None = None,
        backoff_most_s: float | None = None,
    ) -> None:
        if backoff_first_s is not None:
            warn_renamed("backoff_first_s", "backoff_initial_s")
            backoff_initial_s = backoff_first_s
        if backoff_most_s is not None:
            warn_renamed("backoff_most_s", "backoff_max_s")
            backoff_max_s = backoff_most_s
        self._options = Options(
            dsn=dsn,
            pool=pool,
            flush_interval_s=flush_interval_s,
            chunk_keys=chunk_keys,
            statement_timeout_s=statement_timeout_s,
            lock_timeout_s=lock_timeout_s,
            backoff_initial_s=backoff_initial_s,
            backoff_max_s=backoff_max_s,
            shutdown_deadline_s=shutdown_deadline_s,
            journal_dir=None if journal_dir is None else Path(journal_dir),
            journal_max_bytes=journal_max_bytes,
            log_keys=log_keys,
        )
        self._targets = targets if isinstance(targets, Target) else list(targets)
        self._clock = clock
        self._is_running = False
        self._buffers = make_buffers(self._targets, clock)
        self._touch: dict[str, Callable[[object, Time | None, float | None], None]] = {
            name: partial(self._touch_early, buffer) for name, buffer in self._buffers.items()
        }
        self._flushers: dict[str, Flusher] = {}
        self._flush_loops: dict[str, FlushLoop] = {}
        self._own_pool: Pool | None = None
        self._recovery: JournalRecovery | None = None

    def touch(self, target: str, key: object, at: Time | None = None) -> None:
        """Record that a key was active; never blocks, never waits.

        Args:
            target: the name of a target.
            key: of the target's key type. For `uuid`, a `uuid.UUID` or its 32 digits in either
                case, with hyphens or without; for `bigint` and `integer`, an `int` or its digits
                as Postgres prints them; for `text`, a `str`. Anything else is dropped and counted
                as invalid.
            at: when: seconds since the epoch, or an aware `datetime`; by default now. A time up to
                a minute ahead of the clock counts as now. A later one, or one that is no time, is
                dropped and counted as invalid.

        Raises:
            KeyError: no target has that name.
        """
        self._touch[target](key, at, None)

    def touch_all(self, keys: Iterable[tuple[str, object]]) -> None:
        """Record that several keys are active now, such as all those of a request.

        Args:
            keys: a target's name and a key each, as for `touch`.

        Raises:
            KeyError: no target has that name; the keys after it are not recorded.
        """
        now = self._clock()
        for target, key in keys:
            self._touch[target](key, None, now)

    def _touch_early(self, buffer: Buffer, key: object, at: Time | None, now: float | None) -> None:
        """Record a touch before the tracker runs, and log once that it does not run yet."""
        log.error("tracker.not_running", hint="app.cleanup_ctx.append(tracker.lifespan)")
        self._touch_directly()
        buffer.touch(key, at, now)

    def _touch_directly(self) -> None:
        self._touch = {name: buffer.touch for name, buffer in self._buffers.items()}

    def pending(self, target: str) -> View:
        """Return the touches of a target that are not in the table yet.

        Take the view before the SELECT whose rows you overlay it on. If a flush commits in between,
        each touch is then in the view or in the rows.

        Raises:
            KeyError: no target has that name.
        """
        return self._buffers[target].view()

    @property
    def buffers(self) -> Mapping[str, Buffer]:
        """The buffer of each target, by name."""
        return MappingProxyType(self._buffers)

    @property
    def flushers(self) -> Mapping[str, Flusher]:
        """The flusher of each target, by name: what it has written. Empty before the first run."""
        return MappingProxyType(self._flushers)

    @property
    def flush_loops(self) -> Mapping[str, FlushLoop]:
        """The flush loop of each target, by name: its failures. Empty before the first run."""
        return MappingProxyType(self._flush_loops)

    @property
    def connections(self) -> Connections:
        """The tracker's own connections; none if it borrows them, or before the first run."""
        return Connections(0, 0, 0) if self._own_pool is None else connections(self._own_pool)

    @property
    def recovered(self) -> Mapping[str, int]:
        """How many touches were recovered from orphaned journals, by target."""
        return {} if self._recovery is None else self._recovery.recovered

    @property
    def foreign_segments(self) -> int | None:
        """How many segments of orphaned journals this tracker cannot take over.

        They belong to another table, database or version, or cannot be read. None without a
        journal.
        """
        return None if self._recovery is None else self._recovery.foreign_segments

    def recover_journals(self) -> None:
        """Look for journals of processes that are gone soon, for example when a sibling has died.

        Otherwise they are looked for at the start and once a minute. Does nothing without a
        journal, or while the tracker does not run.
        """
        if self._recovery is not None and self._is_running:
            self._recovery.search()

    async def flush(self) -> None:
        """Write everything that is pending now, for tests and shutdown hooks.

        Raises:
            FlushError: some of it could not be written; it is still pending.
            RuntimeError: the tracker has not been started.
        """
        if not self._flush_loops:
            raise RuntimeError("the tracker is not running: use tracker.running() or .lifespan")
        await flush_all(self._flush_loops)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tracker"]:
        """Write touches while the block runs, and what is pending when it ends.

        It may be entered again afterwards, on another event loop, too; counters then begin at 0.

        Raises:
            ConfigurationError: the journals' directory cannot be written to.
            RuntimeError: the tracker is running already.
        """
        if self._is_running:
            raise RuntimeError("the tracker is running already: make another one")
        if self._flush_loops:  # it ran before: that run's buffers are closed
            self._buffers = make_buffers(self._targets, self._clock)
            self._flushers, self._flush_loops, self._recovery = {}, {}, None
        self._is_running = True
        self._touch_directly()
        async with AsyncExitStack() as stack:
            stack.callback(self._end)
            pool = await self._pool(stack)
            await self._open_journals(stack, pool)
            self._start_flush_loops(pool)
            stack.push_async_callback(self._stop)
            if self._recovery is not None:
                await stack.enter_async_context(self._recovery.running())
            yield self

    async def lifespan(self, app: "web.Application") -> AsyncIterator[None]:
        """Run with an aiohttp application: `app.cleanup_ctx.append(tracker.lifespan)`.

        Requests are then also touched when their handlers prepare streams or WebSockets.
        """
        from tracker._long_requests import touch_prepared  # noqa: PLC0415 - aiohttp is there

        # A nested application is frozen by now; the one around it may have the signal.
        signal = app.on_response_prepare
        if not signal.frozen and touch_prepared not in signal:
            signal.append(touch_prepared)
        async with self.running():
            yield

    def _end(self) -> None:
        self._is_running = False

    async def _pool(self, stack: AsyncExitStack) -> Pool:
        if self._options.pool is not None:
            return self._options.pool
        self._own_pool = await stack.enter_async_context(
            open_pool(self._options.dsn, connections=len(self._buffers))
        )
        return self._own_pool

    async def _open_journals(self, stack: AsyncExitStack, pool: Pool) -> None:
        if self._options.journal_dir is None:
            return
        # Imported here, because journals need POSIX and a tracker without them does not.
        from tracker._journal.directory import JournalDirectory  # noqa: PLC0415
        from tracker._journal.lifecycle import open_journals  # noqa: PLC0415

        self._recovery = await stack.enter_async_context(
            open_journals(
                JournalDirectory(self._options.journal_dir),
                self._buffers,
                dsn=self._options.dsn,
                identity=partial(identity, pool),
                max_bytes=self._options.journal_max_bytes,
            )
        )

    def _start_flush_loops(self, pool: Pool) -> None:
        options = self._options
        for name, buffer in self._buffers.items():
            store = PostgresStore(
                pool,
                buffer.target,
                statement_timeout_s=options.statement_timeout_s,
                lock_timeout_s=options.lock_timeout_s,
            )
            self._flushers[name] = Flusher(
                buffer, store, chunk_keys=options.chunk_keys, log_keys=options.log_keys
            )
            self._flush_loops[name] = FlushLoop(
                self._flushers[name],
                interval_s=options.flush_interval_s,
                deadline_s=options.shutdown_deadline_s,
                backoff=options.backoff,
            )

    async def _stop(self) -> None:
        # All at once: the deadline is for all targets together.
        stopping = asyncio.gather(*(loop.stop() for loop in self._flush_loops.values()))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping  # the pool must not be closed while the last flush uses it
            raise
