"""The SQL of the write: one bulk UPDATE per chunk, in a short transaction.

Two statements do the same work:

- The *straight* one updates in one pass. It must lock rows in key order, or two writers deadlock.
  An UPDATE has no ORDER BY, so the order is that of the plan: a nested loop with the sorted input
  outside. Hash and merge joins and scans of the table, which would lock in an order of their own,
  are switched off for the transaction. It is also the faster plan: a hash join reads the whole
  table for every chunk.
- The *careful* one follows where the straight one meets a lock that it may not wait for, or a row
  that changed under its eyes. It locks what it can get at once (SKIP LOCKED, so it never waits
  while it holds a lock and can be part of no deadlock), updates that, and reports the rest as
  locked. Locked rows are joined back by key: by ctid they would miss every row that moved.

What is written arrives as array literals where that is the cheaper way: encoding an array of
uuids costs the client ten times what joining their text does, and the server next to nothing.

Both answer only with the keys that were *not* written, usually none, and what is the matter with
each. The transaction sets all it needs with SET LOCAL, so a pooler in transaction mode will do.
"""

from typing import Final

from tracker.keys import Key
from tracker.store import Chunk
from tracker.target import Target

_STALE: Final = "(t.{column} IS NULL OR t.{column} < {newer}.at)"
_PENDING: Final = """
WITH pending AS MATERIALIZED (
    SELECT given.key, to_timestamp(least(given.at, server.second)) AS at
    FROM unnest($1::{given_as}{key_type}[], $2::text::bigint[]) AS given(key, at),
         (SELECT floor(extract(epoch FROM now()))::bigint) AS server(second)
)"""
_LOCKED: Final = """, locked AS MATERIALIZED (
    SELECT pending.key, pending.at
    FROM {table} AS t JOIN pending ON t.{key_column} = pending.key
    WHERE {stale}
    ORDER BY pending.key
    FOR NO KEY UPDATE OF t SKIP LOCKED
)"""
_WRITTEN: Final = """, written AS (
    UPDATE {table} AS t SET {column} = {newer}.at
    FROM {newer}
    WHERE t.{key_column} = {newer}.key AND {stale}
    RETURNING {newer}.key
)"""
_NOT_WRITTEN: Final = """
SELECT pending.key{shown_as}, CASE
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key)
    THEN 'missing'
    WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key AND {stale})
    THEN 'unchanged'
    {careful_case}
    ELSE 'locked'
END
FROM pending WHERE pending.key NOT IN (SELECT key FROM written)
"""
_REFUSED: Final = "WHEN pending.key IN (SELECT key FROM locked) THEN 'refused'"
"""Locked by us, out of date, and still not updated: a trigger or a policy left it alone."""
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


def statements(target: Target) -> tuple[str, str]:
    """Return the straight and the careful statement for a target."""
    names = {
        "table": _quoted(*target.table.split(".")),
        "key_column": _quoted(target.key_column),
        "column": _quoted(target.column),
        "key_type": target.key_type,
        "given_as": "text::" if target.key_type == "uuid" else "",
        "shown_as": "::text" if target.key_type == "uuid" else "",
    }

    def part(text: str, newer: str, **more: str) -> str:
        stale = _STALE.format(newer=newer, **names)
        return text.format(newer=newer, stale=stale, **names, **more)

    pending = part(_PENDING, "pending")
    straight = pending + part(_WRITTEN, "pending") + part(_NOT_WRITTEN, "pending", careful_case="")
    careful = (
        pending
        + part(_LOCKED, "pending")
        + part(_WRITTEN, "locked")
        + part(_NOT_WRITTEN, "pending", careful_case=_REFUSED)
    )
    return straight, careful


def arguments(target: Target, chunk: Chunk) -> tuple[str | list[Key], str]:
    """Return the arguments of both statements: the keys and their seconds.

    Args:
        target: whose keys they are.
        chunk: at least one key with its second.
    """
    keys = [key for key, _ in chunk]
    seconds = [at for _, at in chunk]
    text = {at: str(at) for at in set(seconds)}  # a few seconds, however many keys
    literal = ",".join([text[at] for at in seconds])
    if target.key_type != "uuid":
        return keys, f"{{{literal}}}"
    return f"{{{','.join(keys)}}}", f"{{{literal}}}"  # type: ignore[arg-type]  # uuids are str


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
