"""Two scrapes of a service, and how much its series grew between them."""

from collections.abc import Callable
from typing import Final

from api.status.scrape import Metrics

_MONITORING_ROUTES: Final = ("/metrics", "/api/health")
DURATION: Final = "http_request_duration_seconds"


class Interval:
    """Two scrapes.

    Requests for health and metrics are not counted: `status` itself sends such requests.

    Args:
        before: the earlier scrape; None if there is none, so that no increase is known.
        now: the later one.
        over_s: the seconds between them.
        at: when the later one was made, in seconds since the epoch.
    """

    def __init__(
        self, before: Metrics | None, now: Metrics, over_s: float | None, at: float
    ) -> None:
        self.before = before
        self.now = now
        self._over_s = over_s
        self._at = at

    def increase(self, name: str, **labels: str) -> float | None:
        """Return how much a series grew; None if that is not known."""
        now = self.now.get(name, **labels)
        if self.before is None or now is None:
            return None
        grown = now - self.before.total(name, **labels)
        return grown if grown >= 0 else None

    def rate(self, name: str, **labels: str) -> float | None:
        """Return how much a series grew per second."""
        return self.per_s(self.increase(name, **labels))

    def per_s(self, increase: float | None) -> float | None:
        """Return an increase per second."""
        return increase / self._over_s if increase is not None and self._over_s else None

    def age(self, since: float | None) -> float | None:
        """Return the seconds since a time, at the later scrape."""
        return max(0.0, self._at - since) if since else None

    def requests(
        self, suffix: str, by: str, counts: Callable[[dict[str, str]], bool]
    ) -> dict[str, float]:
        """Return how much some series of `http_request_duration_seconds` grew, by a label.

        Args:
            suffix: of the series' name.
            by: the label that the result has as keys.
            counts: returns whether a series with these labels is counted.
        """
        grown: dict[str, float] = {}
        if self.before is None:
            return grown
        for (name, having), value in self.now.samples.items():
            if name != DURATION + suffix:
                continue
            labels = dict(having)
            if labels.get("route", "").startswith(_MONITORING_ROUTES) or not counts(labels):
                continue
            since = value - self.before.samples.get((name, having), 0.0)
            grown[labels.get(by, "")] = grown.get(labels.get(by, ""), 0.0) + max(0.0, since)
        return grown
