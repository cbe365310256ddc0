"""HAProxy and nginx before the service, as Debian packages them."""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.raw_client import PATIENCE_S, free_port

_HAPROXY = """
global
    log stderr format raw local0 warning
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{port}
    default_backend service
backend service
    server service 127.0.0.1:{upstream}
"""
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    proxy_cache_path {folder}/cache keys_zone=responses:1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream service {{
        server 127.0.0.1:{upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_cache responses;
            proxy_cache_valid any 10m;
        }}
        location /tracker/ {{
            proxy_pass http://service/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def _haproxy(program: str, config: Path) -> list[str]:
    return [program, "-db", "-f", str(config)]


def _nginx(program: str, config: Path) -> list[str]:
    return [program, "-p", str(config.parent), "-c", str(config)]


PROXIES: dict[str, tuple[str, Callable[[str, Path], list[str]]]] = {
    "haproxy": (_HAPROXY, _haproxy),
    "nginx": (_NGINX, _nginx),
}
"""The configuration of each proxy, and the command that runs it in the foreground."""


@asynccontextmanager
async def proxy(name: str, upstream: int, folder: Path) -> AsyncIterator[int]:
    """Run a proxy that reuses its connections to the service; yields its port.

    nginx also keeps every response that does not forbid it.

    Args:
        name: one of `PROXIES`.
        upstream: the port of the service.
        folder: for its files.
    """
    program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip(f"{name} is not installed: `make packages` installs it on Debian")
    template, command = PROXIES[name]
    port = free_port()
    config = folder / f"{name}.conf"
    config.write_text(template.format(port=port, upstream=upstream, folder=folder))
    process = await asyncio.create_subprocess_exec(
        *command(program, config), stdout=sys.stderr, stderr=sys.stderr
    )
    try:
        await _listens(port)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.01)
