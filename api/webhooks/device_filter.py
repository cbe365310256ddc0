"""Decides which changes of presence of one device are sent.

A change is held back while a rule of the webhook says so: `--after`, a snooze of its group, a group
in which many devices change, or a device that flaps. Events of the same device wait behind it, so
that they stay in order. A rule says until when a change has to last: another change before that
drops it.
"""

from collections.abc import Callable
from typing import Final

from api.events.log import Event
from api.webhooks.outages import WINDOW_S, Outages
from api.webhooks.outgoing import CHANGES, Flapping, Outbox
from api.webhooks.rules import HOUR_S, Rules
from api.webhooks.state import DeviceState

MOST_CHANGES: Final = 6
"""So many changes of a device are sent in an hour; with the next one it flaps."""


class DeviceFilter:
    """Filters events of devices.

    Args:
        rules: of the webhook.
        outages: of groups.
        outbox: gets what is sent.
        wake: called with a time and a device that is to be looked at again then.
    """

    def __init__(
        self, rules: Rules, outages: Outages, outbox: Outbox, wake: Callable[[float, str], None]
    ) -> None:
        self._rules = rules
        self._outages = outages
        self._outbox = outbox
        self._wake = wake

    def take(self, event: Event, state: DeviceState, now: float) -> None:
        """Filter an event.

        Args:
            event: of the device.
            state: of the device; it is changed.
            now: when the event was stored, in seconds since the epoch.
        """
        if event.type in CHANGES:
            self._change(event, state, now)
        elif event.type == "device.moved" and self._rules.group_id is None:
            if state.held:
                state.held.append(event)
                return
            if self._outages.returns(str(event.from_group_id), state, now):
                state.is_offline_sent = True  # it does not return to the group that is out
            self._outbox.add(event)
        else:
            if event.type != "device.moved":  # otherwise it comes from a group of others
                self._end_hold(event, state, now)
            self._outages.returns(event.group_id, state, now)
            self.forget(state)
            self._outbox.add(event)

    def look_at_held(self, state: DeviceState, now: float) -> None:
        """Send what is held, or hold it longer."""
        change = state.held[0]
        due_at = self._rules.due_at(state)
        if due_at > now:
            self.wake(state, due_at)
            return
        outcome = "send"
        if change.type == "device.offline":
            outcome = self._outages.outcome_of(change, state, now)
        if outcome == "wait" and state.counted_at is not None:
            self.wake(state, state.counted_at + WINDOW_S)
        elif outcome == "summarized":
            self._drop(state)
            state.is_flapping = False
        else:
            self._release(state)

    def wake(self, state: DeviceState, at: float) -> None:
        """Look at what is held again at a time."""
        state.look_at = at
        self._wake(at, state.held[0].device_id)

    def forget(self, state: DeviceState) -> None:
        """Begin with a device from the start."""
        self._drop(state)
        state.is_offline_sent = state.is_flapping = False
        state.outage, state.counted_at, state.recent = "", None, []

    def _change(self, event: Event, state: DeviceState, now: float) -> None:
        is_dropped = self._end_hold(event, state, now)
        is_return = event.type == "device.online"
        outcome = self._outages.returns(event.group_id, state, now) if is_return else None
        if state.is_flapping:
            self._drop(state)
            self._hold(event, state, now)
        elif not is_return:
            state.is_offline_sent, state.outage = False, ""
            self._hold(event, state, now)
        else:
            is_awaited = outcome or state.is_offline_sent or self._rules.after_s is None
            if is_dropped or outcome == "summarized" or not is_awaited:
                self._outbox.dropped += 1
            else:
                self._hold(event, state, now)
            state.is_offline_sent = False

    def _hold(self, change: Event, state: DeviceState, now: float) -> None:
        state.held, state.counted_at = [change], None
        self.look_at_held(state, now)

    def _end_hold(self, event: Event, state: DeviceState, now: float) -> bool:
        """Send what is held if it has lasted until an event, or drop it; return whether it was."""
        if not state.held:
            return False
        change = state.held[0]
        if event.at.timestamp() < self._rules.lasts_to(state) or (
            change.type == "device.offline"
            and self._outages.outcome_of(change, state, now) == "summarized"
        ):
            self._drop(state)
            return True
        self._release(state)
        return False

    def _release(self, state: DeviceState) -> None:
        change = state.held[0]
        at = int(change.at.timestamp())
        recent = [] if state.is_flapping else state.recent  # it has rested
        state.recent = [*(one for one in recent if one > at - HOUR_S), at]
        state.is_flapping = len(state.recent) > MOST_CHANGES
        if state.is_flapping:
            changes = len(state.recent)
            summary = Flapping(
                f"{change.event_id}-flapping", change.device_id, change.group_id, change.at, changes
            )
            self._outbox.summarize(summary, *CHANGES)
            self.wake(state, self._rules.due_at(state))
            return
        state.is_offline_sent = change.type == "device.offline"
        for event in state.held:
            self._outbox.add(event)
        state.held = []

    def _drop(self, state: DeviceState) -> None:
        if state.held:
            self._outbox.dropped += 1
        for event in state.held[1:]:
            self._outbox.add(event)
        state.held = []
