"""Drives Matrix Synapse's `ClientIpWorkerStore`, as shipped, for `benchmarks/peers/synapse.py`.

It runs in a virtual environment of Synapse's own, because Synapse is no dependency here: it is
AGPL, so it is called, and nothing of it is copied. The number of devices is the argument; the DSN
of an empty database, in UTF8 with C locale, is in `DATABASE_URL`, because other users can see
arguments.

Run it with `-I`; otherwise `import synapse` would import the file next to this one.

One command per line on stdin, one reply per line on stdout, both JSON; Synapse's output goes to
stderr. The first reply is `{"ready": true, "version": ..., "throttled_keys": ...}`, or an error.

    {"do": "touch", "count": n, "round": r}   {"seconds": s, "touches": n}   rounds go up
    {"do": "retouch", "count": n}             {"seconds": s, "touches": n}   again, same time
    {"do": "flush"}                           {"seconds": s, "rows": n}
    {"do": "check"}                           {"user_ips": n, "devices": n}  rows as last touched
    {"do": "quit"}                            {"quit": true}

The reply of a failed command is `{"error": text}`. The end of stdin is a quit, so that it ends with
its parent; commands still running a minute later are cancelled.

The shape is one user with one device and one address each, as in a fleet of phones. This is
Synapse's fastest case: no two touches share a row. Its flush is one transaction, which upserts each
key into `user_ips` (four indexes; three contain the time written, so no update is heap-only)
and updates the device's row in `devices` (one index, without the time, but its pages are full, so
few updates are heap-only there either).
"""

import gc
import json
import logging
import os
import random
import string
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final

import psycopg2
from synapse.app.homeserver import create_homeserver, load_or_generate_config, setup, start
from synapse.metrics import install_gc_manager
from synapse.types import UserID
from twisted.internet.defer import DeferredQueue, ensureDeferred
from twisted.internet.task import deferLater, react

_SERVER: Final = "localhost"
_USER_AGENT: Final = "Element X/26.03.1 (Google Pixel 8; Android 16; Sdk 36)"
_ROUND_MS: Final = 121_000
"""Synapse accepts a touch of a key once in 120 s."""
_SETTLED_WITHIN_S: Final = 60.0
_ENDED_WITHIN_S: Final = 60.0

Key = tuple[str, str, str, str]
"""User, token, address, device."""


class Complaints(logging.Handler):
    """Keeps the last error logged: Synapse logs the failure of a flush and continues."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        error = record.exc_info[1] if record.exc_info else None
        self.last = f"{record.getMessage()}: {error!r}" if error else record.getMessage()

    def raise_last(self) -> None:
        """Raise what has been logged since the last time, if anything was."""
        last, self.last = self.last, ""
        if last:
            raise RuntimeError(last)


class Driver:
    """The commands.

    Args:
        store: Synapse's main store.
        keys: one for each device.
        complaints: receives Synapse's errors.
    """

    def __init__(self, store: Any, keys: list[Key], complaints: Complaints) -> None:
        self._store = store
        self._keys = keys
        self._complaints = complaints
        self._round = 0
        self._epoch_ms = int(time.time() * 1000)

    @property
    def _now_ms(self) -> int:
        return self._epoch_ms + self._round * _ROUND_MS

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run a command and return the reply."""
        match command:
            case {"do": "touch", "count": int(count), "round": int(number)}:
                if number <= self._round:
                    raise ValueError(f"round {number} is not after {self._round}: all throttled")
                keys = self._first(count)
                self._round = number
                return await self._touch(keys)
            case {"do": "retouch", "count": int(count)}:
                return await self._touch(self._first(count))
            case {"do": "flush"}:
                return await self._flush()
            case {"do": "check"}:
                return await self._check()
            case {"do": "quit"}:
                return {"quit": True}
            case _:
                raise ValueError(f"no such command: {command}")

    def _first(self, count: int) -> list[Key]:
        if not 0 < count <= len(self._keys):
            raise ValueError(f"{count} keys of {len(self._keys)}")
        return self._keys[:count]

    async def _touch(self, keys: list[Key]) -> dict[str, Any]:
        now_ms = self._now_ms
        insert = self._store.insert_client_ip
        started = time.perf_counter()
        for user, token, address, device in keys:
            await insert(user, token, address, _USER_AGENT, device, now_ms)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "touches": len(keys)}

    async def _flush(self) -> dict[str, Any]:
        rows = len(self._store._batch_row_update)
        started = time.perf_counter()
        await self._store._update_client_ips_batch()
        seconds = time.perf_counter() - started
        self._complaints.raise_last()
        return {"seconds": seconds, "rows": rows}

    async def _check(self) -> dict[str, Any]:
        return {
            table: await self._store.db_pool.simple_select_one_onecol(
                table, {"last_seen": self._now_ms}, "count(*)", desc="check"
            )
            for table in ("user_ips", "devices")
        }


async def main(reactor: Any, replies: IO[str], dsn: str, devices: int) -> None:
    """Set Synapse up and serve commands until stdin ends.

    Args:
        reactor: Twisted's reactor.
        replies: where to write replies.
        dsn: an empty database.
        devices: the number of devices to create.
    """
    commands = DeferredQueue()
    threading.Thread(target=_listen, args=(reactor, commands), daemon=True).start()
    with TemporaryDirectory(prefix="synapse-") as folder:
        try:
            _reject_used(dsn)
            homeserver = _set_up(dsn, Path(folder))
            store = homeserver.get_datastores().main
            complaints = Complaints()
            logging.getLogger().addHandler(complaints)
            await _start(reactor, homeserver, store)
            keys = _make_keys(homeserver, devices)
            await _seed(store, keys)
            complaints.raise_last()
        except Exception as error:  # noqa: BLE001 - reported to the caller
            _reply(replies, _problem(error))
            return
        _reply(
            replies,
            {
                "ready": True,
                "version": version("matrix-synapse"),
                "throttled_keys": store.client_ip_last_seen.max_size,
            },
        )
        await _serve(Driver(store, keys, complaints), commands, replies)


async def _serve(driver: Driver, commands: Any, replies: IO[str]) -> None:
    while line := await commands.get():
        try:
            reply = await driver.obey(json.loads(line))
        except Exception as error:  # noqa: BLE001 - reported to the caller
            reply = _problem(error)
        _reply(replies, reply)
        if "quit" in reply:
            break


def _listen(reactor: Any, commands: Any) -> None:
    """Forward the lines; the end of stdin, as when the parent ends, is an empty line."""
    # Without a buffer, because the lock of one would be held by this thread at exit.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            reactor.callFromThread(commands.put, line)
    reactor.callFromThread(commands.put, b"")
    time.sleep(_ENDED_WITHIN_S)
    os._exit(1)  # a statement hangs, and its result is not needed


def _reply(replies: IO[str], reply: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the end of stdin comes next
        print(json.dumps(reply), file=replies, flush=True)


def _problem(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}".strip()}


def _reject_used(dsn: str) -> None:
    """Reject a database with tables: Synapse would migrate it."""
    connection = psycopg2.connect(dsn, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            (tables,) = cursor.fetchone()
    finally:
        connection.close()
    if tables:
        raise ValueError("the database is not empty: make a new one")


def _set_up(dsn: str, folder: Path) -> Any:
    """Make the schema and the stores, with Synapse's defaults where speed is concerned."""
    config = {
        "server_name": _SERVER,
        "report_stats": False,
        "listeners": [],
        "trusted_key_servers": [],
        "macaroon_secret_key": "of no use to anybody",
        "signing_key_path": str(folder / "signing.key"),
        "media_store_path": str(folder / "media"),
        "pid_file": str(folder / "pid"),
        "background_updates": {"sleep_enabled": False},  # there is no other load to leave room for
        # One connection, so that none is opened during a measurement.
        "database": {"name": "psycopg2", "args": {"dsn": dsn, "cp_min": 1, "cp_max": 1}},
    }
    file = folder / "homeserver.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    homeserver = create_homeserver(load_or_generate_config(["-c", str(file)]))
    setup(homeserver)
    return homeserver


async def _start(reactor: Any, homeserver: Any, store: Any) -> None:
    """Start Synapse as its own main does, wait until it is idle, and stop its background loops."""
    install_gc_manager()  # it collects between events, not in the middle of them
    await start(homeserver)
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    # Until the first check of the schema it locks user_ips and upserts by hand.
    while not (
        await store.db_pool.updates.has_completed_background_updates()
        and "user_ips" not in store.db_pool._unsafe_to_upsert_tables
    ):
        if time.monotonic() > deadline:
            raise TimeoutError("Synapse's background updates have not ended")
        await deferLater(reactor, 0.1)
    # Of the ways to keep it from flushing every 5 s and from pruning, the one that Synapse has
    # itself, for its shutdown. Nothing that a touch or a flush does depends on these loops.
    homeserver.get_clock().cancel_all_looping_calls()


def _make_keys(homeserver: Any, devices: int) -> list[Key]:
    make_token = homeserver.get_auth_handler().generate_access_token
    choose = random.Random(devices).choices
    keys = []
    for number in range(devices):
        user = UserID(f"user{number:07}", _SERVER)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        device = "".join(choose(string.ascii_uppercase, k=10))
        keys.append((user.to_string(), make_token(user), address, device))
    return keys


async def _seed(store: Any, keys: Iterable[Key]) -> None:
    await store.db_pool.simple_insert_many(
        table="devices",
        keys=("user_id", "device_id", "display_name", "hidden"),
        values=[(user, device, "a phone", False) for user, _, _, device in keys],
        desc="seed",
    )
    gc.collect()


if __name__ == "__main__":
    # Only replies go to stdout: other output to it goes to stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    dsn, devices = os.environ["DATABASE_URL"], int(sys.argv[1])
    react(lambda reactor: ensureDeferred(main(reactor, replies, dsn, devices)))
