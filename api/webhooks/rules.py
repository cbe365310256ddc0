"""What a webhook was made for, and how long a change of presence has to last for it."""

from collections.abc import Collection
from types import MappingProxyType
from typing import Final, NamedTuple

from api.webhooks.snoozes import Snoozes, end_of_snooze
from api.webhooks.state import DeviceState

HOUR_S: Final = 3600
"""In what time the changes of a device are counted, and for how long one that flaps must rest."""


class Rules(NamedTuple):
    """What a webhook is to be sent."""

    group_id: str | None = None
    """The group whose events it gets; None for all."""
    types: Collection[str] | None = None
    """Types of events; None for all."""
    after_s: int | None = None
    """How long a device must be offline before that is sent, in seconds."""
    settle_s: float = 0.0
    """How long after that a touch of before may still be written, in seconds."""
    snoozes: Snoozes = MappingProxyType({})

    def lasts_to(self, state: DeviceState) -> float:
        """Return until when the change that is held must last, in seconds since the epoch."""
        change = state.held[0]
        at = change.at.timestamp()
        lasts_to = at
        if change.type == "device.offline":
            snoozes = self.snoozes.get(change.group_id, ())
            lasts_to = end_of_snooze(snoozes, at + (self.after_s or 0))
        return max(lasts_to, at + HOUR_S) if state.is_flapping else lasts_to

    def due_at(self, state: DeviceState) -> float:
        """Return when the change that is held is sent if nothing follows it; 0 is at once."""
        lasts_to = self.lasts_to(state)
        is_held = lasts_to > state.held[0].at.timestamp()
        # At once even if the event is of the future, because the clock has gone back since.
        return lasts_to + self.settle_s if is_held else 0.0
