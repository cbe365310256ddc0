"""What commands show and send: no API key, and nothing that a terminal would obey."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from api.access.keys import create_key, find_keys
from api.config import DatabaseSettings, LogSettings
from api.logs import configure_logs
from api.postgres.database import Database, open_database

CHECKOUT = Path(__file__).parents[2]
HOSTILE = "\x1b]0;mine\x07\u202e\x9b1m\u2066\U000e0001\nend"
"""Escape sequences, in seven bits and in eight, and marks that turn text around."""


def run(*arguments: str, dsn: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of the service."""
    return subprocess.run(
        [sys.executable, "-m", "api", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "ACTIVITY__DATABASE__URL": dsn},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def test_a_key_is_revoked_without_being_on_the_command_line(dsn, db):
    """`keys revoke -` reads it; every user can read the arguments of a process."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "fleet", None)
    done = run("keys", "revoke", "-", dsn=dsn, stdin=f"{key}\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"revoked {key[:10]} (fleet)\n"
    assert await db.fetchval("SELECT revoked_at FROM api_keys") is not None


async def test_a_key_on_the_command_line_is_revoked_with_a_warning(dsn, db):
    """In an emergency it may be all that is known of it."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "fleet", None)
    done = run("keys", "revoke", key, dsn=dsn)
    assert done.returncode == 0
    revoked, warning = done.stderr.splitlines()
    assert revoked == f"revoked {key[:10]} (fleet)"
    assert "keys revoke -" in warning
    assert key not in done.stderr
    assert await db.fetchval("SELECT revoked_at FROM api_keys") is not None


@pytest.mark.parametrize("stdin", ["", "\n", "fleet\n", "ak_short\n"])
def test_text_on_stdin_that_is_no_api_key_revokes_nothing(dsn, stdin):
    """A name is given as an argument."""
    done = run("keys", "revoke", "-", dsn=dsn, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: stdin has no API key on its first line\n"


async def test_only_the_hash_of_a_key_is_sent_to_postgres(dsn, monkeypatch):
    """A server that logs the parameters of statements logs no key."""
    sent = []
    fetch = Database.fetch

    async def recording(self, statement, *arguments, **options):
        sent.append((statement, arguments))
        return await fetch(self, statement, *arguments, **options)

    monkeypatch.setattr(Database, "fetch", recording)
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        key = await create_key(database, "fleet", None)
        (found,) = await find_keys(database, key)
    assert found.prefix == key[:10]
    assert len(sent) == 2
    assert key not in repr(sent)


async def test_json_is_safe_on_a_terminal_and_means_the_same(dsn, db):
    """Names come from clients, and the output of `--json` is read on terminals, too."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES (gen_random_uuid(), $1, 'vans', $1)",
        HOSTILE,
    )
    await db.execute(
        "INSERT INTO api_keys (key_hash, prefix, name) VALUES ('\\x00', 'ak_1', $1)", HOSTILE
    )
    for command, field in (
        (("devices", "list", "--group", "vans", "--json"), "display_name"),
        (("keys", "list", "--json"), "name"),
    ):
        done = run(*command, dsn=dsn)
        assert done.returncode == 0, done.stderr
        assert all(line.isprintable() for line in done.stdout.splitlines()), done.stdout
        (row,) = json.loads(done.stdout)
        assert row[field] == HOSTILE


async def test_the_output_of_a_revocation_is_safe_on_a_terminal(dsn, db):
    """Its name was checked when it was made, unless it was written by SQL."""
    await db.execute(
        "INSERT INTO api_keys (key_hash, prefix, name) VALUES ('\\x00', 'ak_1', $1)", HOSTILE
    )
    for expected in (0, 1):
        done = run("keys", "revoke", "ak_1", dsn=dsn)
        assert done.returncode == expected
        (line,) = done.stderr.splitlines()
        assert line.isprintable()


@pytest.fixture
def console_log():
    """A log as a terminal gets it."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logs(LogSettings(format="console"), stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_a_log_on_a_terminal_is_safe(console_log):
    """Keys that callers pass are shown in log lines."""
    # Without a line break: structlog shows a string that has one by repr.
    structlog.get_logger("test").warning("a", name=HOSTILE.replace("\n", ""), first_keys=[HOSTILE])
    line = console_log.getvalue()
    assert line.count("]0;mine") == 2
    # Colours of our own, if there are any, are the only escapes.
    assert "\x1b]" not in line
    assert not {"\x07", "\u202e", "\x9b", "\u2066"} & set(line)
