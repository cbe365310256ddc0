"""`devices`: lists the devices of a group, filtered by when they were last seen."""

from math import inf
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from api.cli.common import Config, check, length_s, settings_of, with_database

if TYPE_CHECKING:
    from api.config import Settings
    from api.fleet.devices import DeviceResponse
    from api.fleet.listing import Ages
    from api.postgres.database import Database

_PAGE: Final = 1000

Group: TypeAlias = Annotated[
    str,
    typer.Option(metavar="GROUP", help="The group whose devices are listed.", show_default=False),
]
SilentFor: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="7d",
        help="Only those not seen for at least so long, or never: a number and s, m, h, d or w for "
        "seconds, minutes, hours, days or weeks.",
    ),
]
SeenWithin: TypeAlias = Annotated[
    str | None, typer.Option(metavar="1h", help="Only those seen so long ago at most; likewise.")
]
Limit: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="The most devices; all when left out.", show_default=False
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="A JSON array, instead of a table.")]


devices = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@devices.callback()
def options() -> None:
    """List devices, also by when they were last seen."""


@devices.command(
    "list",
    epilog="Example: python -m api devices list --group g1 --silent-for 7d --json",
)
def list_(
    context: typer.Context,
    *,
    group: Group,
    silent_for: SilentFor = None,
    seen_within: SeenWithin = None,
    limit: Limit = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List the active devices of a group by name, as the database knows them.

    What a running service has not written yet is not seen here: a flush interval's worth, mostly.
    """
    from api.cli.tables import print_json
    from api.fleet.devices import GroupId
    from api.fleet.listing import Ages

    check(group, GroupId, "--group", "2 to 50 letters, digits, _ or -")
    ages = Ages(
        at_least_s=-inf if silent_for is None else length_s(silent_for, "--silent-for"),
        at_most_s=inf if seen_within is None else length_s(seen_within, "--seen-within"),
    )
    settings = settings_of(context, config)
    found = with_database(settings, lambda database: _read(database, group, ages, limit, settings))
    if as_json:
        print_json(found)
    elif found:
        _show(found)
    if not found:
        typer.echo(f"no active device of group {group} matches", err=True)


async def _read(
    database: "Database", group_id: str, ages: "Ages", limit: int | None, settings: "Settings"
) -> "list[DeviceResponse]":
    from api.fleet.cursors import from_cursor
    from api.fleet.listing import Listings
    from api.fleet.pending import Pending
    from api.fleet.presence import presence_rule
    from tracker import no_touches

    listings = Listings(
        *(database, Pending(no_touches)),
        ahead_s=settings.ingest.max_capture_ahead_s,
        rule=presence_rule(settings),
    )
    after = None
    found: list[DeviceResponse] = []
    while limit is None or len(found) < limit:
        most = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = await listings.page(group_id, limit=most, after=after, ages=ages)
        found += page.devices
        if page.next_cursor is None:
            break
        after = from_cursor(page.next_cursor)
    return found


def _show(found: "list[DeviceResponse]") -> None:
    from api.cli.tables import DATE_COLUMNS, cell, new_table, print_table, shown

    table = new_table()
    table.add_column("device", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("platform", overflow="fold")
    table.add_column("last seen", min_width=DATE_COLUMNS)
    table.add_column("presence")
    table.add_column("last position", overflow="fold")
    for device in found:
        where = device.last_location
        table.add_row(
            device.device_id,
            cell(device.display_name),
            cell(device.platform),
            shown(device.last_seen_at),
            device.presence,
            "" if where is None else f"{where.latitude:.5f} {where.longitude:.5f}",
        )
    print_table(table)
