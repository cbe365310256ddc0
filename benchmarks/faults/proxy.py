"""A TCP proxy before a database server that delays, throttles, holds and cuts connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

_CHUNK_BYTES: Final = 16_384
_COMMITTED: Final = (b"COMMIT\0", b"INSERT 0 ")
"""Parts of responses that confirm a commit: of a transaction, or of a single INSERT."""

_Queue: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"


class Proxy:
    """Forwards data between clients and the server, with the faults that its attributes set.

    Args:
        upstream: the server's Unix socket.

    Attributes:
        port: where it listens on 127.0.0.1.
        delay_s: delay of the server's responses, in seconds.
        bytes_per_s: throughput limit of all connections together; None is no limit.
        halving: whether to forward only half of each response that confirms a commit, and then
            cut the connection.
    """

    def __init__(self, upstream: str) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.halving = False
        self._upstream = upstream
        self._open = asyncio.Event()
        self._open.set()
        self._line = asyncio.Lock()
        self._carrying: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def swallow(self) -> None:
        """Hold all data back. As TCP retransmits, it is delivered after `restore`."""
        self._open.clear()

    def restore(self) -> None:
        """Forward data again."""
        self._open.set()

    def cut(self) -> None:
        """Abort all open connections."""
        for writer in self._writers:
            writer.transport.abort()

    def accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward a connection in a task of its own."""
        task = asyncio.create_task(self._carry(client, to_client), name="proxy")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def close(self) -> None:
        """Abort all connections, and cancel their tasks."""
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        self._writers.add(to_client)
        try:
            await self._open.wait()
            server, to_server = await asyncio.open_unix_connection(self._upstream)
            writers.append(to_server)
            self._writers.add(to_server)
            requests: _Queue = asyncio.Queue()
            responses: _Queue = asyncio.Queue()
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._receive(client, requests, responses=False))
                both_ways.create_task(self._receive(server, responses, responses=True))
                both_ways.create_task(self._send(requests, to_server))
                both_ways.create_task(self._send(responses, to_client))
        except* OSError:
            pass  # one end has closed; aborting the other end informs it
        finally:
            self._writers.difference_update(writers)
            for writer in writers:
                writer.transport.abort()

    async def _receive(
        self, reader: asyncio.StreamReader, queue: _Queue, *, responses: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(_CHUNK_BYTES):
            halved = responses and self.halving and any(part in data for part in _COMMITTED)
            queue.put_nowait((loop.time() + self.delay_s * responses, data[: len(data) >> halved]))
            if halved:
                break
        queue.put_nowait((loop.time(), b""))

    async def _send(self, queue: _Queue, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            await self._open.wait()
            if not data:
                raise ConnectionResetError
            async with self._line:
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxying(upstream: str) -> AsyncIterator[Proxy]:
    """Run a proxy while the block runs.

    Args:
        upstream: the server's Unix socket.
    """
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        with suppress(OSError):
            await server.wait_closed()
