"""Finds the metrics and labels of a PromQL expression, for the expressions of this project."""

import re
from collections.abc import Iterator


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression is about."""
    plain = re.sub(r"#.*|\{.*?\}|\[.*?\]|\b(?:on|by|without|group_left) \(.*?\)", "", expression)
    return set(re.findall(r"\b[A-Za-z_]+\b(?!\s*\()", plain)) - {"and", "or", "unless", "offset"}


def selected(expression: str) -> Iterator[tuple[str, str, str]]:
    """Yield each metric, label and value that an expression picks."""
    for name, selector in re.findall(r"(\w+)\{(.*?)\}", expression):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            yield from ((name, label, value) for value in values.split("|"))
