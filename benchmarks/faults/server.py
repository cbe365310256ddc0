"""Faults of the database server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from benchmarks.faults.environment import END_SESSIONS, ROLE, Environment
from benchmarks.faults.fault import SOON_S, fault
from benchmarks.harness.testbed import connected

_SESSIONS: Final = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"


@fault()
async def server_stopped(environment: Environment) -> AsyncIterator[None]:
    """An administrator stops the server, which ends all sessions."""
    await asyncio.to_thread(environment.server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(environment.server.start)


@fault()
async def server_killed(environment: Environment) -> AsyncIterator[None]:
    """All of the server's processes are ended with SIGKILL."""
    await asyncio.to_thread(environment.server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(environment.server.start)


@fault()
async def server_paused(environment: Environment) -> AsyncIterator[None]:
    """The server accepts connections and sends no response (SIGSTOP)."""
    with environment.server.paused():
        yield


@fault()
async def too_many_connections(environment: Environment) -> AsyncIterator[None]:
    """Another client takes all of the server's connections."""
    dsn = environment.fleet.dsn.replace("//postgres:@", "//other_client@")
    async with (
        connected(environment.fleet.dsn) as superuser,  # none would be left for it later
        AsyncExitStack() as taken,
        asyncio.timeout(SOON_S + environment.seconds),
    ):
        exhausted = False
        while not exhausted:
            await superuser.execute(END_SESSIONS)
            try:
                connection = await asyncpg.connect(dsn)
            except asyncpg.TooManyConnectionsError:
                exhausted = not await superuser.fetchval(_SESSIONS)
            else:
                taken.push_async_callback(connection.close)
        yield


@fault()
async def role_limit_reached(environment: Environment) -> AsyncIterator[None]:
    """The connection limit of the service's role is zero, and its open connections are ended."""
    await environment.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    await environment.disconnect()
    try:
        yield
    finally:
        await environment.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@fault()
async def read_only(environment: Environment) -> AsyncIterator[None]:
    """A failover leads to a read-only server, and a second one back."""
    await environment.execute(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    await environment.disconnect()
    try:
        yield
    finally:
        await environment.execute(f"ALTER ROLE {ROLE} RESET default_transaction_read_only")
        await environment.disconnect()
