"""The service's logs: JSON lines without values, and silent about what is no error."""

import io
import json
import logging

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMethod

from api.config import LogSettings
from api.logs import REQUEST_ID, configure_logs


@pytest.fixture
def log_lines():
    """Configure logs as the service does, onto a stream that is no terminal."""
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    configure_logs(LogSettings(), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().handlers, logging.getLogger().level = handlers, level
    structlog.reset_defaults()


def test_logs_are_json_lines_when_stdout_is_no_terminal(log_lines):
    """Our own events and the standard library's look the same, traces included."""
    token = REQUEST_ID.set("abc-1")
    structlog.get_logger("own").error("flush.failed", target="devices", attempt=3)
    logging.getLogger("somebody").warning("spoke of %s", "something")
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("own").exception("flush.crashed")
    REQUEST_ID.reset(token)
    own, other, trace = log_lines()
    assert (own["event"], own["target"], own["attempt"]) == ("flush.failed", "devices", 3)
    assert (own["level"], own["request_id"]) == ("error", "abc-1")
    assert own["timestamp"].endswith("Z")
    assert (other["event"], other["level"]) == ("spoke of something", "warning")
    assert trace["exception"][0]["exc_value"] == "bad"


def test_a_trace_in_the_logs_shows_no_values(log_lines):
    """There are keys and passwords among local variables."""

    def fail(password: str) -> None:
        raise ValueError("no " + password[:0])

    try:
        fail("hunter2")
    except ValueError:
        structlog.get_logger("own").exception("request.crashed")
    (line,) = log_lines()
    assert "hunter2" not in json.dumps(line)
    assert line["exception"][0]["frames"]


def test_debug_lines_are_off_by_default(log_lines):
    """The level is info by default."""
    structlog.get_logger("own").debug("nothing.here")
    assert log_lines() == []


def test_malformed_http_logs_no_error(log_lines):
    """Port scanners do not fill the disk."""
    try:
        raise BadHttpMethod("BREW")
    except BadHttpMethod:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    assert log_lines() == []


async def test_a_request_logs_nothing_at_info(service):
    """A fleet of devices does not fill the disk."""
    with structlog.testing.capture_logs() as logs:
        device_id = await service.register()
        await service.heartbeat(device_id)
        await service.upload(device_id)
        await service.upload(device_id, latitude=91)
        await service.call("GET", "/nowhere")
        await service.listing()
    assert logs == []
