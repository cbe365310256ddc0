"""What a target's table is like: whether it can be written as it must be, and what makes it slow.

It is checked once, when a connection is first there. What cannot work is a permanent error that
says what to do: a column without a time zone, for example, would store other times than those of
the touches, without an error. What is merely slow is logged once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from tracker.errors import StoreMisconfigured
from tracker.instrumentation import Log
from tracker.postgres._driver import Connection
from tracker.postgres._statements import quoted
from tracker.target import Target

_FITTING: Final = {
    "uuid": {"uuid"},
    "bigint": {"bigint", "integer", "smallint", "numeric"},
    "integer": {"bigint", "integer", "smallint", "numeric"},
    "text": {"text", "character varying"},
}
"""The types of a key column that can be looked up by an index, for each type of key."""
_VIEWS: Final = {"v": "a view", "m": "a materialized view"}
_MAX_FILLFACTOR: Final = 90
INSPECT: Final = """
WITH t AS (
    SELECT oid, relkind, relname FROM pg_class WHERE oid = to_regclass($1)
), attribute AS (
    SELECT a.attname, a.attnum, format_type(coalesce(nullif(y.typbasetype, 0), y.oid), NULL) AS type
    FROM t JOIN pg_attribute AS a ON a.attrelid = t.oid JOIN pg_type AS y ON y.oid = a.atttypid
    WHERE a.attname IN ($2, $3) AND a.attnum > 0 AND NOT a.attisdropped
), leaf AS (
    SELECT coalesce(
        (SELECT option_value::int FROM pg_options_to_table(c.reloptions)
         WHERE option_name = 'fillfactor'), 100
    ) AS fillfactor
    FROM t, pg_class AS c
    WHERE c.relkind = 'r'
      AND (c.oid = t.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(t.oid) WHERE isleaf))
)
SELECT
    t.oid::bigint,
    t.relkind::text,
    k.type,
    v.type,
    EXISTS (
        SELECT FROM pg_index AS i
        WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
          AND i.indnkeyatts = 1 AND i.indkey[0] = k.attnum
    ),
    has_column_privilege(t.oid, k.attnum, 'SELECT')
        AND has_column_privilege(t.oid, v.attnum, 'SELECT')
        AND has_column_privilege(t.oid, -2::smallint, 'SELECT')  -- xmin
        AND has_column_privilege(t.oid, v.attnum, 'UPDATE'),
    current_user::text,
    ARRAY(
        SELECT g.tgname::text FROM pg_trigger AS g
        WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
          AND g.tgtype & 16 <> 0 AND g.tgqual IS NULL  -- a condition costs next to nothing
          AND (g.tgattr::text = '' OR v.attnum = ANY (g.tgattr::int2[]))
        ORDER BY 1
    ),
    ARRAY(
        SELECT DISTINCT i.relname::text
        FROM pg_depend AS d JOIN pg_class AS i ON i.oid = d.objid JOIN pg_am AS m ON m.oid = i.relam
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = t.oid AND d.refobjsubid = v.attnum
          AND i.relkind IN ('i', 'I') AND m.amname <> 'brin'
        ORDER BY 1
    ),
    (SELECT max(fillfactor) FROM leaf),
    row_security_active(t.oid),
    ARRAY(
        SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = t.relname AND c.oid <> t.oid AND c.relkind IN ('r', 'p', 'v', 'f')
          AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        ORDER BY 1 LIMIT 5
    )
FROM t LEFT JOIN attribute AS k ON k.attname = $2 LEFT JOIN attribute AS v ON v.attname = $3
"""
"""Takes the quoted name of the table, the key column and the column. Returns a row, `Facts`."""

log: Final = Log(__name__)


class Facts(NamedTuple):
    """What the server says about a table; None where the table has no such column."""

    oid: int
    kind: str
    """As in `pg_class.relkind`."""
    key_type: str | None
    column_type: str | None
    key_is_unique: bool
    may_write: bool | None
    role: str
    triggers: Sequence[str]
    """Those that fire when the column is updated."""
    indexes: Sequence[str]
    """Those that contain the column."""
    fillfactor: int | None
    """The largest of all partitions."""
    row_security: bool
    """Whether policies limit which rows the role sees."""
    namesakes: Sequence[str]
    """Tables of the same name in other schemas."""


class TableCheck:
    """Inspects the table of one target.

    Args:
        target: the target.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._is_fit = False
        self._oid: int | None = None  # of the table that was checked

    async def check(self, connection: Connection) -> None:
        """Check the table, unless it was found fit before.

        A table or a column that is not there is left to the statement, which says so.

        Args:
            connection: to the server of the table.

        Raises:
            StoreMisconfigured: the table cannot be written as it must be.
        """
        if self._is_fit:
            return
        facts = await self._inspect(connection)
        if facts is None or facts.key_type is None or facts.column_type is None:
            return
        for problem in _problems(self._target, facts):
            raise StoreMisconfigured(problem)
        self._is_fit, self._oid = True, facts.oid
        if advice := list(_advice(self._target, facts)):
            log.warning(
                "table.advice", target=self._target.name, table=self._target.table, advice=advice
            )

    async def hides_rows(self, connection: Connection) -> str | None:
        """Return why the table may have rows that it does not show; None if it shows all.

        Args:
            connection: to the server of the table.
        """
        facts = await self._inspect(connection)
        if facts is None:
            return "the table is gone"
        if facts.row_security:
            return (
                f"row-level security applies to the role {facts.role}: write a policy that shows "
                "it all rows, or ALTER ROLE ... BYPASSRLS"
            )
        if facts.namesakes and "." not in self._target.table:
            return (
                f"there is {', '.join(facts.namesakes)}, too: write the schema into the name of "
                "the target's table"
            )
        if self._oid not in (None, facts.oid):
            return "the table was replaced while the tracker ran: restart it if that was on purpose"
        return None

    async def _inspect(self, connection: Connection) -> Facts | None:
        target = self._target
        given = quoted(*target.table.split(".")), target.key_column, target.column
        rows: list[Any] = await connection.fetch(INSPECT, *given)
        return Facts(*rows[0]) if rows else None


def _problems(target: Target, facts: Facts) -> Iterator[str]:
    table, key, column = target.table, target.key_column, target.column
    if facts.kind in _VIEWS:
        yield f"{table} is {_VIEWS[facts.kind]}: name the table behind it"
    if not facts.may_write:
        yield (
            f"permission denied for table {table}: "
            f"GRANT SELECT, UPDATE ON {quoted(*table.split('.'))} TO {quoted(facts.role)}"
        )
    if facts.column_type != "timestamp with time zone":
        yield (
            f"column {column} of {table} is of type {facts.column_type}, which stores no moment: "
            f"ALTER TABLE {quoted(*table.split('.'))} ALTER {quoted(column)} TYPE timestamptz "
            "USING ... AT TIME ZONE the zone of what it holds"
        )
    if facts.key_type not in _FITTING[target.key_type]:
        yield (
            f"column {key} of {table} is of type {facts.key_type}, "
            f"but key_type is {target.key_type}"
        )
    if not facts.key_is_unique and facts.kind != "f":
        yield (
            f"column {key} of {table} has no unique index of its own: CREATE UNIQUE INDEX "
            f"CONCURRENTLY ON {quoted(*table.split('.'))} ({quoted(key)})"
        )


def _advice(target: Target, facts: Facts) -> Iterator[str]:
    column = target.column
    for trigger in facts.triggers:
        yield f"trigger {trigger} fires for each touch: limit it by UPDATE OF the other columns"
    for index in facts.indexes:
        yield f"index {index} contains {column}, so every touch writes all indexes: drop it"
    if (facts.fillfactor or 0) > _MAX_FILLFACTOR:
        yield (
            f"fillfactor is {facts.fillfactor}, so most touches write all indexes: "
            f"ALTER TABLE {quoted(*target.table.split('.'))} SET (fillfactor = 50)"
        )
