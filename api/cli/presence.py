"""`presence`: snooze the groups that are in maintenance."""

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from api.cli.common import Config, check, fail, length_s, settings_of, with_database

if TYPE_CHECKING:
    from datetime import datetime

    from api.postgres.database import Database

_LONGEST_S: Final = 30 * 86_400

Group: TypeAlias = Annotated[
    str, typer.Option(metavar="GROUP", help="The group.", show_default=False)
]

presence = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep webhooks from reporting devices of groups in maintenance.",
)


@presence.command(epilog="Example: python -m api presence snooze --group g1 --for 2h")
def snooze(
    context: typer.Context,
    *,
    group: Group,
    duration: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="How long, as 30m, 2h or 1d; 30d at most.",
            show_default=False,
        ),
    ],
    config: Config = None,
) -> None:
    """Begin maintenance now: a device of the group that goes offline and returns in it is not sent.

    A device that is still offline at the end is sent then.
    """
    from api.cli.tables import shown
    from api.fleet.groups import one_group
    from api.fleet.presence import presence_rule
    from api.webhooks.snoozes import begin_snooze

    settings = settings_of(context, config)
    _check_group(group)
    seconds = length_s(duration, "--for")
    if seconds > _LONGEST_S:
        fail(f"--for {duration!r}: 30d at most", code=2)

    async def begin(database: "Database") -> "tuple[datetime, int]":
        ends_at = await begin_snooze(database, group, seconds)
        (found,) = (await one_group(database, group, rule=presence_rule(settings))).groups
        return ends_at, found.devices

    ends_at, devices = with_database(settings, begin)
    note = "" if devices else "; the group has no active devices: is its name right?"
    typer.echo(f"snoozed {group} until {shown(ends_at)}{note}", err=True)


@presence.command()
def unsnooze(context: typer.Context, *, group: Group, config: Config = None) -> None:
    """End the maintenance of a group now; its devices that are offline are sent to webhooks."""
    from api.webhooks.snoozes import end_snooze

    settings = settings_of(context, config)
    _check_group(group)
    if not with_database(settings, lambda database: end_snooze(database, group)):
        fail(f"{group} is not snoozed: see 'presence snoozes'")
    typer.echo(f"ended the snooze of {group}", err=True)


@presence.command()
def snoozes(
    context: typer.Context,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON array, with times in RFC 3339, UTC.")
    ] = False,
    config: Config = None,
) -> None:
    """List the groups that are snoozed now, and until when."""
    from api.cli.tables import DATE_COLUMNS, cell, new_table, print_json, print_table, shown
    from api.webhooks.snoozes import list_snoozes

    found = with_database(settings_of(context, config), list_snoozes)
    if as_json:
        print_json(one._asdict() for one in found)
        return
    if not found:
        typer.echo("no group is snoozed", err=True)
        return
    table = new_table()
    table.add_column("group", overflow="fold")
    for title in ("began", "ends"):
        table.add_column(title, min_width=DATE_COLUMNS)
    for one in found:
        table.add_row(cell(one.group_id), shown(one.began_at), shown(one.ends_at))
    print_table(table)


def _check_group(group: str) -> None:
    from api.fleet.devices import GroupId

    check(group, GroupId, "--group", "2 to 50 letters, digits, _ or -")
