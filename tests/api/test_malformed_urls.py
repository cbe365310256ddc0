"""Malformed queries, paths and headers."""

from structlog.testing import capture_logs

from tests.support.malformed import (
    DEVICES,
    NOBODY,
    get,
    refusal,
)


async def test_a_limit_is_a_plain_number_or_rejected(service):
    """One spelling of each number, and no other script's digits."""
    for limit in (
        *("%EF%BC%91", "+1", "%2B1", "%201", "1%20", "1_0", "1e3", "1.0", "01", "-0", "0x10", ""),
        *("null", "true", "9" * 400, "9" * 5000, "-1", "0", "10001", "%00", "1%0a", "%ff", "[1]"),
    ):
        response = await get(service, f"{DEVICES}?group_id=family&limit={limit}")
        status, error, message = await refusal(response)
        assert (status, error) == (400, "invalid_query"), limit
        assert "`limit`" in message


async def test_a_query_that_is_not_as_declared_is_rejected(service):
    """A parameter that appears twice, too: which one is meant is unknown."""
    for query in (
        *("group_id=family&group_id=family", "group_id=family&group_id=others"),
        *("group_id=family&group_id=", "group_id=family&limit=1&limit=1", "group_id[]=family"),
        *("GROUP_ID=family", "group_id", "group_id=%00%00", "group_id=fam%00ily", "&&&==&;"),
        *("group_id=%ff%fe", "group_id=%ed%a0%80", "group_id=family%0a", "group_id=" + "x" * 7000),
    ):
        response = await get(service, f"{DEVICES}?{query}")
        assert (await refusal(response))[:2] == (400, "invalid_query"), query


async def test_parameters_that_are_not_known_are_ignored(service):
    """As unknown fields are, even twice."""
    await service.register()
    response = await get(service, f"{DEVICES}?group_id=family&a=1&a=%00&limits=0&=&%ff=1")
    assert len((await response.json())["devices"]) == 1


async def test_an_escaped_or_malformed_path_is_a_4xx(service):
    """No route has an escape in its path, and a device id is a uuid."""
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
        response = await service.call("GET", f"{DEVICES}?group_id=family", headers=headers)
        assert (await refusal(response))[:2] == (400, "invalid_device_id"), device_id
