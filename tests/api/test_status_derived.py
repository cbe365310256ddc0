"""What `python -m api status` makes of metrics: what is wrong, and figures that can be read."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api.handlers.readiness import Readiness
from api.status import findings as thresholds
from api.status.client import Sample
from api.status.derived import derive_values
from api.status.findings import Finding, findings
from api.status.formatting import count, share, size, span
from api.status.sampling import ServiceState
from api.status.scrape import quantile
from tests.support.status_client import BUILD, sample_of, shown
from tests.support.untimed import UNTIMED

MONITORING = Path(__file__).parents[2] / "api" / "monitoring"


def found(before: str, after: str) -> dict[str, Finding]:
    """Return what is found to be wrong, by alert."""
    earlier, later = (
        sample_of(BUILD + text, at=at) for text, at in ((before, 9990.0), (after, 1e4))
    )
    return {finding.alert: finding for finding in findings(later, derive_values(earlier, later))}


def target_metrics(**values: float) -> str:
    values = {"touches_total": 0, **values}
    return "".join(f'activity_{name}{{target="d"}} {value}\n' for name, value in values.items())


def state_of(newest: Sample, earlier: Sample) -> ServiceState:
    """Return the state that two samples make, under a long address."""
    made = derive_values(earlier, newest)
    return ServiceState(
        url="http://activity-17.prod.example.com:18080",
        at=datetime.fromtimestamp(newest.at, UTC),
        state="ready",
        problems={},
        degraded={},
        warnings={},
        findings=findings(newest, made),
        figures=made,
        stale_s=None,
        restarted=False,
    )


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
def test_what_an_alert_is_about_is_found(alert, metrics, wrong, well):
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
def test_what_an_alert_on_the_whole_process_is_about_is_found(alert, wrong, well):
    """Likewise, of requests, keys and journals."""
    assert found("", wrong).keys() == {alert}
    assert found("", well).keys() == set()


def test_what_is_lost_just_now_is_worse_than_what_was():
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
    """Whoever changes one is told of the other."""
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
    }  # one sample has no rates
    assert named <= rules.keys()


def test_a_target_that_is_pending_for_long_without_a_commit_is_found():
    """One touch after a quiet hour is no reason to wake anybody."""
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
def test_what_keeps_a_service_from_being_ready_leads_to_what_to_do(problem, alert):
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
def test_what_a_ready_service_can_do_without_leads_to_what_to_do(lists, severity, alert):
    """It serves, and somebody has to act all the same."""
    ((code,),) = lists.values()
    readiness = Readiness("ready", **lists, details={code: "why"})
    sample = Sample(0.0, 0.0, readiness, None, None, None)
    (found,) = thresholds.findings(sample, None)
    assert (found.severity, found.alert) == (severity, alert)
    assert f"{code}: why" in found.text


async def test_it_fits_into_80_columns_when_figures_are_large(service):
    """All lines, with all their figures."""
    text = (await (await service.client.get("/metrics")).text()).replace(" 0.0\n", " 98765432.0\n")
    state = state_of(sample_of(text), sample_of(text, at=9990.0))
    lines = shown(state).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 90
    (pending,) = (line for line in lines if line.startswith("pending"))
    assert pending.count("98,765,432 of 1,000,000 keys") == 2


SOURCES = (MONITORING.parent / "status").glob("*.py")
NAMES = sorted(
    set(
        re.findall(
            r'"((?:activity|auth|http|ingest|event|process|database)_\w+)"',
            "".join(path.read_text() for path in SOURCES),
        )
    )
)
LABELS = (
    '{target="d",reason="r",outcome="shed",route="/x",status="200",le="+Inf",listener="a",pool="p"}'
)
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e308, 5.0, 1e15])


@UNTIMED
@given(st.lists(st.tuples(st.sampled_from(NAMES), ODD, ODD)))
def test_whatever_is_counted_can_be_shown(samples):
    """Not a number, without end, backwards: shown as not known, if need be, and never a crash."""
    names = {name: values for name, *values in samples}
    before, after = (
        sample_of("".join(f"{name}{LABELS} {values[n]}\n" for name, values in names.items()), at=at)
        for n, at in ((0, 1.0), (1, 2.0))
    )
    assert shown(state_of(after, before))


def test_a_quantile_is_estimated_as_prometheus_does():
    """Within its bucket, linearly; beyond the last bound there is nothing to go by."""
    buckets = {0.1: 50.0, 0.2: 100.0, math.inf: 100.0}
    assert quantile(0.5, buckets) == pytest.approx(0.1)
    assert quantile(0.75, buckets) == pytest.approx(0.15)
    assert quantile(0.25, buckets) == pytest.approx(0.05)
    assert quantile(0.9, {0.1: 0.0, math.inf: 4.0}) == 0.1
    assert quantile(0.9, {0.1: 0.0, math.inf: 0.0}) is None
    assert quantile(0.9, {}) is None


def test_figures_are_short_and_have_a_unit():
    """As one would say them."""
    assert [span(s) for s in (0, 0.0008, 3.25, 75, 7500, 273_600)] == [
        *("0 s", "0.8 ms", "3.2 s", "1 min 15 s", "2 h 5 min", "3 d 4 h")
    ]
    assert [count(n) for n in (0, 0.25, 12.7, 1_000_000, None)] == [
        "0",
        "0.2",
        "13",
        "1,000,000",
        "-",
    ]
    assert [size(n) for n in (512, 1536, 12 << 20)] == ["512 B", "1.5 KiB", "12 MiB"]
    assert [share(n) for n in (0.998, math.nan)] == ["99.8 %", "-"]
