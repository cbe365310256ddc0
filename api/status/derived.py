"""Values derived from two samples of a service: current values, and rates between the samples.

None stands for a value that is not known. Requests for health and metrics are not counted: `status`
itself sends such requests.
"""

import math
from collections.abc import Callable
from typing import Final

from api.fleet.presence import PRESENCES
from api.printable import printable
from api.status.client import Sample
from api.status.interval import DURATION, Interval
from api.status.scrape import Metrics, quantile
from api.status.values import DerivedValues, Fleet, Http, Process, Target, Uploads, Worker

_MOST_TARGETS: Final = 8
_MOST_WORKERS: Final = 256
_UNPARSED: Final = "unparsed"
"""The route of requests that could not be parsed: their duration is always 0."""


def has_restarted(earlier: Metrics, later: Metrics) -> bool:
    """Return whether two scrapes come from two different processes."""
    name = "process_start_time_seconds"
    return earlier.get(name) != later.get(name)


def derive_values(earlier: Sample | None, later: Sample) -> DerivedValues | None:
    """Return the values derived from two samples; None if the later one has no metrics.

    Args:
        earlier: the sample that rates are computed from; None if there is none.
        later: the newest sample.
    """
    now = later.metrics
    if now is None:
        return None
    if earlier is not None and (earlier.metrics is None or has_restarted(earlier.metrics, now)):
        earlier = None
    before = earlier.metrics if earlier is not None else None
    over_s = None if earlier is None else later.monotonic_s - earlier.monotonic_s
    interval = Interval(before, now, over_s, later.at)
    names = list(now.by("target", "activity_touches_total"))[:_MOST_TARGETS]
    return DerivedValues(
        over_s,
        {printable(name): _target(interval, name) for name in names},
        _uploads(interval),
        _http(interval),
        _process(interval),
        _fleet(interval),
        _workers(interval),
    )


def _target(interval: Interval, name: str) -> Target:
    now = interval.now
    touches = interval.increase("activity_touches_total", target=name)
    coalesced = interval.increase("activity_touches_coalesced_total", target=name)
    degraded = now.get("activity_journal_degraded", target=name)
    dropped = now.by("reason", "activity_touches_dropped_total", target=name)
    return Target(
        pending_keys=now.get("activity_buffer_keys", target=name),
        capacity_keys=now.get("activity_buffer_capacity_keys", target=name),
        lag_s=now.get("activity_lag_seconds", target=name),
        touches_per_s=interval.per_s(touches),
        coalesced_share=coalesced / touches if touches and coalesced is not None else None,
        dropped={printable(why): count for why, count in dropped.items() if count},
        dropped_lately=interval.increase("activity_touches_dropped_total", target=name),
        rejected=now.total("activity_flush_keys_total", target=name, outcome="rejected"),
        last_flush_age_s=interval.age(
            now.get("activity_last_flush_success_timestamp_seconds", target=name)
        ),
        failures_in_a_row=now.get("activity_flush_consecutive_failures", target=name),
        permanent_error=now.get("activity_flush_permanent_error", target=name) == 1,
        journal="off" if degraded is None else "degraded" if degraded else "ok",
        journal_bytes=now.get("activity_journal_bytes", target=name),
        journal_capacity_bytes=now.get("activity_journal_capacity_bytes", target=name),
    )


def _uploads(interval: Interval) -> Uploads:
    outcomes = ("stored", "rejected", "unavailable", "shed")
    unavailable = interval.increase("ingest_uploads_total", outcome="unavailable")
    lately = sum(interval.increase("ingest_uploads_total", outcome=name) or 0 for name in outcomes)
    return Uploads(
        {name: interval.rate("ingest_uploads_total", outcome=name) for name in outcomes},
        interval.now.total("ingest_uploads_total", outcome="shed"),
        unavailable / lately if unavailable is not None and lately else None,
        interval.now.get("ingest_waiting_rows"),
        interval.now.get("ingest_capacity_rows"),
    )


def _http(interval: Interval) -> Http:
    def has_status(prefix: str) -> Callable[[dict[str, str]], bool]:
        return lambda labels: labels.get("status", "").startswith(prefix)

    buckets = interval.requests("_bucket", "le", lambda labels: labels.get("route") != _UNPARSED)
    cumulative = {_number(bound): count for bound, count in buckets.items()}
    counted = sum(interval.requests("_count", "route", lambda _: True).values())
    classes = {
        f"{digit}xx": interval.per_s(
            sum(interval.requests("_count", "route", has_status(digit)).values())
        )
        for digit in "245"
    }
    return Http(
        interval.per_s(counted),
        quantile(0.5, cumulative),
        quantile(0.99, cumulative),
        classes if interval.before is not None else dict.fromkeys(classes),
        interval.now.get("http_requests_in_flight"),
        {
            printable(listener): n
            for listener, n in interval.now.by("listener", "http_connections").items()
        },
        sum(
            interval.now.total("http_connections_closed_total", listener="api", reason=reason)
            for reason in ("connection_limit", "refused")
        ),
        interval.now.total("limits_denied_requests_total")
        + interval.now.total("live_denied_streams_total"),
        interval.now.total(f"{DURATION}_count", status="500"),
        sum(interval.requests("_count", "route", has_status("503")).values()) / counted
        if counted
        else None,
    )


def _process(interval: Interval) -> Process:
    now = interval.now
    in_use = now.by("pool", "database_in_use_connections")
    return Process(
        printable(next(iter(now.by("version", "activity_build_info")), "unknown")),
        interval.age(now.get("process_start_time_seconds")),
        interval.rate("process_cpu_seconds_total"),
        now.get("process_resident_memory_bytes"),
        now.get("event_loop_lag_seconds"),
        {
            printable(pool): f"{used:.0f} of "
            f"{now.total('database_max_open_connections', pool=pool):.0f}"
            for pool, used in in_use.items()
        },
        now.get("auth_revocation_lag_seconds"),
        now.get("database_clock_offset_seconds"),
        now.get("activity_journal_foreign_segments"),
    )


def _fleet(interval: Interval) -> Fleet:
    counts = interval.now.by("presence", "activity_devices")
    return Fleet(
        {state: counts[state] for state in PRESENCES if state in counts},
        interval.now.get("presence_recent_gap_seconds"),
    )


def _workers(interval: Interval) -> dict[str, Worker]:
    now = interval.now
    numbers = list(now.by("worker", "activity_worker_requests_total"))[:_MOST_WORKERS]
    return {
        printable(number): Worker(
            interval.rate("activity_worker_requests_total", worker=number),
            interval.rate("activity_worker_cpu_seconds_total", worker=number),
            now.get("activity_worker_memory_bytes", worker=number),
            now.get("activity_worker_event_loop_lag_seconds", worker=number),
            now.get("activity_worker_connections", worker=number),
        )
        for number in numbers
    }


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(number) else number
