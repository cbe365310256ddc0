"""Decides for one webhook whether each event is sent, held back, or dropped.

This is a pure function over stored rows. It handles the events of a page and the timers of held
events in the order of time. So the result is the same whether events are filtered when they happen
or hours later, by this process or by another one. `rules` and `device_filter` have the rules for a
device, `outages` those for a group.
"""

from collections import defaultdict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from api.events.log import Event
from api.webhooks.device_filter import DeviceFilter
from api.webhooks.outages import Outages
from api.webhooks.outgoing import Outbox, Outgoing
from api.webhooks.rules import HOUR_S, Rules
from api.webhooks.state import DeviceState, GroupState

_AGAIN_S: Final = 1.0
"""When a device is looked at again that has an event which is not in the log yet, in seconds."""


class Logged(NamedTuple):
    """An event with its place in the log."""

    position: int
    stored_at: float
    """In seconds since the epoch; it does not decrease with the position unless a clock does."""
    event: Event


class Page(NamedTuple):
    """The next events of a webhook."""

    position: int
    """Up to where events have been filtered."""
    events: list[Logged]
    end: int
    """The position up to which there is no other event."""
    until: float
    """All events of before are known, in seconds since the epoch."""
    is_full: bool = False
    """Whether there may be more events: those of a page have a limit."""


class Stored(NamedTuple):
    """What is stored of devices and groups of a page, and of those whose `look_at` has come."""

    devices: dict[str, DeviceState]
    groups: dict[str, GroupState]
    newest_seq: Mapping[str, int]
    """The number of the last event of each device, which may not be in the log yet."""
    elsewhere: set[str]
    """Devices that are in a group by now of which the webhook gets no events."""
    sizes: Mapping[str, int]
    """How many active devices groups have, of those in which many change."""


class Filtered(NamedTuple):
    """What is to be sent and stored."""

    send: list[Outgoing]
    position: int
    devices: dict[str, DeviceState | None]
    """States that have changed; None for those to forget."""
    groups: dict[str, GroupState | None]
    dropped: int
    is_end: bool
    """Whether the page was filtered to its end; if not there was too much for one request."""


def filter_events(rules: Rules, stored: Stored, page: Page) -> Filtered:
    """Return what is sent to a webhook, what is held back, and what is dropped.

    Args:
        rules: of the webhook.
        stored: states of devices and groups; they are changed.
        page: the events that follow.
    """
    return _Filter(rules, stored, page).run()


class _Filter:
    def __init__(self, rules: Rules, stored: Stored, page: Page) -> None:
        self._rules = rules
        self._stored = stored
        self._page = page
        self._known = frozenset(stored.devices), frozenset(stored.groups)
        self._coming: defaultdict[str, list[Event]] = defaultdict(list)
        for one in page.events:
            self._coming[one.event.device_id].append(one.event)
        states: list[tuple[bool, str, DeviceState | GroupState]] = [
            *((False, key, group) for key, group in stored.groups.items()),
            *((True, key, device) for key, device in stored.devices.items()),
        ]
        self._timers = [
            (state.look_at, is_device, key)
            for is_device, key, state in states
            if state.look_at is not None
        ]
        heapify(self._timers)
        self._changed: set[str] = set()
        self._outbox = Outbox(rules.types)
        self._outages = Outages(
            stored.groups,
            stored.sizes,
            self._outbox,
            lambda at, key: heappush(self._timers, (at, False, key)),
        )
        self._device_filter = DeviceFilter(
            rules,
            self._outages,
            self._outbox,
            lambda at, key: heappush(self._timers, (at, True, key)),
        )

    def run(self) -> Filtered:
        position, filtered_to, is_end = self._page.position, 0.0, False
        for logged in self._page.events:
            event, now = logged.event, logged.stored_at
            if now > self._page.until or not self._run_timers(now):
                break
            state = self._state(event.device_id)
            needed = len(state.held) + 1 + self._outages.may_add(event.group_id, now)
            if not self._outbox.has_room(needed):
                break
            self._device_filter.take(event, state, now)
            position, filtered_to = logged.position, now
        else:
            if is_end := self._run_timers(self._page.until):
                position, filtered_to = self._page.end, self._page.until
        return Filtered(
            self._outbox.events,
            position,
            self._devices_to_store(filtered_to),
            self._outages.to_store(self._known[1], filtered_to),
            self._outbox.dropped,
            is_end,
        )

    def _state(self, device_id: str) -> DeviceState:
        self._changed.add(device_id)
        return self._stored.devices.setdefault(device_id, DeviceState())

    def _run_timers(self, now: float) -> bool:
        """Look at devices and groups whose time has come; return whether there was room for all."""
        while self._timers and self._timers[0][0] <= now:
            due_at, is_device, key = self._timers[0]
            state = self._state(key) if is_device else None
            held = state.held if state else []
            group_id = held[0].group_id if held else key
            if not self._outbox.has_room(len(held) + self._outages.may_add(group_id, due_at)):
                return False
            heappop(self._timers)
            if state is None:
                self._outages.look_again(key, due_at)
            elif state.look_at == due_at:  # otherwise it was set again
                self._look_again(key, state, due_at)
        return True

    def _look_again(self, device_id: str, state: DeviceState, now: float) -> None:
        if device_id in self._stored.elsewhere:
            self._device_filter.forget(state)
        elif not state.held:
            state.look_at = None
        elif self._may_end_in_time(device_id, state):
            self._device_filter.wake(state, max(now, self._page.until) + _AGAIN_S)
        else:
            self._device_filter.look_at_held(state, now)

    def _may_end_in_time(self, device_id: str, state: DeviceState) -> bool:
        """Return whether an event that was written late may end what is held in time."""
        last = seen = state.held[-1].seq
        for event in self._coming[device_id]:
            last = max(last, event.seq)
            if event.seq > seen and event.type != "device.moved":
                return event.at.timestamp() < self._rules.lasts_to(state)
        return self._stored.newest_seq.get(device_id, 0) > last

    def _devices_to_store(self, filtered_to: float) -> dict[str, DeviceState | None]:
        states: dict[str, DeviceState | None] = {}
        for device_id in self._changed:
            state = self._stored.devices[device_id]
            if not state.held:
                state.recent = [at for at in state.recent if at > filtered_to - HOUR_S]
                state.look_at = state.recent[-1] + HOUR_S if state.recent else None
            if state.is_needed():
                states[device_id] = state
            elif device_id in self._known[0]:
                states[device_id] = None
        return states
