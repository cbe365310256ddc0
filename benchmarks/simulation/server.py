"""Simulates the server: one table, row locks, transactions and the tracker's statements."""

import asyncio
import random
from collections.abc import Iterable
from typing import Final

import asyncpg

from benchmarks.simulation.ledger import Ledger
from tracker import Target
from tracker.postgres._statements import begin, statements
from tracker.postgres._table import Facts

_KEEPS_ORDER: Final = ("hashjoin", "mergejoin", "seqscan", "bitmapscan")
"""With any of these plans, a server could lock rows in another order."""


class Transaction:
    """The locks and writes of an open transaction."""

    def __init__(self, *, lock_timeout_s: float) -> None:
        self.lock_timeout_s = lock_timeout_s
        self.is_over = False
        self.writes: dict[int, int] = {}
        self.locks: list[int] = []
        self.waits_for: Transaction | None = None


class Server:
    """One table of times, with the semantics of Postgres at READ COMMITTED.

    Args:
        target: the target whose statements it receives.
        ledger: receives everything that is stored.
        rng: the random source where Postgres guarantees no order.
    """

    def __init__(self, target: Target, ledger: Ledger, rng: random.Random) -> None:
        self.rows: dict[int, int | None] = {}
        self.rejecting: set[int] = set()
        """Rows that raise an error when they are updated."""
        self.suppressing: set[int] = set()
        """Rows that a trigger leaves unchanged, without an error."""
        self.rejects_all = False
        self.denies = False
        self.read_only = False
        self.max_rows = 1 << 30
        """Statements with more rows exceed their timeout."""
        self.statements = statements(target)
        self.facts = Facts(
            oid=1,
            kind="r",
            key_type=target.key_type,
            column_type="timestamp with time zone",
            key_is_unique=True,
            may_write=True,
            role="tracker",
            triggers=(),
            indexes=(),
            fillfactor=50,
            row_security=False,
            namesakes=(),
        )
        self._ledger = ledger
        self._rng = rng
        self._locked: dict[int, Transaction] = {}
        self._queues: dict[int, list[asyncio.Future[None]]] = {}
        # The parts of the SQL that matter here.
        fast, opening = self.statements.fast, begin(statement_timeout_s=1, lock_timeout_s=1)
        self._ordered = "ORDER BY key" in fast and all(
            f"enable_{plan} = off" in opening for plan in _KEEPS_ORDER
        )
        self._guarded = "< pending.at" in fast
        self._clamped = "least(" in fast

    def _pending(self, keys: Iterable[int], seconds: str) -> list[tuple[int, int]]:
        now = self._ledger.now()
        given = zip(keys, map(int, filter(None, seconds[1:-1].split(","))), strict=True)
        pending = [(key, min(at, now) if self._clamped else at) for key, at in given]
        if self._ordered:
            pending.sort()
        else:
            self._rng.shuffle(pending)
        return pending

    def _is_stale(self, key: int, at: int) -> bool:
        stored = self.rows[key]
        return stored is None or stored < at or not self._guarded

    def check(self, rows: int) -> None:
        """Reject a whole statement.

        Args:
            rows: its number of rows.
        """
        if self.denies:
            raise asyncpg.InsufficientPrivilegeError("permission denied for table things")
        if self.read_only:
            raise asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE")
        if rows > self.max_rows:
            raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    async def fast(self, transaction: Transaction, keys: list[int], seconds: str) -> str:
        """Update in one pass, waiting for locks."""
        for key, at in self._pending(keys, seconds):
            if key not in self.rows or not self._is_stale(key, at):
                continue
            if self._rng.random() < 0.3:  # meanwhile another client locks rows
                await asyncio.sleep(0)
            if not transaction.is_over:
                await self._lock(transaction, key)
            if transaction.is_over:
                raise asyncpg.AdminShutdownError("terminating connection")
            if key in self.rows and self._is_stale(key, at):
                self._update(transaction, key, at)
        return f"UPDATE {len(transaction.writes)}"

    def unwritten(
        self, transaction: Transaction, keys: list[int], seconds: str
    ) -> list[tuple[int, str]]:
        """Return the rows that were not written."""
        left = []
        for key, at in self._pending(keys, seconds):
            if key not in self.rows:
                self._ledger.found_missing(key)
                left.append((key, "missing"))
            elif key not in transaction.writes and self._is_stale(key, at):
                left.append((key, "stale"))
        return left

    def skip_locked(
        self, transaction: Transaction, keys: list[int], seconds: str
    ) -> list[tuple[int, str]]:
        """Update the rows that can be locked at once; return those that were not written."""
        left = []
        for key, at in self._pending(keys, seconds):
            if key not in self.rows:
                self._ledger.found_missing(key)
                left.append((key, "missing"))
            elif not self._is_stale(key, at):
                left.append((key, "unchanged"))
            elif self._locked.get(key, transaction) is not transaction:
                left.append((key, "locked"))
            else:
                self._take(transaction, key)
                self._update(transaction, key, at)
                if key not in transaction.writes:
                    left.append((key, "rejected"))
        return left

    def _update(self, transaction: Transaction, key: int, at: int) -> None:
        if self.rejects_all or key in self.rejecting:
            raise asyncpg.CheckViolationError(f"row {key} violates a check")
        if key not in self.suppressing:
            transaction.writes[key] = at

    async def _lock(self, transaction: Transaction, key: int) -> None:
        while (holder := self._locked.get(key, transaction)) is not transaction:
            transaction.waits_for = holder
            self._look_for_deadlock(transaction)
            wakeup: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queues.setdefault(key, []).append(wakeup)
            try:
                async with asyncio.timeout(transaction.lock_timeout_s):
                    await wakeup
            except TimeoutError:
                raise asyncpg.LockNotAvailableError("lock timeout") from None
            finally:
                transaction.waits_for = None
            if transaction.is_over:
                return
        self._take(transaction, key)

    def _look_for_deadlock(self, transaction: Transaction) -> None:
        waits_for = transaction.waits_for
        while waits_for is not None:
            if waits_for is transaction:
                self._ledger.violated("writers deadlock: rows are not locked in one order")
            waits_for = waits_for.waits_for

    def _take(self, transaction: Transaction, key: int) -> None:
        if key not in self._locked:
            self._locked[key] = transaction
            transaction.locks.append(key)

    def is_free(self, key: int) -> bool:
        """Return whether a row can be locked at once."""
        return key not in self._locked

    def hold(self, keys: Iterable[int]) -> Transaction:
        """Lock rows, as a client other than the tracker does."""
        other_client = Transaction(lock_timeout_s=0)
        for key in keys:
            if key in self.rows:
                self._take(other_client, key)
        return other_client

    def commit(self, transaction: Transaction) -> None:
        """Store the writes."""
        for key, at in transaction.writes.items():
            self._ledger.stored(key, self.rows[key], at)
            self.rows[key] = at
        self.roll_back(transaction)

    def roll_back(self, transaction: Transaction) -> None:
        """Discard the writes, and release all row locks."""
        transaction.writes = {}
        transaction.is_over = True
        locks, transaction.locks = transaction.locks, []
        for key in locks:
            del self._locked[key]
            for wakeup in self._queues.pop(key, ()):
                if not wakeup.done():
                    wakeup.set_result(None)
