"""The library's logger: a log line that cannot be written raises no error.

Standard output may be a closed pipe, or a file on a full disk. A log line often reports a failure
that the caller still has to clean up after, so the line must not raise another error.
"""

from contextlib import suppress

import structlog


class Log:
    """A structlog logger that never raises.

    Args:
        name: the name of the module that logs.
    """

    def __init__(self, name: str) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger(name)

    def info(self, event: str, **more: object) -> None:
        """Log a normal event."""
        with suppress(Exception):
            self._log.info(event, **more)

    def warning(self, event: str, **more: object) -> None:
        """Log an event that an operator should look at."""
        with suppress(Exception):
            self._log.warning(event, **more)

    def error(self, event: str, **more: object) -> None:
        """Log a failure."""
        with suppress(Exception):
            self._log.error(event, **more)

    def exception(self, event: str, **more: object) -> None:
        """Log an unexpected failure, with the exception that is being handled."""
        with suppress(Exception):
            self._log.exception(event, **more)
