"""The rows of the dashboard about the service: requests, uploads and processes."""

from api.monitoring.panels import Limits, Panel, Query, graph
from api.monitoring.promql import quantiles, rate


def requests() -> list[Panel]:
    """Return the panels about requests and connections."""
    duration = "http_request_duration_seconds"
    return [
        graph(
            "Requests by route",
            "Route `unmatched` is a path that is none, `unparsed` what was no HTTP or too slow.",
            rate(f"{duration}_count{{P}}", "method, route", "{{method}} {{route}}"),
            unit="reqps",
        ),
        graph(
            "Time of a request, 99th percentile by route",
            "From its header to its response.",
            Query(
                "histogram_quantile(0.99, sum by (le, method, route) ("
                f"rate({duration}_bucket{{P}}[$__rate_interval])))",
                "{{method}} {{route}}",
            ),
            unit="s",
            alert="ActivityEventLoopLag",
        ),
        graph(
            "Responses by status",
            "499: the client disconnected before the response.",
            rate(f"{duration}_count{{P}}", "status", "{{status}}"),
            unit="reqps",
            stacked=True,
            alert="ActivityRequestsUnavailable",
        ),
        graph(
            "Denied requests",
            "Without a valid API key, a second.",
            rate(f'{duration}_count{{P, status="401"}}', "instance", "{{instance}}"),
            unit="reqps",
            alert="ActivityDeniedFlood",
        ),
        graph(
            "Requests in progress",
            "By process; the scrape itself is one.",
            Query("http_requests_in_flight{P}", "{{instance}}"),
        ),
        graph(
            "Open connections",
            "At server.max_connections a new connection replaces one that waits for a request.",
            Query("sum by (instance, listener) (http_connections{P})", "{{instance}} {{listener}}"),
            alert="ActivityConnectionLimitReached",
        ),
        graph(
            "Connections that the service closed",
            "To make room for a new one, because no room was left, or because they were too slow.",
            rate("http_connections_closed_total{P}", "reason", "{{reason}}"),
            unit="ops",
            alert="ActivityConnectionLimitReached",
        ),
        graph(
            "Live streams",
            "Open pages that watch a group. Beyond the most, further ones get 503.",
            Query("sum by (instance) (live_streams{P})", "{{instance}}"),
            Query("sum by (instance) (live_capacity_streams{P})", "{{instance}} at most"),
            alert="ActivityStreamsNearlyFull",
        ),
        graph(
            "Sent to live streams",
            "The same bytes go to all that watch one group.",
            rate("live_sent_bytes_total{P}", "instance", "{{instance}}"),
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
            rate("limits_denied_requests_total{P}", "limit", "{{limit}}"),
            rate("live_denied_streams_total{P}", "instance", "{{instance}} streams"),
            unit="ops",
            alert="ActivityLimitDenials",
        ),
    ]


def uploads() -> list[Panel]:
    """Return the panels about uploads and the caches of API keys and devices."""
    return [
        graph(
            "Uploads",
            "Refused by the database's own rules, unavailable: it was away or slow, shed: too many"
            " waited.",
            rate("ingest_uploads_total{P}", "outcome", "{{outcome}}"),
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
            *quantiles("ingest_write_duration_seconds", "{P}", "", ""),
            unit="s",
            alert="ActivityUploadsShed",
        ),
        graph(
            "Reports committed together",
            "Grows by itself with the load, up to ingest.batch_rows.",
            *quantiles("ingest_batch_rows", "{P}", "", ""),
        ),
        graph(
            "Cache hits of API keys and devices",
            "Share of lookups; each cache miss is a query.",
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
            "Known devices, of those that fit",
            "Active devices in memory; any other device is looked up.",
            Query("auth_known_devices{P} / auth_known_devices_capacity{P}", "{{instance}}"),
            unit="percentunit",
            most=1,
            limits=Limits(bad=0.9),
            alert="ActivityKnownDevicesNearlyFull",
        ),
        graph(
            "Keys' changes unseen for",
            "Below auth.revocation_poll_s and a little when all is well.",
            Query("auth_revocation_lag_seconds{P}", "{{instance}}"),
            unit="s",
            limits=Limits(bad=60),
            alert="ActivityDatabaseUnavailable",
        ),
        graph(
            "Clock ahead of the database's",
            "Touches go by the database's clock; the host's is wrong if this is far from 0.",
            Query("database_clock_offset_seconds{P}", "{{instance}}"),
            unit="s",
            alert="ActivityClockOffset",
        ),
    ]


def process() -> list[Panel]:
    """Return the panels about database connections and the process."""
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
            alert="ActivityPoolSaturated",
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
            "A line that starts again at 0 is a restart.",
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
