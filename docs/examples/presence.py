"""Know which users are online and which went offline, with a table of your own.

DATABASE_URL=postgresql://localhost/app python docs/examples/presence.py
curl -H "X-User-ID: 7" http://127.0.0.1:8000/
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import asyncpg
from aiohttp import web

from tracker import Target, Tracker, activity_middleware

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id bigint PRIMARY KEY, name text NOT NULL, last_seen timestamptz
) WITH (fillfactor = 50);
ALTER TABLE users ADD COLUMN IF NOT EXISTS is_online boolean NOT NULL DEFAULT false;
CREATE TABLE IF NOT EXISTS presence_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL,
    is_online boolean NOT NULL,
    at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS presence_watch (
    id integer PRIMARY KEY CHECK (id = 1),
    offline_after interval NOT NULL,
    listening_since timestamptz NOT NULL,
    listening_until timestamptz NOT NULL
);
INSERT INTO presence_watch VALUES (1, '5 min', now(), now()) ON CONFLICT DO NOTHING;
"""
TRIGGER = """
CREATE OR REPLACE FUNCTION user_returns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A touch that is written late, as from a journal, may be as old as the silence.
    IF NEW.last_seen > now() - (SELECT offline_after FROM presence_watch) THEN
        UPDATE users SET is_online = true WHERE id = NEW.id;
        INSERT INTO presence_events (user_id, is_online, at) VALUES (NEW.id, true, NEW.last_seen);
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER user_returns AFTER UPDATE OF last_seen ON users FOR EACH ROW
WHEN (NOT OLD.is_online AND NEW.last_seen IS DISTINCT FROM OLD.last_seen)
EXECUTE FUNCTION user_returns();
"""
LISTEN = """
UPDATE presence_watch SET
    listening_since = CASE
        WHEN listening_until BETWEEN clock_timestamp() - interval '5 s'
                                 AND clock_timestamp() + interval '1 s'
        THEN listening_since ELSE clock_timestamp()
    END,
    listening_until = clock_timestamp()
"""
DUE = """
SELECT id FROM users WHERE is_online AND last_seen <= (
    SELECT now() - offline_after FROM presence_watch WHERE listening_since <= now() - offline_after
)
"""
SILENCE = """
WITH due AS (
    SELECT u.id, greatest(u.last_seen, w.listening_since) + w.offline_after AS at
    FROM users AS u, presence_watch AS w
    WHERE u.id = ANY ($1::bigint[]) AND u.is_online
          AND greatest(u.last_seen, w.listening_since) <= now() - w.offline_after
          AND w.listening_until > now() - interval '5 s'
    ORDER BY u.id FOR NO KEY UPDATE OF u SKIP LOCKED
), silenced AS (
    UPDATE users AS u SET is_online = false FROM due WHERE u.id = due.id RETURNING u.id, due.at
)
INSERT INTO presence_events (user_id, is_online, at) SELECT id, false, at FROM silenced
"""
POOL = web.AppKey("pool", asyncpg.Pool)
log = logging.getLogger("presence")

dsn = os.environ["DATABASE_URL"]
users = Target(name="users", table="users", key_column="id", column="last_seen", key_type="bigint")
tracker = Tracker([users], dsn=dsn, journal_dir=os.environ.get("JOURNAL_DIR"))


async def look(pool: asyncpg.Pool, tracker: Tracker) -> None:
    """Store that the watcher runs, and set users offline who were not seen for too long."""
    await pool.execute(LISTEN)
    pending = tracker.pending("users")  # before the SELECT: a touch is in it or in the rows
    due = [row["id"] for row in await pool.fetch(DUE)]
    silent = [user_id for user_id in due if pending.get(user_id) is None]
    if silent:
        await pool.execute(SILENCE, silent)


async def handle_events(pool: asyncpg.Pool) -> None:
    """Print events, oldest first, and delete them: each is handled once, or again after a crash."""
    async with pool.acquire() as connection, connection.transaction():
        events = await connection.fetch(
            "SELECT * FROM presence_events ORDER BY id LIMIT 100 FOR UPDATE"
        )
        for event in events:
            state = "online" if event["is_online"] else "offline"
            print(f"user {event['user_id']} is {state} since {event['at']}", flush=True)
        await connection.execute(
            "DELETE FROM presence_events WHERE id = ANY ($1)", [event["id"] for event in events]
        )


async def watch(pool: asyncpg.Pool) -> None:
    """Check every second. Time in which this fails sets no user offline."""
    while True:
        try:
            await look(pool, tracker)
            await handle_events(pool)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("presence is not watched: %s", error)
        await asyncio.sleep(1.0)


def active_user(request: web.Request) -> Iterator[tuple[str, object]]:
    """Yield the user of a request; a real application uses its authentication, not a header."""
    if user_id := request.headers.get("X-User-ID"):
        yield "users", user_id


async def list_users(request: web.Request) -> web.Response:
    """List users; a user with a touch that is not written yet is online."""
    pending = tracker.pending("users")
    rows = await request.app[POOL].fetch("SELECT id, is_online FROM users ORDER BY id")
    return web.json_response(
        {row["id"]: row["is_online"] or pending.get(row["id"]) is not None for row in rows}
    )


async def database(app: web.Application) -> AsyncIterator[None]:
    """Open the application's own connections."""
    async with asyncpg.create_pool(dsn, min_size=1, command_timeout=5.0) as pool:
        await pool.execute(SCHEMA + TRIGGER)
        app[POOL] = pool
        yield


async def watching(app: web.Application) -> AsyncIterator[None]:
    """Watch while the application runs."""
    task = asyncio.create_task(watch(app[POOL]))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def create_app() -> web.Application:
    """Put the application together."""
    app = web.Application(middlewares=[activity_middleware(tracker, active_user)])
    app.cleanup_ctx.extend([database, tracker.lifespan, watching])
    app.router.add_get("/", list_users)
    return app


if __name__ == "__main__":
    web.run_app(create_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
