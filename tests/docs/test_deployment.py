"""The files for deployment work, as far as can be tested without systemd and containers."""

import asyncio
import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from api.app.databases import ACCESS_CONNECTIONS
from api.app.webhooks import _CONNECTIONS as _WEBHOOK_CONNECTIONS
from api.config import PREFIX, Settings
from api.load_settings import load_settings
from api.sd_notify import notify
from api.targets import targets
from api.workers.settings import share_of
from tests.support.command_line import free_port
from tests.support.deployment import DEPLOYMENT, ROOT, WITHOUT_NEW_CODE, started, statuses
from tests.support.markdown import PAGES
from tests.support.workers import serving_with_workers

UNIT = DEPLOYMENT / "activity-tracker.service"
ENVIRONMENT = DEPLOYMENT / "activity-tracker.env"
PLACE = "/opt/activity-tracker"

SYSTEMD = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(
    SYSTEMD is None, reason="systemd-analyze is not installed: run `make packages` as root"
)


def unit() -> dict[str, str]:
    """Return the unit's section about the service."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(UNIT)
    return dict(parser["Service"])


def environment_of_unit() -> dict[str, str]:
    """Return the variables that the unit sets."""
    lines = re.findall(r"^Environment=(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    return dict(lines)


def in_place(text: str) -> str:
    """Return the unit with the path of this checkout and the Python of the tests."""
    return text.replace(f"{PLACE}/.venv/bin/python", sys.executable).replace(PLACE, str(ROOT))


@needs_systemd
def test_systemd_accepts_the_unit_and_reports_a_low_exposure(tmp_path):
    """With the path of this checkout; the reported exposure is the intended one."""
    placed = tmp_path / UNIT.name
    placed.write_text(in_place(UNIT.read_text()))
    for check in (("verify",), ("security", "--offline=true", "--threshold=15")):
        done = subprocess.run(
            [SYSTEMD, *check, placed], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(placed) not in done.stderr  # what it does not know it says, and ignores


def test_the_unit_allows_enough_time_and_open_files():
    """To end in good order, and for as many connections as there may be."""
    service, settings = unit(), Settings()
    needed_s = settings.server.shutdown_timeout_s + settings.tracker.shutdown_deadline_s
    assert int(service["TimeoutStopSec"]) >= needed_s + 5
    assert int(service["LimitNOFILE"]) >= 2 * settings.server.max_connections
    assert (service["MemoryHigh"], service["MemoryMax"]) == ("1G", "1536M")
    pending_bytes = 2 * 130 * settings.tracker.capacity_keys
    held_bytes = settings.limits.unsent_bytes + settings.ingest.waiting_bytes
    assert pending_bytes + held_bytes + (200 << 20) < 1 << 30


def test_workers_find_each_other_where_the_unit_and_the_image_may_write():
    """In a directory of the service's user alone; systemd makes the unit's, and removes it."""
    service, image = unit(), (DEPLOYMENT / "Containerfile").read_text()
    run_dir = environment_of_unit()["ACTIVITY__SERVER__RUN_DIR"]
    assert run_dir == f"/run/{service['RuntimeDirectory']}"
    assert service["RuntimeDirectoryMode"] == "0700"
    assert f"ACTIVITY__SERVER__RUN_DIR={run_dir} " in image
    assert re.search(
        rf"install --directory --owner activity --mode 0700 .*{run_dir}$", image, re.MULTILINE
    )


async def test_the_reload_signal_of_the_unit_reloads_the_workers(dsn, tmp_path):
    """ExecReload names the signal that it takes."""
    program, sent, pid = shlex.split(unit()["ExecReload"])
    assert (Path(program).name, pid) == ("kill", "$MAINPID")
    async with serving_with_workers(dsn, tmp_path) as service:
        before = set(service.pids())
        service.process.send_signal(signal.Signals[f"SIG{sent[1:]}"])
        async with asyncio.timeout(60):
            while before & set(service.pids()) or len(service.pids()) != 2:
                await asyncio.sleep(0.05)


def test_the_page_has_the_connections_that_workers_open():
    """With the default settings, at each number of workers."""
    table = PAGES["docs/howto/workers.md"].section("Connections to Postgres").text
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d*) ?\|$", table, re.MULTILINE)
    assert len(rows) == 5
    others = ACCESS_CONNECTIONS + _WEBHOOK_CONNECTIONS + 1 + len(targets(Settings().tracker))
    for workers, *shown in rows:
        each = share_of(Settings(), int(workers)).database.pool_size + others
        total = int(workers) * each
        assert shown == [str(each), str(total), str(total + each) if int(workers) > 1 else ""]


async def test_the_service_notifies_systemd_when_it_is_ready_and_when_it_stops(dsn, tmp_path):
    """By the protocol of Type=notify, where no memory may be both written and executed."""
    service, declared, monitor = unit(), environment_of_unit(), free_port()
    assert declared["ACTIVITY__SERVER__MONITOR_PORT"] == "9464"
    declared["ACTIVITY__SERVER__MONITOR_PORT"] = str(monitor)
    state = tmp_path / "state"
    state.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(60)
    command, port = shlex.split(in_place(service["ExecStart"])), free_port()
    with listener:
        async with started(
            [sys.executable, "-c", WITHOUT_NEW_CODE, *command],
            Path(in_place(service["WorkingDirectory"])),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            ACTIVITY__DATABASE__URL=dsn,
            ACTIVITY__SERVER__PORT=str(port),
            **{
                name: value.replace("/var/lib/activity-tracker", str(state))
                for name, value in declared.items()
            },
        ) as process:
            assert await asyncio.to_thread(listener.recv, 100) == b"READY=1"
            assert await asyncio.to_thread(statuses, "/metrics", port, monitor) == [401, 200]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(listener.recv, 100) == b"STOPPING=1"
            async with asyncio.timeout(60):
                assert await process.wait() == 0
    assert (state / "journal").is_dir()


def test_no_notification_is_sent_without_a_notify_socket(tmp_path, monkeypatch):
    """An address may be abstract, as systemd's is in containers."""
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0activity-test-{os.getpid()}")
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@activity-test-{os.getpid()}")
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"


async def test_the_commands_of_the_page_install_the_files_and_create_a_key(dsn, db, tmp_path):
    """Its commands, in a folder; the environment is that of the tests, so none is made.

    The URL has what a shell would read as something else.
    """
    placing, making = (snippet.text for snippet in PAGES["docs/howto/deploy.md"].snippets("sh"))
    etc = tmp_path / "etc"
    (etc / "systemd" / "system").mkdir(parents=True)

    def follow(commands: str) -> subprocess.CompletedProcess[str]:
        there = commands.replace("/etc/", f"{etc}/").replace(".venv/bin/python", sys.executable)
        return subprocess.run(
            ["/bin/sh", "-euc", there],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )

    environment, *_, files = placing.partition("install -m 0600")
    assert [line.split()[1:3] for line in environment.splitlines()] == [
        ["-m", "venv"],
        ["-m", "pip"],
        ["-m", "pip"],
    ]
    assert follow(f"install -m 0600{files}").returncode == 0
    assert (etc / "systemd" / "system" / UNIT.name).read_text() == UNIT.read_text()
    settings = etc / ENVIRONMENT.name
    assert settings.stat().st_mode & 0o777 == 0o600
    url = f"{dsn}{'&' if '?' in dsn else '?'}application_name=$a;(b)`c`"
    settings.write_text(
        re.sub("(?m)^(ACTIVITY__DATABASE__URL=).*", lambda m: m[1] + url, settings.read_text())
    )
    made = await asyncio.to_thread(follow, making)
    assert made.returncode == 0, made.stderr
    assert (
        await db.fetchval("SELECT prefix FROM api_keys WHERE name = 'the fleet'")
        == made.stdout[:10]
    )


def test_every_variable_of_the_environment_file_is_a_setting(monkeypatch):
    """Those that are commented out, too."""
    lines = re.findall(rf"^#?({PREFIX}\w+)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert len(lines) > 5
    assert not any(set(value) & set("\"' ") for _, value in lines)
    for name, value in lines:
        monkeypatch.setenv(name, value)
    loaded = load_settings(Path(os.devnull))
    assert loaded.database.url.endswith("@127.0.0.1:5432/activity")
    assert loaded.server.monitor_port != 0
