"""Logs: structlog for the service's own events and those of libraries; JSON unless on a terminal.

The request id is a plain context variable: structlog's own binding costs microseconds a request.
"""

import logging
import sys
from contextvars import ContextVar
from typing import Final, TextIO

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, Processor, WrappedLogger

from api.config import LogSettings
from api.printable import escaped
from tracker.postgres import reason

_TRACES: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Without local variables, which may be keys and passwords."""
REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id")


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get(None)
    if request_id is not None:
        event["request_id"] = request_id
    return event


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters in names and keys on a terminal; JSON escapes them anyway."""
    return {name: _escaped(value) for name, value in event.items()}


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    # Lists are shown by repr, which escapes what is not printable.
    return value


def _hide_rows(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove row values from the driver's errors, before a traceback shows them.

    Most errors are translated, but the traceback of another error includes all its causes.
    """
    exc_info = event.get("exc_info")
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if isinstance(exc_info, tuple):
        error = exc_info[1]
    if exc_info and error is not None:
        _hide_row(error, set())
    return event


def _hide_row(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    if hasattr(error, "sqlstate"):
        error.args = (reason(error),)
        for quoting_the_row in ("detail", "hint", "query"):
            error.__dict__.pop(quoting_the_row, None)
    for one in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        _hide_row(one, seen)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop the error with a traceback that aiohttp logs for each malformed request."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError))


def configure_logs(
    settings: LogSettings, stream: TextIO = sys.stdout, *, worker: int | None = None
) -> None:
    """Send all logs of the process to a stream.

    Args:
        settings: level and format.
        stream: where log lines go.
        worker: the number of this worker, which all lines get; None if it is the only one.
    """

    def add_worker(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if worker is not None:
            event["worker"] = worker
        return event

    shared: list[Processor] = [
        _add_request_id,
        add_worker,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    render: list[Processor] = (
        [structlog.processors.ExceptionRenderer(_TRACES), structlog.processors.JSONRenderer()]
        if as_json
        else [
            _escape,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_is_worth_a_line)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _hide_rows,
                *render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # Libraries log warnings and errors, not how they work.
    for chatty in ("alembic", "asyncio", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
