"""Leftovers of a request in the parser reach no other request, of any client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.proxies import PROXIES, proxy
from tests.support.raw_client import ListeningService, listening

CHUNKED = "Transfer-Encoding: chunked"
LEFT_BEHIND = {
    "a key": b"X-API-Key: x",
    "a device": b"X-Device-ID: %(victim)s",
    "a request id": b"X-Request-ID: smuggled",
    "a coding": b"Content-Encoding: gzip",
    "a coding among others": b"Content-Encoding: gzip\r\nX-A: b",
    "a length": b"Content-Length: 3",
    "an encoding": b"Transfer-Encoding: chunked",
    "an expectation": b"Expect: 100-continue",
    "an upgrade": b"Connection: upgrade\r\nUpgrade: websocket",
    "a host": b"Host: there",
    "an empty value": b"X-API-Key:",
}
"""Trailers, after each of which the next request would be read wrongly if it had them."""


def chunked(service: ListeningService, trailer: bytes, *, key: bool = True) -> bytes:
    """Return a heartbeat with a body in chunks and a trailer."""
    head = service.heartbeat(CHUNKED)
    if not key:
        head = head.replace(service.key.encode(), b"wrong")
    trailer = trailer.replace(b"%(victim)s", service.victim_id.encode())
    return head + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n"


@asynccontextmanager
async def reached(
    service: ListeningService, by: str, folder: Path
) -> AsyncIterator[ListeningService]:
    """Yield the service as clients reach it: directly, or through a proxy."""
    if by == "directly":
        yield service
        return
    async with proxy(by, service.port, folder) as port:
        yield ListeningService(service.app, port, service.key, service.device_id, service.victim_id)


@pytest.mark.parametrize("by", ["directly", *PROXIES])
async def test_no_trailer_reaches_another_request(dsn, tmp_path, by):
    """Requests of others on connections that a proxy reuses are answered as ever."""
    async with listening(dsn) as service, reached(service, by, tmp_path) as front:
        for case, trailer in LEFT_BEHIND.items():
            for key in (True, False):
                async with front.client() as attacker:
                    await attacker.send(chunked(front, trailer, key=key))
                    answer = await attacker.answer()
                    assert answer is None or answer.status in (204, 400, 401, 502), case
                async with front.client() as other:
                    for _ in range(3):
                        await other.send(front.heartbeat())
                        answer = await other.answer()
                        assert answer is not None, case
                        assert answer.status == 204, case
                        assert answer.headers["x-request-id"] != "smuggled", case
        assert not service.was_touched(service.victim_id)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_a_request_after_trailers_is_not_read(dsn, size):
    """Whether it came in the same packet, in pieces, or after the answer: the connection ends."""
    async with listening(dsn) as service:
        for case, trailer in LEFT_BEHIND.items():
            data = chunked(service, trailer) + service.heartbeat(device_id=service.victim_id)
            async with service.client() as client:
                for start in range(0, len(data), size):
                    await client.send(data[start : start + size])
                answers = [
                    (response.status, response.headers.get("connection"))
                    for response in await client.answers()
                ]
            # A trailer that would change where the body ends is no proper request.
            assert answers in ([(204, "close")], [(400, None)]), case
        assert not service.was_touched(service.victim_id)


async def test_trailers_after_the_response_end_the_connection(dsn):
    """A response before the end of the body has `Connection: close`."""
    async with listening(dsn) as service, service.client() as client:
        await client.send(service.heartbeat(CHUNKED) + b"3\r\nabc\r\n")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (204, "close")
        await client.send(b"0\r\nX-API-Key: x\r\n\r\n" + service.heartbeat())
        assert await client.answers() == []


async def test_chunks_without_trailers_keep_the_connection(dsn):
    """Devices that send their uploads in chunks keep their connection."""
    async with listening(dsn) as service, service.client() as client:
        for pieces in (
            [b"0\r\n\r\n"],
            [b"3\r\nabc\r\n0\r\n\r\n"],
            [b"3\r\nabc\r\n", b"0\r\n", b"\r", b"\n"],
        ):
            body = b"2\r\n{}\r\n"
            await client.send(service.upload(CHUNKED) + (b"" if pieces[0][:1] == b"0" else body))
            for piece in pieces:
                await client.send(piece)
            answer = await client.answer()
            assert answer.status == 400  # an empty report, and no JSON
            assert "connection" not in answer.headers
        await client.send(service.heartbeat())
        assert (await client.answer()).status == 204


async def test_requests_before_one_with_trailers_are_answered(dsn):
    """They were sent ahead on the same connection, and came whole."""
    async with listening(dsn) as service, service.client() as client:
        await client.send(service.heartbeat() * 5 + chunked(service, b"X-A: b"))
        answers = await client.answers()
        assert [response.status for response in answers] == [204] * 6
        assert [response.headers.get("connection") for response in answers] == [None] * 5 + [
            "close"
        ]


async def test_a_full_queue_of_requests_hides_no_trailer(dsn):
    """A parser that pauses between two chunked requests has not shown what is between them."""
    async with listening(dsn) as service:
        smuggling = chunked(service, b"X-Device-ID: %(victim)s")
        clean = service.heartbeat(CHUNKED) + b"0\r\n\r\n"
        for ahead in range(140):
            async with service.client() as client:
                await client.send(service.heartbeat() * ahead + smuggling + clean)
                answers = await client.answers()
                assert [response.status for response in answers] == [204] * (ahead + 1), ahead
        assert not service.was_touched(service.victim_id)


async def test_what_follows_an_unknown_upgrade_is_not_read(dsn):
    """The parser drops the rest of its packet: what comes later is no start of a request."""
    async with listening(dsn) as service:
        for upgrade in ("x", "h2c", "websocket", "TLS/1.0"):
            for body in ((), ("Content-Length: 3",)):
                head = service.heartbeat("Connection: upgrade", f"Upgrade: {upgrade}", *body)
                late = service.heartbeat(device_id=service.victim_id)
                async with service.client() as client:
                    await client.send(head + (b"abc" if body else b"") + late[:30])
                    await client.send(late[30:] + late)
                    first, *others = await client.answers()
                assert (first.status, first.headers["connection"], others) == (204, "close", [])
        assert not service.was_touched(service.victim_id)
