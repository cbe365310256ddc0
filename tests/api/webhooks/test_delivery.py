"""Events reach a receiver: signed, in order, at least once, whatever it responds."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from api.webhooks import retries
from tests.support.webhooks import (
    NOW,
    column,
    delivering,
    emit,
    expected_signature,
    make,
    receiving,
    status,
    until,
    until_column,
)


async def hang(_request):
    await asyncio.sleep(2)
    return web.Response(status=500)


async def close(request):
    request.transport.close()
    return web.Response(status=500)


async def garbage(request):
    request.transport.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    return web.Response(status=500)


async def endless(request):
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    for _ in range(10_000):
        await response.write(b"x" * 65_536)
    return response


async def redirect(request):
    return web.Response(status=307, headers={"Location": str(request.url.with_path("/other"))})


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Tests do not wait for long between tries."""
    monkeypatch.setattr(retries, "_FIRST_S", 0.01)


async def test_events_arrive_signed_in_batches_and_in_order(dsn, db):
    """The signature is what another implementation of the specification computes."""
    async with receiving() as receiver:
        _, secret = await make(dsn, receiver.url)
        await emit(db, 250)
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 250)
            await until_column(db, "batch_id IS NULL")
    assert [len(one.events) for one in receiver.requests] == [100, 100, 50]
    assert [int(event["event_id"]) for event in receiver.delivered] == list(range(1, 251))
    assert set(receiver.delivered[0]) == {"event_id", "seq", "type", "device_id", "group_id", "at"}
    assert len({one.id for one in receiver.requests}) == 3
    for one in receiver.requests:
        assert (one.timestamp, one.signatures) == (NOW, [expected_signature(secret, one)])
    rows = await db.fetch("SELECT outcome, events, attempts FROM webhook_deliveries ORDER BY id")
    assert [tuple(row) for row in rows] == [("delivered", count, 1) for count in (100, 100, 50)]


@pytest.mark.parametrize("answer", [hang, close, garbage, endless, redirect, status(500)])
async def test_a_batch_that_failed_is_sent_again_as_it_was(dsn, db, answer):
    """With the same id and body, although there are more events by then; the rest follows."""
    async with receiving(answer, answer) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 5)
        async with delivering(dsn):
            await until(lambda: len(receiver.requests) == 1)
            await emit(db, 5)
            await until(lambda: len(receiver.delivered) == 10)
            await until_column(db, "batch_id IS NULL AND last_error IS NULL")
    tries = receiver.requests[:3]
    assert len({one.id for one in tries}) == len({one.body for one in tries}) == 1
    assert [int(event["event_id"]) for event in receiver.delivered] == list(range(1, 11))
    first = await db.fetchrow("SELECT outcome, attempts FROM webhook_deliveries ORDER BY id")
    assert tuple(first) == ("delivered", 3)


async def test_only_events_of_its_group_and_types_are_sent_to_a_webhook(dsn, db):
    """Its group and its types, from when it was made; a webhook of a quiet group moves on."""
    await emit(db, 3)
    async with receiving() as receiver:
        await make(dsn, receiver.url, "vans", ["device.offline"])
        await emit(db, 2, group="bikes")
        await emit(db, 2, kind="device.online")
        await emit(db, 2)
        await emit(db, 1500, group="bikes")
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 2)
            await until_column(db, "filtered_to >= 9 AND batch_id IS NULL")
            await emit(db, 1100, group="bikes")
            await until_column(db, "filtered_to = 2609")
    assert [event["event_id"] for event in receiver.delivered] == ["8", "9"]
    assert len(receiver.requests) == 1


async def test_410_pauses_a_webhook_and_loses_nothing(dsn, db):
    """410 ends the tries; when it is resumed the same batch is sent."""
    async with receiving(status(410)) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 2)
        async with delivering(dsn):
            await until_column(db, "paused_at IS NOT NULL")
            await db.execute("UPDATE webhooks SET paused_at = NULL, retry_at = NULL")
            await until(lambda: len(receiver.delivered) == 2)
    assert len(receiver.requests) == 2
    assert receiver.requests[0].id == receiver.requests[1].id


async def test_retry_after_is_obeyed(dsn, db):
    """The next try is no earlier, whatever the backoff is."""
    async with receiving(status(503, **{"Retry-After": "900"})) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 1)
        async with delivering(dsn):
            await until_column(db, "retry_at IS NOT NULL")
            wait = await column(db, "extract(epoch FROM retry_at - now())")
    assert 850 < wait <= 900


async def test_a_batch_is_given_up_in_the_end_and_the_next_one_follows(dsn, db):
    """It is listed as failed, with the reason."""
    async with receiving(status(500)) as receiver:
        await make(dsn, receiver.url)
        await emit(db, 2)
        async with delivering(dsn, retry_for_s=0) as deliverer:
            await until(lambda: deliverer.events["failed"] == 2)
            await emit(db, 1)
            await until(lambda: len(receiver.delivered) == 1)
    row = await db.fetchrow(
        "SELECT outcome, events, attempts, status, error FROM webhook_deliveries ORDER BY id"
    )
    assert tuple(row) == ("failed", 2, 1, 500, "the receiver responded with 500")


async def test_events_of_a_clock_that_has_gone_back_are_sent(dsn, db):
    """They do not wait until it is that time again."""
    async with receiving() as receiver:
        await make(dsn, receiver.url)
        await emit(db, 2, ago_s=-3600)
        await db.execute("UPDATE device_events SET stored_at = at")
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 2)


async def test_events_that_were_removed_before_they_were_sent_are_counted(dsn, db):
    """A webhook that was paused for too long reports it, and continues with the oldest event."""
    async with receiving() as receiver:
        await make(dsn, receiver.url)
        await emit(db, 5)
        await db.execute(
            "DELETE FROM device_events WHERE position <= 3; UPDATE event_position SET removed = 3"
        )
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 2)
    row = await db.fetchrow("SELECT outcome, events FROM webhook_deliveries ORDER BY id")
    assert tuple(row) == ("expired", 3)


async def test_failing_receivers_do_not_delay_others(dsn, db):
    """Half of the places are for others, however long a request of theirs takes."""

    async def for_ever(_request):
        await asyncio.sleep(60)
        return web.Response()

    async with receiving(*[for_ever] * 9) as slow, receiving() as fast:
        for _ in range(3):
            await make(dsn, slow.url, "slow")
        await make(dsn, fast.url, "vans")
        await emit(db, 1, group="slow")
        await db.execute("UPDATE webhooks SET attempts = 1 WHERE group_id = 'slow'")
        async with delivering(dsn, concurrent_deliveries=2, timeout_s=60):
            await until(lambda: len(slow.requests) == 1)
            for count in (1, 2):
                await emit(db, 1)
                await until(lambda count=count: len(fast.delivered) == count, timeout_s=10)
    assert len(slow.requests) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (
            format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True),
            90.0,
        ),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(days=9), usegmt=True), 0.0),
        *((text, None) for text in (None, "", "soon", "-5", "1.5", "\u0663", "Mon, 99 Foo")),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, expected):
    """Any other value is ignored."""
    assert retries.read_retry_after(value, NOW) == expected


def test_waits_double_up_to_a_limit_with_jitter_on_top(monkeypatch):
    """Retry-After counts for an hour at most."""
    monkeypatch.setattr(retries, "_FIRST_S", 1.0)

    def waits(uniform):
        return [retries.delay_s(n, None, max_s=60, uniform=uniform) for n in (1, 2, 3, 7, 999)]

    assert waits(lambda low, _: low) == [1, 2, 4, 60, 60]
    assert waits(lambda _, high: high) == [1.25, 2.5, 5, 75, 75]
    assert retries.delay_s(1, 1e9, max_s=60) == 3600
