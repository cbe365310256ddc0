"""PromQL queries that many panels of the dashboard share."""

from api.monitoring.panels import Query


def rate(counter: str, by: str, legend: str) -> Query:
    """Return how fast a counter grows in a second."""
    return Query(f"sum by ({by}) (rate({counter}[$__rate_interval]))", legend)


def quantiles(metric: str, selection: str, by: str, legend: str) -> list[Query]:
    """Return the median and the 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({metric}_bucket{selection}[$__rate_interval]))"
    return [
        Query(f"histogram_quantile({share}, {rate})", f"{name} {legend}".strip())
        for share, name in ((0.99, "99 %"), (0.5, "median"))
    ]
