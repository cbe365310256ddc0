"""The service as a process: signals that must not end it, and the addresses that it listens on."""

import asyncio
import json
import os
import signal
import socket
import sys

import aiohttp
import pytest

from tests.support.command_line import CHECKOUT, DEVICE, serving


async def test_other_signals_do_not_end_the_process(dsn, db):
    """SIGHUP, SIGUSR1 and SIGUSR2 are logged; touches before and after them are written."""
    async with serving(dsn) as (process, session):
        await db.execute("UPDATE devices SET last_seen_at = NULL")
        lines = []
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
            async with asyncio.timeout(30):
                lines.append(json.loads(await process.stdout.readline()))
        assert [(line["event"], line["signal"]) for line in lines] == [
            ("server.signal_ignored", name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2")
        ]
        async with session.post(f"/api/v1/devices/{DEVICE}/heartbeat") as response:
            assert response.status == 204
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.communicate()
        assert process.returncode == 0
    assert await db.fetchval("SELECT last_seen_at FROM devices") is not None


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", ""])
async def test_all_addresses_are_those_of_ipv6_and_of_ipv4(dsn, host):
    """An operator who listens on :: does not lose the clients that come by IPv4."""
    async with serving(dsn, ACTIVITY__SERVER__HOST=host) as (_, session):
        port = session._base_url.port
        for address in ("127.0.0.1", "[::1]"):
            url = f"http://{address}:{port}/api/health"
            async with aiohttp.ClientSession() as client, client.get(url) as response:
                assert response.status == 200, address


async def test_database_url_in_the_environment_is_warned_of_once(tmp_path):
    """Most platforms set DATABASE_URL; a fleet in an embedded server instead is a bad surprise."""
    environment = {
        **os.environ,
        "DATABASE_URL": "postgresql://me:secret@elsewhere/db",
        "ACTIVITY__DATABASE__URL": "",
        "ACTIVITY__DATABASE__DATA_DIR": str(tmp_path / "not" / "a" / "folder"),
        "ACTIVITY__LOG__FORMAT": "json",
    }
    (tmp_path / "not").write_text("")  # so that the embedded server cannot start
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api", "serve"),
        cwd=CHECKOUT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        stdout, stderr = await process.communicate()
    (line,) = map(json.loads, stdout.splitlines())
    assert (line["event"], process.returncode) == ("database.embedded", 1)
    assert "DATABASE_URL" in line["reason"]
    assert "ACTIVITY__DATABASE__URL" in line["reason"]
    assert b"secret" not in stdout + stderr
