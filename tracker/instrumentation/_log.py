"""The library's log: a line that cannot be written upsets nothing.

Standard output may be a pipe that is closed, or a file on a disk that is full. What is logged is
often that something else has failed, and whoever logs it has still to clean up after that.
"""

from contextlib import suppress

import structlog


class Log:
    """A structlog logger that never raises.

    Args:
        name: of the module that logs.
    """

    def __init__(self, name: str) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger(name)

    def info(self, event: str, **more: object) -> None:
        """Log what is good to know."""
        with suppress(Exception):
            self._log.info(event, **more)

    def warning(self, event: str, **more: object) -> None:
        """Log what somebody should look at."""
        with suppress(Exception):
            self._log.warning(event, **more)

    def error(self, event: str, **more: object) -> None:
        """Log what has failed."""
        with suppress(Exception):
            self._log.error(event, **more)

    def exception(self, event: str, **more: object) -> None:
        """Log what nobody expected, with the exception that is being handled."""
        with suppress(Exception):
            self._log.exception(event, **more)
