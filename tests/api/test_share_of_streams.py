"""One API key that opens many live streams leaves room for others."""

from contextlib import AsyncExitStack

from tests.support.service import running
from tests.support.sse import live


async def test_streams_of_one_api_key_leave_room_for_others(dsn):
    """It gets its share, then 503; another API key still gets streams."""
    async with running(dsn, live={"max_streams": 8}, limits={"streams_per_key": 3}) as service:
        other = await service.make_key()
        async with AsyncExitStack() as stack:
            for key in (service.key, other):
                for _ in range(3):
                    await stack.enter_async_context(live(service.client, key))
                response = await service.call("GET", "/api/v1/live?group_id=family", key=key)
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
                error = await response.json()
                assert error["error"] == "too_many_streams"
                assert "limits.streams_per_key" in error["message"]
        metrics = await service.metrics()
        assert metrics.total("live_denied_streams_total", limit="streams_per_key") == 2
        assert metrics.total("live_denied_streams_total", limit="max_streams") == 0


async def test_one_api_key_gets_half_of_all_streams_at_most(dsn):
    """Whatever its share is set to."""
    async with running(dsn, live={"max_streams": 4}) as service, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(live(service.client, service.key))
        response = await service.call("GET", "/api/v1/live?group_id=family")
        assert response.status == 503
        other = await service.make_key()
        await stack.enter_async_context(live(service.client, other))
