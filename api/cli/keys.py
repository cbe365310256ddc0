"""`keys`: make, list and revoke API keys."""

import csv
import sys
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.common import Config, check, fail, give_up_output, length_s, settings_of, with_database
from api.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from api.access.keys import StoredKey

_MAX_COUNT: Final = 100_000


class OutputFormat(StrEnum):
    """How many keys are printed."""

    csv = "csv"
    json = "json"


keys = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make, list and revoke API keys."
)


@keys.command(
    epilog="Examples: python -m api keys create --name kiosk --group g1 --expires 90d; "
    "python -m api keys create --count 1000 --name-prefix van- --group g1 > keys.csv"
)
def create(
    context: typer.Context,
    *,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What the key is for: 1 to 100 characters.", show_default=False
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP", help="The one group that the key may reach; all when left out."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="90d",
            help="For how long it is valid: a number and s, m, h, d or w for seconds, minutes, "
            "hours, days or weeks; for good when left out.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=_MAX_COUNT,
            help="Make so many keys, all or none, named by --name-prefix and 1 to N.",
        ),
    ] = None,
    name_prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With --count: what their names begin with: van-."),
    ] = None,
    output_format: Annotated[
        OutputFormat,
        typer.Option(
            "--format",
            metavar="csv|json",
            help="With --count: how names and keys are printed on stdout.",
        ),
    ] = OutputFormat.csv,
    config: Config = None,
) -> None:
    """Make a key and print it, alone on stdout; or many keys. They are not shown again."""
    from api.access.keys import KeyName, create_keys
    from api.fleet.devices import GroupId

    settings = settings_of(context, config)
    if group is not None:
        check(group, GroupId, "--group", "2 to 50 letters, digits, _ or -")
    valid_s = None if expires is None else length_s(expires, "--expires")
    if count is None:
        if name is None or name_prefix is not None:
            context.fail("--name is needed, or --count and --name-prefix")
        names = [name]
        check(name, KeyName, "--name", "1 to 100 printable characters")
    else:
        if name_prefix is None or name is not None:
            context.fail("--count needs --name-prefix, and no --name")
        names = [f"{name_prefix}{number}" for number in range(1, count + 1)]
        check(names[-1], KeyName, "--name-prefix", "names of 1 to 100 printable characters")
    made = with_database(
        settings, lambda database: create_keys(database, names, group, valid_s=valid_s)
    )
    reach = "all groups" if group is None else f"group {group}"
    until = "" if expires is None else f", valid for {expires}"
    what = f"key {name!r}" if count is None else f"{count} keys {names[0]!r} to {names[-1]!r}"
    typer.echo(f"{what} for {reach}{until}: on stdout now, and not shown again", err=True)
    try:
        if count is None:
            typer.echo(made[0])
        else:
            _print_keys(names, made, output_format)
    except OSError as error:
        give_up_output()
        fail(
            f"cannot write the output: {error.strerror}; what was made is lost, so revoke it "
            "and repeat the command"
        )


@keys.command(
    "list",
    epilog="With --json, jq picks: "
    "python -m api keys list --json | jq -r '.[] | select(.state == \"active\").name'",
)
def list_(
    context: typer.Context,
    *,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON array, with times in RFC 3339, UTC, or null."),
    ] = False,
    config: Config = None,
) -> None:
    """List all keys, the oldest first. The keys themselves are stored nowhere."""
    from api.access.keys import list_keys
    from api.cli.tables import print_json, print_table

    stored = with_database(settings_of(context, config), list_keys)
    if as_json:
        print_json(map(_fields, stored))
    elif stored:
        print_table(_table(stored))
    else:
        typer.echo("no keys yet: 'keys create --name NAME' makes one", err=True)


@keys.command(epilog="Examples: keys revoke ak_1a2b3c4; keys revoke - < file-with-the-key")
def revoke(
    context: typer.Context,
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="An id, a prefix or a name as listed, or - to read the key itself from stdin.",
            show_default=False,
        ),
    ],
    config: Config = None,
) -> None:
    """Revoke a key for good; running services deny it within a second."""
    from api.access.keys import find_keys, hash_key, revoke_key
    from api.cli.tables import shown

    settings = settings_of(context, config)
    from_stdin = key == "-"
    if from_stdin:
        key = typer.get_text_stream("stdin").readline().strip()
        if hash_key(key) is None:
            fail("stdin has no API key on its first line", code=2)
    matching = with_database(settings, lambda database: find_keys(database, key))
    if not matching:
        fail("no key has this id, prefix or name: see 'keys list'")
    left = [found for found in matching if found.revoked_at is None]
    if not left:
        last = matching[-1]
        fail(
            f"{last.prefix} ({printable(last.name)}) was revoked already, {shown(last.revoked_at)}"
        )
    if len(left) > 1:
        prefixes = ", ".join(found.prefix for found in left[:5])
        fail(f"{len(left)} keys that are not revoked match: give the prefix of one ({prefixes})")
    (found,) = left
    with_database(settings, lambda database: revoke_key(database, found.id))
    typer.echo(f"revoked {found.prefix} ({printable(found.name)})", err=True)
    if hash_key(key) is not None and not from_stdin:
        typer.echo(
            "other users of this machine can see a key on a command line: "
            "'keys revoke -' reads it from stdin",
            err=True,
        )


def _print_keys(names: Sequence[str], made: Sequence[str], output_format: OutputFormat) -> None:
    if output_format is OutputFormat.json:
        from api.cli.tables import print_json

        print_json({"name": name, "key": key} for name, key in zip(names, made, strict=True))
        return
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("name", "key"))
    rows.writerows(zip(names, made, strict=True))
    sys.stdout.flush()


def _fields(key: "StoredKey") -> dict[str, int | str | datetime | None]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "group_id": key.group_id,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "state": key.state,
    }


def _table(stored: "Sequence[StoredKey]") -> "Table":
    from api.cli.tables import DATE_COLUMNS, cell, new_table, shown

    some_expire = any(key.expires_at for key in stored)
    table = new_table()
    table.add_column("id", no_wrap=True)
    table.add_column("prefix", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("group", overflow="fold")
    table.add_column("created", min_width=DATE_COLUMNS)
    table.add_column("last used", min_width=DATE_COLUMNS)
    if some_expire:
        table.add_column("expires", min_width=DATE_COLUMNS)
    table.add_column("state", min_width=DATE_COLUMNS)
    for key in stored:
        expires = (shown(key.expires_at),) if some_expire else ()
        table.add_row(
            str(key.id),
            key.prefix,
            cell(key.name),
            cell(key.group_id or "all"),
            shown(key.created_at),
            shown(key.last_used_at),
            *expires,
            key.state if key.revoked_at is None else f"revoked {shown(key.revoked_at)}",
        )
    return table
