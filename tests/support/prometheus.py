"""A Prometheus that scrapes, by the binary of its Debian package: see `make packages`."""

import asyncio
import math
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is not installed: run `make packages` as root"
)


class Prometheus(NamedTuple):
    """Its HTTP API."""

    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str, **parameters: str) -> Any:
        """Return what it answers, or raise what it says is wrong."""
        async with self.session.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            body = await response.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        return body["data"]

    async def has_data(self, expr: str) -> bool:
        """Tell whether a query has an answer now; not a number is none."""
        found = await self.get("query", query=expr)
        return any(not math.isnan(float(one["value"][1])) for one in found["result"])

    async def rules(self, file: Path) -> dict[str, dict[str, Any]]:
        """Return the rules of a file by name, with their state."""
        groups = (await self.get("rules"))["groups"]
        rules = [rule for group in groups if group["file"] == str(file) for rule in group["rules"]]
        return {rule["name"]: rule for rule in rules}

    async def until_it_answers(self) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    await self.get("status/buildinfo")
                except (aiohttp.ClientError, ConnectionError):
                    await asyncio.sleep(0.05)
                else:
                    return


@asynccontextmanager
async def prometheus(
    config: Mapping[str, Any], port: int, folder: Path
) -> AsyncIterator[Prometheus]:
    """Run Prometheus while the block runs.

    Args:
        config: what its configuration file says.
        port: where it is to listen, on this machine alone.
        folder: for its data and its log.
    """
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            running = Prometheus(session, f"http://127.0.0.1:{port}")
            await running.until_it_answers()
            yield running
    finally:
        process.kill()  # its data is not needed
        await process.wait()


def escaped(value: str) -> str:
    """Return a value as Grafana puts it into a regular expression, inside of quotes."""
    return re.sub(r"([\\^$*+?.()|\[\]{}])", r"\\\\\1", value)
