"""`python -m api status` requests the right address, and withstands any response."""

import asyncio
import gzip
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from api.config import ServerSettings
from api.status.client import Sample, default_url, open_session, read_url, take_sample
from tests.support.command_line import run
from tests.support.status_client import READY, Stub, shown, watching


@asynccontextmanager
async def answering(*answers: bytes, then_endless: bytes = b""):
    """Send bytes in response to any request, and optionally more without end."""

    async def send(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            for response in answers:
                writer.write(response)
                await writer.drain()
            while then_endless:
                writer.write(then_endless)
                await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(send, "127.0.0.1", 0)
    async with server:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def sampled(url: URL, timeout_s: float = 30.0) -> Sample:
    async with open_session() as session:
        return await take_sample(session, url, timeout_s)


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("127.0.0.1:1", 1, "Connection refused"),
        ("ftp://127.0.0.1", 2, "an address like"),
        ("http://127.0.0.1:99999", 2, "an address like"),
        ("http://[::1", 2, "an address like"),
        ("http://host/?a=b", 2, "an address like"),
        ("", 2, "an address like"),
    ],
)
def test_a_wrong_address_is_reported_in_one_line(url, code, said):
    """A refused connection is a result, with exit code 1; a malformed address is wrong usage, 2."""
    done = run("status", "--url", url, FORCE_COLOR="1")  # which makes no terminal of a pipe
    assert done.returncode == code
    assert said in " ".join((done.stdout + done.stderr).split())
    if code == 2:
        assert len(done.stderr.splitlines()) == 1


def test_an_unresolvable_host_names_the_setting():
    """The address is not from the command line."""
    done = run("status", ACTIVITY__SERVER__HOST="my host")
    assert done.returncode == 2
    assert "error: server.host" in done.stderr


def test_the_default_address_is_that_of_the_settings():
    """The port for metrics if there is one; loopback if it listens everywhere."""
    for settings, url in (
        ({}, "http://127.0.0.1:8080"),
        ({"host": "0.0.0.0", "port": 81}, "http://127.0.0.1:81"),  # noqa: S104
        ({"host": "::"}, "http://[::1]:8080"),
        ({"host": "10.1.2.3"}, "http://10.1.2.3:8080"),
        ({"monitor_port": 9, "monitor_host": "localhost"}, "http://localhost:9"),
    ):
        assert str(default_url(ServerSettings(**settings))) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:81", "http://localhost:81/"),
        ("https://host", "https://host/"),
        ("http://host:81/metrics", "http://host:81/"),
        ("http://host/inside/api/health/ready", "http://host/inside"),
        ("http://host/inside/", "http://host/inside"),
    ],
)
def test_an_address_may_have_no_scheme_or_a_path(text, url):
    """Without a scheme, or with what Prometheus or a load balancer asks."""
    assert str(read_url(text)) == url


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
PLAIN = HEAD + b"\r\n"


@pytest.mark.parametrize(
    ("answers", "endless", "timeout_s", "error"),
    [
        ([PLAIN], b"a 1\n" * 10_000, 30.0, "more than 4 MiB"),
        ([HEAD], b"X: y\r\n" * 1000, 30.0, "http://"),
        ([PLAIN], b"", 0.2, "no response within 0.2 s"),
        ([PLAIN, b"<html>"], b"", 0.2, "no response within 0.2 s"),
        ([b"SSH-2.0-OpenSSH\r\n"], b"", 30.0, "http://"),
        ([HEAD + b"Content-Length: 6\r\n\r\n<html>"], b"", 30.0, "not as this service does"),
        ([HEAD + b"Content-Length: 6\r\n\r\n[1, 2]"], b"", 30.0, "not as this service does"),
        ([HEAD + b"Content-Length: 2\r\n\r\n\xff\xfe"], b"", 30.0, "not as this service does"),
        (
            [b"HTTP/1.1 302 No\r\nLocation: http://\x1b[2J/\r\nContent-Length: 0\r\n\r\n"],
            b"",
            30.0,
            "http://",
        ),
        (
            [b"HTTP/1.1 301 Moved\r\nLocation: https://o.example/\r\nContent-Length: 0\r\n\r\n"],
            b"",
            30.0,
            "redirects to https://o.example/",
        ),
        ([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], b"", 30.0, "responds with 404"),
    ],
)
async def test_a_response_is_read_until_a_deadline(answers, endless, timeout_s, error):
    """In one line each, within a time, and never more than some MiB."""
    async with answering(*answers, then_endless=endless) as url:
        seen = await sampled(url, timeout_s)
    assert (seen.readiness, seen.metrics) == (None, None)
    for said in (seen.error, seen.metrics_error):
        assert said.isprintable()
        assert len(said) < 800
    assert error in seen.error


async def test_a_compressed_response_is_not_inflated():
    """A few kilobytes of gzip may be gigabytes of zeros."""
    body = gzip.compress(bytes(50_000_000))
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with answering(head, body) as url:
        seen = await sampled(url)
    assert "not as this service does" in seen.error
    assert "not in Prometheus's text format" in seen.metrics_error


async def test_control_characters_and_long_texts_do_not_reach_the_terminal():
    """Neither cursor movements nor walls of text, in whatever is shown."""
    stub, evil = Stub(), "\x1b[2J\x9b31m\r\n\u202e" + "x" * 10_000
    stub.ready = web.json_response(
        {"status": "not_ready", "problems": [evil], "warnings": [evil], "details": {evil: evil}},
        status=503,
    )
    label = evil.replace("\n", "\\n")
    stub.metrics = f'activity_build_info{{version="{label}"}} 1\n' + "".join(
        f'{name}{{target="{label}{n}",reason="{label}",listener="{label}",pool="{label}"}} 1\n'
        for name in (
            "activity_touches_total",
            "activity_touches_dropped_total",
            "http_connections",
            "database_in_use_connections",
        )
        for n in range(100)
    )
    async with stub.serving() as url, watching(url) as sample_again:
        text = shown(await sample_again())
    assert text.replace("\n", "").isprintable()
    assert len(text) < 50_000


async def test_metrics_on_another_port_are_reported_with_a_hint():
    """With a port for metrics, the API's port has none: the hint says where to look."""
    app = web.Application()

    async def ready(_request):
        return web.json_response(READY)

    app.router.add_get("/api/health/ready", ready)
    async with TestServer(app) as server, watching(server.make_url("")) as sample_again:
        state = await sample_again()
    assert (state.state, state.figures) == ("ready", None)
    (finding,) = state.findings
    assert "server.monitor_port" in finding.text
