"""The first row of the dashboard: is anything being lost, or late? All green: no."""

from typing import Final

from grafana_foundation_sdk.builders import stat

from api.monitoring.panels import Limits, number

_ANY: Final = Limits(bad=0.001)
"""One is too many; what is extrapolated from a single one may be less than one."""


def at_a_glance() -> list[stat.Panel]:
    """Return the panels, most urgent first."""
    return [
        number(
            "Alerts firing",
            "Rules of alerts.yml that fire now. Red lines in all graphs say when they began.",
            'count(ALERTS{alertname=~"Activity.+", alertstate="firing"}) or vector(0)',
            limits=_ANY,
        ),
        number(
            "Processes scraped",
            "While there is none, all else here is empty, and only one alert can fire.",
            "count(activity_build_info{P}) or vector(0)",
            limits=Limits(least=1),
            alert="ActivityNotScraped",
        ),
        number(
            "Processes down",
            "Scraped within the last day, and not now.",
            "count(up{P} == 0 and on (job, instance) last_over_time(activity_build_info{P}[1d]))"
            " or vector(0)",
            limits=_ANY,
            alert="ActivityProcessDown",
        ),
        number(
            "Lag",
            "Age of the oldest touch that is not committed. tracker.flush_interval_s is normal.",
            "max(activity_lag_seconds{T})",
            unit="s",
            limits=Limits(15, 60),
            alert="ActivityLagHigh",
        ),
        number(
            "Nothing written for",
            "Time since the last successful flush, of trackers whose lag is above 30 s; a day at"
            " most.",
            "max(clamp_max(time() - activity_last_flush_success_timestamp_seconds{T}, 86400)"
            " and activity_lag_seconds{T} > 30) or vector(0)",
            unit="s",
            limits=Limits(60, 300),
            alert="ActivityNoSuccessfulFlush",
        ),
        number(
            "Failed flushes in a row",
            "All touches are kept, and the flush is retried.",
            "max(activity_flush_consecutive_failures{T})",
            limits=Limits(1, 3),
            alert="ActivityFlushFailing",
        ),
        number(
            "Permanent errors",
            "Flushes that fail until a table, a column or a permission is changed.",
            "sum(activity_flush_permanent_error{T})",
            limits=_ANY,
            alert="ActivityFlushPermanentError",
        ),
        number(
            "Touches dropped",
            "Lost at capacity, as invalid or at shutdown, in all of the time shown.",
            "sum(increase(activity_touches_dropped_total{T}[$__range]))",
            limits=_ANY,
            alert="ActivityTouchesDropped",
            decimals=0,
        ),
        number(
            "Rows rejected",
            "Touches dropped because Postgres rejects their rows, in all of the time shown.",
            'sum(increase(activity_flush_keys_total{T, outcome="rejected"}[$__range]))',
            limits=_ANY,
            alert="ActivityRowsRejected",
            decimals=0,
        ),
        number(
            "Fullest buffer",
            "Share of tracker.capacity_keys that is taken. When it is full, touches are dropped.",
            "max(activity_buffer_keys{T} / activity_buffer_capacity_keys{T})",
            unit="percentunit",
            limits=Limits(0.5, 0.8),
            alert="ActivityBufferNearlyFull",
        ),
        number(
            "Journals degraded",
            "They miss touches that are pending: a crash would lose them.",
            "sum(activity_journal_degraded{T}) or vector(0)",
            limits=_ANY,
            alert="ActivityJournalDegraded",
        ),
        number(
            "Journals left alone",
            "Segments of journals of ended processes that no process recovers.",
            "max(activity_journal_foreign_segments{P}) or vector(0)",
            limits=_ANY,
            alert="ActivityForeignJournals",
        ),
        number(
            "Uploads not stored",
            "Answered with 503 in all of the time shown: the database was away or slow, or too many"
            " were waiting.",
            'sum(increase(ingest_uploads_total{P, outcome=~"unavailable|shed"}[$__range]))',
            limits=_ANY,
            alert="ActivityUploadsUnavailable",
            decimals=0,
        ),
        number(
            "Answers of 500",
            "Bugs, in all of the time shown. The log has their traces.",
            'sum(increase(http_request_duration_seconds_count{P, status="500"}[$__range]))'
            " or vector(0)",
            limits=_ANY,
            alert="ActivityRequestsCrashed",
            decimals=0,
        ),
        number(
            "Keys' changes unseen for",
            "A key that was revoked since then may be accepted.",
            "max(auth_revocation_lag_seconds{P})",
            unit="s",
            limits=Limits(10, 60),
            alert="ActivityRevocationsUnseen",
        ),
        number(
            "Event loop late by",
            "The worst of the last 15 seconds; every request waits as long.",
            "max(event_loop_lag_seconds{P})",
            unit="s",
            limits=Limits(0.1, 0.25),
            alert="ActivityEventLoopLag",
        ),
    ]
