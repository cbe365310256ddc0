"""The command line: serve, migrate, and API keys.

Exit codes: 0 done, 1 it failed (the database is away, there is no such key), 2 the command or a
setting is wrong. Whatever fails says so in one line on stderr.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import msgspec
import structlog
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.config import Settings, SettingsError, load_settings
from api.database import Database, open_database
from api.devices import GroupId
from api.embedded import EmbeddedServerError, configured_server
from api.keys import KeyName, create_key, find_keys, list_keys, revoke_key
from api.logs import configure_logs
from api.migrate import MigrationError, migrate_now
from api.serving import serve as serve_until_told_to_stop
from tracker import ConfigurationError, StoreError

T = TypeVar("T")

_DURATION: Final = re.compile(r"([0-9]{1,10})([smhdw])").fullmatch
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST_S: Final = 100 * 365 * 86_400

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Activity tracker.")
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
app.add_typer(keys, name="keys")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file with settings; by default config.toml, if there is one here.",
        show_default=False,
    ),
]


@app.callback()
def options(context: typer.Context, config: Config = None) -> None:
    """Know when a device or an API key was last active."""
    context.obj = config


@app.command()
def serve(context: typer.Context, config: Config = None) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    settings = _settings(context, config)
    configure_logs(settings.log)
    with (
        _failing_clearly(),
        _database_ready(settings) as dsn,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve_until_told_to_stop(settings, dsn))
        log.info("server.stopped")


@app.command()
def migrate(context: typer.Context, config: Config = None) -> None:
    """Bring the database's schema up to date."""
    settings = _settings(context, config)
    with _failing_clearly(), configured_server(settings.database) as dsn:
        migrate_now(dsn, connect_timeout_s=settings.database.connect_timeout_s)
    typer.echo("the schema is up to date", err=True)


@keys.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is for: up to 100 characters.")],
    group: Annotated[
        str | None, typer.Option(help="The one group that the key may reach; all when left out.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="90d",
            help="For how long it is valid: a number and s, m, h, d or w; for good when left out.",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Make a key and print it, alone on stdout. It is not shown again."""
    settings = _settings(context, config)
    _check(name, KeyName, "--name", "1 to 100 printable characters")
    if group is not None:
        _check(group, GroupId, "--group", "2 to 50 letters, digits, _ or -")
    valid_s = None if expires is None else _seconds(expires, "--expires")
    key = _with_database(
        settings, lambda database: create_key(database, name, group, valid_s=valid_s)
    )
    reach = "all groups" if group is None else f"group {group}"
    until = "" if expires is None else f", valid for {expires}"
    typer.echo(f"key {name!r} for {reach}{until}; keep it, it is not shown again:", err=True)
    typer.echo(key)


@keys.command("list")
def list_(context: typer.Context, config: Config = None) -> None:
    """List all keys."""
    stored = _with_database(_settings(context, config), list_keys)
    table = Table(
        *("id", "prefix", "name", "group", "created", "last used", "expires", "state"), box=None
    )
    for key in stored:
        table.add_row(
            str(key.id),
            key.prefix,
            Text(key.name),
            key.group_id or "all",
            _shown(key.created_at),
            _shown(key.last_used_at),
            _shown(key.expires_at),
            key.state if key.revoked_at is None else f"revoked {_shown(key.revoked_at)}",
        )
    # A pipe has no width to keep to: cut nothing. Names are shown as they are.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


@keys.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="An id, a prefix or a name as listed, or the key.")],
    config: Config = None,
) -> None:
    """Revoke a key; running services refuse it within a second."""
    settings = _settings(context, config)
    matching = _with_database(settings, lambda database: find_keys(database, key))
    if not matching:
        _fail("no key has this id, prefix or name: see 'keys list'")
    left = [found for found in matching if found.revoked_at is None]
    if not left:
        last = matching[-1]
        _fail(f"{last.prefix} ({last.name}) was revoked already, {_shown(last.revoked_at)}")
    if len(left) > 1:
        _fail(f"{len(left)} keys that are not revoked match: give an id, see 'keys list'")
    (found,) = left
    _with_database(settings, lambda database: revoke_key(database, found.id))
    typer.echo(f"revoked {found.prefix} ({found.name})", err=True)


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m api")


def _settings(context: typer.Context, config: Path | None) -> Settings:
    try:
        return load_settings(config or context.find_root().obj)
    except SettingsError as error:
        _fail(str(error), code=2)


@contextmanager
def _failing_clearly() -> Iterator[None]:
    try:
        yield
    except (EmbeddedServerError, MigrationError, StoreError, ConfigurationError, OSError) as error:
        _fail(str(error))


@contextmanager
def _database_ready(settings: Settings) -> Iterator[str]:
    with configured_server(settings.database) as dsn:
        if settings.database.auto_migrate:
            migrate_now(dsn, connect_timeout_s=settings.database.connect_timeout_s)
        yield dsn


def _with_database(settings: Settings, use: Callable[[Database], Awaitable[T]]) -> T:
    async def run(dsn: str) -> T:
        async with open_database(dsn, settings.database, connections=1) as database:
            return await use(database)

    with _failing_clearly(), _database_ready(settings) as dsn:
        return asyncio.run(run(dsn))


def _check(value: str, declared: object, option: str, wanted: str) -> None:
    try:
        msgspec.convert(value, declared)
    except msgspec.ValidationError:
        _fail(f"{option} {value!r}: {wanted} are needed", code=2)


def _seconds(duration: str, option: str) -> int:
    found = _DURATION(duration)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_S:
        _fail(
            f"{option} {duration!r}: a number and s, m, h, d or w are needed, 100 years at most",
            code=2,
        )
    return seconds


def _shown(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
