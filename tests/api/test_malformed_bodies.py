"""What no sane client sends: each is refused clearly, or stored so that it can be listed again."""

import gzip
import json
import tracemalloc
import uuid
import zlib

import pytest
from aiohttp import ClientResponse
from aiohttp.compression_utils import ZLibDecompressor
from structlog.testing import capture_logs
from yarl import URL

from tests.support.service import REPORT, T0_MS, Service

REGISTER = "/api/v1/devices/register"
LOCATIONS = "/api/v1/locations"
BATCH = "/api/v1/locations/batch"
DEVICES = "/api/v1/devices"
NOBODY = "00000000-0000-0000-0000-000000000000"


async def send(service: Service, path: str, body: bytes, **headers: str) -> ClientResponse:
    """Post bytes as they are."""
    sent = {"Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.call("POST", path, data=body, headers=sent)


async def get(service: Service, path: str) -> ClientResponse:
    """Get a path that is sent as it is."""
    headers = {"X-API-Key": service.key}
    return await service.client.get(URL(path, encoded=True), headers=headers)


async def refusal(answer: ClientResponse) -> tuple[int, str, str]:
    """Return status, code and message of an error, which must have the shape of all errors."""
    assert answer.headers["X-Request-ID"]
    assert answer.content_type == "application/json"
    error = await answer.json()
    assert error.keys() == {"error", "message"}
    assert len(error["message"]) < 500
    return answer.status, error["error"], error["message"]


def an_object(body: dict[str, object], **raw: str) -> bytes:
    """Return an object of which some fields are given in the text that is sent."""
    fields = {name: json.dumps(value) for name, value in body.items()} | raw
    inside = ",".join(f'"{name}":{text}' for name, text in fields.items())
    return f"{{{inside}}}".encode("utf-8", "surrogatepass")


def a_registration(**raw: str) -> bytes:
    body = {"device_id": str(uuid.uuid4()), "display_name": "Phone", "group_id": "family"}
    return an_object(body, **raw)


def a_bomb(mebibytes: int, wbits: int) -> bytes:
    """Return blanks, compressed a thousandfold."""
    deflater = zlib.compressobj(9, wbits=wbits)
    blanks = b" " * (1 << 20)
    return b"".join(deflater.compress(blanks) for _ in range(mebibytes)) + deflater.flush()


@pytest.mark.parametrize("field", ["display_name", "group_id", "platform", "fcm_token"])
async def test_text_that_cannot_be_stored_is_refused(service, db, field):
    """NULs, lone surrogates raw and escaped, control characters, other types: 400, and no row."""
    for text in (
        *(
            '"a\\u0000b"',
            '"\\u0000\\u0000"',
            '"a\0b"',
            '"tab\tand\nline"',
            '"' + "x" * 500_000 + '"',
        ),
        *('"\\ud800"', '"\\udc00x"', '"\\ud800\\ud800"', '"ab\ud800"', '"\udfff\udfff"'),
        *('["Phone"]', "{}", "true", "12", "'Phone'", '"Phone', ""),
    ):
        answer = await send(service, REGISTER, a_registration(**{field: text}))
        status, error, message = await refusal(answer)
        assert (status, error) in ((400, "invalid_body"), (400, "invalid_json")), text
        assert error == "invalid_json" or f"`{field}`" in message, text
    assert await db.fetchval("SELECT count(*) FROM devices") == 0


async def test_strange_text_is_stored_and_listed_as_it_came(service):
    """Text is the client's own business, as long as Postgres can hold it."""
    names = [
        *("\u202eevil", "a\u0301\u0302\u0303" * 10, "\U0001f468\u200d\U0001f469", "\ufeff\ufffe"),
        *("'; DROP TABLE devices; --", "%s%n$1{0}", "\x7f\x80", "  ", "\U0010ffff" * 50, "a\nb"),
    ]
    for name in names:
        for text in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
            answer = await send(service, REGISTER, a_registration(display_name=text))
            assert answer.status == 200, name
    assert {device["display_name"] for device in await service.listing()} == set(names)


@pytest.mark.parametrize("field", ["timestamp", "latitude", "accuracy", "altitude"])
async def test_what_is_no_number_is_refused(service, db, field):
    """Not finite, not JSON, or longer than Python turns into an integer: 400, and no row."""
    device_id = await service.register()
    for text in (
        *("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "nan", "1e", ".5", "5.", "+1", "0x1"),
        *("01", "1_0", "\uff11", "--1", "1e999999999999", "9" * 400, "9" * 5000, "-" + "9" * 5000),
        *('"1"', '""', "true", "[1]", "{}", "1.5.5", ""),
    ):
        body = an_object({"device_id": device_id, **REPORT}, **{field: text})
        status, error, message = await refusal(await send(service, LOCATIONS, body))
        assert (status, error) in ((400, "invalid_body"), (400, "invalid_json")), text
        assert error == "invalid_json" or f"`{field}`" in message, text
    assert await db.fetchval("SELECT count(*) FROM locations") == 0


async def test_a_capture_time_is_refused_by_name_or_can_be_listed(service, db):
    """From 2000 to the end of 9999, in whole milliseconds; no track fails of it later."""
    device_id = await service.register()
    for text, shown in {
        "946684800000": 946684800000,
        "951782400001": 951782400001,
        "1633608001123.0": 1633608001123,
        "1e12": 1000000000000,
        "100000000000001": 100000000000001,
        "253402300799999": 253402300799999,
        "0": None,
        "-0": None,
        "1764150000": None,
        "946684799999": None,
        "946684799999.5": None,
        "1633608001123.5": None,
        "253402300799999.5": None,
        "-1": None,
        "-62135596800000": None,
        "253402300800000": None,
        "9223372036854775807": None,
        "9223372036854775808": None,
        "-9223372036854775809": None,
        "null": None,
    }.items():
        await db.execute("DELETE FROM locations")
        body = an_object({"device_id": device_id, **REPORT}, timestamp=text)
        answer = await send(service, LOCATIONS, body)
        if shown is None:
            status, _, message = await refusal(answer)
            assert (status, "`timestamp`" in message) == (400, True), text
        else:
            assert answer.status == 200, text
            track = await service.call("GET", f"/api/v1/locations?device_id={device_id}")
            assert [one["timestamp"] for one in (await track.json())["locations"]] == [shown]


async def test_the_ends_of_floating_point_are_stored(service, db):
    """Negative zero, the smallest, what rounds to zero, and the largest come back as they are."""
    device_id = await service.register()
    for text in ("-0.0", "5e-324", "1e-400", "1.7976931348623157e308", "0." + "1" * 5000):
        await db.execute("DELETE FROM locations")
        body = an_object({"device_id": device_id, **REPORT}, altitude=text)
        assert (await send(service, LOCATIONS, body)).status == 200, text
        assert repr(await db.fetchval("SELECT altitude FROM locations")) == repr(float(text))


@pytest.mark.parametrize("path", [REGISTER, LOCATIONS, BATCH])
async def test_what_is_no_such_object_is_refused(service, path):
    """Empty, marked, badly encoded, bottomless, of another shape: 400, and nothing is logged."""
    with capture_logs() as logs:
        for body in (
            *(b"", b" \n", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\0", b"{}\0", b"{} {}", b"{,}"),
            *(b'{"ignored":"\xff"}', b'{"ignored":"\xed\xa0\x80"}', b'{"\xc3":1}', b'{"a" 1}'),
            *(b"{'a':1}", b"/* comment */ {}", b"[]", b"[{}]", b'"{}"', b"null", b"0", b"{}"),
            b'{"device_id":{},"locations":{},"display_name":[]}',
            b"[" * 100_000,
            b"[" * 100_000 + b"]" * 100_000,
            b'{"ignored":' * 50_000 + b"1" + b"}" * 50_000,
            b'{"locations":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ):
            status, error, _ = await refusal(await send(service, path, body))
            assert (status, error) in ((400, "invalid_body"), (400, "invalid_json")), body[:50]
    assert logs == []


async def test_what_is_ignored_must_be_text_too(service):
    """A body that is not UTF-8 is no JSON, wherever the bad bytes are."""
    for text in ("\ud800", "\udcff"):
        body = a_registration(ignored=f'"{text}"')
        assert (await refusal(await send(service, REGISTER, body)))[:2] == (400, "invalid_json")
    body = a_registration(ignored='"x"').replace(b'"x"', b'"\xff"')
    assert (await refusal(await send(service, REGISTER, body)))[:2] == (400, "invalid_json")


async def test_of_a_field_that_is_there_twice_the_last_counts(service):
    """JSON leaves it open; this is what most do."""
    body = a_registration(display_name='"first"')[:-1] + b',"display_name":"second"}'
    assert (await send(service, REGISTER, body)).status == 200
    assert [device["display_name"] for device in await service.listing()] == ["second"]


async def test_fields_that_are_not_known_are_ignored(service):
    """A client that is newer than the service is served all the same."""
    body = a_registration(__proto__="{}", is_active="false", last_seen_at='"1970"', huge="1e999")
    assert (await send(service, REGISTER, body)).status == 200
    assert len(await service.listing()) == 1


async def test_a_batch_that_is_too_large_is_refused(service, db):
    """However small its reports are."""
    device_id = await service.register()
    for count in (51, 8000):
        reports = [{**REPORT, "timestamp": T0_MS + n} for n in range(count)]
        body = json.dumps({"device_id": device_id, "locations": reports}).encode()
        status, _, message = await refusal(await send(service, BATCH, body))
        assert (status, "`locations`" in message) == (400, True)
    assert await db.fetchval("SELECT count(*) FROM locations") == 0


async def test_another_content_type_is_415(service):
    """It is not guessed what a body might be."""
    for content_type in (
        *("text/plain", "text/json", "application/xml", "multipart/form-data; boundary=x"),
        *("application/x-www-form-urlencoded", "application/json-patch+json", "a", "/", ";", ""),
        *("application/jsonx", "json", "text/html, application/json", "\u00fc"),
    ):
        answer = await send(service, REGISTER, a_registration(), Content_Type=content_type)
        assert (await refusal(answer))[:2] == (415, "unsupported_media_type"), content_type


async def test_json_may_be_declared_in_every_legal_way(service):
    """Case and parameters make no difference."""
    for content_type in ("APPLICATION/JSON", "application/json;charset=utf-8", "application/json;"):
        answer = await send(service, REGISTER, a_registration(), Content_Type=content_type)
        assert answer.status == 200, content_type


async def test_a_compressed_body_is_read(service):
    """As gzip or deflate, as clients send it that have little radio time."""
    body = a_registration()
    for encoding, sent in (
        *(("gzip", gzip.compress(body)), ("GZIP", gzip.compress(body))),
        *(("deflate", zlib.compress(body)), ("identity", body)),
    ):
        answer = await send(service, REGISTER, sent, Content_Encoding=encoding)
        assert answer.status == 200, encoding
    assert len(await service.listing()) == 1


async def test_another_encoding_is_415(service):
    """What is not understood is not guessed either."""
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "x-gzip", "", "\u00fc"):
        answer = await send(service, REGISTER, a_registration(), Content_Encoding=encoding)
        assert (await refusal(answer))[:2] == (415, "unsupported_media_type"), encoding


async def test_a_body_that_is_not_compressed_as_it_says_is_400(service):
    """Cut off, with something after it, with a wrong checksum, or not compressed at all."""
    whole = gzip.compress(a_registration())
    for body in (
        *(b"", b"not compressed", whole[:-1], whole[:10], whole + b"more", whole * 2),
        zlib.compress(a_registration())[:-4] + b"\0\0\0\0",
    ):
        for encoding in ("gzip", "deflate"):
            answer = await send(service, REGISTER, body, Content_Encoding=encoding)
            assert (await refusal(answer))[:2] == (400, "invalid_body"), body[:20]
    assert await service.listing() == []


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
async def test_a_bomb_is_not_inflated_beyond_what_is_allowed(service, encoding, wbits):
    """A gibibyte in a mebibyte costs no more memory than an honest body."""
    bomb = a_bomb(1000, wbits)
    assert 1_000_000 < len(bomb) < service.settings.server.max_body_bytes
    tracemalloc.start()
    try:
        answer = await send(service, REGISTER, bomb, Content_Encoding=encoding)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (await refusal(answer))[:2] == (413, "body_too_large")
    assert peak_bytes < 16 << 20


async def test_the_server_inflates_nothing_by_itself(service, monkeypatch):
    """Else whoever has no key could make it work, and it would inflate on after a refusal."""
    inflated: list[object] = []
    monkeypatch.setattr(
        ZLibDecompressor, "decompress_sync", lambda *given, **_: inflated.append(given)
    )
    bomb = a_bomb(64, 31)
    for key, status in ((None, 413), ("ak_wrong", 401)):
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = await service.call("POST", REGISTER, key=key, data=bomb, headers=headers)
        assert answer.status == status
    assert inflated == []


async def test_a_limit_is_a_plain_number_or_refused(service):
    """One spelling of each number, and no other script's digits."""
    for limit in (
        *("%EF%BC%91", "+1", "%2B1", "%201", "1%20", "1_0", "1e3", "1.0", "01", "-0", "0x10", ""),
        *("null", "true", "9" * 400, "9" * 5000, "-1", "0", "10001", "%00", "1%0a", "%ff", "[1]"),
    ):
        answer = await get(service, f"{DEVICES}?group_id=family&limit={limit}")
        status, error, message = await refusal(answer)
        assert (status, error) == (400, "invalid_query"), limit
        assert "`limit`" in message


async def test_a_query_that_is_not_as_declared_is_refused(service):
    """A parameter that is there twice too: which one is meant is not ours to say."""
    for query in (
        *("group_id=family&group_id=family", "group_id=family&group_id=others"),
        *("group_id=family&group_id=", "group_id=family&limit=1&limit=1", "group_id[]=family"),
        *("GROUP_ID=family", "group_id", "group_id=%00%00", "group_id=fam%00ily", "&&&==&;"),
        *("group_id=%ff%fe", "group_id=%ed%a0%80", "group_id=family%0a", "group_id=" + "x" * 7000),
    ):
        answer = await get(service, f"{DEVICES}?{query}")
        assert (await refusal(answer))[:2] == (400, "invalid_query"), query


async def test_parameters_that_are_not_known_are_ignored(service):
    """As unknown fields are, even twice."""
    await service.register()
    answer = await get(service, f"{DEVICES}?group_id=family&a=1&a=%00&limits=0&=&%ff=1")
    assert len((await answer.json())["devices"]) == 1


async def test_a_strange_path_is_a_clear_error(service):
    """A path with an escape is none of ours, and no device has another id than a uuid."""
    with capture_logs() as logs:
        for path, expected in {
            f"{DEVICES}/%00": 404,
            f"{DEVICES}/%ff%fe": 404,
            f"{DEVICES}/%ed%a0%80": 404,
            f"{DEVICES}/%F0%9F%93%B1": 404,
            f"{DEVICES}/%zz": 404,
            f"{DEVICES}/%": 404,
            f"{DEVICES}/%7Bdevice_id%7D": 404,
            f"{DEVICES}/..%2f..%2fetc%2fpasswd": 404,
            f"{DEVICES}/{'a' * 7000}": 400,
            f"{DEVICES}/{'%61' * 2500}": 404,
            f"{DEVICES}/{NOBODY}%20": 404,
            f"{DEVICES}/{NOBODY}%2Fheartbeat": 404,
            f"{DEVICES}/{NOBODY}": 404,
            f"{DEVICES}/%30{NOBODY[1:]}": 404,
            f"{DEVICES}//heartbeat": 404,
            f"{DEVICES}/": 404,
            "/api/v1/../v1/devices": 400,  # the listing, which names no group
            "/api/v1/%64evices": 404,
            f"/{'a/' * 3500}": 404,
        }.items():
            status, _, _ = await refusal(await get(service, path))
            assert status == expected, path[:60]
    assert logs == []


async def test_a_device_header_that_is_no_uuid_is_400(service):
    """On a route that has nothing else to do with devices as well."""
    for device_id in ("", " ", "x", "\u00fc", "0" * 33, f"{{{NOBODY}}}", f"urn:uuid:{NOBODY}"):
        headers = {"X-Device-ID": device_id}
        answer = await service.call("GET", f"{DEVICES}?group_id=family", headers=headers)
        assert (await refusal(answer))[:2] == (400, "invalid_device_id"), device_id
