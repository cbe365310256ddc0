"""The command line, run as a user runs it: output, exit codes, and errors in one line."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

import aiohttp
import pytest
import typer

from api.cli.common import length_s
from api.http.bind import _advice
from api.http.listener import Listener
from benchmarks.harness.metrics import parse_metrics
from tests.conftest import with_user
from tests.support.sample_table import locking
from tests.support.terminal import terminal

DEVICE = "00000000-0000-4000-8000-000000000001"
CHECKOUT = Path(__file__).parents[2]


def run(
    *arguments: str, dsn: str = "", into: IO[str] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "ACTIVITY__DATABASE__URL": dsn, **environment},
        stdout=into,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """A failure says what is wrong in one line on stderr."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_keys_are_made_listed_and_revoked(dsn, db):
    """`keys create` prints the key alone on stdout, once; `keys list` never shows it."""
    made = run("keys", "create", "--name", "Fleet Ä", "--group", "family", dsn=dsn)
    assert made.returncode == 0
    (key,) = made.stdout.splitlines()
    assert len(key) > 40
    listed = run("keys", "list", dsn=dsn)
    assert (listed.returncode, key in listed.stdout) == (0, False)
    for part in (key[:10], "Fleet Ä", "family", "never", "active"):
        assert part in listed.stdout
    row = await db.fetchrow("SELECT name, group_id, revoked_at FROM api_keys")
    assert tuple(row) == ("Fleet Ä", "family", None)
    assert run("keys", "revoke", key[:10], dsn=dsn).returncode == 0
    assert await db.fetchval("SELECT revoked_at FROM api_keys") is not None
    assert "revoked" in run("keys", "list", dsn=dsn).stdout


def test_a_name_is_shown_as_it_is_and_an_ambiguous_one_revokes_nothing(dsn):
    """Brackets are no markup, and who means one of two keys must say which."""
    for _ in range(2):
        assert run("keys", "create", "--name", "[/red] :smile:", dsn=dsn).returncode == 0
    assert run("keys", "list", dsn=dsn).stdout.count("[/red] :smile:") == 2
    assert_one_line(run("keys", "revoke", "[/red] :smile:", dsn=dsn), 1, "2 keys")
    assert run("keys", "revoke", "1", dsn=dsn).returncode == 0
    assert run("keys", "revoke", "[/red] :smile:", dsn=dsn).returncode == 0
    for which in ("1", "[/red] :smile:"):
        assert_one_line(run("keys", "revoke", which, dsn=dsn), 1, "was revoked already")


async def test_keys_are_listed_as_json_without_a_secret(dsn, db):
    """For scripts: an array, with times in RFC 3339, in UTC, and each key on a line."""
    assert json.loads(run("keys", "list", "--json", dsn=dsn).stdout) == []
    secrets = [
        run("keys", "create", "--name", name, *more, dsn=dsn).stdout.strip()
        for name, more in (("a\u00e4 \u2028", ()), ("b", ("--group", "vans", "--expires", "1d")))
    ]
    assert run("keys", "revoke", "b", dsn=dsn).returncode == 0
    await db.execute("UPDATE api_keys SET last_used_at = '2026-01-02 03:04:05+02' WHERE name = 'b'")
    listed = run("keys", "list", "--json", dsn=dsn)
    assert listed.returncode == 0
    first, second = json.loads(listed.stdout)
    assert len(listed.stdout.split("\n")) == 5
    assert list(first) == [
        *("id", "prefix", "name", "group_id", "created_at", "last_used_at"),
        *("expires_at", "revoked_at", "state"),
    ]
    assert (first["name"], first["group_id"], first["state"]) == ("a\u00e4 \u2028", None, "active")
    assert (second["group_id"], second["state"]) == ("vans", "revoked")
    assert second["prefix"] == secrets[1][:10]
    assert second["last_used_at"] == "2026-01-02T01:04:05Z"
    assert first["last_used_at"] is first["expires_at"] is first["revoked_at"] is None
    for time in ("created_at", "expires_at", "revoked_at"):
        assert datetime.fromisoformat(second[time]).utcoffset() == timedelta(0)
    assert not any(secret in listed.stdout for secret in secrets)


async def test_the_table_of_keys_is_of_use_in_80_columns(dsn, db):
    """Nothing is cut: long names and times take two lines."""
    run("keys", "create", "--name", "é" * 100, "--group", "g" * 50, "--expires", "9d", dsn=dsn)
    environment = {"ACTIVITY__DATABASE__URL": dsn, "COLUMNS": "80", "NO_COLOR": "1"}
    command = (sys.executable, "-m", "api", "keys", "list")
    with terminal(*command, kind="xterm", **environment) as shown:
        text = await asyncio.to_thread(shown.rest)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 80
    created = await db.fetchval("SELECT created_at FROM api_keys")
    for part in (f"{created:%Y-%m-%d}", f"{created:%H:%M:%S}Z", "never", "active"):
        assert part in text
    assert text.count("é") == 100
    assert "…" not in text


async def test_a_terminal_that_is_too_narrow_hides_nothing(dsn, db):
    """It wraps the lines itself: that a key is revoked must be seen on any."""
    run("keys", "create", "--name", "guest", "--expires", "9d", dsn=dsn)
    assert run("keys", "revoke", "guest", dsn=dsn).returncode == 0
    for command, parts in (
        (("keys", "list"), ("guest", "state", "revoked", "prefix")),
        (("devices", "list", "--group", "vans"), ("van", "position", "1.50000", "2.25000")),
    ):
        device_id = await db.fetchval(
            "INSERT INTO devices (device_id, display_name, group_id, platform) "
            "VALUES (gen_random_uuid(), 'a van', 'vans', 'ios') RETURNING device_id"
        )
        await db.execute(
            "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
            "VALUES ($1, now(), 1.5, 2.25, 5)",
            device_id,
        )
        environment = {"ACTIVITY__DATABASE__URL": dsn, "COLUMNS": "30", "NO_COLOR": "1"}
        typed = (sys.executable, "-m", "api", *command)
        with terminal(*typed, kind="xterm", **environment) as shown:
            text = await asyncio.to_thread(shown.rest)
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert [part for part in parts if part not in text] == []


async def test_a_name_that_looks_like_an_id_revokes_nobody_else(dsn, db):
    """For good, that would be: whoever is meant has to be named by a prefix."""
    run("keys", "create", "--name", "the first", dsn=dsn)
    run("keys", "create", "--name", "1", dsn=dsn)
    assert_one_line(run("keys", "revoke", "1", dsn=dsn), 1, "2 keys", "prefix", "ak_")
    prefix = await db.fetchval("SELECT prefix FROM api_keys WHERE name = '1'")
    assert run("keys", "revoke", prefix, dsn=dsn).returncode == 0
    assert await db.fetchval("SELECT revoked_at FROM api_keys WHERE id = 1") is None


async def test_names_that_the_terminal_cannot_show_are_no_failure(dsn, db):
    """They are escaped."""
    run("keys", "create", "--name", "鍵", dsn=dsn)
    done = run("keys", "list", dsn=dsn, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u9375" in done.stdout


@pytest.mark.parametrize(
    "text",
    ["", "90", "0d", "-1d", "1.5h", "90 d", "90D", "36501d", "9" * 50 + "s", "\u0663d", "1d\n"],
)
def test_a_duration_that_makes_no_sense_is_refused(text):
    """A number and a unit, more than nothing, and a century at most."""
    with pytest.raises(typer.Exit):
        length_s(text, "--expires")


async def test_a_key_may_expire_and_the_list_says_when(dsn, db):
    """After a time from now by the database's clock; an expired key may still be revoked."""
    for expires, valid_s in (("900s", 900), ("5m", 300), ("2h", 7200), ("90d", 7_776_000)):
        made = run("keys", "create", "--name", expires, "--expires", expires, dsn=dsn)
        assert (made.returncode, len(made.stdout.splitlines())) == (0, 1), made.stderr
        assert f"valid for {expires}" in made.stderr
        row = await db.fetchrow(
            "SELECT expires_at - created_at = $2 * interval '1 second', expires_at "
            "FROM api_keys WHERE name = $1",
            expires,
            valid_s,
        )
        assert row[0]
        assert f"{row[1]:%Y-%m-%d %H:%M:%S}Z" in run("keys", "list", dsn=dsn).stdout
    await db.execute("UPDATE api_keys SET expires_at = now() WHERE name = '2h'")
    states = [line.split()[-1] for line in run("keys", "list", dsn=dsn).stdout.splitlines()]
    assert states == ["state", "active", "active", "expired", "active"]
    assert run("keys", "revoke", "2h", dsn=dsn).returncode == 0


async def test_a_key_is_revoked_by_itself_and_by_nothing_that_only_begins_like_it(dsn, db):
    """Who has the key at hand may name it; a typing error in it revokes no other."""
    key = run("keys", "create", "--name", "fleet", dsn=dsn).stdout.strip()
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert_one_line(run("keys", "revoke", wrong, dsn=dsn), 1, "no key has this id")
    revoked = run("keys", "revoke", key, dsn=dsn)
    assert (revoked.returncode, key in revoked.stderr) == (0, False)
    assert await db.fetchval("SELECT revoked_at FROM api_keys") is not None


def test_wrong_arguments_are_refused(dsn):
    """Names that make no sense and keys that are not there."""
    assert_one_line(run("keys", "create", "--name", "a\x1b[2Jb", dsn=dsn), 2, "--name")
    assert_one_line(run("keys", "create", "--name", "", dsn=dsn), 2, "--name")
    named = ("keys", "create", "--name", "good")
    assert_one_line(run(*named, "--group", "no good", dsn=dsn), 2, "--group")
    assert_one_line(run(*named, "--expires", "1y", dsn=dsn), 2, "--expires")
    assert_one_line(run("keys", "revoke", "nobody", dsn=dsn), 1, "no key")
    assert run("no-such-command").returncode == 2


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list")])
def test_a_missing_server_is_said_in_one_line(command):
    """Where it was looked for, without a trace."""
    done = run(*command, dsn="postgresql://postgres@127.0.0.1:1/postgres")
    assert_one_line(done, 1, "cannot connect", "127.0.0.1", "is it running", "database.url")


def test_a_database_url_that_makes_no_sense_to_the_driver_is_a_wrong_setting(dsn):
    """So whoever starts it again and again need not."""
    url = f"{dsn}{'&' if '?' in dsn else '?'}sslmode=nope"
    assert_one_line(run("serve", dsn=url), 2, "database.url", "sslmode")


async def test_who_lists_keys_of_a_database_without_a_schema_is_told_how_to_make_it(dsn, db):
    """Where it is not to be made by the way."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    done = run("keys", "list", dsn=dsn, ACTIVITY__DATABASE__AUTO_MIGRATE="false")
    assert_one_line(done, 1, "api_keys", "python -m api migrate")


@pytest.mark.parametrize("output", ["nobody reads it", "it is closed"])
async def test_a_key_that_nobody_can_be_shown_is_told(dsn, db, output):
    """It is made, so it must be revoked; or it is not made to begin with."""
    await db.execute("SELECT 1")
    command = f"{sys.executable} -m api keys create --name unseen"
    tail = "| (exec <&-; sleep 3)" if output == "nobody reads it" else ">&-"
    done = await asyncio.create_subprocess_exec(
        *("/bin/bash", "-c", f"set -o pipefail; {command} {tail}"),
        cwd=CHECKOUT,
        env={**os.environ, "ACTIVITY__DATABASE__URL": dsn},
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await done.communicate()
    assert done.returncode == 1
    made = await db.fetchval("SELECT count(*) FROM api_keys")
    assert (b"revoke it" in stderr) == bool(made)
    assert b"Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith(b"error: ")


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("keys", "list")])
def test_the_password_of_a_database_that_refuses_us_is_not_shown(dsn, command):
    """The user is named, for that is what is wrong, and nothing else of the URL."""
    done = run(*command, dsn=with_user(dsn, "stranger", "hunter2"))
    assert_one_line(done, 1, "stranger")
    assert "hunter2" not in done.stderr


def test_a_bad_setting_is_said_in_one_line():
    """The setting is named, and the start is stopped."""
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
    """Twice at the same time is fine too."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    first, second = await asyncio.gather(
        *(asyncio.to_thread(run, "migrate", dsn=dsn) for _ in range(2))
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert await db.fetchval("SELECT count(*) FROM devices") == 0
    assert run("migrate", dsn=dsn).returncode == 0


@asynccontextmanager
async def serving(dsn: str, **environment: str):
    """Run the service as a process of its own: its process, and a client with a key."""
    port = free_port()
    key = run("keys", "create", "--name", "fleet", dsn=dsn).stdout.strip()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api", "serve"),
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": dsn,
            "ACTIVITY__SERVER__PORT": str(port),
            "ACTIVITY__SERVER__METRICS_MAX_AGE_S": "0",
            "ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "3600",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            listening = b""
            while b'"server.listening"' not in listening:
                listening = await process.stdout.readline()
                assert listening
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", headers={"X-API-Key": key}
        ) as session:
            body = {"device_id": DEVICE, "display_name": "Phone", "group_id": "family"}
            async with session.post("/api/v1/devices/register", json=body) as answer:
                assert answer.status == 200
            yield process, session
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_serve_runs_until_sigterm_and_writes_what_is_pending(dsn, db):
    """The whole service as a process: it comes up, takes a heartbeat, and loses nothing."""
    async with serving(dsn) as (process, session):
        await db.execute("UPDATE devices SET last_seen_at = NULL")
        async with session.post(f"/api/v1/devices/{DEVICE}/heartbeat") as answer:
            assert answer.status == 204
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            stdout, stderr = await process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        events = [json.loads(line)["event"] for line in stdout.splitlines()]
        assert events == ["server.stopping", "server.stopped"]
    assert await db.fetchval("SELECT last_seen_at FROM devices") is not None


async def test_a_second_sigterm_does_not_break_off_the_last_flush(dsn, db):
    """Impatience loses nothing: the deadline holds, and what is left is for the next start."""
    deadline = {"ACTIVITY__TRACKER__SHUTDOWN_DEADLINE_S": "2"}
    async with serving(dsn, **deadline) as (process, _):
        async with locking(dsn, "LOCK TABLE devices IN ACCESS EXCLUSIVE MODE"):
            process.send_signal(signal.SIGTERM)
            said = b""
            async with asyncio.timeout(60):
                while b"flush.failed" not in said:
                    said += await process.stdout.readline()
                process.send_signal(signal.SIGTERM)
                rest, stderr = await process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        assert b"flush.left_in_journal" in said + rest
    async with serving(dsn) as (process, session), session.get("/metrics") as answer:
        metrics = parse_metrics(await answer.text())
        assert metrics.total("activity_journal_recovered_touches_total", target="devices") == 1


@pytest.mark.parametrize("prefix", ["", "monitor_"])
def test_a_port_that_is_taken_is_said_in_one_line(dsn, prefix):
    """By the name of its setting, with what shows who else listens there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        settings = {
            "ACTIVITY__SERVER__PORT": str(free_port()),
            f"ACTIVITY__SERVER__{prefix.upper()}PORT": port,
        }
        said = f"server.{prefix}port is {port}, which another process listens on already"
        assert_one_line(run("serve", dsn=dsn, **settings), 1, said, f"ss -ltnp sport = :{port}")


@pytest.mark.parametrize(
    ("host", "why"),
    [("nowhere.invalid", "no address is known for"), ("192.0.2.1", "no address of this machine")],
)
def test_a_host_that_cannot_be_listened_on_is_said_in_one_line(dsn, host, why):
    """By the name of its setting, with what to put there."""
    done = run("serve", dsn=dsn, ACTIVITY__SERVER__HOST=host)
    assert_one_line(done, 1, f"server.host is '{host}'", why)


def test_a_port_that_is_for_the_superuser_is_said_by_its_setting():
    """Whoever runs the tests may be one, so only the words are seen."""
    listener = Listener("monitor", "127.0.0.1", 80, max_connections=1)
    said = _advice(listener, PermissionError(errno.EACCES, "permission denied"))
    assert said.startswith("server.monitor_port is 80, which this user may not listen on")


def test_a_journal_that_cannot_be_written_is_said_in_one_line(dsn, tmp_path):
    """Which directory, why, and what to do."""
    (tmp_path / "file").touch()
    folder = {"ACTIVITY__JOURNAL__DIR": str(tmp_path / "file")}
    assert_one_line(run("serve", dsn=dsn, **folder), 1, str(tmp_path / "file"), "or do without")


def test_without_a_database_an_embedded_server_is_started(server_folder):
    """Nothing configured, nothing installed: commands work all the same."""
    done = run(
        *("keys", "create", "--name", "first"),
        ACTIVITY__DATABASE__DATA_DIR=str(server_folder / "data" / "postgres"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ak_")


def test_a_process_that_was_killed_does_not_keep_the_embedded_server_running(server_folder):
    """The last one to leave stops it, even if another could not say that it left."""
    data_dir = server_folder / "data" / "postgres"
    environment = {"ACTIVITY__DATABASE__DATA_DIR": str(data_dir)}
    assert run("keys", "create", "--name", "first", **environment).returncode == 0
    assert not (data_dir / "postmaster.pid").exists()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (data_dir / ".handle_pids.json").write_text(f"[{gone.pid}]")
    assert run("keys", "list", **environment).returncode == 0
    assert not (data_dir / "postmaster.pid").exists()


async def test_devices_of_a_group_are_listed_from_the_shell(dsn, db):
    """All of them, or who was silent, as a table or as JSON, page after page."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
        "SELECT gen_random_uuid(), 'van [b] ' || n, 'vans', 'ios', "
        "CASE WHEN n <= 3 THEN now() - interval '8 days' ELSE now() END "
        "FROM generate_series(1, 2100) n"
    )
    vans = ("devices", "list", "--group", "vans")
    table = run(*vans, "--silent-for", "7d", dsn=dsn)
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[1:5] for line in table.stdout.splitlines()[1:]] == [
        ["van", "[b]", str(n), "ios"] for n in (1, 2, 3)
    ]
    everything = run(*vans, "--json", dsn=dsn)
    devices = json.loads(everything.stdout)
    assert len({device["device_id"] for device in devices}) == 2100
    assert devices[0].keys() >= {"display_name", "last_seen_at", "last_location"}
    seen = run(*vans, "--seen-within", "1d", "--limit", "1500", "--json", dsn=dsn)
    assert len(json.loads(seen.stdout)) == 1500


async def test_no_name_speaks_to_the_terminal(dsn, db):
    """Any device may call itself anything, and who lists devices has a terminal that obeys."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES (gen_random_uuid(), $1, 'vans', $1)",
        "\x1b]0;mine\x07\x1b[2J\nnext\u202e\x9b1m",
    )
    done = run("devices", "list", "--group", "vans", dsn=dsn)
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
async def test_output_that_cannot_be_written_is_said_in_one_line(dsn, db, command):
    """A disk that is full, for example; who made a key is told that nobody knows it."""
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


def test_a_group_that_nobody_is_in_is_no_failure(dsn):
    """Nothing on stdout, and a word on stderr; a wrong option is one."""
    done = run("devices", "list", "--group", "nobodys", dsn=dsn)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nobodys" in done.stderr
    for option, text in (("--silent-for", "7"), ("--seen-within", "soon"), ("--group", "no good")):
        given = ("devices", "list", "--group", "vans", option, text)
        assert_one_line(run(*given, dsn=dsn), 2, option)
