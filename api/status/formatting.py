"""Formats numbers for a terminal: short, with a unit, and a dash for what is not known."""

import math
from typing import Final

UNKNOWN: Final = "-"
_HUGE: Final = 1e15
_SPANS: Final = ((86_400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "min"), (60.0, "min", 1.0, "s"))
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def count(value: float | None) -> str:
    """Return a number of things, as in 1,000,000; with a digit after the point if it is small."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= _HUGE:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"  # noqa: PLR2004


def share(value: float | None) -> str:
    """Return a share of 1 as a percentage."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{min(100 * value, _HUGE):.1f} %"


def span(seconds: float | None) -> str:
    """Return a time span with the unit that fits: 0.8 ms, 3.2 s, 4 min 10 s, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds) or seconds >= _HUGE:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms" if seconds else "0 s"
    for large_s, large, small_s, small in _SPANS:
        if seconds >= large_s:
            rest = int(seconds % large_s // small_s)
            return f"{int(seconds // large_s)} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.1f} s"


def size(value: float | None) -> str:
    """Return bytes with the unit that fits."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    unit = 0
    while value >= 1024 and unit < len(_SIZES) - 1:  # noqa: PLR2004
        value, unit = value / 1024, unit + 1
    return f"{count(value)} {_SIZES[unit]}"
