"""What presence should be, in plain Python: the rules of the documentation, without SQL."""

import math
from dataclasses import dataclass, field, replace

DEFAULT_S = 60
GAP_S = 5
SHORTEST_S = 30


@dataclass
class Device:
    """A device and its events, each with its type and its time."""

    id: str
    last_seen: int
    group: str = "g0"
    offline_after_s: int | None = None
    is_online: bool = True
    since: int = 0
    events: list[tuple[str, int]] = field(default_factory=list)


class Model:
    """A fleet, and when some process listened to it."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.groups: dict[str, int | None] = {}
        self.listened_until = -math.inf
        self.gaps: list[tuple[float, float]] = []

    def register(self, device_id: str, now: int) -> None:
        device = Device(device_id, now, since=now)
        device.events.append(("device.registered", now))
        self.devices[device_id] = device

    def listen(self, now: int) -> None:
        """Some process has noted that it listens."""
        if self.listened_until < now - GAP_S:
            self.gaps.append((self.listened_until, now))
        elif self.listened_until > now + 1:  # the clock was set back
            self.gaps = [(begin, min(end, now)) for begin, end in self.gaps if begin < now]
        self.listened_until = now

    def timeout_s(self, device: Device) -> int:
        """The device's own, else its group's, else the default."""
        return device.offline_after_s or self.groups.get(device.group) or DEFAULT_S

    def offline_at(self, device: Device, now: int) -> int:
        """When a device is offline unless it is seen: time without a listener does not count."""
        deaf_s = sum(
            min(end, now) - max(begin, device.last_seen)
            for begin, end in self.gaps
            if end > device.last_seen and begin < now
        )
        return math.ceil(device.last_seen + self.timeout_s(device) + deaf_s)

    def touch(self, device: Device, at: int, now: int) -> None:
        """A touch is written."""
        if at <= device.last_seen:
            return
        device.last_seen = at
        is_old = at <= now - SHORTEST_S and at + self.timeout_s(device) <= now
        if not device.is_online and not is_old:
            device.is_online, device.since = True, at
            device.events.append(("device.online", at))

    def move(self, device: Device, group: str, now: int) -> None:
        if group != device.group:
            device.group = group
            device.events.append(("device.moved", now))

    def silence(self, device: Device, now: int, *, pending: int) -> None:
        """A device was found to be offline, whose latest touch may be pending.

        Raises:
            AssertionError: it is not.
        """
        newest = replace(device, last_seen=max(device.last_seen, pending))
        at = self.offline_at(newest, now)
        assert at <= now, f"false offline: {device} at {now} before {at}"
        at = self.offline_at(device, now)
        assert self.listened_until >= now - GAP_S, f"found offline during a listening gap: {device}"
        device.is_online, device.since = False, at
        device.events.append(("device.offline", at))
