"""The command line, run as a user runs it: output, exit codes, and errors in one line."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import with_user
from tests.support.command_line import assert_one_line, call, invoke, run


def test_wrong_arguments_are_rejected(dsn):
    """Invalid names, groups and durations, unknown API keys and unknown commands are errors."""
    assert_one_line(invoke("keys", "create", "--name", "a\x1b[2Jb", dsn=dsn), 2, "--name")
    assert_one_line(invoke("keys", "create", "--name", "", dsn=dsn), 2, "--name")
    named = ("keys", "create", "--name", "good")
    assert_one_line(invoke(*named, "--group", "no good", dsn=dsn), 2, "--group")
    assert_one_line(invoke(*named, "--expires", "1y", dsn=dsn), 2, "--expires")
    assert_one_line(invoke("keys", "revoke", "nobody", dsn=dsn), 1, "no key")
    assert run("no-such-command").returncode == 2


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list")])
def test_an_unreachable_server_is_reported_in_one_line(command):
    """The line has the address, and no traceback."""
    done = run(*command, dsn="postgresql://postgres@127.0.0.1:1/postgres")
    assert_one_line(done, 1, "cannot connect", "127.0.0.1", "is it running", "database.url")


def test_a_database_url_that_the_driver_rejects_is_a_wrong_setting(dsn):
    """Exit code 2, so that a supervisor does not restart the service."""
    url = f"{dsn}{'&' if '?' in dsn else '?'}sslmode=nope"
    assert_one_line(run("serve", dsn=url), 2, "database: url", "sslmode")


async def test_keys_list_without_a_schema_names_the_command_that_makes_it(dsn, db):
    """With `auto_migrate` off, no command creates the schema as a side effect."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = run("keys", "list", dsn=dsn, ACTIVITY__DATABASE__AUTO_MIGRATE="false")
    assert_one_line(done, 1, "api_keys", "python -m api migrate")


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list")])
def test_the_password_of_a_denied_role_is_not_printed(dsn, command):
    """The error names the role, and nothing else of the URL."""
    done = run(*command, dsn=with_user(dsn, "stranger", "hunter2"))
    assert_one_line(done, 1, "stranger")
    assert "hunter2" not in done.stderr


def test_a_wrong_setting_is_reported_in_one_line():
    """The error names the setting, and the service does not start."""
    done = run("serve", ACTIVITY__TRACKER__FLUSH_INTERVAL_S="nan")
    assert_one_line(done, 2, "tracker.flush_interval_s")
    done = run("serve", ACTIVITY__SERVER__PROT="1")
    assert_one_line(done, 2, "ACTIVITY__SERVER__PROT: did you mean ACTIVITY__SERVER__PORT?")
    done = run("--config", "/nowhere.toml", "serve")
    assert_one_line(done, 2, "/nowhere.toml")
    for command in (
        ("serve",),
        ("migrate",),
        ("status",),
        ("keys", "list"),
        ("keys", "revoke", "a"),
    ):
        assert_one_line(run(*command, "--config", "/nowhere.toml"), 2, "/nowhere.toml")


async def test_migrate_brings_an_empty_database_up_to_date_and_may_be_repeated(dsn, db):
    """Two migrations at the same time and a repeated one succeed."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    first, second = await asyncio.gather(
        *(asyncio.to_thread(run, "migrate", dsn=dsn) for _ in range(2))
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert await db.fetchval("SELECT count(*) FROM devices") == 0
    assert run("migrate", dsn=dsn).returncode == 0


async def test_devices_list_prints_a_group(dsn, db):
    """All devices or the silent ones, as a table or as JSON, page after page."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
        "SELECT gen_random_uuid(), 'van [b] ' || n, 'vans', 'ios', "
        "CASE WHEN n <= 3 THEN now() - interval '8 days' ELSE now() END "
        "FROM generate_series(1, 2100) n"
    )
    vans = ("devices", "list", "--group", "vans")
    table = await call(*vans, "--silent-for", "7d", dsn=dsn)
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[1:5] for line in table.stdout.splitlines()[1:]] == [
        ["van", "[b]", str(n), "ios"] for n in (1, 2, 3)
    ]
    everything = await call(*vans, "--json", dsn=dsn)
    devices = json.loads(everything.stdout)
    assert len({device["device_id"] for device in devices}) == 2100
    assert devices[0].keys() >= {"display_name", "last_seen_at", "last_location"}
    seen = await call(*vans, "--seen-within", "1d", "--limit", "1500", "--json", dsn=dsn)
    assert len(json.loads(seen.stdout)) == 1500


async def test_control_characters_in_names_are_escaped(dsn, db):
    """A device may have any name, and a name must not send escape sequences to a terminal."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES (gen_random_uuid(), $1, 'vans', $1)",
        "\x1b]0;mine\x07\x1b[2J\nnext\u202e\x9b1m",
    )
    done = await call("devices", "list", "--group", "vans", dsn=dsn)
    (_, row) = done.stdout.splitlines()
    assert row.isprintable()
    assert row.count("]0;mine  [2J next  1m") == 2


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "create", "--name", "unseen"),
        ("keys", "list"),
        ("keys", "list", "--json"),
        ("devices", "list", "--group", "vans"),
        ("devices", "list", "--group", "vans", "--json"),
        ("status", "--url", "http://127.0.0.1:1", "--json"),
        ("completion", "bash"),
        ("--help",),
    ],
    ids=" ".join,
)
async def test_output_that_cannot_be_written_is_reported_in_one_line(dsn, db, command):
    """A full disk, for example; `keys create` also says that the API key was not printed."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES (gen_random_uuid(), 'a van', 'vans', 'ios')"
    )
    await db.execute("INSERT INTO api_keys (key_hash, prefix, name) VALUES ('', 'ak_x', 'a key')")

    def run_into_a_full_disk() -> subprocess.CompletedProcess[str]:
        with Path("/dev/full").open("w") as full:
            return run(*command, dsn=dsn, into=full)

    done = await asyncio.to_thread(run_into_a_full_disk)
    assert done.returncode == 1
    *before, line = done.stderr.splitlines()
    assert line.startswith("error: cannot write the output: No space left on device")
    made = "create" in command
    assert ("revoke it" in line, len(before)) == (made, made)


def test_an_empty_group_is_not_an_error(dsn):
    """Nothing on stdout, a message on stderr; a wrong option is an error."""
    done = invoke("devices", "list", "--group", "nobodys", dsn=dsn)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nobodys" in done.stderr
    for option, text in (("--silent-for", "7"), ("--seen-within", "soon"), ("--group", "no good")):
        given = ("devices", "list", "--group", "vans", option, text)
        assert_one_line(invoke(*given, dsn=dsn), 2, option)
