"""A receiver whose TLS is wrong is sent nothing, and nothing is lost for it."""

import shutil
import ssl
import subprocess

import pytest

from api.config import WebhookSettings
from api.webhooks.sender import open_sender
from tests.support.webhooks import (
    NOW,
    column,
    delivering,
    emit,
    make,
    receiving,
    until,
    until_column,
)

SELF_SIGNED = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
)


@pytest.fixture
def self_signed(tmp_path):
    """A certificate for the right address that no authority has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl(1) here")
    subprocess.run(SELF_SIGNED.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


async def test_an_invalid_certificate_fails_the_attempt(dsn, db, self_signed):
    """Its reason is listed; the batch is sent when the receiver has another one."""
    async with receiving(tls=self_signed) as wrong, receiving() as right:
        await make(dsn, wrong.url)
        assert wrong.url.startswith("https://127.0.0.1:")
        await emit(db, 2)
        async with delivering(dsn):
            await until_column(db, "attempts >= 1")
            assert await column(db, "last_error") == "the certificate of the receiver is not valid"
            await db.execute("UPDATE webhooks SET url = $1, retry_at = NULL", right.url)
            await until(lambda: len(right.delivered) == 2)
            await until_column(db, "batch_id IS NULL")
    assert wrong.requests == []


async def test_a_receiver_without_tls_gets_nothing():
    """Nor is it tried without TLS; the reason does not contain a part of the URL."""
    async with receiving() as receiver:
        url = receiver.url.replace("http://", "https://") + "?token=hidden"
        async with open_sender(WebhookSettings(allow_private=True), lambda: NOW) as sender:
            outcome = await sender.send(url, ["whsec_AAAA"], "msg_1", b'{"events":[]}')
    assert outcome == (None, "no TLS connection can be made", None)
    assert receiver.requests == []
