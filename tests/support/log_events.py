"""What the source logs, read from the source: names of events, levels and fields."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


class Event(NamedTuple):
    """One kind of log line; a field `*` stands for fields that the source does not name."""

    name: str
    level: str
    fields: frozenset[str]


def events(*folders: Path) -> set[Event]:
    """Return what all modules below some folders log."""
    paths = (path for folder in folders for path in folder.rglob("*.py"))
    return {event for path in paths for event in _events(ast.parse(path.read_text()))}


def _events(module: ast.Module) -> Iterator[Event]:
    for call in _calls(module):
        level = _level(call.func)
        if level is None:
            continue
        name = call.args[0]
        if isinstance(name, ast.Constant):
            yield _event(name, level, call.keywords)
            continue
        # A function that passes its own parameters on: what it logs is known where it is called.
        (wrapper,) = (
            function
            for function in ast.walk(module)
            if isinstance(function, ast.FunctionDef)
            if call in _calls(function) and name.id in _parameters(function)
        )
        more = [keyword for keyword in call.keywords if keyword.arg]
        for caller in _calls(module):
            if isinstance(caller.func, ast.Attribute) and caller.func.attr == wrapper.name:
                given = dict(zip(_parameters(wrapper), caller.args, strict=False))
                known_level = given.get(getattr(level, "id", ""), level)
                yield _event(given[name.id], known_level, [*more, *caller.keywords])


def _calls(node: ast.AST) -> list[ast.Call]:
    return [call for call in ast.walk(node) if isinstance(call, ast.Call)]


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args if argument.arg != "self"]


def _level(called: ast.expr) -> ast.expr | None:
    """Return the level of `log.info` or `getattr(log, level)`; None if it is neither."""
    match called:
        case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in LEVELS:
            return ast.Constant(level)
        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="log"), level]):
            return level
    return None


def _event(name: ast.expr, level: ast.expr, keywords: Iterable[ast.keyword]) -> Event:
    assert isinstance(name, ast.Constant)
    assert isinstance(level, ast.Constant)
    fields = {keyword.arg or "*" for keyword in keywords}
    if level.value == "exception" or "exc_info" in fields:
        fields = fields - {"exc_info"} | {"exception"}
    said_at = "error" if level.value == "exception" else level.value
    return Event(name.value, said_at, frozenset(fields))
