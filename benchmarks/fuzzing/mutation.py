"""Sends malformed requests, which no schema describes, and checks what every response must have.

Accepted requests are mutated: bytes are removed, repeated and swapped, and values are replaced by
ones that are known to cause errors. Each stays valid HTTP, so it gets past the HTTP parser.
"""

import asyncio
import base64
import gzip
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, Final

import aiohttp
from yarl import URL

from benchmarks.fuzzing.contract import STREAM, Found, Sent

_AT_A_TIME: Final = 8
_LONGEST_BODY_BYTES: Final = 4096
"""Maximum size of a request to mutate; larger ones only take longer."""
_LONGEST_URL: Final = 6000
_VALUE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null')
_NASTY: Final = (
    *(b"", b"0", b"-0.0", b"1e400", b"-1e-400", b"NaN", b"Infinity", b"01", b"1.", b"0x10", b"1_0"),
    *(b"9" * 20, b"9" * 400, b"9" * 5000, b"9223372036854775808", b"253402300800000", b"-1"),
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b'" "',
        b'"a\\u0000b"',
        b'"ab\\ud800"',
        b'"a\0b"',
        b'"ab\xff"',
    ),
    *(
        b'"ab\xed\xa0\x80"',
        b'"\\x"',
        b'"',
        b"'x'",
        b"\xef\xbb\xbf",
        b"\0",
        b"," * 9,
        b":",
        b"]",
        b"}",
    ),
    *(b'"00000000-0000-0000-0000-000000000000"', b'"' + b"x" * 3000 + b'"', b"[" * 2000),
    *(b'{"a":' * 2000, b"/**/", b"1 2", b'"\\', b'"\\u12', b"\n", b"\xf0\x9f\x93\xb1"),
)
_NASTY_IN_URLS: Final = (
    *(
        "",
        "%00",
        "%ff",
        "%ed%a0%80",
        "%zz",
        "%",
        "%2f",
        "%2e%2e",
        "..",
        "%0d%0a",
        "%EF%BC%91",
        "+1",
    ),
    *("1e3", "1_0", "-1", "9" * 400, "x" * 3000, "null", "[]", "%7B%7D", "'", "%22", ";", "&", "="),
    *(
        "&limit=1",
        "&group_id=zz",
        "?",
        "/",
        "//",
        "%F0%9F%93%B1",
        "00000000-0000-0000-0000-000000000000",
    ),
)
_NASTY_HEADERS: Final = (
    *(("Content-Type", text) for text in ("", "text/plain", "application/json; charset=x", "/")),
    *(("Content-Encoding", text) for text in ("gzip", "deflate", "br", "identity", "", "x")),
    *(("X-Device-ID", text) for text in ("", "x", "\u00fc", "0" * 32, "0" * 5000, "null")),
    *(("X-API-Key", text) for text in ("", "x", "\u00fc", "ak_" + "x" * 43, " ")),
    *(("X-Request-ID", text) for text in ("", "a b", "\u00fc", "x" * 65, "a" * 64)),
    *(("Accept", text) for text in ("text/html", "", "\u00fc")),
)
_SOME_PATH: Final = "some path"
"""Stands for an unknown operation: a mutated path may match any or none."""
_OWN_BUSINESS: Final = ("content-length", "host", "connection", "transfer-encoding", "user-agent")


def broken(good: Sent, rng: Random) -> Sent:
    """Return a request with one or more mutations.

    Args:
        good: an accepted request.
        rng: the random source.
    """
    operation, url, headers, body = good.operation, good.url, dict(good.headers), good.body
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        what = rng.random()
        if body and what < 0.7:
            body = _broken_body(body[:_LONGEST_BODY_BYTES], rng)
        elif what < 0.8:
            operation, url = _SOME_PATH, _broken_url(url, rng)
        elif what < 0.95:
            name, text = rng.choice(_NASTY_HEADERS)
            headers[name] = text
        elif body:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1, mtime=0)[: rng.choice((None, None, 20, -1))]
    return Sent(operation, good.method, url[:_LONGEST_URL], headers, body)


def _broken_body(body: bytes, rng: Random) -> bytes:
    at, end = sorted((rng.randrange(len(body) + 1), rng.randrange(len(body) + 1)))
    values = list(_VALUE.finditer(body))
    match rng.choice((0, 1, 2, 3, 4, 5, 5, 5, 5)):  # a replaced value reaches the most code
        case 0:
            return body[:at]
        case 1:
            return body[:at] + body[end:]
        case 2:
            return body[:end] + body[at:]
        case 3:
            return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        case 4:
            return body[:at] + rng.choice(_NASTY) + body[at:]
        case _:
            if values:
                at, end = rng.choice(values).span()
            return body[:at] + rng.choice(_NASTY) + body[end:]


def _broken_url(url: str, rng: Random) -> str:
    start = url.index("/api") if "/api" in url else len(url)
    places = [match.span() for match in re.finditer(r"[^/?&=]+", url[start:])]
    if not places:
        return url
    at, end = rng.choice(places)
    return url[: start + at] + rng.choice(_NASTY_IN_URLS) + url[start + end :]


async def attack(url: str, requests: Iterable[Sent], documented: Mapping[str, set[int]]) -> Found:
    """Send requests, a few at a time, and check each response.

    Args:
        url: the service's address.
        requests: the requests.
        documented: the statuses of each operation, by method and path as in the document.
    """
    found, left = Found(), iter(requests)
    anywhere = set[int]().union(*documented.values()) | {405}

    async def client(session: aiohttp.ClientSession) -> None:
        for request in left:  # shared by all clients: each takes the next one
            expected = documented.get(request.operation, anywhere)
            status, problem = await _answered(session, request, expected)
            found.statuses[status] += 1
            if problem:
                found.failures.setdefault(f"{request.operation}: {problem}", as_curl(request))

    async with aiohttp.ClientSession(
        url, auto_decompress=False, skip_auto_headers=("Content-Type", "Accept-Encoding")
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(_AT_A_TIME)))
    return found


async def _answered(
    session: aiohttp.ClientSession, request: Sent, expected: set[int]
) -> tuple[int, str]:
    """Return the status of the response, 0 if there was none, and what is wrong with it."""
    headers = {
        name: text for name, text in request.headers.items() if name.lower() not in _OWN_BUSINESS
    }
    try:
        async with session.request(
            request.method, URL(request.url, encoded=True), headers=headers, data=request.body
        ) as response:
            endless = response.content_type == STREAM
            body = await (response.content.readany() if endless else response.read())
            return response.status, _wrong(response, body, expected)
    except (aiohttp.ClientError, TimeoutError) as error:
        return 0, f"no response: {type(error).__name__}"


def _wrong(response: aiohttp.ClientResponse, body: bytes, expected: set[int]) -> str:
    if response.status >= 500 or response.status not in expected:
        return f"status {response.status}"
    if "X-Request-ID" not in response.headers:
        return f"{response.status} without a request id"
    if b"Traceback" in body:
        return f"{response.status} with a traceback"
    if response.status >= 400 and response.method != "HEAD" and not _is_an_error(body):
        return f"{response.status} without the JSON body of an error"
    return ""


def _is_an_error(body: bytes) -> bool:
    try:
        error: Any = json.loads(body)
    except ValueError:
        return False
    return isinstance(error, dict) and error.keys() == {"error", "message"}


def as_curl(request: Sent) -> str:
    """Return a command that sends a request again."""
    headers = " ".join(
        f"-H {shlex.quote(f'{name}: {text}' if text else f'{name};')}"
        for name, text in request.headers.items()
        if name.lower() not in _OWN_BUSINESS
    )
    body = base64.b64encode(request.body).decode()
    return (
        f"echo {body} | base64 -d | curl -i -X {request.method} {headers} --data-binary @- "
        f"--path-as-is -g {shlex.quote(request.url)}"
    )
