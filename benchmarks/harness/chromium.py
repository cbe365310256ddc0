"""Finds the browser that takes screenshots and runs the page's tests."""

import shutil
from typing import Final

_NAMES: Final = ("chromium-headless-shell", "chromium", "chromium-browser")
"""The first one has no window to draw, which saves a third of the CPU time."""


def chromium_path() -> str | None:
    """Return the path of the browser; None if none is installed."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)
