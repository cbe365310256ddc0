"""Sends bodies as they are, and reads the error of the response."""

import json
import uuid
import zlib

from aiohttp import ClientResponse
from yarl import URL

from tests.support.service import Service

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
    """Return the beginning of a compressed body of blanks, a thousandth of their size."""
    deflater = zlib.compressobj(9, wbits=wbits)
    blanks = b" " * (1 << 20)

    def compressed() -> bytes:
        return deflater.compress(blanks) + deflater.flush(zlib.Z_FULL_FLUSH)

    # After a full flush equal blanks are equal bytes, so one block is compressed for all of them.
    return compressed() + compressed() * (mebibytes - 1)
