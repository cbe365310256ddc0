"""A DSN as users have it: what cannot work is found early, and no message shows a password."""

from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.support.sample_table import AT, THINGS, seen
from tracker import ConfigurationError, StoreMisconfigured, Tracker
from tracker.postgres import open_pool, read_dsn, translate

SECRET = "S3CRET"  # noqa: S105 - of no server


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("mysql://x", "must start with postgresql://"),
        ("", "must start with postgresql://"),
        (f"postgresql://u:{SECRET}@h:abc/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@h:99999/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@h:0/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@h:٥٤٣٢/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@h1,h2:x/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@[::1/db", "no host or host:port"),
        (f"postgresql://u:{SECRET}@::1/db", "no host or host:port"),
        (f"postgresql://u:p@ss/w:{SECRET}#1@h/db", "must be escaped; .* as %40"),
        (f"postgresql://u:p@{SECRET}@h/db", "write @"),
        (f"postgresql://u:p/{SECRET}@h/db", "must be escaped"),
        (f"postgresql://u:12/{SECRET}@h/db", "must be escaped"),
        (f"postgresql://u:p?{SECRET}@h/db", "must be escaped"),
        (f"postgresql://u:p#{SECRET}@h/db", "must be escaped"),
        (f"postgresql://u:[{SECRET}@h/db", "write @"),
        (f"postgresql://u:100%{SECRET}@h/db", "must be escaped"),
        (f"postgresql://u:{SECRET}@h/db?sslmode=bogus", "sslmode that is none of disable, allow"),
        (f"postgresql://u:{SECRET}@h/db?target_session_attrs=x", "none of any, primary"),
        (f"postgresql://u:{SECRET}@/db?host=h&port=x", "port that is no number"),
        (f"postgresql://u:{SECRET}@/db?host=a,b,c&port=1,2", "number of ports"),
        (f"postgresql://u:{SECRET}@h/db?connect_timeout=soon", "connect_timeout"),
        (
            f"postgresql://u:{SECRET}@h/db?sslmode=verify-full&sslrootcert=/no/such/ca.pem",
            "cannot be read: sslrootcert /no/such/ca.pem: No such file",
        ),
        (f"postgresql://u:{SECRET}@h/db?sslcert=/no/cert&sslkey=/no/key", "sslcert /no/cert"),
    ],
)
def test_a_dsn_that_cannot_work_is_found_when_the_tracker_is_made(dsn, said):
    """Its message says what to change, and nothing that may be a part of the password."""
    with pytest.raises(ConfigurationError, match=f"the dsn .*{said}") as caught:
        Tracker([THINGS], dsn=dsn)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://",
        "postgres:///",
        "postgresql://h",
        "postgresql://u@h1:1,h2:65535/db",
        "postgresql://u:p%40ss%2Fw%3Ard%231@h:5432/db",
        "postgresql://u@[::1]:5432/db",
        "postgresql://%2Frun%2Fpostgresql/db",
        "postgresql:///db?host=/run/postgresql&port=5433",
        "postgresql://u:p@ep-1.eu.neon.tech/db?sslmode=require&options=endpoint%3Dep-1",
    ],
)
def test_a_dsn_that_can_work_is_accepted(dsn):
    """Sockets, several hosts, IPv6, escapes and what libpq allows."""
    Tracker([THINGS], dsn=dsn)


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        (
            "postgresql:///?host=/run/postgresql&dbname=a",
            "postgresql:///a?host=%2Frun%2Fpostgresql",
        ),
        ("postgresql://?host=/run&dbname=a", "postgresql:///a?host=%2Frun"),
        ("postgresql://h?dbname=a/b", "postgresql://h/a%2Fb"),
        ("postgresql://h/b?dbname=a", "postgresql://h/a"),  # as libpq
        ("postgresql://h/?database=a", "postgresql://h/a"),
        ("postgresql://h/", "postgresql://h"),
        ("postgres://u:p%40@h/db?ssl=true", "postgres://u:p%40@h/db?sslmode=require"),
        ("postgresql://h/db?options=-c%20x%3D1", "postgresql://h/db?options=-c%20x%3D1"),
        (
            "postgresql://h/db?channel_binding=require&keepalives=1&sslmode=require&pgbouncer=true",
            "postgresql://h/db?sslmode=require",
        ),
    ],
)
def test_the_driver_gets_what_it_knows(dsn, text):
    """It drops a database in the query, and sends what it does not know to the server."""
    assert read_dsn(dsn).text == text


async def test_a_database_in_the_query_is_the_one_that_is_written(dsn, things):
    """The driver connected to the user's default."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query)["host"][0]
    other = f"postgresql:///?host={quote(host)}&user={parts.username}&dbname={parts.path[1:]}"
    async with Tracker([THINGS], dsn=other).running() as tracker:
        tracker.touch("things", 1, AT)
    assert (await seen(things)).keys() == {1}


async def test_what_hosting_companies_add_is_honoured_or_ignored_with_one_warning(dsn, things):
    """The server would reject what the driver hands on; nothing of it is needed."""
    more = (
        "&channel_binding=prefer&keepalives=1&keepalives_idle=30&connect_timeout=7"
        "&application_name=mine&pgbouncer=true&schema=public&tcp_user_timeout=1000"
    )
    with capture_logs() as logs:
        for _ in range(2):
            async with open_pool(dsn + more, connections=1, statement_cache_size=100) as pool:
                assert await pool.fetchval("SHOW application_name") == "mine"
                async with pool.acquire() as connection:
                    assert connection._con._config.statement_cache_size == 0
                assert pool._connect_kwargs["timeout"] == 7
    ignored = [entry["parameters"] for entry in logs if entry["event"] == "dsn.ignored"]
    names = ["channel_binding", "keepalives", "keepalives_idle", "schema", "tcp_user_timeout"]
    assert ignored == [names]


def test_the_systems_certificates_are_used_where_the_dsn_says_so():
    """As libpq 16 does: with full verification."""
    read = read_dsn("postgresql://h/db?sslmode=verify-full&sslrootcert=system")
    assert read.text == "postgresql://h/db"
    assert read.tls is not None
    assert read.tls.check_hostname


def test_a_file_of_a_certificate_that_cannot_be_read_is_permanent_and_named():
    """Such as `~/.postgresql` of another user, which the driver opens when it connects."""
    error = translate(PermissionError(13, "Permission denied", "/root/.postgresql/root.crt"))
    assert isinstance(error, StoreMisconfigured)
    assert "/root/.postgresql/root.crt" in str(error)
    assert not isinstance(translate(PermissionError(13, "Permission denied")), StoreMisconfigured)
    assert isinstance(
        translate(asyncpg.ClientConfigurationError("root certificate file")), StoreMisconfigured
    )
