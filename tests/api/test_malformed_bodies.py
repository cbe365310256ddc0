"""Unusual and malformed bodies: each is rejected with 4xx, or stored so that it can be listed."""

import json

import pytest
from structlog.testing import capture_logs

from tests.support.malformed import (
    BATCH,
    LOCATIONS,
    REGISTER,
    a_registration,
    an_object,
    refusal,
    send,
)
from tests.support.service import REPORT, T0_MS


@pytest.mark.parametrize("field", ["display_name", "group_id", "platform", "fcm_token"])
async def test_text_that_cannot_be_stored_is_rejected(service, db, field):
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
        response = await send(service, REGISTER, a_registration(**{field: text}))
        status, error, message = await refusal(response)
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
            response = await send(service, REGISTER, a_registration(display_name=text))
            assert response.status == 200, name
    assert {device["display_name"] for device in await service.listing()} == set(names)


@pytest.mark.parametrize("field", ["timestamp", "latitude", "accuracy", "altitude"])
async def test_an_invalid_number_is_rejected(service, db, field):
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


async def test_a_capture_time_is_rejected_or_can_be_listed(service, db):
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
        response = await send(service, LOCATIONS, body)
        if shown is None:
            status, _, message = await refusal(response)
            assert (status, "`timestamp`" in message) == (400, True), text
        else:
            assert response.status == 200, text
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
async def test_a_body_of_another_shape_is_rejected(service, path):
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


async def test_ignored_fields_must_be_valid_text_too(service):
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


async def test_a_batch_that_is_too_large_is_rejected(service, db):
    """However small its reports are."""
    device_id = await service.register()
    for count in (51, 8000):
        reports = [{**REPORT, "timestamp": T0_MS + n} for n in range(count)]
        body = json.dumps({"device_id": device_id, "locations": reports}).encode()
        status, _, message = await refusal(await send(service, BATCH, body))
        assert (status, "`locations`" in message) == (400, True)
    assert await db.fetchval("SELECT count(*) FROM locations") == 0
