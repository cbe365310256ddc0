"""How many files the process may have open, each connection being one."""

import resource
from typing import Final

import structlog

_SPARE_FILES: Final = 1536
"""Files kept free for logs, libraries, and connections accepted before older ones are closed; half
of the limit if that is less."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def affordable_connections(wanted: int, *, others: int) -> int:
    """Raise the process's limit of open files as far as it goes and is needed.

    Args:
        wanted: connections of clients.
        others: connections to the database.

    Returns:
        How many connections of clients the limit has room for, at most as many as wanted.

    Raises:
        OSError: there is room for none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + others + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    affordable = most - others - min(_SPARE_FILES, most // 2)
    if affordable < 1:
        least = 2 * (others + 1)
        raise OSError(f"only {hard} files may be open (ulimit -Hn), the least is {least}")
    affordable = min(affordable, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if affordable < wanted:
        log.warning(
            "server.few_open_files",
            hard_limit=hard,
            needed=needed,
            max_connections=affordable,
        )
    return affordable
