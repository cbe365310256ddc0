"""Record touches outside HTTP: a UDP server that receives heartbeats, one device id a datagram.

DATABASE_URL=postgresql://localhost/app python docs/examples/consumer.py
echo -n 00000000-0000-4000-8000-000000000001 | nc -u -w1 127.0.0.1 9999
"""

import asyncio
import os
import signal
from typing import Any

from tracker import Target, Tracker

devices = Target(
    name="devices",
    table="devices",
    key_column="device_id",
    column="last_seen_at",
    key_type="uuid",
)


class Heartbeats(asyncio.DatagramProtocol):
    """Records a touch for each datagram, and sends the datagram back."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def connection_made(self, transport: Any) -> None:
        """Keep the socket, to respond."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Record a touch; a key that is no uuid is counted as dropped, and raises nothing."""
        self._tracker.touch("devices", data.decode(errors="replace").strip())
        self._transport.sendto(data, addr)


async def main() -> None:
    """Receive heartbeats until SIGTERM or Ctrl-C, then write what is pending."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    tracker = Tracker(
        [devices], dsn=os.environ["DATABASE_URL"], journal_dir=os.environ.get("JOURNAL_DIR")
    )
    address = ("127.0.0.1", int(os.environ.get("PORT", "9999")))
    async with tracker.running():
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Heartbeats(tracker), local_addr=address
        )
        print(f"receiving on port {address[1]}", flush=True)
        await stopped.wait()
        transport.close()


if __name__ == "__main__":
    asyncio.run(main())
