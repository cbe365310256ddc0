"""Plots a run's results as PNG files, one for each subject."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl

from benchmarks.harness.report import Results

mpl.use("Agg")  # draws files, needs no display
from matplotlib import pyplot as plt

_OURS: Final = "#1b7f5c"
_THEIRS: Final = "#9aa5b1"
_SIZE: Final = (9, 4)
_DPI: Final = 120

Series = Mapping[str, Sequence[float]]


def plot(results: Results, folder: Path) -> list[Path]:
    """Draw each plot for which a run has data.

    Args:
        results: the run.
        folder: where the files are written.

    Returns:
        The files written.
    """
    drawn = []
    for name, draw in _PLOTS.items():
        if name not in results.series:
            continue
        figure = draw(results.series)
        figure.suptitle(f"{results.machine['cores']} cores, {results.at:%Y-%m-%d}", fontsize=8, y=0)
        figure.tight_layout()
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=_DPI, bbox_inches="tight")
        plt.close(figure)
        drawn.append(file)
    return drawn


def _bars(axes: Any, series: Series, title: str, unit: str, *, log: bool = False) -> None:
    """Draw the median of each contender, and the range of its rounds."""
    names = list(series)
    middles = [median(values) for values in series.values()]
    below = [middle - min(series[name]) for name, middle in zip(names, middles, strict=True)]
    above = [max(series[name]) - middle for name, middle in zip(names, middles, strict=True)]
    colors = [_OURS if name.startswith("ours") else _THEIRS for name in names]
    axes.barh(names, middles, xerr=[below, above], color=colors, ecolor="#52606d", capsize=3)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit)
    if log:
        axes.set_xscale("log")
    for number, middle in enumerate(middles):
        axes.annotate(f" {middle:,.3g}" if middle < 100 else f" {middle:,.0f}", (middle, number),
                      va="bottom", fontsize=8)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _heartbeats(series: Mapping[str, Series]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE)
    _bars(left, series["throughput"], "heartbeats a second, 32 connections", "1/s")
    slow = {
        name.removesuffix(" p99"): values
        for name, values in series["latency"].items()
        if name.endswith(" p99")
    }
    _bars(right, slow, "99th percentile of latency", "ms (log)", log=True)
    return figure


def _latency(series: Mapping[str, Series]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    _bars(axes, series["latency"], "latency of heartbeats, 32 connections", "ms (log)", log=True)
    return figure


def _memory(series: Mapping[str, Series]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    samples = series["memory"]["ours"]
    axes.plot([number / 2 for number in range(len(samples))], samples, color=_OURS)
    axes.set_ylim(0, 1.2 * max(samples))
    axes.set_title("memory of the service, 5,000 heartbeats a second", fontsize=10)
    axes.set_xlabel("s")
    axes.set_ylabel("resident, MB")
    return figure


def _scale(series: Mapping[str, Series]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    keys = series["scale"]["keys"]
    rounds = [values for name, values in series["scale"].items() if name != "keys"]
    for values in rounds:
        axes.plot(keys, values, color=_THEIRS, linewidth=1)
    axes.plot(keys, [median(one) for one in zip(*rounds, strict=True)], "o-", color=_OURS)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("cost of a row by the number of keys in a flush", fontsize=10)
    axes.set_xlabel("keys (log)")
    axes.set_ylabel("us a row")
    return figure


def _memory_per_key(series: Mapping[str, Series]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    axes.plot(
        series["memory_per_key"]["keys"], series["memory_per_key"]["bytes"], "o-", color=_OURS
    )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("total memory of a pending uuid", fontsize=10)
    axes.set_xlabel("keys pending (log)")
    axes.set_ylabel("bytes a key")
    return figure


def _one_of(name: str, title: str, unit: str) -> Any:
    def draw(series: Mapping[str, Series]) -> Any:
        figure, axes = plt.subplots(figsize=_SIZE)
        _bars(axes, series[name], title, unit)
        return figure

    return draw


_PLOTS: Final = {
    "throughput": _heartbeats,
    "latency": _latency,
    "memory": _memory,
    "flush": _one_of("flush", "rows a second in a flush of 100,000 keys", "1/s"),
    "ingest": _one_of("ingest", "uploads a second, by connections", "1/s"),
    "scale": _scale,
    "memory_per_key": _memory_per_key,
}
