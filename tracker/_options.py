"""The options of a tracker, checked before anything is started."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._flush.backoff import Backoff
from tracker._journal.journal import MIN_JOURNAL_BYTES
from tracker.errors import ConfigurationError
from tracker.postgres import Pool, read_dsn
from tracker.target import Target

_MAX_S: Final = 86_400
"""A day. More is a mistake, and Postgres takes no timeout above 24 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `Tracker` takes besides its targets; its docstring describes each argument.

    Raises:
        ConfigurationError: a value that cannot work, or two that contradict each other.
    """

    dsn: str | None
    pool: Pool | None
    flush_interval_s: float
    chunk_keys: int
    statement_timeout_s: float
    lock_timeout_s: float
    backoff_initial_s: float
    backoff_max_s: float
    shutdown_deadline_s: float
    journal_dir: Path | None
    journal_max_bytes: int
    log_keys: bool

    def __post_init__(self) -> None:
        """Reject what could only fail later."""
        self._check_server()
        self._check_seconds()
        self._check_sizes()

    @property
    def backoff(self) -> Backoff:
        """The delays after failed flushes."""
        return Backoff(self.backoff_initial_s, self.backoff_max_s)

    def _check_server(self) -> None:
        if (self.dsn is None) == (self.pool is None):
            raise ConfigurationError("a tracker needs either a dsn or a pool")
        if self.dsn is not None:
            try:
                read_dsn(self.dsn)
            except ConfigurationError as error:
                raise ConfigurationError(f"the dsn {error}") from error.__cause__

    def _check_seconds(self) -> None:
        for name in (
            "flush_interval_s",
            "statement_timeout_s",
            "lock_timeout_s",
            "backoff_initial_s",
            "backoff_max_s",
            "shutdown_deadline_s",
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value <= _MAX_S:
                raise ConfigurationError(f"{name} must be above 0 and up to {_MAX_S}, not {value}")
        if self.lock_timeout_s >= self.statement_timeout_s:
            raise ConfigurationError("lock_timeout_s must be below statement_timeout_s")
        if self.backoff_initial_s > self.backoff_max_s:
            raise ConfigurationError("backoff_initial_s must not be above backoff_max_s")

    def _check_sizes(self) -> None:
        keys, most_bytes = self.chunk_keys, self.journal_max_bytes
        if isinstance(keys, bool) or not isinstance(keys, int) or keys < 1:
            raise ConfigurationError(f"chunk_keys must be a number from 1, not {keys!r}")
        if not isinstance(most_bytes, int) or most_bytes < MIN_JOURNAL_BYTES:
            raise ConfigurationError(
                f"journal_max_bytes must be {MIN_JOURNAL_BYTES} or more, not {most_bytes!r}"
            )


def make_buffers(targets: Iterable[Target], clock: Callable[[], float]) -> dict[str, Buffer]:
    """Return a buffer for each target, by name.

    Raises:
        ConfigurationError: there is no target, or two have the same name.
    """
    if isinstance(targets, Target):
        raise ConfigurationError("targets must be a list of targets, not one")
    targets = list(targets)
    buffers = {target.name: Buffer(target, clock=clock) for target in targets}
    if not buffers or len(buffers) != len(targets):
        raise ConfigurationError("a tracker needs targets, each with a name of its own")
    return buffers


def warn_renamed(old: str, new: str) -> None:
    """Warn the caller of `Tracker` that an argument has another name now."""
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
