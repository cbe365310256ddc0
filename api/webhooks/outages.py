"""Outages of groups: more than half of the devices go offline within a minute.

One `group.offline` stands for them then, and one `group.online` for its end.

A change that may be the beginning of an outage is held back for a minute: that of a device of a
group in which more than a twentieth, and more than ten, went offline in the last minute.

An outage ends when no more than half of the group's devices are offline in it, and so few devices
changed in the last minute that no change would be held back.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

from api.events.log import Event
from api.webhooks.outgoing import GroupSummary, Outbox
from api.webhooks.state import DeviceState, GroupState

WINDOW_S: Final = 60
FEW: Final = 10
"""So many changes in a minute are sent one by one in any group."""
_SHARE: Final = 20
"""So are those of one in so many devices of a large one."""

Outcome: TypeAlias = Literal["send", "wait", "summarized"]


class Outages:
    """Decides whether devices that go offline are part of an outage.

    Args:
        states: of the groups; they are changed.
        sizes: how many active devices a group has; only of those in which many have changed.
        outbox: gets summaries.
        wake: called with a time and a group that is to be looked at again then.
    """

    def __init__(
        self,
        states: dict[str, GroupState],
        sizes: Mapping[str, int],
        outbox: Outbox,
        wake: Callable[[float, str], None],
    ) -> None:
        self._states = states
        self._sizes = sizes
        self._outbox = outbox
        self._wake = wake
        self._begun: dict[str, int] = {}  # where in the outbox summaries are, of groups
        # How many devices of groups changed in the minute up to a second: a page has many events
        # of a second, each of which asks several times.
        self._counted: dict[str, tuple[int, int]] = {}
        self.changed: set[str] = set()

    def outcome_of(self, offline: Event, state: DeviceState, now: float) -> Outcome:
        """Return what becomes of an offline event that is sent unless it is part of an outage."""
        group_id = offline.group_id
        group = self._state(group_id)
        self._end_if_over(group_id, group, now)
        if state.counted_at is None:
            state.counted_at = now
            self._count(group_id, group, now)
            group.down += 1
            if not group.outage and self._is_most(group_id, group, now):
                self._begin(offline, group, now)
            self._count_in_summary(group_id, group)
        if group.outage:
            state.outage = group.outage
            return "summarized"
        is_held = self.is_busy(group_id, now) and now < state.counted_at + WINDOW_S
        return "wait" if is_held else "send"

    def returns(self, group_id: str, state: DeviceState, now: float) -> Outcome | None:
        """Note that a device has come back; return what becomes of that event.

        Returns:
            None if no outage stands for its offline event.
        """
        outage, counted_at = state.outage, state.counted_at
        state.outage, state.counted_at = "", None
        group = self._states.get(group_id)
        if group is None or counted_at is None:
            return "send" if outage else None
        self.changed.add(group_id)
        self._end_if_over(group_id, group, now)
        is_summarized = bool(outage) and outage == group.outage
        if int(counted_at) >= group.counts_from:
            group.down -= 1
            if group.outage:
                self._count(group_id, group, now)
                self._end_if_over(group_id, group, now)
        if not outage:  # its offline event was sent
            return None
        return "summarized" if is_summarized else "send"

    def is_busy(self, group_id: str, now: float) -> bool:
        """Return whether so many devices of a group changed that there may be an outage."""
        group = self._states.get(group_id)
        return group is not None and self._changes(group_id, group, now) > self._few(group_id)

    def may_add(self, group_id: str, now: float) -> int:
        """Return how many summaries the next event of a group may add."""
        group = self._states.get(group_id)
        if group is None:
            return 0
        if not group.outage and self._changes(group_id, group, now) < self._few(group_id):
            return 0
        return 2

    def look_again(self, group_id: str, now: float) -> None:
        """Look at a group whose time has come, unless another one was set meanwhile."""
        group = self._state(group_id)
        if group.look_at == now:
            group.look_at = None
            self._end_if_over(group_id, group, now)

    def _state(self, group_id: str) -> GroupState:
        self.changed.add(group_id)
        return self._states.setdefault(group_id, GroupState())

    def _few(self, group_id: str) -> float:
        size = self._sizes.get(group_id)
        return float("inf") if size is None else max(FEW, size // _SHARE)

    def _is_most(self, group_id: str, group: GroupState, now: float) -> bool:
        changes = self._changes(group_id, group, now)
        return changes > self._few(group_id) and 2 * changes > self._sizes[group_id]

    def _count(self, group_id: str, group: GroupState, now: float) -> None:
        second = int(now)
        changes = self._changes(group_id, group, now)
        self._counted[group_id] = second, changes + 1
        if group.recent and group.recent[-1][0] == second:
            group.recent[-1] = second, group.recent[-1][1] + 1
            return
        counts = {at: count for at, count in group.recent if at > now - WINDOW_S - 1}
        if not counts and not group.outage:
            group.counts_from, group.down = second, 0
        counts[second] = counts.get(second, 0) + 1
        group.recent = list(counts.items())
        group.look_at = second + 1.0 + WINDOW_S  # then there is none of the last minute
        self._wake(group.look_at, group_id)

    def _begin(self, offline: Event, group: GroupState, now: float) -> None:
        group.outage = offline.event_id
        sent = len(self._outbox.events)
        self._summarize(offline.group_id, group, now, "group.offline")
        if len(self._outbox.events) > sent:
            self._begun[offline.group_id] = sent

    def _count_in_summary(self, group_id: str, group: GroupState) -> None:
        """Let a summary that is still to be sent have the count of now."""
        if (index := self._begun.get(group_id)) is not None:
            summary = msgspec.structs.replace(self._outbox.events[index], offline=group.down)
            self._outbox.events[index] = summary

    def _end_if_over(self, group_id: str, group: GroupState, now: float) -> None:
        size = self._sizes.get(group_id, 0)
        if not group.outage or 2 * group.down > size or self.is_busy(group_id, now):
            return
        self._begun.pop(group_id, None)
        self._summarize(group_id, group, now, "group.online")
        group.outage, group.recent = "", []
        self._counted.pop(group_id, None)

    def _changes(self, group_id: str, group: GroupState, now: float) -> int:
        second, changes = self._counted.get(group_id, (None, 0))
        if second != int(now):
            changes = _changes(group, now)
            self._counted[group_id] = int(now), changes
        return changes

    def to_store(self, known: frozenset[str], filtered_to: float) -> dict[str, GroupState | None]:
        """Return the states that have changed; None for those to forget.

        Args:
            known: the groups whose states are stored.
            filtered_to: the time up to which all was filtered, in seconds since the epoch.
        """
        states: dict[str, GroupState | None] = {}
        for group_id in self.changed:
            group = self._states[group_id]
            if group.outage or _changes(group, filtered_to):
                states[group_id] = group
            elif group_id in known:
                states[group_id] = None
        return states

    def _summarize(
        self,
        group_id: str,
        group: GroupState,
        now: float,
        type_: Literal["group.offline", "group.online"],
    ) -> None:
        summary = GroupSummary(
            event_id=f"{group.outage}-{type_}",
            type=type_,
            group_id=group_id,
            at=datetime.fromtimestamp(int(now), UTC),
            devices=self._sizes.get(group_id, 0),
            offline=group.down,
            link=f"/api/v1/devices?group_id={group_id}&presence=offline",
        )
        self._outbox.summarize(summary, type_.replace("group", "device"))


def _changes(group: GroupState, now: float) -> int:
    """Return how many devices changed in the last minute, counted by whole seconds."""
    return sum(count for at, count in group.recent if at > now - WINDOW_S - 1)
