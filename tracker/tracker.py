"""The tracker: buffers, stores and flushers of all targets, wired together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tracker._buffer.buffer import Buffer, View
from tracker._flush.backoff import Backoff
from tracker._flush.flusher import Flusher
from tracker._flush.loop import FlushLoop, start_flush_loop
from tracker._journal.journal import LEAST_SEGMENTS, SEGMENT_BYTES
from tracker.errors import ConfigurationError, FlushError
from tracker.instrumentation._log import Log
from tracker.postgres._driver import Connections, Pool, PostgresStore, connections, open_pool
from tracker.target import Target

if TYPE_CHECKING:
    from aiohttp import web

    from tracker._journal.recovery import JournalRecovery


_LONGEST_S: Final = 86_400
"""A day: longer is a mistake, and beyond 24 of them Postgres takes no timeout."""

log: Final = Log(__name__)


class Tracker:
    """Records touches in memory and writes them to Postgres behind the requests' backs.

    Touches may be recorded from construction on; they are written while the tracker runs:
    `async with tracker.running(): ...`, or `app.cleanup_ctx.append(tracker.lifespan)`.

    Args:
        targets: the columns to keep up to date; names must differ.
        dsn: a Postgres server for connections of the tracker's own, which no request waits for.
        pool: an asyncpg pool to borrow from instead, one connection for each target at a time. It
            is used as it is and never closed; leave room in it.
        flush_interval_s: time between flushes, in seconds.
        chunk_keys: the most keys in one UPDATE.
        statement_timeout_s: how long one UPDATE may take, in seconds.
        lock_timeout_s: how long an UPDATE waits for one lock, in seconds.
        backoff_initial_s: delay after the first failed flush, in seconds; it doubles from there.
        backoff_max_s: the longest delay, in seconds.
        shutdown_deadline_s: how long the last flush may take, in seconds.
        journal_dir: a directory for journals, which processes may share; with a pool, only those
            that write to one database. What is pending is there when a process is killed, and
            another one takes it over. None: it is in memory alone.
        journal_max_bytes: the most room for the journal of one target.

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
    ) -> None:
        _check_where_to(dsn, pool)
        seconds = {
            "flush_interval_s": flush_interval_s,
            "statement_timeout_s": statement_timeout_s,
            "lock_timeout_s": lock_timeout_s,
            "backoff_initial_s": backoff_initial_s,
            "backoff_max_s": backoff_max_s,
            "shutdown_deadline_s": shutdown_deadline_s,
        }
        for name, value in seconds.items():
            if not isinstance(value, (int, float)) or not 0 < value <= _LONGEST_S:
                raise ConfigurationError(
                    f"{name} must be above 0 and up to {_LONGEST_S}, not {value}"
                )
        if lock_timeout_s >= statement_timeout_s:
            raise ConfigurationError("lock_timeout_s must be below statement_timeout_s")
        if backoff_initial_s > backoff_max_s:
            raise ConfigurationError("backoff_initial_s must not be above backoff_max_s")
        if isinstance(chunk_keys, bool) or not isinstance(chunk_keys, int) or chunk_keys < 1:
            raise ConfigurationError(f"chunk_keys must be a number from 1, not {chunk_keys!r}")
        least_bytes = LEAST_SEGMENTS * SEGMENT_BYTES
        if not isinstance(journal_max_bytes, int) or journal_max_bytes < least_bytes:
            raise ConfigurationError(
                f"journal_max_bytes must be {least_bytes} or more, not {journal_max_bytes!r}"
            )
        if isinstance(targets, Target):
            raise ConfigurationError("targets must be a list of targets, not one")
        targets = list(targets)
        buffers = {target.name: Buffer(target) for target in targets}
        if not buffers or len(buffers) != len(targets):
            raise ConfigurationError("a tracker needs targets, each with a name of its own")
        self._buffers = buffers
        self._touch: dict[str, Callable[[object, float | None], None]] = {
            name: partial(self._touch_early, buffer) for name, buffer in buffers.items()
        }
        self._flushers: dict[str, Flusher] = {}
        self._flush_loops: dict[str, FlushLoop] = {}
        self._dsn = dsn
        self._pool = pool
        self._own_pool: Pool | None = None
        self._flush_interval_s = flush_interval_s
        self._chunk_keys = chunk_keys
        self._statement_timeout_s = statement_timeout_s
        self._lock_timeout_s = lock_timeout_s
        self._backoff = Backoff(backoff_initial_s, backoff_max_s)
        self._shutdown_deadline_s = shutdown_deadline_s
        self._journal_dir = None if journal_dir is None else Path(journal_dir)
        self._journal_max_bytes = journal_max_bytes
        self._adoption: JournalRecovery | None = None

    def touch(self, target: str, key: object, at: float | None = None) -> None:
        """Record that a key was active; never blocks, never waits.

        Args:
            target: the name of a target.
            key: in any spelling of the target's key type; one that has none is dropped, counted.
            at: when, in seconds since the epoch; now when left out, and never later than now.

        Raises:
            KeyError: no target has that name.
        """
        self._touch[target](key, at)

    def _touch_early(self, buffer: Buffer, key: object, at: float | None) -> None:
        """Touch before anything is written: who forgot to start the tracker is told so, once."""
        log.error("tracker.not_running", hint="app.cleanup_ctx.append(tracker.lifespan)")
        self._touch_directly()
        buffer.touch(key, at)

    def _touch_directly(self) -> None:
        self._touch = {name: buffer.touch for name, buffer in self._buffers.items()}

    def pending(self, target: str) -> View:
        """Return the touches of a target that are not in the table yet.

        Take it before the SELECT whose rows it is laid over, so that no flush slips in between.

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
        """What has been written for each target, by name; empty before the first run."""
        return MappingProxyType(self._flushers)

    @property
    def flush_loops(self) -> Mapping[str, FlushLoop]:
        """The flusher of each target, by name; empty before the first run."""
        return MappingProxyType(self._flush_loops)

    @property
    def connections(self) -> Connections:
        """How many connections it has of its own; none when it borrows, or before the first run."""
        return Connections(0, 0, 0) if self._own_pool is None else connections(self._own_pool)

    @property
    def recovered(self) -> Mapping[str, int]:
        """How many touches of dead processes were taken over, by target."""
        return {} if self._adoption is None else self._adoption.recovered

    @property
    def foreign_segments(self) -> int | None:
        """How many segments of dead processes' journals are not ours to take; None: no journal."""
        return None if self._adoption is None else self._adoption.foreign_segments

    async def flush(self) -> None:
        """Write everything that is pending now, for tests and shut-down hooks.

        Raises:
            FlushError: some of it could not be written; it is still pending.
            RuntimeError: the tracker has not been started.
        """
        if not self._flush_loops:
            raise RuntimeError("the tracker is not running: use tracker.running() or .lifespan")
        outcomes = await asyncio.gather(
            *(flusher.flush() for flusher in self._flush_loops.values()), return_exceptions=True
        )
        problems: list[str] = []
        cause: BaseException | None = None
        for name, outcome in zip(self._flush_loops, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                cause = outcome
                problems.append(f"{name}: {outcome}")
            elif outcome:
                problems.append(f"{name}: the rows of {outcome} keys are locked")
        if problems:
            raise FlushError("; ".join(problems)) from cause

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tracker"]:
        """Write touches while the block runs, and what is pending when it ends.

        Raises:
            ConfigurationError: the journals' directory cannot be written to.
            RuntimeError: the tracker ran before; make a new one.
        """
        if self._flush_loops:
            raise RuntimeError("a tracker runs once: make a new one")
        self._touch_directly()
        async with AsyncExitStack() as stack:
            pool = self._pool
            if pool is None:
                pool = self._own_pool = await stack.enter_async_context(
                    open_pool(self._dsn, connections=len(self._buffers))
                )
            if self._journal_dir is not None:
                # Here, since it needs what only POSIX has, and a tracker without it does not.
                from tracker._journal.directory import JournalDirectory  # noqa: PLC0415
                from tracker._journal.lifecycle import open_journals  # noqa: PLC0415

                self._adoption = await stack.enter_async_context(
                    open_journals(
                        JournalDirectory(self._journal_dir),
                        self._buffers,
                        dsn=self._dsn,
                        max_bytes=self._journal_max_bytes,
                    )
                )
            for name, buffer in self._buffers.items():
                store = PostgresStore(
                    pool,
                    buffer.target,
                    statement_timeout_s=self._statement_timeout_s,
                    lock_timeout_s=self._lock_timeout_s,
                )
                self._flushers[name] = Flusher(buffer, store, chunk_keys=self._chunk_keys)
                self._flush_loops[name] = start_flush_loop(
                    self._flushers[name],
                    interval_s=self._flush_interval_s,
                    deadline_s=self._shutdown_deadline_s,
                    backoff=self._backoff,
                )
            stack.push_async_callback(self._stop)
            if self._adoption is not None:
                await stack.enter_async_context(self._adoption.running())
            yield self

    async def lifespan(self, _app: "web.Application") -> AsyncIterator[None]:
        """Run with an aiohttp application: `app.cleanup_ctx.append(tracker.lifespan)`."""
        async with self.running():
            yield

    async def _stop(self) -> None:
        # All at once, so that the deadline is one deadline, not one for each target.
        stopping = asyncio.gather(*(flusher.stop() for flusher in self._flush_loops.values()))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping  # cancelled once more: the pool must not be closed under the last flush
            raise


def _check_where_to(dsn: str | None, pool: Pool | None) -> None:
    if (dsn is None) == (pool is None):
        raise ConfigurationError("a tracker needs either a dsn or a pool")
    if dsn is not None and not dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("the dsn must start with postgresql://")
