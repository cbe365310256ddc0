"""Makes one request to a receiver: signed, bounded, without redirects, to a public address."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp

from api.config import WebhookSettings
from api.webhooks.addresses import AddressNotAllowed, check_url, public_socket
from api.webhooks.retries import read_retry_after
from api.webhooks.signing import signed_headers

GONE: Final = 410
_OK: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_REASONS: Final[dict[type[Exception], str]] = {  # the special ones before the general ones
    aiohttp.ClientConnectorCertificateError: "the certificate of the receiver is not valid",
    aiohttp.ClientSSLError: "no TLS connection can be made",
    aiohttp.ClientConnectorDNSError: "the name of the receiver cannot be resolved",
    aiohttp.ClientConnectorError: "no connection can be made",
    aiohttp.ServerDisconnectedError: "the connection was closed before a response",
}


class Outcome(NamedTuple):
    """What became of a request; it was delivered if there is no error."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


class Sender:
    """Sends to receivers; `open_sender` makes one.

    Args:
        session: connects to allowed addresses alone.
        settings: what is allowed, and the timeout.
        clock: the time, in seconds since the Unix epoch.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: WebhookSettings,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._settings = settings
        self._clock = clock

    async def send(self, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """Send a body and return the outcome; an error of the receiver raises nothing.

        No part of the response but its status and `Retry-After` is used; its body is not read. No
        text of an outcome contains a part of the URL.

        Args:
            url: of the receiver.
            secrets: those that are valid.
            message_id: the id of the batch.
            body: JSON.
        """
        settings = self._settings
        try:  # again, because settings may have changed since the webhook was made
            check_url(url, allow_http=settings.allow_http, allow_private=settings.allow_private)
        except ValueError as error:
            return Outcome(error=str(error))
        headers = signed_headers(secrets, message_id, int(self._clock()), body)
        try:
            async with (
                asyncio.timeout(settings.timeout_s),
                self._session.post(
                    url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return self._read(response)
        except TimeoutError:
            return Outcome(error=f"no response within {settings.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(error=_reason(error))

    def _read(self, response: aiohttp.ClientResponse) -> Outcome:
        if response.status in _OK:
            return Outcome(response.status)
        retry_after_s = read_retry_after(response.headers.get("Retry-After"), self._clock())
        reason = f"the receiver responded with {response.status}"
        if response.status in _REDIRECTS:
            reason += ", a redirect, which is not followed"
        return Outcome(response.status, reason, retry_after_s)


@asynccontextmanager
async def open_sender(
    settings: WebhookSettings, clock: Callable[[], float]
) -> AsyncIterator[Sender]:
    """Open a sender.

    Args:
        settings: what is allowed, and the timeout.
        clock: the time, in seconds since the Unix epoch.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # the deliverer limits deliveries
        use_dns_cache=False,
        socket_factory=None if settings.allow_private else public_socket,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        headers={"Content-Type": "application/json", "User-Agent": "activity-tracker"},
    ) as session:
        yield Sender(session, settings, clock)


def _reason(error: Exception) -> str:
    """Return what is wrong without a part of the URL, which messages of aiohttp contain."""
    cause = getattr(error, "os_error", None) or error.__cause__
    if isinstance(cause, AddressNotAllowed):
        return f"{cause}; webhooks.allow_private allows it"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return f"no valid response: {type(error).__name__}"
