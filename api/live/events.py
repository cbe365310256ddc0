"""Server-sent events as bytes: encoded once, sent to all subscribers."""

from typing import Any, Final

import msgspec

_encode = msgspec.json.Encoder().encode


def event(name: str, data: Any) -> bytes:
    """Return an event with one line of JSON.

    Args:
        name: of the event.
        data: anything that msgspec can encode.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


READY: Final = event("ready", {})


class Hello(msgspec.Struct, frozen=True):
    """The first event of a snapshot: it replaces everything that was sent before.

    Args:
        group_id: as in the request.
        now: the database's time in epoch seconds.
        online_within_s: what `idle_after_s` is; deprecated, as devices carry their presence.
        silent_after_s: what `offline_after_s` is by default; deprecated likewise.
        presence_enabled: whether the service stores when devices fall silent.
        devices: how many follow in `devices` events.
        of: how many active devices the group has; the snapshot holds the first 10,000 by name.
        version: of the service.
        all_groups: whether the API key may read all groups.
    """

    group_id: str
    now: float
    online_within_s: float
    silent_after_s: float
    presence_enabled: bool
    devices: int
    of: int
    version: str
    all_groups: bool
