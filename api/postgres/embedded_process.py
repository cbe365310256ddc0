"""The server's process: whether it runs, how it is started and stopped.

`postmaster.pid` names the process. After a crash or a restart of the machine its process id may
belong to an unrelated process, which must neither block the start nor be signalled: a process
counts as the server only if it is a postgres of the right user whose working directory is the data
directory.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.postgres.embedded_data import (
    DataDirectory,
    as_seen_from_inside,
    run_as,
    server_environment,
)
from api.postgres.embedded_program import EmbeddedServerError

if TYPE_CHECKING:
    import psutil

PORT: Final = 5432
SOCKET: Final = f".s.PGSQL.{PORT}"
_POLL_S: Final = 0.01
_STOP_WITHIN_S: Final = 10.0
_READY: Final = "ready"
_SOCKET_LINE, _STATUS_LINE = 4, 7


def running(data: DataDirectory) -> "psutil.Process | None":
    """Return the server's process, None if it does not run.

    Args:
        data: its data directory.
    """
    import psutil  # noqa: PLC0415 - comes with the binaries

    lines = _lines(data)
    if not lines or not lines[0].isdecimal():
        return None
    try:
        process = psutil.Process(int(lines[0]))
        if process.name() != "postgres":
            return None
        if process.uids().real != data.account.uid:
            return None
        try:
            here = os.path.samestat(Path(process.cwd()).stat(), os.fstat(data.descriptor))
        except psutil.AccessDenied:  # root in a container without CAP_SYS_PTRACE
            here = _answers(data)
    except (psutil.NoSuchProcess, OSError):
        return None
    return process if here else None


def listens_elsewhere(data: DataDirectory) -> bool:
    """Whether a running server has its socket outside the data directory, as older ones may."""
    lines = _lines(data)
    return len(lines) > _SOCKET_LINE and lines[_SOCKET_LINE] not in {".", str(data.path)}


def start(data: DataDirectory, bin_dir: Path, *, timeout_s: float) -> None:
    """Start the server, and wait until it takes connections; to be called with the lock held.

    Args:
        data: its data directory.
        bin_dir: where postgres is.
        timeout_s: how long to wait, in seconds.

    Raises:
        EmbeddedServerError: it did not start; the message says why, and where the log is.
    """
    _clear_stale(data)
    output = data.open_file("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.fchown(output, data.account.uid, data.account.gid)
        said = os.fstat(output).st_size
        process = subprocess.Popen(  # noqa: S603 - of the package
            [
                *(bin_dir / "postgres", "-D", as_seen_from_inside(data.path, data.account)),
                # A relative socket directory is never too long, and needs no quoting.
                *("-h", "", "-k", ".", "-p", str(PORT), "-c", "unix_socket_permissions=0700"),
            ],
            cwd=data.path,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us
            umask=0o077,
            **run_as(data.account),
        )
    finally:
        os.close(output)
    try:
        _await_start(data, process, timeout_s=timeout_s, said=said)
    except BaseException:
        if process.poll() is None:
            _force_stop(process)
        raise
    # It may outlive us, which is no mistake to be warned of.
    process.returncode = 0


def _await_start(
    data: DataDirectory, process: subprocess.Popen[bytes], *, timeout_s: float, said: int
) -> None:
    deadline = time.monotonic() + timeout_s
    while not _is_ready(data, process.pid):
        if process.poll() is not None:
            raise EmbeddedServerError(_why(data, said))
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"not ready within {timeout_s:g} s; {_look(data)}")
        time.sleep(_POLL_S)


def _force_stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that did not start: at once, for it has no sessions that could be lost."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_ready(data: DataDirectory, process: "psutil.Process", *, timeout_s: float) -> None:
    """Wait until a server that another process has started takes connections.

    Raises:
        EmbeddedServerError: it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not _is_ready(data, process.pid):
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"the server with the process id {process.pid} is not ready within {timeout_s:g} s"
            )
        time.sleep(_POLL_S)


def stop(process: "psutil.Process") -> None:
    """Shut the server down, first with a clean end of all sessions, then by force.

    Args:
        process: the server's.
    """
    import psutil  # noqa: PLC0415 - comes with the binaries

    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            try:
                process.wait(_STOP_WITHIN_S)
            except psutil.TimeoutExpired:
                continue
        return


def _lines(data: DataDirectory) -> list[str]:
    try:
        text = (data.path / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.split("\n")]


def _is_ready(data: DataDirectory, pid: int) -> bool:
    lines = _lines(data)
    return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE] == _READY


def _answers(data: DataDirectory) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(f"/proc/self/fd/{data.descriptor}/{SOCKET}")
        except OSError:
            return False
    return True


def _clear_stale(data: DataDirectory) -> None:
    """Let no file of a server that is gone block the start."""
    (data.path / f"{SOCKET}.lock").unlink(missing_ok=True)
    lines = _lines(data)
    if not lines:
        return
    if not lines[0].removeprefix("-").isdecimal():
        (data.path / "postmaster.pid").unlink()
        return
    # PostgreSQL takes a file with the process id of its own parent for stale. The rest of the
    # file stays: by it, PostgreSQL finds out whether processes of the old server still run.
    data.replace("postmaster.pid", "\n".join([str(os.getpid()), *lines[1:]]))


def _why(data: DataDirectory, said: int) -> str:
    """Return what the server logged last, from an offset on."""
    with (data.path / "log").open("rb") as file:
        file.seek(said)
        text = file.read().decode("utf-8", "replace")
    fatal = [line for line in text.splitlines() if "FATAL:" in line]
    reason = f"{fatal[0].partition('FATAL:')[2].strip()}; " if fatal else ""
    return f"{reason}{_look(data)}"


def _look(data: DataDirectory) -> str:
    path = data.path / "log"
    return f"look at {path}" if path.stat().st_size else "it has logged nothing"
