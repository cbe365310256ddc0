"""Deliver webhooks until the process is killed: python -m tests.support.deliver DSN."""

import asyncio
import sys

from tests.support.webhooks import delivering


async def deliver(dsn: str) -> None:
    async with delivering(dsn, timeout_s=60):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(deliver(sys.argv[1]))
