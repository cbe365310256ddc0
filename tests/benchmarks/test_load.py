"""The load generators: what they send, what they count, and when they end."""

import asyncio
import shutil
import time
from collections import Counter

import pytest
from aiohttp import web

from benchmarks.harness.load import Load, LoadFailedError, Request, bottleneck, load, paced

WRK = pytest.param(
    False,
    id="wrk",
    marks=pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
)
OWN = pytest.param(True, id="own")
either = pytest.mark.parametrize("own", [OWN, WRK])
CONNECTIONS = 3


@pytest.fixture
def serve(aiohttp_server):
    """Return a function that serves every path by a handler and returns the URL."""

    async def start(handler):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        return str((await aiohttp_server(app)).make_url(""))

    return start


def get(path: str) -> Request:
    return Request("GET", path, {})


async def fine(_request):
    return web.Response(status=204)


@either
async def test_requests_are_sent_in_turns(serve, own):
    """Every distinct request arrives as it is, and about as often as any other."""
    seen = Counter()

    async def handler(request):
        seen[request.method, request.path, request.headers["X-API-Key"], await request.text()] += 1
        return web.json_response({"some": "body"})

    requests = [Request("POST", f"/{n}", {"X-API-Key": f"k{n}"}, b"{%d}" % n) for n in range(7)]
    saw = await load(await serve(handler), requests, connections=CONNECTIONS, seconds=0.3, own=own)
    assert seen.keys() == {("POST", f"/{n}", f"k{n}", f"{{{n}}}") for n in range(7)}
    assert max(seen.values()) - min(seen.values()) <= 1 + CONNECTIONS
    assert saw.errors == 0
    assert 0 <= seen.total() - saw.requests <= CONNECTIONS
    assert saw.requests_per_s == saw.requests / saw.seconds
    assert 0 < saw.p50_ms <= saw.p99_ms <= saw.max_ms
    assert saw.generator_busy > 0
    assert saw.generator == ("own" if own else "wrk")


@either
async def test_responses_that_are_not_2xx_are_errors(serve, own):
    """Each counts as a request and as an error."""
    seen = Counter()

    async def handler(request):
        seen[request.path] += 1
        return web.Response(status=int(request.path[1:]))

    requests = [get("/200"), get("/204"), get("/404"), get("/503")]
    saw = await load(await serve(handler), requests, connections=CONNECTIONS, seconds=0.3, own=own)
    assert saw.errors > 0
    assert 0 <= seen["/404"] + seen["/503"] - saw.errors <= CONNECTIONS
    assert 0 <= seen.total() - saw.requests <= CONNECTIONS


@either
async def test_numbers_never_repeat(serve, own):
    """A request has its number in path and body, no other has it, nor has any of the next run."""
    seen = Counter()

    async def handler(request):
        body = await request.json()
        assert request.path == f"/{str(body['timestamp'])[4:]}"
        seen[body["timestamp"]] += 1
        return web.Response(status=204)

    headers = {"Content-Type": "application/json"}
    request = Request("POST", "/%N%", headers, b'{"timestamp": 1700%N%, "accuracy": 10}')
    url = await serve(handler)
    options = {"connections": CONNECTIONS, "seconds": 0.3, "own": own}
    one = await load(url, [request], first=40, **options)
    two = await load(url, [request], first=one.next_number, **options)
    assert one.errors == two.errors == 0
    assert set(seen.values()) == {1}
    assert min(seen) == 1_700_000_000_040
    assert max(seen) < 1_700_000_000_000 + two.next_number
    assert 0 <= len(seen) - one.requests - two.requests <= 2 * CONNECTIONS


@either
async def test_a_request_whose_connection_breaks_is_an_error(serve, own):
    """The connection is opened again, and the run goes on."""
    seen = Counter()

    async def handler(request):
        seen[request.path] += 1
        if request.path == "/broken":
            request.transport.close()
        return web.Response(status=204)

    requests = [get("/"), get("/broken"), get("/")]
    saw = await load(await serve(handler), requests, connections=CONNECTIONS, seconds=0.3, own=own)
    assert saw.errors > 0
    assert saw.requests > CONNECTIONS
    assert abs(seen["/broken"] - saw.errors) <= CONNECTIONS
    assert abs(seen["/"] - saw.requests) <= CONNECTIONS


@either
async def test_a_connection_may_be_closed_after_a_response(serve, own):
    """After a response with `Connection: close` the generator opens another connection."""

    async def handler(_request):
        response = web.Response(text="bye")
        response.force_close()
        return response

    saw = await load(await serve(handler), [get("/")], connections=2, seconds=0.3, own=own)
    assert saw.errors == 0
    assert saw.requests > 2


@pytest.fixture
async def hanging(serve):
    """Return the address of a service that accepts requests and never responds."""
    over = asyncio.Event()

    async def handler(_request):
        await over.wait()
        return web.Response(status=204)

    yield await serve(handler)
    over.set()


@either
async def test_a_service_that_hangs_ends_in_errors(hanging, own):
    """The run ends by itself, and requests without a response are errors."""
    saw = await load(hanging, [get("/")], connections=2, seconds=0.3, own=own)
    assert (saw.requests, saw.errors, saw.p99_ms) == (0, 2, 0)


async def test_a_due_request_without_a_response_is_an_error(hanging):
    """Requests that never got a connection count too."""
    saw = await paced(hanging, [get("/")], connections=2, seconds=0.3, rate_per_s=100)
    assert (saw.requests, saw.errors, saw.next_number) == (0, 30, 30)


@either
async def test_a_missing_server_is_a_failure(own, unused_tcp_port):
    """The error has what the generator said."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(LoadFailedError, match=f"connect to 127.0.0.1:{unused_tcp_port}"):
        await load(url, [get("/")], connections=2, seconds=0.3, own=own)


async def test_a_rate_is_kept(serve):
    """As many requests as fall due are sent, spread over the time."""
    times = []

    async def handler(_request):
        times.append(time.monotonic())
        return web.Response(status=204)

    url = await serve(handler)
    saw = await paced(url, [get("/")], connections=8, seconds=0.5, rate_per_s=200)
    assert (saw.requests, saw.errors, saw.next_number) == (100, 0, 100)
    assert len(times) == 100
    assert times[-1] - times[0] > 0.25
    assert saw.seconds >= 0.5


async def test_a_stall_delays_every_request_that_was_due_in_it(serve):
    """Requests that could not be sent for 0.3 s were late, though each had its response at once."""
    stalls = iter([0.3])

    async def handler(_request):
        await asyncio.sleep(next(stalls, 0))
        return web.Response(status=204)

    url = await serve(handler)
    saw = await paced(url, [get("/")], connections=1, seconds=0.5, rate_per_s=100)
    assert (saw.requests, saw.errors) == (50, 0)
    assert saw.p99_ms >= 290
    assert saw.p50_ms >= 40  # of 50 requests 30 were late, by 10 ms less each


def test_a_busy_generator_is_reported_as_the_bottleneck():
    """From 90 % of a core on, a sentence says so and what to do."""

    def busy(share: float, generator: str) -> str | None:
        return bottleneck(Load(1000, 0, 1.0, 1.0, 2.0, 3.0, generator, share, 1000))

    assert busy(0.9, "own") is None
    assert "97 % of the time: install wrk" in busy(0.97, "own")
    assert "97 %" in busy(0.97, "wrk")


def test_a_number_fits_the_content_length():
    """The length counts nine digits for every mark in the body, and none for the path's."""
    pieces = Request("POST", "/%N%", {"X-API-Key": "k"}, b"%N%,%N%").encode("localhost:80")
    head, _, body = b"000000007".join(pieces).partition(b"\r\n\r\n")
    assert body == b"000000007,000000007"
    assert head.split(b"\r\n") == [
        b"POST /000000007 HTTP/1.1",
        b"Host: localhost:80",
        b"Content-Length: 19",
        b"X-API-Key: k",
    ]
