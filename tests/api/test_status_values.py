"""Values that the status shows: any number can be shown, short and with a unit."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.status.formatting import count, share, size, span
from api.status.scrape import quantile
from tests.support.status_client import sample_of, shown
from tests.support.status_samples import MONITORING, state_of
from tests.support.untimed import UNTIMED


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
            r'"((?:activity|auth|http|ingest|event|process|presence|database)_\w+)"',
            "".join(path.read_text() for path in SOURCES),
        )
    )
)
LABELS = (
    '{target="d",reason="r",outcome="shed",route="/x",status="200",le="+Inf",listener="a",'
    'pool="p",presence="idle"}'
)
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e308, 5.0, 1e15])


@UNTIMED
@given(st.lists(st.tuples(st.sampled_from(NAMES), ODD, ODD)))
def test_any_value_can_be_shown(samples):
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


def test_values_are_short_and_have_a_unit():
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


def test_workers_are_shown_with_their_rates_and_a_late_event_loop():
    """One line for each; a service of one process has none."""
    lines = (
        'activity_worker_requests_total{{worker="2"}} {0}',
        'activity_worker_cpu_seconds_total{{worker="2"}} {1}',
        'activity_worker_memory_bytes{{worker="2"}} 2097152',
        'activity_worker_event_loop_lag_seconds{{worker="2"}} 0.5',
        'activity_worker_connections{{worker="2"}} 7',
    )
    before, after = ("\n".join(lines).format(*counts) + "\n" for counts in ((0, 0), (500, 5)))
    state = state_of(sample_of(after, at=1010.0), sample_of(before, at=1000.0))
    (row,) = re.findall(r"^2 .*", shown(state), re.MULTILINE)
    assert re.split(r"  +", row.strip()) == ["2", "50/s", "50.0 %", "2 MiB", "500.0 ms", "7"]
    assert "\nworker " not in shown(state_of(sample_of("", at=1010.0), sample_of("", at=1000.0)))
