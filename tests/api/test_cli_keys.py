"""The commands for API keys: create, list and revoke."""

import asyncio
import json
import os
import re
import sys
from datetime import datetime, timedelta

import pytest
import typer

from api.cli.common import length_s
from tests.support.command_line import CHECKOUT, assert_one_line, call, invoke, run
from tests.support.terminal import terminal


async def test_api_keys_are_created_listed_and_revoked(dsn, db):
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


def test_a_name_is_printed_verbatim_and_an_ambiguous_prefix_revokes_nothing(dsn):
    """Brackets are not markup, and a prefix of two API keys is an error."""
    for _ in range(2):
        assert invoke("keys", "create", "--name", "[/red] :smile:", dsn=dsn).returncode == 0
    assert invoke("keys", "list", dsn=dsn).stdout.count("[/red] :smile:") == 2
    assert_one_line(invoke("keys", "revoke", "[/red] :smile:", dsn=dsn), 1, "2 keys")
    assert invoke("keys", "revoke", "1", dsn=dsn).returncode == 0
    assert invoke("keys", "revoke", "[/red] :smile:", dsn=dsn).returncode == 0
    for which in ("1", "[/red] :smile:"):
        assert_one_line(invoke("keys", "revoke", which, dsn=dsn), 1, "was revoked already")


async def test_keys_are_listed_as_json_without_a_secret(dsn, db):
    """`--json` prints an array, one API key per line, with times in RFC 3339 and UTC."""
    assert json.loads((await call("keys", "list", "--json", dsn=dsn)).stdout) == []
    secrets = [
        (await call("keys", "create", "--name", name, *more, dsn=dsn)).stdout.strip()
        for name, more in (("a\u00e4 \u2028", ()), ("b", ("--group", "vans", "--expires", "1d")))
    ]
    assert (await call("keys", "revoke", "b", dsn=dsn)).returncode == 0
    await db.execute("UPDATE api_keys SET last_used_at = '2026-01-02 03:04:05+02' WHERE name = 'b'")
    listed = await call("keys", "list", "--json", dsn=dsn)
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


async def test_the_table_of_api_keys_fits_80_columns(dsn, db):
    """Nothing is cut: long names and times take two lines."""
    await call(
        "keys", "create", "--name", "é" * 100, "--group", "g" * 50, "--expires", "9d", dsn=dsn
    )
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


async def test_a_narrow_terminal_wraps_the_table_and_hides_nothing(dsn, db):
    """The terminal wraps the lines, and the state of a revoked API key stays visible."""
    await call("keys", "create", "--name", "guest", "--expires", "9d", dsn=dsn)
    assert (await call("keys", "revoke", "guest", dsn=dsn)).returncode == 0
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


async def test_a_name_that_looks_like_an_id_does_not_revoke_that_id(dsn, db):
    """A revocation is final, so an API key must be named by its prefix."""
    await call("keys", "create", "--name", "the first", dsn=dsn)
    await call("keys", "create", "--name", "1", dsn=dsn)
    assert_one_line((await call("keys", "revoke", "1", dsn=dsn)), 1, "2 keys", "prefix", "ak_")
    prefix = await db.fetchval("SELECT prefix FROM api_keys WHERE name = '1'")
    assert (await call("keys", "revoke", prefix, dsn=dsn)).returncode == 0
    assert await db.fetchval("SELECT revoked_at FROM api_keys WHERE id = 1") is None


async def test_names_that_the_terminal_cannot_encode_are_escaped(dsn, db):
    """Characters outside the terminal's encoding are escaped."""
    run("keys", "create", "--name", "鍵", dsn=dsn)
    done = run("keys", "list", dsn=dsn, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u9375" in done.stdout


@pytest.mark.parametrize(
    "text",
    ["", "90", "0d", "-1d", "1.5h", "90 d", "90D", "36501d", "9" * 50 + "s", "\u0663d", "1d\n"],
)
def test_an_invalid_duration_is_rejected(text):
    """A duration is a number and a unit, above zero and at most a century."""
    with pytest.raises(typer.Exit):
        length_s(text, "--expires")


async def test_an_api_key_may_expire_and_the_list_shows_when(dsn, db):
    """The time counts from the database's clock; an expired API key can still be revoked."""
    for expires, valid_s in (("900s", 900), ("5m", 300), ("2h", 7200), ("90d", 7_776_000)):
        made = await call("keys", "create", "--name", expires, "--expires", expires, dsn=dsn)
        assert (made.returncode, len(made.stdout.splitlines())) == (0, 1), made.stderr
        assert f"valid for {expires}" in made.stderr
        row = await db.fetchrow(
            "SELECT expires_at - created_at = $2 * interval '1 second', expires_at "
            "FROM api_keys WHERE name = $1",
            expires,
            valid_s,
        )
        assert row[0]
        assert f"{row[1]:%Y-%m-%d %H:%M:%S}Z" in (await call("keys", "list", dsn=dsn)).stdout
    await db.execute("UPDATE api_keys SET expires_at = now() WHERE name = '2h'")
    states = [
        line.split()[-1] for line in (await call("keys", "list", dsn=dsn)).stdout.splitlines()
    ]
    assert states == ["state", "active", "active", "expired", "active"]
    assert (await call("keys", "revoke", "2h", dsn=dsn)).returncode == 0


async def test_a_whole_api_key_revokes_itself_and_a_misspelt_one_nothing(dsn, db):
    """A whole API key is accepted as its name; one with a typing error revokes no other."""
    key = (await call("keys", "create", "--name", "fleet", dsn=dsn)).stdout.strip()
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert_one_line((await call("keys", "revoke", wrong, dsn=dsn)), 1, "no key has this id")
    revoked = await call("keys", "revoke", key, dsn=dsn)
    assert (revoked.returncode, key in revoked.stderr) == (0, False)
    assert await db.fetchval("SELECT revoked_at FROM api_keys") is not None


@pytest.mark.parametrize("output", ["nobody reads it", "it is closed"])
async def test_an_api_key_that_cannot_be_printed_is_reported(dsn, db, output):
    """Either the API key exists and the error says to revoke it, or it was not created."""
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
