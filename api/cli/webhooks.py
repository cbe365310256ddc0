"""`webhooks`: make, list, test, pause, resume, rotate and delete webhooks."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, get_args

import typer

from api.cli.common import (
    Config,
    check,
    fail,
    give_up_output,
    length_s,
    settings_of,
    with_database,
)
from api.printable import printable

if TYPE_CHECKING:
    from api.config import WebhookSettings
    from api.postgres.database import Database
    from api.webhooks.sender import Outcome

_NO_SUCH: Final = "there is no webhook with this id: see 'webhooks list'"
_LONGEST_AFTER_S: Final = 30 * 86_400

WebhookId: TypeAlias = Annotated[
    int, typer.Argument(metavar="ID", help="The id as listed.", show_default=False)
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="A JSON array, with times in RFC 3339, UTC, or null.")
]

webhooks = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Send events of devices to URLs."
)


@webhooks.command(
    epilog="Example: python -m api webhooks create --url https://example.com/hook --group g1 "
    "--events device.offline,device.online > secret"
)
def create(
    context: typer.Context,
    *,
    url: Annotated[
        str,
        typer.Option(metavar="URL", help="Where events are sent: https://.", show_default=False),
    ],
    group: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Events of this group alone; all when left out."),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="TYPES",
            help="Types of events, separated by commas, as device.offline,device.online; all when "
            "left out.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Send device.offline only for devices that stay offline for so long, as 30s, 15m, "
            "2h or 7d, and device.online only for those of which that was sent; 30d at most.",
        ),
    ] = None,
    quiet: Annotated[
        str | None,
        typer.Option(
            metavar="HOURS",
            help="Send nothing in these hours of each day, as 22:00-06:00, and when they end what "
            "has happened.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE", help="The time zone of --quiet, as Europe/Berlin; by default UTC."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Make a webhook for events from now on; print its secret, alone on stdout, this once."""
    from api.events.log import EventType
    from api.fleet.devices import GroupId
    from api.webhooks.addresses import check_url
    from api.webhooks.registry import NewWebhook, create_webhook

    settings = settings_of(context, config)
    if group is not None:
        check(group, GroupId, "--group", "2 to 50 letters, digits, _ or -")
    types = None if events is None else events.split(",")
    for kind in types or ():
        if kind not in get_args(EventType):
            known = ",".join(get_args(EventType))
            fail(f"--events: there is no type {kind!r}; the types are {known}", code=2)
    after_s = None if after is None else length_s(after, "--after")
    if after_s is not None and after_s > _LONGEST_AFTER_S:
        fail(f"--after {after!r}: 30d at most", code=2)
    if quiet is not None:
        timezone = timezone or "UTC"
        _check_quiet(quiet, timezone)
    elif timezone is not None:
        fail("--timezone: it is the time zone of --quiet, which is missing", code=2)
    new = NewWebhook(url, group, types, after_s, quiet, timezone)
    allowed = settings.webhooks
    try:
        check_url(url, allow_http=allowed.allow_http, allow_private=allowed.allow_private)
    except ValueError as error:
        fail(f"--url: {error}", code=2)
    webhook_id, secret = with_database(settings, lambda database: create_webhook(database, new))
    typer.echo(f"webhook {webhook_id}: its secret is on stdout, and not shown again", err=True)
    _print_secret(secret)


@webhooks.command("list")
def list_(context: typer.Context, *, as_json: Json = False, config: Config = None) -> None:
    """List all webhooks, the oldest first, without their secrets."""
    from api.cli.tables import DATE_COLUMNS, cell, new_table, print_json, print_table, shown
    from api.webhooks.registry import list_webhooks

    found = with_database(settings_of(context, config), list_webhooks)
    if as_json:
        print_json({**one._asdict(), "state": one.state} for one in found)
        return
    if not found:
        typer.echo("no webhooks yet: 'webhooks create --url URL' makes one", err=True)
        return
    table = new_table()
    table.add_column("id", no_wrap=True)
    for title in ("url", "group", "events"):
        table.add_column(title, overflow="fold")
    table.add_column("created", min_width=DATE_COLUMNS)
    for title in ("state", "waiting", "held", "last error"):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(
            str(one.id),
            cell(one.url),
            cell(one.group_id or "all"),
            cell(",".join(one.types or ("all",))),
            shown(one.created_at),
            one.state,
            str(one.waiting),
            str(one.held),
            cell(one.last_error or ""),
        )
    print_table(table)


@webhooks.command("test")
def send_test(context: typer.Context, webhook_id: WebhookId, config: Config = None) -> None:
    """Send one event of type webhook.test now, and print how the receiver responded."""
    from api.webhooks.registry import read_secrets

    settings = settings_of(context, config)
    found = with_database(settings, lambda database: read_secrets(database, webhook_id))
    if found is None:
        fail(_NO_SUCH)
    outcome = _send_test(settings.webhooks, *found)
    if outcome.error is not None:
        fail(f"webhook {webhook_id}: {outcome.error}; its URL is {printable(found[0])}")
    typer.echo(f"delivered: {outcome.status}", err=True)


@webhooks.command()
def pause(context: typer.Context, webhook_id: WebhookId, config: Config = None) -> None:
    """Send nothing until the webhook is resumed; its events wait while events are kept."""
    from api.webhooks.registry import pause_webhook

    _change(context, config, webhook_id, pause_webhook, "paused")


@webhooks.command()
def resume(context: typer.Context, webhook_id: WebhookId, config: Config = None) -> None:
    """Go on, at once, where a webhook was paused; also after the receiver responded 410."""
    from api.webhooks.registry import resume_webhook

    _change(context, config, webhook_id, resume_webhook, "resumed")


@webhooks.command()
def delete(context: typer.Context, webhook_id: WebhookId, config: Config = None) -> None:
    """Delete a webhook with the list of its deliveries; what waits is not sent."""
    from api.webhooks.registry import delete_webhook

    _change(context, config, webhook_id, delete_webhook, "deleted")


@webhooks.command()
def rotate(context: typer.Context, webhook_id: WebhookId, config: Config = None) -> None:
    """Make a new secret and print it, alone on stdout; for a day the old one is valid as well."""
    from api.webhooks.registry import rotate_secret

    secret = with_database(
        settings_of(context, config), lambda database: rotate_secret(database, webhook_id)
    )
    if secret is None:
        fail(_NO_SUCH)
    _print_secret(secret)


@webhooks.command()
def deliveries(
    context: typer.Context,
    webhook_id: WebhookId,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="The most deliveries.")
    ] = 20,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List the last deliveries of a webhook, the newest first; they are kept for 30 days."""
    from api.cli.tables import DATE_COLUMNS, cell, new_table, print_json, print_table, shown
    from api.webhooks.registry import list_deliveries

    found = with_database(
        settings_of(context, config),
        lambda database: list_deliveries(database, webhook_id, limit),
    )
    if as_json:
        print_json(one._asdict() for one in found)
        return
    if not found:
        typer.echo("no deliveries yet", err=True)
        return
    table = new_table()
    table.add_column("ended", min_width=DATE_COLUMNS)
    for title in ("id", "outcome", "events", "attempts", "status", "error"):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(
            shown(one.ended_at),
            one.message_id,
            one.outcome,
            str(one.events),
            str(one.attempts),
            str(one.status or ""),
            cell(one.error or ""),
        )
    print_table(table)


def _check_quiet(quiet: str, timezone: str) -> None:
    from api.webhooks.quiet import quiet_hours

    try:
        quiet_hours(quiet, timezone)
    except ValueError as error:
        fail(f"--quiet {quiet!r} --timezone {timezone!r}: {error}", code=2)


def _change(
    context: typer.Context,
    config: "Config",
    webhook_id: int,
    change: "Callable[[Database, int], Awaitable[bool]]",
    done: str,
) -> None:
    if not with_database(
        settings_of(context, config), lambda database: change(database, webhook_id)
    ):
        fail(_NO_SUCH)
    typer.echo(f"{done} webhook {webhook_id}", err=True)


def _print_secret(secret: str) -> None:
    try:
        typer.echo(secret)
    except OSError as error:
        give_up_output()
        reason = printable(error.strerror or str(error))
        fail(f"cannot write the output: {reason}; the secret is lost: delete the webhook")


def _send_test(settings: "WebhookSettings", url: str, secrets: list[str]) -> "Outcome":
    import asyncio
    import secrets as random
    import time
    from datetime import UTC, datetime

    import msgspec

    from api.webhooks.sender import open_sender

    at = datetime.now(UTC).replace(microsecond=0)
    message_id = f"msg_{random.token_hex(16)}"
    # With an id as all events have one: receivers remember which ids they have handled.
    event = {"event_id": message_id, "type": "webhook.test", "at": at}
    body = msgspec.json.encode({"events": [event]})

    async def send() -> "Outcome":
        async with open_sender(settings, time.time) as sender:
            return await sender.send(url, secrets, message_id, body)

    return asyncio.run(send())
