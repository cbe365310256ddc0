"""Notifies systemd, or a supervisor with the same protocol, of start and stop: sd_notify(3)."""

import os
import socket
import time
from contextlib import suppress


def notify(state: str) -> None:
    """Send a state to the supervisor, if there is one.

    An error is ignored: the service works without its supervisor.

    Args:
        state: as sd_notify(3) defines it, such as `READY=1`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # in the abstract namespace of Linux
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(state.encode(), address)


def notify_reloading() -> None:
    """Notify the supervisor that the service reloads; `READY=1` has to follow."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
