"""Serve an aiohttp application from several processes, each with a tracker of its own.

export DATABASE_URL=postgresql://localhost/app
gunicorn --chdir docs/examples --workers 4 --worker-class aiohttp.GunicornWebWorker \
        gunicorn_app:create_app
curl -H "X-User-ID: 7" http://127.0.0.1:8000/
"""

import os
from collections.abc import Iterator

from aiohttp import web

from tracker import Target, Tracker, activity_middleware

users = Target(name="users", table="users", key_column="id", column="last_seen", key_type="bigint")


def active_user(request: web.Request) -> Iterator[tuple[str, object]]:
    """Yield the user of a request; a real application uses its authentication, not a header."""
    if user_id := request.headers.get("X-User-ID"):
        yield "users", user_id


async def hello(_request: web.Request) -> web.Response:
    """Say which process responds."""
    return web.Response(text=f"hello from process {os.getpid()}\n")


async def create_app() -> web.Application:
    """Make the application; gunicorn calls this in each worker, after the fork."""
    tracker = Tracker(
        [users],
        dsn=os.environ["DATABASE_URL"],
        journal_dir=os.environ.get("JOURNAL_DIR"),  # the workers may share it
    )
    app = web.Application(middlewares=[activity_middleware(tracker, active_user)])
    app.cleanup_ctx.append(tracker.lifespan)
    app.router.add_get("/", hello)
    return app
