"""What a webhook has to remember of devices and groups from one event to the next, as stored."""

from typing import Final

import msgspec

from api.events.log import Event


class DeviceState(msgspec.Struct, omit_defaults=True):
    """What a webhook remembers of a device."""

    held: list[Event] = msgspec.field(default_factory=list)
    """A change of presence that is held back, and the events of the device after it."""
    is_offline_sent: bool = False
    """Whether the last `device.offline` was sent, so that its end is sent as well."""
    recent: list[int] = msgspec.field(default_factory=list)
    """When the changes of presence happened that were sent, those of the last hour."""
    is_flapping: bool = False
    """Whether `device.flapping` was sent, so that its changes are held back until it rests."""
    counted_at: float | None = None
    """When its last offline event was counted for its group."""
    outage: str = ""
    """The outage of its group that stands for its offline event."""
    look_at: float | None = None
    """When the device is to be looked at again without an event, in seconds since the epoch."""

    def is_needed(self) -> bool:
        """Return whether there is anything to remember."""
        return bool(
            self.held or self.recent or self.is_flapping or self.outage or self.is_offline_sent
        )


class GroupState(msgspec.Struct, omit_defaults=True):
    """What a webhook remembers of a group."""

    recent: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """Seconds of the last minute, and how many devices changed in each."""
    outage: str = ""
    """The id of the event that has begun an outage; empty if there is none."""
    down: int = 0
    """How many devices went offline since `counts_from` and have not returned."""
    counts_from: int = 0
    """Since when a device has changed in every minute, in seconds since the epoch."""
    look_at: float | None = None
    """When the group is to be looked at again without an event, in seconds since the epoch."""


encode_state: Final = msgspec.json.Encoder().encode
decode_device: Final = msgspec.json.Decoder(DeviceState).decode
decode_group: Final = msgspec.json.Decoder(GroupState).decode
