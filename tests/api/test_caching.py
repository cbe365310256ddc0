"""No cache between clients and the service keeps what one API key was shown."""

from tests.support.proxies import proxy
from tests.support.raw_client import ListeningService, listening


def get(service: ListeningService, path: str, key: str | None) -> bytes:
    """Return a GET with a key, or without one."""
    lines = [f"GET {path} HTTP/1.1", "Host: here"]
    if key is not None:
        lines.append(f"X-API-Key: {key}")
    return "\r\n".join((*lines, "", "")).encode()


async def test_every_response_that_needs_a_key_forbids_caching(dsn):
    """Errors, too: a 404 that is kept would hide a device that is registered later."""
    async with listening(dsn) as service, service.client() as client:
        device = f"/api/v1/devices/{service.device_id}"
        for path, key, status in (
            (device, service.key, 200),
            ("/api/v1/devices?group_id=family", service.key, 200),
            (f"/api/v1/locations?device_id={service.device_id}", service.key, 200),
            ("/api/v1/groups", service.key, 200),
            (device, None, 401),
            (device, "wrong", 401),
            ("/api/v1/devices/no-uuid", service.key, 400),
            ("/api/v1/nothing", service.key, 404),
            ("/api/v1/nothing", None, 401),
        ):
            await client.send(get(service, path, key))
            response = await client.answer()
            assert response is not None
            assert response.status == status, path
            assert response.headers["cache-control"] == "no-store", path
            assert response.headers["vary"] == "X-API-Key", path


async def test_health_and_metrics_are_not_cached_either(dsn):
    """A load balancer would go by what was."""
    async with listening(dsn) as service, service.client() as client:
        for path in ("/api/health", "/api/health/ready", "/metrics"):
            await client.send(get(service, path, None))
            response = await client.answer()
            assert response is not None
            assert (response.status, response.headers["cache-control"]) == (200, "no-store")


async def test_no_proxy_may_change_a_stream(service):
    """One that compresses it would hold back its events."""
    headers = {"X-API-Key": service.key}
    for path in ("/api/v1/live?group_id=family", "/api/v1/events/stream?group_id=family"):
        async with service.client.get(path, headers=headers) as response:
            assert response.status == 200, path
            assert response.headers["Cache-Control"] == "no-store, no-transform", path


async def test_nginx_that_keeps_everything_shows_a_device_to_its_key_alone(dsn, tmp_path):
    """It is configured to keep every response for ten minutes."""
    async with listening(dsn) as service, proxy("nginx", service.port, tmp_path) as port:
        front = ListeningService(service.app, port, service.key, service.device_id)
        path = f"/api/v1/devices/{service.device_id}"
        for key, status in ((service.key, 200), (None, 401), ("wrong", 401), (service.key, 200)):
            async with front.client() as client:
                await client.send(get(service, path, key))
                response = await client.answer()
                assert response is not None
                assert response.status == status, key
