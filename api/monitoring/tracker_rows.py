"""The rows of the dashboard about the tracker: losses, touches and flushes."""

from typing import Final

from api.monitoring.panels import Limits, Panel, Query, graph
from api.monitoring.promql import quantiles, rate

_EACH: Final = "{{instance}} {{target}}"
_BOOKS: Final = (
    "activity_touches_total{T} - activity_touches_coalesced_total{T}"
    " - sum without (reason) (activity_touches_dropped_total{T})"
    " - sum without (outcome) (activity_flush_keys_total{T})"
    " - activity_buffer_keys{T}"
)


def losses() -> list[Panel]:
    """Return the panels about lag and lost touches."""
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
            rate("activity_touches_dropped_total{T}", "target, reason", "{{target}} {{reason}}"),
            unit="ops",
            alert="ActivityTouchesDropped",
        ),
        graph(
            "Journal, of the most there may be",
            "Half of the room is for rewriting it, so beyond 50 % it misses touches.",
            Query("activity_journal_bytes{T} / activity_journal_capacity_bytes{T}", _EACH),
            unit="percentunit",
            limits=Limits(bad=0.5),
            alert="ActivityJournalNearlyFull",
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


def flushes() -> list[Panel]:
    """Return the panels about touches and flushes."""
    return [
        graph(
            "Touches",
            "All that were recorded, kept or not.",
            rate("activity_touches_total{T}", "target", "{{target}}"),
            unit="ops",
            alert="ActivityTouchesHalved",
        ),
        graph(
            "Updated rows, and those that wrote no index",
            "Both lines should be nearly the same: other updates cost several times as much.",
            Query(
                "max by (table) (rate(database_table_updates_total{P}[$__rate_interval]))",
                "{{table}}",
            ),
            Query(
                "max by (table) (rate(database_table_hot_updates_total{P}[$__rate_interval]))",
                "{{table}}, no index",
            ),
            unit="ops",
            alert="ActivityUpdatesNotHot",
        ),
        graph(
            "Rows, and row versions that vacuum has to remove",
            "Vacuum does not keep up if there are more of these than rows.",
            Query(
                "max by (table) (database_table_dead_rows{P})",
                "{{table}}, dead",
            ),
            Query("max by (table) (database_table_rows{P})", "{{table}}, rows"),
            alert="ActivityDeadRows",
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
            " rejected (Postgres does not accept the row).",
            rate("activity_flush_keys_total{T}", "target, outcome", "{{target}} {{outcome}}"),
            unit="ops",
            stacked=True,
            alert="ActivityRowsMissing",
        ),
        graph(
            "Keys with doubtful rows",
            "Hidden: kept, because the table may not show their rows. Corrected: the stored time"
            " was in the future.",
            Query("sum by (target) (activity_flush_hidden_keys{T})", "{{target}} hidden"),
            rate("activity_flush_corrected_keys_total{T}", "target", "{{target}} corrected"),
            alert="ActivityFlushPermanentError",
        ),
        graph(
            "Flushes",
            "Partial: some rows were locked, and are tried again with the next one.",
            rate("activity_flushes_total{T}", "target, outcome", "{{target}} {{outcome}}"),
            unit="ops",
            alert="ActivityFlushFailing",
        ),
        graph(
            "Time of a flush",
            "With the rests that one with time to spare takes.",
            *quantiles("activity_flush_duration_seconds", "{T}", "target", "{{target}}"),
            unit="s",
            alert="ActivityLagHigh",
        ),
        graph(
            "Keys in an UPDATE",
            "At most tracker.chunk_keys.",
            *quantiles("activity_flush_chunk_rows", "{T}", "target", "{{target}}"),
        ),
    ]
