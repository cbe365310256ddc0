"""Telling systemd, or who else speaks its protocol, that we are ready or stop: sd_notify(3)."""

import os
import socket
from contextlib import suppress


def tell_supervisor(state: str) -> None:
    """Tell who started us, if it wants to know.

    A supervisor that can't be told is no reason to serve nobody; it will notice by itself.

    Args:
        state: as sd_notify(3) has it, such as `READY=1`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # in the abstract namespace of Linux
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(state.encode(), address)
