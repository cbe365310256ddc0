"""The environment of the faults: a database server, a proxy, the service, and load on it."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
import psutil

from api.background import background
from api.config import PREFIX, Settings
from benchmarks.faults.events import Events, moving_devices
from benchmarks.faults.invariants import TRACKED_TIMES, InvariantChecker
from benchmarks.faults.load import Steady
from benchmarks.faults.proxy import Proxy, proxying
from benchmarks.harness.metrics import Metrics, scrape
from benchmarks.harness.server import BreakableServer, breakable_server
from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Fleet, Testbed, connected

ROLE: Final = "service"
"""The service's database role. It is no superuser, so limits and permissions apply to it."""
END_SESSIONS: Final = f"""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'
"""
_DEVICES: Final = 50
_MAX_CONNECTIONS: Final = 40
_STORED: Final = """
SELECT device_id::text, (extract(epoch FROM captured_at) * 1000)::bigint FROM locations
"""


class Service:
    """The service as a process that a fault may stop and start again.

    Args:
        url: its address.
        settings: its environment variables.
        folder: where its logs are written.
    """

    def __init__(self, url: str, settings: Mapping[str, str], folder: Path) -> None:
        self.url = url
        self._settings = settings
        self._folder = folder
        self._starts = 0
        self._stack = AsyncExitStack()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._starts += 1
        log_file = self._folder / f"service-{self._starts}.log"
        command = ("-m", "benchmarks.harness.skewed", "serve")
        self.process = await self._stack.enter_async_context(
            running_service(self.url, self._settings, log_file, command=command)
        )

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for process in self._processes():
            process.send_signal(number)

    def resident_bytes(self) -> int:
        """Return the resident memory of all of its processes, in bytes."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children()]

    async def stop(self) -> None:
        """Stop it with SIGTERM, if it runs."""
        await self._stack.aclose()


@dataclass(slots=True)
class Environment:
    """What faults act on and checks read.

    Attributes:
        server: the database server.
        proxy: the TCP proxy between the service and the server.
        service: the service.
        settings: the service's settings.
        fleet: the database, as superuser and without the proxy, with its devices and API keys.
        load: the requests that are sent to the service.
        events: events of devices, and the receiver of their webhook.
        invariants: the checker that polls the tables.
        session: for requests to the service.
        seconds: how long a fault lasts, in seconds.
        victim: the device that a fault of a single row affects.
        problems: failed checks, as text.
    """

    server: BreakableServer
    proxy: Proxy
    service: Service
    settings: Settings
    fleet: Fleet
    load: Steady
    events: Events
    invariants: InvariantChecker
    session: aiohttp.ClientSession
    seconds: float
    victim: str = ""
    problems: list[str] = field(default_factory=list)

    async def execute(self, *statements: str) -> None:
        """Run statements as superuser, each in a transaction of its own."""
        async with connected(self.fleet.dsn) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def disconnect(self) -> None:
        """End all database sessions of the service, with `pg_terminate_backend`."""
        await self.execute(END_SESSIONS)

    async def unwritten(self, owed: Mapping[str, int]) -> list[str]:
        """Return what was acknowledged and is not in the table, as text.

        Args:
            owed: `Steady.owed` at a time by which all of it should be written.
        """
        acknowledged = self.load.stored.copy()
        async with connected(self.fleet.dsn) as connection:
            seen = {row[0]: row[1] for row in await connection.fetch(TRACKED_TIMES)}
            stored = await connection.fetch(_STORED)
        late = [key for key, at in owed.items() if seen.get(key, 0) < at]
        gone = acknowledged - {(row[0], row[1]) for row in stored}
        return [
            *(f"{key} was seen at {owed[key]}, the table has {seen.get(key)}" for key in late[:3]),
            *([f"... and {len(late) - 3} more"] if len(late) > 3 else ()),
            *([f"{len(gone)} uploads with the response 200 are not stored"] if gone else ()),
        ]

    async def metrics(self) -> Metrics:
        """Scrape the service."""
        return await scrape(self.session, "")


@asynccontextmanager
async def running_environment(settings: Settings, *, seconds: float) -> AsyncIterator[Environment]:
    """Run the environment, with load on the service, while the block runs.

    Args:
        settings: the service's settings; its port, database and directories are replaced.
        seconds: how long a fault lasts, in seconds.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="activity-faults-")))
        server = stack.enter_context(breakable_server(folder))
        await _prepare(server)
        fleet = await stack.enter_async_context(Testbed(server.dsn).fleet(_DEVICES))
        async with connected(fleet.dsn) as connection:
            await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
        (socket_folder,) = parse_qs(urlsplit(server.dsn).query)["host"]
        proxy = await stack.enter_async_context(proxying(f"{socket_folder}/.s.PGSQL.5432"))
        port = _free_port()
        dsn = urlsplit(fleet.dsn)._replace(netloc=f"{ROLE}@127.0.0.1:{proxy.port}", query="")
        variables = _variables(settings) | {
            f"{PREFIX}SERVER__PORT": str(port),
            f"{PREFIX}WEBHOOKS__ALLOW_HTTP": "true",
            f"{PREFIX}WEBHOOKS__ALLOW_PRIVATE": "true",
            f"{PREFIX}DATABASE__URL": dsn.geturl(),
            f"{PREFIX}DATABASE__AUTO_MIGRATE": "false",
            f"{PREFIX}SERVER__RUN_DIR": str(folder / "run"),
            f"{PREFIX}JOURNAL__DIR": str(folder / "journal"),
            f"{PREFIX}AUTH__KNOWN_FILE": str(folder / "known"),
        }
        service = Service(f"http://127.0.0.1:{port}", variables, folder)
        stack.push_async_callback(service.stop)
        await service.start()
        session = await stack.enter_async_context(
            aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0))
        )
        load = Steady(session, fleet)
        invariants = InvariantChecker(fleet.dsn)
        await stack.enter_async_context(background(invariants.watch(), "invariants"))
        events = await stack.enter_async_context(moving_devices(fleet))
        await stack.enter_async_context(background(load.run(), "load"))
        yield Environment(
            server, proxy, service, settings, fleet, load, events, invariants, session, seconds
        )


async def _prepare(server: BreakableServer) -> None:
    async with connected(server.dsn) as connection:
        await connection.execute(f"CREATE ROLE {ROLE} LOGIN")
        await connection.execute("CREATE ROLE other_client LOGIN")
        await connection.execute(f"ALTER SYSTEM SET max_connections = {_MAX_CONNECTIONS}")
        await connection.execute("ALTER SYSTEM SET fsync = off")  # the machine does not crash
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


def _variables(settings: Settings) -> dict[str, str]:
    sections: dict[str, dict[str, Any]] = settings.model_dump(exclude_defaults=True)
    return {
        f"{PREFIX}{section}__{name}".upper(): str(value)
        for section, values in sections.items()
        for name, value in values.items()
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
