"""What a webhook has to remember of a device from one event to the next, as it is stored."""

from typing import Final

import msgspec

from api.events.log import Event


class DeviceState(msgspec.Struct, omit_defaults=True):
    """What a webhook remembers of a device; nothing of one whose events are all sent at once."""

    held: list[Event] = msgspec.field(default_factory=list)
    """A `device.offline` that is held back, and the events of the device after it."""
    is_offline_sent: bool = False
    """Whether the last `device.offline` was sent, so that its end is sent as well."""
    look_at: float | None = None
    """When the device is to be judged again without an event, in seconds since the epoch."""


encode_state: Final = msgspec.json.Encoder().encode
decode_device: Final = msgspec.json.Decoder(DeviceState).decode
