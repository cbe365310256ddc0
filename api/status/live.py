"""The live view: the state of a service on a terminal, redrawn until it is interrupted."""

import asyncio
import signal
import time
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text
from yarl import URL

from api.status.client import open_session
from api.status.sampling import Sampler
from api.status.screen import screen

_REDRAW_EVERY_S: Final = 0.5
"""Ages grow between samples, and the size of the terminal may change."""


async def show(url: URL, every_s: float, console: Console) -> None:
    """Show the state of a service until SIGINT or SIGTERM; the last state stays on the terminal.

    Args:
        url: the service's URL.
        every_s: seconds between samples.
        console: of a terminal.
    """
    sampler = Sampler(url)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_sample(sampler, every_s))
                while True:
                    live.update(
                        _now(sampler) or Text(f"open_session {url.with_user(None)} …"), refresh=True
                    )
                    await asyncio.sleep(_REDRAW_EVERY_S)
        except asyncio.CancelledError:
            pass  # a signal ends the view
    if (last := _now(sampler)) is not None:
        console.print(last)


def _now(sampler: Sampler) -> RenderableType | None:
    if sampler.state is None:
        return None
    return screen(sampler.state, time.monotonic() - sampler.since_monotonic_s)


async def _sample(sampler: Sampler, every_s: float) -> None:
    async with open_session() as session:
        while True:
            await sampler.sample(session)
            await asyncio.sleep(every_s)
