"""Touch the users of WebSockets, which stay open for hours, and stop in time with open ones.

DATABASE_URL=postgresql://localhost/app python docs/examples/websocket.py
websocat -H "X-User-ID: 7" ws://127.0.0.1:8000/
"""

import os
import weakref
from collections.abc import Iterator

from aiohttp import WSCloseCode, web

from tracker import Target, Tracker, activity_middleware, keep_touching, touch_request

SOCKETS = web.AppKey("sockets", weakref.WeakSet[web.WebSocketResponse])
users = Target(name="users", table="users", key_column="id", column="last_seen", key_type="bigint")


def active_user(request: web.Request) -> Iterator[tuple[str, object]]:
    """Yield the user of a request; a real application uses its authentication, not a header."""
    if user_id := request.headers.get("X-User-ID"):
        yield "users", user_id


async def chat(request: web.Request) -> web.WebSocketResponse:
    """Send each message back. The user is active at each one, and while the socket is open."""
    socket = web.WebSocketResponse(heartbeat=30.0)  # closes the socket of a client that is gone
    await socket.prepare(request)  # touches the user
    request.app[SOCKETS].add(socket)
    with keep_touching(request, every_s=60.0):
        async for message in socket:
            touch_request(request)
            await socket.send_str(message.data)
    return socket


async def close_sockets(app: web.Application) -> None:
    """Close what is open, or the shutdown waits until the clients do."""
    for socket in set(app[SOCKETS]):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"shutdown")


def create_app() -> web.Application:
    """Put the application together."""
    tracker = Tracker(
        [users], dsn=os.environ["DATABASE_URL"], journal_dir=os.environ.get("JOURNAL_DIR")
    )
    app = web.Application(middlewares=[activity_middleware(tracker, active_user)])
    app[SOCKETS] = weakref.WeakSet()
    app.on_shutdown.append(close_sockets)
    app.cleanup_ctx.append(tracker.lifespan)
    app.router.add_get("/", chat)
    return app


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    # Handlers that do not end by themselves are cancelled after `shutdown_timeout`.
    web.run_app(create_app(), host="127.0.0.1", port=port, shutdown_timeout=5.0)
