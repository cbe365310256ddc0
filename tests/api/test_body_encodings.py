"""Content types and compressed bodies: read up to the limit, or rejected."""

import gzip
import tracemalloc
import zlib

import pytest
from aiohttp.compression_utils import ZLibDecompressor

from tests.support.malformed import (
    REGISTER,
    a_bomb,
    a_registration,
    refusal,
    send,
)


async def test_another_content_type_is_415(service):
    """It is not guessed what a body might be."""
    for content_type in (
        *("text/plain", "text/json", "application/xml", "multipart/form-data; boundary=x"),
        *("application/x-www-form-urlencoded", "application/json-patch+json", "a", "/", ";", ""),
        *("application/jsonx", "json", "text/html, application/json", "\u00fc"),
    ):
        response = await send(service, REGISTER, a_registration(), Content_Type=content_type)
        assert (await refusal(response))[:2] == (415, "unsupported_media_type"), content_type


async def test_json_may_be_declared_in_every_legal_way(service):
    """Case and parameters make no difference."""
    for content_type in ("APPLICATION/JSON", "application/json;charset=utf-8", "application/json;"):
        response = await send(service, REGISTER, a_registration(), Content_Type=content_type)
        assert response.status == 200, content_type


async def test_a_compressed_body_is_read(service):
    """As gzip or deflate, as clients send it that have little radio time."""
    body = a_registration()
    for encoding, sent in (
        *(("gzip", gzip.compress(body)), ("GZIP", gzip.compress(body))),
        *(("deflate", zlib.compress(body)), ("identity", body)),
    ):
        response = await send(service, REGISTER, sent, Content_Encoding=encoding)
        assert response.status == 200, encoding
    assert len(await service.listing()) == 1


async def test_another_encoding_is_415(service):
    """What is not understood is not guessed either."""
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "x-gzip", "", "\u00fc"):
        response = await send(service, REGISTER, a_registration(), Content_Encoding=encoding)
        assert (await refusal(response))[:2] == (415, "unsupported_media_type"), encoding


async def test_a_body_that_is_not_compressed_as_it_says_is_400(service):
    """Cut off, with something after it, with a wrong checksum, or not compressed at all."""
    whole = gzip.compress(a_registration())
    for body in (
        *(b"", b"not compressed", whole[:-1], whole[:10], whole + b"more", whole * 2),
        zlib.compress(a_registration())[:-4] + b"\0\0\0\0",
    ):
        for encoding in ("gzip", "deflate"):
            response = await send(service, REGISTER, body, Content_Encoding=encoding)
            assert (await refusal(response))[:2] == (400, "invalid_body"), body[:20]
    assert await service.listing() == []


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
async def test_a_compressed_body_is_not_inflated_beyond_the_limit(service, encoding, wbits):
    """A gibibyte in a mebibyte takes no more memory than other bodies."""
    bomb = a_bomb(1000, wbits)
    assert 1_000_000 < len(bomb) < service.settings.server.max_body_bytes
    tracemalloc.start()
    try:
        response = await send(service, REGISTER, bomb, Content_Encoding=encoding)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (await refusal(response))[:2] == (413, "body_too_large")
    assert peak_bytes < 16 << 20


async def test_the_server_inflates_nothing_by_itself(service, monkeypatch):
    """Otherwise requests without a key would cost CPU time, also after they were rejected."""
    inflated: list[object] = []
    monkeypatch.setattr(
        ZLibDecompressor, "decompress_sync", lambda *given, **_: inflated.append(given)
    )
    bomb = a_bomb(64, 31)
    for key, status in ((None, 413), ("ak_wrong", 401)):
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await service.call("POST", REGISTER, key=key, data=bomb, headers=headers)
        assert response.status == status
    assert inflated == []
