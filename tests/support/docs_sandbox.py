"""A sandbox in which the commands of a page run: a checkout, a shell, and the running service."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from api.config import PREFIX, ServerSettings
from api.postgres.embedded_program import binaries, server_account
from tests.support.markdown import ROOT, Page

_DEFAULT = ServerSettings()
HOST = f"{_DEFAULT.host}:{_DEFAULT.port}"
"""Where pages say that the service is."""
BASH = shutil.which("bash") or "/bin/bash"
_CURL = "fail-with-body\nsilent\nshow-error\nmax-time = 30\n"
"""A response of 400 and above is a failure, so that no example shows one by mistake."""


@dataclass(frozen=True)
class Sandbox:
    """A checkout, in a folder of its own so that nothing is left in the real one."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a shell there: no settings, nothing of a surrounding `make`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((PREFIX, "MAKE", "MFLAGS"))
        }
        postgres = binaries(server_account())
        # Postgres's own programs first: pg_dump must not be older than the server.
        path = f"{self.folder}/.venv/bin:{postgres}:{kept['PATH']}"
        return kept | {"PATH": path, "CURL_HOME": str(self.folder)}

    @property
    def database_url(self) -> str:
        """The embedded server of the service."""
        return f"postgresql://postgres@/postgres?host={self.folder}/.activity/postgres"

    def follow(
        self, page: Page, not_run: Mapping[str, str], **given: str
    ) -> subprocess.CompletedProcess[str]:
        """Run all shell snippets of a page in one shell, as they are but for the port.

        Args:
            page: what to follow; an error names its line.
            not_run: commands to leave out.
            given: variables that the page expects its reader to have set.
        """
        file = self.folder / Path(page.name).name
        file.write_text(script(page, not_run).replace(HOST, f"127.0.0.1:{self.port}"))
        return subprocess.run(
            [BASH, "-Eeuo", "pipefail", file.name],
            cwd=self.folder,
            env=self.environment | given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def script(page: Page, not_run: Mapping[str, str]) -> str:
    """Return the commands of a page, each in its line; those in running text come last."""
    lines = [""] * len(page.text.splitlines())
    for snippet in page.snippets("sh"):
        for number, line in enumerate(snippet.text.splitlines(), snippet.line - 1):
            left_out = command(line) in not_run or is_of_the_suite(line)
            lines[number] = "" if left_out else line
    lines += [code for code in page.code() if code.startswith("curl ")]
    # In place of the title, which is no command.
    assert not lines[0]
    lines[0] = """trap 'echo "line $LINENO failed: $BASH_COMMAND" >&2' ERR"""
    return "".join(f"{line}\n" for line in lines)


def is_of_the_suite(line: str) -> bool:
    """Return whether a line runs a part of the suite that would run it."""
    return line.startswith(".venv/bin/python -m pytest")


def command(line: str) -> str:
    """Return a line without the comment at its end."""
    return re.sub(r"(^|\s+)#\s.*$", "", line).strip()


@contextmanager
def sandbox_with_service(folder: Path, port: int) -> Iterator[Sandbox]:
    """Make a sandbox, and run the service in it until the block ends.

    The service flushes at the end only, so that pages show what is pending.

    Args:
        folder: an empty one.
        port: a free one to listen on.
    """
    for name in ("api", "benchmarks", "tracker", "Makefile", "config.toml", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".curlrc").write_text(_CURL)
    sandbox = Sandbox(folder, port)
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "serve"],
            cwd=folder,
            env=sandbox.environment
            | {f"{PREFIX}SERVER__PORT": str(port), f"{PREFIX}TRACKER__FLUSH_INTERVAL_S": "3600"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "server.listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield sandbox
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
