"""Decides what becomes of each event for one webhook: it is sent, held back, or dropped.

This is a pure function over stored rows. It handles the events of a page and the timers of held
events in the order of time. So the result is the same whether events are judged when they happen or
hours later, by this process or by another one.
"""

from collections import defaultdict
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import Final, NamedTuple

from api.events.log import Event
from api.webhooks.snoozes import Snoozes, end_of_snooze
from api.webhooks.state import DeviceState

MOST_EVENTS: Final = 100
"""The most events in one request."""
_AGAIN_S: Final = 1.0
"""When a device is judged again that has an event which is not in the log yet, in seconds."""


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


class Logged(NamedTuple):
    """An event with its place in the log."""

    position: int
    stored_at: float
    """In seconds since the epoch; it never decreases with the position."""
    event: Event


class Page(NamedTuple):
    """The next events of a webhook."""

    position: int
    """Up to where events have been judged."""
    events: list[Logged]
    end: int
    """The position up to which there is no other event."""
    until: float
    """All events of before are known, in seconds since the epoch."""


class Stored(NamedTuple):
    """What is stored of the devices of a page, and of those whose `look_at` has come."""

    devices: dict[str, DeviceState]
    newest_seq: dict[str, int]
    """The number of the last event of each device, which may not be in the log yet."""
    elsewhere: set[str]
    """Devices that are in a group by now of which the webhook gets no events."""


class Verdict(NamedTuple):
    """What is to be sent and stored."""

    send: list[Event]
    position: int
    devices: dict[str, DeviceState | None]
    """States that have changed; None for those to forget."""
    dropped: int
    is_end: bool
    """Whether the page was judged to its end; if not there was too much for one request."""


def judge(rules: Rules, stored: Stored, page: Page) -> Verdict:
    """Return what is sent to a webhook, what is held back, and what is dropped.

    Args:
        rules: of the webhook.
        stored: states of devices; they are changed.
        page: the events that follow.
    """
    return _Judge(rules, stored, page).run()


class _Judge:
    def __init__(self, rules: Rules, stored: Stored, page: Page) -> None:
        self._rules = rules
        self._stored = stored
        self._page = page
        self._known = frozenset(stored.devices)
        self._coming: defaultdict[str, list[Event]] = defaultdict(list)
        for one in page.events:
            self._coming[one.event.device_id].append(one.event)
        self._timers = [
            (state.look_at, device_id)
            for device_id, state in stored.devices.items()
            if state.look_at is not None
        ]
        heapify(self._timers)
        self._changed: set[str] = set()
        self._send: list[Event] = []
        self._dropped = 0

    def run(self) -> Verdict:
        position, is_end = self._page.position, False
        for logged in self._page.events:
            if logged.stored_at > self._page.until or not self._run_timers(logged.stored_at):
                break
            state = self._state(logged.event.device_id)
            if not self._has_room(len(state.held) + 1):
                break
            self._take(logged.event, state, logged.stored_at)
            position = logged.position
        else:
            if is_end := self._run_timers(self._page.until):
                position = self._page.end
        return Verdict(self._send, position, self._to_store(), self._dropped, is_end)

    def _state(self, device_id: str) -> DeviceState:
        self._changed.add(device_id)
        return self._stored.devices.setdefault(device_id, DeviceState())

    def _has_room(self, events: int) -> bool:
        return not self._send or len(self._send) + events <= MOST_EVENTS

    def _run_timers(self, now: float) -> bool:
        """Judge devices whose time has come; return whether there was room for all."""
        while self._timers and self._timers[0][0] <= now:
            due_at, device_id = self._timers[0]
            state = self._state(device_id)
            if not self._has_room(len(state.held)):
                return False
            heappop(self._timers)
            if state.look_at == due_at:  # otherwise it was set anew
                self._look_again(device_id, state, due_at)
        return True

    def _look_again(self, device_id: str, state: DeviceState, now: float) -> None:
        if not state.held:
            state.look_at = None
        elif device_id in self._stored.elsewhere:
            self._drop(state)
        elif self._may_end_in_time(device_id, state.held):
            self._wake(device_id, state, max(now, self._page.until) + _AGAIN_S)
        else:
            self._hold_or_release(device_id, state, now)

    def _may_end_in_time(self, device_id: str, held: list[Event]) -> bool:
        """Return whether an event that was written late may say that a silence has ended."""
        last = held[-1].seq
        for event in self._coming[device_id]:
            last = max(last, event.seq)
            if event.seq > held[-1].seq and event.type != "device.moved":
                return not self._lasts_until(held[0], event)
        return self._stored.newest_seq.get(device_id, 0) > last

    def _take(self, event: Event, state: DeviceState, now: float) -> None:
        """Judge an event."""
        match event.type:
            case "device.offline":
                self._end_hold(state, event)
                state.is_offline_sent = False
                state.held = [event]
                self._hold_or_release(event.device_id, state, now)
            case "device.online":
                if self._end_hold(state, event):
                    self._dropped += 1
                elif state.is_offline_sent or self._rules.after_s is None:
                    self._add(event)
                else:
                    self._dropped += 1
                state.is_offline_sent = False
            case "device.moved" if self._rules.group_id is not None:  # from a group of others
                self._drop(state)
                state.is_offline_sent = False
                self._add(event)
            case "device.moved" if state.held:
                state.held.append(event)  # events of a device stay in order
            case "device.moved":
                self._add(event)
            case _:
                self._end_hold(state, event)
                state.is_offline_sent = False
                self._add(event)

    def _hold_or_release(self, device_id: str, state: DeviceState, now: float) -> None:
        if (due_at := self._due_at(state.held[0])) > now:
            self._wake(device_id, state, due_at)
        else:
            self._release(state)

    def _due_at(self, event: Event) -> float:
        """Return when an event is sent that nothing follows."""
        lasts_to = self._must_last_to(event)
        is_held = lasts_to > event.at.timestamp()
        return lasts_to + self._rules.settle_s if is_held else lasts_to

    def _must_last_to(self, silence: Event) -> float:
        """Return until when a device must be offline for that to be sent."""
        at = silence.at.timestamp() + (self._rules.after_s or 0)
        return end_of_snooze(self._rules.snoozes.get(silence.group_id, ()), at)

    def _end_hold(self, state: DeviceState, event: Event) -> bool:
        """End what an event ends: send it if it lasted long enough, or drop it; return if so."""
        if not state.held:
            return False
        if self._lasts_until(state.held[0], event):
            self._release(state)
            return False
        self._drop(state)
        return True

    def _lasts_until(self, silence: Event, event: Event) -> bool:
        """Return whether a silence has lasted long enough when another event ends it."""
        return event.at.timestamp() >= self._must_last_to(silence)

    def _release(self, state: DeviceState) -> None:
        for event in state.held:
            self._add(event)
        state.held, state.look_at, state.is_offline_sent = [], None, True

    def _drop(self, state: DeviceState) -> None:
        if state.held:
            self._dropped += 1
        for event in state.held[1:]:
            self._add(event)
        state.held, state.look_at = [], None

    def _wake(self, device_id: str, state: DeviceState, at: float) -> None:
        state.look_at = at
        heappush(self._timers, (at, device_id))

    def _add(self, event: Event) -> None:
        if self._rules.types is None or event.type in self._rules.types:
            self._send.append(event)

    def _to_store(self) -> dict[str, DeviceState | None]:
        states: dict[str, DeviceState | None] = {}
        for device_id in self._changed:
            state = self._stored.devices[device_id]
            if state.held or (state.is_offline_sent and self._rules.after_s is not None):
                states[device_id] = state
            elif device_id in self._known:
                states[device_id] = None
        return states
