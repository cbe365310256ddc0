"""A journal belongs to the database that the server identifies, whatever the DSN."""

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import with_database, with_user
from tests.support.journal_files import CRASHING, NOWHERE, orphan_touches, segments, tracker
from tests.support.sample_table import AT, THINGS, locking, seen, when
from tracker import Tracker
from tracker._journal.format import UnreadableJournal, header, read_header
from tracker._journal.owner import Owners
from tracker.postgres import open_pool
from tracker.postgres._identity import identity

CHECKOUT = Path(__file__).parents[2]
KEYS = {key: when(AT + key) for key in range(1, 11)}


def in_query(dsn: str) -> str:
    """Return a DSN that names its database in the query."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query)["host"][0]
    return f"postgresql://{parts.username}@?host={quote(host)}&dbname={parts.path[1:]}"


def servers(directory: Path) -> list[Path]:
    return list(directory.glob("*/server"))


async def killed(dsn: str, directory: Path) -> None:
    """Let a process record ten touches, learn which database it is, and be killed."""
    program = CRASHING.replace(
        "        os.kill", "        await running._recovery._searched.wait()\n        os.kill"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, dsn, str(directory)), cwd=CHECKOUT
    )
    await process.wait()
    assert len(servers(directory)) == 1


@pytest.fixture
async def other(db, dsn):
    """Another database of the same cluster, with the same table."""
    name = f"other_{await db.fetchval('SELECT current_database()')}"
    await db.execute(f'CREATE DATABASE "{name}"')
    connection = await asyncpg.connect(with_database(dsn, name))
    await connection.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, name text, seen_at timestamptz);"
        "INSERT INTO things SELECT generate_series(1, 10)"
    )
    yield connection, with_database(dsn, name)
    await connection.close()
    await db.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_touches_of_a_database_are_never_written_into_another(dsn, things, other, tmp_path):
    """Though both are spelled with `?dbname=`, on one server and in one directory."""
    connection, other_dsn = other
    await killed(in_query(dsn), tmp_path)
    with capture_logs() as logs:
        async with tracker(in_query(other_dsn), tmp_path).running() as running:
            assert running.recovered == {"things": 0}
            assert running.foreign_segments > 0
    (entry,) = [entry for entry in logs if entry["event"] == "journal.foreign"]
    assert entry["error"] == "it belongs to another database"
    assert await seen(connection) == {}
    async with tracker(dsn, tmp_path, shutdown_deadline_s=60).running() as running:
        assert running.recovered == {"things": 10}
    assert await seen(things) == KEYS


async def test_the_default_databases_of_two_users_are_distinguished(dsn, things, other, tmp_path):
    """`postgresql:///` means another database for each user, and is spelled the same."""
    connection, other_dsn = other
    await killed(dsn, tmp_path)
    # As if both were spelled the same: what counts is what the server said.
    theirs = header(Owners({"things": THINGS}, dsn=other_dsn).header("things"))
    ours = header(Owners({"things": THINGS}, dsn=dsn).header("things"))
    assert ours != theirs
    for path in segments(tmp_path):
        path.write_bytes(path.read_bytes().replace(ours, theirs))
    async with tracker(other_dsn, tmp_path).running() as running:
        assert running.recovered == {"things": 0}
    assert await seen(connection) == {}


@pytest.mark.parametrize("spelling", ["query", "another role", "renamed", "pool"])
async def test_a_journal_is_recovered_if_the_dsn_is_spelled_otherwise(
    dsn, db, things, tmp_path, spelling
):
    """The same cluster and database: by another role, in the query, through a pool, renamed."""
    await killed(dsn, tmp_path)
    name = await db.fetchval("SELECT current_database()")
    other = in_query(dsn)
    if spelling == "another role":
        await db.execute(
            f"CREATE ROLE r_{name} LOGIN PASSWORD 'x'; GRANT SELECT, UPDATE ON things TO r_{name}"
        )
        other = with_user(dsn, f"r_{name}", "x")
    options = {"dsn": other}
    pool = None
    if spelling == "pool":
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
        options = {"pool": pool}
    if spelling == "renamed":
        admin = await asyncpg.connect(with_database(dsn, "postgres"))
        await db.close()
        await things.close()
        await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_new"')
        options = {"dsn": with_database(dsn, f"{name}_new")}
    try:
        own = Tracker([THINGS], journal_dir=tmp_path, shutdown_deadline_s=60, **options)
        async with own.running():
            assert own.recovered == {"things": 10}
    finally:
        if spelling == "renamed":
            await admin.execute(f'ALTER DATABASE "{name}_new" RENAME TO "{name}"')
            await admin.close()
        if pool is not None:
            await pool.close()
    connection = await asyncpg.connect(dsn)
    assert await seen(connection) == KEYS
    if spelling == "another role":
        await connection.execute(f"DROP OWNED BY r_{name}; DROP ROLE r_{name}")
    await connection.close()


async def test_a_journal_of_a_known_database_waits_for_the_server(
    dsn, things, tmp_path, monkeypatch
):
    """While the server is unavailable it cannot be identified; nothing is lost meanwhile."""
    await killed(dsn, tmp_path)
    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            assert (running.recovered, running.foreign_segments) == ({"things": 0}, 0)
    assert not [entry for entry in logs if entry["event"] == "journal.foreign"]
    async with tracker(dsn, tmp_path).running() as running:
        assert running.recovered == {"things": 10}


async def test_touches_from_before_the_server_was_reached_are_recovered_by_their_origin(
    dsn, things, tmp_path
):
    """A process that never learned which database it is wrote for the DSN that it had."""
    await orphan_touches(tmp_path, 1, 2)
    async with tracker(dsn, tmp_path).running() as running:
        assert running.recovered == {"things": 0}
        assert running.foreign_segments == 1
    async with tracker(NOWHERE, tmp_path).running() as running:
        assert running.recovered == {"things": 2}


async def test_after_a_restore_the_file_of_the_server_is_removed_and_the_dsn_counts(
    dsn, things, tmp_path
):
    """The recipe of the runbook: a restored database has another identity."""
    await killed(dsn, tmp_path)
    (server,) = tmp_path.glob("*/server")
    server.write_text("1/1\n")
    async with tracker(dsn, tmp_path).running() as running:
        assert (running.recovered["things"], running.foreign_segments > 0) == (0, True)
    server.unlink()
    async with tracker(dsn, tmp_path, shutdown_deadline_s=60).running() as running:
        assert running.recovered["things"] == 10
    assert await seen(things) == KEYS


async def test_headers_hold_no_part_of_the_dsn(dsn, things, tmp_path):
    """Nor does any other file: a directory may be copied to where the server must not be known."""
    async with locking(dsn, "LOCK TABLE things"), tracker(dsn, tmp_path).running() as running:
        running.touch("things", 1, AT)
    (path,) = segments(tmp_path)
    owner, _ = read_header(path.read_bytes())
    assert owner.keys() == {"target", "table", "key_column", "key_type", "column", "origin"}
    parts = urlsplit(dsn)
    for text in (json.dumps(owner), (path.parent / "server").read_text()):
        for part in (parts.path[1:], parse_qs(parts.query)["host"][0], parts.username):
            assert part not in text


@pytest.mark.parametrize(
    ("written", "dsn", "same"),
    [
        ("db:5432/x", "postgresql://a:b@db/x", True),
        ("db:5432/x", "postgresql:///x?host=db&port=5432", True),
        ("db:5432/x", "postgresql://db/y", False),
        ("db:5432/x", "postgresql://standby/x", False),
        ("/run/one:5432/x", "postgresql:///x?host=/run/one", True),
        ("[::1]:5432/x", "postgresql://[::1]:5432/x", True),
        # The former release did not see which database these are.
        ("db:5432", "postgresql://db?dbname=b", False),
        ("db:5432", "postgresql://db", False),
        ("db:5432/", "postgresql://db/", False),
        ("", None, True),
    ],
)
def test_a_segment_of_the_former_release_is_identified_by_its_address(written, dsn, same):
    """If that names the database."""
    owners = Owners({"things": THINGS}, dsn=dsn)
    old = {**owners.header("things"), "database": written}
    del old["origin"]
    if same:
        assert owners.target(old, None) == "things"
    else:
        with pytest.raises(UnreadableJournal, match="another database"):
            owners.target(old, None)


async def test_the_database_is_identified_without_the_right_to_read_the_clusters_identifier(
    dsn, db
):
    """Some companies revoke what every role may."""
    name = f"r_{await db.fetchval('SELECT current_database()')}"
    await db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    await db.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        async with open_pool(dsn, connections=1) as pool:
            known = await identity(pool)
        async with open_pool(with_user(dsn, name, "x"), connections=1) as pool:
            assert await identity(pool) == f"unknown/{known.partition('/')[2]}"
    finally:
        await db.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        await db.execute(f"DROP ROLE {name}")
