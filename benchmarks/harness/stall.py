"""Measures the longest stall of the event loop while a block runs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

_MILLI: Final = 1e3


@dataclass(slots=True)
class Stall:
    """The longest stall so far.

    Attributes:
        wall_ms: in wall-clock time, which includes other work of the machine.
        cpu_ms: in CPU time of this process.
    """

    wall_ms: float = 0.0
    cpu_ms: float = 0.0


@asynccontextmanager
async def longest_stall() -> AsyncIterator[Stall]:
    """Measure each iteration of the running loop while the block runs."""
    loop = asyncio.get_running_loop()
    worst = Stall()
    last, last_cpu = time.perf_counter(), time.thread_time()
    running = True

    def turn() -> None:
        nonlocal last, last_cpu
        now, cpu = time.perf_counter(), time.thread_time()
        worst.wall_ms = max(worst.wall_ms, (now - last) * _MILLI)
        worst.cpu_ms = max(worst.cpu_ms, (cpu - last_cpu) * _MILLI)
        last, last_cpu = now, cpu
        if running:
            loop.call_soon(turn)

    loop.call_soon(turn)
    try:
        yield worst
    finally:
        running = False
        await asyncio.sleep(0)
