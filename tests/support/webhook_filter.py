"""A webhook and the log of events in memory, to filter them as the service does, page by page."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from api.events.log import Event, EventType
from api.webhooks.filtering import Filtered, Logged, Page, Stored, filter_events
from api.webhooks.outgoing import GroupSummary, Outgoing
from api.webhooks.rules import Rules
from api.webhooks.state import decode_device, decode_group, encode_state

START = 1_800_000_000


@dataclass
class Webhook:
    """Keeps what the service stores, as JSON; all times are seconds after `START`."""

    rules: Rules = field(default_factory=Rules)
    log: list[Logged] = field(default_factory=list)
    position: int = 0
    states: dict[str, bytes] = field(default_factory=dict)
    groups: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sent: list[Outgoing] = field(default_factory=list)
    dropped: int = 0
    elsewhere: set[str] = field(default_factory=set)
    page: int = 1000
    seqs: Counter[str] = field(default_factory=Counter)
    written: list[tuple[float, str, int]] = field(default_factory=list)

    def happen(
        self,
        kind: str,
        device: int,
        at: float,
        *,
        written_at: float | None = None,
        stored_at: float | None = None,
        group="vans",
        **data: Any,
    ) -> None:
        """Store an event of a device.

        It is in the log when it happens, or at `stored_at`; the row of its device has its number
        since then, or since `written_at`.
        """
        device_id = str(UUID(int=device))
        self.seqs[device_id] += 1
        position = len(self.log) + 1
        event = Event(
            str(position),
            self.seqs[device_id],
            _type(kind),
            device_id,
            group,
            datetime.fromtimestamp(START + at, UTC),
            **data,
        )
        stored = START + (at if stored_at is None else stored_at)
        self.log.append(Logged(position, stored, event))
        written = stored if written_at is None else START + written_at
        self.written.append((written, device_id, self.seqs[device_id]))

    def filter_at(self, now: float) -> list[str]:
        """Filter all that happened until a time; return what is sent, as `offline 1`."""
        before = len(self.sent)
        while not self._filter_page(START + now).is_end:
            pass
        return [shown(event) for event in self.sent[before:]]

    def _filter_page(self, now: float) -> Filtered:
        known = [one for one in self.log if one.stored_at <= now and one.position > self.position]
        events = known[: self.page]
        is_full = len(events) == self.page
        until = events[-1].stored_at if is_full else now
        end = events[-1].position if events else self.position
        stored = Stored(
            {key: decode_device(state) for key, state in self.states.items()},
            {key: decode_group(state) for key, state in self.groups.items()},
            {} if is_full else {key: seq for at, key, seq in self.written if at <= now},
            self.elsewhere,
            self.sizes,
        )
        filtered = filter_events(self.rules, stored, Page(self.position, events, end, until))
        for states, changed in ((self.states, filtered.devices), (self.groups, filtered.groups)):
            for key, state in changed.items():
                if state is None:
                    del states[key]
                else:
                    states[key] = encode_state(state)
        self.position = filtered.position
        self.sent += filtered.send
        self.dropped += filtered.dropped
        # The end of a page that is full is not yet that of the log.
        return filtered._replace(is_end=filtered.is_end and not is_full)


def shown(event: Outgoing) -> str:
    if isinstance(event, GroupSummary):
        return f"{event.type} {event.offline}/{event.devices}"
    kind = event.type if isinstance(event, Event) else "device.flapping"
    return f"{kind.partition('.')[2]} {UUID(event.device_id).int}"


def _type(kind: str) -> EventType:
    return f"device.{kind}"  # type: ignore[return-value]
