"""The commands for webhooks: the secret alone on stdout, once."""

import json

from tests.support import command_line
from tests.support.command_line import assert_one_line, invoke
from tests.support.webhooks import (
    delivering,
    emit,
    expected_signature,
    receiving,
    status,
    until,
    until_column,
)

ALLOW = {"ACTIVITY__WEBHOOKS__ALLOW_PRIVATE": "true", "ACTIVITY__WEBHOOKS__ALLOW_HTTP": "true"}


async def call(dsn, *arguments):
    return await command_line.call("webhooks", *arguments, dsn=dsn, **ALLOW)


async def test_a_webhook_is_made_listed_tested_rotated_and_deleted(dsn):
    """A test is signed with both secrets after a rotation, and fails if the receiver does."""
    async with receiving(status(204), status(500)) as receiver:
        options = (
            "--group=vans",
            "--events=device.offline,device.online",
            "--after=2h",
            "--quiet=22:00-06:00",
        )
        made = await call(dsn, "create", "--url", receiver.url, *options)
        assert made.returncode == 0, made.stderr
        (old,) = made.stdout.splitlines()
        listed = await call(dsn, "list", "--json")
        (one,) = json.loads(listed.stdout)
        assert (one["group_id"], one["state"], one["waiting"]) == ("vans", "active", 0)
        assert (one["after_s"], one["quiet"], one["timezone"]) == (7200, "22:00-06:00", "UTC")
        assert one["types"] == ["device.offline", "device.online"]
        assert old not in listed.stdout
        new = (await call(dsn, "rotate", "1")).stdout.strip()
        assert (await call(dsn, "test", "1")).returncode == 0
        assert_one_line(await call(dsn, "test", "1"), 1, "500")
        sent = receiver.requests[0]
        assert sent.signatures == [expected_signature(secret, sent) for secret in (new, old)]
    assert (await call(dsn, "delete", "1")).returncode == 0
    assert_one_line(await call(dsn, "delete", "1"), 1, "no webhook")


async def test_a_webhook_that_is_paused_is_sent_nothing_until_it_is_resumed(dsn, db):
    """Its events wait, and are counted; afterwards `deliveries` shows the outcome of each batch."""
    async with receiving(status(204), status(410), status(204)) as receiver:
        assert (await call(dsn, "create", "--url", receiver.url)).returncode == 0
        assert (await call(dsn, "deliveries", "1")).stderr == "no deliveries yet\n"
        async with delivering(dsn):
            await emit(db, 2)
            await until(lambda: len(receiver.delivered) == 2)
            assert (await call(dsn, "pause", "1")).stderr == "paused webhook 1\n"
            await until_column(db, "leased_until <= now()")
            await emit(db, 3)
            (listed,) = json.loads((await call(dsn, "list", "--json")).stdout)
            assert (listed["state"], listed["waiting"]) == ("paused", 3)
            assert len(receiver.requests) == 1
            assert (await call(dsn, "resume", "1")).stderr == "resumed webhook 1\n"
            await until_column(db, "paused_at IS NOT NULL")  # by 410
            assert (await call(dsn, "resume", "1")).returncode == 0
            await until(lambda: len(receiver.delivered) == 5)
            await until_column(db, "batch_id IS NULL")
    newest, oldest = json.loads((await call(dsn, "deliveries", "1", "--json")).stdout)
    keys = ("message_id", "outcome", "events", "attempts", "status", "error")
    first, last = receiver.requests[0].id, receiver.requests[-1].id
    assert [oldest[key] for key in keys] == [first, "delivered", 2, 1, 204, None]
    assert [newest[key] for key in keys] == [last, "delivered", 3, 2, 204, None]
    (only,) = json.loads((await call(dsn, "deliveries", "1", "--json", "--limit=1")).stdout)
    assert only == newest
    assert "delivered" in (await call(dsn, "deliveries", "1")).stdout
    for command in ("pause", "resume"):
        assert_one_line(await call(dsn, command, "2"), 1, "no webhook")


def test_an_invalid_webhook_is_rejected(dsn):
    """In one line, before anything is made."""
    create = ("webhooks", "create", "--url")
    assert_one_line(invoke(*create, "http://example.com", dsn=dsn), 2, "--url", "https")
    assert_one_line(invoke(*create, "https://127.0.0.1", dsn=dsn), 2, "--url", "public")
    assert_one_line(
        invoke(*create, "https://a", "--events", "x", dsn=dsn), 2, "--events", "no type"
    )
    for after in ("31d", "-1h"):
        assert_one_line(invoke(*create, "https://a", f"--after={after}", dsn=dsn), 2, "--after")
    quiet = ("https://a", "--quiet=22:00-06:00")
    assert_one_line(invoke(*create, *quiet, "--timezone=Mars", dsn=dsn), 2, "--timezone", "zone")
    assert_one_line(invoke(*create, "https://a", "--quiet=22-6", dsn=dsn), 2, "--quiet", "06:00")
    assert_one_line(invoke(*create, "https://a", "--timezone=UTC", dsn=dsn), 2, "--quiet")
