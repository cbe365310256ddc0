"""Bodies of uploads that are rejected, too large, encoded, or never complete."""

import asyncio
import io
import json

import pytest
from structlog.testing import capture_logs

from tests.support.sample_table import locking
from tests.support.service import REPORT, running


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"latitude": NaN}',
        b"\xff\xfe",
        b'{"device_id": "\\ud800"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
        b"null",
        b"1",
    ],
)
async def test_a_body_that_is_no_report_is_400(service, body):
    """Broken JSON, broken UTF-8 and unbounded nesting are rejected."""
    response = await service.call(
        "POST", "/api/v1/locations", data=body, headers={"Content-Type": "application/json"}
    )
    assert response.status == 400
    assert (await response.json())["error"] in ("invalid_json", "invalid_body")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_415(service, content_type):
    """A body must say that it is JSON."""
    response = await service.call(
        "POST", "/api/v1/locations", data=b"{}", headers={"Content-Type": content_type}
    )
    assert (response.status, (await response.json())["error"]) == (415, "unsupported_media_type")


async def test_json_with_a_charset_is_json(service):
    """Parameters of the content type are ignored."""
    device_id = await service.register()
    response = await service.call(
        "POST",
        "/api/v1/locations",
        data=json.dumps({"device_id": device_id, **REPORT}).encode(),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert response.status == 200


async def test_a_body_over_one_mebibyte_is_413(service):
    """Memory for bodies is bounded, whether the length is declared or not."""
    headers = {"Content-Type": "application/json"}
    large = b'{"x": "' + b"x" * 1_048_576 + b'"}'

    async def chunks():
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for data in (io.BytesIO(large), chunks()):
        response = await service.call("POST", "/api/v1/locations", data=data, headers=headers)
        assert (response.status, (await response.json())["error"]) == (413, "body_too_large")


async def test_a_body_that_is_not_encoded_as_it_says_is_400(service):
    """Junk that claims to be compressed is the client's fault, and no crash."""
    with capture_logs() as logs:
        for encoding in ("gzip", "deflate"):
            response = await service.client.post(
                "/api/v1/locations",
                data=b"this is not compressed",
                headers={
                    "X-API-Key": service.key,
                    "Content-Type": "application/json",
                    "Content-Encoding": encoding,
                },
                skip_auto_headers=("Content-Encoding",),
                compress=None,
            )
            assert response.status == 400
    assert logs == []


async def test_a_client_that_disconnects_within_its_body_logs_no_error(service):
    """A lost connection is no error of the service."""
    url = service.client.make_url("/api/v1/locations")
    with capture_logs() as logs:
        for _ in range(3):
            _, writer = await asyncio.open_connection(url.host, url.port)
            head = (
                f"POST /api/v1/locations HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}\r\n"
                'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"device_id":'
            )
            writer.write(head.encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await service.upload(await service.register())).status == 200
    assert logs == []


async def test_uploads_that_time_out_leave_no_backends_behind(dsn, db):
    """A locked table does not use up the server's connections, request by request."""
    async with running(dsn, database={"statement_timeout_s": 0.2, "pool_size": 3}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            for _ in range(6):
                uploads = (service.upload(device_id) for _ in range(3))
                assert {response.status for response in await asyncio.gather(*uploads)} == {503}
                waiting = await db.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'activity-api' "
                    "AND wait_event_type = 'Lock' AND datname = current_database()"
                )
                assert waiting <= 3
