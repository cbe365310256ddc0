"""What `python -m api status` makes of metrics: what is wrong, and figures that can be read."""

import re
from pathlib import Path

import pytest
import yaml

from api.handlers.readiness import Readiness
from api.status import findings as thresholds
from api.status.client import Sample
from api.status.derived import derive_values
from api.status.findings import Finding, findings
from tests.support.status_client import BUILD, sample_of
from tests.support.status_samples import MONITORING


def found(before: str, after: str) -> dict[str, Finding]:
    """Return what is found to be wrong, by alert."""
    earlier, later = (
        sample_of(BUILD + text, at=at) for text, at in ((before, 9990.0), (after, 1e4))
    )
    return {finding.alert: finding for finding in findings(later, derive_values(earlier, later))}


def target_metrics(**values: float) -> str:
    values = {"touches_total": 0, **values}
    return "".join(f'activity_{name}{{target="d"}} {value}\n' for name, value in values.items())


FLUSHED = "last_flush_success_timestamp_seconds"


@pytest.mark.parametrize(
    ("alert", "metrics", "wrong", "well"),
    [
        ("ActivityFlushFailing", {"flush_consecutive_failures": "?"}, 3, 2),
        ("ActivityFlushPermanentError", {"flush_permanent_error": "?"}, 1, 0),
        ("ActivityLagHigh", {"lag_seconds": "?"}, 61, 60),
        ("ActivityBufferNearlyFull", {"buffer_capacity_keys": 10, "buffer_keys": "?"}, 8.1, 8),
        ("ActivityTouchesDropped", {"touches_dropped_total": "?"}, 1, 0),
        ("ActivityJournalDegraded", {"buffer_keys": 1, "journal_degraded": "?"}, 1, 0),
    ],
)
def test_each_condition_of_a_target_alert_is_found(alert, metrics, wrong, well):
    """At its threshold and not below."""
    for value, expected in ((wrong, {alert}), (well, set())):
        text = target_metrics(**{n: value if v == "?" else v for n, v in metrics.items()})
        assert found(text, text).keys() == expected


@pytest.mark.parametrize(
    ("alert", "wrong", "well"),
    [
        (
            "ActivityRowsRejected",
            (
                'activity_touches_total{target="d"} 9\n'
                'activity_flush_keys_total{target="d",outcome="rejected"} 1\n'
            ),
            'activity_flush_keys_total{target="d",outcome="missing"} 1\n',
        ),
        (
            "ActivityForeignJournals",
            "activity_journal_foreign_segments 1\n",
            "activity_journal_foreign_segments 0\n",
        ),
        (
            "ActivityRevocationsUnseen",
            "auth_revocation_lag_seconds 61\n",
            "auth_revocation_lag_seconds 60\n",
        ),
        (
            "ActivityClockOffset",
            "database_clock_offset_seconds -61\n",
            "database_clock_offset_seconds -60\n",
        ),
        (
            "ActivityUploadsUnavailable",
            (
                'ingest_uploads_total{outcome="unavailable"} 6\n'
                'ingest_uploads_total{outcome="stored"} 94\n'
            ),
            (
                'ingest_uploads_total{outcome="unavailable"} 5\n'
                'ingest_uploads_total{outcome="stored"} 95\n'
            ),
        ),
        (
            "ActivityRequestsUnavailable",
            'http_request_duration_seconds_count{method="GET",route="/a",status="503"} 1\n',
            'http_request_duration_seconds_count{method="GET",route="/a",status="404"} 1\n',
        ),
        (
            "ActivityRequestsCrashed",
            'http_request_duration_seconds_count{method="GET",route="/a",status="500"} 1\n',
            'http_request_duration_seconds_count{method="GET",route="/a",status="404"} 1\n',
        ),
        (
            "ActivityLimitDenials",
            'limits_denied_requests_total{limit="reads"} 1\n',
            'limits_denied_requests_total{limit="reads"} 0\n',
        ),
        (
            "ActivityLimitDenials",
            'live_denied_streams_total{limit="max_streams"} 1\n',
            'live_denied_streams_total{limit="max_streams"} 0\n',
        ),
        (
            "ActivityConnectionLimitReached",
            'http_connections_closed_total{listener="api",reason="connection_limit"} 1\n',
            'http_connections_closed_total{listener="api",reason="slow_body"} 1\n',
        ),
    ],
)
def test_each_condition_of_a_process_alert_is_found(alert, wrong, well):
    """Likewise, of requests, keys and journals."""
    assert found("", wrong).keys() == {alert}
    assert found("", well).keys() == set()


def test_a_current_loss_is_more_severe_than_a_past_one():
    """And a loop that is held up, or uploads that are turned away, are of the whole process."""
    text = "activity_touches_dropped_total"
    before, after = (
        target_metrics() + f'{text}{{target="d",reason="capacity"}} {n}\n' for n in (3, 7)
    )
    assert found(after, after)["ActivityTouchesDropped"].severity == "warning"
    now = found(before, after)["ActivityTouchesDropped"]
    assert now.severity == "critical"
    assert "7 capacity, 4 of them just now" in now.text
    assert found("", "event_loop_lag_seconds 0.3\n").keys() == {"ActivityEventLoopLag"}
    assert found("", "event_loop_lag_seconds 0.25\n").keys() == set()
    shed = 'ingest_uploads_total{outcome="shed"} 5\n'
    assert found("", shed).keys() == {"ActivityUploadsShed"}
    assert "0.5 a second now" in found("", shed)["ActivityUploadsShed"].text


def test_thresholds_are_those_of_the_alerts_and_each_has_its_section():
    """A change of one without the other fails."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    for alert, comparison in (
        ("ActivityFlushFailing", f">= {thresholds.FAILURES}"),
        ("ActivityLagHigh", f"> {thresholds.LAG_S}"),
        ("ActivityNoSuccessfulFlush", f"> {thresholds.NO_FLUSH_S}"),
        ("ActivityBufferNearlyFull", f"> {thresholds.FULL_SHARE}"),
        ("ActivityEventLoopLag", f"> {thresholds.LOOP_LAG_S}"),
        ("ActivityUploadsUnavailable", f"> {thresholds.UNAVAILABLE_SHARE}"),
        ("ActivityRevocationsUnseen", f"> {thresholds.UNSEEN_S}"),
        ("ActivityClockOffset", f"> {thresholds.CLOCK_OFFSET_S}"),
        ("ActivityForeignJournals", f"> {thresholds.FOREIGN_SEGMENTS}"),
    ):
        assert f"{comparison} " in f"{rules[alert]} "
    named = set(re.findall(r'"(Activity\w+)"', Path(thresholds.__file__).read_text()))
    assert rules.keys() - named == {
        "ActivityBooksUnbalanced",
        "ActivityEventsNotNumbered",
        "ActivityFleetSilent",
        "ActivityDatabaseUnavailable",
        "ActivityKnownDevicesNearlyFull",
        "ActivityRestartsOften",
        "ActivityRowsMissing",
        "ActivityTouchesHalved",
        "ActivityUpdatesNotHot",
        "ActivityDeadRows",
        "ActivityPoolSaturated",
        "ActivityStreamsNearlyFull",
        "ActivityJournalNearlyFull",
        "ActivityDeniedFlood",
        "ActivityWebhookEventsLost",
        "ActivityWebhookFailing",
        "ActivityWorkerDies",
        "ActivityWorkerUnresponsive",
        "ActivityWorkersMissing",
    }  # one sample has no rates
    assert named <= rules.keys()


def test_a_target_that_is_pending_for_long_without_a_commit_is_found():
    """One touch after a quiet hour is no finding."""
    for lag_s, flushed_at, expected in (
        (61, 9699, {"ActivityLagHigh", "ActivityNoSuccessfulFlush"}),
        (61, 9700, {"ActivityLagHigh"}),
        (2, 9699, set()),
    ):
        text = target_metrics(buffer_keys=1, lag_seconds=lag_s, **{FLUSHED: flushed_at})
        assert found(text, text).keys() == expected


@pytest.mark.parametrize(
    ("problem", "alert"),
    [
        ("database", "ActivityFlushFailing"),
        ("migrations", "ActivityFlushPermanentError"),
    ],
)
def test_each_problem_of_readiness_names_its_runbook_section(problem, alert):
    """The section of the runbook that is about it."""
    sample = Sample(
        *(0.0, 0.0),
        Readiness("not_ready", problems=[problem], details={problem: "why"}),
        *(None, None, None),
    )
    (found,) = thresholds.findings(sample, None)
    assert (found.severity, found.alert) == ("critical", alert)
    assert f"{problem}: why" in found.text
    assert found.runbook.endswith(f"RUNBOOK.md#{alert.lower()}")


@pytest.mark.parametrize(
    ("lists", "severity", "alert"),
    [
        ({"degraded": ["database"]}, "critical", "ActivityFlushFailing"),
        ({"warnings": ["flush.devices"]}, "critical", "ActivityFlushPermanentError"),
        ({"warnings": ["migrations"]}, "critical", "ActivityFlushPermanentError"),
        ({"warnings": ["revocations"]}, "warning", "ActivityRevocationsUnseen"),
        ({"warnings": ["journal.devices"]}, "warning", "ActivityJournalDegraded"),
    ],
)
def test_each_warning_of_readiness_names_its_runbook_section(lists, severity, alert):
    """The service is ready, but an operator has to act."""
    ((code,),) = lists.values()
    readiness = Readiness("ready", **lists, details={code: "why"})
    sample = Sample(0.0, 0.0, readiness, None, None, None)
    (found,) = thresholds.findings(sample, None)
    assert (found.severity, found.alert) == (severity, alert)
    assert f"{code}: why" in found.text
