"""The SQL of the write: one bulk UPDATE per chunk, in a short transaction.

Two statements do the same work:

- The *straight* one updates in one pass. It must lock rows in key order, or two writers deadlock.
  An UPDATE has no ORDER BY, so the order is that of the plan: a nested loop with the input, which
  is sorted first, outside. Hash and merge joins and scans of the table, which would lock in an
  order of their own, are switched off for the transaction. It is also the faster plan: a hash join
  reads the whole table for every chunk. It tells how many rows it wrote, usually all; if not, a
  third statement, in the same transaction, tells which it did not.
- The *careful* one follows where the straight one meets a lock that it may not wait for, or a row
  that changed under its eyes. It locks what it can get at once (SKIP LOCKED, so it never waits
  while it holds a lock and can be part of no deadlock), updates that, and reports the rest as
  locked. Locked rows are joined back by key: by ctid they would miss every row that moved.

Only the keys that were *not* written are ever answered, and what is the matter with each. The
transaction sets all it needs with SET LOCAL, so a pooler in transaction mode will do.

What is to be written arrives as array literals where that is the cheaper way: encoding an array of
uuids costs the client ten times what joining their text does. They are cast behind a sub-select,
where the planner cannot see them: it would parse them all once more, only to count them.
"""

from typing import Final, NamedTuple

from tracker._flush.store import Chunk
from tracker.keys import Key
from tracker.target import Target

_STALE: Final = "(t.{column} IS NULL OR t.{column} < {newer}.at)"
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
    WHERE {stale}
    ORDER BY pending.key
    FOR NO KEY UPDATE OF t SKIP LOCKED
)"""
_UPDATE: Final = """
    UPDATE {table} AS t SET {column} = {newer}.at
    FROM {newer}
    WHERE t.{key_column} = {newer}.key AND {stale}
"""
_LEFT: Final = """
SELECT pending.key{shown_as}, CASE WHEN t.{key_column} IS NULL THEN 'missing' ELSE 'stale' END
FROM pending LEFT JOIN {table} AS t ON t.{key_column} = pending.key
WHERE t.{key_column} IS NULL
   OR {stale} AND t.xmin IS DISTINCT FROM pg_current_xact_id_if_assigned()::xid
"""
_CAREFULLY_LEFT: Final = """
SELECT pending.key{shown_as}, CASE
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key)
    THEN 'missing'
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key AND {stale})
    THEN 'unchanged'
    WHEN pending.key IN (SELECT key FROM locked)
    THEN 'refused'
    ELSE 'locked'
END
FROM pending WHERE pending.key NOT IN (SELECT key FROM written)
"""
"""Refused is what we locked, is out of date, and is still not updated: a trigger or a policy left
it alone."""
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


def _quoted(*identifiers: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in identifiers)


class Statements(NamedTuple):
    """What is sent for a chunk; each takes the same arguments."""

    straight: str
    left: str
    """After the straight one: the keys that it did not write, missing or stale, not unchanged."""
    careful: str


def statements(target: Target) -> Statements:
    """Return the statements for a target."""
    is_uuid = target.key_type == "uuid"
    names = {
        "table": _quoted(*target.table.split(".")),
        "key_column": _quoted(target.key_column),
        "column": _quoted(target.column),
        "key_type": target.key_type,
        "given_keys": "(SELECT $1::text)" if is_uuid else "$1",
        "shown_as": "::text" if is_uuid else "",
        # In bytes' order, which all writers share and nothing beats.
        "ordered_by": 'key COLLATE "C"' if target.key_type == "text" else "key",
    }

    def part(text: str, newer: str = "pending") -> str:
        stale = _STALE.format(newer=newer, **names)
        return text.format(newer=newer, stale=stale, **names)

    pending = part(_PENDING)
    return Statements(
        straight=pending + part(_UPDATE),
        left=pending + part(_LEFT),
        careful=pending
        + part(_LOCKED)
        + f", written AS ({part(_UPDATE, 'locked')} RETURNING locked.key)"
        + part(_CAREFULLY_LEFT),
    )


def arguments(target: Target, chunk: Chunk) -> tuple[str | list[Key], str]:
    """Return the arguments of the statements: the keys and their seconds.

    Args:
        target: whose keys they are.
        chunk: at least one key with its second.
    """
    text = {at: str(at) for at in set(chunk.seconds)}  # a few seconds, however many keys
    seconds = f"{{{','.join(map(text.__getitem__, chunk.seconds))}}}"
    if target.key_type != "uuid":
        return chunk.keys, seconds
    return f"{{{','.join(chunk.keys)}}}", seconds  # type: ignore[arg-type]  # uuids are str


def begin(*, statement_timeout_s: float, lock_timeout_s: float) -> str:
    """Return the statements that open a transaction for one of these.

    Args:
        statement_timeout_s: how long a statement may take, in seconds.
        lock_timeout_s: how long it waits for one lock, in seconds.
    """
    return _BEGIN.format(
        statement_timeout_ms=max(1, int(statement_timeout_s * 1000)),
        lock_timeout_ms=max(1, int(lock_timeout_s * 1000)),
    )
