"""The SQL of the write: one bulk UPDATE per chunk, in a short transaction.

There are two ways to write a chunk:

- The *fast path* updates all rows in one pass and waits for locks for a short time. It must lock
  rows in key order, or two writers deadlock. An UPDATE has no ORDER BY, so the plan decides the
  order: a nested loop whose outer side is the sorted input. Hash joins, merge joins and sequential
  scans, which would lock in another order, are switched off for the transaction. The nested loop
  is also the faster plan: a hash join reads the whole table for every chunk. The UPDATE reports how
  many rows it changed, usually all. If it changed fewer, a second statement in the same transaction
  returns the keys that it did not change.
- The *SKIP LOCKED path* follows when the fast path runs into a lock timeout, or when a row changed
  while the fast path ran. It locks the rows that are free (SKIP LOCKED: it never waits while it
  holds a lock, so it can be part of no deadlock), updates them, and reports the rest as locked. It
  joins the locked rows back by key: by ctid it would miss every row that was moved by an update.

A stored time that is more than a minute in the future is no real one: an old bug or a restored dump
has left it. It is found with the keys that were not written, and one more statement replaces it by
the touch. The fast path takes no notice of it, so that it costs nothing.

Only keys that were *not* written are returned, each with the reason. The transaction sets all that
it needs with SET LOCAL, so a pooler in transaction mode can be in between.

Uuids and seconds are sent as array literals in text parameters: for the client, encoding an array
of uuids costs ten times as much as joining their text. A literal is cast behind a sub-select, which
hides it from the planner: the planner would parse all of it once more, only to count the elements.
"""

from typing import Final, NamedTuple

from tracker._flush.store import Chunk
from tracker.keys import Key
from tracker.target import Target

_STALE: Final = "(t.{column} IS NULL OR t.{column} < {newer}.at)"
_FUTURE: Final = "(t.{column} > now() + interval '1 minute')"
_PENDING: Final = """
WITH pending AS MATERIALIZED (
    SELECT key, least(
        to_timestamp(at), (SELECT to_timestamp(floor(extract(epoch FROM now()))))
    ) AS at
    FROM unnest({given_keys}::{key_type}[], (SELECT $2::text)::bigint[]) AS given(key, at)
    ORDER BY {ordered_by}
)"""
_LOCKED: Final = """, locked AS MATERIALIZED (
    SELECT pending.key, pending.at
    FROM {table} AS t JOIN pending ON t.{key_column} = pending.key
    WHERE {outdated}
    ORDER BY pending.key
    FOR NO KEY UPDATE OF t SKIP LOCKED
)"""
_UPDATE: Final = """
    UPDATE {table} AS t SET {column} = {newer}.at
    FROM {newer}
    WHERE t.{key_column} = {newer}.key AND {outdated}
"""
_UNWRITTEN: Final = """
SELECT pending.key{shown_as}, CASE
    WHEN t.{key_column} IS NULL THEN 'missing' WHEN {future} THEN 'future' ELSE 'stale'
END
FROM pending LEFT JOIN {table} AS t ON t.{key_column} = pending.key
WHERE t.{key_column} IS NULL
   OR {future}
   OR {stale} AND t.xmin IS DISTINCT FROM pg_current_xact_id_if_assigned()::xid
"""
_SKIP_LOCKED_UNWRITTEN: Final = """
SELECT pending.key{shown_as}, CASE
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key)
    THEN 'missing'
    WHEN EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key AND {future})
    THEN 'future'
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key AND {stale})
    THEN 'unchanged'
    WHEN pending.key IN (SELECT key FROM locked)
    THEN 'rejected'
    ELSE 'locked'
END
FROM pending WHERE pending.key NOT IN (SELECT key FROM written)
"""
"""A row is rejected if we locked it, it is out of date, and it is still not updated: a trigger or a
policy skips it."""
_BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = {statement_timeout_ms};
SET LOCAL lock_timeout = {lock_timeout_ms};
SET LOCAL idle_in_transaction_session_timeout = {statement_timeout_ms};
SET LOCAL enable_nestloop = on;
SET LOCAL enable_indexscan = on;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL jit_above_cost = -1;
SET LOCAL work_mem = '16MB'
"""


def quoted(*identifiers: str) -> str:
    """Return identifiers as SQL takes them, joined by dots."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in identifiers)


class Statements(NamedTuple):
    """The statements for a chunk; all take the same arguments."""

    fast: str
    """The fast path: updates in key order and waits for locks."""
    unwritten: str
    """After the fast path: the keys that it did not write, `missing`, `stale` or `future`; none
    that is unchanged."""
    skip_locked: str
    """The SKIP LOCKED path: updates the rows that are free, and returns the other keys."""
    correct: str
    """Replaces stored times in the future in the rows that are free, and returns their keys."""


def statements(target: Target) -> Statements:
    """Return the statements for a target."""
    is_uuid = target.key_type == "uuid"
    names = {
        "table": quoted(*target.table.split(".")),
        "key_column": quoted(target.key_column),
        "column": quoted(target.column),
        "key_type": target.key_type,
        "given_keys": "(SELECT $1::text)" if is_uuid else "$1",
        "shown_as": "::text" if is_uuid else "",
        # In the order of bytes: it is the same for all writers, and the cheapest.
        "ordered_by": 'key COLLATE "C"' if target.key_type == "text" else "key",
    }

    def part(text: str, newer: str = "pending", outdated: str = _STALE) -> str:
        conditions = {
            "stale": _STALE.format(newer=newer, **names),
            "future": _FUTURE.format(**names),
            "outdated": outdated.format(newer=newer, **names),
        }
        return text.format(newer=newer, **conditions, **names)

    pending = part(_PENDING)
    returning = f" RETURNING locked.key{names['shown_as']}"
    return Statements(
        fast=pending + part(_UPDATE),
        unwritten=pending + part(_UNWRITTEN),
        skip_locked=pending
        + part(_LOCKED)
        + f", written AS ({part(_UPDATE, 'locked')} RETURNING locked.key)"
        + part(_SKIP_LOCKED_UNWRITTEN),
        correct=pending
        + part(_LOCKED, outdated=_FUTURE)
        + part(_UPDATE, "locked", outdated=_FUTURE)
        + returning,
    )


def arguments(target: Target, chunk: Chunk) -> tuple[str | list[Key], str]:
    """Return the arguments of the statements: the keys and their seconds.

    Args:
        target: the target of the chunk.
        chunk: at least one key with its second.
    """
    text = {at: str(at) for at in set(chunk.seconds)}  # a few seconds, however many keys
    seconds = f"{{{','.join(map(text.__getitem__, chunk.seconds))}}}"
    if target.key_type != "uuid":
        return chunk.keys, seconds
    return f"{{{','.join(chunk.keys)}}}", seconds  # type: ignore[arg-type]  # uuids are str


def begin(*, statement_timeout_s: float, lock_timeout_s: float) -> str:
    """Return the statements that open a transaction and set its limits.

    Args:
        statement_timeout_s: how long a statement may take, in seconds.
        lock_timeout_s: how long a statement waits for one lock, in seconds.
    """
    return _BEGIN.format(
        statement_timeout_ms=max(1, int(statement_timeout_s * 1000)),
        lock_timeout_ms=max(1, int(lock_timeout_s * 1000)),
    )
