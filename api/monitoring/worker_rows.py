"""The row of the dashboard about workers; it is empty for a service of one process."""

from api.monitoring.panels import Limits, Panel, Query, graph
from api.monitoring.promql import rate


def workers() -> list[Panel]:
    """Return the panels about the workers of each service."""
    return [
        graph(
            "Workers by state",
            "Starting: its worker is not there. Unresponsive: it did not answer the scrape.",
            Query("sum by (instance, state) (activity_workers{P}) > 0", "{{instance}} {{state}}"),
            Query("sum by (instance) (activity_workers_wanted{P})", "{{instance}} wanted"),
            alert="ActivityWorkersMissing",
        ),
        graph(
            "Workers that do not respond",
            "Clients of such a worker wait.",
            Query('activity_workers{P, state="unresponsive"}', "{{instance}}"),
            limits=Limits(bad=1),
            alert="ActivityWorkerUnresponsive",
        ),
        graph(
            "Workers that were replaced",
            "In five minutes. A reload replaces each once; died and start_failed are errors.",
            Query(
                "sum by (instance, reason) (increase(activity_worker_restarts_total{P}[5m]))",
                "{{instance}} {{reason}}",
            ),
            alert="ActivityWorkerDies",
        ),
        graph(
            "Requests by worker",
            "Far apart: a few connections have most of the requests.",
            rate(
                "activity_worker_requests_total{P}", "instance, worker", "{{instance}} {{worker}}"
            ),
            unit="reqps",
        ),
        graph(
            "CPU by worker",
            "Of one core, which is all that a worker can use.",
            rate(
                "activity_worker_cpu_seconds_total{P}",
                "instance, worker",
                "{{instance}} {{worker}}",
            ),
            unit="percentunit",
            limits=Limits(bad=0.9),
        ),
        graph(
            "Memory by worker",
            "Resident.",
            Query("activity_worker_memory_bytes{P}", "{{instance}} {{worker}}"),
            unit="bytes",
        ),
        graph(
            "Event loop lag by worker",
            "How late timers run, the worst of 15 seconds.",
            Query("activity_worker_event_loop_lag_seconds{P}", "{{instance}} {{worker}}"),
            unit="s",
            limits=Limits(bad=0.25),
            alert="ActivityEventLoopLag",
        ),
        graph(
            "Open connections by worker",
            "A connection stays with the worker that accepted it.",
            Query("activity_worker_connections{P}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Questions that a worker did not answer",
            "Each is a response without its latest touches, which says so in X-Missing-Workers.",
            rate("activity_worker_unanswered_questions_total{P}", "instance", "{{instance}}"),
            unit="ops",
            alert="ActivityWorkerUnresponsive",
        ),
    ]
