"""Headers and versions of HTTP that mean something to proxies, frameworks and older servers."""

import re

import pytest

from tests.support.raw_client import Answer, ListeningService, listening

MARK = "zx81-marked"
MEANT_FOR_OTHERS = (
    f"Forwarded: for={MARK};host={MARK};proto=https",
    f"X-Forwarded-For: {MARK}, 127.0.0.1",
    f"X-Forwarded-Host: {MARK}",
    f"X-Forwarded-Prefix: /{MARK}",
    f"X-Forwarded-Server: {MARK}",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 443",
    f"X-Real-IP: {MARK}",
    f"True-Client-IP: {MARK}",
    f"Via: 1.1 {MARK}",
    "X-Original-URL: /metrics",
    "X-Rewrite-URL: /metrics",
    "X-HTTP-Method-Override: DELETE",
    "X-HTTP-Method: DELETE",
    "X-Method-Override: DELETE",
    f"Origin: https://{MARK}",
    f"Referer: https://{MARK}/",
    f"Cookie: X-API-Key={MARK}; session={MARK}",
    f"Authorization: Bearer {MARK}",
    f"Proxy-Authorization: Basic {MARK}",
    f"User-Agent: {MARK}",
    "Range: bytes=0-0",
    "If-Match: *",
    "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT",
    "Accept: application/xml;q=0.1",
    "Accept-Encoding: gzip, br, zstd",
    "Accept-Language: xx",
    "Max-Forwards: 0",
    "TE: trailers",
    "Early-Data: 1",
    f"Traceparent: {MARK}",
)
PATHS = ("/api/health", "/", "/page/app.js", "/nowhere", "/api/openapi.json")
KELVIN = "\u212a"
"""The sign of a unit, whose small letter is that of K."""


async def ask(
    service: ListeningService, *lines: str | bytes, version: str = "1.1", host: str = "Host: here"
) -> list[Answer]:
    """Send a request, a line at a time, and return all responses; lines may be any bytes."""
    first, *others = lines
    encoded = [one if isinstance(one, bytes) else one.encode() for one in others]
    head = [f"{first} HTTP/{version}".encode(), *([host.encode()] if host else []), *encoded]
    async with service.client() as client:
        await client.send(b"\r\n".join([*head, b"Connection: close", b"", b""]))
        return await client.answers()


async def test_headers_for_proxies_and_frameworks_are_ignored(dsn, capfd):
    """Not where a request is from, what it asks for, nor what is said of it."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        key = f"X-API-Key: {service.key}"
        listing = "GET /api/v1/devices?group_id=family"
        for line in (*(f"GET {path}" for path in PATHS), listing, "GET /api/v1/groups"):
            (plain,) = await ask(service, line, key)
            for more in (MEANT_FOR_OTHERS, *((one,) for one in MEANT_FOR_OTHERS)):
                (response,) = await ask(service, line, key, *more)
                assert (response.status, response.body) == (plain.status, plain.body), more
                assert response.headers.keys() == plain.headers.keys(), more
                assert MARK not in f"{response.headers}"
        (wrong,) = await ask(service, listing, *MEANT_FOR_OTHERS)
        assert wrong.status == 401
        (response,) = await ask(service, listing, key, host=f"Host: {MARK}")
        assert response.status == 200
        assert MARK not in f"{response}"
        assert MARK not in f"{await service.metrics()}"
        (response,) = await ask(service, f"GET /api/v1/devices/{service.device_id}", key)
        assert response.status == 200  # it has not been deleted by another name of a method
    assert MARK not in "".join(capfd.readouterr())


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "HTTP/1.1", "x" * 1000])
async def test_an_upgrade_is_ignored(dsn, protocol):
    """The response is that of the request without it, and the connection ends."""
    async with listening(dsn) as service:
        lines = [
            "Connection: Upgrade, HTTP2-Settings",
            f"Upgrade: {protocol}",
            "HTTP2-Settings: AAMAAABk",
        ]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        async with service.client() as client:
            await client.send(service.heartbeat(*lines))
            found = await client.answers()
        assert [response.status for response in found] == [204]
        assert "upgrade" not in found[0].headers
        await service.assert_serves()


NO_KEY_OF_OURS = {
    "a kelvin sign for a k": f"X-API-{KELVIN}ey".encode(),
    "a kelvin sign in Latin letters": f"X-API-{KELVIN}ey".encode("utf-16-le"),
    "a null": b"X-API-Key\0",
    "a null in front": b"\0X-API-Key",
    "a no-break space": b"X-API-Key\xa0",
    "quotes": b'"X-API-Key"',
    "brackets": b"(X-API-Key)",
    "a slash": b"X-API-Key/",
    "a tab": b"X-API-Key\t",
    "a space": b"X-API-Key ",
    "a vertical tab": b"X-API-Key\x0b",
    "a delete": b"X-API-Key\x7f",
    "bytes that are no UTF-8": b"X-API-K\xffey",
    "a comma": b"X-API-Key,",
    "at": b"@X-API-Key",
}


@pytest.mark.parametrize("name", NO_KEY_OF_OURS)
async def test_a_header_name_with_odd_bytes_is_rejected(dsn, name):
    """A name that another parser may read as a known header gets 400, and the connection ends."""
    async with listening(dsn) as service:
        line = NO_KEY_OF_OURS[name] + b": " + service.key.encode()
        responses = await ask(service, f"POST /api/v1/devices/{service.device_id}/heartbeat", line)
        assert [response.error for response in responses] == ["malformed_request"]
        assert not service.was_touched(service.device_id)


@pytest.mark.parametrize(
    "name", ["X_API_Key", "X-API-Key-", "XAPIKey", "HTTP_X_API_KEY", "X.API.Key"]
)
async def test_a_header_name_with_underscores_is_another_name(dsn, name):
    """Some servers read underscores and hyphens alike."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        path = f"POST /api/v1/devices/{service.device_id}/heartbeat"
        (response,) = await ask(service, path, f"{name}: {service.key}")
        assert response.error == "unauthorized"
        (response,) = await ask(service, path, f"x-api-KEY: {service.key}")
        assert response.status == 204


@pytest.mark.parametrize(
    "framing", [f"chun{KELVIN}ed", "chunked\u00a0", "\u00a0chunked", "CHUNKED;q=1"]
)
async def test_an_encoding_similar_to_chunked_is_rejected(dsn, framing):
    """Another reader would find another end of the body."""
    async with listening(dsn) as service, service.client() as client:
        line = f"Transfer-Encoding: {framing}"
        await client.send(
            service.heartbeat(line) + b"0\r\n\r\n" + service.heartbeat(device_id=service.victim_id)
        )
        answers = await client.answers()
        assert [response.status for response in answers if response.status != 204] == [400]
        assert not service.was_touched(service.victim_id)


async def test_http_1_0_is_served_and_ends_its_connection(dsn):
    """It needs no `Host`, and is kept alive only if the client asks for that."""
    async with listening(dsn, keepalive_timeout_s=30) as service:
        path = f"POST /api/v1/devices/{service.device_id}/heartbeat"
        key = f"X-API-Key: {service.key}"
        for host in ("", "Host: here"):
            (answer,) = await ask(service, path, key, version="1.0", host=host)
            assert answer.status == 204
        old = service.heartbeat("Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        async with service.client() as client:
            for _ in range(2):
                await client.send(old)
                answer = await client.answer()
                assert answer.status == 204
                assert answer.headers["connection"].lower() == "keep-alive"
        following = old.replace(b"Connection: keep-alive\r\n", b"")
        async with service.client() as client:
            await client.send(following + service.heartbeat(device_id=service.victim_id))
            # What follows the end of a connection, in one packet with it, makes all of it no HTTP.
            assert [answer.status for answer in await client.answers()] == [400]
        assert not service.was_touched(service.victim_id)


async def test_absolute_and_authority_form_reach_nothing_else(dsn):
    """The host of a target gets no request, and no tunnel is opened."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        key = f"X-API-Key: {service.key}"
        path = f"/api/v1/devices/{service.device_id}/heartbeat"
        for target in (
            f"http://{MARK}{path}",
            f"https://{MARK}:1{path}",
            f"HTTP://user@{MARK}{path}",
        ):
            (response,) = await ask(service, f"POST {target}", key)
            assert response.status in (204, 400), target
            assert MARK not in f"{response}"
        for line in ("CONNECT 127.0.0.1:5432", "CONNECT here:80", f"GET {MARK}:80", "GET *"):
            responses = await ask(service, line, key)
            assert len(responses) == 1
            assert responses[0].status in (400, 404), line
            assert responses[0].error
        (response,) = await ask(service, f"GET http://{MARK}/metrics", key)
        assert not re.search(MARK, response.body.decode())
