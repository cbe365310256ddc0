"""Simulates asyncpg's pool and connections, as far as `PostgresStore` uses them.

A message may be late, get lost, or arrive after the client has stopped waiting for the response.
"""

import asyncio
import random
import re
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from benchmarks.simulation.server import Server, Transaction
from tracker.postgres._table import INSPECT

_LOCK_TIMEOUT_MS: Final = re.compile(r"lock_timeout = (\d+)").search
_STATEMENT_TIMEOUT_MS: Final = re.compile(r"statement_timeout = (\d+)").search


class Network:
    """The network between all processes and the server.

    Args:
        server: the server.
        rng: the random source of delays and losses.
    """

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server = server
        self.down = False
        self.loss = 0.0
        """The share of messages at which a connection breaks."""
        self.latency_s = 0.001
        self.connections: set[Connection] = set()
        self.rng = rng
        self._held: asyncio.Event | None = None

    def hold_messages(self) -> None:
        """Hold all messages back, without an error."""
        self._held = self._held or asyncio.Event()

    def deliver_again(self) -> None:
        """Deliver messages again. Connections with a held message are lost."""
        if self._held is not None:
            self._held.set()
            self._held = None

    def restart(self) -> None:
        """Cut all connections."""
        for connection in sorted(self.connections, key=lambda connection: connection.number):
            connection.cut()

    async def connect(self, pool: "Pool") -> None:
        """Open a connection.

        Args:
            pool: the pool that opens it.

        Raises:
            OSError: the server accepts no connection.
        """
        await self.transmit()
        if self.down or pool.gone:
            raise ConnectionRefusedError("connection refused")

    async def transmit(self) -> None:
        """Wait for the delay of a message.

        Raises:
            ConnectionResetError: it is lost.
        """
        if self._held is not None:
            await self._held.wait()
            raise ConnectionResetError("no response")
        if self.loss and self.rng.random() < self.loss:
            raise ConnectionResetError("reset by peer")
        await asyncio.sleep(self.latency_s * max(0, self.rng.uniform(-1, 1)))


class Pool:
    """A pool of one connection, of one process.

    Args:
        network: the network.
    """

    def __init__(self, network: Network) -> None:
        self.gone = False
        self._network = network
        self._free = asyncio.Semaphore(1)
        self._idle: list[Connection] = []
        self._all: list[Connection] = []

    async def acquire(self) -> "Connection":
        """Return an open connection, or a new one."""
        await self._free.acquire()
        try:
            while self._idle:
                if not (idle := self._idle.pop()).is_closed():
                    return idle
            await self._network.connect(self)
        except BaseException:
            self._free.release()
            raise
        connection = Connection(self._network, len(self._all))
        self._all.append(connection)
        return connection

    async def release(self, connection: "Connection") -> None:
        """Take a connection back."""
        self._idle.append(connection)
        self._free.release()

    def crash(self) -> None:
        """Close with the process. The server still executes statements that it has received."""
        self.gone = True
        for connection in self._all:
            connection.cut()


class Connection:
    """A session, seen from the client's side.

    Args:
        network: the network.
        number: defines an order of open connections.
    """

    def __init__(self, network: Network, number: int) -> None:
        self.number = number
        self._network = network
        self._server = network.server
        self._transaction: Transaction | None = None
        self._late: asyncio.Event | None = (
            None  # of a COMMIT whose response is not awaited any more
        )
        self._statement_timeout_s = 0.0
        self._closed = False
        network.connections.add(self)

    def is_closed(self) -> bool:
        """Return whether the connection is lost."""
        return self._closed

    def terminate(self) -> None:
        """Cut it."""
        self.cut()

    def cut(self) -> None:
        """Lose the connection; the server rolls back an open transaction."""
        if not self._closed:
            self._closed = True
            self._network.connections.discard(self)
            self._roll_back()

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Send a statement and return its status."""
        if sql == "COMMIT":
            return await self._commit()
        return str(await self._exchange(sql, arguments))

    async def fetch(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Send a statement and return its rows."""
        rows: list[tuple[Any, ...]] = await self._exchange(sql, arguments)
        return rows

    async def _exchange(self, sql: str, arguments: tuple[Any, ...]) -> Any:
        await self._transmit()
        try:
            response = await self._do(sql, arguments)
        except BaseException:  # an error, or the client's request to cancel
            self._roll_back()
            raise
        await self._transmit()
        return response

    async def _do(self, sql: str, arguments: tuple[Any, ...]) -> Any:
        if self._late is not None:
            await self._late.wait()
            self._late = None
        if sql.lstrip().startswith("BEGIN"):
            self._statement_timeout_s = _milliseconds(_STATEMENT_TIMEOUT_MS, sql)
            lock_timeout_s = _milliseconds(_LOCK_TIMEOUT_MS, sql)
            self._transaction = Transaction(lock_timeout_s=lock_timeout_s)
            return "BEGIN"
        if sql == "ROLLBACK":
            self._roll_back()
            return "ROLLBACK"
        if sql == INSPECT:
            return [self._server.facts]
        return await self._write(sql, *arguments)

    async def _write(self, sql: str, keys: list[int], seconds: str) -> Any:
        server, transaction = self._server, self._transaction
        if transaction is None:
            raise asyncpg.InFailedSQLTransactionError("there is no transaction")
        try:
            server.check(len(keys))
        except asyncpg.QueryCanceledError:
            await asyncio.sleep(self._statement_timeout_s)
            raise
        if sql == server.statements.fast:
            return await server.fast(transaction, keys, seconds)
        if sql == server.statements.unwritten:
            return server.unwritten(transaction, keys, seconds)
        if sql == server.statements.skip_locked:
            return server.skip_locked(transaction, keys, seconds)
        raise asyncpg.PostgresSyntaxError(f"not a statement of the tracker: {sql}")

    async def _commit(self) -> str:
        try:
            await self._transmit()
        except asyncio.CancelledError:
            self._commit_late()
            raise
        except OSError:
            raise asyncpg.ConnectionDoesNotExistError("closed in the middle") from None
        if self._transaction is None:
            return "ROLLBACK"
        self._server.commit(self._transaction)
        self._transaction = None
        await self._transmit()
        return "COMMIT"

    def _commit_late(self) -> None:
        """Commit after the client has disconnected, if the server has received the COMMIT."""
        self._late = late = asyncio.Event()
        transaction, self._transaction = self._transaction, None

        def arrive() -> None:
            if transaction is not None:
                if self._network.rng.random() < 0.5:
                    self._server.commit(transaction)
                else:
                    self._server.roll_back(transaction)
            late.set()

        delay_s = self._network.rng.uniform(0, 1.5)
        asyncio.get_running_loop().call_later(delay_s, arrive)

    async def _transmit(self) -> None:
        if not self._closed:
            try:
                await self._network.transmit()
            except OSError:
                self.cut()
                raise
        if self._closed:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")

    def _roll_back(self) -> None:
        if self._transaction is not None:
            self._server.roll_back(self._transaction)
            self._transaction = None


def _milliseconds(found: Callable[[str], re.Match[str] | None], sql: str) -> float:
    match = found(sql)
    return int(match[1]) / 1000 if match else 0.0
