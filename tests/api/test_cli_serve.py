"""`serve` as a process: start, shutdown, and what keeps it from starting."""

import asyncio
import errno
import json
import signal
import socket

import pytest

from api.http.bind import advice
from api.http.listener import Listener
from benchmarks.harness.metrics import parse_metrics
from tests.support.command_line import DEVICE, assert_one_line, free_port, run, serving
from tests.support.sample_table import locking


async def test_serve_runs_until_sigterm_and_writes_what_is_pending(dsn, db):
    """The service as a process starts, accepts a heartbeat, and writes it at SIGTERM."""
    async with serving(dsn) as (process, session):
        await db.execute("UPDATE devices SET last_seen_at = NULL")
        async with session.post(f"/api/v1/devices/{DEVICE}/heartbeat") as response:
            assert response.status == 204
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            stdout, stderr = await process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        events = [json.loads(line)["event"] for line in stdout.splitlines()]
        assert events == ["server.stopping", "server.stopped"]
    assert await db.fetchval("SELECT last_seen_at FROM devices") is not None


async def test_a_second_sigterm_does_not_cancel_the_last_flush(dsn, db):
    """The deadline holds, and what is left is for the next start."""
    deadline = {"ACTIVITY__TRACKER__SHUTDOWN_DEADLINE_S": "2"}
    async with serving(dsn, **deadline) as (process, _):
        async with locking(dsn, "LOCK TABLE devices IN ACCESS EXCLUSIVE MODE"):
            process.send_signal(signal.SIGTERM)
            said = b""
            async with asyncio.timeout(60):
                while b"flush.failed" not in said:
                    said += await process.stdout.readline()
                process.send_signal(signal.SIGTERM)
                rest, stderr = await process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        assert b"flush.left_in_journal" in said + rest
    async with serving(dsn) as (process, session), session.get("/metrics") as response:
        metrics = parse_metrics(await response.text())
        assert metrics.total("activity_journal_recovered_touches_total", target="devices") == 1


@pytest.mark.parametrize("prefix", ["", "monitor_"])
def test_a_port_in_use_is_reported_in_one_line(dsn, prefix):
    """The error names the setting and a command that shows the process on that port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        settings = {
            "ACTIVITY__SERVER__PORT": str(free_port()),
            f"ACTIVITY__SERVER__{prefix.upper()}PORT": port,
        }
        said = f"server.{prefix}port is {port}, which another process listens on already"
        assert_one_line(run("serve", dsn=dsn, **settings), 1, said, f"ss -ltnp sport = :{port}")


@pytest.mark.parametrize(
    ("host", "why"),
    [("nowhere.invalid", "no address is known for"), ("192.0.2.1", "no address of this machine")],
)
def test_a_host_that_cannot_be_bound_is_reported_in_one_line(dsn, host, why):
    """The error names the setting and what to set."""
    done = run("serve", dsn=dsn, ACTIVITY__SERVER__HOST=host)
    assert_one_line(done, 1, f"server.host is '{host}'", why)


def test_a_privileged_port_is_reported_by_its_setting():
    """The tests may run as root, which may bind it, so only the message is checked."""
    listener = Listener("monitor", "127.0.0.1", 80, max_connections=1)
    said = advice(listener, PermissionError(errno.EACCES, "permission denied"))
    assert said.startswith("server.monitor_port is 80, which this user may not listen on")


def test_a_journal_that_cannot_be_written_is_reported_in_one_line(dsn, tmp_path):
    """The error names the directory, the cause, and what to do."""
    (tmp_path / "file").touch()
    folder = {"ACTIVITY__JOURNAL__DIR": str(tmp_path / "file")}
    assert_one_line(run("serve", dsn=dsn, **folder), 1, str(tmp_path / "file"), "or do without")


@pytest.mark.parametrize("name", ["data", "a b'\"+%20%(here)s\u00df"], ids=["plain", "odd"])
def test_without_a_database_an_embedded_server_is_started(tmp_path, name):
    """Commands work with nothing configured and nothing installed, whatever the path."""
    done = run(
        *("keys", "create", "--name", "first"),
        ACTIVITY__DATABASE__DATA_DIR=str(tmp_path / name / "postgres"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ak_")
