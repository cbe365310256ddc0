"""Malformed bytes get a 4xx or a closed connection, and never make a further request.

Many are followed by a heartbeat of another device: if that were smuggled past the end of a
request, any request could be.
"""

import random

import pytest

from tests.support.raw_client import Answer, ListeningService, listening

CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


async def sent(service: ListeningService, data: bytes) -> list[Answer]:
    """Return all answers to some bytes, after which the connection is closed."""
    async with service.client() as client:
        await client.send(data)
        return await client.answers()


FRAMINGS = {
    "two lengths that agree": (["Content-Length: 3", "Content-Length: 3"], b"abc"),
    "two lengths that do not": (["Content-Length: 3", "Content-Length: 0"], b"abc"),
    "a list of lengths": (["Content-Length: 3, 3"], b"abc"),
    "length, then chunks": (["Content-Length: 5", CHUNKED], END),
    "chunks, then length": ([CHUNKED, "Content-Length: 5"], END),
    "two encodings": ([CHUNKED, "Transfer-Encoding: identity"], END),
    "two encodings reversed": (["Transfer-Encoding: identity", CHUNKED], END),
    "an encoding of its own": (["Transfer-Encoding: xchunked"], END),
    "chunked twice": (["Transfer-Encoding: chunked, chunked"], END),
    "chunked first": (["Transfer-Encoding: chunked, identity"], END),
    "chunked in quotes": (['Transfer-Encoding: "chunked"'], END),
    "chunked after a vertical tab": (["Transfer-Encoding: \x0bchunked"], END),
    "chunked with a null": (["Transfer-Encoding: chunked\0"], END),
    "a space before the colon": (["Transfer-Encoding : chunked"], END),
    "a tab before the colon": (["Content-Length\t: 3"], b"abc"),
    "an encoding folded": (["Transfer-Encoding:", " chunked"], END),
    "a header folded": (["X-A: b", " c"], b""),
    "a header that starts with a space": ([" X-A: b"], b""),
    "a bare line feed": (["X-A: b\nTransfer-Encoding: chunked"], END),
    "a bare carriage return": (["X-A: b\rTransfer-Encoding: chunked"], END),
    "a null in a value": (["X-A: b\0c"], b""),
    "a null in a name": (["X\0A: b"], b""),
    "no name": ([": b"], b""),
    "no colon": (["X-A"], b""),
    "a negative length": (["Content-Length: -1"], b""),
    "a length with a plus": (["Content-Length: +3"], b"abc"),
    "a length in hex": (["Content-Length: 0x3"], b"abc"),
    "an exponent": (["Content-Length: 3e0"], b"abc"),
    "a length with an underscore": (["Content-Length: 1_0"], b"0123456789"),
    "an empty length": (["Content-Length: "], b""),
    "a length that overflows": (["Content-Length: 18446744073709551619"], b"abc"),
    "a length beside an upgrade": (
        ["Connection: upgrade", "Upgrade: x", "Content-Length: 3", CHUNKED],
        b"abc",
    ),
    "a second host": (["Host: there"], b""),
    "a chunk that overflows": ([CHUNKED], b"FFFFFFFFFFFFFFFFF\r\n"),
    "a chunk that wraps around": ([CHUNKED], b"10000000000000000\r\n"),
    "a negative chunk": ([CHUNKED], b"-1\r\n\r\n"),
    "a chunk in hex with a prefix": ([CHUNKED], b"0x3\r\nabc\r\n" + END),
    "chunks between line feeds": ([CHUNKED], b"3\nabc\n0\n\n"),
    "a chunk that is longer than it says": ([CHUNKED], b"3\r\nabcdef\r\n" + END),
    "a chunk with a space": ([CHUNKED], b"3 \r\nabc\r\n" + END),
    "trailers without end": ([CHUNKED], b"0\r\n" + b"X-A: b\r\n" * 5000),
}


@pytest.mark.parametrize("name", ["heartbeat", "upload"])
async def test_no_request_is_smuggled_past_the_end_of_another(dsn, name):
    """Two readings of where a body ends are none: 400, closed, and what follows is not read."""
    async with listening(dsn) as service:
        outcomes = {}
        head = service.heartbeat if name == "heartbeat" else service.upload
        for case, (headers, body) in FRAMINGS.items():
            responses = await sent(
                service, head(*headers) + body + service.heartbeat(device_id=service.victim_id)
            )
            # A heartbeat has no use for its body, and may be answered before that is seen.
            outcomes[case] = [
                response.error
                for response in responses
                if (name, response.status) != ("heartbeat", 204)
            ]
        expected = {case: ["malformed_request"] for case in FRAMINGS}
        assert outcomes == expected
        assert not service.was_touched(service.victim_id)
        await service.assert_serves()


async def test_a_body_is_not_read_as_a_request(dsn):
    """A request in another's body stays there, also if the first is rejected before it is read."""
    async with listening(dsn, keepalive_timeout_s=0.5) as service:
        inner = service.heartbeat(device_id=service.victim_id)
        length = f"Content-Length: {len(inner)}"
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
        wrong = service.heartbeat(length).replace(service.key.encode(), b"wrong")
        for data, status in (
            (service.heartbeat(length) + inner, 204),
            (service.heartbeat("transfer-ENCODING:\tChunked ") + chunked, 204),
            (wrong + inner, 401),
            (service.upload(length) + inner, 400),
            (service.heartbeat(CHUNKED, "X-A: b").replace(b"1.1\r", b"1.0\r") + chunked, 204),
            (service.heartbeat("Content-Length: 18446744073709551615") + inner, 204),
        ):
            first, *others = await sent(service, data)
            assert first.status == status
            assert [
                response.status for response in others if response.status not in (408, 431)
            ] == []
        assert not service.was_touched(service.victim_id)


STARTS = {
    "garbage": b"\x00\x01\x02\x03\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/2 by name": b"GET /api/health HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /api/health\r\n\r\n",
    "HTTP/1.2": b"GET /api/health HTTP/1.2\r\nHost: a\r\n\r\n",
    "half a version": b"GET /api/health HTTP/1\r\nHost: a\r\n\r\n",
    "no such method": b"BREW /api/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"get /api/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space first": b" GET /api/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "line feeds alone": b"GET /api/health HTTP/1.1\nHost: a\n\n",
    "no host": b"GET /api/health HTTP/1.1\r\n\r\n",
    "an asterisk to get": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "another authority": b"GET evil:80/api/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a raw byte in the path": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in the path": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a proxy's greeting": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /api/health HTTP/1.1\r\n\r\n",
    "200 headers": b"GET /api/health HTTP/1.1\r\nHost: a\r\n" + b"X: b\r\n" * 200 + b"\r\n",
}


async def test_malformed_http_is_400_with_a_json_error(dsn):
    """Without a trace, without what the parser thinks, without the names of our libraries."""
    async with listening(dsn) as service:
        for following in (b"", service.heartbeat()):
            outcomes = {}
            for case, data in STARTS.items():
                responses = await sent(service, data + following)
                outcomes[case] = [(response.status, response.error) for response in responses]
                for response in responses:
                    said = f"{response.headers}{response.body}".lower()
                    assert not [word for word in ("python", "aiohttp", "traceback") if word in said]
            assert outcomes == {case: [(400, "malformed_request")] for case in STARTS}
        assert not service.was_touched(service.device_id)
        metrics = await service.metrics()
        counted = metrics.total("http_request_duration_seconds_count", status="400")
        assert counted == 2 * len(STARTS)
        await service.assert_serves()


async def test_headers_that_are_too_large_are_431(dsn):
    """A line, all lines together, and what has no end."""
    async with listening(dsn) as service:
        for data in (
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            service.heartbeat("X-A: " + "a" * 9000),
            service.heartbeat(*(f"X-{number}: " + "a" * 4000 for number in range(20))),
            b"GET / HTTP/1.1\r\n" + b"\r\n".join(b"X: " + b"a" * 4000 for _ in range(100)),
            b"\r\n" * 100_000,
        ):
            response, *others = await sent(service, data)
            assert (response.status, response.error, others) == (431, "headers_too_large", [])
        # More than is read before the answer: it may be lost to the reset, the connection must be.
        for endless in (b"GET / HTTP/1.1\r\nX: ", b"GET /", b"X"):
            await sent(service, endless + b"a" * 5_000_000)
        await sent(service, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: b\r\n" * 10_000 + b"\r\n")
        assert not service.was_touched(service.device_id)
        await service.assert_serves()


async def test_odd_request_targets_get_normal_responses(dsn):
    """Absolute, encoded, overlong, for a proxy: no 5xx, and no way around the key."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        device = service.device_id
        for line, statuses in (
            (f"POST http://evil/api/v1/devices/{device}/heartbeat", (401, 204)),
            (f"POST /api/v1/devices/%{ord(device[0]):x}{device[1:]}/heartbeat", (404, 404)),
            (f"POST /api/v1/devices/{device}%2fheartbeat", (404, 404)),
            (f"POST /api/health/../v1/devices/{device}/heartbeat", (401, 404)),
            (f"POST //api/v1/devices/{device}/heartbeat", (401, 404)),
            ("GET /api/health/%2e%2e/v1/devices?group_id=family", (404, 404)),
            ("GET /%zz%c0%af%00%0d%0a", (404, 404)),
            ("GET /api/v1/devices?group%5Fid=f%61mily", (401, 200)),
            ("GET /api/v1/devices/" + "a" * 8000, (401, 400)),
            ("GET /" + "/" * 8000, (401, 404)),
            ("TRACE /api/v1/devices", (401, 405)),
            ("OPTIONS *", (401, 404)),
            ("CONNECT evil:80", (401, 404)),
            ("CONNECT /api/v1/devices", (401, 404)),
        ):
            found = []
            for key in ("wrong", service.key):
                head = f"{line} HTTP/1.1\r\nHost: here\r\nX-API-Key: {key}\r\n\r\n"
                (response,) = await sent(service, head.encode())
                found.append(response.status)
                if response.status >= 400:
                    assert response.error
            assert tuple(found) == statuses, line


async def test_a_single_valued_header_that_appears_twice_is_rejected(dsn):
    """Which of two devices was meant is not guessed, nor which of two keys."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        for header, status, code in (
            (f"X-Device-ID: {service.victim_id}", 400, "invalid_device_id"),
            (f"X-API-Key: {service.key}", 401, "unauthorized"),
        ):
            (response,) = await sent(service, service.heartbeat(header, header))
            assert (response.status, response.error) == (status, code)
        assert not service.was_touched(service.victim_id)
        assert not service.was_touched(service.device_id)


async def test_requests_in_one_packet_are_answered_in_order_and_counted_each(dsn):
    """More than are read at once, with one that is rejected among them."""
    async with listening(dsn) as service, service.client() as client:
        before = service.touches()
        ids = [f"request-{number}" for number in range(200)]
        wrong = "X-Device-ID: no uuid"
        await client.send(
            b"".join(
                service.heartbeat(f"X-Request-ID: {each}", *([wrong] if each == ids[50] else []))
                for each in ids
            )
        )
        responses = [await client.answer() for _ in ids]
        assert [answer.headers["x-request-id"] for answer in responses] == ids
        assert [answer.status for answer in responses] == [*[204] * 50, 400, *[204] * 149]
        after = service.touches()
        assert after["devices"] - before["devices"] == 199
        assert after["api_keys"] - before["api_keys"] == 200


async def test_an_error_among_pipelined_requests_is_the_last_response(dsn):
    """Nothing after it is read, nor are those run that came in the very packet with it."""
    async with listening(dsn) as service:
        good, bad = service.heartbeat(), service.heartbeat("Content-Length: x")
        late = service.heartbeat(device_id=service.victim_id)
        async with service.client() as client:
            await client.send(good * 3)
            assert [(await client.answer()).status for _ in range(3)] == [204] * 3
            await client.send(late + bad + late)
            assert [answer.status for answer in await client.answers()] == [400]
        assert not service.was_touched(service.victim_id)


async def test_a_flood_of_malformed_requests_logs_one_line(dsn, capsys):
    """Not one for each."""
    async with listening(dsn) as service:
        for _ in range(50):
            await sent(service, b"\r\rrubbish\r\n\r\n")
    assert capsys.readouterr().out.count("requests.unparsed") == 1


@pytest.mark.parametrize("seed", range(3))
async def test_random_bytes_never_hang_or_crash_the_service(dsn, seed):
    """Nor do valid requests with some changed bytes."""
    rng = random.Random(seed)
    limits = {"header_timeout_s": 0.05, "body_timeout_s": 0.05, "keepalive_timeout_s": 0.05}
    async with listening(dsn, **limits) as service:
        good = [
            service.heartbeat(),
            service.upload("Content-Length: 2") + b"{}",
            service.upload(CHUNKED) + b"2\r\n{}\r\n0\r\n\r\n",
        ]
        for number in range(100):
            data = bytearray(
                rng.randbytes(rng.randrange(1, 2000))
                if number % 3 == 0
                else rng.choice(good) * rng.randrange(1, 4)
            )
            for _ in range(rng.randrange(4)):
                data[rng.randrange(len(data))] = rng.choice(b"\r\n\0 :;,%x\xff\t")
            async with service.client() as client:
                await client.send(bytes(data))
                for response in await client.answers():
                    assert response.status < 500, data
                    if response.status >= 400:
                        assert response.error
        await service.assert_serves()
