"""What is sent to a webhook: events of devices, and summaries that stand for many of them."""

from collections.abc import Collection
from typing import Final, Literal, TypeAlias

import msgspec

from api.events.log import Event
from api.fleet.devices import Time

MOST_EVENTS: Final = 100
"""The most events in one request."""
CHANGES: Final = ("device.online", "device.offline")


class Flapping(msgspec.Struct, frozen=True, tag="device.flapping", tag_field="type"):
    """A device changes too often for each change to be sent."""

    event_id: str
    device_id: str
    group_id: str
    at: Time
    changes: int
    """How many changes there were in the last hour."""


class GroupSummary(msgspec.Struct, frozen=True):
    """A group whose devices went offline together, or the end of that."""

    event_id: str
    type: Literal["group.offline", "group.online"]
    group_id: str
    at: Time
    devices: int
    """How many active devices the group has."""
    offline: int
    link: str
    """A path of the service that lists devices of the group that are offline."""


Outgoing: TypeAlias = Event | Flapping | GroupSummary


class Outbox:
    """Collects what is sent in one request.

    Args:
        types: of the events that the webhook gets; None for all.
    """

    def __init__(self, types: Collection[str] | None) -> None:
        self._types = types
        self.events: list[Outgoing] = []
        self.dropped = 0
        """How many events of devices are not sent, neither now nor later."""

    def has_room(self, events: int) -> bool:
        """Return whether so many more may be sent in the request."""
        return not self.events or len(self.events) + events <= MOST_EVENTS

    def add(self, event: Event) -> None:
        """Send an event, if the webhook gets its type."""
        if self.wants(event.type):
            self.events.append(event)

    def summarize(self, summary: Flapping | GroupSummary, *types: str) -> None:
        """Send a summary, if the webhook gets one of the types of events that it stands for."""
        if any(self.wants(one) for one in types):
            self.events.append(summary)

    def wants(self, type_: str) -> bool:
        """Return whether the webhook gets events of a type."""
        return self._types is None or type_ in self._types
