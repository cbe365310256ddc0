"""A DSN as users have it, checked before anything is started, and as the driver takes it.

The driver drops `?dbname=` behind a path of "/", sends parameters of libpq that it does not know to
the server as settings, which the server rejects, and finds most mistakes only when it connects.
"""

import re
import ssl
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from tracker.errors import ConfigurationError

_SCHEMES: Final = ("postgresql://", "postgres://")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:]*)(?::([0-9]{1,5}))?").fullmatch
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_LAST_PORT: Final = 65_535
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": (
        *("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    ),
}
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_IGNORED: Final = frozenset(
    {
        *("channel_binding", "gssencmode", "sslsni", "sslcompression", "sslcertmode"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "requirepeer", "require_auth", "replication", "hostaddr"),
        *("load_balance_hosts", "fallback_application_name", "client_encoding", "scram_client_key"),
        *("connection_limit", "pool_timeout", "pool_mode", "socket_timeout", "schema", "sslaccept"),
        *("currentSchema", "prepareThreshold", "statement_cache_size", "supa"),
    }
)
"""Parameters of libpq, of hosting companies and of other drivers that asyncpg cannot honour."""
_ESCAPES: Final = "in a name or password write @:/?#[]% as %40, %3A, %2F, %3F, %23, %5B, %5D, %25"


class Dsn(NamedTuple):
    """A DSN that has been checked, without what the driver does not know."""

    text: str
    """What the driver takes."""
    timeout_s: float | None
    """How long to wait for a connection, in seconds, if the DSN says so."""
    application_name: str | None
    is_pooled: bool
    """Whether the DSN says that there is a pooler in transaction mode in between."""
    tls: ssl.SSLContext | None
    """For `sslrootcert=system`, which the driver does not know."""
    ignored: tuple[str, ...]
    """Names of parameters that have no effect."""


def read_dsn(dsn: str) -> Dsn:
    """Check a DSN and return it as the driver takes it.

    Args:
        dsn: `postgresql://[user[:password]@][host[:port],...][/database][?name=value&...]`.

    Raises:
        ConfigurationError: it cannot work; the message begins with a verb, for a subject such as
            "the dsn", and quotes nothing that may be a part of the password.
    """
    if not isinstance(dsn, str) or not dsn.startswith(_SCHEMES):
        raise ConfigurationError("must start with postgresql://")
    parts = _split(dsn)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.get("ssl", "").lower() in {"true", "1", "require"}:
        options.setdefault("sslmode", "require")
    options.pop("ssl", None)
    _check_hosts(parts, options)
    _check_options(options)
    database = options.pop("dbname", "") or options.pop("database", "")
    options.pop("database", None)
    path = f"/{quote(database, safe='')}" if database else parts.path.rstrip("/")
    is_pooled = options.pop("pgbouncer", "").lower() in {"true", "1"}
    timeout_s = _timeout_s(options.pop("connect_timeout", ""))
    tls = None
    if options.get("sslrootcert") == "system":
        tls = ssl.create_default_context()
        del options["sslrootcert"]
        options.pop("sslmode", None)
    ignored = tuple(sorted(options.keys() & _IGNORED))
    kept = {name: value for name, value in options.items() if name not in _IGNORED}
    query = f"?{urlencode(kept, quote_via=quote)}" if kept else ""
    return Dsn(
        text=f"{parts.scheme}://{parts.netloc}{path}{query}",
        timeout_s=timeout_s,
        application_name=kept.get("application_name"),
        is_pooled=is_pooled,
        tls=tls,
        ignored=ignored,
    )


def _split(dsn: str) -> SplitResult:
    try:
        parts = urlsplit(dsn)
    except ValueError:  # of brackets that are not closed; its message quotes the DSN
        raise ConfigurationError(f"has no host or host:port; {_ESCAPES}") from None
    # Unescaped, these end the part that the password is in, and the rest looks like another part.
    rest = f"{parts.path}?{parts.query}"
    if parts.fragment or _BAD_ESCAPE(dsn) or ("@" in rest and "@" not in parts.netloc):
        raise ConfigurationError(f"has a character that must be escaped; {_ESCAPES}")
    return parts


def _check_hosts(parts: SplitResult, options: dict[str, str]) -> None:
    user, _, hosts = parts.netloc.rpartition("@")
    given = hosts.split(",")
    for match in (None,) if "@" in user else map(_HOST_AND_PORT, given):
        if match is None or not _is_port(match[2]):
            raise ConfigurationError(f"has no host or host:port; {_ESCAPES}")
    if "port" in options:
        ports = options["port"].split(",")
        if not all(port and _is_port(port) for port in ports):
            raise ConfigurationError(f"has a port that is no number from 1 to {_LAST_PORT}")
        many = options.get("host", hosts).split(",")
        if len(ports) not in {1, len(many)}:
            raise ConfigurationError("has another number of ports than of hosts")


def _is_port(text: str | None) -> bool:
    return text is None or (text.isascii() and text.isdigit() and 0 < int(text) <= _LAST_PORT)


def _check_options(options: dict[str, str]) -> None:
    for name, choices in _CHOICES.items():
        if name in options and options[name] not in choices:
            raise ConfigurationError(f"has a {name} that is none of {', '.join(choices)}")
    for name in _FILES:
        path = options.get(name)
        if path and not (name == "sslrootcert" and path == "system"):
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise ConfigurationError(
                    f"names a file that cannot be read: {name} {path}: {error.strerror}"
                ) from error


def _timeout_s(text: str) -> float | None:
    if text in {"", "0"}:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError("has a connect_timeout that is no number of seconds")
    return float(text)
