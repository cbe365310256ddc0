"""The files of the live page need no API key, and no other file is served."""

import os

import pytest
from yarl import URL

from tests.support.service import running

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/page/index.html", 200), ("/page/nothing.js", 404)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_response_of_the_page_allows_no_other_host_or_script(
    service, method, path, status
):
    """No outside host, no inline script, no frame, on errors too; and no touch."""
    touches = service.touches()
    response = await service.call(method, path, key="")
    assert response.status == status
    assert response.headers["Content-Security-Policy"] == POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.content_type == ("text/html" if status == 200 else "application/json")
    assert service.touches() == touches


async def test_a_file_that_has_not_changed_is_not_sent_again(service):
    """A browser with the current version receives 304, one with another version the file."""
    first = await service.call("GET", "/", key="")
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await service.call("GET", "/", key="", headers={"If-None-Match": known})
        assert (again.status, again.headers["ETag"]) == (304, tag)
        assert again.headers["Content-Security-Policy"] == POLICY
        assert await again.read() == b""
    other = await service.call("GET", "/", key="", headers={"If-None-Match": '"other"'})
    assert (other.status, await other.read()) == (200, await first.read())


@pytest.mark.parametrize(
    "path",
    [
        "/page/../config.py",
        "/page/%2e%2e/config.py",
        "/page/..%2fconfig.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/./index.html/..",
        "/page/index.html%00",
        "/page/.gitignore",
        "/page/",
    ],
)
async def test_only_files_of_the_page_are_served(service, path):
    """Only the files that were there at the start have names."""
    url = f"http://{service.client.host}:{service.client.port}{path}"
    async with service.client.session.get(URL(url, encoded=True)) as response:
        assert response.status == 404
        assert (await response.json())["error"] == "not_found"


async def test_live_enabled_false_removes_page_and_stream(dsn):
    """Neither page nor stream; the rest is there."""
    async with running(dsn, live={"enabled": False}) as service:
        for path in ("/", "/page/index.html", "/api/v1/live?group_id=family"):
            assert (await service.call("GET", path)).status == 404
        assert (await service.call("GET", "/api/v1/devices?group_id=family")).status == 200


async def test_the_page_is_served_from_any_working_directory(dsn, tmp_path, monkeypatch):
    """The service need not be started in the checkout."""
    monkeypatch.chdir(tmp_path)
    assert not os.listdir(tmp_path)  # noqa: PTH208
    async with running(dsn) as service:
        assert (await service.call("GET", "/", key="")).status == 200
