"""`serve` and `migrate`: the service itself."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.common import Config, database_ready, fail, failing_clearly, settings_of

if TYPE_CHECKING:
    from api.config import Settings


Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        max=256,
        help="Processes that share the port, instead of server.workers; 0: one for each core.",
        show_default=False,
    ),
]


def serve(context: typer.Context, config: Config = None, workers: Workers = None) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    It listens on server.host and server.port: 127.0.0.1:8080 unless they are set. config.toml has
    all settings and what they mean; the environment overrides them, as ACTIVITY__SERVER__PORT=9000.
    """
    renamed: list[tuple[str, str]] = []
    settings = settings_of(context, config, warn=lambda old, new: renamed.append((old, new)))
    import asyncio

    import structlog
    import uvloop

    from api.access.known_file import is_recent
    from api.logs import configure_logs
    from api.serving import IGNORED_SIGNALS
    from api.serving import serve as serve_until_told_to_stop
    from api.workers.cores import usable_cores

    configured = settings.server.workers if workers is None else None
    workers = (settings.server.workers if workers is None else workers) or usable_cores()
    server = settings.server.model_copy(update={"workers": workers})
    settings = settings.model_copy(update={"server": server})

    for number in IGNORED_SIGNALS:  # until the event loop handles them
        signal.signal(number, lambda *_: None)
    configure_logs(settings.log)
    log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
    for old, new in renamed:
        log.warning("setting.deprecated", old=old, new=new)
    if not settings.database.url and os.environ.get("DATABASE_URL"):
        log.warning(
            "database.embedded",
            reason="DATABASE_URL is set, but this service reads ACTIVITY__DATABASE__URL: it starts "
            "an embedded server",
            data_dir=settings.database.data_dir,
        )

    def can_serve_without(error: Exception) -> bool:
        known = settings.auth.known_file and is_recent(
            Path(settings.auth.known_file), settings.auth.stale_limit_s
        )
        if known:
            log.warning("database.unavailable", error=str(error))
        return bool(known)

    if workers > 1:
        file = config or context.find_root().obj
        with (
            failing_clearly(),
            database_ready(settings, on_unavailable=can_serve_without) as dsn,
        ):
            _serve_with_workers(settings, file, dsn, configured)
        log.info("server.stopped")
        return
    with (
        failing_clearly(),
        database_ready(settings, on_unavailable=can_serve_without) as dsn,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve_until_told_to_stop(settings, dsn))
        log.info("server.stopped")


def _serve_with_workers(
    settings: "Settings", file: Path | None, dsn: str, configured: int | None
) -> None:
    import asyncio

    from api.workers.group import WorkerGroup
    from api.workers.parent import Parent
    from api.workers.process import StartError
    from api.workers.run_dir import RunDirectory
    from api.workers.slots import open_slots

    run_dir = RunDirectory(settings.server)
    run_dir.make()
    slots = open_slots(settings.server)
    config = None if file is None else str(file)
    workers = WorkerGroup(settings, config, dsn, slots, run_dir, workers_setting=configured)
    parent = Parent(workers, run_dir, settings.server.url)
    try:
        asyncio.run(parent.run())
    except StartError as error:
        fail(str(error), code=error.code)


def reload(context: typer.Context, config: Config = None) -> None:
    """Let a service with several workers read its settings and code again, without an interruption.

    The new settings are checked first; if they are wrong, nothing changes and this command fails.
    Then one worker after the other is replaced. SIGHUP to the service does the same.
    """
    settings = settings_of(context, config)
    import asyncio

    from api.workers.channel import ChannelError
    from api.workers.run_dir import RunDirectory

    with failing_clearly():
        try:
            answer = asyncio.run(RunDirectory(settings.server).command("reload"))
        except ChannelError as error:
            fail(f"the service has not responded: {error}")
    if answer["error"]:
        fail(answer["error"])
    typer.echo("all workers are new", err=True)


def migrate(context: typer.Context, config: Config = None) -> None:
    """Bring the database's schema up to date.

    The database is that of database.url, set by ACTIVITY__DATABASE__URL or in config.toml; without
    one it is the embedded server. Other commands do so, too, unless database.auto_migrate is false.
    """
    settings = settings_of(context, config)
    from api.postgres.embedded import configured_server
    from api.postgres.migrate import migrate_now

    with failing_clearly(), configured_server(settings.database) as dsn:
        migrate_now(dsn, connect_timeout_s=settings.database.connect_timeout_s)
    typer.echo("the schema is up to date", err=True)
