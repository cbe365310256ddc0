"""How soon a process denies an API key."""

import time

from tests.support.command_line import DEVICE

HEARTBEAT = f"/api/v1/devices/{DEVICE}/heartbeat"
PROMISED_S = 1.0
ATTEMPTS = 3
"""A machine that stalls for a second may fail one; what is broken fails all."""


async def refused_after(url_sessions, key: str) -> float:
    """Return how long the last of some services authorizes a key, in seconds."""
    started = time.monotonic()
    left = list(url_sessions)
    while left:
        for session in list(left):
            async with session.post(HEARTBEAT, headers={"X-API-Key": key}) as response:
                if response.status == 401:
                    left.remove(session)
    return time.monotonic() - started
