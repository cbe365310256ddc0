"""The state of a service on a terminal, until somebody has seen enough."""

import asyncio
import signal
import time
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text
from yarl import URL

from api.status.sampling import Watch, asking
from api.status.screen import screen

_REDRAW_EVERY_S: Final = 0.5
"""Ages tick, and the terminal may have another size."""


async def show(url: URL, every_s: float, console: Console) -> None:
    """Show the state of a service until SIGINT or SIGTERM, and leave the last one on the terminal.

    Args:
        url: its address.
        every_s: seconds between looks.
        console: of a terminal.
    """
    watch = Watch(url)
    myself = asyncio.current_task()
    assert myself is not None  # noqa: S101 - a coroutine runs in one
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, myself.cancel)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_look(watch, every_s))
                while True:
                    live.update(
                        _now(watch) or Text(f"asking {url.with_user(None)} …"), refresh=True
                    )
                    await asyncio.sleep(_REDRAW_EVERY_S)
        except asyncio.CancelledError:
            pass  # that is how it ends
    if (last := _now(watch)) is not None:
        console.print(last)


def _now(watch: Watch) -> RenderableType | None:
    if watch.state is None:
        return None
    return screen(watch.state, time.monotonic() - watch.since_monotonic_s)


async def _look(watch: Watch, every_s: float) -> None:
    async with asking() as session:
        while True:
            await watch.look(session)
            await asyncio.sleep(every_s)
