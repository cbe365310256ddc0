"""The checks behind /api/health/ready: what is wrong, and whether it takes the process out.

A load balancer sends no requests to a process that is not ready. So a process is not ready only if
another one could do better: while it starts, if its schema is too old, or if its caches are older
than their limit. A problem that all processes share, such as a database that is unavailable for a
while, is no reason: the whole service would be lost, although requests of known devices are served.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from api.access.revocations import Revocations
from api.postgres.database import Database
from api.postgres.revisions import HEAD, SELECT_REVISIONS, is_newer
from tracker import StoreError, StoreMisconfigured, Tracker

_CHECK_DEADLINE_S: Final = 2.0
_CHECK_EVERY_S: Final = 1.0
_NO_SUCH_TABLE: Final = "42P01"
_NO_PERMISSION: Final = "42501"


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of the checks: details by code, as in `Readiness`."""

    problems: dict[str, str] = field(default_factory=dict)
    degraded: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)


class ReadinessChecks:
    """Runs the checks.

    Args:
        database: is queried once a second at most, for any number of requests.
        tracker: its permanent errors and the state of its journals are warnings; None when
            tracking is off.
        revocations: knows when the database was last reached.
        others: returns further warnings, by code.
        stale_limit_s: how long the caches serve while the database is away, in seconds.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        database: Database,
        tracker: Tracker | None,
        revocations: Revocations,
        others: Callable[[], Mapping[str, str]] = dict,
        *,
        stale_limit_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tracker = tracker
        self._revocations = revocations
        self._others = others
        self.is_draining = False
        """Whether the process is about to stop."""
        self._stale_limit_s = stale_limit_s
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._checked_at = self._reached_at = float("-inf")
        self._of_database = Findings()

    async def run(self) -> Findings:
        """Return what is wrong now."""
        async with self._one_at_a_time:
            if self._monotonic() - self._checked_at >= _CHECK_EVERY_S:
                self._of_database = await self._check_database()
                self._checked_at = self._monotonic()
            found = self._of_database
        problems = found.problems
        if self.is_draining:
            problems = {**problems, "draining": "this process is about to stop"}
        return Findings(problems, found.degraded, found.warnings | self._own_warnings())

    async def _check_database(self) -> Findings:
        try:
            rows = await self._database.fetch(SELECT_REVISIONS, deadline_s=_CHECK_DEADLINE_S)
        except StoreError as error:
            return self._failed(error)
        self._reached_at = self._monotonic()
        found = [row[0] for row in rows]
        # A newer schema belongs to a newer process that runs beside this one.
        if HEAD in found or any(map(is_newer, found)):
            return Findings()
        text = f"the schema is at {found}, this code needs {HEAD}"
        return Findings(problems={"migrations": text})

    def _failed(self, error: StoreError) -> Findings:
        sqlstate = getattr(error.__cause__, "sqlstate", None)
        if sqlstate in (_NO_SUCH_TABLE, _NO_PERMISSION):
            self._reached_at = self._monotonic()
        if sqlstate == _NO_SUCH_TABLE:
            return Findings(problems={"migrations": str(error)})
        if sqlstate == _NO_PERMISSION:
            return Findings(warnings={"migrations": str(error)})
        reached_at = max(self._reached_at, self._revocations.polled_at)
        if self._monotonic() - reached_at > self._stale_limit_s:
            return Findings(problems={"database": str(error)})
        return Findings(degraded={"database": str(error)})

    def _own_warnings(self) -> dict[str, str]:
        warnings = dict(self._others())
        if isinstance(self._revocations.error, StoreMisconfigured):
            warnings["revocations"] = str(self._revocations.error)
        if self._tracker is None:
            return warnings
        for name, flusher in self._tracker.flush_loops.items():
            if flusher.permanent_error is not None:
                warnings[f"flush.{name}"] = str(flusher.permanent_error)
        for name, buffer in self._tracker.buffers.items():
            if buffer.journal is not None and buffer.journal.degraded:
                warnings[f"journal.{name}"] = (
                    "a crash would lose touches now: the log has said why, with journal.degraded "
                    f"({buffer.journal.missed} missed since the start)"
                )
        return warnings
