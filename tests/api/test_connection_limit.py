"""The limit of connections: which are closed to make room, and the settings that bound it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack

import aiohttp
import pytest
import structlog

from api.config import SettingsError
from api.http.open_files import affordable_connections
from api.load_settings import load_settings
from tests.support.command_line import CHECKOUT, assert_one_line, run
from tests.support.raw_client import PATIENCE_S, free_port, listening
from tests.support.service import REPORT


async def test_idle_connections_at_the_limit_make_room_for_new_ones(dsn):
    """The connection that has been idle longest is closed; one that was just served stays."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(listening(dsn, max_connections=5))
        with structlog.testing.capture_logs() as logs:
            regular = await stack.enter_async_context(service.client())
            idle = [await stack.enter_async_context(service.client()) for _ in range(4)]
            await regular.send(service.heartbeat())
            assert (await regular.answer()).status == 204
            for _ in range(4):
                newcomer = await stack.enter_async_context(service.client())
                await newcomer.send(service.heartbeat())
                assert (await newcomer.answer()).status == 204
            for each in idle:
                assert await each.answers() == []
            await regular.send(service.heartbeat())
            assert (await regular.answer()).status == 204
            for _ in range(50):  # far beyond the limit
                await stack.enter_async_context(service.client())
            await service.assert_serves()
        assert len(service.listener.open) <= 5
        assert [entry["event"] for entry in logs] == ["server.connection_limit"]
        assert service.listener.closed["connection_limit"] >= 54


async def test_slow_headers_count_as_idle_at_the_limit(dsn):
    """Single bytes of a header do not make a connection busy."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(listening(dsn, max_connections=5))
        for _ in range(20):
            slow = await stack.enter_async_context(service.client())
            await slow.send(b"POST /api")
            await service.assert_serves()


async def test_a_new_connection_is_closed_when_all_others_are_busy(dsn):
    """A request in progress is not cancelled for a new connection."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(listening(dsn, max_connections=3))
        uploading = [await stack.enter_async_context(service.client()) for _ in range(3)]
        body = json.dumps({"device_id": service.device_id, **REPORT}).encode()
        for client in uploading:
            await client.send(service.upload(f"Content-Length: {len(body)}") + body[:-1])
        async with asyncio.timeout(PATIENCE_S):
            while service.listener.waiting:
                await asyncio.sleep(0.01)
        newcomer = await stack.enter_async_context(service.client())
        assert await newcomer.answers() == []
        assert service.listener.closed["refused"] == 1
        for client in uploading:
            await client.send(body[-1:])
            assert (await client.answer()).status == 200


async def test_the_monitor_port_has_a_listener_of_its_own(dsn):
    """It alone has the metrics, both have health, and each has its own connection limit."""
    async with AsyncExitStack() as stack:
        watched = free_port()
        service = await stack.enter_async_context(
            listening(dsn, max_connections=1, monitor_port=watched)
        )
        for _ in range(5):
            await stack.enter_async_context(service.client())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        before = service.touches()
        for port, path, status in (
            (watched, "/metrics", 200),
            (watched, "/api/health", 200),
            (watched, "/api/health/live", 200),
            (watched, "/api/health/ready", 200),
            (watched, "/api/v1/devices?group_id=family", 404),
            (watched, "/nowhere", 404),
            (service.port, "/metrics", 404),
            (service.port, "/api/health", 200),
            (service.port, "/api/health/ready", 200),
        ):
            url, headers = f"http://127.0.0.1:{port}{path}", {}
            if status == 404 and port == service.port:
                headers = {"X-API-Key": service.key}
            async with session.get(url, headers=headers) as response:
                assert (response.status, "X-Request-ID" in response.headers) == (status, True), path
        assert service.touches()["devices"] == before["devices"]
        async with session.get(f"http://127.0.0.1:{watched}/metrics") as response:
            text = await response.text()
        assert text.count("# TYPE http_connections gauge") == 1
        assert 'http_connections{listener="monitor"}' in text


def test_a_monitor_port_in_use_is_reported_in_one_line(dsn):
    """Without its monitor port the service does not start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        done = run(
            "serve",
            dsn=dsn,
            ACTIVITY__SERVER__PORT=str(free_port()),
            ACTIVITY__SERVER__MONITOR_PORT=taken,
        )
    assert_one_line(done, 1, taken)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MONITOR_PORT", "8080", "monitor_port must not be port"),
        ("MAX_HEADER_BYTES", "1000", "max_header_line_bytes must not be above max_header_bytes"),
    ],
)
def test_limits_that_contradict_each_other_stop_the_start(monkeypatch, name, value, message):
    """The error is one line."""
    monkeypatch.setenv(f"ACTIVITY__SERVER__{name}", value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize(("most", "is_enough"), [(1024, False), (4000, False), (12_000, True)])
def test_the_limit_of_open_files_is_raised_or_logged(dsn, most, is_enough):
    """If it cannot be raised, fewer connections are accepted, and one log line says so."""
    limited = f'ulimit -Sn 512 && ulimit -Hn {most} && exec "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", limited, "sh", sys.executable, "-m", "api", "serve"],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "ACTIVITY__DATABASE__URL": dsn,
            "ACTIVITY__SERVER__PORT": str(free_port()),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = json.loads(process.stdout.readline())
        if not is_enough:
            assert (said["event"], said["hard_limit"]) == ("server.few_open_files", most)
            assert 0 < said["max_connections"] < most
            said = json.loads(process.stdout.readline())
        assert said["event"] == "server.listening"
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_too_few_open_files_stop_the_start():
    """The error appears at the start, not with the first client."""
    with pytest.raises(OSError, match="files may be open"):
        affordable_connections(100_000_000, others=100_000_000)
