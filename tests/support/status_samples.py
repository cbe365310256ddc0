"""States of the service that are derived from samples in text."""

from datetime import UTC, datetime
from pathlib import Path

from api.status.client import Sample
from api.status.derived import derive_values
from api.status.findings import findings
from api.status.sampling import ServiceState

MONITORING = Path(__file__).parents[2] / "api" / "monitoring"


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
