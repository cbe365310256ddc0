"""Faults of the network between the service and the database server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.faults.environment import Environment
from benchmarks.faults.fault import fault

_SLOW_BYTES_PER_S: Final = 10_000.0
_LATE_S: Final = 2.0


@fault()
async def connections_cut(environment: Environment) -> AsyncIterator[None]:
    """All connections to the server are cut, ten times a second."""

    async def cut() -> None:
        while True:
            environment.proxy.cut()
            await asyncio.sleep(0.1)

    cutting = asyncio.create_task(cut())
    try:
        yield
    finally:
        cutting.cancel()


@fault()
async def black_hole(environment: Environment) -> AsyncIterator[None]:
    """Packets to and from the server vanish."""
    environment.proxy.swallow()
    try:
        yield
    finally:
        environment.proxy.restore()


@fault()
async def latency(environment: Environment) -> AsyncIterator[None]:
    """Each response of the server is two seconds late."""
    environment.proxy.delay_s = _LATE_S
    try:
        yield
    finally:
        environment.proxy.delay_s = 0.0


@fault()
async def narrow_network(environment: Environment) -> AsyncIterator[None]:
    """All connections together transfer at most 10 kB a second."""
    environment.proxy.bytes_per_s = _SLOW_BYTES_PER_S
    try:
        yield
    finally:
        environment.proxy.bytes_per_s = None


@fault()
async def half_a_reply(environment: Environment) -> AsyncIterator[None]:
    """The connection is cut in the middle of each response that confirms a commit."""
    environment.proxy.halving = True
    try:
        yield
    finally:
        environment.proxy.halving = False
