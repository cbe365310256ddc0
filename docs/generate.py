"""Write the tables of settings and commands into the pages of the reference, from the code.

`make docs` runs this; `python docs/generate.py --check` fails if a page is out of date. Only the
text between a page's two marker comments is replaced.
"""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import typer
from pydantic.fields import FieldInfo

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from api.cli import app  # noqa: E402 - after the checkout is on the path
from api.config import Settings  # noqa: E402

_UNITS: Final = {"_s": "seconds", "_bytes": "bytes", "_keys": "keys", "_rows": "reports"}
_BOUNDS: Final = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
_YEARS: Final = 9999
"""Numbers up to this are shown without commas, as ports are."""
_MARKERS: Final = ("<!-- generated: run make docs -->", "<!-- end of what is generated -->")


def settings_tables() -> str:
    """Return a table for each section: names, defaults, units and ranges of all settings."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    shipped, comments = tomllib.loads(text), dict(_comments(text))
    parts = []
    for section, model in _sections().items():
        rows = [
            f"| `{name}` | {_shown(shipped[section][name])} | {_unit(name)} | {_range(field)} | "
            f"{_prose(comments[section, name])} |"
            for name, field in model.model_fields.items()
        ]
        table = [
            "| setting | default | unit | range | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        title = (model.__doc__ or "").splitlines()[0]
        parts.append("\n".join([f"## `[{section}]`", "", title, "", *table, *rows]))
    return "\n\n".join(parts)


def _sections() -> dict[str, Any]:
    return {name: field.annotation for name, field in Settings.model_fields.items()}


def _comments(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Return the comment of each setting, with the lines that continue it."""
    section, name, comment = "", "", ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            yield (section, name), comment
            section, name = heading[1], ""
        elif setting := re.match(r'(\w+) = (?:"[^"]*"|[^#"]*?)\s*#\s*(.*)', line):
            yield (section, name), comment
            name, comment = setting[1], setting[2]
        elif name and (more := re.match(r"\s+#\s*(.*)", line)):
            comment += f" {more[1]}"
    yield (section, name), comment


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{json.dumps(value)}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return _number(value)  # type: ignore[arg-type]  # TOML has no other types here


def _number(value: float) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else f"{value:,}" if value > _YEARS else f"{value}"
    )


def _unit(name: str) -> str:
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _range(field: FieldInfo) -> str:
    bounds = {
        name: getattr(one, name)
        for one in field.metadata
        for name in _BOUNDS
        if getattr(one, name, None) is not None
    }
    return " ".join(
        f"{_BOUNDS[name]} {_number(bounds[name])}" for name in _BOUNDS if name in bounds
    )


def _prose(comment: str) -> str:
    return comment.replace("|", r"\|")


def command_sections() -> str:
    """Return a section for each command: what it does, its arguments and options."""
    return "\n\n".join(_command_sections(typer.main.get_command(app), ()))


def _command_sections(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from _command_sections(one, (*path, name))
        return
    context = click.Context(command, info_name=" ".join(("python -m api", *path)))
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    rows = [
        f"| {_names(parameter)} | {_prose(parameter.help or '')}{_default(parameter)} |"
        for parameter in command.params
    ]
    table = ["| argument or option | meaning |", "| --- | --- |", *rows]
    help_text = " ".join((command.help or "").split())
    parts = [f"### `{' '.join(path)}`", f"`{usage}`", help_text, "\n".join(table)]
    if command.epilog:
        parts.append(" ".join(command.epilog.split()))
    yield "\n\n".join(parts)


def _names(parameter: Any) -> str:
    metavar = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        return f"`{metavar or parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} `{metavar or parameter.type.name.upper()}`"


def _default(parameter: Any) -> str:
    if parameter.required:
        return " Required."
    is_shown = parameter.default is not None and not getattr(parameter, "is_flag", False)
    return f" Default: `{parameter.default}`." if is_shown else ""


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/settings.md": settings_tables,
    "docs/reference/cli.md": command_sections,
}


def generated(text: str, inside: str) -> str:
    """Return a page with something else between its markers."""
    first, last = _MARKERS
    before, _, rest = text.partition(first)
    _, found, after = rest.partition(last)
    if not found:
        raise SystemExit(f"error: a page has lost its markers: {first} and {last}")
    return f"{before}{first}\n\n{inside}\n\n{last}{after}"


def main() -> None:
    """Write the pages, or with --check say which are out of date."""
    for name, make in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        new = generated(text, make())
        if "--check" in sys.argv[1:]:
            if text != new:
                raise SystemExit(f"error: {name} is out of date: run `make docs`")
        else:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
