"""Receive webhooks: check the signature, skip what came before, print each event.

WEBHOOK_SECRET=whsec_... PORT=8090 python docs/examples/webhook_receiver.py
"""

import base64
import hashlib
import hmac
import json
import os
import time

from aiohttp import web

TOLERANCE_S = 300
"""An older request may have been recorded, and be sent again by an attacker."""
KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
seen: set[str] = set()  # keep it in a database, with what you do for the events


def is_genuine(request: web.Request, body: bytes) -> bool:
    """Return whether a request is from the service, and was sent just now."""
    message_id = request.headers.get("webhook-id", "")
    sent_at = request.headers.get("webhook-timestamp", "")
    if not sent_at.isdigit() or abs(time.time() - int(sent_at)) > TOLERANCE_S:
        return False
    signed = f"{message_id}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256))
    # While a secret is rotated there are two signatures.
    given = request.headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(expected, one) for one in given)


async def receive(request: web.Request) -> web.Response:
    """Handle a batch of events once, however often it is sent."""
    body = await request.read()
    if not is_genuine(request, body):
        return web.Response(status=401)
    for event in json.loads(body)["events"]:
        if event["event_id"] not in seen:
            seen.add(event["event_id"])
            # A summary is of a group, and webhook.test of none.
            of = event.get("device_id") or event.get("group_id", "-")
            print(event["type"], of, event["at"], flush=True)
    return web.Response(status=204)


def main() -> None:
    """Listen until SIGTERM or Ctrl-C."""
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/hook", receive)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8090")))


if __name__ == "__main__":
    main()
