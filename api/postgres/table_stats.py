"""How well touches are written: statistics that Postgres keeps of the touched tables.

A touch is cheap as long as it is a heap-only update (HOT): its new row version fits on the page of
the old one, and no index is written. Dead rows that pile up, or a snapshot that stays open, end
that.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.postgres.database import Database
from tracker import StoreError
from tracker.instrumentation import Family, families

_EVERY_S: Final = 60.0
_READ: Final = """
SELECT named.name, sum(n_tup_upd)::float8, sum(n_tup_hot_upd)::float8,
       sum(n_dead_tup)::float8, sum(n_live_tup)::float8
FROM unnest($1::text[]) AS named(name)
JOIN pg_stat_user_tables AS stats
  ON stats.relid = to_regclass(named.name)
     OR stats.relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(named.name))
GROUP BY named.name
"""


class TableStats(Collector):
    """Reads the statistics while it runs, and collects them.

    Args:
        database: where the tables are.
        tables: their names; partitions count for their table.
    """

    def __init__(self, database: Database, tables: Sequence[str]) -> None:
        self._database = database
        self._tables = list(tables)
        self._rows: dict[str, tuple[float, float, float, float]] = {}

    async def read(self) -> None:
        """Read until the task is cancelled; without statistics nothing is collected."""
        while True:
            try:
                rows = await self._database.fetch(_READ, self._tables)
            except StoreError:
                self._rows = {}
            else:
                self._rows = {name: tuple(numbers) for name, *numbers in rows}
            await asyncio.sleep(_EVERY_S)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, self._rows, label="table")


_FAMILIES: Final[tuple[Family[tuple[float, float, float, float]], ...]] = (
    Family(CounterMetricFamily, "database_table_updates", "Updated rows.", lambda row: row[0]),
    Family(
        CounterMetricFamily,
        "database_table_hot_updates",
        "Rows that were updated without writing an index.",
        lambda row: row[1],
    ),
    Family(
        GaugeMetricFamily,
        "database_table_dead_rows",
        "Row versions that vacuum can remove, or soon can.",
        lambda row: row[2],
    ),
    Family(GaugeMetricFamily, "database_table_rows", "Rows, about.", lambda row: row[3]),
)
