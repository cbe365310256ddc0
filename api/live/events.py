"""Server-sent events as bytes: encoded once, sent to whoever watches."""

from typing import Any, Final

import msgspec

_encode = msgspec.json.Encoder().encode


def event(name: str, data: Any) -> bytes:
    """Return an event with one line of JSON.

    Args:
        name: of the event.
        data: whatever msgspec encodes.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


READY: Final = event("ready", {})


class Hello(msgspec.Struct, frozen=True):
    """The first event: whoever gets it forgets all before.

    Args:
        group_id: as it was asked for.
        now: the database's time in epoch seconds.
        online_within_s: a device is online if it was seen at most so long ago.
        silent_after_s: it is silent if it was seen longer ago than this, or never.
        devices: how many follow.
        of: how many active ones the group has.
        version: of the service.
        all_groups: whether the key is bound to none.
    """

    group_id: str
    now: float
    online_within_s: float
    silent_after_s: float
    devices: int
    of: int
    version: str
    all_groups: bool
