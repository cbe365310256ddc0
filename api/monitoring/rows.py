"""What is on the dashboard, row by row: after the first glance what it is about, and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from grafana_foundation_sdk.builders import stat, timeseries

from api.monitoring.overview import at_a_glance
from api.monitoring.panels import Limits, Query, graph

Panel: TypeAlias = stat.Panel | timeseries.Panel

_EACH: Final = "{{instance}} {{target}}"
_BOOKS: Final = (
    "activity_touches_total{T} - activity_touches_coalesced_total{T}"
    " - sum without (reason) (activity_touches_dropped_total{T})"
    " - sum without (outcome) (activity_flush_keys_total{T})"
    " - activity_buffer_keys{T}"
)


def _rate(counter: str, by: str, legend: str) -> Query:
    """Return how fast a counter grows in a second."""
    return Query(f"sum by ({by}) (rate({counter}[$__rate_interval]))", legend)


def _quantiles(metric: str, selection: str, by: str, legend: str) -> list[Query]:
    """Return the median and the 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({metric}_bucket{selection}[$__rate_interval]))"
    return [
        Query(f"histogram_quantile({share}, {rate})", f"{name} {legend}".strip())
        for share, name in ((0.99, "99 %"), (0.5, "median"))
    ]


def _losses() -> list[Panel]:
    return [
        graph(
            "Lag",
            "Age of the oldest touch that is not committed; saw teeth as high as"
            " tracker.flush_interval_s are normal.",
            Query("activity_lag_seconds{T}", _EACH),
            unit="s",
            limits=Limits(bad=60),
            alert="ActivityLagHigh",
        ),
        graph(
            "Keys pending, of the most there may be",
            "How full the buffers are.",
            Query("activity_buffer_keys{T} / activity_buffer_capacity_keys{T}", _EACH),
            unit="percentunit",
            limits=Limits(bad=0.8),
            alert="ActivityBufferNearlyFull",
        ),
        graph(
            "Touches dropped",
            "By reason: capacity (the buffer is full), invalid (a clock that is off by decades),"
            " shutdown.",
            _rate("activity_touches_dropped_total{T}", "target, reason", "{{target}} {{reason}}"),
            unit="ops",
            alert="ActivityTouchesDropped",
        ),
        graph(
            "Journal, of the most there may be",
            "Half of the room is for rewriting it, so beyond 50 % it misses touches.",
            Query("activity_journal_bytes{T} / activity_journal_capacity_bytes{T}", _EACH),
            unit="percentunit",
            limits=Limits(bad=0.5),
            alert="ActivityJournalDegraded",
        ),
        graph(
            "Touches that the journal missed, and took over",
            "Missed: kept in memory alone. Taken over: left by processes that were killed.",
            Query(
                "sum by (target) (increase("
                "activity_journal_missed_touches_total{T}[$__rate_interval]))",
                "missed {{target}}",
            ),
            Query(
                "sum by (target) (increase("
                "activity_journal_recovered_touches_total{T}[$__rate_interval]))",
                "taken over {{target}}",
            ),
            alert="ActivityJournalDegraded",
        ),
        graph(
            "Touches unaccounted for",
            "What the books are off by: while a flush is under way or fails, or by a bug.",
            Query(_BOOKS, _EACH),
            below_zero=True,
            alert="ActivityBooksUnbalanced",
        ),
    ]


def _flushes() -> list[Panel]:
    return [
        graph(
            "Touches",
            "All that were recorded, kept or not.",
            _rate("activity_touches_total{T}", "target", "{{target}}"),
            unit="ops",
        ),
        graph(
            "Touches coalesced",
            "Share that found its key pending already, and so costs the database nothing.",
            Query(
                "sum by (target) (rate(activity_touches_coalesced_total{T}[$__rate_interval]))"
                " / sum by (target) (rate(activity_touches_total{T}[$__rate_interval]))",
                "{{target}}",
            ),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Keys flushed",
            "What became of them: written, unchanged (the row was newer), missing (no row),"
            " rejected (Postgres refuses the row).",
            _rate("activity_flush_keys_total{T}", "target, outcome", "{{target}} {{outcome}}"),
            unit="ops",
            stacked=True,
            alert="ActivityRowsMissing",
        ),
        graph(
            "Keys with doubtful rows",
            "Hidden: kept, because the table may not show their rows. Corrected: the stored time"
            " was in the future.",
            Query("sum by (target) (activity_flush_hidden_keys{T})", "{{target}} hidden"),
            _rate("activity_flush_corrected_keys_total{T}", "target", "{{target}} corrected"),
            alert="ActivityFlushPermanentError",
        ),
        graph(
            "Flushes",
            "Partial: some rows were locked, and are tried again with the next one.",
            _rate("activity_flushes_total{T}", "target, outcome", "{{target}} {{outcome}}"),
            unit="ops",
            alert="ActivityFlushFailing",
        ),
        graph(
            "Time of a flush",
            "With the rests that one with time to spare takes.",
            *_quantiles("activity_flush_duration_seconds", "{T}", "target", "{{target}}"),
            unit="s",
            alert="ActivityLagHigh",
        ),
        graph(
            "Keys in an UPDATE",
            "At most tracker.chunk_keys.",
            *_quantiles("activity_flush_chunk_rows", "{T}", "target", "{{target}}"),
        ),
    ]


def _requests() -> list[Panel]:
    requests = "http_request_duration_seconds"
    return [
        graph(
            "Requests by route",
            "Route `unmatched` is a path that is none, `unparsed` what was no HTTP or too slow.",
            _rate(f"{requests}_count{{P}}", "method, route", "{{method}} {{route}}"),
            unit="reqps",
        ),
        graph(
            "Time of a request, 99th percentile by route",
            "From its head to its answer.",
            Query(
                "histogram_quantile(0.99, sum by (le, method, route) ("
                f"rate({requests}_bucket{{P}}[$__rate_interval])))",
                "{{method}} {{route}}",
            ),
            unit="s",
            alert="ActivityEventLoopLag",
        ),
        graph(
            "Answers by status",
            "499 is a client that left before its answer.",
            _rate(f"{requests}_count{{P}}", "status", "{{status}}"),
            unit="reqps",
            stacked=True,
            alert="ActivityRequestsUnavailable",
        ),
        graph(
            "Requests in progress",
            "By process; the scrape itself is one.",
            Query("http_requests_in_flight{P}", "{{instance}}"),
        ),
        graph(
            "Open connections",
            "Beyond server.max_connections newcomers take the place of those who wait.",
            Query("sum by (instance, listener) (http_connections{P})", "{{instance}} {{listener}}"),
            alert="ActivityConnectionLimitReached",
        ),
        graph(
            "Connections that we closed",
            "For newcomers, as newcomers, or as they were too slow.",
            _rate("http_connections_closed_total{P}", "reason", "{{reason}}"),
            unit="ops",
            alert="ActivityConnectionLimitReached",
        ),
        graph(
            "Live streams",
            "Open pages that watch a group. Beyond the most, further ones are answered with 503.",
            Query("sum by (instance) (live_streams{P})", "{{instance}}"),
            Query("sum by (instance) (live_capacity_streams{P})", "{{instance}} at most"),
        ),
        graph(
            "Sent to live streams",
            "The same bytes go to all that watch one group.",
            _rate("live_sent_bytes_total{P}", "instance", "{{instance}}"),
            unit="Bps",
        ),
        graph(
            "Shares of API keys",
            "What requests hold of the limits that all API keys share, and the most of it.",
            Query("sum by (instance, limit) (limits_held{P})", "{{instance}} {{limit}}"),
            Query(
                "sum by (instance, limit) (limits_capacity{P})", "{{instance}} {{limit}} at most"
            ),
            Query(
                "sum by (instance, limit) (limits_waiting_requests{P})",
                "{{instance}} {{limit}} waiting",
            ),
        ),
        graph(
            "Denied by a limit",
            "Requests that got no share in time, and streams beyond an API key's part: 503.",
            _rate("limits_denied_requests_total{P}", "limit", "{{limit}}"),
            _rate("live_denied_streams_total{P}", "instance", "{{instance}} streams"),
            unit="ops",
            alert="ActivityLimitDenials",
        ),
    ]


def _uploads() -> list[Panel]:
    return [
        graph(
            "Uploads",
            "Refused by the database's own rules, unavailable: it was away or slow, shed: too many"
            " waited.",
            _rate("ingest_uploads_total{P}", "outcome", "{{outcome}}"),
            unit="reqps",
            stacked=True,
            alert="ActivityUploadsUnavailable",
        ),
        graph(
            "Reports waiting, of the most that may",
            "When either is full, uploads are shed.",
            Query("ingest_waiting_rows{P} / ingest_capacity_rows{P}", "rows {{instance}}"),
            Query("ingest_waiting_bytes{P} / ingest_capacity_bytes{P}", "bytes {{instance}}"),
            unit="percentunit",
            limits=Limits(bad=0.8),
            alert="ActivityUploadsShed",
        ),
        graph(
            "Time to commit a group",
            "All uploads of a group wait for it.",
            *_quantiles("ingest_write_duration_seconds", "{P}", "", ""),
            unit="s",
            alert="ActivityUploadsShed",
        ),
        graph(
            "Reports committed together",
            "Grows by itself with the load, up to ingest.batch_rows.",
            *_quantiles("ingest_batch_rows", "{P}", "", ""),
        ),
        graph(
            "Look-ups of keys and devices that memory answers",
            "The others ask the database.",
            Query(
                "sum by (cache) (rate(auth_cache_hits_total{P}[$__rate_interval])) / ("
                "sum by (cache) (rate(auth_cache_hits_total{P}[$__rate_interval]))"
                " + sum by (cache) (rate(auth_cache_misses_total{P}[$__rate_interval])))",
                "{{cache}}",
            ),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Keys' changes unseen for",
            "Below auth.revocation_poll_s and a little when all is well.",
            Query("auth_revocation_lag_seconds{P}", "{{instance}}"),
            unit="s",
            limits=Limits(bad=60),
            alert="ActivityRevocationsUnseen",
        ),
        graph(
            "Clock ahead of the database's",
            "Touches go by the database's clock; the host's is wrong if this is far from 0.",
            Query("database_clock_offset_seconds{P}", "{{instance}}"),
            unit="s",
            alert="ActivityClockOffset",
        ),
    ]


def _process() -> list[Panel]:
    return [
        graph(
            "Database connections at work, of the most there may be",
            "At 100 % requests wait for each other: the database is slow, or the pool too small.",
            Query(
                "database_in_use_connections{P} / database_max_open_connections{P}",
                "{{instance}} {{pool}}",
            ),
            unit="percentunit",
            most=1,
            alert="ActivityUploadsUnavailable",
        ),
        graph(
            "Database connections open",
            "What the server sees of us, at work or idle.",
            Query("sum by (pool) (database_open_connections{P})", "{{pool}}"),
            stacked=True,
        ),
        graph(
            "Event loop lag",
            "How late timers run, the worst of 15 seconds.",
            Query("event_loop_lag_seconds{P}", "{{instance}}"),
            unit="s",
            limits=Limits(bad=0.25),
            alert="ActivityEventLoopLag",
        ),
        graph(
            "CPU",
            "Of one core, which is all that a process can use.",
            Query("rate(process_cpu_seconds_total{P}[$__rate_interval])", "{{instance}}"),
            unit="percentunit",
            limits=Limits(bad=0.9),
            alert="ActivityEventLoopLag",
        ),
        graph(
            "Memory",
            "Resident. A pending key takes about 130 bytes.",
            Query("process_resident_memory_bytes{P}", "{{instance}}"),
            unit="bytes",
        ),
        graph(
            "Open files, of the most there may be",
            "Connections mostly, and journals.",
            Query("process_open_fds{P} / process_max_fds{P}", "{{instance}}"),
            unit="percentunit",
            limits=Limits(bad=0.8),
        ),
        graph(
            "Running since, and versions",
            "A line that begins anew is a restart.",
            Query(
                "(time() - process_start_time_seconds{P})"
                " * on (job, instance) group_left (version, python) activity_build_info{P}",
                "{{instance}} {{version}}, Python {{python}}",
            ),
            unit="s",
            width=24,
            alert="ActivityRestartsOften",
        ),
    ]


ROWS: Final[Mapping[str, Callable[[], Sequence[Panel]]]] = {
    "Is anything being lost, or late?": at_a_glance,
    "Since when, and how much": _losses,
    "Touches and flushes": _flushes,
    "Requests": _requests,
    "Uploads, keys and devices": _uploads,
    "Connections and processes": _process,
}
"""Titles, and what makes the panels."""
