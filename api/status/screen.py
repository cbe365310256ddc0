"""Renders the state of a service for a terminal of 80 columns, with what is wrong first."""

import math
from collections.abc import Callable, Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.status.findings import FAILURES, FULL_SHARE, LAG_S, LOOP_LAG_S
from api.status.formatting import UNKNOWN, count, share, size, span
from api.status.sampling import ServiceState
from api.status.values import DerivedValues, Fleet, Target

_BADGES: Final = {
    "ready": ("READY", "bold black on green"),
    "not_ready": ("NOT READY", "bold white on red"),
    "unreachable": ("UNREACHABLE", "bold white on red"),
}
_SEVERITIES: Final = {"critical": "bold red", "warning": "bold yellow"}
_WRONG: Final = "bold red"
_LABEL: Final = "cyan"


def screen(state: ServiceState, for_s: float | None = None) -> RenderableType:
    """Render a state; stale figures are dim.

    Args:
        state: the state after the newest sample.
        for_s: seconds for which the service has been in this state; None if that is not known.
    """
    parts: list[RenderableType] = [*_head(state, for_s), *_findings(state)]
    if state.figures is not None:
        style = "" if state.stale_s is None else "dim"
        parts += [_targets(state.figures, style), Text(), _others(state.figures, style)]
        if state.figures.workers:
            parts += [Text(), _workers(state.figures, style)]
        if state.figures.over_s is None:
            parts += [Text(), Text("no rates yet: they need two samples", style="dim")]
    return Group(*parts)


def _head(state: ServiceState, for_s: float | None) -> Iterable[RenderableType]:
    name, style = _BADGES[state.state]
    head = Text.assemble((f" {name} ", style), f" {state.url}")
    if for_s is not None:
        head.append(f" for {span(round(for_s))}", style="dim")
    yield head
    facts = [f"sampled at {state.at:%H:%M:%S}Z"]
    if state.figures is not None:
        process = state.figures.process
        facts = [f"version {process.version}", f"up {span(process.uptime_s)}", *facts]
    if state.restarted:
        facts.append("restarted meanwhile")
    if state.stale_s is not None and state.figures is not None:
        facts.append(f"figures of {span(round(state.stale_s))} before")
    yield Text(", ".join(facts), style="dim")
    yield Text()


def _findings(state: ServiceState) -> Iterable[RenderableType]:
    if not state.findings:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in state.findings:
        style = _SEVERITIES[finding.severity]
        what = Text.assemble((finding.alert, style), f": {finding.text}")
        grid.add_row(Text(finding.severity, style=style), what)
        grid.add_row("", Text(finding.runbook, style="dim"))
    yield grid
    yield Text()


def _grid(rows: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=_LABEL, no_wrap=True, min_width=12)
    for _ in range(rows):
        grid.add_column(overflow="fold")
    return grid


def _targets(figures: DerivedValues, style: str) -> Table:
    grid = _grid(max(1, len(figures.targets)))
    if not figures.targets:
        grid.add_row("tracking", Text("off: no activity is recorded", style=_WRONG))
        return grid
    grid.add_row("", *(Text(name, style="bold") for name in figures.targets), style=style)
    rows: dict[str, Callable[[Target], Text]] = {
        "pending": _pending,
        "lag": lambda one: _text(span(one.lag_s), wrong=(one.lag_s or 0) > LAG_S),
        "touches": lambda one: Text(f"{count(one.touches_per_s)} a second"),
        "coalesced": lambda one: Text(share(one.coalesced_share)),
        "dropped": _dropped,
        "last written": lambda one: Text(_ago(one.last_flush_age_s)),
        "failures": _failures,
        "journal": _journal,
    }
    for label, cell in rows.items():
        grid.add_row(label, *map(cell, figures.targets.values()), style=style)
    return grid


def _workers(figures: DerivedValues, style: str) -> Table:
    grid = _grid(5)
    heads = ("requests", "CPU", "memory", "loop late", "connections")
    grid.add_row("worker", *(Text(head, style="bold") for head in heads), style=style)
    for number, one in figures.workers.items():
        late = one.event_loop_lag_s
        grid.add_row(
            number,
            Text(f"{count(one.requests_per_s)}/s"),
            Text(share(one.cpu_share)),
            Text(size(one.memory_bytes)),
            _text(span(late), wrong=(late or 0) > LOOP_LAG_S),
            Text(count(one.connections)),
            style=style,
        )
    return grid


def _text(text: str, *, wrong: bool) -> Text:
    return Text(text, style=_WRONG if wrong else "")


def _ago(seconds: float | None) -> str:
    return "nothing since the start" if seconds is None else f"{span(seconds)} ago"


def _pending(target: Target) -> Text:
    full = (target.pending_keys or 0) / (target.capacity_keys or 1)
    shown = f"{count(target.pending_keys)} of {count(target.capacity_keys)} keys"
    return _text(shown, wrong=full > FULL_SHARE)


def _dropped(target: Target) -> Text:
    reasons = [f"{count(n)} {why}" for why, n in target.dropped.items()]
    return _text(", ".join(reasons[:5]) or "0", wrong=bool(reasons))


def _failures(target: Target) -> Text:
    shown = f"{count(target.failures_in_a_row)} in a row"
    if target.permanent_error:
        return _text(f"{shown}, permanent", wrong=True)
    return _text(shown, wrong=(target.failures_in_a_row or 0) >= FAILURES)


def _journal(target: Target) -> Text:
    if target.journal == "off":
        return Text("off")
    room = f"{size(target.journal_bytes)} of {size(target.journal_capacity_bytes)}"
    return _text(f"{target.journal}, {room}", wrong=target.journal == "degraded")


def _fleet(fleet: Fleet) -> str:
    states = ", ".join(f"{count(n)} {state}" for state, n in fleet.devices.items())
    gap_s = fleet.recent_gap_s
    if gap_s is None or not math.isfinite(gap_s) or gap_s < 1:
        return states or UNKNOWN
    return f"{states or UNKNOWN}; no process listened for {span(round(gap_s))} of the last 24 h"


def _others(figures: DerivedValues, style: str) -> Table:
    grid = _grid(1)
    uploads, http, process = figures.uploads, figures.http, figures.process
    failed = [
        f"{name} {count(rate)}"
        for name, rate in uploads.per_s.items()
        if name != "stored" and rate != 0
    ]
    grid.add_row(
        "uploads",
        Text(
            f"{count(uploads.per_s.get('stored'))} stored a second"
            + "".join(f", {one}" for one in failed)
            + f"; {count(uploads.waiting_rows)} of {count(uploads.capacity_rows)} reports wait; "
            f"{count(uploads.shed)} shed"
        ),
        style=style,
    )
    grid.add_row("presence", Text(_fleet(figures.fleet)), style=style)
    classes = ", ".join(f"{name} {count(rate)}" for name, rate in http.per_s_by_class.items())
    grid.add_row("requests", Text(f"{count(http.per_s)} a second: {classes}"), style=style)
    grid.add_row("", Text(f"p50 {span(http.p50_s)}, p99 {span(http.p99_s)}"), style=style)
    connections = ", ".join(
        f"{count(n)} {listener}" for listener, n in list(http.connections.items())[:5]
    )
    pools = ", ".join(
        f"{pool} {used}" for pool, used in list(process.database_connections.items())[:5]
    )
    grid.add_row("connections", Text(connections or UNKNOWN), style=style)
    grid.add_row(
        "database", Text(f"connections in use: {pools}" if pools else UNKNOWN), style=style
    )
    late = process.event_loop_lag_s
    grid.add_row("event loop", _text(f"{span(late)} late", wrong=(late or 0) > LOOP_LAG_S))
    grid.add_row(
        "process",
        Text(f"{share(process.cpu_share)} of a core, {size(process.memory_bytes)} of memory"),
        style=style,
    )
    return grid
