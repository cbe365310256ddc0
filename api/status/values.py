"""The values that `status` derives from two samples of a service, as it prints them as JSON.

None stands for a value that is not known.
"""

from typing import Literal

import msgspec


class Target(msgspec.Struct, frozen=True):
    """The state of one target of the tracker."""

    pending_keys: float | None
    capacity_keys: float | None
    lag_s: float | None
    touches_per_s: float | None
    coalesced_share: float | None
    dropped: dict[str, float]
    """Touches since the start, by reason."""
    dropped_lately: float | None
    """Touches between the samples."""
    rejected: float
    """Keys whose rows Postgres rejected since the start."""
    last_flush_age_s: float | None
    """None if nothing has been written since the start."""
    failures_in_a_row: float | None
    permanent_error: bool
    journal: Literal["ok", "degraded", "off"]
    journal_bytes: float | None
    journal_capacity_bytes: float | None


class Uploads(msgspec.Struct, frozen=True):
    """The state of location uploads."""

    per_s: dict[str, float | None]
    """By outcome."""
    shed: float
    """Uploads since the start."""
    unavailable_share: float | None
    """Share of all uploads between the samples."""
    waiting_rows: float | None
    capacity_rows: float | None


class Http(msgspec.Struct, frozen=True):
    """The state of requests and connections."""

    per_s: float | None
    p50_s: float | None
    p99_s: float | None
    per_s_by_class: dict[str, float | None]
    """By the first digit of the status: 2xx, 4xx, 5xx."""
    in_flight: float | None
    connections: dict[str, float]
    """By listener."""
    over_limit: float
    """Connections of clients that were closed since the start because too many were open."""
    denied: float
    """Requests that a limit of API keys has denied since the start."""
    crashed: float
    """Requests that got 500 since the start."""
    unavailable_share: float | None
    """Share of all requests between the samples that got 503."""


class Process(msgspec.Struct, frozen=True):
    """The state of the process."""

    version: str
    uptime_s: float | None
    cpu_share: float | None
    """Of one core."""
    memory_bytes: float | None
    event_loop_lag_s: float | None
    database_connections: dict[str, str]
    """Connections in use and the most that may be open, by pool."""
    revocation_lag_s: float | None
    """Seconds since the last successful poll for changes of API keys."""
    clock_offset_s: float | None
    """Seconds that the host's clock is ahead of the database's."""
    foreign_segments: float | None
    """Segments of orphaned journals that this process cannot recover."""


class Fleet(msgspec.Struct, frozen=True):
    """The devices of the whole fleet, of all services on one database."""

    devices: dict[str, float]
    """Active devices by presence, as stored; empty if they are not counted."""
    recent_gap_s: float | None
    """Seconds in the last 24 hours in which no process listened."""


class Worker(msgspec.Struct, frozen=True):
    """The state of one worker."""

    requests_per_s: float | None
    cpu_share: float | None
    """Of one core."""
    memory_bytes: float | None
    event_loop_lag_s: float | None
    connections: float | None


class DerivedValues(msgspec.Struct, frozen=True):
    """All values that are derived from two samples."""

    over_s: float | None
    """Seconds between the samples, over which rates are computed; None if there is one sample."""
    targets: dict[str, Target]
    uploads: Uploads
    http: Http
    process: Process
    fleet: Fleet
    workers: dict[str, Worker] = msgspec.field(default_factory=dict)
    """By number; empty for a service of one process."""
