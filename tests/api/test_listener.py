"""Slow, numerous and idle clients are limited, and affect no other client."""

import asyncio
import gzip
import json
import signal
import socket
from contextlib import AsyncExitStack

import pytest

from tests.support.command_line import serving
from tests.support.raw_client import PATIENCE_S, listening
from tests.support.service import REPORT

SOON_S = 0.3
"""A limit that a test waits for."""


async def test_a_slow_header_gets_408_and_the_connection_is_closed(dsn):
    """The timeout counts until the header is complete, so single bytes do not extend it."""
    async with listening(dsn, header_timeout_s=SOON_S) as service, service.client() as client:
        ended = asyncio.create_task(client.answers())
        head = service.heartbeat()[:-2]
        for byte in head:
            await client.send(bytes([byte]))
            done, _ = await asyncio.wait([ended], timeout=0.01)
            if done:
                break
        (response,) = await ended
        assert (response.status, response.error) == (408, "request_timeout")
        assert response.headers["connection"] == "close"
        assert not service.was_touched(service.device_id)
        await service.assert_serves()


async def test_a_second_header_on_a_connection_has_the_same_timeout(dsn):
    """The timeout is not for new connections only."""
    async with listening(dsn, header_timeout_s=SOON_S) as service, service.client() as client:
        await client.send(service.heartbeat())
        assert (await client.answer()).status == 204
        await client.send(b"POST /api")
        (answer,) = await client.answers()
        assert answer.status == 408


async def test_a_connection_without_a_request_is_closed_without_a_response(dsn):
    """A response could be taken for that to a request which is on its way."""
    async with listening(dsn, header_timeout_s=SOON_S) as service, service.client() as client:
        assert await client.answers() == []
        metrics = await service.metrics()
        assert metrics.total("http_connections_closed_total", reason="slow_header") == 1


async def test_an_idle_connection_is_closed_after_the_keepalive_timeout(dsn):
    """The header timeout starts with the first byte, so idle connections have the longer one."""
    async with (
        listening(dsn, header_timeout_s=0.1, keepalive_timeout_s=1.0) as service,
        service.client() as client,
    ):
        await client.send(service.heartbeat())
        assert (await client.answer()).status == 204
        await asyncio.sleep(0.5)  # longer than a head may take
        await client.send(service.heartbeat())
        assert (await client.answer()).status == 204
        assert await client.answers() == []


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_slow_body_gets_408_and_the_connection_is_closed(dsn, framing):
    """With a length or in endless chunks, single bytes do not extend the timeout."""
    async with listening(dsn, body_timeout_s=SOON_S) as service, service.client() as client:
        ended = asyncio.create_task(client.answers())
        await client.send(service.upload(framing))
        async with asyncio.timeout(PATIENCE_S):
            while not ended.done():
                await client.send(b"1\r\n \r\n")
                await asyncio.sleep(0.01)
        (response,) = await ended
        assert (response.status, response.error) == (408, "request_timeout")
        metrics = await service.metrics()
        assert metrics.total("http_connections_closed_total", reason="slow_body") == 1
        assert metrics.total("http_request_duration_seconds_count", status="408") == 1
        await service.assert_serves()


async def test_endless_chunks_are_limited_by_size(dsn):
    """A client that sends fast enough reaches the limit of the body's size."""
    async with listening(dsn, max_body_bytes=10_000) as service, service.client() as client:
        await client.send(service.upload("Transfer-Encoding: chunked"))
        for _ in range(20):
            await client.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error) == (413, "body_too_large")
        await service.assert_serves()


async def test_a_client_that_does_not_read_responses_is_closed(dsn):
    """Its responses are not kept for long, and its further requests are not read."""
    async with listening(dsn, response_timeout_s=SOON_S) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as unread:
            unread.setblocking(False)  # noqa: FBT003 - the only way to say it
            metrics = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" * 100
            async with asyncio.timeout(PATIENCE_S):
                while not service.listener.closed["slow_response"]:
                    try:
                        unread.send(metrics)
                    except BlockingIOError:
                        pass
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.001)
        await service.assert_serves()
        assert service.listener.closed["slow_response"] == 1


@pytest.mark.parametrize("ahead", ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"])
async def test_a_slow_body_after_another_request_gets_408(dsn, ahead):
    """A pipelined request or an upgrade before it does not disable the timeout."""
    async with listening(dsn, body_timeout_s=0.5) as service, service.client() as client:
        first = f"GET /api/health HTTP/1.1\r\nHost: here\r\n{ahead}\r\n".encode()
        await client.send(first + service.upload("Content-Length: 100") + b"{")
        answers = [response.status for response in await client.answers()]
        assert answers == ([200] if ahead else [200, 408])
        async with asyncio.timeout(PATIENCE_S):
            while service.listener.open:
                await asyncio.sleep(0.01)


async def test_an_http_1_0_client_gets_no_100_continue(dsn):
    """HTTP/1.0 has no interim responses."""
    async with listening(dsn) as service, service.client() as client:
        await service.assert_serves()  # now the key is cached: nothing is between head and body
        body = json.dumps({"device_id": service.device_id, **REPORT}).encode()
        head = service.upload("Expect: 100-continue", f"Content-Length: {len(body)}")
        await client.send(head.replace(b"HTTP/1.1", b"HTTP/1.0") + body[:-1])
        async with asyncio.timeout(PATIENCE_S):
            while service.listener.waiting or not service.listener.open:  # until the head is read
                await asyncio.sleep(0.01)
        await client.send(body[-1:])
        assert [response.status for response in await client.answers()] == [200]


async def test_100_continue_is_sent_when_the_body_is_read(dsn):
    """It is sent once the API key is known and the size is accepted."""
    async with listening(dsn) as service:
        body = json.dumps({"device_id": service.device_id, **REPORT}).encode()
        expected = service.upload("Expect: 100-continue", f"Content-Length: {len(body)}")
        async with service.client() as client:
            await client.send(expected)
            assert (await client.answer()).status == 100
            await client.send(body + service.heartbeat())
            assert [(await client.answer()).status for _ in range(2)] == [200, 204]
        for head, status, code in (
            (expected.replace(service.key.encode(), b"wrong"), 401, "unauthorized"),
            (
                service.upload("Expect: 100-continue", "Content-Length: 10000000"),
                413,
                "body_too_large",
            ),
            (service.upload("Expect: a miracle", "Content-Length: 1"), 417, "expectation_failed"),
            (
                b"POST /nowhere HTTP/1.1\r\nHost: here\r\nExpect: a miracle\r\n\r\n",
                417,
                "expectation_failed",
            ),
        ):
            async with service.client() as client:
                await client.send(head)
                answer = await client.answer()
                assert (answer.status, answer.error) == (status, code)


async def test_a_compressed_body_is_inflated_once_and_up_to_the_limit(dsn):
    """The server leaves it to the handler, which knows the limit, also behind these listeners."""
    async with listening(dsn, max_body_bytes=10_000) as service, service.client() as client:
        report = json.dumps({"device_id": service.device_id, **REPORT}).encode()
        for content, status in ((report, 200), (report + b" " * 1_000_000, 413)):
            body = gzip.compress(content)
            head = service.upload("Content-Encoding: gzip", f"Content-Length: {len(body)}")
            await client.send(head + body)
            assert (await client.answer()).status == status


async def test_a_shutdown_ends_within_its_deadline(dsn):
    """Idle clients, half a header and half a body do not delay SIGTERM."""
    timeout = {"ACTIVITY__SERVER__SHUTDOWN_TIMEOUT_S": "2"}
    async with serving(dsn, **timeout) as (process, session), AsyncExitStack() as stack:
        host, port = session._base_url.host, session._base_url.port
        key = session.headers["X-API-Key"].encode()
        half_a_body = (
            b"POST /api/v1/locations HTTP/1.1\r\nHost: here\r\nX-API-Key: " + key + b"\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        for data in [b""] * 1000 + [b"POST /api"] * 25 + [half_a_body] * 25:
            client = stack.enter_context(socket.create_connection((host, port)))
            client.sendall(data)
        async with session.get("/api/health") as response:
            assert response.status == 200
        loop = asyncio.get_running_loop()
        told_at = loop.time()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        assert loop.time() - told_at < 2 + 10 + 5  # as the guarantees say
