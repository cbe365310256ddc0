"""The commands for webhooks: the secret alone on stdout, once."""

import json

from tests.support.command_line import assert_one_line, run
from tests.support.webhooks import expected_signature, receiving, status

ALLOW = {"ACTIVITY__WEBHOOKS__ALLOW_PRIVATE": "true", "ACTIVITY__WEBHOOKS__ALLOW_HTTP": "true"}


async def call(dsn, *arguments):
    import asyncio  # noqa: PLC0415

    return await asyncio.to_thread(run, "webhooks", *arguments, dsn=dsn, **ALLOW)


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


def test_what_cannot_be_a_webhook_is_refused(dsn):
    """In one line, before anything is made."""
    create = ("webhooks", "create", "--url")
    assert_one_line(run(*create, "http://example.com", dsn=dsn), 2, "--url", "https")
    assert_one_line(run(*create, "https://127.0.0.1", dsn=dsn), 2, "--url", "public")
    assert_one_line(run(*create, "https://a", "--events", "x", dsn=dsn), 2, "--events", "known")
    for after in ("31d", "-1h"):
        assert_one_line(run(*create, "https://a", f"--after={after}", dsn=dsn), 2, "--after")
    quiet = ("https://a", "--quiet=22:00-06:00")
    assert_one_line(run(*create, *quiet, "--timezone=Mars", dsn=dsn), 2, "--timezone", "zone")
    assert_one_line(run(*create, "https://a", "--quiet=22-6", dsn=dsn), 2, "--quiet", "06:00")
    assert_one_line(run(*create, "https://a", "--timezone=UTC", dsn=dsn), 2, "--quiet")
