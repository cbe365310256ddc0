"""What all commands share: settings, the database, and errors in one line.

Modules that only some commands need are imported when these run, so that help, completion and
`status` start fast.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from api.renamed_settings import deprecation

if TYPE_CHECKING:
    from api.config import Settings
    from api.postgres.database import Database

T = TypeVar("T")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file with settings; by default config.toml, if there is one here.",
        show_default=False,
    ),
]


def fail(message: str, code: int = 1) -> NoReturn:
    """End with an error.

    Args:
        message: what is wrong and what to do, in one line.
        code: 1 if it failed, 2 if the command or a setting is wrong.
    """
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def give_up_output() -> None:
    """Discard further output: stdout cannot be written, not even when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(old: str, new: str) -> None:
    typer.echo(f"warning: {deprecation(old, new)}", err=True)


def settings_of(
    context: typer.Context, config: Path | None, *, warn: Callable[[str, str], None] = _warn
) -> "Settings":
    """Return the settings; end with an error if one is wrong.

    Args:
        context: has the file that was named before the command.
        config: the file that was named after the command.
        warn: called with the old and the new name of each setting that is given by its old name;
            by default it writes a line to stderr.
    """
    from api.config import SettingsError
    from api.load_settings import load_settings

    try:
        return load_settings(config or context.find_root().obj, warn=warn)
    except SettingsError as error:
        fail(str(error), code=2)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Report an error that is not a bug in one line, and end."""
    from api.config import SettingsError
    from api.postgres.embedded import EmbeddedServerError
    from api.postgres.migrate import MigrationError
    from tracker import ConfigurationError, StoreError, StoreMisconfigured

    try:
        yield
    except SettingsError as error:
        fail(str(error), code=2)
    except StoreMisconfigured as error:
        fail(f"{error}; is the schema up to date? 'python -m api migrate' brings it up to date")
    except (EmbeddedServerError, MigrationError, StoreError, ConfigurationError, OSError) as error:
        fail(str(error))


@contextmanager
def database_ready(
    settings: "Settings", *, on_unavailable: Callable[[Exception], bool] = lambda _error: False
) -> Iterator[str]:
    """Give the DSN of a database whose schema is up to date, unless settings say otherwise.

    Args:
        settings: all settings.
        on_unavailable: is called with the error if the database cannot be reached; returns whether
            to continue without a check of its schema.
    """
    from api.postgres.embedded import configured_server
    from api.postgres.migrate import DatabaseUnavailable, migrate_now

    with configured_server(settings.database) as dsn:
        if settings.database.auto_migrate:
            try:
                migrate_now(dsn, connect_timeout_s=settings.database.connect_timeout_s)
            except DatabaseUnavailable as error:
                if not on_unavailable(error):
                    raise
        yield dsn


def with_database(settings: "Settings", use: "Callable[[Database], Awaitable[T]]") -> T:
    """Return the result of a function of the database; end with an error if that is unavailable.

    Args:
        settings: all settings.
        use: is called with the database.
    """
    import asyncio

    from api.postgres.database import open_database

    async def run(dsn: str) -> T:
        async with open_database(dsn, settings.database, connections=1) as database:
            return await use(database)

    with failing_clearly(), database_ready(settings) as dsn:
        return asyncio.run(run(dsn))


def check(value: str, declared: object, option: str, wanted: str) -> None:
    """End with an error unless a value has the declared type.

    Args:
        value: the value of the option.
        declared: a type with msgspec's constraints.
        option: the name of the option.
        wanted: a description of valid values.
    """
    import msgspec

    try:
        msgspec.convert(value, declared)
    except msgspec.ValidationError:
        fail(f"{option} {value!r}: {wanted} are needed", code=2)


def length_s(duration: str, option: str) -> int:
    """Return the seconds of a duration; end with an error if it is not a duration.

    Args:
        duration: the value of the option.
        option: the name of the option.
    """
    from api.durations import seconds

    try:
        return seconds(duration)
    except ValueError as error:
        fail(f"{option} {duration!r}: {error}", code=2)
