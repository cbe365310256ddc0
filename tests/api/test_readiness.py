"""Readiness: what takes a process out of service, and what it can do without."""

import asyncpg
import pytest

from api.access.lookup import CachedLookup
from api.access.revocations import Revocations
from api.config import AuthSettings
from api.handlers.readiness_checks import ReadinessChecks
from api.postgres.clock import DatabaseClock
from api.postgres.revisions import HEAD
from api.siblings import Alone
from tests.support.stores import Clock
from tracker import StoreMisconfigured, StoreUnavailable


class OneAnswer:
    """A database that answers every statement in the same way."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def fetch(self, *_statement: object, **_options: object) -> list[tuple[str]]:
        if self.error is not None:
            raise self.error
        return [(HEAD,)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> OneAnswer:
    return OneAnswer()


@pytest.fixture
def checks(database, clock) -> ReadinessChecks:
    lookup: CachedLookup[bytes, object] = CachedLookup("keys", None, AuthSettings())
    revocations = Revocations(database, lookup, DatabaseClock(), Alone(), every_s=1)
    return ReadinessChecks(database, None, revocations, stale_limit_s=900, monotonic=clock)


async def codes(checks: ReadinessChecks) -> tuple[list[str], list[str], list[str]]:
    found = await checks.run()
    return list(found.problems), list(found.degraded), list(found.warnings)


async def test_in_an_outage_a_process_is_degraded_until_the_stale_limit(checks, database, clock):
    """A load balancer keeps all processes, which serve known devices, and then takes them out."""
    assert await codes(checks) == ([], [], [])
    database.error = StoreUnavailable("it is away")
    clock.now += 1
    assert await codes(checks) == ([], ["database"], [])
    clock.now += 898
    assert await codes(checks) == ([], ["database"], [])
    clock.now += 3
    assert await codes(checks) == (["database"], [], [])
    database.error = None
    clock.now += 1
    assert await codes(checks) == ([], [], [])


async def test_a_process_that_never_reached_the_database_is_not_ready(checks, database):
    """It knows no device and no API key; another process may."""
    database.error = StoreUnavailable("it is away")
    assert await codes(checks) == (["database"], [], [])


@pytest.mark.parametrize(
    ("cause", "found"),
    [
        (asyncpg.UndefinedTableError("no such table"), (["migrations"], [], [])),
        (asyncpg.InsufficientPrivilegeError("denied"), ([], [], ["migrations"])),
        (asyncpg.InvalidPasswordError("denied"), ([], ["database"], [])),
    ],
)
async def test_a_fault_that_all_processes_share_leaves_them_ready(
    checks, database, clock, cause, found
):
    """A schema that was never made does; a revoked permission or a new password does not."""
    await checks.run()
    database.error = StoreMisconfigured("it is not as it should be")
    database.error.__cause__ = cause
    clock.now += 1
    assert await codes(checks) == found
