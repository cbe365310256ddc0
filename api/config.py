"""The settings of the service: their types, defaults and ranges, and the relations between them.

`api.load_settings` reads them. Units and meanings are in config.toml; a test keeps its values and
these defaults the same.
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from api.renamed_settings import rename_in_environment
from tracker import MIN_JOURNAL_BYTES, ConfigurationError
from tracker.postgres import read_dsn

PREFIX: Final = "ACTIVITY__"
"""The prefix of environment variables that are settings: ACTIVITY__SERVER__PORT."""
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]").fullmatch
"""A host without a port: a name, an IPv4 address, or an IPv6 address in brackets."""


def _host_names(value: object) -> object:
    """Read hosts as TOML has them, a list, or as the environment has them: separated by commas."""
    hosts = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
    if hosts == [""]:
        return []
    if isinstance(hosts, list):
        for host in hosts:
            if not isinstance(host, str) or not _HOST_NAME(host):
                raise ValueError("each must be a host without scheme and port: tracker.example")
    return hosts


def _whole(value: object) -> object:
    """Read 120.0 as 120: the old names of these settings took fractions of seconds."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


HostNames = Annotated[list[str], BeforeValidator(_host_names), NoDecode]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
WholeSeconds = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


class SettingsError(Exception):
    """A setting is unknown or has a bad value; the message is one line that names it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the service listens, and the limits of connections and requests."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    monitor_host: str = "127.0.0.1"
    monitor_port: int = Field(default=0, ge=0, le=65535)
    allowed_hosts: HostNames = []
    metrics_max_age_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 1.0
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    max_header_line_bytes: int = Field(default=8190, ge=256, le=1_048_576)
    max_header_bytes: int = Field(default=32_768, ge=256, le=1_048_576)
    max_body_bytes: Count = 1_048_576
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    response_timeout_s: Seconds = 30.0
    keepalive_timeout_s: Seconds = 75.0
    shutdown_timeout_s: Seconds = 5.0
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    drain_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    run_dir: str = Field(default=".activity/run", min_length=1)

    @property
    def url(self) -> str:
        """The URL at which the service listens."""
        host = self.host or "::"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.monitor_port == self.port:
            raise ValueError("monitor_port must not be port: leave it 0 to serve all on one")
        if self.max_header_line_bytes > self.max_header_bytes:
            raise ValueError("max_header_line_bytes must not be above max_header_bytes")
        return self


class DatabaseSettings(_Section):
    """Which Postgres the service uses, and how."""

    url: str = ""
    data_dir: str = Field(default=".activity/postgres", min_length=1)
    auto_migrate: bool = True
    pool_size: int = Field(default=10, ge=1, le=1000)
    statement_cache_size: int = Field(default=100, ge=0, le=10_000)
    connect_timeout_s: Seconds = 10.0
    statement_timeout_s: Seconds = 5.0

    @model_validator(mode="after")
    def _url_can_be_read(self) -> Self:
        if not self.url:
            return self
        try:
            read_dsn(self.url)
        except ConfigurationError as error:  # it quotes nothing that may be a part of the password
            raise ValueError(f"url {error}") from None
        return self


class IngestSettings(_Section):
    """How location uploads are committed in batches."""

    batch_rows: Count = 1000
    batch_bytes: Count = 1_048_576
    batches_in_flight: int = Field(default=2, ge=1, le=1000)
    waiting_rows: Count = 20_000
    waiting_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = 67_108_864
    max_capture_ahead_s: Seconds = 300.0


class AuthSettings(_Section):
    """How API keys and devices are cached."""

    refresh_s: Seconds = 30.0
    stale_limit_s: Seconds = 900.0
    negative_ttl_s: Seconds = 2.0
    cache_size: Count = 200_000
    negative_cache_size: Count = 10_000
    known_devices: Count = 2_000_000
    known_file: str = ".activity/known"
    max_waiting: Count = 10_000
    lookup_timeout_s: Seconds = 2.0
    revocation_poll_s: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)] = 0.25

    @model_validator(mode="after")
    def _stale_after_fresh(self) -> Self:
        if self.stale_limit_s < self.refresh_s:
            raise ValueError("stale_limit_s must not be below refresh_s")
        return self


class TrackerSettings(_Section):
    """How touches are buffered and flushed."""

    enabled: bool = True
    flush_interval_s: Seconds = 5.0
    chunk_keys: Annotated[int, Field(ge=1, le=100_000)] = 5000
    capacity_keys: Count = 1_000_000
    high_water_keys: Count = 500_000
    device_resolution_s: Annotated[int, Field(ge=1, le=86_400)] = 1
    api_key_resolution_s: Annotated[int, Field(ge=1, le=86_400)] = 1
    statement_timeout_s: Seconds = 5.0
    lock_timeout_s: Seconds = 0.25
    backoff_initial_s: Seconds = 1.0
    backoff_max_s: Seconds = 30.0
    shutdown_deadline_s: Seconds = 10.0
    log_keys: bool = True

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.high_water_keys > self.capacity_keys:
            raise ValueError("high_water_keys must not be above capacity_keys")
        if self.backoff_initial_s > self.backoff_max_s:
            raise ValueError("backoff_initial_s must not be above backoff_max_s")
        if self.lock_timeout_s >= self.statement_timeout_s:
            raise ValueError("lock_timeout_s must be below statement_timeout_s")
        return self


class JournalSettings(_Section):
    """Where pending touches are stored so that they survive a crash."""

    enabled: bool = True
    dir: str = Field(default=".activity/journal", min_length=1)
    max_bytes: Annotated[int, Field(ge=MIN_JOURNAL_BYTES, le=1 << 40)] = 536_870_912


class LiveSettings(_Section):
    """The live stream and page."""

    enabled: bool = True
    max_streams: Annotated[int, Field(ge=1, le=100_000)] = 200


class PresenceSettings(_Section):
    """When a device is online, idle or offline."""

    enabled: bool = True
    idle_after_s: Annotated[WholeSeconds, Field(ge=1, le=604_800)] = 120
    offline_after_s: Annotated[WholeSeconds, Field(ge=30, le=604_800)] = 900

    @model_validator(mode="after")
    def _offline_after_idle(self) -> Self:
        if self.offline_after_s < self.idle_after_s:
            raise ValueError("offline_after_s must not be below idle_after_s")
        return self


class EventSettings(_Section):
    """How long events are kept."""

    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30


class WebhookSettings(_Section):
    """How events are sent to webhooks."""

    enabled: bool = True
    allow_private: bool = False
    allow_http: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 10.0
    retry_for_s: Annotated[float, Field(ge=0, le=2_592_000, allow_inf_nan=False)] = 86_400.0
    backoff_max_s: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] = 300.0
    concurrent_deliveries: Annotated[int, Field(ge=1, le=1000)] = 50


class LimitSettings(_Section):
    """The most that one API key, one group, or all API keys together may use."""

    devices_per_group: Count = 100_000
    registrations_per_minute: Count = 6000
    release_device_id_after_s: Annotated[float, Field(ge=0, le=31_536_000)] = 86_400.0
    unsent_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = 67_108_864
    unsent_bytes_per_key: Annotated[int, Field(ge=1, le=1 << 40)] = 8_388_608
    reads: Annotated[int, Field(ge=1, le=1000)] = 4
    reads_per_key: Annotated[int, Field(ge=1, le=1000)] = 1
    streams_per_key: Annotated[int, Field(ge=1, le=100_000)] = 100
    wait_s: Seconds = 5.0

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.unsent_bytes_per_key > self.unsent_bytes:
            raise ValueError("unsent_bytes_per_key must not be above unsent_bytes")
        if self.reads_per_key > self.reads:
            raise ValueError("reads_per_key must not be above reads")
        return self


class LogSettings(_Section):
    """The level and format of logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    ingest: IngestSettings = IngestSettings()
    auth: AuthSettings = AuthSettings()
    tracker: TrackerSettings = TrackerSettings()
    journal: JournalSettings = JournalSettings()
    live: LiveSettings = LiveSettings()
    presence: PresenceSettings = PresenceSettings()
    events: EventSettings = EventSettings()
    webhooks: WebhookSettings = WebhookSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _batches_have_connections(self) -> Self:
        if self.ingest.batches_in_flight > self.database.pool_size:
            raise ValueError("ingest.batches_in_flight must not be above database.pool_size")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override the file; use no other source."""
        del settings_cls, dotenv_settings, file_secret_settings
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars, _ = rename_in_environment(env_settings.env_vars, PREFIX)
        return env_settings, init_settings
