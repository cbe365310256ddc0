"""Findings: what is wrong with a service, critical first, each with its alert and runbook section.

Thresholds are those of api/monitoring/alerts.yml, without the time for which an alert waits: an
operator wants to see what is about to fire. A test keeps both the same.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from api.handlers.readiness import Readiness
from api.printable import printable
from api.status.client import Sample
from api.status.formatting import count, share, span
from api.status.values import DerivedValues, Target

FAILURES: Final = 3
LAG_S: Final = 60
NO_FLUSH_S: Final = 300
FULL_SHARE: Final = 0.8
LOOP_LAG_S: Final = 0.25
UNAVAILABLE_SHARE: Final = 0.05
UNSEEN_S: Final = 60
CLOCK_OFFSET_S: Final = 60
FOREIGN_SEGMENTS: Final = 0
_RUNBOOK: Final = "api/monitoring/RUNBOOK.md"
_ALERT_OF_PROBLEM: Final = {
    "database": "ActivityFlushFailing",
    "migrations": "ActivityFlushPermanentError",
    "revocations": "ActivityRevocationsUnseen",
    "flush": "ActivityFlushPermanentError",
    "journal": "ActivityJournalDegraded",
}
"""The alert, and so the runbook section, by the first word of a readiness problem's name."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong."""

    severity: Literal["critical", "warning"]
    alert: str
    text: str
    runbook: str


def findings(sample: Sample, values: DerivedValues | None) -> list[Finding]:
    """Return what is wrong, critical findings first.

    Args:
        sample: the newest sample.
        values: the values derived from it; None if it has no metrics.
    """
    found = []
    if sample.readiness is None:
        found.append(_finding("critical", "ActivityProcessDown", sample.error or "no response"))
    else:
        found.extend(_of_readiness(sample.readiness))
        if sample.metrics_error is not None:
            found.append(_finding("warning", "ActivityNotScraped", sample.metrics_error))
    if values is not None:
        for name, target in values.targets.items():
            found.extend(_of_target(name, target, values, sample.readiness))
        found.extend(_of_process(values))
    return sorted(found, key=lambda finding: finding.severity)


def _finding(severity: Literal["critical", "warning"], alert: str, text: str) -> Finding:
    return Finding(severity, alert, text, f"{_RUNBOOK}#{alert.lower()}")


def _of_readiness(readiness: Readiness) -> Iterator[Finding]:
    for code in readiness.problems[:10]:
        alert = _ALERT_OF_PROBLEM.get(code.partition(".")[0], "ActivityFlushFailing")
        yield _finding("critical", alert, f"not ready, {_detailed(code, readiness)}")
    for code in readiness.degraded[:10]:
        alert = _ALERT_OF_PROBLEM.get(code.partition(".")[0], "ActivityFlushFailing")
        yield _finding("critical", alert, f"degraded, {_detailed(code, readiness)}")
    for code in readiness.warnings[:10]:
        alert = _ALERT_OF_PROBLEM.get(code.partition(".")[0], "ActivityJournalDegraded")
        severity: Literal["critical", "warning"] = (
            "critical" if alert == "ActivityFlushPermanentError" else "warning"
        )
        yield _finding(severity, alert, _detailed(code, readiness))


def _detailed(code: str, readiness: Readiness) -> str:
    text = (readiness.details or {}).get(code, "the log and server.monitor_port have the details")
    return f"{printable(code)}: {printable(text)}"


def _of_target(
    name: str, target: Target, values: DerivedValues, readiness: Readiness | None
) -> Iterator[Finding]:
    reported = (
        {*readiness.problems, *readiness.degraded, *readiness.warnings} if readiness else set()
    )
    yield from _of_flushes(name, target, reported)
    if (target.lag_s or 0) > LAG_S:
        text = f"the oldest touch of {name} that is not committed is {span(target.lag_s)} old"
        yield _finding("critical", "ActivityLagHigh", text)
    idle_s = target.last_flush_age_s
    if idle_s is None:
        idle_s = values.process.uptime_s
    late = (target.lag_s or 0) > LAG_S
    if target.pending_keys and late and (idle_s or 0) > NO_FLUSH_S:
        text = f"{count(target.pending_keys)} keys of {name} wait, none written for {span(idle_s)}"
        yield _finding("critical", "ActivityNoSuccessfulFlush", text)
    if target.capacity_keys and (target.pending_keys or 0) / target.capacity_keys > FULL_SHARE:
        full = (target.pending_keys or 0) / target.capacity_keys
        text = f"{share(full)} of the buffer of {name} is taken; beyond it touches are dropped"
        yield _finding("critical", "ActivityBufferNearlyFull", text)
    if target.dropped:
        reasons = ", ".join(f"{count(n)} {why}" for why, n in list(target.dropped.items())[:5])
        lately = target.dropped_lately
        now = f", {count(lately)} of them just now" if lately else ""
        text = f"touches of {name} dropped since the start: {reasons}{now}"
        yield _finding("critical" if lately else "warning", "ActivityTouchesDropped", text)
    if target.rejected:
        text = f"Postgres has rejected the rows of {count(target.rejected)} {name} since the start"
        yield _finding("warning", "ActivityRowsRejected", text)
    if target.journal == "degraded" and target.pending_keys and f"journal.{name}" not in reported:
        text = f"a crash would lose some of {count(target.pending_keys)} keys of {name}"
        yield _finding("warning", "ActivityJournalDegraded", text)


def _of_flushes(name: str, target: Target, reported: set[str]) -> Iterator[Finding]:
    if f"flush.{name}" in reported:
        pass  # the finding from readiness has the reason, too
    elif target.permanent_error:
        text = f"touches of {name} can't be written until the cause is removed"
        yield _finding("critical", "ActivityFlushPermanentError", text)
    elif (target.failures_in_a_row or 0) >= FAILURES:
        text = f"{count(target.failures_in_a_row)} flushes of {name} in a row have failed"
        yield _finding("warning", "ActivityFlushFailing", text)


def _of_process(values: DerivedValues) -> Iterator[Finding]:
    yield from _of_requests(values)
    process = values.process
    if (process.foreign_segments or 0) > FOREIGN_SEGMENTS:
        text = f"{count(process.foreign_segments)} segments of orphaned journals can't be recovered"
        yield _finding("warning", "ActivityForeignJournals", text)
    if (process.revocation_lag_s or 0) > UNSEEN_S:
        text = f"changes of API keys have not been seen for {span(process.revocation_lag_s)}"
        yield _finding("warning", "ActivityRevocationsUnseen", text)
    if abs(process.clock_offset_s or 0) > CLOCK_OFFSET_S:
        text = f"the clocks of host and database differ by {span(abs(process.clock_offset_s or 0))}"
        yield _finding("warning", "ActivityClockOffset", text)
    if (process.event_loop_lag_s or 0) > LOOP_LAG_S:
        text = f"the event loop runs timers up to {span(process.event_loop_lag_s)} late"
        yield _finding("warning", "ActivityEventLoopLag", text)


def _of_requests(shown: DerivedValues) -> Iterator[Finding]:
    if (shown.http.unavailable_share or 0) > UNAVAILABLE_SHARE:
        text = f"{share(shown.http.unavailable_share)} of requests get 503 just now"
        yield _finding("critical", "ActivityRequestsUnavailable", text)
    if (shown.uploads.unavailable_share or 0) > UNAVAILABLE_SHARE:
        text = f"{share(shown.uploads.unavailable_share)} of uploads can't be stored just now"
        yield _finding("critical", "ActivityUploadsUnavailable", text)
    if shown.uploads.shed:
        lately = shown.uploads.per_s.get("shed")
        now = f", {count(lately)} a second now" if lately else ""
        text = f"{count(shown.uploads.shed)} uploads were turned away since the start{now}"
        yield _finding("warning", "ActivityUploadsShed", text)
    if shown.http.crashed:
        text = f"{count(shown.http.crashed)} requests got 500 since the start"
        yield _finding("warning", "ActivityRequestsCrashed", text)
    if shown.http.denied:
        text = f"{count(shown.http.denied)} requests were denied by a limit since the start"
        yield _finding("warning", "ActivityLimitDenials", text)
    if shown.http.over_limit:
        text = f"{count(shown.http.over_limit)} connections too many were closed since the start"
        yield _finding("warning", "ActivityConnectionLimitReached", text)
