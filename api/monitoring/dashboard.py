"""The dashboard for Grafana, as code: `python -m api.monitoring.dashboard` writes dashboard.json.

Grafana 10 and newer import it. It needs `grafana-foundation-sdk`, which the service does not.
"""

from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from api.monitoring.panels import DATASOURCE, picked
from api.monitoring.rows import ROWS

FILE: Final = Path(__file__).with_suffix(".json")
_RUNBOOK: Final = "api/monitoring/RUNBOOK.md"


def dashboard_json() -> str:
    """Return the dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard("Activity tracker")
        .uid("activity-tracker")
        .description("Is anything being lost, or late? Then why. Alerts and runbook belong to it.")
        .tags(["activity"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("Runbook").url("${runbook}").target_blank(True))
        .annotation(_alerts())
        .variables(
            [
                dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
                _choice("job", "activity_build_info"),
                _choice("instance", 'activity_build_info{job=~"$job"}'),
                _choice("target", f"activity_touches_total{picked('{P}')}"),
                # Where the runbook is: yours, as in the alerts' runbook_url.
                dashboard.ConstantVariable("runbook").value(_RUNBOOK),
            ]
        )
    )
    ids = count(1)
    for title, panels in ROWS.items():
        made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels():
            made.with_panel(panel.id(next(ids)))
    return JSONEncoder(indent=1, sort_keys=True).encode(made.build()) + "\n"


def _choice(name: str, metric: str) -> dashboard.QueryVariable:
    """Return a choice of a label's values; all of them are what it begins with.

    Without a value of its own for all: `.+` would show other services that export such names too.
    """
    return (
        dashboard.QueryVariable(name)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": f"label_values({metric}, {name})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _alerts() -> dashboard.AnnotationQuery:
    """Return what draws a line where an alert begins to fire."""
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .expr('ALERTS{alertname=~"Activity.+", alertstate="firing"}')
        .icon_color("red")
        .enable(True)
    )


if __name__ == "__main__":
    FILE.write_text(dashboard_json(), encoding="utf-8")
