"""`serve` and `migrate`: the service itself."""

import os
import signal
from pathlib import Path

import typer

from api.cli.common import Config, database_ready, failing_clearly, settings_of


def serve(context: typer.Context, config: Config = None) -> None:
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

    with (
        failing_clearly(),
        database_ready(settings, on_unavailable=can_serve_without) as dsn,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve_until_told_to_stop(settings, dsn))
        log.info("server.stopped")


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
