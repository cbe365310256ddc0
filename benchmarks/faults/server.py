"""What goes wrong with the database server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg

from benchmarks.faults.environment import ROLE, Environment
from benchmarks.faults.fault import SOON_S, fault
from benchmarks.harness.testbed import connected


@fault()
async def server_stopped(scene: Environment) -> AsyncIterator[None]:
    """An administrator stops the server, which ends all sessions."""
    await asyncio.to_thread(scene.server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(scene.server.start)


@fault()
async def server_killed(scene: Environment) -> AsyncIterator[None]:
    """All of the server's processes are ended with SIGKILL."""
    await asyncio.to_thread(scene.server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(scene.server.start)


@fault()
async def server_paused(scene: Environment) -> AsyncIterator[None]:
    """The server takes connections and answers nothing (SIGSTOP)."""
    with scene.server.paused():
        yield


@fault()
async def too_many_connections(scene: Environment) -> AsyncIterator[None]:
    """Another client takes all of the server's connections."""
    dsn = scene.fleet.dsn.replace("//postgres:@", "//stranger@")
    async with AsyncExitStack() as taken, asyncio.timeout(SOON_S + scene.seconds):
        exhausted = False
        while not exhausted:
            await scene.disconnect()
            try:
                connection = await asyncpg.connect(dsn)
            except asyncpg.TooManyConnectionsError:
                exhausted = not await _sessions(scene)
            else:
                taken.push_async_callback(connection.close)
        yield


@fault()
async def role_limit_reached(scene: Environment) -> AsyncIterator[None]:
    """The service's role may have no more connections, and loses those that it has."""
    await scene.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    await scene.disconnect()
    try:
        yield
    finally:
        await scene.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@fault()
async def read_only(scene: Environment) -> AsyncIterator[None]:
    """A fail-over leads to a server that takes no writes, and another one back."""
    await scene.execute(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    await scene.disconnect()
    try:
        yield
    finally:
        await scene.execute(f"ALTER ROLE {ROLE} RESET default_transaction_read_only")
        await scene.disconnect()


async def _sessions(scene: Environment) -> int:
    async with connected(scene.fleet.dsn) as connection:
        sessions: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", ROLE
        )
        return sessions
