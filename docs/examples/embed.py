"""Embed the tracker in an aiohttp application that has users, tokens and a table of its own.

DATABASE_URL=postgresql://localhost/app python docs/examples/embed.py
curl -H "Authorization: Bearer seven" http://127.0.0.1:8000/users
"""

import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, generate_latest

from tracker import Target, Tracker, TrackerCollector, activity_middleware

USER_ID = web.RequestKey("user_id", int)
POOL = web.AppKey("pool", asyncpg.Pool)
TOKENS = {"seven": 7, "eight": 8}
SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id bigint PRIMARY KEY, name text NOT NULL, last_seen timestamptz
) WITH (fillfactor = 50);
INSERT INTO users VALUES (7, 'Seven'), (8, 'Eight') ON CONFLICT DO NOTHING;
"""

dsn = os.environ["DATABASE_URL"]
users = Target(name="users", table="users", key_column="id", column="last_seen", key_type="bigint")
tracker = Tracker([users], dsn=dsn, journal_dir=os.environ.get("JOURNAL_DIR"))
registry = CollectorRegistry()
registry.register(TrackerCollector(tracker))


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the user of a token; every path but /metrics needs one."""
    if request.path != "/metrics":
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in TOKENS:
            raise web.HTTPUnauthorized
        request[USER_ID] = TOKENS[token]
    return await handler(request)


def active_user(request: web.Request) -> Iterator[tuple[str, object]]:
    """Yield the user of a request: the tracker records a touch of this user."""
    if USER_ID in request:
        yield "users", request[USER_ID]


async def list_users(request: web.Request) -> web.Response:
    """List users with the touches that are not written yet."""
    pending = tracker.pending("users")  # before the SELECT
    rows = await request.app[POOL].fetch(
        "SELECT id, name, extract(epoch FROM last_seen)::bigint AS at FROM users ORDER BY id"
    )
    seen = [max(row["at"] or 0, pending.get(row["id"]) or 0) or None for row in rows]
    return web.json_response(
        [{"name": row["name"], "last_seen": at} for row, at in zip(rows, seen, strict=True)]
    )


async def metrics(_request: web.Request) -> web.Response:
    """Show the tracker's metrics to Prometheus."""
    return web.Response(body=generate_latest(registry))


async def database(app: web.Application) -> AsyncIterator[None]:
    """Open the application's own connections."""
    async with asyncpg.create_pool(dsn, min_size=1) as pool:
        await pool.execute(SCHEMA)
        app[POOL] = pool
        yield


def create_app() -> web.Application:
    """Put the application together: the tracker starts after the database, and stops before it."""
    app = web.Application(middlewares=[activity_middleware(tracker, active_user), authenticate])
    app.cleanup_ctx.extend([database, tracker.lifespan])
    app.router.add_get("/users", list_users)
    app.router.add_get("/metrics", metrics)
    return app


if __name__ == "__main__":
    web.run_app(create_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
