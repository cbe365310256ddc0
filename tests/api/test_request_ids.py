"""Request ids, and errors as JSON with a code and a message."""

import structlog


async def test_every_response_has_a_request_id(service):
    """Good answers, errors, unknown routes, health and metrics."""
    ids = []
    for method, path, key in (
        ("GET", "/api/v1/devices?group_id=family", None),
        ("GET", "/api/v1/devices", None),
        ("GET", "/api/v1/devices", ""),
        ("GET", "/nowhere", None),
        ("PUT", "/api/v1/devices", None),
        ("GET", "/api/health", ""),
        ("GET", "/metrics", ""),
    ):
        response = await service.call(method, path, key=key)
        ids.append(response.headers["X-Request-ID"])
    assert len(set(ids)) == len(ids)


async def test_a_valid_request_id_of_a_client_is_kept(service):
    """A caller may name its request; nothing odd gets into headers and logs."""
    for given, kept in (("abc-123", True), ("a" * 64, True), ("a" * 65, False), ("a b", False)):
        response = await service.call("GET", "/api/health", headers={"X-Request-ID": given})
        assert (response.headers["X-Request-ID"] == given) is kept


async def test_errors_are_json_with_a_code_and_a_message(service):
    """Unknown routes and methods too; a method that is not allowed says which are."""
    response = await service.call("GET", "/nowhere")
    assert (response.status, (await response.json())["error"]) == (404, "not_found")
    response = await service.call("PUT", "/api/v1/locations")
    assert (response.status, (await response.json())["error"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET,HEAD,POST"


async def test_a_crash_is_500_without_a_trace_for_the_client(service, monkeypatch):
    """The logs have the trace and the request id, the client has the id."""
    device_id = await service.register()

    async def explode(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("api.fleet.batch_commit.BatchCommit.store", explode)
    with structlog.testing.capture_logs() as logs:
        response = await service.upload(device_id)
    assert response.status == 500
    assert "secret detail" not in await response.text()
    (entry,) = logs
    assert entry["event"] == "request.crashed"
    assert entry["route"] == "/api/v1/locations"
