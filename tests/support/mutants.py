"""Deliberate breaks of the tracker, each with what must notice it; see also `worker_mutants`."""

from typing import NamedTuple

SIMULATION = "the simulation"


class Mutant(NamedTuple):
    """One break."""

    breaks: str
    """What no longer works."""
    file: str
    old: str
    """Is in the file exactly once."""
    new: str
    caught: str
    """What is said when it is noticed."""
    by: str = SIMULATION
    """Or a test."""
    package: str = "tracker"
    """Has the file."""


LOST = "is lost|the counters do not balance|still not written"
NOT_JOURNALED = "is not in a healthy journal|is lost"

MUTANTS = [
    Mutant(
        "what was not committed is not restored",
        "_buffer/buffer.py",
        "        self._live = large\n",
        "        self._live = live\n",
        LOST,
    ),
    Mutant(
        "an older touch that is restored overwrites a newer one",
        "_buffer/buffer.py",
        "                if seen < second:\n                    large[key] = second\n",
        "                large[key] = second\n",
        LOST,
    ),
    Mutant(
        "a clock that goes back takes a pending touch with it",
        "_buffer/buffer.py",
        "        elif seen < second:\n",
        "        elif seen != second:\n",
        LOST,
    ),
    Mutant(
        "keys that are live and in flight are counted twice",
        "_buffer/buffer.py",
        "            self._overlap += 1\n",
        "            pass\n",
        "more than the capacity|the counters do not balance",
    ),
    Mutant(
        "keys in flight do not count against the capacity",
        "_buffer/buffer.py",
        "        elif len(self) >= self.target.capacity_keys:\n",
        "        elif len(self._live) >= self.target.capacity_keys:\n",
        "more than the capacity",
    ),
    Mutant(
        "what a stop loses is not counted",
        "_buffer/buffer.py",
        '        self.dropped["shutdown"] += lost\n',
        "",
        "lost at the stop",
    ),
    Mutant(
        "the high-water mark is announced only once",
        "_buffer/buffer.py",
        "        self._fresh = self._announced = False\n        if",
        "        self._fresh = False\n        if",
        "a full buffer waits",
    ),
    Mutant(
        "touches are rounded up",
        "_buffer/buffer.py",
        "second - second % self._resolution_s",
        "second + -second % self._resolution_s",
        "later than any touch",
    ),
    Mutant(
        "recovered times are bounded by the clock of the recovering process",
        "_buffer/buffer.py",
        "        self._insert(key, second)\n        if self._created",
        "        self._insert(key, min(second, int(self._clock())))\n        if self._created",
        LOST,
    ),
    Mutant(
        "a flush that fails forgets its batch",
        "_flush/flusher.py",
        "self.buffer.settle(progress.uncommitted())",
        "self.buffer.settle(progress.locked)",
        LOST,
    ),
    Mutant(
        "the chunk that was being written is not restored",
        "_flush/batch.py",
        "        uncommitted.update(self._chunk.entries())\n",
        "",
        LOST,
    ),
    Mutant(
        "rows that others have locked are discarded",
        "_flush/batch.py",
        "            return self.locked\n",
        "            return {}\n",
        LOST,
    ),
    Mutant(
        "a flush that is cancelled before its first chunk counts as through",
        "_flush/batch.py",
        "not self._chunk and not self._parts and not self._remaining_keys",
        "not self._chunk and not self._parts",
        LOST,
    ),
    Mutant(
        "rows are rejected even if none could be written",
        "_flush/batch.py",
        "        if self.rejected and not self._any_advanced:\n",
        "        if False:\n",
        "are rejected",
    ),
    Mutant(
        "locked rows are taken for written ones",
        "postgres/_store.py",
        '            locked=unwritten.get("locked", ()),\n',
        "",
        LOST,
    ),
    Mutant(
        "a wake-up during a flush is lost",
        "_flush/loop.py",
        "            self._log_dropped()\n",
        "            self._log_dropped()\n            self._wake.clear()\n",
        "a full buffer waits",
    ),
    Mutant(
        "a full buffer makes light of the backoff",
        "_flush/loop.py",
        "        if self._monotonic() >= self._not_before:  #",
        "        if True:  #",
        "before the backoff is over",
    ),
    Mutant(
        "the loop ends at the first failure",
        "_flush/loop.py",
        "        while not self._stopping:\n",
        "        while not self._stopping and not self.failures:\n",
        "the flush loop has ended",
    ),
    Mutant(
        "a stop has no deadline",
        "_flush/loop.py",
        "timeout=self._deadline_s)",
        "timeout=None)",
        "a stop took",
    ),
    Mutant(
        "segments are freed at the drain, before the commit",
        "_journal/journal.py",
        "        self._drained += self._full\n",
        "        self._free(self._full)\n",
        NOT_JOURNALED,
    ),
    Mutant(
        "segments of the drain before are forgotten",
        "_journal/journal.py",
        "        self._drained += self._full\n",
        "        self._drained = self._full\n",
        "segments|directories",
    ),
    Mutant(
        "the first of a few keys that are restored is not written to the journal again",
        "_journal/journal.py",
        "            for key, second in few.items():\n",
        "            for key, second in list(few.items())[1:]:\n",
        NOT_JOURNALED,
    ),
    Mutant(
        "the first key of each slice is lost when the journal is rewritten",
        "_journal/journal.py",
        "                await self._append_rewriting(some)\n",
        "                await self._append_rewriting(some[1:])\n",
        NOT_JOURNALED,
    ),
    Mutant(
        "a drain forgets that something was missed",
        "_journal/journal.py",
        "        self._drained_incomplete |= self._incomplete\n",
        "",
        NOT_JOURNALED,
    ),
    Mutant(
        "what was missed is no gap",
        "_journal/journal.py",
        "        self._incomplete = True\n",
        "",
        NOT_JOURNALED,
    ),
    Mutant(
        "the last segment that was freed is taken for the one that was removed",
        "_journal/supply.py",
        "                self._freed.remove(segment)",
        "                self._freed.pop()",
        "directories|segments",
    ),
    Mutant(
        "the journal grows while nothing of it can be removed",
        "_journal/supply.py",
        "        if len(self) >= max_segments:\n",
        "        if False:\n",
        "segments are more than the maximum",
    ),
    Mutant(
        "the journal is removed at a stop, whatever is in it",
        "_journal/lifecycle.py",
        "await storage.close(keep=keep)",
        "await storage.close(keep=False)",
        LOST,
    ),
    Mutant(
        "checksums are not compared",
        "_journal/format.py",
        " or end > size or crc32(text, second ^ _LAST_SECOND) != checksum:\n",
        " or end > size:\n",
        "later than any touch|dropped during a recovery",
    ),
    Mutant(
        "what is taken over is removed before it is in a journal",
        "_journal/recovery.py",
        "            await _until(self._all_is_journaled)\n",
        "",
        "AssertionError",
        "tests/tracker/test_journal_recovery.py::test_an_orphan_is_kept_until_its_touches_are_in_another_journal",
    ),
    Mutant(
        "rows are locked in any order",
        "postgres/_statements.py",
        "    ORDER BY {ordered_by}\n",
        "",
        "AssertionError",
        "tests/tracker/test_concurrency.py::test_a_chunk_is_sorted_before_its_rows_are_locked",
    ),
    Mutant(
        "rows are locked in the order of a hash join",
        "postgres/_statements.py",
        "SET LOCAL enable_hashjoin = off;\n",
        "",
        "AssertionError",
        "tests/tracker/test_concurrency.py::test_rows_are_locked_in_key_order_with_any_planner_settings",
    ),
    Mutant(
        "an older touch overwrites a newer row",
        "postgres/_statements.py",
        "t.{column} < {newer}.at)",
        "t.{column} <> {newer}.at)",
        "AssertionError",
        "tests/tracker/test_postgres.py::test_keys_are_written_found_newer_or_found_missing",
    ),
    Mutant(
        "the server's clock bounds nothing",
        "postgres/_statements.py",
        "to_timestamp(at), (SELECT to_timestamp(floor(extract(epoch FROM now()))))",
        "to_timestamp(at)",
        "OverflowError",
        "tests/tracker/test_postgres.py::test_a_clock_that_runs_ahead_cannot_store_the_future",
    ),
    Mutant(
        "the SKIP LOCKED path waits for locks, too",
        "postgres/_statements.py",
        " SKIP LOCKED\n",
        "\n",
        "StoreContended|AssertionError",
        "tests/tracker/test_postgres.py::test_one_locked_row_does_not_delay_the_rest",
    ),
    Mutant(
        "keys that failed the last time come first again",
        "_flush/order.py",
        "end if key in last else",
        "end if False else",
        "AssertionError",
        "tests/tracker/test_order.py::test_keys_that_failed_come_last",
    ),
    Mutant(
        "a chunk that takes too long is written again as it is",
        "_flush/batch.py",
        "        self.chunk_keys = max(middle, min(self.chunk_keys, _SMALLEST_CHUNK_KEYS))\n",
        "",
        "AssertionError",
        "tests/tracker/test_flusher.py::test_a_chunk_that_takes_too_long_is_divided_without_a_backoff",
    ),
]
