"""pgbouncer in transaction mode before the tests' server, as many people run Postgres."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
STARTED_WITHIN_S = 30
SETTINGS = """
[databases]
* = host={host} port={port} user={user}{password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
; Few sessions for many clients, each transaction in the one that was idle longest: code that relies
; on state of the session fails.
default_pool_size = 3
server_round_robin = 1
"""


@contextmanager
def pooling(server_dsn: str, folder: Path, more: str = "") -> Iterator[str]:
    """Run a pooler while the block runs, and give the part of its DSNs before the database.

    Args:
        server_dsn: any database of the server.
        folder: for its settings.
        more: further lines of its settings.
    """
    server = urlsplit(server_dsn)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listen_port = listener.getsockname()[1]
    host = parse_qs(server.query).get("host", [server.hostname])[0]
    settings = SETTINGS.format(
        host=host,
        port=server.port or 5432,
        user=server.username,
        password=f" password='{server.password}'" if server.password else "",
        listen_port=listen_port,
    )
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(settings + more)
    command = [PGBOUNCER, "--quiet", folder / "pgbouncer.ini"]
    if os.geteuid() == 0:  # as whom it refuses to run
        owner = Path(host).owner() if host.startswith("/") else "nobody"
        command.append(f"--user={owner}")
    process = subprocess.Popen(command)
    try:
        wait_until_it_listens(process, listen_port)
        yield f"postgresql://anybody@127.0.0.1:{listen_port}"
    finally:
        process.kill()
        process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert process.poll() is None, "pgbouncer ended"
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            time.sleep(0.02)
