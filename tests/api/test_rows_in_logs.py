"""Nothing that a client wrote into a row gets out when the database rejects the row.

Each value below is marked, each class of errors is provoked, and every output is searched: logs
with their traces, responses, readiness with its details, metrics, errors of the library, stderr.
"""

import io
import logging
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import asyncpg
import pytest
import structlog

from api.config import LogSettings
from api.fleet.devices import Registration
from api.fleet.locations import Report
from api.logs import configure_logs
from tests.conftest import with_user
from tests.support.service import REPORT, Service, running
from tracker import FlushError

TEXT = "Zx81Marked"
TEXTS = {"display_name": TEXT, "platform": f"{TEXT}P", "fcm_token": f"{TEXT}F"}
LABELS = {"provider": f"{TEXT}R", "network_type": f"{TEXT}N"}
NUMBERS = {
    "latitude": 48.123457,
    "longitude": 11.987653,
    "accuracy": 7.654321,
    "altitude": 43.212345,
    "bearing": 12.345671,
    "speed": 31.415926,
    "battery_level": 76.543211,
}
SECONDS = {"offline_after_s": 86_411}
TIMES = {"timestamp": 1_633_608_001_123}
IDS = {"device_id", "group_id"}
"""What the service names itself, in its own log lines: ids are no values of a row."""
MARKS = (
    TEXT,
    *map(str, (*NUMBERS.values(), *SECONDS.values())),
    *("1633608001", "12:00:01.123"),
)
TABLES = ("devices", "locations")
LABEL = {"devices": "platform", "locations": "provider"}


class Fault(NamedTuple):
    """A change of the schema that makes the database reject rows.

    Args:
        statements: what changes it; `{table}` and `{label}` stand for each table and its text.
        states: SQLSTATEs of which one must be in the log.
        settings: sections of the service's settings.
    """

    statements: str
    states: str
    settings: dict = {}  # noqa: RUF012 - never changed


def raising(how: str) -> str:
    """Return statements that make a trigger run something for each row with a mark."""
    return (
        "CREATE FUNCTION {table}_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.{{label}} LIKE '{TEXT}%' THEN {how}; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION {table}_rule()"
    )


FAULTS = {
    "a check": Fault(
        f"ALTER TABLE {{table}} ADD CONSTRAINT rule CHECK ({{label}} NOT LIKE '{TEXT}%') NOT VALID",
        "23514",
    ),
    "a unique index": Fault(
        "CREATE UNIQUE INDEX ON {table} ({label})",
        "23505",
    ),
    "a foreign key": Fault(
        "CREATE TABLE {table}_allowed (label text PRIMARY KEY);"
        "ALTER TABLE {table} ADD FOREIGN KEY ({label}) REFERENCES {table}_allowed NOT VALID",
        "23503",
    ),
    "a column that must not be null": Fault(
        "ALTER TABLE {table} ADD must int NOT NULL DEFAULT 0;"
        "ALTER TABLE {table} ALTER must DROP DEFAULT",
        "23502",
    ),
    "an exclusion": Fault("ALTER TABLE {table} ADD EXCLUDE USING btree ({label} WITH =)", "23P01"),
    "a short type": Fault("ALTER TABLE {table} ALTER {label} TYPE varchar(7)", "22001"),
    "a list of values": Fault(
        "CREATE TYPE {table}_kind AS ENUM ('android', 'other', 'gps');"
        "ALTER TABLE {table} ALTER {label} TYPE {table}_kind USING {label}::{table}_kind",
        "22P02|42804",
    ),
    "a number of few digits": Fault(
        "ALTER TABLE locations ALTER altitude TYPE numeric(3, 2);" + raising("PERFORM 1 / 0"),
        "22003|22012",
    ),
    "a cast": Fault(raising("PERFORM NEW.{label}::int"), "22P02"),
    "a time": Fault(raising("PERFORM NEW.{label}::timestamptz"), "22007"),
    "JSON": Fault(raising("PERFORM NEW.{label}::json"), "22P02"),
    "a domain": Fault(
        f"CREATE DOMAIN {{table}}_kind AS text CHECK (VALUE NOT LIKE '{TEXT}%');"
        + raising("PERFORM NEW.{label}::{table}_kind"),
        "23514",
    ),
    "a trigger": Fault(raising("RAISE 'no: %', NEW USING DETAIL = NEW, HINT = NEW"), "P0001"),
    "a trigger that says it is full": Fault(
        raising("RAISE '%', NEW USING ERRCODE = '53100', DETAIL = NEW"), "53100"
    ),
    "a trigger that says it may not": Fault(
        raising("RAISE '%', NEW USING ERRCODE = '42501', DETAIL = NEW"), "42501"
    ),
    "a trigger that says it is a check": Fault(
        raising("RAISE '%', NEW USING ERRCODE = '23514', TABLE = NEW, CONSTRAINT = NEW"), "23514"
    ),
    "a deadlock": Fault(raising("RAISE '%', NEW USING ERRCODE = '40P01', DETAIL = NEW"), "40P01"),
    "an assertion": Fault(raising("ASSERT false, NEW::text"), "P0004"),
    "dynamic SQL": Fault(raising("EXECUTE 'SELECT ' || NEW.{label} || '(' || NEW || ')'"), "42"),
    "a cancelled statement": Fault(
        raising("PERFORM pg_sleep(60)"),
        "57014|no answer in time",
        {
            "tracker": {"statement_timeout_s": 0.3, "lock_timeout_s": 0.1},
            "database": {"statement_timeout_s": 0.5},
        },
    ),
}


def test_every_column_that_a_request_fills_is_marked():
    """A new field has to be added above."""
    fields = {*Registration.__struct_fields__, *Report.__struct_fields__}
    assert fields == {*TEXTS, *LABELS, *NUMBERS, *SECONDS, *TIMES, *IDS}


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as the service logs it."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logs(LogSettings(format="json", level="debug"), stream)
    structlog.configure(cache_logger_on_first_use=False)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
async def role_dsn(dsn: str, db: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that row level security holds for."""
    role = f"little_{uuid.uuid4().hex[:8]}"
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    yield with_user(dsn, role, "x")
    await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def outputs(service: Service, db: asyncpg.Connection, fault: str) -> list[str]:
    """Send marked rows before and after a fault, and return every response."""
    said = []
    known = await service.register(name="Phone")
    marked = await service.register(name="Other")
    await db.execute("UPDATE devices SET platform = 'other' WHERE device_id = $1", marked)
    await service.upload(known, provider="gps")
    for table in TABLES:
        await db.execute(fault.replace("{table}", table).replace("{label}", LABEL[table]))
    body = {"device_id": str(uuid.uuid4()), "group_id": "family", **TEXTS, **SECONDS}
    report = {**REPORT, **NUMBERS, **LABELS, **TIMES}
    several = [{**report, "timestamp": report["timestamp"] + n} for n in range(2)]
    for method, path, sent in (
        ("POST", "/api/v1/devices/register", body),
        ("POST", "/api/v1/devices/register", {**body, "device_id": marked}),
        ("POST", "/api/v1/locations", {"device_id": known, **report}),
        ("POST", "/api/v1/locations/batch", {"device_id": known, "locations": several}),
    ):
        response = await service.call(method, path, json=sent)
        if response.status >= 400:  # a client may see what it sent
            said.append(await response.text())
    with_triggers_off = "SET session_replication_role = replica"
    await db.execute(with_triggers_off)
    # A rule that is no trigger holds for this statement, too.
    with suppress(asyncpg.PostgresError):
        await db.execute(
            "UPDATE devices SET display_name = $1, platform = $2, fcm_token = $3 "
            "WHERE device_id = $4",
            *(*TEXTS.values(), marked),
        )
    await db.execute("RESET session_replication_role")
    for device_id in (known, marked):
        response = await service.heartbeat(device_id)
        said.append(await response.text())
    try:
        await service.tracker.flush()
    except FlushError as error:
        said += [str(error), repr(error)]
    for key in (service.key, ""):
        response = await service.call("GET", "/api/health/ready", key=key)
        said.append(await response.text())
    said.append(await (await service.call("GET", "/metrics", key="")).text())
    return said


def assert_nothing_marked(said: list[str]) -> None:
    found = [(mark, text) for text in said for mark in MARKS if mark in text]
    assert found == []


@pytest.mark.parametrize("name", FAULTS)
async def test_no_value_of_a_rejected_row_leaks(dsn, db, capfd, logged, name):
    """Names, tokens, labels and positions stay in the database, whatever rejects them."""
    fault = FAULTS[name]
    async with running(dsn, **fault.settings) as service:
        said = await outputs(service, db, fault.statements)
    log = logged.getvalue()
    assert re.search(fault.states, log), log
    assert_nothing_marked([*said, log, *capfd.readouterr()])


async def test_no_value_of_a_row_that_a_policy_rejects_leaks(dsn, db, role_dsn, capfd, logged):
    """Row level security does not hold for the owner of a table, so another role serves."""
    policy = (
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY rule ON {table} "
        f"USING (true) WITH CHECK ({{label}} NOT LIKE '{TEXT}%')"
    )
    async with running(role_dsn, owner_dsn=dsn) as service:
        said = await outputs(service, db, policy)
    log = logged.getvalue()
    assert "SQLSTATE 42501" in log
    assert_nothing_marked([*said, log, *capfd.readouterr()])


@asynccontextmanager
async def driver_error(dsn: str) -> AsyncIterator[asyncpg.PostgresError]:
    """An error of the driver that has a row in every part."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"DO $$ BEGIN RAISE '{TEXT}' USING DETAIL = '{TEXT}', HINT = '{TEXT}'; END $$"
        )
    except asyncpg.PostgresError as error:
        yield error
    finally:
        await connection.close()


@pytest.mark.parametrize("style", ["json", "console"])
async def test_a_trace_shows_no_row_either(dsn, logged, style):
    """An error of the driver may be the cause, or the context, of one that is a bug."""
    configure_logs(LogSettings(format=style), logged)
    structlog.configure(cache_logger_on_first_use=False)
    async with driver_error(dsn) as error:
        try:
            try:
                raise ExceptionGroup("several", [error])
            except ExceptionGroup as group:
                raise RuntimeError("a bug") from group
        except RuntimeError as crash:
            structlog.get_logger("own").exception("request.crashed")
            logging.getLogger("asyncio").exception("never retrieved", exc_info=crash)
    text = logged.getvalue()
    assert text.count("a bug") >= 2
    assert "raised by" in text
    assert TEXT not in text


async def test_no_value_leaks_through_the_drivers_error_about_an_argument(dsn, logged):
    """It quotes what it cannot encode, before the server sees it."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.fetch("SELECT $1::int", TEXT)
    except asyncpg.DataError as error:
        logging.getLogger("own").exception("failed", exc_info=error)
    finally:
        await connection.close()
    assert "invalid input for query argument" in logged.getvalue()
    assert TEXT not in logged.getvalue()
