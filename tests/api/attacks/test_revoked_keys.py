"""Revoked and expired API keys are denied after a restored backup and after clock jumps."""

import asyncio
import math
import time
from itertools import pairwise

import pytest

from api.access.keys import Principal
from api.access.known_file import KnownFile
from api.access.revocations import Revocations
from api.siblings import Revision
from tests.support.service import running
from tracker import StoreUnavailable


async def test_a_restored_backup_authorizes_no_revoked_key(dsn, db, monkeypatch):
    """Its counter of changes may reach the number that was seen, by other changes."""
    original = Revocations._query
    seen: list[int] = []
    is_away = False

    async def query(self: Revocations, deadline_s: float) -> Revision:
        if is_away:
            seen.clear()
            raise StoreUnavailable("it is being restored")
        revision = await original(self, deadline_s)
        seen.append(revision.number)
        return revision

    monkeypatch.setattr(Revocations, "_query", query)
    # Nothing else makes the service read the key again in this hour.
    async with (
        running(dsn, auth={"refresh_s": 3600, "stale_limit_s": 7200}) as service,
        asyncio.timeout(30),
    ):
        device_id = await service.register()
        counter = await db.fetchval("SELECT revision FROM key_revision")
        while seen[-1:] != [counter] or len(seen) < 2:
            await asyncio.sleep(0.01)
        assert (await service.heartbeat(device_id)).status == 204
        is_away = True
        while seen:
            await asyncio.sleep(0.01)
        await db.execute("UPDATE api_keys SET revoked_at = now()")
        await db.execute("UPDATE key_revision SET revision = $1", counter)
        is_away = False
        while (await service.heartbeat(device_id)).status != 401:  # the keys are read again soon
            await asyncio.sleep(0.01)
    assert seen[0] == counter


async def test_the_first_failure_of_a_poll_is_retried_at_once(dsn, db, monkeypatch):
    """A connection that was cut costs none of the second in which a revoked key is denied."""
    original = Revocations._query
    polls: list[float] = []

    async def once_failing(self: Revocations, deadline_s: float) -> Revision:
        polls.append(time.monotonic())
        if len(polls) == 2:
            raise StoreUnavailable("it was cut")
        return await original(self, deadline_s)

    monkeypatch.setattr(Revocations, "_query", once_failing)
    async with running(dsn, auth={"revocation_poll_s": 0.5}), asyncio.timeout(30):
        while len(polls) < 4:
            await asyncio.sleep(0.01)
    between, after_failure, later = (b - a for a, b in pairwise(polls[:4]))
    assert after_failure < min(between, later)


@pytest.mark.parametrize("jump_s", [-315_360_000.0, 315_360_000.0])
async def test_a_clock_that_jumps_changes_no_expiry(service, monkeypatch, jump_s):
    """Keys expire by the database's clock, carried on by a clock that never jumps."""
    device_id = await service.register()
    lasting = await service.make_key(name="lasting", valid_s=3600)
    passing = await service.make_key(name="passing", valid_s=2)
    assert (await service.heartbeat(device_id, key=lasting)).status == 204
    assert (await service.heartbeat(device_id, key=passing)).status == 204
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    assert (await service.heartbeat(device_id, key=lasting)).status == 204
    async with asyncio.timeout(30):
        while (await service.heartbeat(device_id, key=passing)).status == 204:
            await asyncio.sleep(0.01)
    assert (await service.heartbeat(device_id, key=lasting)).status == 204


@pytest.mark.parametrize(
    ("jump_s", "is_used"),
    [(0.0, True), (-3.0, True), (890.0, True), (-60.0, False), (910.0, False)],
)
async def test_a_clock_that_was_set_back_makes_no_old_file_valid(
    tmp_path, monkeypatch, jump_s, is_used
):
    """A start in an outage trusts a file that was written within the stale limit, and no other."""
    file = KnownFile(tmp_path / "known", "postgresql://host/name")
    await file.save({}, {b"hash": Principal(1, None, math.inf)})
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    assert (await file.load(900.0) is not None) is is_used
