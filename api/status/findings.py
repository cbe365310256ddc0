"""What is wrong with a service, worst first, each by the name of its alert and its runbook section.

Thresholds are those of api/monitoring/alerts.yml, without the time that an alert waits: whoever
looks wants to see what is about to fire. A test holds them against each other.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from api.handlers.readiness import Readiness
from api.printable import printable
from api.status.client import Look
from api.status.derived import Figures, Target
from api.status.formatting import count, share, span

FAILURES: Final = 3
LAG_S: Final = 60
NO_FLUSH_S: Final = 300
FULL_SHARE: Final = 0.8
LOOP_LAG_S: Final = 0.25
UNAVAILABLE_SHARE: Final = 0.05
UNSEEN_S: Final = 60
LEFT_ALONE: Final = 0
_RUNBOOK: Final = "api/monitoring/RUNBOOK.md"
_OF_PROBLEM: Final = {
    "database": "ActivityFlushFailing",
    "migrations": "ActivityFlushPermanentError",
    "revocations": "ActivityRevocationsUnseen",
    "flush": "ActivityFlushPermanentError",
    "journal": "ActivityJournalDegraded",
}
"""By the first word of a problem's name: where the runbook has what to do."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong."""

    severity: Literal["critical", "warning"]
    alert: str
    text: str
    runbook: str


def findings(look: Look, shown: Figures | None) -> list[Finding]:
    """Return what is wrong, critical things first.

    Args:
        look: the newest one.
        shown: what was made of it; None if there were no metrics.
    """
    found = []
    if look.readiness is None:
        found.append(_finding("critical", "ActivityProcessDown", look.error or "no answer"))
    else:
        found.extend(_said(look.readiness))
        if look.metrics_error is not None:
            found.append(_finding("warning", "ActivityNotScraped", look.metrics_error))
    if shown is not None:
        for name, target in shown.targets.items():
            found.extend(_of_target(name, target, shown, look.readiness))
        found.extend(_of_process(shown))
    return sorted(found, key=lambda finding: finding.severity)


def _finding(severity: Literal["critical", "warning"], alert: str, text: str) -> Finding:
    return Finding(severity, alert, text, f"{_RUNBOOK}#{alert.lower()}")


def _said(readiness: Readiness) -> Iterator[Finding]:
    for name, text in list(readiness.problems.items())[:10]:
        alert = _OF_PROBLEM.get(name.partition(".")[0], "ActivityFlushFailing")
        yield _finding("critical", alert, f"not ready, {printable(name)}: {printable(text)}")
    for name, text in list(readiness.warnings.items())[:10]:
        alert = _OF_PROBLEM.get(name.partition(".")[0], "ActivityJournalDegraded")
        yield _finding("warning", alert, f"{printable(name)}: {printable(text)}")


def _of_target(
    name: str, target: Target, shown: Figures, readiness: Readiness | None
) -> Iterator[Finding]:
    said = {*readiness.problems, *readiness.warnings} if readiness else set()
    yield from _of_flushes(name, target, said)
    if (target.lag_s or 0) > LAG_S:
        text = f"the oldest touch of {name} that is not committed is {span(target.lag_s)} old"
        yield _finding("critical", "ActivityLagHigh", text)
    idle_s = target.last_flush_age_s
    if idle_s is None:
        idle_s = shown.process.uptime_s
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
        text = f"Postgres has refused the rows of {count(target.rejected)} {name} since the start"
        yield _finding("warning", "ActivityRowsRejected", text)
    if target.journal == "degraded" and target.pending_keys and f"journal.{name}" not in said:
        text = f"a crash would lose some of {count(target.pending_keys)} keys of {name}"
        yield _finding("warning", "ActivityJournalDegraded", text)


def _of_flushes(name: str, target: Target, said: set[str]) -> Iterator[Finding]:
    if f"flush.{name}" in said:
        pass  # which has the reason, too
    elif target.permanent_error:
        text = f"touches of {name} can't be written until somebody changes something"
        yield _finding("critical", "ActivityFlushPermanentError", text)
    elif (target.failures_in_a_row or 0) >= FAILURES:
        text = f"{count(target.failures_in_a_row)} flushes of {name} in a row have failed"
        yield _finding("warning", "ActivityFlushFailing", text)


def _of_process(shown: Figures) -> Iterator[Finding]:
    yield from _of_requests(shown)
    process = shown.process
    if (process.left_alone_segments or 0) > LEFT_ALONE:
        text = f"{count(process.left_alone_segments)} segments of dead processes' journals wait"
        yield _finding("warning", "ActivityForeignJournals", text)
    if (process.revocation_lag_s or 0) > UNSEEN_S:
        text = f"changes of keys have not been seen for {span(process.revocation_lag_s)}"
        yield _finding("warning", "ActivityRevocationsUnseen", text)
    if (process.event_loop_lag_s or 0) > LOOP_LAG_S:
        text = f"the event loop runs timers up to {span(process.event_loop_lag_s)} late"
        yield _finding("warning", "ActivityEventLoopLag", text)


def _of_requests(shown: Figures) -> Iterator[Finding]:
    if (shown.http.unavailable_share or 0) > UNAVAILABLE_SHARE:
        text = f"{share(shown.http.unavailable_share)} of requests are answered with 503 just now"
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
        text = f"{count(shown.http.crashed)} requests were answered with 500 since the start"
        yield _finding("warning", "ActivityRequestsCrashed", text)
    if shown.http.over_limit:
        text = f"{count(shown.http.over_limit)} connections too many were closed since the start"
        yield _finding("warning", "ActivityConnectionLimitReached", text)
