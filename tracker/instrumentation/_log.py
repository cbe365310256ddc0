"""The library's logger: to structlog if the application configures it, else to `logging`.

An application that has never called `structlog.configure` expects its log lines where
`logging.basicConfig` and its own handlers put them, not on stdout in structlog's own format.

A log line that cannot be written raises no error: standard output may be a closed pipe, or a file
on a full disk. A log line often reports a failure that the caller still has to clean up after, so
the line must not raise another error.
"""

import logging
from contextlib import suppress

import structlog


class Log:
    """A logger that never raises.

    Args:
        name: the name of the module that logs, which is the logger's name in `logging`.
    """

    def __init__(self, name: str) -> None:
        self._structlog: structlog.stdlib.BoundLogger = structlog.get_logger(name)
        self._logging = logging.getLogger(name)

    def info(self, event: str, **more: object) -> None:
        """Log a normal event."""
        self._write("info", event, more)

    def warning(self, event: str, **more: object) -> None:
        """Log an event that an operator should look at."""
        self._write("warning", event, more)

    def error(self, event: str, **more: object) -> None:
        """Log a failure."""
        self._write("error", event, more)

    def exception(self, event: str, **more: object) -> None:
        """Log an unexpected failure, with the exception that is being handled."""
        self._write("exception", event, more)

    def _write(self, method: str, event: str, more: dict[str, object]) -> None:
        with suppress(Exception):
            if structlog.is_configured():
                getattr(self._structlog, method)(event, **more)
            else:
                fields = "".join(f" {name}={value!r}" for name, value in more.items())
                getattr(self._logging, method)("%s%s", event, fields)
