"""No two processes send the same batch at the same time; one that dies is replaced."""

import asyncio
import sys
import time

import pytest
from aiohttp import web

from api.webhooks import deliverer
from api.webhooks.batch import LeaseLost
from api.webhooks.delivery_store import DeliveryStore
from api.webhooks.sender import Outcome
from tests.support.command_line import CHECKOUT
from tests.support.webhooks import (
    a_database,
    a_store,
    column,
    delivering,
    emit,
    make,
    receiving,
    status,
    until,
    until_column,
)


async def slowly(_request):
    await asyncio.sleep(0.2)
    return web.Response()


async def test_three_deliverers_send_each_batch_once_and_one_at_a_time(dsn, db):
    """Each event arrives once, in order, while all of them run."""
    async with receiving(*[slowly] * 50) as receiver:
        await make(dsn, receiver.url)
        async with delivering(dsn), delivering(dsn), delivering(dsn):
            for _ in range(10):
                await emit(db, 60)
                await asyncio.sleep(0.1)
            await until(lambda: len(receiver.delivered) >= 600)
            await until_column(db, "batch_id IS NULL")
    assert receiver.most_active == 1
    assert [int(event["event_id"]) for event in receiver.delivered] == list(range(1, 601))


async def test_a_process_that_pauses_is_replaced_when_its_lease_ends(dsn, db, monkeypatch):
    """The other one sends the batch with the same id, and the first one changes nothing more."""
    monkeypatch.setattr(deliverer, "LEASE_S", 1.5)
    sent_at = []

    async def note_time(_request):
        sent_at.extend((await database.fetch("SELECT clock_timestamp()"))[0])
        return web.Response()

    async with receiving(note_time) as receiver, a_database(dsn) as database:
        webhook_id, _ = await make(dsn, receiver.url)
        await emit(db, 3)
        dead = a_store(database)
        assert await dead.claim(10, failing=False) == [webhook_id]
        batch = await dead.next_batch(webhook_id)
        lease_ends_at = await column(db, "leased_until")
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 3)
            receiver.answers += [status(500)] * 9
            await emit(db, 1)
            await until_column(db, "attempts >= 1")
        assert sent_at[0] >= lease_ends_at
        assert receiver.requests[0].id == batch.message_id
        # It was only paused: what it writes now changes nothing.
        with pytest.raises(LeaseLost):
            await dead.delivered(batch, Outcome(200))
        with pytest.raises(LeaseLost):
            await dead.retry(batch, Outcome(500, "late"), 1, pause=True)
    assert await db.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
    assert await column(db, "batch_id IS NOT NULL AND paused_at IS NULL")


async def test_a_process_that_is_killed_is_replaced_within_ten_seconds(dsn, db):
    """While its request is under way: the batch is sent again, as it was, and not beside it."""
    killed = asyncio.Event()

    async def while_connected(request):
        try:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.01)
        finally:
            killed.set()
        return web.Response(status=500)

    async with receiving(while_connected) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 3)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.deliver", dsn, cwd=CHECKOUT
        )
        try:
            await until(lambda: len(receiver.requests) == 1)
            async with delivering(dsn), delivering(dsn):
                lease_ends_at = await column(db, "leased_until")
                await until_column(db, f"leased_until > '{lease_ends_at}'")  # it was renewed
                assert len(receiver.requests) == 1
                process.kill()
                died_at = time.monotonic()
                await asyncio.wait_for(killed.wait(), 5)
                await emit(db, 1)
                await until(lambda: len(receiver.delivered) == 4)
                assert time.monotonic() - died_at < 10
                await until_column(db, "batch_id IS NULL")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert receiver.most_active == 1
    first, again, *_ = receiver.requests
    assert (first.id, first.body) == (again.id, again.body)
    assert [one["event_id"] for one in receiver.delivered] == ["1", "2", "3", "4"]


async def test_a_request_that_takes_longer_than_a_lease_stays_alone(dsn, db, monkeypatch):
    """The lease is renewed while the request is under way."""
    monkeypatch.setattr(deliverer, "LEASE_S", 1.5)
    monkeypatch.setattr(deliverer, "_MARGIN_S", 0.3)
    monkeypatch.setattr(deliverer, "_RENEW_EVERY_S", 0.3)

    async def long(_request):
        await asyncio.sleep(4)
        return web.Response()

    async with receiving(long) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 1)
        async with delivering(dsn, timeout_s=20), delivering(dsn, timeout_s=20):
            await until(lambda: len(receiver.delivered) == 1)
            await until_column(db, "batch_id IS NULL")
    assert len(receiver.requests) == 1


async def test_a_process_that_cannot_renew_stops_before_its_lease_ends(dsn, db, monkeypatch):
    """So the next one does not send beside it."""
    monkeypatch.setattr(deliverer, "LEASE_S", 1.5)
    monkeypatch.setattr(deliverer, "_MARGIN_S", 0.3)
    ended = []

    async def long(_request):
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(time.monotonic())
        return web.Response()

    async def fail(*_args):
        raise OSError("no renewal")

    async with receiving(long) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 1)
        monkeypatch.setattr(DeliveryStore, "renew", fail)
        async with delivering(dsn, timeout_s=20) as first:
            await until(lambda: len(receiver.requests) == 1)
            assert await db.fetchval("SELECT leased_until > now() FROM webhooks")
            async with delivering(dsn, timeout_s=20) as other:
                await until(lambda: len(receiver.requests) == 2)
                # Whichever sends it: the first request was given up before.
                assert len(first._tasks) + len(other._tasks) == 1


async def test_a_service_that_stops_ends_its_leases(dsn, db):
    """So another process continues at once."""
    async with receiving() as receiver:
        await make(dsn, receiver.url)
        await emit(db, 1)
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 1)
    assert await db.fetchval("SELECT leased_by IS NULL FROM webhooks")
