"""Hypothesis without its limits of time: a machine that is shared would exceed them."""

from typing import Final

from hypothesis import HealthCheck, settings

UNTIMED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Decorates a test, above or below `given`."""
